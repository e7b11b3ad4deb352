//! Streams that arrive.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::task::{Poll, Wake, Waker};
use std::time::Instant;

use bytes::Bytes;

use super::lead::Wakes;
use super::link::{Link, State};
use super::patience::{Patience, cancelled_here};
use crate::cancel::{CancelToken, Registration};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::{Arrival, Cost, Run, STREAM_WINDOW};
use crate::stream::Received;

/// What has arrived of a stream and was not read. The credit that the other side gets bounds it.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) messages: VecDeque<(Arrival, Cost)>,
    /// How the stream has ended, if it has.
    pub(super) end: Option<Result<()>>,
    /// Wakes who has found it empty.
    pub(super) waker: Option<Waker>,
}

/// What a reader has taken out of the inbox: all that was there, since the lock costs as much as a short message.
#[derive(Default)]
struct Batch {
    /// The short ones whose turn it is, and what they cost together.
    run: Run,
    run_cost: Cost,
    messages: VecDeque<(Arrival, Cost)>,
    /// What was read of all of them, and not given back to the core.
    read: Cost,
}

/// A message that was taken out.
enum Taken {
    /// It lies here in the run.
    Short(Range<usize>),
    Long(Bytes),
}

impl Batch {
    #[inline]
    fn pop(&mut self) -> Option<Taken> {
        if self.run.is_read() {
            match self.messages.pop_front()? {
                (Arrival::Long(message), cost) => {
                    self.read += cost;
                    return Some(Taken::Long(message));
                }
                (Arrival::Short(run), cost) => (self.run, self.run_cost) = (run, cost),
            }
        }
        let place = self.run.next()?;
        if self.run.is_read() {
            self.read += self.run_cost;
        }
        Some(Taken::Short(place))
    }

    fn is_empty(&self) -> bool {
        self.run.is_read() && self.messages.is_empty()
    }

    /// Gives the memory of what was read back, before a wait for more.
    fn release(&mut self) {
        debug_assert!(self.is_empty(), "there is more");
        self.run = Run::default();
    }

    fn received(&self, taken: Taken) -> Received<'_> {
        match taken {
            Taken::Short(place) => Received::Short(self.run.message(place)),
            Taken::Long(message) => Received::Long(message),
        }
    }

    /// Whether the core is to learn now of what was read. A reader that reads on comes by soon; one that stops must not
    /// keep much from the sender, nor memory from other long messages.
    fn is_due(&self) -> bool {
        self.is_empty() || self.read.call() >= UNREPORTED || self.read.budget() > 0
    }
}

/// The messages that arrive in one direction of one call, encoded. Dropping it before its end cancels a call of this
/// side, and in a call of the other side lets it send no more.
pub(crate) struct Messages {
    link: Arc<Link>,
    call: u64,
    batch: Batch,
    deadline: Option<Instant>,
    cancel: [Option<CancelToken>; 2],
    /// End the call when a token is cancelled, also while nobody waits for the next message.
    _registrations: Vec<Registration>,
    /// Whether a stream of requests may end the call.
    has_requests: bool,
    has_ended: bool,
}

impl Messages {
    /// The responses to a call of this side.
    pub(super) fn of_call(
        link: Arc<Link>,
        call: u64,
        deadline: Option<Instant>,
        cancel: [Option<CancelToken>; 2],
        has_requests: bool,
    ) -> Messages {
        let mut registrations = Vec::new();
        if cancel.iter().any(Option::is_some) {
            let waker = Waker::from(Arc::new(GiveUp { link: Arc::downgrade(&link), call }));
            let tokens = cancel.iter().flatten();
            registrations.extend(tokens.map(|token| token.on_cancel(waker.clone())));
        }
        Messages {
            link,
            call,
            batch: Batch::default(),
            deadline,
            cancel,
            _registrations: registrations,
            has_requests,
            has_ended: false,
        }
    }

    /// The requests of a call of the other side. Their end comes with the end of the call.
    pub(super) fn of_requests(link: Arc<Link>, call: u64) -> Messages {
        Messages::of_call(link, call, None, [None, None], false)
    }

