//! What a driver has a connection do.

use std::time::Duration;

use bytes::Bytes;

use super::FRAGMENT;
use super::call::{Assembly, Phase, Served};
use super::connection::{Connection, broken};
use super::event::{Answer, Event};
use super::flow::{Cost, Inflow};
use super::frame::{Frame, flag, kind, within_frame};
use super::long::Long;
use super::outbox::SentAt;
use super::output::Output;
use crate::error::{Code, Delivery, Error, ErrorKind, Result};

impl Connection {
    // ---- greeting

    /// Sends this side's preamble and hello.
    ///
    /// A side that states no limit for messages takes over the other's: a plugin has no reason to receive
    /// less than its host sends.
    pub(crate) fn accept(&mut self) {
        if let (0, Some(peer)) = (self.own.max_message, &self.peer) {
            self.own.max_message = peer.max_message;
        }
        let hello = self.own.to_bytes();
        self.greet(&Frame { kind: kind::HELLO, payload: &hello, ..Frame::default() });
    }

    /// Sends an error in place of the hello, or of ready, and ends the connection.
    pub(crate) fn refuse(&mut self, error: &Error) {
        let message = error.flattened();
        let goodbye = Frame {
            kind: kind::GOODBYE,
            code: error.code() as u32,
            message: &within_frame(&message),
            ..Frame::default()
        };
        if self.greeted {
            self.outbox.push(&goodbye);
        } else {
            self.greet(&goodbye);
        }
        self.close(error);
    }

    /// Says that this plugin can be called, if the host knows that it may not be.
    pub(crate) fn ready(&mut self) {
        if self.features.ready && self.failure.is_none() {
            self.outbox.push(&Frame { kind: kind::READY, ..Frame::default() });
        }
    }

    fn greet(&mut self, frame: &Frame<'_>) {
        self.greeted = true;
        self.outbox.push_raw(self.side.preamble());
        self.outbox.push(frame);
    }

    // ---- calls of this side

    /// Ends a call of this side for its caller: one [`Event::Reply`] with `error`, which learns whether the call was
    /// sent. One that was not will not be. For the other side it goes on until that has ended it.
    ///
    /// `taken` is what [`poll_output`](Self::poll_output) gave and the operating system has not taken; empty if that is
    /// out of reach.
    pub(crate) fn cancel(&mut self, call: u64, error: &Error, taken: &mut Output) {
        let Some(made) = self.made.get_mut(call).filter(|made| !made.is_abandoned) else { return };
        made.is_abandoned = true;
        let begins_at = made.begins_at;
        let was_sent = self.outbox.was_sent(made.sent_at);
        // The frames behind the first one of its call would be for a call that nobody knows.
        let is_alone = made.is_one_frame || self.outbox.is_untouched(call);
        if !was_sent && is_alone && self.outbox.void(begins_at, taken) {
            self.outbox.forget(call);
            self.remove_made(call);
            self.push_outcome(call, error, Delivery::NotSent);
            return;
        }
        let mut delivery = Delivery::MayHaveRun;
        if self.features.cancel {
            if made.sent_at == SentAt::Unfinished {
                // A request that is not whole is never handled.
                delivery = Delivery::NotSent;
            }
            self.outbox.forget(call);
            self.outbox.push(&Frame { kind: kind::CANCEL, call, ..Frame::default() });
            self.drop_responses(call);
        }
        self.push_outcome(call, error, delivery);
    }

    fn push_outcome(&mut self, call: u64, error: &Error, delivery: Delivery) {
        let outcome = Err(error.duplicate().with_delivery(delivery));
        self.events.push_back(Event::Reply { call, outcome });
    }

    /// Ends the stream of requests of a call of this side.
    pub(crate) fn end_requests(&mut self, call: u64) {
        if self.side.is_caller_of(call) && self.outbox.has_stream(call) {
            self.outbox.end_stream(call, &half_close(call));
        }
    }

    // ---- streams, of calls of either side

    /// Sends a message of a stream. Says whether the stream takes another one now; if not,
    /// [`poll_room`](Self::poll_room) names it once it does, unless the call ends before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`] if the other side does not receive messages of that size. Nothing was sent.
    pub(crate) fn send(&mut self, call: u64, message: &[u8]) -> Result<bool> {
        if self.failure.is_some() {
            return Ok(true);
        }
        self.check_size("message", message.len())?;
        Ok(self.outbox.send(call, message))
    }

