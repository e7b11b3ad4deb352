//! What each frame that arrives does to a connection.

use std::time::Duration;

use bytes::Bytes;

use super::FRAGMENT;
use super::call::{Added, Arriving, Assembly, Fragment, Phase, Served};
use super::command::{cancelled, half_close};
use super::connection::{Connection, broken};
use super::event::{Answer, Event, Extra, Goodbye, Request};
use super::flow::{Inflow, check_grant};
use super::frame::{Frame, Metadata, flag, kind};
use super::hello::Hello;
use super::memory;
use super::stream::has_message;
use crate::error::{Code, Delivery, Error, ErrorKind, Result};

impl Connection {
    #[inline]
    pub(super) fn handle_frame(&mut self, bytes: &[u8]) -> Result<()> {
        if self.take_item(bytes) { Ok(()) } else { self.handle_any_frame(bytes) }
    }

    fn handle_any_frame(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            // A frame without anything in it is a no-op. A byte that wakes a blocked reader is one.
            return self.count_idle(bytes.len());
        }
        let frame = Frame::decode(bytes)?;
        if frame.kind < kind::IGNORABLE && frame.flags & !flag::ALL != 0 {
            return Err(unknown_flags(frame.flags));
        }
        if self.peer.is_none() {
            return self.handle_greeting(&frame);
        }
        match frame.kind {
            kind::OPEN => self.handle_open(&frame, frame.payload),
            kind::MESSAGE if self.side.is_caller_of(frame.call) => {
                self.handle_response(&frame, bytes.len() - frame.payload.len(), frame.payload)
            }
            kind::MESSAGE => {
                let head = bytes.len() - frame.payload.len();
                self.handle_request_fragment(&frame, head, frame.payload)
            }
            kind::END => self.handle_end(&frame, frame.payload),
            kind::CANCEL if self.features.cancel => self.handle_cancel(&frame, bytes),
            kind::CREDIT if self.features.credit => self.handle_credit(&frame, bytes),
            _ => self.handle_rare(&frame, bytes),
        }
    }

    /// Handles a frame that has no part in a call.
    #[inline(never)]
    fn handle_rare(&mut self, frame: &Frame<'_>, bytes: &[u8]) -> Result<()> {
        match frame.kind {
            kind::PING | kind::PONG if self.features.ping => self.handle_ping(frame, bytes),
            kind::GOODBYE => self.handle_goodbye(frame),
            kind::MEMORY if self.features.shm => self.handle_memory(frame),
            kind::SWITCH if self.features.shm => self.handle_switch(),
            kind::READY if self.features.ready => self.handle_ready(),
            kind::HELLO => Err(broken("a second hello")),
            kind::LOG if self.features.log && self.side == super::Side::Host => {
                // Where there is no memory for a record, it is one of those that are lost.
                let record = memory::copy(frame.payload);
                let log = record.map(|record| Event::Log { call: frame.call, record });
                self.events.extend(log);
                Ok(())
            }
            kind::LEVEL if self.features.log && self.side == super::Side::Plugin => {
                self.count_idle(bytes.len())?;
                let record = Bytes::copy_from_slice(frame.payload);
                self.events.push_back(Event::Level { record });
                Ok(())
            }
            kind::VOID => self.count_idle(bytes.len().min(VOID_COUNTS)),
            kind::IGNORABLE.. => self.count_idle(bytes.len()),
            unknown => Err(broken(&format!(
                "a frame of the kind {unknown}, which is unknown or of a feature that is not in use"
            ))),
        }
    }

    /// Counts a frame that does nothing, and that nobody has paid for: a flood of them ends the connection. Of what
    /// comes late for a call, only the heads count: it may be long.
    #[inline(never)]
    pub(super) fn count_idle(&mut self, bytes: usize) -> Result<()> {
        self.count_idle_bytes(bytes as u64 + 1)
    }

    /// The same of bytes, whatever they are.
    pub(super) fn count_idle_bytes(&mut self, bytes: u64) -> Result<()> {
        self.idle_bytes += bytes;
        if self.idle_bytes > MAX_IDLE {
            return Err(broken(&format!(
                "a flood of frames that do nothing: more than {MAX_IDLE} bytes of them in a second"
            )));
        }
        Ok(())
    }

    /// Counts a frame that did something: it pays for one that does nothing, such as the cancel of a call that has
    /// just ended.
    pub(super) fn count_useful(&mut self) {
        self.idle_bytes = self.idle_bytes.saturating_sub(IDLE_PER_USEFUL);
    }

    // ---- greeting

    #[cold]
    fn handle_greeting(&mut self, frame: &Frame<'_>) -> Result<()> {
        match frame.kind {
            kind::HELLO => {}
            kind::GOODBYE => return Err(refusal(frame)),
            kind::IGNORABLE.. => return Ok(()),
            kind => {
                return Err(Error::of_kind(
                    ErrorKind::Handshake,
                    format!("its first frame is of kind {kind}, not a hello"),
                ));
            }
        }
        let peer = Hello::from_bytes(frame.payload).map_err(|error| {
            Error::of_kind(ErrorKind::Handshake, format!("its hello cannot be decoded: {error}"))
        })?;
        if let Err(error) = self.own.check(self.side, &peer) {
            // The other side learns at once why this one leaves.
            if !self.greeted {
                self.accept();
            }
            return Err(error);
        }
        self.features = self.own.features_with(&peer);
        if self.features.streams {
            check_windows(&peer)?;
        }
        self.outbox.set_allowance(peer.connection_window);
        self.is_ready = self.side == super::Side::Plugin || !self.features.ready;
        // It stays so: a side without a limit takes over that of the other.
        self.sends_at_most = peer.message_limit().min(self.own.message_limit());
        self.peer = Some(peer);
        self.events.push_back(Event::Greeted);
        Ok(())
    }

    fn handle_ready(&mut self) -> Result<()> {
        if self.is_ready {
            return Err(broken("a ready that is not the first, or not a plugin's"));
        }
        self.is_ready = true;
        self.events.push_back(Event::Ready);
        Ok(())
    }

    // ---- calls of the other side

    pub(super) fn handle_open(&mut self, frame: &Frame<'_>, payload: impl Fragment) -> Result<()> {
        let call = frame.call;
        if !self.greeted
            || self.side.is_caller_of(call)
            || call <= self.last_served
            || (self.own.max_calls != 0 && self.calls_open() >= self.own.max_calls as usize)
        {
            return Err(self.why_not_opened(call));
        }
        self.last_served = call;
        self.count_useful();
        let extra = self.read_extra(frame)?;
        let mut request = Request { call, method: frame.method, extra, ..Request::default() };
        let streams_requests = self.features.streams && self.takes_stream(frame.method);
        if streams_requests || self.leaving.is_some() {
            return self.open_rare(frame, request, payload, streams_requests);
        }
        let mut message = Assembly::default();
        let limit = self.own.message_limit();
        let is_last = frame.flags & flag::LAST != 0;
        let mut lost = None;
        let phase = match message.add(payload, frame.total, is_last, limit)? {
            Added::Whole(message) => {
                self.kept.keep(&message);
                request.message = message;
                self.events.push_back(Event::Request(request));
                Phase::Running
            }
            Added::Lost(len) => {
                lost = Some(len);
                Phase::Running
            }
            Added::Part => {
                self.ask_for_rest(call, frame.total)?;
                Phase::Arriving(Box::new(Arriving { request, message }))
            }
        };
        self.served.insert(call, Served { phase, requests: None, is_cancelled: false });
        if let Some(len) = lost {
            self.refuse_lost(call, len);
        }
        if frame.total != 0 {
            self.admit_waiting();
        }
        Ok(())
    }

    #[cold]
    fn why_not_opened(&self, call: u64) -> Error {
        broken(&if !self.greeted {
            "a call before the hello of the side that serves it".to_owned()
        } else if call == 0 || self.side.is_caller_of(call) {
            format!("a call with the id {call}, which is not the sender's to use")
        } else if call <= self.last_served {
            format!("the call id {call} was used before, or comes late")
        } else {
            format!("more than {} calls at once", self.own.max_calls)
        })
    }

    /// Begins a call with a stream of requests, or one that comes when this side leaves.
    #[inline(never)]
    fn open_rare(
        &mut self,
        frame: &Frame<'_>,
        mut request: Request,
        payload: impl Fragment,
        streams_requests: bool,
    ) -> Result<()> {
        let call = frame.call;
        let requests = streams_requests.then(|| Box::new(Inflow::new(self.own.stream_window)));
        let phase = Phase::Running;
        self.served.insert(call, Served { phase, requests, is_cancelled: false });
        if self.leaving.is_some() {
            let error = Error::of_kind(ErrorKind::Shutdown, "this side is shutting down");
            self.reply(call, Answer::Refused(error));
        } else {
            request.has_stream = true;
            self.events.push_back(Event::Request(request));
        }
        if streams_requests { self.handle_requests(frame, payload) } else { Ok(()) }
    }

    #[inline]
    fn read_extra(&self, frame: &Frame<'_>) -> Result<Option<Box<Extra>>> {
        if frame.timeout_us | frame.within == 0 && matches!(frame.metadata, Metadata::None) {
            return Ok(None);
        }
        self.read_extra_parts(frame)
    }

    #[inline(never)]
    fn read_extra_parts(&self, frame: &Frame<'_>) -> Result<Option<Box<Extra>>> {
        let mut extra = Extra::default();
        if self.features.deadline && frame.timeout_us != 0 {
            extra.timeout = Some(Duration::from_micros(frame.timeout_us));
        }
        if self.features.within {
            extra.within = frame.within;
        }
        if self.features.metadata {
            extra.metadata = frame.metadata.read()?;
        }
        let is_there = extra.timeout.is_some() || extra.within != 0 || !extra.metadata.is_empty();
        Ok(is_there.then(|| Box::new(extra)))
    }

    /// How many calls of the other side it has to count itself: those that have not been answered, and those whose end
    /// it cannot have read. So the answers that wait for one who calls and does not read are bounded as well.
    pub(super) fn calls_open(&self) -> usize {
        let at_most = self.served.len() + self.outbox.unsent_ends_at_most();
        if at_most < self.own.max_calls as usize {
            return at_most;
        }
        let counts = |call| !self.side.is_caller_of(call) && !self.served.contains(call);
        self.served.len() + self.outbox.unsent_ends(counts)
    }

    #[inline(never)]
    pub(super) fn handle_request_fragment(
        &mut self,
        frame: &Frame<'_>,
        head: usize,
        payload: impl Fragment,
    ) -> Result<()> {
        let call = frame.call;
        let limit = self.own.message_limit();
        let Some(served) = self.served.get_mut(call) else {
            // A call that was refused while its request was still on its way.
            let is_late = call != 0 && call <= self.last_served;
            return if is_late { self.count_idle(head) } else { Err(unknown_call(call)) };
        };
        if served.requests.is_some() {
            return self.handle_requests(frame, payload);
        }
        let Phase::Arriving(arriving) = &mut served.phase else {
            return Err(unknown_call(call));
        };
        let Arriving { request, message } = &mut **arriving;
        let is_empty = payload.len() == 0;
        if self.budget.is_waiting(call) && !is_empty {
            return Err(ungranted(call));
        }
        let is_last = frame.flags & flag::LAST != 0;
        match message.add(payload, frame.total, is_last, limit)? {
            Added::Whole(message) => {
                self.kept.keep(&message);
                request.message = message;
                let request = std::mem::take(request);
                served.phase = Phase::Running;
                self.forget_arriving(call);
                self.events.push_back(Event::Request(request));
            }
            Added::Lost(len) => {
                served.phase = Phase::Running;
                self.refuse_lost(call, len);
            }
            Added::Part if is_empty => self.count_idle(head)?,
            Added::Part => {}
        }
        Ok(())
    }

    /// Refuses a call for whose request there was no memory.
    fn refuse_lost(&mut self, call: u64, len: u64) {
        self.reply(call, Answer::Refused(memory::none_for("a request", len)));
    }

    #[inline(never)]
    fn handle_cancel(&mut self, frame: &Frame<'_>, bytes: &[u8]) -> Result<()> {
        let call = frame.call;
        if call == 0 || self.side.is_caller_of(call) || call > self.last_served {
            return Err(unknown_call(call));
        }
        let Some(served) = self.served.get_mut(call) else {
            if self.outbox.has_flow(call) {
                // It is answered, but the caller grants nothing more for what is left of that.
                self.end_cancelled(call);
                return Ok(());
            }
            return self.count_idle(bytes.len());
        };
        let has_requests = served.requests.as_ref().is_some_and(|requests| !requests.has_ended);
        match served.phase {
            Phase::Arriving(_) => {
                self.reply(call, Answer::Refused(cancelled()));
            }
            Phase::Running if served.is_cancelled => return self.count_idle(bytes.len()),
            Phase::Running => {
                served.is_cancelled = true;
                // What it has sent so far nobody reads.
                self.outbox.forget(call);
                if has_requests {
                    self.discard(call);
                    if let Some(requests) = self.inflow(call) {
                        requests.has_ended = true;
                    }
                    self.events.push_back(Event::RequestsEnded { call, result: Err(cancelled()) });
                }
                self.events.push_back(Event::Cancelled { call });
            }
            // It ends the requests as well.
            Phase::Draining => {
                self.remove_served(call);
                if self.outbox.has_flow(call) {
                    self.end_cancelled(call);
                }
            }
        }
        Ok(())
    }

    fn end_cancelled(&mut self, call: u64) {
        self.outbox.forget(call);
        self.end_with(call, &cancelled(), 0);
    }

    // ---- calls of this side

    #[inline(never)]
    pub(super) fn handle_response(
        &mut self,
        frame: &Frame<'_>,
        head: usize,
        payload: impl Fragment,
    ) -> Result<()> {
        let call = frame.call;
        let limit = self.own.message_limit();
        let made = self.made.get_mut(call).ok_or_else(|| unknown_call(call))?;
        if made.responses.is_some() {
            return self.handle_message(frame, payload);
        }
        if made.is_abandoned && self.features.cancel {
            return self.count_idle(head);
        }
        let is_empty = payload.len() == 0;
        if self.budget.is_waiting(call) && !is_empty {
            return Err(ungranted(call));
        }
        let is_last = frame.flags & flag::LAST != 0;
        if made.response.add(payload, frame.total, is_last, limit)? != Added::Part {
            return Err(broken("a response that ends before its call"));
        }
        if frame.total != 0 {
            self.ask_for_rest(call, frame.total)?;
            self.admit_waiting();
        } else if is_empty {
            self.count_idle(head)?;
        }
        Ok(())
    }

    pub(super) fn handle_end(&mut self, frame: &Frame<'_>, payload: impl Fragment) -> Result<()> {
        let call = frame.call;
        let limit = self.own.message_limit();
        let made = self.made.get_mut(call).ok_or_else(|| unknown_call(call))?;
        let is_last = frame.flags & flag::LAST != 0;
        let outcome = if frame.code != 0 {
            Err(failed(frame, made.deadline.is_some()))
        } else if let Some(responses) = &mut made.responses {
            if has_message(frame, &payload) {
                return Err(broken("an end of a stream with a message"));
            }
            responses.end()?;
            Ok(Bytes::new())
        } else if made.is_abandoned {
            Ok(Bytes::new())
        } else if is_last {
            // On an error the call is still there, to be failed with all others.
            match made.response.add(payload, frame.total, true, limit)? {
                Added::Whole(message) => {
                    self.kept.keep(&message);
                    Ok(message)
                }
                Added::Part => Ok(Bytes::new()),
                Added::Lost(len) => {
                    let error = memory::none_for("a response", len);
                    Err(error.with_delivery(Delivery::MayHaveRun))
                }
            }
        } else {
            return Err(broken("a call that ends without a response and without an error"));
        };
        let is_abandoned = made.is_abandoned;
        // The rest of a request that is answered early need not be sent, but its receiver counts on it
        // being whole or not begun; it drops what comes late.
        let owes_half_close = self.outbox.has_stream(call);
        self.outbox.forget(call);
        self.count_useful();
        if owes_half_close {
            self.outbox.push(&half_close(call));
        }
        self.remove_made(call);
        if is_abandoned {
            self.events.push_back(Event::Freed);
        } else {
            self.events.push_back(Event::Reply { call, outcome });
        }
        Ok(())
    }

    // ---- calls of either side

    /// Notes that a message has begun that is no stream's. A long one needs leave, and gets it when there is memory. Who
    /// does not wait for leave must not begin more than there is memory for.
    fn ask_for_rest(&mut self, call: u64, total: u64) -> Result<()> {
        if total > FRAGMENT as u64 {
            self.budget.ask(call, total);
            if !self.features.credit {
                while self.budget.admit().is_some() {}
                if self.budget.is_waiting(call) {
                    return Err(broken(&format!(
                        "a message of {total} bytes has begun before other long ones have ended: a side that lists no `credit` sends one after the other"
                    )));
                }
            }
        }
        Ok(())
    }

    // ---- the connection

    fn handle_ping(&mut self, frame: &Frame<'_>, bytes: &[u8]) -> Result<()> {
        self.count_idle(bytes.len())?;
        if frame.payload.len() > MAX_PING {
            return Err(broken(&format!("a ping of {} bytes", frame.payload.len())));
        }
        if frame.kind == kind::PONG {
            let payload = Bytes::copy_from_slice(frame.payload);
            self.events.push_back(Event::Pong { payload });
        } else {
            self.outbox.push(&Frame {
                kind: kind::PONG,
                payload: frame.payload,
                ..Frame::default()
            });
        }
        Ok(())
    }

    fn handle_goodbye(&mut self, frame: &Frame<'_>) -> Result<()> {
        if !self.is_ready {
            return Err(refusal(frame));
        }
        let grace = (frame.timeout_us != 0).then(|| Duration::from_micros(frame.timeout_us));
        let why = if frame.message.is_empty() { "it said goodbye" } else { frame.message };
        if self.leaving.is_none() {
            self.leaving =
                Some(Error::of_kind(ErrorKind::Shutdown, why).with_code(match frame.code {
                    0 => Code::Unavailable,
                    code => Code::from_wire(code),
                }));
        }
        self.events.push_back(Event::Goodbye(Goodbye { grace }));
        Ok(())
    }
}

