//! Letting other callers run before a write, so that it takes their requests along.
//!
//! Where many threads call at once, replies that come together wake them together. The first that runs would write its
//! request alone and wake the other side for that. If it lets the others run before (`sched_yield`), one write here, and
//! one read and one write there, are for all of them. That is in vain where the others have nothing to say, and bad where
//! something else wants the processor, since that runs for milliseconds once it is let. Both show, and then it is left
//! off for a while.

use std::sync::MutexGuard;
use std::thread;
use std::time::{Duration, Instant};

use super::link::{Link, State};

/// Whether who writes lets others run first, learnt from how that went.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// How many times to write at once before trying again.
    skip: u32,
    /// How many that were after the last time that it was in vain, or took long.
    skipped: u32,
}

impl Gathering {
    /// Whether to let others run now.
    fn is_due(&mut self) -> bool {
        if self.skip == 0 {
            return true;
        }
        self.skip -= 1;
        false
    }

    /// Notes how long it took, and whether there is more to be written now.
    fn note(&mut self, took: Duration, has_more: bool) {
        self.skipped = match has_more && took <= YIELD_AT_MOST {
            true => 0,
            false => (self.skipped * 2 + 1).min(SKIP_AT_MOST),
        };
        self.skip = self.skipped;
    }
}

impl Link {
    /// Lets others run before what is queued is written, where they may have more. It is for who has the role of
    /// writing: what they have is left to that one.
    pub(super) fn gather<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        gathering: &mut Gathering,
    ) -> MutexGuard<'a, State> {
        let before = state.core.queued();
        if state.waiters.len() < MANY || before >= ENOUGH || !gathering.is_due() {
            return state;
        }
        drop(state);
        let begin = Instant::now();
        thread::yield_now();
        let took = begin.elapsed();
        let state = self.lock();
        gathering.note(took, state.core.queued() > before);
        state
    }
}

/// How many threads wait at least where one more may be about to call.
const MANY: usize = 3;

/// With so many bytes a write is worth its while.
const ENOUGH: usize = 16 << 10;

/// What takes longer has let something run that is no caller: those park again after a few microseconds.
const YIELD_AT_MOST: Duration = Duration::from_micros(500);

/// The most writes in a row that are made at once.
const SKIP_AT_MOST: u32 = 1023;

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many writes let others run, which takes so long.
    fn yields(gathering: &mut Gathering, writes: usize, took: Duration, has_more: bool) -> usize {
        let mut yields = 0;
        for _ in 0..writes {
            if gathering.is_due() {
                yields += 1;
                gathering.note(took, has_more);
            }
        }
        yields
    }

    const SHORT: Duration = Duration::from_micros(10);

    #[test]
    fn others_run_before_each_write_as_long_as_they_have_something_to_say() {
        assert_eq!(yields(&mut Gathering::default(), 100, SHORT, true), 100);
    }

    #[test]
    fn others_that_have_nothing_to_say_are_let_less_and_less_and_again_once_they_have() {
        let mut gathering = Gathering::default();
        // After 1, 3, 7 and 15 writes at once.
        assert_eq!(yields(&mut gathering, 1 + 2 + 4 + 8 + 16, SHORT, false), 5);
        assert!(yields(&mut gathering, 100_000, SHORT, false) < 110);
        assert!(yields(&mut gathering, 2048, SHORT, true) > 1000);
    }

    #[test]
    fn m7_a_program_that_takes_the_processor_is_let_less_and_less() {
        let slice = Duration::from_millis(4);
        let yields = yields(&mut Gathering::default(), 10_000, slice, true);
        // So the 99th percentile is not that of a hog.
        assert!(yields > 1 && yields * 200 < 10_000, "{yields} of 10,000");
    }
}