    /// The same with a long message.
    pub(crate) fn send_long(&mut self, call: u64, message: Long) -> Result<bool> {
        let checked = match self.failure {
            Some(_) => Ok(true),
            None => self.check_size("message", message.len()).map(|()| false),
        };
        if let Ok(false) = checked {
            self.outbox.keep(&message);
            return Ok(self.outbox.send_long(call, message));
        }
        self.outbox.drop_later(call, message);
        checked
    }

    /// Whether a stream can be sent: its call has not ended, nor was it given up.
    pub(crate) fn can_send(&self, call: u64) -> bool {
        self.failure.is_none() && self.outbox.has_flow(call)
    }

    /// Gives back what messages took up that have arrived in a stream, one or several at once: their sender may send so
    /// much more. Every message is to be given back, also if its call has ended meanwhile.
    pub(crate) fn consume(&mut self, call: u64, cost: Cost) {
        if self.failure.is_some() {
            return;
        }
        self.pass(cost.connection());
        if let Some(grant) = self.inflow(call).and_then(|inflow| inflow.consume(cost)) {
            self.grant(call, grant);
        }
        if cost.budget() > 0 {
            self.stream_budget.give_back(cost.budget());
            self.admit_waiting();
        }
    }

    /// Drops what arrives from now on in the stream of requests of a call of the other side: nobody reads it.
    pub(crate) fn discard(&mut self, call: u64) {
        if let Some(inflow) = self.inflow(call) {
            inflow.discard();
            self.forget_arriving(call);
        }
    }

    /// Drops what has arrived, and all that arrives, in a call of this side.
    fn drop_responses(&mut self, call: u64) {
        if let Some(made) = self.made.get_mut(call) {
            made.response = Assembly::default();
        }
        self.forget_arriving(call);
        self.discard(call);
    }

    /// Counts what all streams together have consumed.
    pub(super) fn pass(&mut self, cost: u64) {
        if cost > 0 {
            if let Some(grant) = self.window.consume(cost, self.window.shred()) {
                self.grant(0, grant);
            }
        }
    }

    pub(super) fn grant(&mut self, call: u64, credit: u64) {
        self.outbox.push(&Frame { kind: kind::CREDIT, call, credit, ..Frame::default() });
    }

    /// Lets long messages come for which there is memory now.
    pub(super) fn admit_waiting(&mut self) {
        while let Some((call, total)) = self.budget.admit() {
            self.grant(call, total);
        }
        while let Some((call, _)) = self.stream_budget.admit() {
            if let Some(grant) = self.inflow(call).and_then(Inflow::admit) {
                self.grant(call, grant);
            }
        }
    }

    /// The stream that arrives in a call, of either side.
    pub(super) fn inflow(&mut self, call: u64) -> Option<&mut Inflow> {
        if self.side.is_caller_of(call) {
            self.made.get_mut(call)?.responses.as_deref_mut()
        } else {
            self.served.get_mut(call)?.requests.as_deref_mut()
        }
    }

    // ---- calls of the other side

    /// Memory to encode a message into, if there is some from a long one before.
    pub(crate) fn take_spare(&mut self) -> Vec<u8> {
        self.outbox.take_spare()
    }

    /// Whether [`take_dropped`](Self::take_dropped) has something.
    pub(crate) fn has_dropped(&self) -> bool {
        self.outbox.has_dropped()
    }

    /// Parts of messages that were sent, or are not sent after all, to be dropped where code of users may run.
    pub(crate) fn take_dropped(&mut self) -> Vec<Bytes> {
        self.outbox.take_dropped()
    }

    /// Those of one call.
    pub(crate) fn take_dropped_of(&mut self, call: u64) -> Vec<Bytes> {
        self.outbox.take_dropped_of(call)
    }

    /// Answers a call of the other side. An answer that is too late is dropped. Returns the buffer of a response
    /// that was copied out of it, empty, to be used for the next one.
    pub(crate) fn reply(&mut self, call: u64, answer: Answer) -> Vec<u8> {
        let served = self.served.get(call).filter(|_| self.failure.is_none());
        let served = served.filter(|served| !matches!(served.phase, Phase::Draining));
        let Some(Served { is_cancelled, .. }) = served else {
            self.drop_answer(call, answer);
            return Vec::new();
        };
        let is_cancelled = *is_cancelled;
        let mut buffer = Vec::new();
        // A stream that has begun goes no further.
        self.outbox.forget(call);
        match answer {
            // The rest of a long one would wait for a grant that never comes.
            Answer::Response(_) | Answer::Long(_) if is_cancelled => {
                self.end_with(call, &cancelled(), 0);
                self.drop_answer(call, answer);
            }
            Answer::Response(response) => buffer = self.respond(call, response),
            Answer::Long(response) => self.respond_long(call, *response),
            Answer::Failed(error) => self.end_with(call, &error, 0),
            Answer::Refused(error) => self.end_with(call, &error, flag::NOT_STARTED),
        }
        self.answered(call);
        buffer
    }

