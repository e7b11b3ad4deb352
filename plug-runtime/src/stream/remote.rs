//! A stream whose items come from the other side.

use std::task::{Poll, Waker};

use bytes::Bytes;
use prost::{DecodeError, Message};

use crate::blocking::Messages;
use crate::error::{Code, Delivery, Error, ErrorKind, Result};
use crate::peer::Peer;

/// The messages of one direction of a call, decoded.
pub(super) struct Remote<T> {
    /// `None` once the stream has ended: what the messages hold is given back at once.
    messages: Option<Messages>,
    decode: fn(Bytes) -> std::result::Result<T, DecodeError>,
    origin: Origin,
}

/// Which stream it is: for errors, and for what must live as long.
pub(crate) enum Origin {
    /// The responses to a call of this side. The peer is held because a plugin runs as long as its streams are read.
    Responses { peer: Peer, method: String },
    /// The requests of a call that is served here.
    Requests { method: String },
}

impl<T: Message + Default> Remote<T> {
    pub(super) fn new(messages: Messages, origin: Origin) -> Remote<T> {
        Remote { messages: Some(messages), decode: T::decode, origin }
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
        let item = received.map(|received| self.origin.read(received, self.decode));
        if !matches!(item, Some(Ok(_))) {
            self.messages = None;
        }
        item
    }
}

impl Origin {
    fn read<T>(
        &self,
        received: Result<Bytes>,
        decode: fn(Bytes) -> std::result::Result<T, DecodeError>,
    ) -> Result<T> {
        let item =
            received.and_then(|bytes| decode(bytes).map_err(|error| self.undecodable(&error)));
        match self {
            Origin::Requests { .. } => item,
            Origin::Responses { peer, method } => item.map_err(|error| {
                error.with_plugin(peer.shared_name()).with_method(|| method.clone())
            }),
        }
    }

    fn undecodable(&self, error: &DecodeError) -> Error {
        match self {
            Origin::Responses { .. } => Error::of_kind(
                ErrorKind::Decode,
                format!("a response cannot be decoded: {error}. Were both sides built from the same .proto?"),
            )
            .with_delivery(Delivery::MayHaveRun),
            Origin::Requests { method } => Error::new(
                Code::InvalidArgument,
                format!("a request of {method} cannot be decoded: {error}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_cannot_be_decoded_is_an_invalid_argument() {
        let origin = Origin::Requests { method: "example.KV/Import".to_owned() };
        let good = Bytes::from("hello".to_owned().encode_to_vec());
        assert_eq!(origin.read::<String>(Ok(good), Message::decode).unwrap(), "hello");
        let bad = Bytes::from_static(b"\x0a\x05hi");
        let error = origin.read::<String>(Ok(bad), Message::decode).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("a request of example.KV/Import"), "{error}");
        let failed = Err(Error::new(Code::Cancelled, "as a test"));
        let error = origin.read::<String>(failed, Message::decode).unwrap_err();
        assert_eq!(error.code(), Code::Cancelled);
    }
}
