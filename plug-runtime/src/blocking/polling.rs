//! Looking for bytes in shared memory for a while before sleeping.
//!
//! To be woken costs 2 µs on the same core and 25 to 40 µs on another that has gone to sleep; a reply often takes less.
//! So who waits lets others run (`sched_yield`) and looks again, for somewhat longer than a wake-up takes: otherwise two
//! sides that have both gone to sleep would never find each other awake. That is bad where nothing comes so soon, since
//! it takes processor time for nothing, and where something else wants the processor, since that runs for milliseconds
//! once it is let. Both show, and then it is left off for a while.
//!
//! Where the other side has a processor of its own, to let others run is a detour: 0.2 µs for the system call, while the
//! answer takes 0.5. So who has found what it waited for again and again looks a few times before, without. Where both
//! share a processor that never finds anything, and is tried once in a thousand waits.

use std::hint;
use std::thread;
use std::time::{Duration, Instant};

use super::attempts::Attempts;

/// Whether the one who reads a connection looks for bytes, learnt from how that went.
#[derive(Debug, Default)]
pub(super) struct Polling {
    is_on: bool,
    /// To look at all, rather than to sleep at once, ...
    looks: Attempts,
    /// ... and to look a few times without letting others run.
    spins: Attempts,
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
    pub(super) fn poll(&mut self, is_there: impl FnMut() -> bool) -> bool {
        self.poll_with(is_there, hint::spin_loop, thread::yield_now, Instant::now)
    }

    fn poll_with(
        &mut self,
        mut is_there: impl FnMut() -> bool,
        pause: impl Fn(),
        let_others_run: impl Fn(),
        now: impl Fn() -> Instant,
    ) -> bool {
        if !self.is_on || !self.looks.is_due() {
            return false;
        }
        if self.paid >= PAYS && self.paid % TIMED_EACH != 0 {
            let is_there = self.spin(&mut is_there, pause) || {
                let_others_run();
                is_there()
            };
            if is_there {
                self.note_paid();
                return true;
            }
        }
        let begin = now();
        if self.off_until.is_some_and(|until| begin < until) {
            return false;
        }
        let mut before = begin;
        loop {
            let_others_run();
            let is_there = is_there();
            let now = now();
            let was_long = now.duration_since(before) > YIELD_AT_MOST;
            if is_there && was_long {
                // It may have been there for most of that time, and being woken would have been faster.
                self.off_for = (self.off_for * 2).clamp(OFF_FOR, OFF_AT_MOST);
                self.off_until = Some(now + self.off_for);
                self.paid = 0;
            } else if is_there {
                self.note_paid();
            } else if was_long || now.duration_since(begin) > POLL_FOR {
                self.looks.note(true);
            } else {
                before = now;
                continue;
            }
            return is_there;
        }
    }

    /// Looks a few times without letting others run.
    fn spin(&mut self, is_there: &mut impl FnMut() -> bool, pause: impl Fn()) -> bool {
        if !self.spins.is_due() {
            return false;
        }
        let found = (0..SPINS).any(|_| {
            pause();
            is_there()
        });
        self.spins.note(!found);
        found
    }

    fn note_paid(&mut self) {
        self.looks.note(false);
        self.paid = self.paid.wrapping_add(1).max(1);
        if self.paid == ALONE_AGAIN {
            self.off_for = Duration::ZERO;
        }
    }
}

/// Some 2 µs, where a pause takes longest.
const SPINS: u32 = 40;

/// More than being woken takes. With 20 µs, two sides on two cores slept at each call and took 50 µs; now it is 0.9.
const POLL_FOR: Duration = Duration::from_micros(60);

/// A yield that took longer has let something run that does not give the processor back soon.
const YIELD_AT_MOST: Duration = Duration::from_micros(50);

/// How long the processor is left alone then: twice as long each time, until looking has paid so often in a row.
const OFF_FOR: Duration = Duration::from_millis(10);
const ALONE_AGAIN: u32 = 1000;
const OFF_AT_MOST: Duration = Duration::from_secs(10);

