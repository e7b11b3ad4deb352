//! Letting other threads run for a moment (`sched_yield`), in the hope that they bring what this one is about to do without.
//!
//! That is in vain where they have nothing to bring, and bad where something else wants the processor, since that runs for
//! milliseconds once it is let. Both show, and then it is left off for a while.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Whether to let others run, learnt from how that went. Threads that use it at the same time may each miss what another
/// has learnt.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    /// How many times not to, before trying again.
    skip: AtomicU32,
    /// How many that were after the last time that it was in vain, or took long.
    skipped: AtomicU32,
}

impl Yielding {
    /// Never lets others run: for models, which do that themselves.
    #[cfg(all(loom, test))]
    pub(super) fn never() -> Yielding {
        Yielding { skip: AtomicU32::new(u32::MAX), skipped: AtomicU32::default() }
    }

    /// Whether to let others run now.
    pub(super) fn is_due(&self) -> bool {
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
        }
        skip == 0
    }

    /// Notes how long it took, and whether they have brought something. What several threads see at once counts several
    /// times: half of 32 callers asleep and half of them not was slower than either.
    pub(super) fn note(&self, took: Duration, has_come: bool) {
        let skipped = match has_come && took <= YIELD_AT_MOST {
            true => 0,
            false => (self.skipped.load(Ordering::Relaxed) * 2 + 1).min(SKIP_AT_MOST),
        };
        self.skipped.store(skipped, Ordering::Relaxed);
        self.skip.store(skipped, Ordering::Relaxed);
    }
}

/// What takes longer has let something run that is no caller: those are done after a few microseconds.
const YIELD_AT_MOST: Duration = Duration::from_micros(500);

/// The most times in a row that it is left off.
const SKIP_AT_MOST: u32 = 1023;

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many times others are let run, which takes so long.
    fn yields(yielding: &Yielding, times: usize, took: Duration, has_come: bool) -> usize {
        let mut yields = 0;
        for _ in 0..times {
            if yielding.is_due() {
                yields += 1;
                yielding.note(took, has_come);
            }
        }
        yields
    }

    const SHORT: Duration = Duration::from_micros(10);

    #[test]
    fn others_run_each_time_as_long_as_they_bring_something() {
        assert_eq!(yields(&Yielding::default(), 100, SHORT, true), 100);
    }

    #[test]
    fn others_that_bring_nothing_are_let_less_and_less_and_again_once_they_do() {
        let yielding = Yielding::default();
        // After 1, 3, 7 and 15 times without.
        assert_eq!(yields(&yielding, 1 + 2 + 4 + 8 + 16, SHORT, false), 5);
        assert!(yields(&yielding, 100_000, SHORT, false) < 110);
        assert!(yields(&yielding, 2048, SHORT, true) > 1000);
    }

    #[test]
    fn what_many_threads_see_at_once_turns_it_off_for_all_of_them() {
        let yielding = Yielding::default();
        assert!((0..32).all(|_| yielding.is_due()));
        (0..32).for_each(|_| yielding.note(SHORT, false));
        assert!((0..SKIP_AT_MOST).all(|_| !yielding.is_due()));
        assert!(yielding.is_due());
        yielding.note(SHORT, true);
        assert!(yielding.is_due());
    }

    #[test]
    fn m7_a_program_that_takes_the_processor_is_let_less_and_less() {
        let slice = Duration::from_millis(4);
        let yields = yields(&Yielding::default(), 10_000, slice, true);
        // So the 99th percentile is not that of a hog.
        assert!(yields > 1 && yields * 200 < 10_000, "{yields} of 10,000");
    }
}
