//! Calls of this side.

use std::borrow::Borrow;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::lead::{Wakes, drop_each};
use super::link::{Link, State};
use super::messages::{Inbox, Messages};
use super::patience::Patience;
use super::watcher;
use crate::encoding::encode_long;
use crate::error::{Error, Result};
use crate::options::Outbound;
use crate::protocol::{Connection, LONG, Long, Opening, Output};
use crate::service::MethodKind;
use crate::stream::Outgoing;

/// What a call is sent with: one message, or a stream of them.
pub(crate) enum Requests<'a, M> {
    One(&'a M),
    /// `None` once the call has begun.
    Stream(Option<Box<dyn Outgoing>>),
}

impl<M> Requests<'_, M> {
    /// Whether the call cannot be made again with them.
    pub(super) fn is_spent(&self) -> bool {
        matches!(self, Requests::Stream(None))
    }
}

impl Link {
    // ---- calls

    /// Calls a method of the other side, and waits for the reply. The request is lent or given, `&M` or `M`: if it is given,
    /// a long one is dropped as soon as it is encoded.
    pub(crate) fn call<M: Message>(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        request: impl Borrow<M>,
    ) -> Result<Bytes> {
        let len = request.borrow().encoded_len();
        if len >= LONG {
            let encoded = self.encode_request(request.borrow(), len)?;
            drop(request);
            return self.call_long(outbound, encoded);
        }
        let mut state = None;
        if outbound.is_plain() {
            match self.begin_alone(outbound, request.borrow(), len) {
                Ok(begun) => return self.exchange(begun, &Patience::until_then(outbound.deadline)),
                Err(beside_others) => state = Some(beside_others),
            }
        }
        self.call_beside_others(state, outbound, request.borrow(), len)
    }

