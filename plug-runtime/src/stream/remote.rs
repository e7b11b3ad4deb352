//! A stream whose items come from the other side.

use std::task::{Poll, Waker};

use bytes::Bytes;
use prost::Message;

use crate::blocking::Messages;
use crate::budget::{Budget, Undecodable};
use crate::error::{Error, Result};
use crate::peer::Peer;

/// The messages of one direction of a call, decoded.
pub(super) struct Remote<T> {
    /// `None` once the stream has ended: what the messages hold is given back at once.
    messages: Option<Arriving>,
    decode: Decode<T>,
    /// What each message may take, decoded.
    budget: Budget,
    origin: Origin,
}

type Decode<T> = fn(Budget, Bytes) -> std::result::Result<T, Undecodable>;

/// Encoded messages on their way to their reader.
pub(crate) enum Arriving {
    /// Over a connection. Boxed, since calls without any are moved with the room for them.
    Linked(Box<Messages>),
    /// All there are: those of a fuzzer.
    Given(std::vec::IntoIter<Bytes>),
}

impl Arriving {
    fn next(&mut self) -> Option<Result<Bytes>> {
        match self {
            Arriving::Linked(messages) => messages.next(),
            Arriving::Given(messages) => messages.next().map(Ok),
        }
    }

    fn poll_next(&mut self, waker: &Waker) -> Poll<Option<Result<Bytes>>> {
        match self {
            Arriving::Linked(messages) => messages.poll_next(waker),
            Arriving::Given(messages) => Poll::Ready(messages.next().map(Ok)),
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
        Remote { messages: Some(messages), decode: Budget::decode, budget, origin }
    }
}

impl<T> Remote<T> {
    pub(super) fn next(&mut self) -> Option<Result<T>> {
        let received = self.messages.as_mut()?.next();
        self.take(received)
    }

    pub(super) fn poll_next(&mut self, waker: &Waker) -> Poll<Option<Result<T>>> {
        let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
        messages.poll_next(waker).map(|received| self.take(received))
    }

    fn take(&mut self, received: Option<Result<Bytes>>) -> Option<Result<T>> {
        let item = received.map(|received| self.origin.read(received, self.budget, self.decode));
        if !matches!(item, Some(Ok(_))) {
            self.messages = None;
        }
        item
    }
}

impl Origin {
    fn read<T>(&self, received: Result<Bytes>, budget: Budget, decode: Decode<T>) -> Result<T> {
        let item = received
            .and_then(|bytes| decode(budget, bytes).map_err(|error| self.undecodable(&error)));
        match self {
            Origin::Requests { .. } => item,
            Origin::Responses { peer, method } => item.map_err(|error| {
                error.with_plugin(peer.shared_name()).with_method(|| method.clone())
            }),
        }
    }

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
        let good = Bytes::from("hello".to_owned().encode_to_vec());
        assert_eq!(origin.read::<String>(Ok(good), budget, Budget::decode).unwrap(), "hello");
        let bad = Bytes::from_static(b"\x0a\x05hi");
        let error = origin.read::<String>(Ok(bad), budget, Budget::decode).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("a request of example.KV/Import"), "{error}");
        let failed = Err(Error::new(Code::Cancelled, "as a test"));
        let error = origin.read::<String>(failed, budget, Budget::decode).unwrap_err();
        assert_eq!(error.code(), Code::Cancelled);
    }
}