    /// The next message, waiting for it; `None` after the last. An error is the last.
    pub(crate) fn next(&mut self) -> Option<Result<Received<'_>>> {
        if let Some(message) = self.next_of_batch() {
            return Some(Ok(self.batch.received(message)));
        }
        if self.has_ended {
            return None;
        }
        let taken = self.wait_for_next();
        self.end_with(taken)
    }

    fn next_of_batch(&mut self) -> Option<Taken> {
        let message = self.batch.pop()?;
        if self.batch.is_due() {
            let mut state = self.link.lock();
            state.refill(self.call, &mut self.batch);
            // Credit goes out at once: its sender may be waiting for it.
            drop(self.link.flush_or_leave(state));
        }
        Some(message)
    }

    fn wait_for_next(&mut self) -> Option<Result<Taken>> {
        let batch = &mut self.batch;
        batch.release();
        let mut patience = Patience::new(&self.link, self.deadline, &self.cancel);
        if self.has_requests {
            patience = patience.listening();
        }
        let call = self.call;
        let mut state = self.link.lock();
        loop {
            match self.link.wait_until(state, call, &patience, |state| state.take(call, batch)) {
                Ok((taken, state)) => {
                    drop(self.link.flush_or_leave(state));
                    return taken.map(|taken| taken.map_err(|error| patience.explain(error)));
                }
                // The inbox gets the outcome, behind what has arrived before. If the call has ended meanwhile, that is
                // the outcome.
                Err(late) => {
                    state = self.link.give_up(late, call, &patience.error());
                    if let Some(taken) = state.take(call, batch) {
                        drop(self.link.flush_or_leave(state));
                        return taken;
                    }
                }
            }
        }
    }

    /// The next message if it is there; otherwise `waker` is woken once it may be.
    pub(crate) fn poll_next(&mut self, waker: &Waker) -> Poll<Option<Result<Received<'_>>>> {
        if let Some(message) = self.next_of_batch() {
            return Poll::Ready(Some(Ok(self.batch.received(message))));
        }
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.batch.release();
        let mut state = self.link.lock();
        match state.take(self.call, &mut self.batch) {
            Some(taken) => {
                drop(self.link.flush_or_leave(state));
                Poll::Ready(self.end_with(taken))
            }
            None => {
                if let Some(inbox) = state.inboxes.get_mut(self.call) {
                    inbox.waker = Some(waker.clone());
                }
                // Somebody has to read what comes.
                state.note_activity();
                self.link.keep_ticking(&mut state);
                Poll::Pending
            }
        }
    }

    fn end_with(&mut self, taken: Option<Result<Taken>>) -> Option<Result<Received<'_>>> {
        self.has_ended = !matches!(taken, Some(Ok(_)));
        taken.map(|taken| taken.map(|message| self.batch.received(message)))
    }
}

impl State {
    /// Takes the next message of a stream, for a reader whose batch is empty, or the end. `None` if neither is there.
    #[expect(
        clippy::option_option,
        reason = "the outer says whether to wait, the inner whether the stream goes on"
    )]
    fn take(&mut self, call: u64, batch: &mut Batch) -> Option<Option<Result<Taken>>> {
        self.refill(call, batch);
        if let Some(message) = batch.pop() {
            if batch.is_due() {
                self.refill(call, batch);
            }
            return Some(Some(Ok(message)));
        }
        let Some(inbox) = self.inboxes.get_mut(call) else { return Some(None) };
        let end = inbox.end.take()?;
        self.inboxes.remove(call);
        Some(end.err().map(Err))
    }

    /// Gives back what was read of a batch, and fills it if it is empty.
    fn refill(&mut self, call: u64, batch: &mut Batch) {
        self.give_back(call, batch);
        if batch.is_empty() {
            if let Some(inbox) = self.inboxes.get_mut(call) {
                std::mem::swap(&mut inbox.messages, &mut batch.messages);
            }
        }
    }

    fn give_back(&mut self, call: u64, batch: &mut Batch) {
        let read = std::mem::take(&mut batch.read);
        if read.call() > 0 {
            self.core.consume(call, read);
        }
    }

    /// Drops what nobody will read: it counts as read, or it would be missing from what all streams together may bring.
    #[inline(never)]
    pub(super) fn drop_inbox(&mut self, call: u64) -> Option<Inbox> {
        let mut inbox = self.inboxes.remove(call)?;
        for (_, cost) in inbox.messages.drain(..) {
            self.core.consume(call, cost);
        }
        Some(inbox)
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        while self.batch.pop().is_some() {}
        state.give_back(self.call, &mut self.batch);
        let Some(inbox) = state.drop_inbox(self.call) else {
            drop(self.link.flush_or_leave(state));
            return;
        };
        if inbox.end.is_none() {
            state.core.discard(self.call);
            let error = Error::of_kind(ErrorKind::Cancelled, "its stream was dropped");
            let mut wakes = Wakes::default();
            let call = self.call;
            // Nothing for a call of the other side: it goes on.
            state.with_taken(|core, taken| core.cancel(call, &error, taken));
            self.link.handle_events(&mut state, None, &mut wakes);
            drop(self.link.flush_or_leave(state));
            wakes.wake();
        } else {
            drop(self.link.flush_or_leave(state));
        }
    }
}

/// How much of what was read the core may not know of: an eighth of what may be under way.
const UNREPORTED: u64 = STREAM_WINDOW / 8;

/// Tells the other side that a stream is not wanted any more. What its reader finds in the end is that.
struct GiveUp {
    link: Weak<Link>,
    call: u64,
}

impl Wake for GiveUp {
    fn wake(self: Arc<Self>) {
        if let Some(link) = self.link.upgrade() {
            let state = link.lock();
            drop(link.give_up(state, self.call, &cancelled_here()));
        }
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("call", &self.call).finish_non_exhaustive()
    }
}
