//! Looking for bytes in shared memory for a while before sleeping.
//!
//! To be woken costs 2 µs on the same core and 15 to 25 µs on another that has gone to sleep; a reply often takes less.
//! So who waits lets others run (`sched_yield`) and looks again, for as long as a wake-up costs. That is bad where
//! nothing comes so soon, since it takes processor time for nothing, and where something else wants the processor, since
//! that runs for milliseconds once it is let. Both show, and then it is left off for a while.

use std::thread;
use std::time::{Duration, Instant};

/// Whether the one who reads a connection looks for bytes, learnt from how that went.
#[derive(Debug, Default)]
pub(super) struct Polling {
    is_on: bool,
    /// How many times to sleep at once before trying again.
    skip: u32,
    /// How many that were after the last look in vain.
    skipped: u32,
    /// When the processor is tried again that somebody else wanted, how long that was left alone, and how often looking
    /// has paid since.
    off_until: Option<Instant>,
    off_for: Duration,
    paid: u32,
}

impl Polling {
    pub(super) fn new(is_on: bool) -> Polling {
        Polling { is_on, ..Polling::default() }
    }

    /// Looks for a while, if that has been worth it. Says whether it was found.
    pub(super) fn poll(&mut self, mut is_there: impl FnMut() -> bool) -> bool {
        if !self.is_on {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let begin = Instant::now();
        if self.off_until.is_some_and(|until| begin < until) {
            return false;
        }
        let mut before = begin;
        loop {
            thread::yield_now();
            let is_there = is_there();
            let now = Instant::now();
            let was_long = now.duration_since(before) > YIELD_AT_MOST;
            if is_there && was_long {
                // It may have been there for most of that time, and being woken would have been faster.
                self.off_for = (self.off_for * 2).clamp(OFF_FOR, OFF_AT_MOST);
                self.off_until = Some(now + self.off_for);
                self.paid = 0;
            } else if is_there {
                self.skipped = 0;
                self.paid = self.paid.saturating_add(1);
                if self.paid == ALONE_AGAIN {
                    self.off_for = Duration::ZERO;
                }
            } else if was_long || now.duration_since(begin) > POLL_FOR {
                self.skipped = (self.skipped * 2 + 1).min(SKIP_AT_MOST);
                self.skip = self.skipped;
            } else {
                before = now;
                continue;
            }
            return is_there;
        }
    }
}

/// About what being woken takes.
const POLL_FOR: Duration = Duration::from_micros(20);

/// A yield that took longer has let something run that does not give the processor back soon.
const YIELD_AT_MOST: Duration = Duration::from_micros(50);

/// How long the processor is left alone then: twice as long each time, until looking has paid so often in a row.
const OFF_FOR: Duration = Duration::from_millis(10);
const ALONE_AGAIN: u32 = 1000;
const OFF_AT_MOST: Duration = Duration::from_secs(10);

/// The most waits in a row that sleep at once, after looks in vain.
const SKIP_AT_MOST: u32 = 1023;

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many waits look at all, for what never comes.
    fn looks(polling: &mut Polling, waits: usize) -> usize {
        let mut looks = 0;
        for _ in 0..waits {
            let mut has_looked = false;
            let found = polling.poll(|| {
                has_looked = true;
                false
            });
            assert!(!found);
            looks += usize::from(has_looked);
        }
        looks
    }

    #[test]
    fn who_looks_in_vain_looks_less_and_less() {
        let mut polling = Polling::new(true);
        assert_eq!(looks(&mut polling, 1), 1);
        // After 1, 3, 7 and 15 that did not.
        assert_eq!(looks(&mut polling, 2 + 4 + 8 + 16), 4);
        let skipped = looks(&mut polling, 100_000);
        assert!((90..120).contains(&skipped), "{skipped} of 100,000");
    }

    #[test]
    fn who_is_not_to_look_does_not() {
        assert_eq!(looks(&mut Polling::new(false), 100), 0);
    }
}
