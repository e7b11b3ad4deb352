//! The state machine of one side of one pipe pair.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::call::{Assembly, ById, Made, Served};
use super::frame::{Frame, flag, kind, within_frame};
use super::hello::Hello;
use super::outbox::{Outbox, SentAt};
use super::splitter::Splitter;
use super::{FRAGMENT, Side};
use crate::error::{Delivery, Error, ErrorKind, Result};

/// One side of a connection. It has four families of methods:
///
/// - **look**: `peer`, `own`, `failure`, `is_leaving`, `has_output`, `can_open`, …
/// - **input**: `handle_bytes`, `handle_eof`, `handle_written`, `handle_timeout`
/// - **commands**: `accept`, `refuse`, `open`, `reply`, `goodbye`, `close`
/// - **output**: `poll_output`, `poll_event`, `poll_timeout`
///
/// After any input or command, a driver drains the output, then the events, then asks for the
/// time-out. The order of frames on the wire is the order of the commands, but for long messages,
/// whose fragments let others pass.
///
/// ```text
///            handle_bytes: the other's hello fits        goodbye, either way
/// Greeting ───────────────────────────────────▶ Open ────────────────────────▶ Open, no new calls
///     └───────── close, or an error in what arrives ────────┴──────────▶ Closed ◀──── close ──┘
/// ```
pub(crate) struct Connection {
    pub(super) side: Side,
    pub(super) own: Hello,
    pub(super) peer: Option<Hello>,
    /// When the other side's hello must be there.
    pub(super) greet_by: Option<Instant>,
    /// Whether the preamble of this side was queued: the host's at once, the plugin's when it accepts.
    pub(super) greeted: bool,
    pub(super) splitter: Splitter,
    pub(super) outbox: Outbox,
    pub(super) events: VecDeque<Event>,
    /// Calls of this side, by id.
    pub(super) made: ById<Made>,
    pub(super) next_call: u64,
    /// Calls of the other side, by id.
    pub(super) served: ById<Served>,
    pub(super) last_served: u64,
    /// Whether one of the sides said goodbye, and why.
    pub(super) leaving: Option<Error>,
    pub(super) failure: Option<Error>,
    pub(super) is_output_void: bool,
}

/// What happened, for a driver to act on.
#[derive(Debug)]
pub(crate) enum Event {
    /// The other side's hello has arrived and fits: [`Connection::peer`] has it.
    Greeted,
    /// The other side calls a method of this side.
    Request(Request),
    /// A call of this side has ended.
    Reply { call: u64, outcome: Result<Bytes> },
    /// The other side wants no more calls.
    Goodbye(Goodbye),
}

/// A call to this side, to be answered with [`Connection::reply`].
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) call: u64,
    /// The place of the method in this side's hello, counted from 1.
    pub(crate) method: u32,
    pub(crate) message: Bytes,
}

/// What becomes of a [`Request`].
#[derive(Debug)]
pub(crate) enum Answer {
    /// The encoded response.
    Response(Vec<u8>),
    /// The handler ran and failed.
    Failed(Error),
    /// The handler was not started.
    Refused(Error),
}

/// What a goodbye says.
#[derive(Debug)]
pub(crate) struct Goodbye {
    /// How long the sender waits for calls under way before it ends the connection by force.
    pub(crate) grace: Option<Duration>,
}

impl Connection {
    /// A connection on which nothing has been sent or received.
    ///
    /// The host greets at once. The plugin hears the host's hello first ([`Event::Greeted`]) and
    /// then answers with [`accept`](Self::accept) or [`refuse`](Self::refuse).
    pub(crate) fn new(side: Side, own: Hello, greet_by: Option<Instant>) -> Connection {
        let mut connection = Connection {
            side,
            own,
            peer: None,
            greet_by,
            greeted: false,
            splitter: Splitter::new(side.other()),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            made: ById::default(),
            next_call: if side == Side::Host { 1 } else { 2 },
            served: ById::default(),
            last_served: 0,
            leaving: None,
            failure: None,
            is_output_void: false,
        };
        if side == Side::Host {
            connection.accept();
        }
        connection
    }

    // ---- look