/// Refuses windows with which a message might never be sent.
fn check_windows(peer: &Hello) -> Result<()> {
    let (stream, connection) = (peer.stream_window, peer.connection_window);
    check_grant(stream.max(connection))?;
    if stream < LEAST_WINDOW || connection < stream {
        return Err(broken(&format!(
            "its stream_window is {stream} and its connection_window {connection}: the one must be {LEAST_WINDOW} or more, the other not less than that"
        )));
    }
    Ok(())
}

/// The error that a call has ended with.
#[cold]
fn failed(frame: &Frame<'_>, has_deadline: bool) -> Error {
    let delivery =
        if frame.flags & flag::NOT_STARTED != 0 { Delivery::NotSent } else { Delivery::MayHaveRun };
    let code = Code::from_wire(frame.code);
    if code == Code::DeadlineExceeded && has_deadline {
        // The other side's clock was a little faster.
        return Error::of_kind(ErrorKind::Deadline, frame.message).with_delivery(delivery);
    }
    Error::status(code, frame.message, delivery)
}

#[cold]
fn unknown_flags(flags: u32) -> Error {
    broken(&format!("unknown flags in {flags:#x}"))
}

fn refusal(frame: &Frame<'_>) -> Error {
    let code = Code::from_wire(frame.code);
    let message = format!("it refused to start: {}", frame.message);
    Error::of_kind(ErrorKind::Handshake, message).with_code(code)
}

#[cold]
fn ungranted(call: u64) -> Error {
    broken(&format!("the rest of a long message of the call {call} before it was granted"))
}

#[cold]
pub(super) fn unknown_call(call: u64) -> Error {
    broken(&format!("a frame for the call {call}, which was not made or has ended"))
}

/// How many bytes of frames that do nothing may come in a second.
pub(super) const MAX_IDLE: u64 = 2 << 20;

/// How many bytes of a void frame count: it has the length of the call that was given up, and that may be long. Ten such
/// calls in a second are no flood.
const VOID_COUNTS: usize = 64;

/// How many of them a frame that does something pays for.
const IDLE_PER_USEFUL: u64 = 64;

/// The smallest window of a stream: of half of it, an empty message can be sent.
const LEAST_WINDOW: u64 = 2 * super::FRAME_COST;

/// The most that a ping may carry, in bytes.
const MAX_PING: usize = 64;
