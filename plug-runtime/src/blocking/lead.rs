//! The role of reading while a thread has it, and the threads to be woken after it has read.

use std::sync::Arc;

use bytes::Bytes;

use super::link::{Link, Reader, State};
use super::waiter::Waiter;
use super::watcher::{self, Source};
use crate::error::Result;

/// The role of reading, held by a thread, and given back even when that unwinds.
pub(super) struct Lead<'a> {
    link: &'a Arc<Link>,
    pub(super) reader: Option<Reader>,
    /// The call that the thread waits for, and its outcome.
    own: Option<u64>,
    pub(super) outcome: Option<Result<Bytes>>,
}

impl<'a> Lead<'a> {
    /// Takes the role, if nobody has it and there is something to read.
    pub(super) fn take(
        link: &'a Arc<Link>,
        state: &mut State,
        own: Option<u64>,
    ) -> Option<Lead<'a>> {
        if state.input_ended {
            return None;
        }
        let reader = state.reader.take()?;
        if let (true, Some(key)) = (state.armed, link.key.get()) {
            state.armed = false;
            watcher::disarm(*key, Source::Input, &link.input);
        }
        Some(Lead { link, reader: Some(reader), own, outcome: None })
    }

    pub(super) fn handle_events(&mut self, state: &mut State, wakes: &mut Wakes) {
        if let Some(outcome) = self.link.handle_events(state, self.own, wakes) {
            self.outcome = Some(outcome);
        }
    }

    /// Gives the role back, to be passed on. Returns the outcome of the call that this thread waits for, if it
    /// is there.
    pub(super) fn release(mut self, state: &mut State, wakes: &mut Wakes) -> Option<Result<Bytes>> {
        self.give_back(state, wakes);
        self.outcome.take()
    }

    fn give_back(&mut self, state: &mut State, wakes: &mut Wakes) {
        if let Some(mut reader) = self.reader.take() {
            if state.over.is_some() {
                self.link.settle(state, &mut reader);
                self.handle_events(state, wakes);
            }
            state.reader = Some(reader);
            self.link.pass_on(state, wakes);
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let mut wakes = Wakes::default();
            let mut state = self.link.lock();
            self.handle_events(&mut state, &mut wakes);
            self.give_back(&mut state, &mut wakes);
            drop(state);
            wakes.wake();
        }
    }
}

/// Waiters to be woken once the lock is released.
#[derive(Default)]
#[must_use = "waiters that are not woken wait for ever"]
pub(super) struct Wakes {
    pub(super) done: Vec<(Arc<Waiter>, Result<Bytes>)>,
    pub(super) lead: Option<Arc<Waiter>>,
}

impl Wakes {
    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.lead.is_none()
    }

    pub(super) fn wake(self) {
        for (waiter, outcome) in self.done {
            waiter.done(outcome);
        }
        if let Some(waiter) = self.lead {
            waiter.lead();
        }
    }
}
