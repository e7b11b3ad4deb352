//! Bytes on their way out: frames, and long pieces of messages that are not copied into them.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

/// What is to be sent, in the order in which it goes out.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// All but the pieces.
    bytes: Vec<u8>,
    /// How many of those were sent.
    sent: usize,
    /// Most of the time there are none.
    pieces: Option<Box<Pieces>>,
}

#[derive(Debug, Default)]
struct Pieces {
    queue: VecDeque<Piece>,
    /// How many bytes they have.
    len: usize,
}

/// A part of a message that is not copied.
#[derive(Debug)]
pub(super) struct Piece {
    /// It goes before the byte with this index.
    before: usize,
    pub(super) call: u64,
    pub(super) bytes: Bytes,
}

impl Output {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len() && self.pieces.is_none()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent + self.pieces.as_ref().map_or(0, |pieces| pieces.len)
    }

    /// Where frames are added.
    #[inline]
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Adds a part of a message of a call. It is copied if it is short and our own: then it may be dropped here, where
    /// code of users must not run.
    pub(super) fn push(&mut self, call: u64, bytes: Bytes, is_own: bool) {
        if is_own && bytes.len() < BY_REFERENCE {
            self.bytes.extend_from_slice(&bytes);
            return;
        }
        let pieces = self.pieces.get_or_insert_default();
        pieces.len += bytes.len();
        pieces.queue.push_back(Piece { before: self.bytes.len(), call, bytes });
    }

    /// What comes at a distance from the next byte to be sent, up to the next piece; `None` if that is past the end, or in
    /// a piece.
    pub(super) fn at(&mut self, distance: usize) -> Option<&mut [u8]> {
        let mut index = self.sent.checked_add(distance)?;
        let mut end = self.bytes.len();
        for piece in self.pieces.iter().flat_map(|pieces| &pieces.queue) {
            if index < piece.before {
                end = piece.before;
                break;
            }
            let behind = index.checked_sub(piece.bytes.len());
            index = behind.filter(|index| *index >= piece.before)?;
        }
        self.bytes.get_mut(index..end)
    }

    /// All that is to be sent, in parts that are each in one place.
    pub(crate) fn parts(&self) -> Parts<'_> {
        Parts { output: self, from: self.sent, next: 0, piece: &[] }
    }

    /// All that is to be sent, if that is in one place.
    #[inline]
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        self.pieces.is_none().then(|| &self.bytes[self.sent..])
    }

    /// Notes that so many bytes were sent, and passes on the pieces among them.
    #[inline]
    pub(super) fn advance(&mut self, bytes: usize, done: impl FnMut(Piece)) {
        if self.pieces.is_some() {
            return self.advance_pieces(bytes, done);
        }
        self.advance_bytes(bytes);
    }

    fn advance_bytes(&mut self, bytes: usize) {
        self.sent += bytes;
        debug_assert!(self.sent <= self.bytes.len(), "more was sent than there was");
    }

    #[cold]
    fn advance_pieces(&mut self, mut bytes: usize, mut done: impl FnMut(Piece)) {
        while let Some(pieces) = &mut self.pieces {
            let Some(piece) = pieces.queue.front_mut() else {
                self.pieces = None;
                break;
            };
            let between = bytes.min(piece.before - self.sent);
            self.sent += between;
            bytes -= between;
            let of_piece = bytes.min(piece.bytes.len());
            if of_piece < piece.bytes.len() {
                piece.bytes.advance(of_piece);
                pieces.len -= of_piece;
                return;
            }
            bytes -= of_piece;
            pieces.len -= of_piece;
            pieces.queue.pop_front().map(&mut done);
        }
        self.advance_bytes(bytes);
    }

    /// Forgets what was sent, after all of it was.
    #[inline]
    pub(crate) fn clear(&mut self) {
        debug_assert!(self.is_empty(), "something was not sent");
        self.bytes.clear();
        self.sent = 0;
    }

    /// Drops what was not sent, and returns the pieces of it.
    pub(super) fn discard(&mut self) -> impl Iterator<Item = Piece> + use<> {
        self.bytes.clear();
        self.sent = 0;
        let pieces = self.pieces.take().unwrap_or_default();
        pieces.queue.into_iter()
    }

    /// How much memory is taken that is nobody else's.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives that back, if there is nothing to be sent.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            self.bytes = Vec::new();
            self.sent = 0;
        }
    }

    /// Whether some of it was sent.
    #[cfg(test)]
    pub(crate) fn has_begun(&self) -> bool {
        self.sent > 0
    }

    /// A copy of all that is to be sent.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.parts().collect::<Vec<_>>().concat()
    }
}

