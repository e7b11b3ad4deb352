//! Calls with streams.

use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use prost::Message;

use super::dispatch::Dispatch;
use super::link::Link;
use crate::error::{Code, Delivery, Error, Result};
use crate::offer::Offers;
use crate::options::Outbound;
use crate::peer::WeakPeer;
use crate::stream::Outgoing;

/// What arrives in one direction of a call. Dropping it early cancels the call.
pub(crate) enum Messages {}

#[expect(dead_code, reason = "until the driver carries streams")]
/// What a call with a stream of responses sends.
pub(crate) enum Requests {
    /// One encoded message.
    One(Vec<u8>),
    Stream(Box<dyn Outgoing>),
}

impl Messages {
    /// The next message, waited for.
    pub(crate) fn next(&mut self) -> Option<Result<Bytes>> {
        match *self {}
    }

    /// The next message if there is one; otherwise `waker` is woken once there may be.
    pub(crate) fn poll_next(&mut self, _waker: &Waker) -> Poll<Option<Result<Bytes>>> {
        match *self {}
    }
}

impl Link {
    /// Serves what is offered, if anything is: before the first call can arrive.
    pub(super) fn offer(&self, offers: Vec<Offers>) {
        if !offers.is_empty() {
            let _ = self.dispatch.set(Dispatch::new(offers));
        }
    }

    /// Says who is at the other end, for handlers that ask.
    pub(crate) fn set_peer(&self, peer: WeakPeer) {
        if let Some(dispatch) = self.dispatch.get() {
            dispatch.set_peer(peer);
        }
    }

    /// Calls a method and does not wait for its end.
    pub(crate) fn call_one_way(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        request: &impl Message,
    ) -> Result<()> {
        self.call(outbound.method, request).map(drop)
    }

    /// Calls a method with a stream of responses.
    pub(crate) fn call_streaming(
        self: &Arc<Self>,
        _outbound: &Outbound<'_>,
        _requests: Requests,
    ) -> Result<Messages> {
        Err(streams_are_not_carried())
    }

    /// Calls a method with a stream of requests and waits for its response.
    pub(crate) fn call_with_stream(
        self: &Arc<Self>,
        _outbound: &Outbound<'_>,
        _requests: Box<dyn Outgoing>,
    ) -> Result<Bytes> {
        Err(streams_are_not_carried())
    }
}

pub(super) fn streams_are_not_carried() -> Error {
    let message =
        "this is a streaming method, and this version of plug-runtime carries unary calls only";
    Error::status(Code::Unimplemented, message, Delivery::NotSent)
}
