//! Calls that are alone on their connection, as nearly all are: a short request in one frame, a short response in
//! another, and nothing else on its way.
//!
//! What is done for them is what `open_short`, `handle_bytes` and `reply` do, without what these have to ask for all the
//! others. It takes half of their instructions, and half of the lines of code that a call finds cold after a pause.
//! `tests/alone.rs` holds one against the other.
//!
//! A driver may come here if the connection is [at rest](Connection::is_at_rest), or was and has done nothing since but
//! what is in this file. Where a method finds something unusual it does nothing and says so; then the general ones are
//! for it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::call::{Phase, Served};
use super::connection::Connection;
use super::event::{Extra, Request};
use super::frame::{ShortHead, decode_short_end, decode_short_open, flag, kind};
use super::memory::SMALL;
use super::opening::Opening;
use super::output::Output;

impl Connection {
    /// Whether calls can be made and are taken, and nothing is on its way.
    pub(crate) fn is_at_rest(&self) -> bool {
        let is_open = self.peer.is_some()
            && self.greeted
            && self.is_ready
            && self.leaving.is_none()
            && self.failure.is_none();
        let has_read_all = self.splitter.is_at_boundary()
            && self.landing.is_none()
            && self.events.is_empty()
            && self.rooms.is_empty();
        let has_no_calls = self.made.is_empty()
            && self.served.is_empty()
            && self.budget.is_quiet()
            && self.stream_budget.is_quiet();
        let has_sent_all = self.outbox.is_bare() && !self.has_dropped();
        is_open && has_read_all && has_no_calls && has_sent_all && self.idle_bytes == 0
    }

    /// Starts a call with a request of `len` bytes, and puts its only frame into `out`, which is empty: what
    /// [`open_short`](Self::open_short) does. `deadline` is when it ends at the latest, and what time it is now.
    pub(crate) fn open_alone(
        &mut self,
        method: u32,
        deadline: Option<(Instant, Instant)>,
        request: &impl Message,
        len: usize,
        out: &mut Output,
    ) -> Option<u64> {
        debug_assert!(self.is_at_rest() && out.is_empty());
        if len > SMALL || len as u64 > self.sends_at_most {
            return None;
        }
        let opening = Opening { method, deadline, ..Opening::default() };
        let timeout_us = self.timeout_us(&opening);
        let (call, begins_at) = self.next_call();
        let flags = flag::LAST | flag::HALF_CLOSE;
        let head = ShortHead { kind: kind::OPEN, call, method, timeout_us, flags };
        let sent_at = self.outbox.push_alone(out, &head, len, |bytes| request.encode_raw(bytes));
        self.note_made(&opening, call, begins_at, sent_at, true);
        Some(call)
    }

    /// The response to such a call, if `bytes` are the frame that ends it and nothing else: what
    /// [`handle_bytes`](Self::handle_bytes) does, and the event that comes of it.
    pub(crate) fn take_alone_response(&mut self, call: u64, bytes: &[u8]) -> Option<Bytes> {
        debug_assert!(self.events.is_empty() && self.made.len() == 1 && self.made.contains(call));
        let (of, payload) = decode_short_end(self.splitter.only(bytes)?)?;
        if of != call || payload.len() > SMALL || payload.len() as u64 > self.own.message_limit() {
            return None;
        }
        let response = Bytes::copy_from_slice(payload);
        self.splitter.pass(bytes.len());
        // It is the only one, with or without a deadline. `remove_made` takes 3 % more instructions of a call.
        self.deadlines.clear();
        self.made.drop_one(call);
        Some(response)
    }

    /// The request of a call of the other side, if `bytes` are the frame that starts it and nothing else: what
    /// [`handle_bytes`](Self::handle_bytes) does, and the event that comes of it.
    pub(crate) fn take_alone_request(&mut self, bytes: &[u8]) -> Option<Request> {
        debug_assert!(self.is_at_rest());
        let (open, payload) = decode_short_open(self.splitter.only(bytes)?)?;
        let call = open.call;
        let is_usual = !self.side.is_caller_of(call)
            && call > self.last_served
            && payload.len() <= SMALL
            && payload.len() as u64 <= self.own.message_limit()
            && !self.takes_stream(open.method)
            && (open.timeout_us == 0 || self.features.deadline);
        if !is_usual {
            return None;
        }
        let extra = (open.timeout_us != 0).then(|| {
            let timeout = Some(Duration::from_micros(open.timeout_us));
            Box::new(Extra { timeout, ..Extra::default() })
        });
        let message = Bytes::copy_from_slice(payload);
        self.splitter.pass(bytes.len());
        self.last_served = call;
        let phase = Phase::Running;
        self.served.insert(call, Served { phase, requests: None, is_cancelled: false });
        Some(Request { call, method: open.method, message, has_stream: false, extra })
    }

    /// Answers such a call, and puts the only frame of that into `out`, which is empty: what [`reply`](Self::reply) does.
    /// Says whether it could.
    pub(crate) fn reply_alone(&mut self, call: u64, response: &[u8], out: &mut Output) -> bool {
        debug_assert!(self.outbox.is_bare() && out.is_empty());
        debug_assert!(self.served.len() == 1 && self.is_served(call));
        let len = response.len();
        if len > SMALL || len as u64 > self.sends_at_most {
            return false;
        }
        let end = ShortHead { kind: kind::END, call, method: 0, timeout_us: 0, flags: flag::LAST };
        self.outbox.push_alone(out, &end, len, |bytes| bytes.extend_from_slice(response));
        self.served.drop_one(call);
        true
    }
}
