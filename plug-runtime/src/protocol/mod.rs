//! The protocol, without I/O: bytes go in, bytes and events come out.
//!
//! [`Connection`] is the state machine of one side of one pipe pair; the other files are its nouns.
//! Nothing in this folder reads, writes, waits, starts a thread or asks for the time, and it imports
//! nothing of ours but the error type. `tests/tidy.rs` holds it to that. `PROTOCOL.md` is the
//! normative description of what is implemented here.

mod alone;
mod arrival;
mod call;
mod command;
mod connection;
mod event;
mod flow;
mod frame;
mod hello;
mod landing;
mod long;
mod memory;
mod opening;
mod outbox;
mod output;
mod receive;
mod sharing;
mod splitter;
mod stream;
#[cfg(any(test, fuzzing))]
mod tests;
mod varint;

pub(crate) use arrival::{Arrival, Run};
pub(crate) use call::ById;
pub(crate) use connection::Connection;
pub(crate) use event::{Answer, Event, Extra, Request};
pub(crate) use flow::Cost;
pub(crate) use hello::{Config, Hello, MethodInfo, Pair, ServiceInfo};
pub(crate) use landing::Place;
pub(crate) use long::Long;
pub(crate) use memory::{copy, none_for as no_memory_for, reserve};
pub(crate) use opening::Opening;
pub(crate) use output::Output;
pub(crate) use sharing::{MemoryOffer, MemoryRequest};
#[cfg(any(test, fuzzing))]
pub(crate) use tests::fuzz;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The process that started the other one. Its calls have odd ids.
    Host,
    /// The process that was started. Its calls have even ids.
    Plugin,
}

impl Side {
    pub(crate) fn other(self) -> Side {
        match self {
            Side::Host => Side::Plugin,
            Side::Plugin => Side::Host,
        }
    }

    /// The first bytes that this side sends. The first is no text in any encoding; the seventh and
    /// eighth show where a line-ending conversion was at work; the sixth differs by direction, so
    /// that a program which echoes its input is not mistaken for a plugin.
    pub(crate) fn preamble(self) -> &'static [u8; 8] {
        match self {
            Side::Host => b"\x89plugh\r\n",
            Side::Plugin => b"\x89plugp\r\n",
        }
    }

    fn is_caller_of(self, call: u64) -> bool {
        let odd = call % 2 == 1;
        call != 0 && odd == (self == Side::Host)
    }
}

/// The versions of the protocol that this code speaks.
pub(crate) const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;

/// The largest frame, in bytes after the length prefix. A larger length is refused unread.
pub(crate) const MAX_FRAME: usize = 1 << 20;

/// What a frame of a stream costs beside its payload.
pub(crate) const FRAME_COST: u64 = 16;

/// How much of each stream, and of all streams together, may be on its way or unread, in bytes. The one is what a
/// fast producer needs while its consumer is woken; the other lets many consumers stop at once.
pub(crate) const STREAM_WINDOW: u64 = 512 << 10;
pub(crate) const CONNECTION_WINDOW: u64 = 16 << 20;

/// The most that the metadata of a call may have, in bytes: its keys and values, and 16 for each pair, so that a great
/// many empty ones do not make a frame too large.
pub(crate) const MAX_METADATA: usize = 64 << 10;

/// What counts for [`MAX_METADATA`].
pub(crate) fn metadata_len(pairs: &[(String, bytes::Bytes)]) -> usize {
    pairs.iter().map(|(key, value)| key.len() + value.len() + 16).sum()
}

/// How much memory a buffer keeps while nothing is in it: what a pipe holds.
const KEPT: usize = 64 << 10;

/// Whether that is more.
pub(crate) fn is_large(capacity: usize) -> bool {
    capacity > KEPT
}

/// The largest piece of a message that one frame carries. On one core an echo of 1 MiB costs 1.06
/// times the raw pipe with pieces of 256 KiB, and 1.2 times with pieces of 64 KiB.
pub(crate) const FRAGMENT: usize = 256 << 10;

/// From which length on a message is encoded apart, and not copied any more on its way out. Below, copying costs less than
/// what that takes.
pub(crate) const LONG: usize = 16 << 10;
