//! A call on its way to its handler, and what becomes of it: what generated code dispatches.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use crate::budget::{Budget, Undecodable, decode_within};
use crate::encoding::encode_long;
use crate::error::{Code, Delivery, Error, Result};
use crate::protocol::{Answer, LONG};
use crate::stream::{Arriving, Origin, Outgoing, Stream};

/// A call on its way to its handler: what generated code dispatches.
pub struct Incoming<'a> {
    pub(crate) method: u32,
    pub(crate) name: &'a str,
    pub(crate) request: Bytes,
    /// What a request may take, decoded, but for the limit.
    pub(crate) budget: &'a Budget,
    pub(crate) decode_limit: usize,
    /// The requests, of a method that takes a stream of them.
    pub(crate) messages: Option<Arriving>,
    /// Where the response goes: empty, with the capacity that one before it needed.
    pub(crate) buffer: Vec<u8>,
}

/// What became of an [`Incoming`] call: a response or an error, to be sent back.
#[derive(Debug)]
#[must_use = "a call is answered by returning its reply"]
pub struct Reply {
    pub(crate) outcome: Outcome,
}

/// What a handler has come to.
pub(crate) enum Outcome {
    /// The call is over.
    Answer(Answer),
    /// The responses are yet to be made.
    Stream(Box<dyn Outgoing>),
}

impl Incoming<'_> {
    /// The index of the method in [`Service::METHODS`](crate::Service::METHODS).
    pub fn method(&self) -> u32 {
        self.method
    }

    /// Decodes the request, runs `handler`, encodes its response.
    pub fn unary<Q, R>(self, handler: impl FnOnce(Q) -> Result<R>) -> Reply
    where
        Q: Message + Default,
        R: Message,
    {
        match decode_within(self.decode_limit, self.request, || *self.budget) {
            Ok(request) => respond(self.buffer, handler(request)),
            Err(error) => undecodable(self.name, &error),
        }
    }

    /// Decodes the request, runs `handler`, sends the items of its stream.
    pub fn server_streaming<Q, R>(self, handler: impl FnOnce(Q) -> Result<Stream<R>>) -> Reply
    where
        Q: Message + Default,
        R: Message + 'static,
    {
        match decode_within(self.decode_limit, self.request, || *self.budget) {
            Ok(request) => stream(handler(request)),
            Err(error) => undecodable(self.name, &error),
        }
    }

    /// Runs `handler` with the stream of requests, encodes its response.
    pub fn client_streaming<Q, R>(self, handler: impl FnOnce(Stream<Q>) -> Result<R>) -> Reply
    where
        Q: Message + Default,
        R: Message,
    {
        match self.requests() {
            Ok((requests, buffer)) => respond(buffer, handler(requests)),
            Err(reply) => reply,
        }
    }

    /// Runs `handler` with the stream of requests, sends the items of its stream.
    pub fn bidi_streaming<Q, R>(self, handler: impl FnOnce(Stream<Q>) -> Result<Stream<R>>) -> Reply
    where
        Q: Message + Default,
        R: Message + 'static,
    {
        match self.requests() {
            Ok((requests, _)) => stream(handler(requests)),
            Err(reply) => reply,
        }
    }

    /// The stream of requests, and where the response goes.
    fn requests<Q: Message + Default>(self) -> std::result::Result<(Stream<Q>, Vec<u8>), Reply> {
        let Some(messages) = self.messages else {
            let text =
                format!("{} takes a stream of requests, and was called without one", self.name);
            return Err(refused(Code::Unimplemented, text));
        };
        let origin = Origin::Requests { method: self.name.to_owned() };
        let budget = self.budget.with_limit(self.decode_limit);
        Ok((Stream::remote(messages, origin, budget), self.buffer))
    }

    /// The answer to a method that this side does not know.
    pub fn unimplemented(self) -> Reply {
        refused(Code::Unimplemented, format!("there is no method {}", self.name))
    }
}

fn respond(mut buffer: Vec<u8>, response: Result<impl Message>) -> Reply {
    let answer = match response {
        Ok(response) => {
            let len = response.encoded_len();
            if len < LONG {
                buffer.reserve(len);
                response.encode_raw(&mut buffer);
                Answer::Response(buffer)
            } else {
                match encode_long(&response, len, buffer, "the response") {
                    Ok(response) => Answer::Long(response.into()),
                    Err(error) => Answer::Failed(error),
                }
            }
        }
        Err(error) => Answer::Failed(error),
    };
    Reply { outcome: Outcome::Answer(answer) }
}

fn stream<R: Message + 'static>(responses: Result<Stream<R>>) -> Reply {
    let outcome = match responses {
        Ok(responses) => Outcome::Stream(Box::new(responses)),
        Err(error) => Outcome::Answer(Answer::Failed(error)),
    };
    Reply { outcome }
}

#[cold]
fn undecodable(name: &str, error: &Undecodable) -> Reply {
    let (code, what) = error.of_request();
    refused(code, format!("the request of {name} {what}"))
}

#[cold]
fn refused(code: Code, text: String) -> Reply {
    let error = Error::status(code, text, Delivery::NotSent);
    Reply { outcome: Outcome::Answer(Answer::Refused(error)) }
}

impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("method", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Answer(answer) => answer.fmt(f),
            Outcome::Stream(_) => f.write_str("Stream"),
        }
    }
}