    /// The other side's hello, once it has arrived.
    pub(crate) fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// What this side says about itself.
    pub(crate) fn own(&self) -> &Hello {
        &self.own
    }

    /// Why the connection is over, if it is.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Whether one of the sides has said goodbye.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether [`poll_output`](Self::poll_output) has something.
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether what `poll_output` gave and the operating system did not take must be thrown away: a call in
    /// it was reported as not sent.
    pub(crate) fn is_output_void(&self) -> bool {
        self.is_output_void
    }

    /// Whether the other side takes one more call now.
    pub(crate) fn can_open(&self) -> bool {
        let limit = self.peer.as_ref().map_or(0, |peer| peer.max_calls as usize);
        limit == 0 || self.made.len() < limit
    }

    /// How many calls of this side have not ended.
    #[cfg(test)]
    pub(crate) fn calls_made(&self) -> usize {
        self.made.len()
    }

    /// How many calls of the other side have not been answered.
    pub(crate) fn calls_served(&self) -> usize {
        self.served.len()
    }

    /// Whether what has arrived ends inside a frame.
    pub(crate) fn is_truncated(&self) -> bool {
        !self.splitter.is_at_boundary()
    }

    // ---- input

    /// Takes bytes that arrived, however they were cut. After a failure they are ignored.
    pub(crate) fn handle_bytes(&mut self, bytes: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        let empty = Splitter::new(self.side.other());
        let mut splitter = std::mem::replace(&mut self.splitter, empty);
        let result = splitter.feed(bytes, |frame| self.handle_frame(frame));
        self.splitter = splitter;
        if let Err(error) = result {
            self.fail(error);
        }
    }

    /// Notes that the operating system took `bytes` of what `poll_output` gave. Until then a call counts
    /// as not sent.
    pub(crate) fn handle_written(&mut self, bytes: usize) {
        self.outbox.written(bytes);
    }

    /// Notes that nothing more will arrive, and ends the connection for that reason.
    ///
    /// After a goodbye, the other side may have closed its output to wait for answers: then the connection
    /// lives on while calls are served, and no answer comes to calls of this side.
    pub(crate) fn handle_eof(&mut self) {
        let is_whole = self.failure.is_none() && !self.is_truncated();
        if let Some(leaving) = self.leaving.as_ref().filter(|_| is_whole) {
            let error = leaving.duplicate().with_delivery(Delivery::MayHaveRun);
            // What the other side has not sent to its end never comes.
            self.served.retain(|served| matches!(served, Served::Running));
            if !self.served.is_empty() {
                for (call, _) in self.made.drain() {
                    self.outbox.forget(call);
                    self.events.push_back(Event::Reply { call, outcome: Err(error.duplicate()) });
                }
                return;
            }
        }
        let error = if self.is_truncated() {
            broken("the other side ended in the middle of a message")
        } else if let Some(leaving) = &self.leaving {
            leaving.duplicate()
        } else {
            Error::of_kind(ErrorKind::Shutdown, "the other side closed the connection")
        };
        self.close(&error);
    }

    /// Notes that the operating system is about to take up to `bytes` more, until the next `handle_writing(0)`:
    /// if the connection is closed meanwhile, the calls in them may have been sent.
    pub(crate) fn handle_writing(&mut self, bytes: usize) {
        self.outbox.writing(bytes);
    }

