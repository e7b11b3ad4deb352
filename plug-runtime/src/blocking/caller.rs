//! Calls of this side: making them, and waiting for what comes of them.

use std::cell::Cell;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::lead::{Lead, Wakes, drop_each};
use super::link::{Link, State};
use super::messages::{Inbox, Messages};
use super::patience::{Patience, cancelled_here};
use super::waiter::{Waiter, Woken};
use super::watcher;
use super::worker::{Task, Worker};
use crate::encoding::encode_long;
use crate::error::{Error, Result};
use crate::options::Outbound;
use crate::protocol::{Connection, LONG, Opening, Output};
use crate::service::MethodKind;
use crate::stream::Outgoing;
use crate::sys::dormitory::Rising;

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

    /// Calls a method of the other side, and waits for the reply.
    pub(crate) fn call(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        request: &impl Message,
    ) -> Result<Bytes> {
        let patience = Patience::new(self, outbound.deadline, &outbound.cancel);
        let len = request.encoded_len();
        let (state, call) = self.open(outbound, Some(request), len, &patience)?;
        let outcome = self.wait_for_reply(state, call, &patience);
        if len >= LONG {
            self.drop_sent_of(call);
        }
        outcome.map_err(|error| patience.explain(error))
    }

    /// Drops what was sent of the memory of the user who has made a call, on the thread that has made it.
    #[cold]
    fn drop_sent_of(&self, call: u64) {
        let parts = self.lock().take_sent_of(call);
        drop_each(parts);
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
        self.wait_for_reply(state, call, &patience).map_err(|error| patience.explain(error))
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
        state.active = true;
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
            Some(request) if len >= LONG => self.open_long(outbound, request, len, patience),
            _ => self.open_with(outbound, patience, |core, opening| {
                core.open_short(opening, request, len)
            }),
        }
    }

    /// The same with a long request, which is encoded while others use the connection.
    #[cold]
    fn open_long(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        request: &impl Message,
        len: usize,
        patience: &Patience<'_>,
    ) -> Result<(MutexGuard<'_, State>, u64)> {
        let memory = {
            let mut state = self.lock();
            state.core.check_size("request", len)?;
            state.core.take_spare()
        };
        // If it is not taken, it is dropped without the lock.
        let mut message = Some(encode_long(request, len, memory, "the request")?);
        self.open_with(outbound, patience, |core, opening| core.open_long(opening, &mut message))
    }

    #[inline]
    fn open_with(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        patience: &Patience<'_>,
        open: impl FnOnce(&mut Connection, &Opening<'_>) -> Result<u64>,
    ) -> Result<(MutexGuard<'_, State>, u64)> {
        let mut state = self.lock();
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
            Err(state) => (state, Err(patience.error())),
        };
        patience.listen(listened);
        state.space.retain(|other| *other != ticket);
        // There may be room for one more; and where this thread gave up, the next is first now.
        let mut wakes = Wakes::default();
        self.wake_space(&state, &mut wakes);
        wakes.wake();
        result.map(|()| state)
    }

    // ---- waiting

    /// Waits for the reply to a call that was just made, reading if nobody else does.
    fn wait_for_reply<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        call: u64,
        patience: &Patience<'_>,
    ) -> Result<Bytes> {
        let waiter = match Lead::take(self, &mut state, Some(call)) {
            Some(mut lead) => {
                // Not before: the outcome would find nobody if it came while the lock is free.
                state = self.hire(state);
                match self.read_until_done(state, &mut lead, call, patience) {
                    None => return lead.own.take_outcome(),
                    Some(waiter) => waiter,
                }
            }
            None => {
                let waiter = state.add_waiter(call, Vec::new(), patience);
                drop(self.flush_or_leave(self.hire(state)));
                waiter
            }
        };
        self.wait_beside(waiter, call, patience)
    }

    /// Waits for the reply while another thread reads, or until this one is needed for that.
    #[inline(never)]
    fn wait_beside(
        self: &Arc<Self>,
        mut waiter: Arc<Waiter>,
        call: u64,
        patience: &Patience<'_>,
    ) -> Result<Bytes> {
        loop {
            match waiter.wait(patience, &self.waiting) {
                Woken::Done(outcome) => return outcome,
                Woken::Look => {
                    let mut state = self.lock();
                    let Some(waiting) = state.waiters.get_mut(call) else {
                        // The outcome is on its way to the waiter.
                        continue;
                    };
                    if !waiting.nested.is_empty() {
                        waiting.is_busy = true;
                        let nested = std::mem::take(&mut waiting.nested);
                        if patience.until().is_some() {
                            // It looks after the deadline meanwhile.
                            watcher::wake();
                        }
                        state = self.run_nested(state, nested);
                        if let Some(waiting) = state.waiters.get_mut(call) {
                            waiting.is_busy = false;
                        } else {
                            continue;
                        }
                    }
                    if let Some(mut lead) = Lead::take(self, &mut state, Some(call)) {
                        state.waiters.remove(call);
                        match self.read_until_done(state, &mut lead, call, patience) {
                            None => return lead.own.take_outcome(),
                            Some(again) => waiter = again,
                        }
                    }
                }
                Woken::Impatient => {
                    // If it has ended meanwhile, the outcome is there or on its way.
                    drop(self.give_up(self.lock(), call, &patience.error()));
                    match waiter.wait(&Patience::endless(), &self.waiting) {
                        Woken::Done(outcome) => return outcome,
                        Woken::Look | Woken::Impatient => {}
                    }
                }
            }
        }
    }

    /// Reads until the call has ended, and leaves the outcome in the lead. If there is nothing more to read before that, or
    /// there are calls to be run on this thread, the outcome comes to the waiter that is returned.
    fn read_until_done<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
        lead: &mut Lead<'a>,
        call: u64,
        patience: &Patience<'_>,
    ) -> Option<Arc<Waiter>> {
        let mut wakes = Wakes::default();
        let is_done = |state: &mut State, lead: &mut Lead<'_>, wakes: &mut Wakes| {
            if lead.own.outcome.is_none() && !patience.is_endless() && patience.is_over() {
                let error = patience.error();
                state.with_taken(|core, taken| core.cancel(call, &error, taken));
                lead.handle_events(state, wakes);
            }
            lead.own.outcome.is_some()
        };
        let mut state = self.read_until(state, lead, &mut wakes, patience, is_done);
        // It may also have come with the end of the connection, as the role was given back.
        let waiter = match lead.own.outcome {
            Some(_) => {
                self.enqueue_all(&mut state, &mut lead.own.nested);
                None
            }
            None => {
                let nested = std::mem::take(&mut lead.own.nested);
                let waiter = state.add_waiter(call, nested, patience);
                waiter.look(&mut Rising::default());
                Some(waiter)
            }
        };
        state = self.hire(state);
        // What is queued behind a full pipe must not wait for the next call.
        drop(self.flush_or_leave(state));
        wakes.wake();
        waiter
    }

    /// Waits until `done` finds what it looks for, reading if nobody else does. `key` is the call in whose name this
    /// thread waits, or a ticket. `Err` if the patience is over.
    pub(super) fn wait_until<'a, R>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        key: u64,
        patience: &Patience<'_>,
        mut done: impl FnMut(&mut State) -> Option<R>,
    ) -> std::result::Result<(R, MutexGuard<'a, State>), MutexGuard<'a, State>> {
        let mut has_waited = false;
        loop {
            let found = done(&mut state);
            if found.is_some() || patience.is_over() {
                if has_waited {
                    let mut wakes = Wakes::default();
                    self.pass_on_if_free(&mut state, &mut wakes);
                    wakes.wake();
                }
                return match found {
                    Some(result) => Ok((result, state)),
                    None => Err(state),
                };
            }
            let nested = match Lead::take(self, &mut state, Some(key)) {
                Some(mut lead) => {
                    let mut wakes = Wakes::default();
                    let mut found = None;
                    let is_done = |state: &mut State, _: &mut Lead<'_>, _: &mut Wakes| {
                        found = done(state);
                        found.is_some() || patience.is_over()
                    };
                    state = self.read_until(state, &mut lead, &mut wakes, patience, is_done);
                    drop(self.flush_or_leave(state));
                    wakes.wake();
                    state = self.lock();
                    if let Some(result) = found {
                        self.enqueue_all(&mut state, &mut lead.own.nested);
                        return Ok((result, self.hire(state)));
                    }
                    std::mem::take(&mut lead.own.nested)
                }
                None => {
                    let waiter = state.add_waiter(key, Vec::new(), patience);
                    drop(self.flush_or_leave(state));
                    let _ = waiter.wait(patience, &self.waiting);
                    has_waited = true;
                    state = self.lock();
                    state.waiters.remove(key).map(|waiting| waiting.nested).unwrap_or_default()
                }
            };
            if !nested.is_empty() {
                state = self.run_nested(state, nested);
            }
        }
    }

    /// Reads, and gives the role back once `is_done` says so, there is nothing more to read, or there are calls to be run
    /// on this thread. Who is to be woken then is left to the caller.
    fn read_until<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        lead: &mut Lead<'a>,
        wakes: &mut Wakes,
        patience: &Patience<'_>,
        mut is_done: impl FnMut(&mut State, &mut Lead<'a>, &mut Wakes) -> bool,
    ) -> MutexGuard<'a, State> {
        loop {
            state = self.flush_and_read(state, lead, patience);
            lead.handle_events(&mut state, wakes);
            let is_done = is_done(&mut state, lead, wakes);
            if is_done || state.input_ended || !lead.own.nested.is_empty() {
                lead.release(&mut state, wakes);
                return state;
            }
            state = self.hire(state);
            if !wakes.is_empty() {
                state = self.wake_between(state, wakes);
            }
        }
    }

    /// Wakes those whom this thread has brought something, which reads on.
    #[inline(never)]
    fn wake_between<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
        wakes: &mut Wakes,
    ) -> MutexGuard<'a, State> {
        drop(self.leave_drops(state, wakes));
        std::mem::take(wakes).wake();
        self.lock()
    }

    /// Ends a call for its caller, who does not wait any longer. The outcome goes where it would have gone.
    pub(super) fn give_up<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        call: u64,
        error: &Error,
    ) -> MutexGuard<'a, State> {
        let mut wakes = Wakes::default();
        state.with_taken(|core, taken| core.cancel(call, error, taken));
        self.handle_events(&mut state, None, &mut wakes);
        state = self.flush_or_leave(state);
        drop(state);
        wakes.wake();
        self.lock()
    }

    /// Has a thread that waits by a call or a ticket look at its tokens. Where it runs a handler at the moment and cannot,
    /// its call is cancelled.
    pub(super) fn rouse(self: &Arc<Self>, key: impl FnOnce() -> u64) {
        let state = self.lock();
        let key = key();
        if state.waiters.get(key).is_some_and(|waiting| waiting.is_busy) {
            drop(self.give_up(state, key, &cancelled_here()));
            return;
        }
        let mut wakes = Wakes::default();
        state.wake(key, &mut wakes);
        drop(state);
        wakes.wake();
    }

    /// Runs one of the calls that the handler of this thread's own call makes in turn, and leaves the others to
    /// workers: it may wait for them. It leaves that one to them too where this thread runs as many already as its stack
    /// should hold.
    fn run_nested<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        mut nested: Vec<Task>,
    ) -> MutexGuard<'a, State> {
        let depth = NESTED.get();
        let first = if depth < NESTED_AT_MOST && !nested.is_empty() {
            Some(nested.remove(0))
        } else {
            None
        };
        self.enqueue_all(&mut state, &mut nested);
        let mut wakes = Wakes::default();
        self.pass_on_if_free(&mut state, &mut wakes);
        wakes.wake();
        state = self.hire(state);
        if let Some(task) = first {
            NESTED.set(depth + 1);
            state = self.run_task(state, task, &mut Worker::default());
            NESTED.set(depth);
        }
        // It may have begun a stream.
        state = self.hire(state);
        self.flush_or_leave(state)
    }
}

/// Has the watcher look at a connection when this thread unwinds in the middle of a change to it: encoding runs code of
/// users. Others may all be asleep, and the first who takes the lock finds what has happened.
struct Unwinding<'a>(&'a Arc<Link>);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            watcher::tick(self.0);
        }
    }
}

thread_local! {
    /// How many calls this thread runs, each while it waits for the one before.
    static NESTED: Cell<u32> = const { Cell::new(0) };
}

/// The most of them. A level of the least handlers takes 5 KiB of stack without optimisation, so that 400 fill the 2 MiB
/// of a thread, and what overflows a stack ends the process: a plugin must not be able to do that to its host.
const NESTED_AT_MOST: u32 = 32;
