//! How two sides move their bytes from the pipes into memory that they share.
//!
//! ```text
//! host                                   plugin
//!   ── memory: I would like to ─────────▶
//!   ◀────────── memory: here it is ──────     or a code: there is none
//!   ── switch ──────────────────────────▶     or memory with a code: I cannot have it
//!   ◀─────────────────────────── switch ──
//! ```
//!
//! A switch is the last frame that its sender writes into the pipe; what it sends from then on is in the memory. So each
//! direction moves by itself, and nobody waits for that. What the memory is and how it is found is not known here.

use bytes::Bytes;
use prost::Message;

use super::Side;
use super::connection::{Connection, broken};
use super::event::Event;
use super::frame::{Frame, kind};
use crate::error::{Code, Result};

/// How far a side has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Nobody has asked.
    #[default]
    No,
    Asked,
    Offered,
    /// What this side sends is in the memory.
    Switched,
    /// It came to nothing.
    Declined,
}

/// What a host asks for: `MemoryRequest` of `frame.proto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemoryRequest {
    /// How many bytes each direction should hold.
    #[prost(uint32, tag = "1")]
    pub(crate) capacity: u32,
    /// Whether the plugin may look for bytes for a while before it sleeps.
    #[prost(bool, tag = "2")]
    pub(crate) may_poll: bool,
}

/// Where a plugin has it: `MemoryOffer` of `frame.proto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemoryOffer {
    /// The number of the descriptor.
    #[prost(uint32, tag = "1")]
    pub(crate) descriptor: u32,
    /// How many bytes each direction holds.
    #[prost(uint32, tag = "2")]
    pub(crate) capacity: u32,
    /// What stands in the memory, so that no other is taken for it.
    #[prost(fixed64, tag = "3")]
    pub(crate) mark: u64,
}

impl Connection {
    /// Whether this host can ask for memory: the plugin knows of it, and was not asked before.
    pub(crate) fn can_share(&self) -> bool {
        self.side == Side::Host
            && self.features.shm
            && self.sharing == Sharing::No
            && self.failure.is_none()
            && self.leaving.is_none()
    }

    /// Asks the plugin for memory: an [`Event::MemoryOffered`] follows, or an [`Event::MemoryDeclined`].
    pub(crate) fn ask_for_memory(&mut self, request: &MemoryRequest) {
        debug_assert!(self.can_share(), "it was asked before");
        self.sharing = Sharing::Asked;
        let payload = request.encode_to_vec();
        self.outbox.push(&Frame { kind: kind::MEMORY, payload: &payload, ..Frame::default() });
    }

    /// Offers the host memory that it has asked for; `None`: there is none. The host switches, or an
    /// [`Event::MemoryDeclined`] follows.
    pub(crate) fn offer_memory(&mut self, offer: Option<&MemoryOffer>) {
        if self.sharing != Sharing::Asked || self.failure.is_some() {
            return;
        }
        let Some(offer) = offer else { return self.decline_memory() };
        self.sharing = Sharing::Offered;
        let payload = offer.encode_to_vec();
        self.outbox.push(&Frame { kind: kind::MEMORY, payload: &payload, ..Frame::default() });
    }

    /// Tells the other side that it comes to nothing.
    pub(crate) fn decline_memory(&mut self) {
        self.sharing = Sharing::Declined;
        let code = Code::Unavailable as u32;
        self.outbox.push(&Frame { kind: kind::MEMORY, code, ..Frame::default() });
    }

    /// Announces that what this side sends from now on is in the memory. Returns the position where that begins: so many
    /// bytes in all belong into the pipe.
    pub(crate) fn switch(&mut self) -> u64 {
        debug_assert_eq!(self.sharing, Sharing::Offered, "there is memory");
        self.sharing = Sharing::Switched;
        self.outbox.push(&Frame { kind: kind::SWITCH, ..Frame::default() });
        self.outbox.position()
    }

    /// Whether what the other side sends is in the memory from now on.
    pub(crate) fn has_switched(&self) -> bool {
        self.has_switched
    }

    /// Notes that this side was woken so many times by the other, and nothing had come: a flood of that ends the
    /// connection. A few are due, where this side waits for room.
    pub(crate) fn handle_idle_bells(&mut self, count: usize) {
        if self.failure.is_none() {
            if let Err(error) = self.count_idle_bytes(count as u64) {
                self.fail(error);
            }
        }
    }

    /// How many bytes the operating system, or the memory, has taken in all.
    pub(crate) fn sent(&self) -> u64 {
        self.outbox.sent()
    }

    pub(super) fn handle_memory(&mut self, frame: &Frame<'_>) -> Result<()> {
        let payload = Bytes::copy_from_slice(frame.payload);
        let event = match (self.side, self.sharing, frame.code) {
            (Side::Plugin, Sharing::No, 0) => {
                let request = MemoryRequest::decode(payload);
                let request = request.map_err(|_| broken("a malformed request for memory"))?;
                self.sharing = Sharing::Asked;
                Event::MemoryWanted(request)
            }
            (Side::Host, Sharing::Asked, 0) => {
                let offer = MemoryOffer::decode(payload);
                let offer = offer.map_err(|_| broken("a malformed offer of memory"))?;
                self.sharing = Sharing::Offered;
                Event::MemoryOffered(offer)
            }
            (Side::Host, Sharing::Asked, 1..) | (Side::Plugin, Sharing::Offered, 1..) => {
                self.sharing = Sharing::Declined;
                Event::MemoryDeclined
            }
            _ => return Err(broken("a frame about memory that is not its sender's turn")),
        };
        self.events.push_back(event);
        Ok(())
    }

    pub(super) fn handle_switch(&mut self) -> Result<()> {
        let is_due = match self.side {
            Side::Plugin => self.sharing == Sharing::Offered,
            Side::Host => self.sharing == Sharing::Switched,
        };
        if !is_due || self.has_switched {
            return Err(broken("a switch to memory that was not agreed on"));
        }
        self.has_switched = true;
        Ok(())
    }
}
