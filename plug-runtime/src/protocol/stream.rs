//! What arrives in streams, of calls of either side, and leave to send.

use bytes::Bytes;

use super::arrival::{Arrival, Run};
use super::call::{Fragment, Phase};
use super::connection::{Connection, broken};
use super::event::Event;
use super::flow::{Arrived, Cost, check_grant};
use super::frame::{Frame, decode_short_item, flag, kind};
use super::memory;
use super::outbox::Progress;
use super::output::Output;
use super::receive::unknown_call;
use crate::error::{Error, Result};

impl Connection {
    /// Takes a frame with a short message of a stream, if it is a usual one, as nearly all in streams are: what
    /// [`handle_message`](Self::handle_message) does with it, in a third of the instructions. If not, nothing has happened.
    #[inline]
    pub(super) fn take_item(&mut self, bytes: &[u8]) -> bool {
        let Some((call, message)) = decode_short_item(bytes) else { return false };
        let (limit, cost) = (self.own.message_limit(), Cost::of_whole(message.len()));
        if !Run::takes(message) || !self.window.covers(cost.call()) {
            return false;
        }
        let received =
            self.inflow(call).and_then(|inflow| inflow.receive_whole(message.len(), 0, limit));
        let is_usual = received.is_some();
        if is_usual {
            self.window.receive_covered(cost.call());
            self.take_short(call, message, cost);
        }
        is_usual
    }

    /// Takes a frame of a stream of requests.
    pub(super) fn handle_requests(
        &mut self,
        frame: &Frame<'_>,
        payload: impl Fragment,
    ) -> Result<()> {
        let call = frame.call;
        let ends = frame.flags & flag::HALF_CLOSE != 0;
        // An empty fragment has nothing but its place, and costs like others.
        if has_message(frame, &payload) || (frame.kind == kind::MESSAGE && !ends) {
            self.handle_message(frame, payload)?;
        }
        if !ends {
            return Ok(());
        }
        let Some(served) = self.served.get_mut(call) else { return Ok(()) };
        let Some(requests) = &mut served.requests else { return Ok(()) };
        if requests.has_ended {
            return Err(broken("a second end of a stream"));
        }
        requests.end()?;
        if let Phase::Draining = served.phase {
            self.remove_served(call);
        } else if !requests.is_discarded {
            self.events.push_back(Event::RequestsEnded { call, result: Ok(()) });
        }
        Ok(())
    }

    /// Takes a frame with a fragment of a message of a stream.
    pub(super) fn handle_message(
        &mut self,
        frame: &Frame<'_>,
        payload: impl Fragment,
    ) -> Result<()> {
        let call = frame.call;
        let limit = self.own.message_limit();
        self.window.receive(payload.len() as u64 + super::FRAME_COST)?;
        let is_last = frame.flags & flag::LAST != 0;
        if payload.len() == 0 && !is_last {
            // It would be granted again and again what such fragments of an admitted message cost.
            self.count_idle(HEAD)?;
        }
        let Some(inflow) = self.inflow(call) else { return Err(unknown_call(call)) };
        if is_last {
            let len = payload.len();
            if let Some(cost) = inflow.receive_whole(len, frame.total, limit) {
                match payload.into_message() {
                    Some(message) => self.take_message(call, message, cost),
                    None => {
                        self.pass(cost.connection());
                        self.break_off(call, &memory::none_for("a message", len as u64));
                    }
                }
                return Ok(());
            }
        }
        let Arrived { passed, message, lost, wants, grant } =
            inflow.add(payload, frame.total, is_last, limit)?;
        self.pass(passed);
        if let Some(grant) = grant {
            self.grant(call, grant);
        }
        if let Some(total) = wants {
            self.stream_budget.ask(call, total);
            self.admit_waiting();
        }
        if let Some((message, cost)) = message {
            if cost.budget() > 0 {
                self.stream_budget.keep(call, cost.budget());
            }
            self.take_message(call, message, cost);
        }
        if let Some(len) = lost {
            self.break_off(call, &memory::none_for("a message", len));
        }
        Ok(())
    }

    #[inline]
    fn take_message(&mut self, call: u64, message: Bytes, cost: Cost) {
        self.count_useful();
        self.kept.keep(&message);
        let messages = Arrival::Long(message);
        self.events.push_back(Event::Messages { call, messages, cost });
    }

    /// The same of a short message, which goes with those just before it.
    #[inline]
    fn take_short(&mut self, call: u64, message: &[u8], cost: Cost) {
        self.count_useful();
        match self.events.back_mut() {
            Some(Event::Messages { call: of, messages: Arrival::Short(run), cost: sum })
                if *of == call && sum.call() < RUN_AT_MOST =>
            {
                run.push(message);
                *sum += cost;
            }
            _ => {
                let messages = Arrival::Short(Run::new(message));
                self.events.push_back(Event::Messages { call, messages, cost });
            }
        }
    }

    /// Ends a stream of which a message is lost: nothing that follows is kept.
    fn break_off(&mut self, call: u64, error: &Error) {
        if self.side.is_caller_of(call) {
            self.cancel(call, error, &mut Output::default());
        } else {
            self.discard(call);
            let result = Err(error.duplicate());
            self.events.push_back(Event::RequestsEnded { call, result });
        }
    }

    pub(super) fn handle_credit(&mut self, frame: &Frame<'_>, bytes: &[u8]) -> Result<()> {
        let rooms = &mut self.rooms;
        let mut note = |progress| {
            if let Progress::Room(call) = progress {
                rooms.push_back(call);
            }
        };
        if frame.call == 0 {
            self.outbox.grant_all(frame.credit, note)?;
            return Ok(());
        }
        check_grant(frame.credit)?;
        if self.outbox.has_flow(frame.call) {
            self.outbox.grant(frame.call, frame.credit)?.map(&mut note);
            return Ok(());
        }
        let is_late = if self.side.is_caller_of(frame.call) {
            frame.call < self.next_call
        } else {
            frame.call <= self.last_served
        };
        if !is_late {
            return Err(unknown_call(frame.call));
        }
        self.count_idle(bytes.len())
    }
}

/// Whether a frame of a stream has a message, or a fragment of one, and not just an end.
pub(super) fn has_message(frame: &Frame<'_>, payload: &impl Fragment) -> bool {
    payload.len() != 0 || frame.total != 0 || frame.flags & flag::LAST != 0
}

/// How much a run of short messages costs before the next begins: when that is read, its sender is told. And what is read
/// last is still in the nearest cache.
const RUN_AT_MOST: u64 = 16 << 10;

/// What an empty fragment of a stream counts for among them.
const HEAD: usize = 16;
