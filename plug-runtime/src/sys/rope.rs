//! Encoding a message without copying the long pieces of it that are `Bytes`.
#![allow(unsafe_code)]

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes};

/// Where a message is encoded to.
pub(crate) struct Rope {
    /// All but the pieces.
    bytes: Vec<u8>,
    pieces: Pieces,
    /// Makes room for more bytes. Says whether there is memory for them.
    reserve: fn(&mut Vec<u8>, usize) -> bool,
    /// Whether there was not: then what is encoded is of no use.
    is_short: bool,
}

/// What was not copied, each piece with the index of the byte that it goes before.
type Pieces = Vec<(usize, Bytes)>;

impl Rope {
    /// One with nothing in it, and memory for some of it.
    pub(crate) fn new(memory: Vec<u8>, reserve: fn(&mut Vec<u8>, usize) -> bool) -> Rope {
        debug_assert!(memory.is_empty(), "it has something in it");
        Rope { bytes: memory, pieces: Vec::new(), reserve, is_short: false }
    }

    /// What was encoded; `None` if there was no memory for it.
    pub(crate) fn finish(self) -> Option<(Vec<u8>, Pieces)> {
        (!self.is_short).then_some((self.bytes, self.pieces))
    }
}

// SAFETY: `chunk_mut` gives the spare capacity of a vector, which is writable and of the length that it says; `advance_mut`
// makes those bytes a part of the vector, which its caller has initialised.
unsafe impl BufMut for Rope {
    fn remaining_mut(&self) -> usize {
        // As with a vector: what there is no memory for is found as it is put.
        isize::MAX as usize - self.bytes.len()
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        let len = self.bytes.len() + count;
        assert!(len <= self.bytes.capacity(), "more is advanced than there was room for");
        // SAFETY: the caller has initialised so many bytes behind the last, and they lie within the capacity.
        unsafe { self.bytes.set_len(len) };
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        let has_room = LEAST_ROOM <= self.bytes.capacity() - self.bytes.len();
        if !has_room && !(self.reserve)(&mut self.bytes, LEAST_ROOM) {
            // It is of no use any more, but for its memory.
            self.is_short = true;
            self.bytes.clear();
            self.bytes.reserve(LEAST_ROOM);
        }
        UninitSlice::uninit(self.bytes.spare_capacity_mut())
    }

    fn put<T: Buf>(&mut self, mut source: T) {
        // A slice would be copied into memory of its own. Of other sources the same may be true, and then it is no loss.
        let is_slice = size_of::<T>() == size_of::<&[u8]>();
        while source.has_remaining() {
            let len = source.chunk().len();
            if len >= BY_REFERENCE && !is_slice {
                self.pieces.push((self.bytes.len(), source.copy_to_bytes(len)));
            } else {
                self.put_slice(source.chunk());
                source.advance(len);
            }
        }
    }

    #[inline]
    fn put_slice(&mut self, slice: &[u8]) {
        let has_room = slice.len() <= self.bytes.capacity() - self.bytes.len();
        if has_room || (self.reserve)(&mut self.bytes, slice.len()) {
            self.bytes.extend_from_slice(slice);
        } else {
            self.is_short = true;
        }
    }

    #[inline]
    fn put_u8(&mut self, byte: u8) {
        // Numbers come byte by byte, and there may be many.
        self.put_slice(&[byte]);
    }
}

/// From which length on a reference costs less than a copy.
const BY_REFERENCE: usize = 4 << 10;

/// How much room there is at least for what is written in place.
const LEAST_ROOM: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn rope() -> Rope {
        Rope::new(Vec::new(), |buffer, more| buffer.try_reserve(more).is_ok())
    }

    fn joined(rope: Rope) -> (Vec<u8>, Vec<*const u8>) {
        let (bytes, pieces) = rope.finish().unwrap();
        let places = pieces.iter().map(|(_, piece)| piece.as_ptr()).collect();
        let mut all = Vec::new();
        let mut from = 0;
        for (before, piece) in pieces {
            all.extend_from_slice(&bytes[from..before]);
            all.extend_from_slice(&piece);
            from = before;
        }
        all.extend_from_slice(&bytes[from..]);
        (all, places)
    }

    #[test]
    fn long_bytes_are_referred_to_and_all_else_is_copied() {
        let long = Bytes::from(vec![1; BY_REFERENCE]);
        let short = Bytes::from(vec![2; BY_REFERENCE - 1]);
        let slice = vec![3; 2 * BY_REFERENCE];
        let mut rope = rope();
        rope.put_u8(9);
        rope.put(long.clone());
        rope.put(short.clone());
        rope.put(&slice[..]);
        rope.put_u64(7);
        rope.put(long.clone());
        let expected = [&[9][..], &long, &short, &slice, &7_u64.to_be_bytes(), &long].concat();
        assert_eq!(joined(rope), (expected, vec![long.as_ptr(); 2]));
    }

    #[test]
    fn what_comes_in_several_pieces_is_taken_piece_by_piece() {
        let long = Bytes::from(vec![1; BY_REFERENCE]);
        let mut rope = rope();
        rope.put((&b"abc"[..]).chain(long.clone()).chain(&b"def"[..]));
        let expected = [b"abc", &long[..], b"def"].concat();
        assert_eq!(joined(rope), (expected, vec![long.as_ptr()]));
    }

    #[test]
    fn bytes_can_be_written_in_place() {
        let mut rope = rope();
        for round in 0..100_u8 {
            let room = rope.chunk_mut();
            assert!(room.len() >= LEAST_ROOM);
            room[..3].copy_from_slice(&[round; 3]);
            // SAFETY: they were just written.
            unsafe { rope.advance_mut(3) };
        }
        let expected: Vec<u8> = (0..100).flat_map(|round| [round; 3]).collect();
        assert_eq!(joined(rope).0, expected);
    }

    #[test]
    fn r10_what_there_is_no_memory_for_is_not_taken() {
        let mut rope = Rope::new(Vec::new(), |_, _| false);
        rope.put(Bytes::from(vec![1; BY_REFERENCE]));
        rope.put_slice(&[1; 1000]);
        assert!(rope.finish().is_none());

        let mut rope = Rope::new(Vec::new(), |_, _| false);
        rope.put_u8(1);
        assert!(rope.finish().is_none());

        let mut rope = Rope::new(Vec::with_capacity(10), |_, _| false);
        rope.put_slice(&[1; 10]);
        for byte in 0..1000_u32 {
            // As prost writes what it has no other way for.
            rope.chunk_mut().write_byte(0, byte as u8);
            // SAFETY: it was just written.
            unsafe { rope.advance_mut(1) };
        }
        assert!(rope.bytes.len() <= 1000 && rope.finish().is_none());
    }
}
