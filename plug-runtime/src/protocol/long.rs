//! Long messages on their way out: encoded, in one part or several.

use std::collections::VecDeque;

use bytes::Bytes;

/// An encoded message that is long, in parts of which each is in one place.
#[derive(Debug, Default)]
pub(crate) struct Long {
    /// Those that are not empty. Messages of streams that are short but must wait are here, too, so the first has its place
    /// without memory being taken for it.
    first: Bytes,
    others: VecDeque<Bytes>,
    len: usize,
    /// What it was encoded into.
    memory: Bytes,
    /// Whether all of it is a copy.
    is_copy: bool,
}

impl Long {
    /// Puts a message together: `bytes`, and pieces that were not copied into them, each with the index of the byte that
    /// it goes before, in order.
    pub(crate) fn new(bytes: Bytes, pieces: Vec<(usize, Bytes)>) -> Long {
        let mut long = Long::default();
        let mut from = 0;
        for (before, piece) in pieces {
            long.push(bytes.slice(from..before));
            long.push(piece);
            from = before;
        }
        long.push(bytes.slice(from..));
        long.memory = bytes;
        long
    }

    fn push(&mut self, part: Bytes) {
        self.len += part.len();
        if self.first.is_empty() {
            self.first = part;
        } else if !part.is_empty() {
            self.others.push_back(part);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What it was encoded into, but for the pieces that were not copied.
    pub(super) fn memory(&self) -> &Bytes {
        &self.memory
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes so many bytes off the front, in parts, and says of each whether it is nobody's but this side's: then it was
    /// copied from what a user has.
    pub(super) fn take(&mut self, mut bytes: usize, mut part: impl FnMut(Bytes, bool)) {
        self.len -= bytes;
        while bytes > 0 {
            let taken = self.first.split_to(bytes.min(self.first.len()));
            bytes -= taken.len();
            let is_own = self.is_copy || self.memory.as_ptr_range().contains(&taken.as_ptr());
            part(taken, is_own);
            if self.first.is_empty() {
                let Some(next) = self.others.pop_front() else { break };
                self.first = next;
            }
        }
    }

    /// What is left of it, to be dropped where code of users may run.
    pub(super) fn into_parts(self) -> impl Iterator<Item = Bytes> {
        [self.first].into_iter().chain(self.others).filter(|part| !part.is_empty())
    }
}

/// Of a copy.
impl From<Bytes> for Long {
    fn from(bytes: Bytes) -> Self {
        Long { len: bytes.len(), first: bytes, is_copy: true, ..Long::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_their_order_however_many_bytes_are_taken_at_a_time() {
        let pieces = || vec![(0, "ab".into()), (2, "cde".into()), (2, "".into()), (3, "f".into())];
        for at_a_time in 1..12 {
            let mut long = Long::new("0123".into(), pieces());
            assert_eq!(long.len(), 10);
            let mut all = Vec::new();
            while !long.is_empty() {
                let before = all.len();
                let bytes = at_a_time.min(long.len());
                long.take(bytes, |part, _| all.extend_from_slice(&part));
                assert_eq!(all.len() - before, bytes);
            }
            assert_eq!(all, b"ab01cde2f3");
        }
    }

    #[test]
    fn what_is_left_is_all_that_was_not_taken() {
        let mut long = Long::new("0123".into(), vec![(2, "ab".into())]);
        long.take(3, |_, _| {});
        assert_eq!(long.into_parts().collect::<Vec<_>>(), ["b", "23"]);
    }
}
