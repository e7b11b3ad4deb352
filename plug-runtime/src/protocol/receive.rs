//! What each frame that arrives does to a connection.

use std::time::Duration;

use prost::Message as _;

use super::call::{Assembly, Served};
use super::connection::{Answer, Connection, Event, Goodbye, Request, broken};
use super::frame::{Frame, flag, kind};
use super::hello::Hello;
use crate::error::{Code, Delivery, Error, ErrorKind, Result};

impl Connection {
    pub(super) fn handle_frame(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            // A frame without anything in it is a no-op. A byte that wakes a blocked reader is one.
            return Ok(());
        }
        let frame = Frame::decode(bytes)?;
        if frame.kind < kind::IGNORABLE && frame.flags & !flag::ALL != 0 {
            return Err(broken(&format!("unknown flags in {:#x}", frame.flags)));
        }
        if self.peer.is_none() {
            return self.handle_greeting(&frame);
        }
        match frame.kind {
            kind::OPEN => self.handle_open(&frame),
            kind::MESSAGE if self.side.is_caller_of(frame.call) => self.handle_response(&frame),
            kind::MESSAGE => self.handle_request_fragment(&frame),
            kind::END => self.handle_end(&frame),
            kind::GOODBYE => {
                self.handle_goodbye(&frame);
                Ok(())
            }
            kind::HELLO => Err(broken("a second hello")),
            kind::IGNORABLE.. => Ok(()),
            unknown => Err(broken(&format!("a frame of the unknown kind {unknown}"))),
        }
    }

    fn handle_greeting(&mut self, frame: &Frame<'_>) -> Result<()> {
        match frame.kind {
            kind::HELLO => {}
            kind::GOODBYE => {
                let code = Code::from_wire(frame.code);
                let message = format!("it refused to start: {}", frame.message);
                return Err(Error::of_kind(ErrorKind::Handshake, message).with_code(code));
            }
            kind::IGNORABLE.. => return Ok(()),
            kind => {
                return Err(Error::of_kind(
                    ErrorKind::Handshake,
                    format!("its first frame is of kind {kind}, not a hello"),
                ));
            }
        }
        let peer = Hello::decode(frame.payload).map_err(|error| {
            Error::of_kind(ErrorKind::Handshake, format!("its hello cannot be decoded: {error}"))
        })?;
        if let Err(error) = self.own.check(self.side, &peer) {
            // The other side learns at once why this one leaves.
            if !self.greeted {
                self.accept();
            }
            return Err(error);
        }
        self.peer = Some(peer);
        self.events.push_back(Event::Greeted);
        Ok(())
    }

    fn handle_open(&mut self, frame: &Frame<'_>) -> Result<()> {
        let call = frame.call;
        if !self.greeted {
            return Err(broken("a call before the hello of the side that serves it"));
        }
        if call == 0 || self.side.is_caller_of(call) {
            return Err(broken(&format!(
                "a call with the id {call}, which is not the sender's to use"
            )));
        }
        if call <= self.last_served {
            return Err(broken(&format!("the call id {call} was used before, or comes late")));
        }
        if self.own.max_calls != 0 && self.served.len() >= self.own.max_calls as usize {
            return Err(broken(&format!("more than {} calls at once", self.own.max_calls)));
        }
        self.last_served = call;
        if self.leaving.is_some() {
            self.served.insert(call, Served::Running);
            let error = Error::of_kind(ErrorKind::Shutdown, "this side is shutting down");
            self.reply(call, Answer::Refused(error));
            return Ok(());
        }
        let (method, mut request) = (frame.method, Assembly::default());
        let limit = self.own.message_limit();
        match request.add(frame.payload, frame.total, frame.flags & flag::LAST != 0, limit)? {
            Some(message) => {
                self.served.insert(call, Served::Running);
                self.events.push_back(Event::Request(Request { call, method, message }));
            }
            None => {
                self.served.insert(call, Served::Arriving { method, request });
            }
        }
        Ok(())
    }

    fn handle_request_fragment(&mut self, frame: &Frame<'_>) -> Result<()> {
        let call = frame.call;
        let limit = self.own.message_limit();
        let Some(served @ Served::Arriving { .. }) = self.served.get_mut(call) else {
            // A call that was refused while its request was still on its way.
            return if call != 0 && call <= self.last_served && !self.served.contains(call) {
                Ok(())
            } else {
                Err(unknown_call(call))
            };
        };
        let Served::Arriving { method, request } = served else { return Ok(()) };
        let method = *method;
        let is_last = frame.flags & flag::LAST != 0;
        let Some(message) = request.add(frame.payload, frame.total, is_last, limit)? else {
            return Ok(());
        };
        *served = Served::Running;
        self.events.push_back(Event::Request(Request { call, method, message }));
        Ok(())
    }

    fn handle_response(&mut self, frame: &Frame<'_>) -> Result<()> {
        let limit = self.own.message_limit();
        let made = self.made.get_mut(frame.call).ok_or_else(|| unknown_call(frame.call))?;
        match made.response.add(frame.payload, frame.total, frame.flags & flag::LAST != 0, limit)? {
            None => Ok(()),
            Some(_) => Err(broken("a response that ends before its call")),
        }
    }

    fn handle_end(&mut self, frame: &Frame<'_>) -> Result<()> {
        let call = frame.call;
        let mut made = self.made.remove(call).ok_or_else(|| unknown_call(call))?;
        let is_last = frame.flags & flag::LAST != 0;
        let outcome = if frame.code != 0 {
            let delivery = if frame.flags & flag::NOT_STARTED != 0 {
                Delivery::NotSent
            } else {
                Delivery::MayHaveRun
            };
            Err(Error::status(Code::from_wire(frame.code), frame.message, delivery))
        } else if is_last {
            let limit = self.own.message_limit();
            match made.response.add(frame.payload, frame.total, true, limit) {
                Ok(message) => Ok(message.unwrap_or_default()),
                Err(error) => {
                    // The call is still to be failed, with all others.
                    self.made.insert(call, made);
                    return Err(error);
                }
            }
        } else {
            self.made.insert(call, made);
            return Err(broken("a call that ends without a response and without an error"));
        };
        // The rest of a request that is answered early need not be sent, but its receiver counts on it
        // being whole or not begun; it drops what comes late.
        self.outbox.forget(call);
        self.events.push_back(Event::Reply { call, outcome });
        Ok(())
    }

    fn handle_goodbye(&mut self, frame: &Frame<'_>) {
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
    }
}

fn unknown_call(call: u64) -> Error {
    broken(&format!("a frame for the call {call}, which was not made or has ended"))
}
