//! What a driver has a connection do.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::call::{Assembly, Made, Phase, Served};
use super::connection::{Connection, broken};
use super::event::{Answer, Event};
use super::flow::{Cost, Inflow};
use super::frame::{Frame, Metadata, flag, kind, within_frame};
use super::memory;
use super::outbox::SentAt;
use super::{FRAGMENT, MAX_METADATA, Side, metadata_len};
use crate::error::{Code, Delivery, Error, ErrorKind, Result};

/// What a call is made with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opening<'a> {
    /// The method's number in the other side's hello.
    pub(crate) method: u32,
    /// Which sides are streams.
    pub(crate) streams_requests: bool,
    pub(crate) streams_responses: bool,
    /// When the call ends at the latest, and what time it is now.
    pub(crate) deadline: Option<(Instant, Instant)>,
    /// The call of the other side in whose handler this one is made; 0 if none.
    pub(crate) within: u64,
    pub(crate) metadata: &'a [(String, Bytes)],
}

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
        let hello = self.own.encode_to_vec();
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

    /// Starts a call and returns its id. Exactly one [`Event::Reply`] follows. `request` is `None` where the requests
    /// are a stream: they follow with [`send`](Self::send), up to [`end_requests`](Self::end_requests).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`] if the other side does not receive messages of that size, or there is no memory to encode
    /// one, [`ErrorKind::Unimplemented`] for a stream to a side that knows none, and why the connection is over if it is. Nothing was sent, and no
    /// event follows.
    pub(crate) fn open(
        &mut self,
        opening: &Opening<'_>,
        request: Option<&impl Message>,
    ) -> Result<u64> {
        if let Some(error) = self.failure.as_ref().or(self.leaving.as_ref()) {
            return Err(error.duplicate());
        }
        let len = request.map_or(0, Message::encoded_len);
        self.check_size("request", len)?;
        self.check_opening(opening)?;
        let call = self.next_call;
        self.next_call += 2;
        let begins_at = self.outbox.position();
        let open = Frame {
            kind: kind::OPEN,
            call,
            method: opening.method,
            timeout_us: self.timeout_us(opening),
            within: if self.features.within { opening.within } else { 0 },
            metadata: match opening.metadata {
                [] => Metadata::None,
                pairs => Metadata::Pairs(pairs),
            },
            ..Frame::default()
        };
        let sent_at = match request {
            None => {
                let sent_at = self.outbox.push(&open);
                let window = self.peer.as_ref().map_or(0, |peer| peer.stream_window);
                self.outbox.begin_stream(call, window);
                sent_at
            }
            Some(request) if len <= FRAGMENT => {
                let open = Frame { flags: flag::LAST | flag::HALF_CLOSE, ..open };
                self.outbox.push_with(&open, len, |out| request.encode_raw(out))
            }
            Some(request) => {
                let message = encode_long(request, len, std::mem::take(&mut self.outbox.spare))?;
                let flags = flag::HALF_CLOSE;
                let last = Frame { kind: kind::MESSAGE, call, flags, ..Frame::default() };
                self.push_long(open, last, message);
                SentAt::Unfinished
            }
        };
        let deadline = opening.deadline.map(|(deadline, _)| deadline);
        if let Some(deadline) = deadline {
            self.insert_deadline(deadline, call);
        }
        let made = Made {
            begins_at,
            sent_at,
            is_abandoned: false,
            deadline,
            response: Assembly::default(),
            responses: opening
                .streams_responses
                .then(|| Box::new(Inflow::new(self.own.stream_window))),
            is_one_frame: request.is_some() && sent_at != SentAt::Unfinished,
        };
        self.made.insert(call, made);
        Ok(call)
    }

    fn check_opening(&self, opening: &Opening<'_>) -> Result<()> {
        if (opening.streams_requests || opening.streams_responses) && !self.features.streams {
            return Err(Error::of_kind(
                ErrorKind::Unimplemented,
                "the other side knows no streams: its plug-runtime is too old, or it is another implementation",
            ));
        }
        if !self.greeted || !self.is_ready {
            let message = if self.side == Side::Host {
                "the plugin is still starting: what it calls while it starts cannot call it in turn"
            } else {
                "the host takes no calls before the plugin has started: its plug-runtime is too old"
            };
            let error = Error::of_kind(ErrorKind::Shutdown, message);
            return Err(error.with_code(Code::FailedPrecondition));
        }
        if opening.metadata.is_empty() {
            return Ok(());
        }
        if !self.features.metadata {
            let message = "the other side takes no metadata";
            return Err(Error::of_kind(ErrorKind::Unimplemented, message));
        }
        let len = metadata_len(opening.metadata);
        if len > MAX_METADATA {
            let message = format!("the metadata has {len} bytes; the limit is {MAX_METADATA}");
            return Err(Error::of_kind(ErrorKind::TooLarge, message));
        }
        Ok(())
    }

    /// How much time a call has, for the other side. A call without any left still says so: 0 would mean that it
    /// has all the time there is.
    fn timeout_us(&self, opening: &Opening<'_>) -> u64 {
        let Some((deadline, now)) = opening.deadline.filter(|_| self.features.deadline) else {
            return 0;
        };
        let left = deadline.saturating_duration_since(now).as_micros();
        u64::try_from(left).unwrap_or(u64::MAX).max(1)
    }

    /// Ends a call of this side for its caller: one [`Event::Reply`] with `error`, which learns whether the call was
    /// sent. One that was not will not be. For the other side it goes on until that has ended it.
    ///
    /// `taken` is what [`poll_output`](Self::poll_output) gave and the operating system has not taken; empty if that is
    /// out of reach.
    pub(crate) fn cancel(&mut self, call: u64, error: &Error, taken: &mut [u8]) {
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

    /// Memory to encode a response into, if there is some from a long one before.
    pub(crate) fn take_spare(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outbox.spare)
    }

    /// Answers a call of the other side. An answer that is too late is dropped. Returns the buffer of a response
    /// that was copied out of it, empty, to be used for the next one.
    pub(crate) fn reply(&mut self, call: u64, answer: Answer) -> Vec<u8> {
        let served = self.served.get(call).filter(|_| self.failure.is_none());
        let Some(Served { phase, is_cancelled, .. }) = served else { return Vec::new() };
        if matches!(phase, Phase::Draining) {
            return Vec::new();
        }
        let is_cancelled = *is_cancelled;
        let mut buffer = Vec::new();
        // A stream that has begun goes no further.
        self.outbox.forget(call);
        match answer {
            // The rest of a long one would wait for a grant that never comes.
            Answer::Response(_) if is_cancelled => self.end_with(call, &cancelled(), 0),
            Answer::Response(response) => buffer = self.respond(call, response),
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
        let end = Frame { kind: kind::END, call, ..Frame::default() };
        if response.len() <= FRAGMENT {
            self.outbox.push(&Frame { flags: flag::LAST, payload: &response, ..end });
            response.clear();
            return response;
        }
        let first = Frame { kind: kind::MESSAGE, call, ..Frame::default() };
        self.push_long(first, end, Bytes::from(response));
        Vec::new()
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

    fn push_long(&mut self, first: Frame<'_>, last: Frame<'_>, message: Bytes) {
        // Behind much else, even the first fragment waits for its turn: only what must keep its order goes ahead.
        let first_len = if self.outbox.is_congested() { 0 } else { FRAGMENT };
        self.outbox.push_long(first, first_len, last, message, self.features.credit);
    }

    #[inline]
    fn check_size(&self, what: &str, len: usize) -> Result<()> {
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

/// Encodes a message of any length into memory that has nothing in it.
fn encode_long(message: &impl Message, len: usize, mut encoded: Vec<u8>) -> Result<Bytes> {
    if !memory::reserve(&mut encoded, len) {
        return Err(memory::none_for("the request", len as u64));
    }
    message.encode_raw(&mut encoded);
    Ok(Bytes::from(encoded))
}

/// The frame that ends a stream of requests behind its last message.
pub(super) fn half_close(call: u64) -> Frame<'static> {
    Frame { kind: kind::MESSAGE, call, flags: flag::HALF_CLOSE, ..Frame::default() }
}

pub(super) fn cancelled() -> Error {
    Error::status(Code::Cancelled, "the call was cancelled", Delivery::NotSent)
}
