//! Threads that wait while another one reads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Instant;

use bytes::Bytes;

use super::patience::Patience;
use super::workers::Task;
use super::yielding::Yielding;
use crate::error::Result;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sys::dormitory::{Bed, Rising};

/// Where a reply is left for the thread that waits for it, and how it is woken.
#[derive(Debug)]
pub(super) struct Waiter {
    signal: AtomicU8,
    outcome: Mutex<Option<Result<Bytes>>>,
    bed: Bed,
}

/// Why a waiter was woken.
pub(super) enum Woken {
    /// Its call has ended.
    Done(Result<Bytes>),
    /// Something may concern it: nobody reads, or there is a call to be run on this thread, or what it waits for
    /// is there. Somebody else may have been faster.
    Look,
    /// It has waited long enough.
    Impatient,
}

impl Waiter {
    pub(super) fn new(bed: Bed) -> Waiter {
        Waiter { signal: AtomicU8::new(NOTHING), outcome: Mutex::new(None), bed }
    }

    /// Leaves the outcome. The thread is to be woken, if it sleeps.
    pub(super) fn done(&self, outcome: Result<Bytes>, rising: &mut Rising) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        // Not a store: what the waiter makes of a LOOK could be taken for the later of the two.
        if self.signal.swap(DONE, Ordering::AcqRel) == ASLEEP {
            rising.add(&self.bed);
        }
    }

    /// Asks the thread to look at the connection. A waiter that is done ignores it; then somebody else has read
    /// since, and has passed the role on.
    pub(super) fn look(&self, rising: &mut Rising) {
        if self.signal.fetch_max(LOOK, Ordering::AcqRel) == ASLEEP {
            rising.add(&self.bed);
        }
    }

    /// Waits, on the one thread that does.
    pub(super) fn wait(&self, patience: &Patience<'_>, yielding: &Yielding) -> Woken {
        let mut may_yield = true;
        loop {
            // Whoever finds it asleep from here on has seen to it that it does not sleep.
            let seen = self.bed.seen();
            match self.signal.load(Ordering::Acquire) {
                DONE => {
                    let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(outcome) = outcome.take() {
                        return Woken::Done(outcome);
                    }
                    unreachable!("an outcome is left before it is announced, and taken once");
                }
                // Fails if the outcome has come in this moment: then the next round returns it.
                LOOK if self.becomes(LOOK, NOTHING) => return Woken::Look,
                LOOK => {}
                _ if patience.is_over() => return Woken::Impatient,
                NOTHING if std::mem::take(&mut may_yield) && yielding.is_due() => {
                    self.let_others_run(yielding);
                }
                NOTHING if !self.becomes(NOTHING, ASLEEP) => {}
                _ => self.bed.sleep(seen, patience.until()),
            }
        }
    }

    /// Gives those time that may have something for this thread.
    ///
    /// Of 32 callers each needs the processor once a call, and to sleep and be woken costs as much as the rest of the call.
    fn let_others_run(&self, yielding: &Yielding) {
        let begin = Instant::now();
        let mut has_come = false;
        for _ in 0..YIELDS {
            thread::yield_now();
            has_come = self.signal.load(Ordering::Relaxed) != NOTHING;
            if has_come {
                break;
            }
        }
        yielding.note(begin.elapsed(), has_come);
    }

    fn becomes(&self, from: u8, to: u8) -> bool {
        self.signal.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// All others have run once when this thread runs again, and left their requests; after the second time the reply to
/// these has come. With one, a fifth of the callers went to sleep; more than two brought nothing.
const YIELDS: u32 = 2;

// In this order, of which `look` makes use.
const NOTHING: u8 = 0;
/// It has nothing, and sleeps, or is about to.
const ASLEEP: u8 = 1;
const LOOK: u8 = 2;
const DONE: u8 = 3;

/// Those who wait: for the reply to a call or for the next message of one, by call, or for something else, by a ticket.
#[derive(Default)]
pub(super) struct Waiters {
    by_key: BTreeMap<u64, (Waiting, Bed)>,
    /// Where nobody sleeps. Who has just left may still be woken in its bed, so the oldest is taken.
    free: VecDeque<Bed>,
    /// How many of them have got their replies and may be about to call again.
    served: usize,
}

/// A thread that waits because of a call, and the calls that are to be run on it meanwhile: those that the handler
/// of its own call makes in turn.
pub(super) struct Waiting {
    pub(super) waiter: Arc<Waiter>,
    pub(super) nested: Vec<Task>,
    /// Whether it runs one of those.
    pub(super) is_busy: bool,
}

impl Waiters {
    pub(super) fn add(&mut self, key: u64, nested: Vec<Task>) -> Arc<Waiter> {
        if self.free.is_empty() {
            self.free.extend(Bed::several());
        }
        let Some(bed) = self.free.pop_front() else { unreachable!("several are more than none") };
        let waiter = Arc::new(Waiter::new(bed.clone()));
        let waiting = Waiting { waiter: waiter.clone(), nested, is_busy: false };
        self.by_key.insert(key, (waiting, bed));
        waiter
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<Waiting> {
        let (waiting, bed) = self.by_key.remove(&key)?;
        self.free.push_back(bed);
        Some(waiting)
    }

    pub(super) fn get(&self, key: u64) -> Option<&Waiting> {
        self.by_key.get(&key).map(|(waiting, _)| waiting)
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Waiting> {
        self.by_key.get_mut(&key).map(|(waiting, _)| waiting)
    }

    /// Who reads if it is told to: the oldest call of those that run none, and have none to run first.
    pub(super) fn first_reader(&self) -> Option<&Waiting> {
        self.iter().find(|waiting| !waiting.is_busy && waiting.nested.is_empty())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.by_key.values().map(|(waiting, _)| waiting)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.by_key.values_mut().map(|(waiting, _)| waiting)
    }

    /// Notes that one has got its reply.
    pub(super) fn note_served(&mut self) {
        self.served += 1;
    }

    /// How many have got theirs since this was last asked.
    pub(super) fn take_served(&mut self) -> usize {
        std::mem::take(&mut self.served)
    }

    /// Whether nobody waits, nor has until just now and may be about to call again.
    #[inline]
    pub(super) fn are_none(&self) -> bool {
        self.by_key.is_empty() && self.served == 0
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }
}