    /// Ends the connection if the other side's hello is overdue.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.greet_by.is_some_and(|by| by <= now) && self.peer.is_none() {
            let message = "it did not say hello in time: is it a plugin, and did it read stdin before plug::run? If it is slow to start, raise Command::start_timeout";
            self.close(&Error::of_kind(ErrorKind::Handshake, message));
        }
    }

    // ---- commands

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

    /// Sends this side's preamble and an error in place of the hello, and ends the connection.
    pub(crate) fn refuse(&mut self, error: &Error) {
        self.greet(&Frame {
            kind: kind::GOODBYE,
            code: error.code() as u32,
            message: &within_frame(&error.flattened()),
            ..Frame::default()
        });
        self.close(error);
    }

    /// Starts a call and returns its id. Exactly one [`Event::Reply`] follows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`] if the other side does not receive messages of that size, and why the
    /// connection is over if it is. Nothing was sent, and no event follows.
    pub(crate) fn open(&mut self, method: u32, request: &impl Message) -> Result<u64> {
        if let Some(error) = self.failure.as_ref().or(self.leaving.as_ref()) {
            return Err(error.duplicate());
        }
        let len = request.encoded_len();
        self.check_size("request", len)?;
        let call = self.next_call;
        self.next_call += 2;
        let open = Frame { kind: kind::OPEN, call, method, ..Frame::default() };
        let sent_at = if len <= FRAGMENT {
            let open = Frame { flags: flag::LAST | flag::HALF_CLOSE, ..open };
            self.outbox.push_with(&open, len, |out| request.encode_raw(out))
        } else {
            let last =
                Frame { kind: kind::MESSAGE, call, flags: flag::HALF_CLOSE, ..Frame::default() };
            self.outbox.push_long(open, last, Bytes::from(request.encode_to_vec()));
            SentAt::Unfinished
        };
        self.made.insert(call, Made { sent_at, response: Assembly::default() });
        Ok(call)
    }

    /// Answers a call of the other side. An answer that is too late is dropped. Returns the buffer of a response
    /// that was copied out of it, empty, to be used for the next one.
    pub(crate) fn reply(&mut self, call: u64, answer: Answer) -> Vec<u8> {
        if self.served.remove(call).is_none() || self.failure.is_some() {
            return Vec::new();
        }
        match answer {
            Answer::Response(response) => return self.respond(call, response),
            Answer::Failed(error) => self.end_with(call, &error, 0),
            Answer::Refused(error) => self.end_with(call, &error, flag::NOT_STARTED),
        }
        Vec::new()
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
        self.outbox.push_long(first, end, Bytes::from(response));
        Vec::new()
    }

    fn end_with(&mut self, call: u64, error: &Error, flags: u32) {
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
    /// [`is_output_void`](Self::is_output_void).
    pub(crate) fn close(&mut self, error: &Error) {
        if self.failure.is_none() {
            self.failure = Some(error.duplicate());
        }
        let mut all_were_sent = true;
        for (call, made) in self.made.drain() {
            self.outbox.forget(call);
            let was_sent = self.outbox.was_sent(made.sent_at);
            all_were_sent &= was_sent;
            let delivery = if was_sent { Delivery::MayHaveRun } else { Delivery::NotSent };
            let outcome = Err(error.duplicate().with_delivery(delivery));
            self.events.push_back(Event::Reply { call, outcome });
        }
        if !all_were_sent {
            self.outbox.discard();
            self.is_output_void = true;
        }
        self.served = ById::default();
    }

    // ---- output

    /// Moves the next bytes to send into `out`, which must be empty; nothing if there are none.
    pub(crate) fn poll_output(&mut self, out: &mut Vec<u8>) {
        let made = &mut self.made;
        self.outbox.take(out, |call, at| {
            if let Some(made) = made.get_mut(call) {
                made.sent_at = at;
            }
        });
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `handle_timeout` wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.greet_by.filter(|_| self.peer.is_none() && self.failure.is_none())
    }

    // ---- helpers

    /// How many bytes of incomplete frames and messages are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let requests = self.served.values().filter_map(|served| match served {
            Served::Arriving { request, .. } => Some(request),
            Served::Running => None,
        });
        let responses = self.made.values().map(|made| &made.response);
        self.splitter.held() + requests.chain(responses).map(Assembly::held).sum::<usize>()
    }

    fn greet(&mut self, frame: &Frame<'_>) {
        self.greeted = true;
        self.outbox.push_raw(self.side.preamble());
        self.outbox.push(frame);
    }

    fn check_size(&self, what: &str, len: usize) -> Result<()> {
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

    /// Closes with an error in what arrived, and says where that was.
    fn fail(&mut self, error: Error) {
        let error = if error.kind() == ErrorKind::Protocol {
            let message = format!(
                "broke the protocol: {} (at byte {} of what it sent)",
                error.message(),
                self.splitter.offset(),
            );
            Error::of_kind(ErrorKind::Protocol, message)
        } else {
            error
        };
        self.close(&error);
    }
}

pub(super) fn broken(what: &str) -> Error {
    Error::of_kind(ErrorKind::Protocol, what)
}