    /// The same where other things may be going on. The lock is taken already for a call that has nothing to wait by.
    #[inline(never)]
    fn call_beside_others<'a>(
        self: &'a Arc<Self>,
        state: Option<MutexGuard<'a, State>>,
        outbound: &Outbound<'_>,
        request: &impl Message,
        len: usize,
    ) -> Result<Bytes> {
        let patience = Patience::new(self, outbound.deadline, &outbound.cancel);
        let state = state.unwrap_or_else(|| self.lock());
        let (state, call) = self.open_with(state, outbound, &patience, |core, opening| {
            core.open_short(opening, Some(request), len)
        })?;
        self.wait_for_reply(state, call, &patience)
    }

    #[cold]
    fn call_long(self: &Arc<Self>, outbound: &Outbound<'_>, request: Long) -> Result<Bytes> {
        let patience = Patience::new(self, outbound.deadline, &outbound.cancel);
        let (state, call) = self.open_long(outbound, request, &patience)?;
        let outcome = self.wait_for_reply(state, call, &patience);
        // On the thread that has made it, whose user's memory it is.
        let sent = self.lock().take_sent_of(call);
        drop_each(sent);
        outcome
    }

    /// Calls a method with a stream of requests, which is taken once the call begins, and waits for the reply.
    pub(crate) fn call_with_stream(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        requests: &mut Option<Box<dyn Outgoing>>,
    ) -> Result<Bytes> {
        let patience = Patience::new(self, outbound.deadline, &outbound.cancel).listening();
        let (mut state, call) = self.open(outbound, None::<&()>, 0, &patience)?;
        if let Some(requests) = requests.take() {
            self.begin_pump(&mut state, call, requests);
        }
        self.wait_for_reply(state, call, &patience)
    }

    /// Calls a method that answers with a stream.
    pub(crate) fn call_streaming<M: Message>(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        requests: &mut Requests<'_, M>,
    ) -> Result<Messages> {
        let patience = Patience::new(self, outbound.deadline, &outbound.cancel);
        let request = match &*requests {
            Requests::One(request) => Some(*request),
            Requests::Stream(_) => None,
        };
        let has_requests = request.is_none();
        let len = request.map_or(0, Message::encoded_len);
        let (mut state, call) = self.open(outbound, request, len, &patience)?;
        state.inboxes.insert(call, Inbox::default());
        if let Requests::Stream(requests) = requests {
            if let Some(requests) = requests.take() {
                self.begin_pump(&mut state, call, requests);
            }
            state = self.hire(state);
        }
        drop(self.flush_or_leave(state));
        if outbound.deadline.is_some() {
            // Nobody may be reading the stream when it comes.
            watcher::wake();
        }
        let (deadline, cancel) = (outbound.deadline, outbound.cancel.clone());
        Ok(Messages::of_call(self.clone(), call, deadline, cancel, has_requests))
    }

    /// Calls a method without waiting for what becomes of it. Waits only while as many calls are under way as the
    /// other side takes.
    pub(crate) fn call_one_way(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        request: &impl Message,
    ) -> Result<()> {
        let patience = Patience::new(self, outbound.deadline, &outbound.cancel);
        let (mut state, _) =
            self.open(outbound, Some(request), request.encoded_len(), &patience)?;
        state.note_activity();
        self.keep_ticking(&mut state);
        drop(self.flush_or_leave(state));
        Ok(())
    }

    /// Asks the other side for a sign of life, and says how long it took.
    pub(crate) fn ping(self: &Arc<Self>, at_most: Duration) -> Result<Duration> {
        let begin = Instant::now();
        let patience = Patience::until_then(begin.checked_add(at_most));
        let mut state = self.lock();
        let ticket = state.next_ticket();
        state.core.ping(&ticket.to_le_bytes())?;
        state.pings.insert(ticket);
        let answered = self.wait_until(state, ticket, &patience, |state| {
            let failure = state.core.failure().map(Error::duplicate);
            (!state.pings.contains(&ticket) || failure.is_some()).then_some(failure)
        });
        match answered {
            Ok((None, _)) => Ok(begin.elapsed()),
            Ok((Some(failure), _)) => Err(failure),
            Err(mut state) => {
                state.pings.remove(&ticket);
                Err(patience.error())
            }
        }
    }

    /// Waits until the plugin can be called.
    pub(super) fn wait_for_ready(self: &Arc<Self>, until: Option<Instant>) -> Result<()> {
        let patience = Patience::until_then(until);
        let mut state = self.lock();
        let ticket = state.next_ticket();
        let waited = self.wait_until(state, ticket, &patience, |state| {
            if state.core.is_ready() {
                // If it has ended since, the first call says so.
                return Some(None);
            }
            state.core.failure().map(|failure| Some(failure.duplicate()))
        });
        match waited {
            Ok((failure, _)) => failure.map_or(Ok(()), Err),
            Err(mut state) => {
                let mut wakes = Wakes::default();
                state.core.handle_timeout(Instant::now(), &mut Output::default());
                self.handle_events(&mut state, None, &mut wakes);
                let failure = state.core.failure().map(Error::duplicate);
                drop(state);
                wakes.wake();
                Err(failure.unwrap_or_else(|| patience.error()))
            }
        }
    }

    // ---- opening

    /// Starts a call as soon as the other side takes one more. The request has `len` bytes, encoded.
    #[inline]
    fn open(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        request: Option<&impl Message>,
        len: usize,
        patience: &Patience<'_>,
    ) -> Result<(MutexGuard<'_, State>, u64)> {
        match request {
            Some(request) if len >= LONG => {
                self.open_long(outbound, self.encode_request(request, len)?, patience)
            }
            _ => self.open_with(self.lock(), outbound, patience, |core, opening| {
                core.open_short(opening, request, len)
            }),
        }
    }

    /// Encodes a long request, of so many bytes, while others use the connection.
    #[cold]
    fn encode_request(&self, request: &impl Message, len: usize) -> Result<Long> {
        let memory = {
            let mut state = self.lock();
            state.core.check_size("request", len)?;
            state.core.take_spare()
        };
        encode_long(request, len, memory, "the request")
    }

    /// What [`open`](Self::open) does, with a long request.
    fn open_long(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        request: Long,
        patience: &Patience<'_>,
    ) -> Result<(MutexGuard<'_, State>, u64)> {
        // If it is not taken, it is dropped without the lock.
        let mut request = Some(request);
        self.open_with(self.lock(), outbound, patience, |core, opening| {
            core.open_long(opening, &mut request)
        })
    }

    #[inline]
    fn open_with<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        outbound: &Outbound<'_>,
        patience: &Patience<'_>,
        open: impl FnOnce(&mut Connection, &Opening<'_>) -> Result<u64>,
    ) -> Result<(MutexGuard<'a, State>, u64)> {
        let mut now = outbound.made_at;
        if !state.core.can_open() || !state.space.is_empty() {
            state = self.wait_for_space(state, patience)?;
            now = None;
        }
        let mut opening = Opening {
            method: outbound.method,
            streams_requests: matches!(
                outbound.kind,
                MethodKind::ClientStreaming | MethodKind::BidiStreaming
            ),
            streams_responses: matches!(
                outbound.kind,
                MethodKind::ServerStreaming | MethodKind::BidiStreaming
            ),
            deadline: None,
            within: outbound.within,
            metadata: outbound.metadata,
        };
        if !patience.is_endless() {
            let now = now.unwrap_or_else(Instant::now);
            if patience.is_over_at(now) {
                return Err(patience.error());
            }
            opening.deadline = outbound.deadline.map(|deadline| (deadline, now));
        }
        let unwinding = Unwinding(self);
        let call = open(&mut state.core, &opening)?;
        drop(unwinding);
        if cfg!(feature = "tracing") && self.log.get().is_some() {
            state.spans.insert(call, outbound.span.clone());
        }
        Ok((state, call))
    }

    /// Waits in the queue of those that wait to make a call.
    #[inline(never)]
    fn wait_for_space<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        patience: &Patience<'_>,
    ) -> Result<MutexGuard<'a, State>> {
        let ticket = state.next_ticket();
        state.space.push_back(ticket);
        // Its turn may come by a thread that leaves the queue without a call, while this one reads for all.
        let listened = patience.listen(true);
        let waited = self.wait_until(state, ticket, patience, |state| {
            let is_next = state.core.can_open() && state.space.front() == Some(&ticket);
            (state.core.failure().is_some() || is_next).then_some(())
        });
        let (mut state, result) = match waited {
            Ok(((), state)) => (state, Ok(())),
            Err(state) => (state, Err(patience.error_in_queue())),
        };
        patience.listen(listened);
        state.space.retain(|other| *other != ticket);
        // There may be room for one more; and where this thread gave up, the next is first now.
        let mut wakes = Wakes::default();
        self.wake_space(&state, &mut wakes);
        wakes.wake();
        result.map(|()| state)
    }
}

/// Has the watcher look at a connection when this thread unwinds in the middle of a change to it: encoding runs code of
/// users. Others may all be asleep, and the first who takes the lock finds what has happened.
pub(super) struct Unwinding<'a>(pub(super) &'a Arc<Link>);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            watcher::tick(self.0);
        }
    }
}
