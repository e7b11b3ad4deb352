//! Memory for what a peer may make large, which may be refused.
//!
//! Small allocations are not asked about: a program that has no memory for those ends, as programs in Rust do.

use bytes::Bytes;

use crate::error::{Error, ErrorKind};

/// Makes room for so many bytes more. Says whether there is memory for them.
pub(crate) fn reserve(buffer: &mut Vec<u8>, more: usize) -> bool {
    #[cfg(test)]
    if more > refuse::LARGEST.get() {
        return false;
    }
    buffer.try_reserve(more).is_ok()
}

/// A copy, unless it is large and there is no memory for it.
pub(super) fn copy(bytes: &[u8]) -> Option<Bytes> {
    if bytes.len() <= SMALL {
        return Some(Bytes::copy_from_slice(bytes));
    }
    let mut copy = Vec::new();
    reserve(&mut copy, bytes.len()).then(|| {
        copy.extend_from_slice(bytes);
        Bytes::from(copy)
    })
}

/// The memory of a message of which this is the last piece, for the next one, if nobody else has it. Fresh pages for each
/// long message take about as long as copying it, since the allocator gives its memory back to the system each time.
pub(super) fn reclaim(piece: Bytes) -> Vec<u8> {
    let memory: Option<Vec<u8>> = piece.try_into_mut().ok().map(Vec::from);
    let mut memory = memory.filter(|memory| memory.capacity() <= KEPT_AT_MOST).unwrap_or_default();
    memory.clear();
    memory
}

/// The most memory that is kept for the next long message.
const KEPT_AT_MOST: usize = 4 << 20;

/// The error of the one call whose message there is no memory for.
#[cold]
pub(crate) fn none_for(what: &str, len: u64) -> Error {
    Error::of_kind(
        ErrorKind::TooLarge,
        format!("there is no memory left here for {what} of {len} bytes"),
    )
}

/// The longest message that is copied without a question.
const SMALL: usize = 4 << 10;

/// Has this thread be without memory, in tests.
#[cfg(test)]
pub(super) mod refuse {
    use std::cell::Cell;

    thread_local! {
        /// The most that is still given at a time.
        pub(super) static LARGEST: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    /// Does something while no more than `largest` bytes are given at a time.
    pub(crate) fn over<R>(largest: usize, act: impl FnOnce() -> R) -> R {
        let before = LARGEST.replace(largest);
        let done = act();
        LARGEST.set(before);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reclaimed_once_nobody_else_has_the_message() {
        let mut sent = Bytes::from(vec![7; 300_000]);
        let other = sent.split_to(100_000);
        assert_eq!(reclaim(sent.clone()).capacity(), 0, "somebody has another part");
        drop(other);
        let memory = reclaim(sent);
        assert!(memory.is_empty() && memory.capacity() >= 200_000);
        assert_eq!(reclaim(vec![7; KEPT_AT_MOST + 1].into()).capacity(), 0, "too large");
    }
}
