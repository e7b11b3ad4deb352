//! What the core of a connection has to say, brought to whom it concerns.
//!
//! All of it is done under the lock, so nothing here runs code of users or waits. What a call with one request and one
//! response does not need is in functions apart: see "The weight of a call" in `ARCHITECTURE.md`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::lead::{Own, Wakes};
use super::link::{Link, State, cancelled};
use super::messages::Inbox;
use super::pump::Pump;
use super::sharing::Shared;
use super::watcher::Report;
use super::workers::Task;
use crate::error::{Delivery, Error, ErrorKind, Result};
use crate::log;
use crate::protocol::{Answer, Arrival, Cost, Event, Request};

impl Link {
    /// Acts on what the core has to say. What concerns `own`, the call of the thread that asks, is left there; the rest
    /// goes to whom it concerns.
    pub(super) fn handle_events(
        self: &Arc<Self>,
        state: &mut State,
        mut own: Option<&mut Own>,
        wakes: &mut Wakes,
    ) {
        while let Some(event) = state.core.poll_event() {
            match event {
                Event::Reply { call, outcome } => {
                    self.handle_reply(state, call, outcome, own.as_deref_mut(), wakes);
                }
                Event::Request(request) => {
                    self.handle_request(state, request, own.as_deref_mut(), wakes);
                }
                Event::Messages { call, messages, cost } => {
                    state.take_messages(call, messages, cost, wakes);
                }
                Event::RequestsEnded { call, result } => {
                    state.end_inbox(call, result, wakes);
                }
                Event::Cancelled { call } => {
                    self.handle_cancelled(state, call, own.as_deref_mut(), wakes)
                }
                Event::Freed => self.wake_space(state, wakes),
                Event::Pong { payload } => state.take_pong(&payload, wakes),
                Event::Goodbye(goodbye) => {
                    self.report(Report::Goodbye(goodbye.grace));
                    self.notify_all(state, wakes);
                }
                Event::Ready => state.wake_all(wakes),
                Event::Log { call, record } => self.take_record(state, call, &record),
                Event::Level { record } => log::set_level(&record),
                Event::MemoryWanted(request) => state.make_memory(&request),
                Event::MemoryOffered(offer) => state.take_memory(&offer),
                Event::MemoryDeclined => state.shared = Shared::default(),
                Event::Greeted => {}
            }
        }
        if state.core.has_rooms() {
            self.note_rooms(state);
        }
        if state.core.failure().is_some() && !state.reported {
            self.note_failure(state, wakes);
        }
    }

    #[cold]
    fn note_failure(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) {
        state.reported = true;
        self.report(Report::Failed);
        self.notify_all(state, wakes);
        self.ended.notify_all();
        // What is left of what was to be sent is given back with the next tick.
        self.keep_ticking(state);
    }

    /// Has those streams go on that can.
    pub(super) fn note_rooms(self: &Arc<Self>, state: &mut State) {
        while let Some(call) = state.core.poll_room() {
            if state.pumps.get_mut(call).is_some_and(Pump::take_room) {
                self.enqueue(state, Task::Pump(call));
            }
        }
    }

    fn handle_reply(
        self: &Arc<Self>,
        state: &mut State,
        call: u64,
        outcome: Result<Bytes>,
        own: Option<&mut Own>,
        wakes: &mut Wakes,
    ) {
        if !state.pumps.is_empty() {
            state.stop_pump_of(call, wakes);
        }
        if state.inboxes.contains(call) {
            state.end_inbox(call, outcome.map(drop), wakes);
            if state.leading == Some(call) {
                self.rouse_leader();
            }
        } else if let Some(own) = own.filter(|own| own.call == Some(call)) {
            own.outcome = Some(outcome);
        } else {
            self.leave_outcome(state, call, outcome, wakes);
        }
        state.ask_for_memory(1);
        if !state.spans.is_empty() {
            state.end_span(call, wakes);
        }
        if !state.space.is_empty() {
            self.wake_space(state, wakes);
        }
    }

    /// Leaves the outcome of a call to a thread that is not this one.
    #[inline(never)]
    fn leave_outcome(
        self: &Arc<Self>,
        state: &mut State,
        call: u64,
        outcome: Result<Bytes>,
        wakes: &mut Wakes,
    ) {
        if let Some(mut waiting) = state.waiters.remove(call) {
            // A handler that was to run on that thread has nobody to run on; its caller has ended, too.
            self.enqueue_all(state, &mut waiting.nested);
            state.waiters.note_served();
            wakes.some().done.push((waiting.waiter, outcome));
            self.pass_on_if_free(state, wakes);
        } else if state.leading == Some(call) {
            state.left = Some(outcome);
            self.rouse_leader();
        }
    }

