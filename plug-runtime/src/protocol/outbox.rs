//! What waits to be sent: small frames at once, long messages a fragment at a time.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

use super::FRAGMENT;
use super::frame::{Frame, flag, kind};

/// The queue between the state machine and the writer.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Whole frames, in the order in which they go out.
    ready: Vec<u8>,
    /// Long messages without the fragments that are `ready`. They take turns: behind all that is
    /// `ready`, one fragment of one of them goes out. So a small frame waits for one of these
    /// fragments at most, and no amount of small frames keeps a long message from arriving.
    long: VecDeque<Long>,
    /// How many bytes have entered `ready` since the beginning: a position in the stream.
    queued: u64,
    /// How many of them the operating system has taken.
    written: u64,
    /// How many more it may be taking at this moment.
    writing: u64,
}

/// The rest of a message that is longer than a fragment.
#[derive(Debug)]
struct Long {
    call: u64,
    /// The kind of the frame that carries the last fragment, and its flags.
    last_kind: u32,
    last_flags: u32,
    rest: Bytes,
}

/// The end of a request in the stream of bytes that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SentAt {
    /// It ends at this position.
    Position(u64),
    /// Some of its fragments have not been made into frames.
    Unfinished,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.long.is_empty()
    }

    /// Queues bytes that are not a frame: the preamble.
    pub(super) fn push_raw(&mut self, bytes: &[u8]) {
        self.ready.extend_from_slice(bytes);
        self.queued += bytes.len() as u64;
    }

    /// Queues a whole frame.
    pub(super) fn push(&mut self, frame: &Frame<'_>) -> SentAt {
        self.push_with(frame, frame.payload.len(), |out| out.extend_from_slice(frame.payload))
    }

    /// Queues a whole frame whose payload, of exactly `payload_len` bytes, `payload` appends.
    pub(super) fn push_with(
        &mut self,
        frame: &Frame<'_>,
        payload_len: usize,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> SentAt {
        let before = self.ready.len();
        frame.encode_head(payload_len, &mut self.ready);
        let head_end = self.ready.len();
        payload(&mut self.ready);
        debug_assert_eq!(self.ready.len() - head_end, payload_len, "the announced length");
        self.queued += (self.ready.len() - before) as u64;
        SentAt::Position(self.queued)
    }

    /// Queues a message that is longer than a fragment. `last` is the frame that carries its last
    /// fragment; `first_kind` and `method` are for the first.
    pub(super) fn push_long(&mut self, first: Frame<'_>, last: Frame<'_>, mut message: Bytes) {
        debug_assert!(message.len() > FRAGMENT, "one frame would do");
        let fragment = message.split_to(FRAGMENT);
        let total = (fragment.len() + message.len()) as u64;
        self.push(&Frame { total, payload: &fragment, ..first });
        self.long.push_back(Long {
            call: last.call,
            last_kind: last.kind,
            last_flags: last.flags | flag::LAST,
            rest: message,
        });
    }

    /// Drops what is left of a call's message. Its receiver is told by another frame, or not there.
    pub(super) fn forget(&mut self, call: u64) {
        self.long.retain(|long| long.call != call);
    }

    /// Drops all that was not taken yet.
    pub(super) fn discard(&mut self) {
        self.ready.clear();
        self.long.clear();
    }

    /// Moves the next bytes to send into `out`, which must be empty. Calls `finished` with the call
    /// and the position where the last fragment of a long message was among them.
    pub(super) fn take(&mut self, out: &mut Vec<u8>, mut finished: impl FnMut(u64, SentAt)) {
        debug_assert!(out.is_empty(), "what was taken before is sent first");
        if let Some(mut long) = self.long.pop_front() {
            let fragment = long.rest.split_to(long.rest.len().min(FRAGMENT));
            let is_last = !long.rest.has_remaining();
            let (kind, flags) =
                if is_last { (long.last_kind, long.last_flags) } else { (kind::MESSAGE, 0) };
            let at = self.push(&Frame {
                kind,
                call: long.call,
                flags,
                payload: &fragment,
                ..Frame::default()
            });
            if is_last {
                finished(long.call, at);
            } else {
                self.long.push_back(long);
            }
        }
        std::mem::swap(&mut self.ready, out);
    }

    /// Notes that the operating system took `bytes` more of what was taken from here.
    pub(super) fn written(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// Notes that the operating system may be taking that many bytes more.
    pub(super) fn writing(&mut self, bytes: usize) {
        self.writing = bytes as u64;
    }

    /// Whether all bytes up to a position were, or may have been, handed to the operating system.
    pub(super) fn was_sent(&self, at: SentAt) -> bool {
        match at {
            SentAt::Position(position) => position <= self.written + self.writing,
            SentAt::Unfinished => false,
        }
    }
}
