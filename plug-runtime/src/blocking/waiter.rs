//! A thread that waits for the reply to its call while another one reads.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

use bytes::Bytes;

use crate::error::Result;

/// Where a reply is left for the thread that waits for it.
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
    /// Nobody reads: it is its turn. Somebody else may have been faster.
    Lead,
}

impl Waiter {
    /// For the current thread.
    pub(super) fn new() -> Waiter {
        Waiter {
            thread: std::thread::current(),
            signal: AtomicU8::new(NOTHING),
            outcome: Mutex::new(None),
        }
    }

    /// Leaves the outcome and wakes the thread.
    pub(super) fn done(&self, outcome: Result<Bytes>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.signal.store(DONE, Ordering::Release);
        self.thread.unpark();
    }

    /// Asks the thread to read. A waiter that is done ignores it; then somebody else has read since, and
    /// has passed the role on.
    pub(super) fn lead(&self) {
        let from =
            self.signal.compare_exchange(NOTHING, LEAD, Ordering::Release, Ordering::Relaxed);
        if from.is_ok() {
            self.thread.unpark();
        }
    }

    /// Waits, on the thread that made this.
    pub(super) fn wait(&self) -> Woken {
        loop {
            match self.signal.load(Ordering::Acquire) {
                DONE => {
                    let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(outcome) = outcome.take() {
                        return Woken::Done(outcome);
                    }
                    unreachable!("an outcome is left before it is announced, and taken once");
                }
                LEAD => {
                    // Fails if the outcome has come in this moment: then the next round returns it.
                    let _ = self.signal.compare_exchange(
                        LEAD,
                        NOTHING,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    );
                    if self.signal.load(Ordering::Acquire) != DONE {
                        return Woken::Lead;
                    }
                }
                _ => std::thread::park(),
            }
        }
    }
}

const NOTHING: u8 = 0;
const LEAD: u8 = 1;
const DONE: u8 = 2;