    fn handle_request(
        self: &Arc<Self>,
        state: &mut State,
        request: Request,
        own: Option<&mut Own>,
        wakes: &mut Wakes,
    ) {
        if self.dispatch.get().is_none() {
            let error = Error::of_kind(ErrorKind::Unimplemented, "this side serves nothing");
            state.core.reply(request.call, Answer::Refused(error));
            return;
        }
        if request.has_stream {
            state.inboxes.insert(request.call, Inbox::default());
        }
        if request.extra.is_some() {
            return self.handle_request_with_extra(state, request, own, wakes);
        }
        self.enqueue(state, Task::Request(request));
    }

    #[inline(never)]
    fn handle_request_with_extra(
        self: &Arc<Self>,
        state: &mut State,
        mut request: Request,
        own: Option<&mut Own>,
        wakes: &mut Wakes,
    ) {
        let mut within = 0;
        if let Some(extra) = &mut request.extra {
            within = extra.within;
            if extra.timeout.is_some() {
                extra.arrive(Instant::now());
            }
        }
        let task = Task::Request(request);
        if let Some(own) = own.filter(|own| own.call == Some(within)) {
            own.nested.push(task);
        } else if let Some(waiting) =
            state.waiters.get_mut(within).filter(|waiting| !waiting.is_busy)
        {
            waiting.nested.push(task);
            wakes.some().look.push(waiting.waiter.clone());
        } else {
            self.enqueue(state, task);
        }
    }

    /// The caller of a call of the other side has lost interest.
    #[inline(never)]
    fn handle_cancelled(
        &self,
        state: &mut State,
        call: u64,
        own: Option<&mut Own>,
        wakes: &mut Wakes,
    ) {
        if let Some(running) = state.running.get_mut(call) {
            wakes.errand().cancelled.push(running.clone());
            if let Some(source) = state.pumps.get_mut(call).and_then(Pump::stop) {
                wakes.errand().dropped.push(source);
                state.pumps.remove(call);
                state.running.remove(call);
                state.core.finish(call, Err(cancelled(Delivery::MayHaveRun)));
            }
            return;
        }
        // It has not begun.
        let is_it = |task: &Task| task.is_request(call);
        state.workers.withdraw(is_it);
        if let Some(own) = own {
            own.nested.retain(|task| !is_it(task));
        }
        for waiting in state.waiters.iter_mut() {
            waiting.nested.retain(|task| !is_it(task));
        }
        drop(state.drop_inbox(call));
        state.core.reply(call, Answer::Refused(cancelled(Delivery::NotSent)));
    }
}

impl State {
    /// Ends the span of the host's in which a call was made.
    #[inline(never)]
    fn end_span(&mut self, call: u64, wakes: &mut Wakes) {
        if let Some(span) = self.spans.remove(&call) {
            wakes.errand().spans.push(span);
        }
    }

    /// Stops what a call of this side has still to send: nobody wants it.
    #[inline(never)]
    fn stop_pump_of(&mut self, call: u64, wakes: &mut Wakes) {
        // If it is being run, whoever does finds that it is over.
        if let Some(source) = self.pumps.get_mut(call).and_then(Pump::stop) {
            wakes.errand().dropped.push(source);
            self.pumps.remove(call);
        }
    }

    /// Takes messages of a stream into its inbox.
    #[inline(never)]
    fn take_messages(&mut self, call: u64, messages: Arrival, cost: Cost, wakes: &mut Wakes) {
        let Some(inbox) = self.inboxes.get_mut(call) else {
            // Nobody reads it any more.
            return self.core.consume(call, cost);
        };
        inbox.messages.push_back((messages, cost));
        if inbox.messages.len() == 1 {
            // Who waits has found it empty.
            self.wake_reader_of(call, wakes);
        }
    }

    /// Notes how a stream has ended that arrives.
    #[inline(never)]
    fn end_inbox(&mut self, call: u64, result: Result<()>, wakes: &mut Wakes) {
        if let Some(inbox) = self.inboxes.get_mut(call) {
            inbox.end = Some(result);
            self.wake_reader_of(call, wakes);
        }
    }

    #[inline(never)]
    fn take_pong(&mut self, payload: &Bytes, wakes: &mut Wakes) {
        if let Ok(ticket) = payload.as_ref().try_into().map(u64::from_le_bytes) {
            self.pings.remove(&ticket);
            self.wake(ticket, wakes);
        }
    }

    /// Wakes who waits for the next message of a stream.
    fn wake_reader_of(&mut self, call: u64, wakes: &mut Wakes) {
        self.wake(call, wakes);
        if let Some(waker) = self.inboxes.get_mut(call).and_then(|inbox| inbox.waker.take()) {
            wakes.errand().wakers.push(waker);
        }
    }
}