    /// Answers a call of the other side with a stream, whose messages follow with [`send`](Self::send), up to
    /// [`finish`](Self::finish).
    pub(crate) fn begin_responses(&mut self, call: u64) {
        if self.is_served(call) && !self.is_cancelled(call) {
            let window = self.peer.as_ref().map_or(0, |peer| peer.stream_window);
            self.outbox.begin_stream(call, window);
        }
    }

    /// Ends a call of the other side that is answered with a stream, behind what was sent.
    pub(crate) fn finish(&mut self, call: u64, result: Result<()>) {
        if !self.is_served(call) {
            return;
        }
        let (code, message) = match result {
            Ok(()) => (0, String::new()),
            Err(error) => (error.code() as u32, error.flattened()),
        };
        let message = &within_frame(&message);
        self.outbox
            .end_stream(call, &Frame { kind: kind::END, call, code, message, ..Frame::default() });
        self.answered(call);
    }

    /// Whether a call of the other side is to be answered.
    pub(crate) fn is_served(&self, call: u64) -> bool {
        let is_open = |phase: &Phase| !matches!(phase, Phase::Draining);
        self.failure.is_none() && self.served.get(call).is_some_and(|served| is_open(&served.phase))
    }

    fn is_cancelled(&self, call: u64) -> bool {
        self.served.get(call).is_some_and(|served| served.is_cancelled)
    }

    /// Notes that a call of the other side is answered. It goes once its requests have ended.
    fn answered(&mut self, call: u64) {
        let Some(served) = self.served.get_mut(call) else { return };
        match &served.requests {
            Some(requests) if !requests.has_ended => {
                served.phase = Phase::Draining;
                self.draining += 1;
                self.discard(call);
            }
            _ => drop(self.remove_served(call)),
        }
    }

    fn respond(&mut self, call: u64, mut response: Vec<u8>) -> Vec<u8> {
        if let Err(error) = self.check_size("response", response.len()) {
            self.end_with(call, &error, 0);
            return Vec::new();
        }
        let end = Frame { kind: kind::END, call, flags: flag::LAST, ..Frame::default() };
        self.outbox.push(&Frame { payload: &response, ..end });
        response.clear();
        response
    }

    fn respond_long(&mut self, call: u64, mut response: Long) {
        let len = response.len();
        if let Err(error) = self.check_size("response", len) {
            self.end_with(call, &error, 0);
            return self.outbox.drop_later(call, response);
        }
        self.outbox.keep(&response);
        let end = Frame { kind: kind::END, call, ..Frame::default() };
        if len <= FRAGMENT {
            self.outbox.push_part(&Frame { flags: flag::LAST, ..end }, &mut response, len);
        } else {
            let first = Frame { kind: kind::MESSAGE, call, ..Frame::default() };
            self.push_long(first, end, response);
        }
    }

    /// Drops what is not sent of an answer.
    fn drop_answer(&mut self, call: u64, answer: Answer) {
        if let Answer::Long(response) = answer {
            self.outbox.drop_later(call, *response);
        }
    }

    pub(super) fn end_with(&mut self, call: u64, error: &Error, flags: u32) {
        let message = error.flattened();
        self.outbox.push(&Frame {
            kind: kind::END,
            call,
            flags,
            code: error.code() as u32,
            message: &within_frame(&message),
            ..Frame::default()
        });
    }

    // ---- the connection

    /// Asks the other side for an [`Event::Pong`] with the same payload, of at most 64 bytes.
    ///
    /// # Errors
    ///
    /// If the other side knows no pings, or the connection is over.
    pub(crate) fn ping(&mut self, payload: &[u8]) -> Result<()> {
        if let Some(error) = &self.failure {
            return Err(error.duplicate());
        }
        if !self.features.ping {
            let message = "the other side knows no pings";
            return Err(Error::of_kind(ErrorKind::Unimplemented, message));
        }
        self.outbox.push(&Frame { kind: kind::PING, payload, ..Frame::default() });
        Ok(())
    }

