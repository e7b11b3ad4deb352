//! Where threads sleep, of which any that are named are woken together.
//!
//! A thread that is unparked costs a system call, and may run at once in place of the one that has still others to wake.
//! Where 31 threads were woken at a time, all on one core, one call for all of them took two thirds of the time, wake-ups
//! and switches included.

use std::sync::Arc;
use std::time::Instant;

/// A place for one thread.
#[derive(Clone, Debug)]
pub(crate) struct Bed {
    dormitory: Arc<Dormitory>,
    /// One bit: which of its places.
    place: u32,
}

/// Up to how many wake-ups a thread knows of that is about to sleep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen(u32);

impl Bed {
    /// All the places of a dormitory.
    pub(crate) fn several() -> impl Iterator<Item = Bed> {
        let dormitory = Arc::new(Dormitory::new());
        (0..u32::BITS).map(move |place| Bed { dormitory: dormitory.clone(), place: 1 << place })
    }

    /// To be asked before the last look at what the thread would sleep for.
    pub(crate) fn seen(&self) -> Seen {
        Seen(self.dormitory.seen())
    }

    /// Sleeps until this place is woken, or the time has come. Not if anybody was woken here since `seen`, and it may
    /// return for no reason.
    pub(crate) fn sleep(&self, seen: Seen, until: Option<Instant>) {
        self.dormitory.sleep(seen.0, self.place, until);
    }
}

/// Whom to wake.
#[derive(Debug, Default)]
pub(crate) struct Rising {
    /// Places, by dormitory.
    places: Vec<(Arc<Dormitory>, u32)>,
}

impl Rising {
    pub(crate) fn add(&mut self, bed: &Bed) {
        let is_same = |(of, _): &&mut (Arc<Dormitory>, u32)| Arc::ptr_eq(of, &bed.dormitory);
        match self.places.iter_mut().find(is_same) {
            Some((_, places)) => *places |= bed.place,
            None => self.places.push((bed.dormitory.clone(), bed.place)),
        }
    }

    /// Wakes who sleeps there, or is about to.
    pub(crate) fn wake(self) {
        for (dormitory, places) in self.places {
            dormitory.wake(places);
        }
    }
}

#[cfg(all(target_os = "linux", not(plug_portable), not(all(loom, test))))]
use futex::Dormitory;
#[cfg(not(all(target_os = "linux", not(plug_portable), not(all(loom, test)))))]
use portable::Dormitory;

/// As the standard library's locks it passes no seam: what the system says beside that a thread was woken does not matter,
/// since a sleep may end for no reason.
#[cfg(all(target_os = "linux", not(plug_portable), not(all(loom, test))))]
mod futex {
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    use rustix::thread::futex::{self, Flags, Timespec};
    use rustix::time::{ClockId, clock_gettime};

    #[derive(Debug)]
    pub(super) struct Dormitory {
        wakings: AtomicU32,
    }

    impl Dormitory {
        pub(super) fn new() -> Dormitory {
            Dormitory { wakings: AtomicU32::new(0) }
        }

        pub(super) fn seen(&self) -> u32 {
            self.wakings.load(Ordering::Acquire)
        }

        pub(super) fn sleep(&self, seen: u32, place: u32, until: Option<Instant>) {
            let Some(place) = NonZeroU32::new(place) else { return };
            // The system wants a time of its clock.
            let until = until.and_then(|until| {
                let left = until.saturating_duration_since(Instant::now());
                clock_gettime(ClockId::Monotonic).checked_add(Timespec::try_from(left).ok()?)
            });
            let flags = Flags::PRIVATE;
            let _ = futex::wait_bitset(&self.wakings, flags, seen, until.as_ref(), place);
        }

        pub(super) fn wake(&self, places: u32) {
            let Some(places) = NonZeroU32::new(places) else { return };
            self.wakings.fetch_add(1, Ordering::Release);
            let _ = futex::wake_bitset(&self.wakings, Flags::PRIVATE, i32::MAX as u32, places);
        }
    }
}

/// All who sleep here wake, and those who were not meant sleep again.
#[cfg(not(all(target_os = "linux", not(plug_portable), not(all(loom, test)))))]
mod portable {
    use std::sync::PoisonError;
    use std::time::Instant;

    use crate::sync::{Condvar, Mutex, MutexGuard};

    #[derive(Debug)]
    pub(super) struct Dormitory {
        wakings: Mutex<u32>,
        woken: Condvar,
    }

    impl Dormitory {
        pub(super) fn new() -> Dormitory {
            Dormitory { wakings: Mutex::new(0), woken: Condvar::new() }
        }

        fn lock(&self) -> MutexGuard<'_, u32> {
            self.wakings.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(super) fn seen(&self) -> u32 {
            *self.lock()
        }

        pub(super) fn sleep(&self, seen: u32, _place: u32, until: Option<Instant>) {
            let wakings = self.lock();
            if *wakings != seen {
                return;
            }
            match until {
                None => drop(self.woken.wait(wakings)),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    drop(self.woken.wait_timeout(wakings, left));
                }
            }
        }

        pub(super) fn wake(&self, _places: u32) {
            let mut wakings = self.lock();
            *wakings = wakings.wrapping_add(1);
            drop(wakings);
            self.woken.notify_all();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Sleeps again and again, and tells each time that it has woken.
    fn sleep_and_tell(bed: Bed, told: Sender<()>) {
        let mut seen = bed.seen();
        std::thread::spawn(move || {
            loop {
                bed.sleep(seen, None);
                seen = bed.seen();
                if told.send(()).is_err() {
                    return;
                }
            }
        });
    }

    fn wake(beds: &[Bed]) {
        let mut rising = Rising::default();
        beds.iter().for_each(|bed| rising.add(bed));
        rising.wake();
    }

    #[test]
    fn all_who_are_named_wake() {
        let beds: Vec<Bed> = Bed::several().chain(Bed::several()).collect();
        let tellers = beds.iter().map(|bed| {
            let (teller, told) = channel();
            sleep_and_tell(bed.clone(), teller);
            told
        });
        let tellers: Vec<_> = tellers.collect();
        for _ in 0..10 {
            wake(&beds);
            for told in &tellers {
                told.recv_timeout(LONG).expect("it was named");
            }
        }
        drop(tellers);
        wake(&beds);
    }

    #[cfg(all(target_os = "linux", not(plug_portable)))]
    #[test]
    fn those_who_are_not_named_sleep_on() {
        let beds: Vec<Bed> = Bed::several().take(2).collect();
        let (teller, told) = channel();
        let (other_teller, other_told) = channel();
        sleep_and_tell(beds[0].clone(), teller);
        sleep_and_tell(beds[1].clone(), other_teller);
        for _ in 0..1000 {
            wake(&beds[..1]);
            told.recv_timeout(LONG).expect("it was named");
        }
        // Before it slept for the first time, it may have missed some.
        let woken = other_told.try_iter().count();
        assert!(woken < 500, "{woken} of 1000 wake-ups of another");
        drop((told, other_told));
        wake(&beds);
    }

    #[test]
    fn nobody_falls_asleep_who_has_missed_a_wake_up() {
        let beds: Vec<Bed> = Bed::several().take(2).collect();
        let seen = beds[0].seen();
        wake(&beds[1..]);
        beds[0].sleep(seen, None);
    }

    #[test]
    fn a_sleep_ends_when_its_time_has_come() {
        let bed = Bed::several().next().unwrap();
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {
            bed.sleep(bed.seen(), Some(until));
        }
        // And at once where that is past.
        bed.sleep(bed.seen(), Some(until));
    }
}