/// The parts of an output, none of them empty.
#[derive(Clone)]
pub(crate) struct Parts<'a> {
    output: &'a Output,
    /// From where on the bytes have not been gone through, and from which piece on the pieces.
    from: usize,
    next: usize,
    /// A piece whose turn has come.
    piece: &'a [u8],
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let Output { bytes, pieces, .. } = self.output;
        loop {
            if !self.piece.is_empty() {
                return Some(std::mem::take(&mut self.piece));
            }
            let piece = pieces.as_ref().and_then(|pieces| pieces.queue.get(self.next));
            let to = piece.map_or(bytes.len(), |piece| piece.before);
            let between = &bytes[std::mem::replace(&mut self.from, to)..to];
            self.next += 1;
            self.piece = piece.map_or(&[], |piece| &piece.bytes);
            if !between.is_empty() {
                return Some(between);
            }
            piece?;
        }
    }
}

#[cfg(any(test, fuzzing))]
impl From<Vec<u8>> for Output {
    fn from(bytes: Vec<u8>) -> Self {
        Output { bytes, ..Output::default() }
    }
}

/// From which length on it is cheaper to hand on a reference to bytes than to copy them.
const BY_REFERENCE: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of a few bytes with pieces before, between and behind them, and all that in one.
    fn mixed() -> (Output, Vec<u8>) {
        let mut output = Output::default();
        let mut expected = Vec::new();
        let mut next = 0_u8;
        for len in [BY_REFERENCE, 3, 2 * BY_REFERENCE, BY_REFERENCE, 1, 5, BY_REFERENCE + 1] {
            next += 1;
            let bytes = Bytes::from(vec![next; len]);
            expected.extend_from_slice(&bytes);
            output.push(1, bytes, true);
        }
        (output, expected)
    }

    #[test]
    fn long_pieces_are_not_copied_and_everything_keeps_its_order() {
        let (output, expected) = mixed();
        assert_eq!((output.to_vec(), output.len()), (expected, 5 * BY_REFERENCE + 10));
        assert_eq!(output.bytes.len(), 9);
        assert_eq!(output.whole(), None);
        let piece = Bytes::from(vec![7; BY_REFERENCE]);
        let mut output = Output::default();
        output.push(1, piece.clone(), true);
        assert_eq!(output.parts().next().map(<[u8]>::as_ptr), Some(piece.as_ptr()));
    }

    #[test]
    fn what_may_be_a_users_is_not_dropped_here_however_short_it_is() {
        let mut output = Output::default();
        output.push(1, Bytes::from_static(b"own"), true);
        output.push(3, Bytes::from_static(b"users"), false);
        let mut done = Vec::new();
        output.advance(8, |piece| done.push((piece.call, piece.bytes)));
        assert_eq!(done, [(3, Bytes::from_static(b"users"))]);
        output.push(3, Bytes::from_static(b"users"), false);
        assert_eq!(output.discard().count(), 1);
    }

    #[test]
    fn what_was_sent_is_gone_wherever_it_ended() {
        let (_, expected) = mixed();
        for first in 0..=expected.len() {
            let (mut output, _) = mixed();
            output.advance(first, drop);
            assert_eq!(output.to_vec(), expected[first..], "{first}");
            assert_eq!(output.len(), expected.len() - first);
            assert_eq!(output.is_empty(), first == expected.len());
            output.advance((expected.len() - first) / 2, drop);
            output.advance(output.len(), drop);
            assert!(output.is_empty() && output.pieces.is_none());
            output.clear();
        }
    }

    #[test]
    fn what_stands_between_pieces_is_found_after_any_part_was_sent() {
        let (_, expected) = mixed();
        // The bytes of the frames, and where those that belong to one another end.
        let places = [(BY_REFERENCE, 3), (4 * BY_REFERENCE + 3, 6)];
        // What is near a place where something begins or ends.
        let is_near = |at: usize| (at + 3) % BY_REFERENCE < 16;
        for sent in (0..expected.len()).filter(|at| is_near(*at)) {
            let (mut output, _) = mixed();
            output.advance(sent, drop);
            for at in (sent..=expected.len()).filter(|at| is_near(*at)) {
                let distance = at - sent;
                let found = output.at(distance).map(|bytes| bytes.to_vec());
                let place = places.iter().find(|(begin, len)| (*begin..begin + len).contains(&at));
                let between = place.map(|&(begin, len)| expected[at..begin + len].to_vec());
                let found = found.filter(|bytes| !bytes.is_empty());
                assert_eq!(found, between, "{at} after {sent}");
            }
        }
    }
}