    /// Sends a record of the log of this plugin. Says whether it was taken: it is not while much else is to be sent.
    pub(crate) fn log(&mut self, call: u64, record: &[u8]) -> bool {
        let takes = self.features.log && self.failure.is_none() && !self.outbox.is_congested();
        if takes {
            self.outbox.push(&Frame { kind: kind::LOG, call, payload: record, ..Frame::default() });
        }
        takes
    }

    /// Says which records this host wants from now on: an encoded `Record` with a level.
    pub(crate) fn set_level(&mut self, record: &[u8]) {
        if self.features.log && self.failure.is_none() {
            self.outbox.push(&Frame { kind: kind::LEVEL, payload: record, ..Frame::default() });
        }
    }

    /// Says goodbye: no new calls either way, those under way may end within `grace`.
    pub(crate) fn goodbye(&mut self, grace: Duration) {
        if self.leaving.is_some() || self.failure.is_some() {
            return;
        }
        self.outbox.push(&Frame {
            kind: kind::GOODBYE,
            timeout_us: u64::try_from(grace.as_micros()).unwrap_or(u64::MAX),
            ..Frame::default()
        });
        self.leaving =
            Some(Error::of_kind(ErrorKind::Shutdown, "the plugin was stopped by its host"));
    }

    /// Ends the connection: every call that has not ended fails with `error`, which learns whether
    /// the call was sent. A call that was not is not sent any more: see
    /// [`is_output_void`](Self::is_output_void). Handlers that run learn that nobody waits.
    pub(crate) fn close(&mut self, error: &Error) {
        if self.failure.is_none() {
            self.failure = Some(error.duplicate());
        }
        let mut all_were_sent = true;
        for (call, made) in self.made.drain() {
            self.outbox.forget(call);
            if made.is_abandoned {
                continue;
            }
            let was_sent = self.outbox.was_sent(made.sent_at);
            all_were_sent &= was_sent;
            let delivery = if was_sent { Delivery::MayHaveRun } else { Delivery::NotSent };
            self.push_outcome(call, error, delivery);
        }
        self.deadlines.clear();
        if !all_were_sent {
            self.outbox.discard();
            self.is_output_void = true;
        }
        for (call, served) in self.served.drain() {
            if !matches!(served.phase, Phase::Running) {
                continue;
            }
            self.outbox.forget(call);
            if served.is_cancelled {
                continue;
            }
            if served.requests.is_some_and(|requests| !requests.has_ended) {
                let result = Err(error.duplicate());
                self.events.push_back(Event::RequestsEnded { call, result });
            }
            self.events.push_back(Event::Cancelled { call });
        }
        self.draining = 0;
    }

    // ---- helpers

    pub(super) fn push_long(&mut self, first: Frame<'_>, last: Frame<'_>, message: Long) {
        // Behind much else, even the first fragment waits for its turn: only what must keep its order goes ahead.
        let first_len = if self.outbox.is_congested() { 0 } else { FRAGMENT };
        self.outbox.push_long(first, first_len, last, message, self.features.credit);
    }

    /// Whether the other side receives messages of that size.
    #[inline]
    pub(crate) fn check_size(&self, what: &str, len: usize) -> Result<()> {
        if len as u64 <= self.sends_at_most { Ok(()) } else { self.check_size_again(what, len) }
    }

    #[cold]
    fn check_size_again(&self, what: &str, len: usize) -> Result<()> {
        let (limit, whose) = match &self.peer {
            Some(peer) => {
                let theirs = peer.message_limit();
                let ours = self.own.message_limit();
                if theirs <= ours { (theirs, "the receiver's") } else { (ours, "this side's") }
            }
            None => return Err(broken("a call before the hello")),
        };
        if len as u64 <= limit {
            return Ok(());
        }
        Err(Error::of_kind(
            ErrorKind::TooLarge,
            format!("the {what} has {len} bytes; {whose} limit is {limit}"),
        ))
    }
}

/// The frame that ends a stream of requests behind its last message.
pub(super) fn half_close(call: u64) -> Frame<'static> {
    Frame { kind: kind::MESSAGE, call, flags: flag::HALF_CLOSE, ..Frame::default() }
}

pub(super) fn cancelled() -> Error {
    Error::status(Code::Cancelled, "the call was cancelled", Delivery::NotSent)
}
