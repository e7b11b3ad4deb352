//! The role of reading while a thread has it, and the threads to be woken after it has read.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::link::{Link, State};
use super::roles::Reader;
use super::waiter::Waiter;
use super::workers::Task;
use crate::call::CallState;
use crate::error::Result;
use crate::log::CallSpan;
use crate::stream::Outgoing;
use crate::sys::dormitory::Rising;

/// The role of reading, held by a thread, and not lost when that unwinds.
pub(super) struct Lead<'a> {
    link: &'a Arc<Link>,
    pub(super) reader: Option<Box<Reader>>,
    pub(super) own: Own,
}

/// What arrives for the thread that reads.
#[derive(Default)]
pub(super) struct Own {
    /// The call that it waits for, if it does.
    pub(super) call: Option<u64>,
    pub(super) outcome: Option<Result<Bytes>>,
    /// Calls to be run on this thread, because the handler of `call` waits for them.
    pub(super) nested: Vec<Task>,
}

impl Own {
    /// The outcome of the call, once it is there.
    #[inline]
    pub(super) fn take_outcome(&mut self) -> Result<Bytes> {
        let Some(outcome) = self.outcome.take() else { unreachable!("it was waited for") };
        outcome
    }
}

impl<'a> Lead<'a> {
    /// Takes the role, if nobody has it and there is something to read.
    #[inline]
    pub(super) fn take(
        link: &'a Arc<Link>,
        state: &mut State,
        call: Option<u64>,
    ) -> Option<Lead<'a>> {
        if state.input_ended {
            return None;
        }
        link.disarm_input(state);
        let reader = state.reader.take()?;
        state.leading = call;
        Some(Lead::with(link, Some(reader), call))
    }

    #[inline]
    pub(super) fn with(
        link: &'a Arc<Link>,
        reader: Option<Box<Reader>>,
        call: Option<u64>,
    ) -> Lead<'a> {
        Lead { link, reader, own: Own { call, ..Own::default() } }
    }

    pub(super) fn handle_events(&mut self, state: &mut State, wakes: &mut Wakes) {
        self.link.handle_events(state, Some(&mut self.own), wakes);
        if state.left.is_some() {
            self.own.outcome = self.own.outcome.take().or(state.left.take());
        }
    }

    /// Gives the role back, to be passed on. What has arrived for this thread stays with it.
    pub(super) fn release(&mut self, state: &mut State, wakes: &mut Wakes) {
        if let Some(mut reader) = self.reader.take() {
            state.move_input(&mut reader);
            if state.over.is_some() {
                self.link.settle(state, &mut reader);
                self.handle_events(state, wakes);
            }
            state.reader = Some(reader);
            state.leading = None;
            // Not in somebody's call: it may take long, or wait for what the caller holds.
            if self.own.call.is_none() && state.core.has_dropped() {
                wakes.errand().parts.append(&mut state.take_sent());
            }
            self.link.pass_on(state, wakes);
        }
    }
}

impl Lead<'_> {
    #[cold]
    fn abandon(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.link.abandon(reader, std::mem::take(&mut self.own.nested));
        }
    }
}

impl Drop for Lead<'_> {
    /// Reached with the role only while the thread unwinds, with the connection's lock or without: so the watcher gives
    /// it back.
    #[inline]
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.abandon();
        }
    }
}

/// Whom to wake once the lock is released: mostly nobody, and then this is a null pointer.
#[derive(Default)]
#[must_use = "waiters that are not woken wait for ever"]
pub(super) struct Wakes(Option<Box<Woken>>);

#[derive(Default)]
pub(super) struct Woken {
    pub(super) done: Vec<(Arc<Waiter>, Result<Bytes>)>,
    pub(super) look: Vec<Arc<Waiter>>,
    /// What is seldom.
    errand: Option<Box<Errand>>,
}

/// What may run code of users: not for the watcher.
#[derive(Default)]
pub(super) struct Errand {
    /// Calls whose handlers are to learn that nobody waits for them.
    pub(super) cancelled: Vec<Arc<CallState>>,
    /// Of streams that wait for what has arrived.
    pub(super) wakers: Vec<Waker>,
    /// What is sent no longer.
    pub(super) dropped: Vec<Box<dyn Outgoing>>,
    /// Of messages that were sent: what users have made of their memory is dropped with it.
    pub(super) parts: Vec<Bytes>,
    /// Of calls that have ended: to be dropped.
    pub(super) spans: Vec<CallSpan>,
}

impl Wakes {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn some(&mut self) -> &mut Woken {
        self.0.get_or_insert_default()
    }

    pub(super) fn errand(&mut self) -> &mut Errand {
        self.some().errand.get_or_insert_default()
    }

    /// Takes away what is not for this thread.
    pub(super) fn take_errand(&mut self) -> Option<Box<Errand>> {
        self.0.as_mut()?.errand.take()
    }

    /// Takes away what users have to drop.
    pub(super) fn take_dropped(&mut self) -> Option<Box<Errand>> {
        let dropped = std::mem::take(&mut self.0.as_mut()?.errand.as_mut()?.dropped);
        (!dropped.is_empty()).then(|| Box::new(Errand { dropped, ..Errand::default() }))
    }

    #[inline]
    pub(super) fn wake(self) {
        if let Some(woken) = self.0 {
            woken.wake();
        }
    }
}

impl Woken {
    fn wake(self) {
        let mut rising = Rising::default();
        for (waiter, outcome) in self.done {
            waiter.done(outcome, &mut rising);
        }
        for waiter in self.look {
            waiter.look(&mut rising);
        }
        rising.wake();
        if let Some(errand) = self.errand {
            errand.run();
        }
    }
}

impl Errand {
    #[inline(never)]
    pub(super) fn run(self) {
        for call in self.cancelled {
            call.cancel().cancel();
        }
        for waker in self.wakers {
            waker.wake();
        }
        drop_each(self.dropped);
        drop_each(self.parts);
        drop_each(self.spans);
    }
}

/// A panic in a drop of the user's is the user's; it must not end the thread that reads for all, nor the process, as a
/// second one would while the first unwinds.
pub(super) fn drop_each<T>(values: Vec<T>) {
    for value in values {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(value)));
    }
}
