//! Memory for what a peer may make large, which may be refused.
//!
//! Small allocations are not asked about: a program that has no memory for those ends, as programs in Rust do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::is_large;
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

/// Memory of long messages that nobody has any more, for the next ones. Fresh pages for each of them take longer than
/// copying: half the time of an echo of 1 MiB, since the allocator gives as much memory back to the system each time.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// A long message whose memory goes back to where it came from.
struct Pooled {
    message: Vec<u8>,
    pool: Pool,
}

impl Pool {
    /// Memory with nothing in it, if there is some.
    pub(super) fn take(&self) -> Vec<u8> {
        self.lock().pop().unwrap_or_default()
    }

    /// Keeps the memory of a message that has been sent, if nobody else has it. `piece` is the last that is left of it.
    pub(super) fn reclaim(&self, piece: Bytes) {
        if let Ok(memory) = piece.try_into_mut() {
            self.keep(memory.into());
        }
    }

    /// Gives a message away that comes back once nobody has it any more.
    pub(super) fn lend(&self, message: Vec<u8>) -> Bytes {
        Bytes::from_owner(Pooled { message, pool: self.clone() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Gives all back to the system.
    pub(super) fn release(&self) {
        self.lock().clear();
    }

    fn keep(&self, mut memory: Vec<u8>) {
        memory.clear();
        let mut kept = self.lock();
        if is_large(&memory) && memory.capacity() <= KEPT_AT_MOST && kept.len() < KEPT {
            kept.push(memory);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.keep(std::mem::take(&mut self.message));
    }
}

/// How many of them are kept, one for each direction, and how large they may be.
const KEPT: usize = 2;
const KEPT_AT_MOST: usize = 4 << 20;

/// The error of the one call whose message there is no memory for.
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
    fn memory_comes_back_once_nobody_has_the_message_any_more() {
        let pool = Pool::default();
        let message = pool.lend(vec![7; 300_000]);
        let part = message.slice(10..20);
        drop(message);
        assert!(pool.is_empty(), "a part of it is there");
        assert_eq!(part, vec![7; 10]);
        drop(part);
        let again = pool.take();
        assert!(again.is_empty() && again.capacity() >= 300_000);
        assert!(pool.is_empty());

        let mut sent = Bytes::from(vec![7; 300_000]);
        let other = sent.split_to(100_000);
        pool.reclaim(sent.clone());
        assert!(pool.is_empty(), "somebody has another part");
        drop(other);
        pool.reclaim(sent);
        assert!(pool.take().capacity() >= 200_000);
    }

    #[test]
    fn little_is_kept() {
        let pool = Pool::default();
        drop(pool.lend(vec![7; 1000]));
        drop(pool.lend(vec![7; KEPT_AT_MOST + 1]));
        assert!(pool.is_empty(), "too small to matter, and too large");
        let messages = [(); 10].map(|()| pool.lend(vec![7; 100_000]));
        drop(messages);
        assert_eq!(pool.lock().len(), KEPT);
        pool.release();
        assert!(pool.is_empty());
    }
}