/// Once looking has paid so often, only one in so many first looks is timed: the clock takes as long as half a yield. So
/// somebody else who wants the processor is noticed that many calls later at most.
const PAYS: u32 = 64;
const TIMED_EACH: u32 = 8;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

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
        // After 1, 2, 4 and 8 that did not.
        assert_eq!(looks(&mut polling, 2 + 3 + 5 + 9), 4);
        let skipped = looks(&mut polling, 100_000);
        assert!((90..120).contains(&skipped), "{skipped} of 100,000");
    }

    /// A second of waits that would take 10 µs each if they slept at once, beside a program that keeps the processor for
    /// 4 ms whenever it is let. What is waited for has come in the meantime, or has not.
    fn delayed_by_a_hog(has_come: bool) -> (usize, usize) {
        let (called, slice) = (Duration::from_micros(10), Duration::from_millis(4));
        let clock = Cell::new(Instant::now());
        let pass = |time| clock.set(clock.get() + time);
        let end = clock.get() + Duration::from_secs(1);
        let mut polling = Polling::new(true);
        let (mut waits, mut delayed) = (0, 0);
        while clock.get() < end {
            waits += 1;
            let is_delayed = Cell::new(false);
            let yields = || {
                is_delayed.set(true);
                pass(slice);
            };
            polling.poll_with(|| has_come, || (), yields, || clock.get());
            delayed += usize::from(is_delayed.get());
            pass(called);
        }
        (waits, delayed)
    }

    #[test]
    fn m7_looking_beside_a_program_that_takes_the_processor_turns_itself_off() {
        for has_come in [true, false] {
            let (waits, delayed) = delayed_by_a_hog(has_come);
            // So neither the median of the waits nor their 99th percentile is that of a hog.
            assert!(delayed > 0 && delayed * 200 < waits, "{delayed} of {waits}, {has_come}");
        }
    }

    #[test]
    fn m7_looking_comes_back_once_the_processor_is_free() {
        let clock = Cell::new(Instant::now());
        let pass = |time| clock.set(clock.get() + time);
        let mut polling = Polling::new(true);
        assert!(polling.poll_with(
            || true,
            || (),
            || pass(Duration::from_millis(4)),
            || clock.get()
        ));
        let quick = || pass(Duration::from_micros(1));
        assert!(
            !polling.poll_with(|| true, || (), quick, || clock.get()),
            "it has just been turned off"
        );
        pass(OFF_FOR);
        assert!(polling.poll_with(|| true, || (), quick, || clock.get()));
    }

    #[test]
    fn m7_a_program_that_comes_to_want_the_processor_is_noticed_after_a_few_looks() {
        for paid in [0, PAYS, PAYS + 1, ALONE_AGAIN] {
            let clock = Cell::new(Instant::now());
            let slow = || clock.set(clock.get() + Duration::from_millis(4));
            let mut polling = Polling { paid, ..Polling::new(true) };
            let looks = || polling.poll_with(|| true, || (), slow, || clock.get());
            let looks = std::iter::repeat_with(looks).take(100).take_while(|found| *found).count();
            assert!((1..=TIMED_EACH as usize).contains(&looks), "{looks} looks after {paid}");
        }
    }

    /// How often a side pauses and lets others run in so many waits, if what it waits for is there after so many pauses, or
    /// once others have run.
    fn steps(waits: usize, pauses_needed: usize) -> (usize, usize) {
        let clock = Instant::now();
        let mut polling = Polling { paid: PAYS, ..Polling::new(true) };
        let (pauses, yields) = (Cell::new(0), Cell::new(0));
        for _ in 0..waits {
            let (paused, has_yielded) = (Cell::new(0), Cell::new(false));
            let found = polling.poll_with(
                || has_yielded.get() || paused.get() >= pauses_needed,
                || {
                    paused.set(paused.get() + 1);
                    pauses.set(pauses.get() + 1);
                },
                || {
                    has_yielded.set(true);
                    yields.set(yields.get() + 1);
                },
                || clock,
            );
            assert!(found);
        }
        (pauses.get(), yields.get())
    }

    #[test]
    fn who_has_a_processor_of_its_own_lets_others_run_only_to_see_whether_they_want_it() {
        let (pauses, yields) = steps(8000, 5);
        assert_eq!(yields, 8000 / TIMED_EACH as usize);
        assert_eq!(pauses, 5 * (8000 - yields));
    }

    #[test]
    fn who_shares_a_processor_hardly_ever_keeps_it_while_it_waits() {
        let (pauses, yields) = steps(100_000, usize::MAX);
        assert_eq!(yields, 100_000);
        let tries = pauses / SPINS as usize;
        assert!((90..120).contains(&tries), "{tries} tries");
    }

    #[test]
    fn who_is_not_to_look_does_not() {
        assert_eq!(looks(&mut Polling::new(false), 100), 0);
    }
}
