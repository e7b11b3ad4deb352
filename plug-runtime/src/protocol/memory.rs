//! Memory for what a peer may make large, which may be refused.
//!
//! Small allocations are not asked about: a program that has no memory for those ends, as programs in Rust do.

use std::collections::VecDeque;

use bytes::Bytes;

use super::KEPT;
use crate::error::{Error, ErrorKind};

/// Makes room for so many bytes more. Says whether there is memory for them.
pub(crate) fn reserve(buffer: &mut Vec<u8>, more: usize) -> bool {
    #[cfg(test)]
    if more > refuse::LARGEST.get() {
        return false;
    }
    buffer.try_reserve(more).is_ok()
}

/// Makes room for so many bytes more of a message of `total`: at once for as many as there are, as they arrive, but not for
/// more than the message has. Says whether there is memory for them.
pub(super) fn grow(buffer: &mut Vec<u8>, more: usize, total: u64) -> bool {
    let needed = buffer.len() + more;
    if needed <= buffer.capacity() {
        return true;
    }
    let total = usize::try_from(total).unwrap_or(usize::MAX);
    let roomy = needed.max(total.min(2 * buffer.capacity()));
    reserve_exact(buffer, roomy - buffer.len()) || reserve_exact(buffer, more)
}

fn reserve_exact(buffer: &mut Vec<u8>, more: usize) -> bool {
    #[cfg(test)]
    if more > refuse::LARGEST.get() {
        return false;
    }
    buffer.try_reserve_exact(more).is_ok()
}

/// A copy, unless it is large and there is no memory for it.
pub(crate) fn copy(bytes: &[u8]) -> Option<Bytes> {
    if bytes.len() <= SMALL {
        return Some(Bytes::copy_from_slice(bytes));
    }
    let mut copy = Vec::new();
    reserve(&mut copy, bytes.len()).then(|| {
        copy.extend_from_slice(bytes);
        Bytes::from(copy)
    })
}

/// The memory of a message, for the next one, if nobody else has it. Fresh pages for each long message take about as long
/// as copying it, since the allocator gives its memory back to the system each time.
pub(super) fn reclaim(mut message: Bytes) -> Vec<u8> {
    // What is in it would be moved to the front; and of nothing, no memory is left.
    message.truncate(1);
    let mut memory = message.try_into_mut().map(Vec::from).unwrap_or_default();
    memory.clear();
    memory
}

/// Memory of messages that have arrived, for the next ones, once nobody else has it.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Those of the last messages, in their order. Their users have them, too, or had.
    messages: VecDeque<Bytes>,
    /// How long they are together.
    len: usize,
}

impl Kept {
    /// Notes a message that has arrived.
    #[inline]
    pub(super) fn keep(&mut self, message: &Bytes) {
        if message.len() >= KEPT {
            self.keep_long(message);
        }
    }

    #[cold]
    fn keep_long(&mut self, message: &Bytes) {
        if message.len() > KEPT_AT_MOST {
            return;
        }
        while self.len + message.len() > KEPT_AT_MOST {
            let oldest = self.messages.pop_front();
            self.len -= oldest.map_or(0, |oldest| oldest.len());
        }
        self.len += message.len();
        self.messages.push_back(message.clone());
    }

    /// Memory for a message of so many bytes, of about that size; empty if there is none.
    pub(super) fn take(&mut self, total: u64) -> Vec<u8> {
        let is_fit = |len: usize| (total / 2..=total.saturating_mul(2)).contains(&(len as u64));
        let is_free = |message: &Bytes| is_fit(message.len()) && message.is_unique();
        let Some(place) = self.messages.iter().rposition(is_free) else { return Vec::new() };
        let message = self.messages.remove(place).unwrap_or_default();
        self.len -= message.len();
        let memory = reclaim(message);
        // It may have served longer ones before.
        if is_fit(memory.capacity()) { memory } else { Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

/// The most memory that is kept for the next long message.
pub(super) const KEPT_AT_MOST: usize = 4 << 20;

/// The error of the one call whose message there is no memory for.
#[cold]
pub(crate) fn none_for(what: &str, len: u64) -> Error {
    Error::of_kind(
        ErrorKind::TooLarge,
        format!("there is no memory left here for {what} of {len} bytes"),
    )
}

/// The longest message that is copied without a question.
pub(super) const SMALL: usize = 4 << 10;

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
    fn memory_is_lent_again_once_its_message_is_dropped_for_one_of_about_its_length() {
        let mut kept = Kept::default();
        let message = Bytes::from(vec![7; 4 * KEPT]);
        let place = message.as_ptr();
        kept.keep(&message);
        kept.keep(&Bytes::from(vec![7; KEPT - 1]));
        let part = message.slice(KEPT..);
        drop(message);
        assert_eq!(kept.take(4 * KEPT as u64).capacity(), 0, "somebody has a part of it");
        drop(part);
        for total in [0, KEPT as u64, 9 * KEPT as u64, u64::MAX] {
            assert_eq!(kept.take(total).capacity(), 0, "{total}");
        }
        let memory = kept.take(3 * KEPT as u64);
        assert_eq!((memory.as_ptr(), memory.capacity()), (place, 4 * KEPT));
        assert!(kept.is_empty() && kept.len == 0);
    }

    #[test]
    fn memory_that_is_kept_is_bounded() {
        let mut kept = Kept::default();
        for _ in 0..100 {
            kept.keep(&Bytes::from(vec![7; KEPT_AT_MOST / 3]));
        }
        assert_eq!(kept.messages.len(), 3);
        kept.keep(&Bytes::from(vec![7; KEPT_AT_MOST + 1]));
        assert_eq!(kept.messages.len(), 3, "too long a one");
        kept.keep(&Bytes::from(vec![7; KEPT_AT_MOST]));
        assert_eq!((kept.messages.len(), kept.len), (1, KEPT_AT_MOST));
    }

    #[test]
    fn memory_grows_by_what_there_is_and_never_beyond_the_message() {
        let mut buffer = Vec::new();
        let mut capacities = Vec::new();
        while buffer.len() < 1000 {
            assert!(grow(&mut buffer, 100, 1000));
            buffer.extend_from_slice(&[7; 100]);
            capacities.push(buffer.capacity());
        }
        capacities.dedup();
        assert_eq!(capacities, [100, 200, 400, 800, 1000]);
        assert!(!refuse::over(99, || grow(&mut buffer, 100, 2000)));
    }

    #[test]
    fn memory_is_reclaimed_once_nobody_else_has_the_message() {
        let sent = Bytes::from(vec![7; 300_000]);
        let place = sent.as_ptr();
        let other = sent.slice(100_000..);
        assert_eq!(reclaim(sent.clone()).capacity(), 0, "somebody has a part");
        drop(other);
        let memory = reclaim(sent);
        assert!(memory.is_empty());
        assert_eq!((memory.capacity(), memory.as_ptr()), (300_000, place));
    }
}
