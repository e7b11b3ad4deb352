//! Moving the bytes of a connection from its pipes into memory that both processes share.
//!
//! A connection begins with pipes, and most need nothing else. One that is used much moves: the plugin makes the memory,
//! the host maps it, each says so in the last frame that it writes into its pipe, and goes on in the memory. From then on
//! a byte in a pipe is a bell: its receiver is to look into the memory, for bytes or for room. The end of a pipe still
//! means what it did.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

use super::link::State;
use super::polling::Polling;
use super::roles::Reader;
use crate::error::{Error, ErrorKind};
use crate::protocol::{MemoryOffer, MemoryRequest};
use crate::sys::memory::SharedMemory;
use crate::sys::ring::{self, End, RingReader, RingWriter};

/// What a host wants of shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// The process of the plugin.
    pub(super) pid: u32,
    /// How many calls must have ended before that.
    pub(super) replies: u32,
    pub(super) may_poll: bool,
}

/// Memory that is there and not in use yet, or in use in one direction.
#[derive(Default)]
pub(super) struct Shared {
    /// What a host wants, until it has an answer.
    wish: Option<Wish>,
    may_poll: bool,
    /// For what arrives, once the other side sends it there.
    reader: Option<RingReader>,
    /// For what is sent, once this side sends it there.
    writer: Option<RingWriter>,
    /// From which position on this side does.
    from: Option<u64>,
    /// By which the host finds the memory, until it has.
    descriptor: Option<OwnedFd>,
}

/// Bytes that arrive in memory, and how they are waited for.
pub(super) struct RingInput {
    pub(super) ring: RingReader,
    pub(super) polling: Polling,
    /// How many bells there were for nothing to read, since the core was last told.
    pub(super) bells_in_vain: usize,
}

impl Shared {
    /// Whether this host wants memory by now, or with its next reply, and has had no answer.
    #[inline]
    pub(super) fn is_wished_for(&self) -> bool {
        self.wish.as_ref().is_some_and(|wish| wish.replies <= 1)
    }

    /// Whether [`take_output`](Self::take_output) has something.
    pub(super) fn has_output(&self) -> bool {
        self.from.is_some()
    }

    /// What is sent to memory, once, and from which position on.
    pub(super) fn take_output(&mut self) -> Option<(RingWriter, u64)> {
        let from = self.from.take()?;
        self.writer.take().map(|ring| (ring, from))
    }
}

impl State {
    /// Says what a host wants, once the plugin has said hello.
    pub(super) fn wish_for_memory(&mut self, wish: Wish) {
        if self.core.can_share() {
            self.shared.may_poll = wish.may_poll;
            self.shared.wish = Some(wish);
            self.ask_for_memory(0);
        }
    }

    /// Notes that so many calls of this side have ended. After enough of them a host asks for memory: it is for
    /// connections that are used.
    pub(super) fn ask_for_memory(&mut self, replies: u32) {
        let Some(wish) = &mut self.shared.wish else { return };
        wish.replies = wish.replies.saturating_sub(replies);
        if wish.replies == 0 && self.core.can_share() {
            let request = MemoryRequest { capacity: CAPACITY, may_poll: wish.may_poll };
            self.core.ask_for_memory(&request);
        }
    }

    /// Makes memory for a host that has asked for it.
    pub(super) fn make_memory(&mut self, request: &MemoryRequest) {
        let capacity = request.capacity.clamp(SMALLEST, CAPACITY);
        let capacity = 1 << capacity.ilog2();
        let Ok((descriptor, memory)) = SharedMemory::new(ring::memory_len(capacity)) else {
            // As many descriptors are open as may be, say. The pipes do as well.
            return self.core.offer_memory(None);
        };
        // Not a secret: it tells one memory from another.
        let mark = RandomState::new().hash_one(0);
        ring::set_mark(&memory, mark);
        let number = descriptor.as_raw_fd().unsigned_abs();
        let (reader, writer) = ring::ends(Arc::new(memory), capacity, End::Plugin);
        self.shared = Shared {
            may_poll: request.may_poll,
            reader: Some(reader),
            writer: Some(writer),
            descriptor: Some(descriptor),
            ..Shared::default()
        };
        self.core.offer_memory(Some(&MemoryOffer { descriptor: number, capacity, mark }));
    }

    /// Takes the memory that a plugin offers, if it is what it should be.
    pub(super) fn take_memory(&mut self, offer: &MemoryOffer) {
        let is_usual =
            offer.capacity.is_power_of_two() && (SMALLEST..=CAPACITY).contains(&offer.capacity);
        let Some(wish) = self.shared.wish.take().filter(|_| is_usual) else {
            return self.core.decline_memory();
        };
        let len = ring::memory_len(offer.capacity);
        match SharedMemory::open(wish.pid, offer.descriptor, len) {
            Ok(memory) if ring::mark(&memory) == offer.mark => {
                let (reader, writer) = ring::ends(Arc::new(memory), offer.capacity, End::Host);
                self.shared.reader = Some(reader);
                self.shared.writer = Some(writer);
                self.shared.from = Some(self.core.switch());
            }
            // This process may not look into that one, say: it has another user.
            _ => self.core.decline_memory(),
        }
    }

    /// Has the reader read in the memory, if the other side has said that it writes there.
    #[inline]
    pub(super) fn move_input(&mut self, reader: &mut Reader) {
        if reader.ring.is_none() && self.core.has_switched() {
            self.begin_to_read_in_memory(reader);
        }
    }

    fn begin_to_read_in_memory(&mut self, reader: &mut Reader) {
        let Some(ring) = self.shared.reader.take() else { return };
        let polling = Polling::new(self.shared.may_poll);
        reader.ring = Some(Box::new(RingInput { ring, polling, bells_in_vain: 0 }));
        if self.core.is_plugin() {
            // The host has it, so it needs to be found no more.
            self.shared.descriptor = None;
            self.shared.from = Some(self.core.switch());
        }
    }
}

impl Reader {
    /// Says that nobody reads, so that the other side rings. `false` if there is something to be read already.
    pub(super) fn begin_to_wait(&self) -> bool {
        self.ring.as_ref().is_none_or(|input| input.ring.begin_to_wait())
    }

    /// Says that somebody reads, and looks by itself.
    pub(super) fn end_waiting(&self) {
        if let Some(input) = &self.ring {
            input.ring.end_waiting();
        }
    }

    /// Whether the other side waits for room, which there is.
    pub(super) fn must_wake_writer(&self) -> bool {
        self.ring.as_ref().is_some_and(|input| input.ring.must_wake())
    }

    /// Whether there is something in the memory that was not read.
    pub(super) fn has_bytes(&self) -> bool {
        self.ring.as_ref().is_some_and(|input| input.ring.has_bytes())
    }
}

/// The end of a connection whose other side claims of the memory what cannot be.
pub(super) fn impossible() -> Error {
    let message = "the marks in the memory that is shared with it are impossible";
    Error::of_kind(ErrorKind::Protocol, message)
}

/// How many calls make a connection one that is used. It takes about 250 µs to set it up, most of it for half a megabyte that is
/// there from then on; against that stand 1 µs and more for each call.
pub(super) const WORTH_IT: u32 = 64;

/// How much each direction holds: as much as a fragment of a long message.
const CAPACITY: u32 = 256 << 10;

/// The least that is taken from the other side.
const SMALLEST: u32 = 4 << 10;
