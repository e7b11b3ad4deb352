//! Frames whose payloads are read straight to where their message is put together.
//!
//! Once the head of a frame has arrived, and not all of a long payload, the rest of that can be read behind what has
//! arrived of its message before: nothing has to be copied out of the buffer of who reads. What the frame does is done
//! when it is whole, as with any other; what is checked before that only decides which way its bytes go.

use bytes::Bytes;

use super::call::{Assembly, Fragment, Phase};
use super::connection::Connection;
use super::frame::{Frame, flag, kind};
use super::{FRAGMENT, FRAME_COST};
use crate::error::Result;

/// A frame that is not whole, whose payload goes straight to its message.
#[derive(Debug)]
pub(super) struct Landing {
    /// What came before the payload, but for the length.
    head: Vec<u8>,
    /// How many bytes the frame has in all, and its payload.
    len: usize,
    payload: usize,
    /// `None` while who reads has it.
    place: Option<Box<Place>>,
}

/// Memory with what has arrived of a message, for who reads to put the next bytes behind that.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) memory: Vec<u8>,
    /// How many bytes are missing of the payload. There is room for them.
    pub(super) missing: usize,
    /// Whether it was made for this payload, or has grown, and nobody has asked.
    pub(super) is_new: bool,
}

/// A payload that has landed, behind what came before it of its message.
pub(super) struct Landed {
    memory: Vec<u8>,
    len: usize,
}

impl Place {
    /// The memory, once after it was made or has grown.
    pub(crate) fn take_new(&mut self) -> Option<&mut Vec<u8>> {
        std::mem::take(&mut self.is_new).then_some(&mut self.memory)
    }

    /// Has bytes put into the memory, behind all others, and so many at most.
    pub(crate) fn fill<R>(&mut self, put: impl FnOnce(&mut Vec<u8>, usize) -> R) -> R {
        let before = self.memory.len();
        let done = put(&mut self.memory, self.missing);
        let count = self.memory.len() - before;
        assert!(count <= self.missing, "what follows the payload is no part of it");
        self.missing -= count;
        done
    }

    /// How many bytes are to be put there.
    #[cfg(any(test, fuzzing))]
    pub(super) fn missing(&self) -> usize {
        self.missing
    }

    /// Takes the last bytes away again.
    pub(crate) fn withdraw(&mut self, bytes: usize) {
        self.memory.truncate(self.memory.len() - bytes);
        self.missing += bytes;
    }
}

impl Landing {
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.place.as_ref().map_or(0, |place| place.memory.capacity())
    }
}

impl Fragment for Landed {
    fn len(&self) -> usize {
        self.len
    }

    fn into_message(self) -> Option<Bytes> {
        debug_assert_eq!(self.memory.len(), self.len, "nothing came before");
        Some(Bytes::from(self.memory))
    }

    fn add_to(self, bytes: &mut Vec<u8>, _: u64) -> bool {
        debug_assert!(bytes.is_empty(), "they were lent");
        *bytes = self.memory;
        true
    }
}

impl Connection {
    /// Sees whether a frame of which `part` has arrived, of `content` bytes in all, can land, and if so, has it do. `prefix`
    /// is how long its length is.
    pub(super) fn begin_to_land(&mut self, part: &[u8], content: usize, prefix: usize) -> bool {
        if content - part.len() < WORTH_IT {
            return false;
        }
        let Some((frame, head)) = Frame::decode_head(part, content) else { return false };
        let payload = content - head;
        let Some(mut place) = self.lend_memory(&frame, payload) else { return false };
        place.fill(|memory, _| memory.extend_from_slice(&part[head..]));
        self.landing = Some(Box::new(Landing {
            head: part[..head].to_vec(),
            len: prefix + content,
            payload,
            place: Some(Box::new(place)),
        }));
        true
    }

    /// Memory for who reads next, which is to be given back with [`take_back`](Self::take_back) before anything else
    /// arrives.
    #[inline]
    pub(crate) fn lend(&mut self) -> Option<Box<Place>> {
        self.landing.as_mut()?.place.take()
    }

    /// Whether there is something to be lent.
    #[inline]
    pub(crate) fn has_place(&self) -> bool {
        self.landing.is_some()
    }

    /// Takes memory back, with or without what has arrived since. After a failure that is ignored.
    pub(crate) fn take_back(&mut self, place: Box<Place>) {
        if let Some(landing) = self.landing.as_mut().filter(|_| self.failure.is_none()) {
            landing.place = Some(place);
            self.end_landing();
        }
    }

