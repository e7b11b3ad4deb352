//! A stream whose items come from the other side.

use std::task::{Poll, Waker};

use bytes::{Buf, Bytes};
use prost::Message;

use crate::blocking::Messages;
use crate::budget::{Budget, Undecodable};
use crate::error::{Error, Result};
use crate::peer::Peer;

/// The messages of one direction of a call, decoded.
pub(super) struct Remote<T> {
    /// `None` once the stream has ended: what the messages hold is given back at once.
    messages: Option<Arriving>,
    decoder: Decoder<T>,
}

/// What makes items of messages.
struct Decoder<T> {
    decode: Decode<T>,
    /// What each message may take, decoded.
    budget: Budget,
    origin: Origin,
}

type Decode<T> = fn(&Budget, Received<'_>) -> std::result::Result<T, Undecodable>;

/// Encoded messages on their way to their reader.
pub(crate) enum Arriving {
    /// Over a connection. Boxed, since calls without any are moved with the room for them.
    Linked(Box<Messages>),
    /// All there are: those of a fuzzer.
    Given(std::vec::IntoIter<Bytes>),
}

impl Arriving {
    fn next(&mut self) -> Option<Result<Received<'_>>> {
        match self {
            Arriving::Linked(messages) => messages.next(),
            Arriving::Given(messages) => messages.next().map(Received::Long).map(Ok),
        }
    }

    fn poll_next(&mut self, waker: &Waker) -> Poll<Option<Result<Received<'_>>>> {
        match self {
            Arriving::Linked(messages) => messages.poll_next(waker),
            Arriving::Given(messages) => Poll::Ready(messages.next().map(Received::Long).map(Ok)),
        }
    }
}

/// A message of a stream, encoded, as it has arrived.
#[derive(Debug)]
pub(crate) enum Received<'a> {
    /// Among others, in memory that they share.
    Short(&'a [u8]),
    /// In memory that its bytes fields may keep.
    Long(Bytes),
}

impl Buf for Received<'_> {
    #[inline]
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        match self {
            Received::Short(bytes) => bytes,
            Received::Long(bytes) => bytes,
        }
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        match self {
            Received::Short(bytes) => *bytes = &bytes[count..],
            Received::Long(bytes) => bytes.advance(count),
        }
    }

    #[inline]
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        match self {
            Received::Short(bytes) => {
                let (taken, rest) = bytes.split_at(len);
                *bytes = rest;
                Bytes::copy_from_slice(taken)
            }
            Received::Long(bytes) => bytes.copy_to_bytes(len),
        }
    }
}

/// Which stream it is: for errors, and for what must live as long.
pub(crate) enum Origin {
    /// The responses to a call of this side. The peer is held because a plugin runs as long as its streams are read.
    Responses { peer: Peer, method: String },
    /// The requests of a call that is served here.
    Requests { method: String },
}

impl<T: Message + Default> Remote<T> {
    pub(super) fn new(messages: Arriving, origin: Origin, budget: Budget) -> Remote<T> {
        let decoder = Decoder { decode: Budget::decode, budget, origin };
        Remote { messages: Some(messages), decoder }
    }
}

impl<T> Remote<T> {
    pub(super) fn next(&mut self) -> Option<Result<T>> {
        let item = self.decoder.read(self.messages.as_mut()?.next());
        self.end_unless_item(&item);
        item
    }

    pub(super) fn poll_next(&mut self, waker: &Waker) -> Poll<Option<Result<T>>> {
        let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
        let Poll::Ready(received) = messages.poll_next(waker) else { return Poll::Pending };
        let item = self.decoder.read(received);
        self.end_unless_item(&item);
        Poll::Ready(item)
    }

    #[inline]
    fn end_unless_item(&mut self, item: &Option<Result<T>>) {
        if !matches!(item, Some(Ok(_))) {
            self.messages = None;
        }
    }
}

impl<T> Decoder<T> {
    #[inline]
    fn read(&self, received: Option<Result<Received<'_>>>) -> Option<Result<T>> {
        let error = match received? {
            Ok(message) => match (self.decode)(&self.budget, message) {
                Ok(item) => return Some(Ok(item)),
                Err(error) => self.origin.undecodable(&error),
            },
            Err(error) => error,
        };
        Some(Err(self.origin.name(error)))
    }
}

impl Origin {
    /// Adds to an error whose it is, if that is not known anyway.
    #[cold]
    fn name(&self, error: Error) -> Error {
        match self {
            Origin::Requests { .. } => error,
            Origin::Responses { peer, method } => {
                error.with_plugin(peer.shared_name()).with_method(|| method.clone())
            }
        }
    }

    #[cold]
    fn undecodable(&self, error: &Undecodable) -> Error {
        match self {
            Origin::Responses { .. } => error.of_response("a response"),
            Origin::Requests { method } => {
                let (code, what) = error.of_request();
                Error::new(code, format!("a request of {method} {what}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Side;
    use crate::error::Code;

    #[test]
    fn a_request_that_cannot_be_decoded_is_an_invalid_argument() {
        let origin = Origin::Requests { method: "example.KV/Import".to_owned() };
        let budget = Budget::new("example.KV", b"", "Import", Side::Request);
        let decoder = Decoder { decode: Budget::decode::<String>, budget, origin };
        let read = |received| decoder.read(Some(received)).expect("it goes on");
        let good = "hello".to_owned().encode_to_vec();
        assert_eq!(read(Ok(Received::Short(&good))).unwrap(), "hello");
        assert_eq!(read(Ok(Received::Long(good.clone().into()))).unwrap(), "hello");
        let bad = Received::Short(b"\x0a\x05hi");
        let error = read(Ok(bad)).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("a request of example.KV/Import"), "{error}");
        let failed = Err(Error::new(Code::Cancelled, "as a test"));
        let error = read(failed).unwrap_err();
        assert_eq!(error.code(), Code::Cancelled);
    }
}
