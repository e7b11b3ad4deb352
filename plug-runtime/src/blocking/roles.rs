//! The roles that a thread can have for a connection, with what goes with them.

use std::os::fd::OwnedFd;

use super::attempts::Attempts;
use super::sharing::RingInput;
use super::yielding::Yielding;
use crate::protocol::{Connection, Output, Place, reserve};
use crate::sys::pipe::{self, Grown};
use crate::sys::ring::RingWriter;

/// The role of reading, and the buffer for it.
pub(super) struct Reader {
    pub(super) buffer: Box<[u8]>,
    /// Where the next bytes belong instead, if the core has lent that.
    pub(super) place: Option<Box<Place>>,
    /// Where the other side sends to, if not to the pipe.
    pub(super) ring: Option<Box<RingInput>>,
    /// To find something in the pipe without waiting.
    pub(super) at_once: Attempts,
    pub(super) bulk: Bulk,
}

impl Reader {
    pub(super) fn new() -> Reader {
        let buffer = vec![0; FIRST_READ_BUFFER].into_boxed_slice();
        Reader {
            buffer,
            place: None,
            ring: None,
            at_once: Attempts::default(),
            bulk: Bulk::default(),
        }
    }

    /// Makes room for more at a time, if so many bytes have filled the buffer; or for less, if those were the beginning of
    /// a frame that lands elsewhere: what comes by the buffer of the next is copied.
    #[inline]
    pub(super) fn resize_after(&mut self, len: usize, is_landing: bool) {
        if len == self.buffer.len() {
            self.resize(if is_landing { FIRST_READ_BUFFER } else { READ_BUFFER });
        }
    }

    #[cold]
    fn resize(&mut self, len: usize) {
        let mut buffer = Vec::new();
        // Where there is no memory for it, what there is does as well.
        if len != self.buffer.len() && reserve(&mut buffer, len) {
            buffer.extend(std::iter::repeat_n(0, len));
            self.buffer = buffer.into_boxed_slice();
        }
    }
}

/// The role of writing, and what was taken from the core to be written.
pub(super) struct Writer {
    /// `None` once closed.
    pub(super) output: Option<OwnedFd>,
    pub(super) taken: Output,
    /// Where this side sends to, if not to the pipe, from a position on.
    pub(super) ring: Option<Box<(RingWriter, u64)>>,
    pub(super) gathering: Yielding,
    pub(super) bulk: Bulk,
}

impl Writer {
    pub(super) fn new(output: OwnedFd) -> Writer {
        Writer {
            output: Some(output),
            taken: Output::default(),
            ring: None,
            gathering: Yielding::default(),
            bulk: Bulk::default(),
        }
    }
}

/// Whether a pipe was seen to carry much, and made to hold more then, if that could be done.
#[derive(Default)]
pub(super) enum Bulk {
    #[default]
    Unseen,
    Seen {
        /// Counted as long as this is here.
        #[cfg_attr(not(test), expect(dead_code, reason = "it counts"))]
        grown: Option<Grown>,
    },
    /// It is closed.
    Over,
}

impl Bulk {
    /// Notes that it carries much. The host sees to both of its pipes, so that their number is bounded by it alone. Says
    /// whether it holds more from now on.
    #[cold]
    pub(super) fn note(&mut self, pipe: &OwnedFd, core: &Connection) -> bool {
        if core.is_plugin() || !matches!(self, Bulk::Unseen) {
            return false;
        }
        let grown = pipe::grow(pipe);
        let holds_more = grown.is_some();
        *self = Bulk::Seen { grown };
        holds_more
    }
}

/// How much one read takes at most: as much as a pipe holds, ...
const READ_BUFFER: usize = 64 << 10;

/// ... but not before a read has filled this. A host has one of these for each plugin, and most are idle.
const FIRST_READ_BUFFER: usize = 4 << 10;
