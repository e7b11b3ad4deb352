//! Trying what may be in vain: the less often, the longer it has been.

/// Whether to try something again, learnt from how that went.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// How many times not to.
    skip: u32,
    /// How many that were after the last time in vain.
    skipped: u32,
}

impl Attempts {
    /// Whether to try now. How that went is to be noted.
    #[inline]
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        is_due
    }

    #[inline]
    pub(super) fn note(&mut self, was_in_vain: bool) {
        // From one try to the next it is 2, 3, 5, 9 times: what is in vain every other time is soon met when it is not.
        self.skipped = if was_in_vain { (self.skipped * 2).clamp(1, SKIP_AT_MOST) } else { 0 };
        self.skip = self.skipped;
    }
}

/// The most times in a row that it is left off, after attempts in vain.
const SKIP_AT_MOST: u32 = 1023;

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many times it is tried, always in vain.
    fn tries(attempts: &mut Attempts, times: usize) -> usize {
        let due = (0..times).filter(|_| {
            let is_due = attempts.is_due();
            if is_due {
                attempts.note(true);
            }
            is_due
        });
        due.count()
    }

    #[test]
    fn what_is_in_vain_is_tried_less_and_less_and_again_each_time_once_it_is_not() {
        let mut attempts = Attempts::default();
        assert_eq!(tries(&mut attempts, 1), 1);
        // After 1, 2, 4 and 8 times without.
        assert_eq!(tries(&mut attempts, 2 + 3 + 5 + 9), 4);
        let tried = tries(&mut attempts, 100_000);
        assert!((90..120).contains(&tried), "{tried} of 100,000");
        while !attempts.is_due() {}
        attempts.note(false);
        assert!((0..100).all(|_| attempts.is_due()));
    }
}
