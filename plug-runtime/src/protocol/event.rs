//! What a connection tells its driver, and what the driver answers.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::arrival::Arrival;
use super::flow::Cost;
use super::long::Long;
use super::sharing::{MemoryOffer, MemoryRequest};
use crate::error::{Error, Result};

/// What happened, for a driver to act on.
#[derive(Debug)]
pub(crate) enum Event {
    /// The other side's hello has arrived and fits: [`Connection::peer`](super::Connection::peer) has it.
    Greeted,
    /// The plugin can be called.
    Ready,
    /// The other side calls a method of this side.
    Request(Request),
    /// Messages of a stream have arrived, in a call of either side. To be given back with
    /// [`Connection::consume`](super::Connection::consume).
    Messages { call: u64, messages: Arrival, cost: Cost },
    /// The stream of requests of a call of the other side has ended, as its sender wanted or with an error.
    RequestsEnded { call: u64, result: Result<()> },
    /// A call of this side has ended, with an empty message where the responses are a stream.
    Reply { call: u64, outcome: Result<Bytes> },
    /// A call of this side that was given up has ended for the other side too, or does not take up memory here any
    /// more: there may be one more now.
    Freed,
    /// The caller does not want the outcome of a call of the other side any more. It is still to be answered, unless
    /// the connection is over.
    Cancelled { call: u64 },
    /// The other side has answered a ping.
    Pong { payload: Bytes },
    /// The plugin has logged something during a call of the host, or during none (0): an encoded `Record`.
    Log { call: u64, record: Bytes },
    /// The host wants other records than it said before: an encoded `Record` with nothing but a level.
    Level { record: Bytes },
    /// The host would like to share memory: to be answered with
    /// [`Connection::offer_memory`](super::Connection::offer_memory).
    MemoryWanted(MemoryRequest),
    /// The plugin has memory to share. To be answered with [`Connection::switch`](super::Connection::switch) or
    /// [`Connection::decline_memory`](super::Connection::decline_memory).
    MemoryOffered(MemoryOffer),
    /// There is no memory, or the host does not take what was offered: it stays with the pipes.
    MemoryDeclined,
    /// The other side wants no more calls.
    Goodbye(Goodbye),
}

/// A call to this side, to be answered with [`Connection::reply`](super::Connection::reply), or with a stream of
/// [`send`](super::Connection::send) and [`finish`](super::Connection::finish).
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) call: u64,
    /// The place of the method in this side's hello, counted from 1.
    pub(crate) method: u32,
    /// Empty where the requests are a stream.
    pub(crate) message: Bytes,
    /// Whether they are.
    pub(crate) has_stream: bool,
    /// What few requests have.
    pub(crate) extra: Option<Box<Extra>>,
}

/// What comes along with some requests. Apart, so that those without are moved at less cost.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// How long the caller waits from now on.
    pub(crate) timeout: Option<Duration>,
    /// For the driver: when that is over.
    pub(crate) deadline: Option<Instant>,
    /// The call of this side in whose handler this one is made; 0 if none.
    pub(crate) within: u64,
    pub(crate) metadata: Vec<(String, Bytes)>,
}

impl Extra {
    /// Notes when it came: the caller waits from then on.
    pub(crate) fn arrive(&mut self, now: Instant) {
        self.deadline = self.timeout.and_then(|timeout| now.checked_add(timeout));
    }
}

/// What becomes of a [`Request`].
#[derive(Debug)]
pub(crate) enum Answer {
    /// The encoded response.
    Response(Vec<u8>),
    /// The same of a long one.
    Long(Box<Long>),
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