    /// Takes bytes that did not arrive in the memory. Returns what is behind the payload.
    pub(super) fn land<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let place = self.landing.as_mut().and_then(|landing| landing.place.as_mut());
        let Some(place) = place else { unreachable!("bytes arrive while memory is lent for them") };
        let (landed, behind) = bytes.split_at(bytes.len().min(place.missing));
        place.fill(|memory, _| memory.extend_from_slice(landed));
        self.end_landing();
        behind
    }

    /// Does what a frame does, if it is whole.
    fn end_landing(&mut self) {
        let is_whole = |place: &Place| place.missing == 0;
        let landing =
            self.landing.take_if(|landing| landing.place.as_deref().is_some_and(is_whole));
        let Some(Landing { head, len, payload, place: Some(place) }) = landing.map(|boxed| *boxed)
        else {
            return;
        };
        let landed = Landed { memory: place.memory, len: payload };
        let Some((frame, _)) = Frame::decode_head(&head, head.len() + payload) else {
            unreachable!("it was decoded before")
        };
        match self.handle_landed(&frame, head.len(), landed) {
            Ok(()) => self.splitter.pass(len),
            Err(error) => self.fail(error),
        }
    }

    fn handle_landed(&mut self, frame: &Frame<'_>, head: usize, landed: Landed) -> Result<()> {
        match frame.kind {
            kind::OPEN => self.handle_open(frame, landed),
            kind::END => self.handle_end(frame, landed),
            _ if self.side.is_caller_of(frame.call) => self.handle_response(frame, head, landed),
            _ => self.handle_request_fragment(frame, head, landed),
        }
    }

    /// The memory of the message that a frame begins or continues, with room for its payload, if all is as it should be and
    /// nothing would come of the payload but a part of that message.
    fn lend_memory(&mut self, frame: &Frame<'_>, payload: usize) -> Option<Place> {
        let is_sane = self.peer.is_some() && frame.flags & !flag::ALL == 0;
        if !is_sane || payload > FRAGMENT {
            return None;
        }
        let limit = self.own.message_limit();
        if frame.kind == kind::OPEN {
            let is_usual = self.greeted
                && !self.side.is_caller_of(frame.call)
                && frame.call > self.last_served
                && self.leaving.is_none()
                && (self.own.max_calls == 0 || self.calls_open() < self.own.max_calls as usize)
                && !(self.features.streams && self.takes_stream(frame.method));
            if !is_usual {
                return None;
            }
        }
        let is_stream = frame.kind == kind::MESSAGE && self.inflow(frame.call).is_some();
        let budget = if is_stream { &self.stream_budget } else { &self.budget };
        let is_admitted = frame.total > FRAGMENT as u64 && budget.admits(frame.total);
        let mut kept = std::mem::take(&mut self.kept);
        let is_last = frame.flags & flag::LAST != 0;
        let mut new = Assembly::default();
        let message =
            if frame.kind == kind::OPEN { Some(&mut new) } else { self.assembly(frame, payload) };
        let memory = message.and_then(|message| {
            message.lend(payload, frame.total, is_last, limit, &mut kept, is_admitted)
        });
        self.kept = kept;
        memory
    }

    /// The message that a frame continues or begins, of a call that has begun.
    fn assembly(&mut self, frame: &Frame<'_>, payload: usize) -> Option<&mut Assembly> {
        let call = frame.call;
        if frame.kind == kind::MESSAGE && self.inflow(call).is_some() {
            let cost = payload as u64 + FRAME_COST;
            let is_covered = self.window.covers(cost);
            return self.inflow(call)?.message(cost).filter(|_| is_covered);
        }
        if self.budget.is_waiting(call) {
            return None;
        }
        if self.side.is_caller_of(call) {
            let made = self.made.get_mut(call)?;
            let is_fit = match frame.kind {
                kind::MESSAGE => true,
                kind::END => frame.code == 0 && frame.flags & flag::LAST != 0,
                _ => false,
            };
            (is_fit && !made.is_abandoned && made.responses.is_none()).then_some(&mut made.response)
        } else {
            match &mut self.served.get_mut(call)?.phase {
                Phase::Arriving(arriving) if frame.kind == kind::MESSAGE => {
                    Some(&mut arriving.message)
                }
                Phase::Arriving(_) | Phase::Running | Phase::Draining => None,
            }
        }
    }
}

/// How much of a payload must be missing at least for it to land: less is copied as fast. Tests and fuzzers come to it with
/// frames of any length.
const WORTH_IT: usize = if cfg!(any(test, fuzzing)) { 8 } else { 16 << 10 };
