//! A thread that waits while another one reads.

use std::sync::PoisonError;
use std::time::Instant;

use bytes::Bytes;

use super::patience::Patience;
use crate::error::Result;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{self, Mutex, Thread};

/// Where a reply is left for the thread that waits for it, and how it is woken.
#[derive(Debug)]
pub(super) struct Waiter {
    thread: Thread,
    signal: AtomicU8,
    outcome: Mutex<Option<Result<Bytes>>>,
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
    /// For the current thread.
    pub(super) fn new() -> Waiter {
        Waiter {
            thread: sync::current(),
            signal: AtomicU8::new(NOTHING),
            outcome: Mutex::new(None),
        }
    }

    /// Leaves the outcome and wakes the thread.
    pub(super) fn done(&self, outcome: Result<Bytes>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        // Not a store: what the waiter makes of a LOOK could be taken for the later of the two.
        self.signal.swap(DONE, Ordering::Release);
        self.thread.unpark();
    }

    /// Asks the thread to look at the connection. A waiter that is done ignores it; then somebody else has read
    /// since, and has passed the role on.
    pub(super) fn look(&self) {
        let from =
            self.signal.compare_exchange(NOTHING, LOOK, Ordering::Release, Ordering::Relaxed);
        if from.is_ok() {
            self.thread.unpark();
        }
    }

    /// Waits, on the thread that made this.
    pub(super) fn wait(&self, patience: &Patience<'_>) -> Woken {
        loop {
            match self.signal.load(Ordering::Acquire) {
                DONE => {
                    let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(outcome) = outcome.take() {
                        return Woken::Done(outcome);
                    }
                    unreachable!("an outcome is left before it is announced, and taken once");
                }
                LOOK => {
                    // Fails if the outcome has come in this moment: then the next round returns it.
                    let _ = self.signal.compare_exchange(
                        LOOK,
                        NOTHING,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    );
                    if self.signal.load(Ordering::Acquire) != DONE {
                        return Woken::Look;
                    }
                }
                _ if patience.is_over() => return Woken::Impatient,
                _ => match patience.until() {
                    None => sync::park(),
                    Some(until) => {
                        sync::park_timeout(until.saturating_duration_since(Instant::now()));
                    }
                },
            }
        }
    }
}

const NOTHING: u8 = 0;
const LOOK: u8 = 1;
const DONE: u8 = 2;
