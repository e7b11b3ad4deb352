//! Two pipes in shared memory: bytes between two processes, without the system.
//!
//! ```text
//! ┌──────────────┬──────────────┬──────────┬──────────────────────┬──────────────────────┐
//! │ marks, to    │ marks, to    │ unused,  │ bytes to the plugin, │ bytes to the host,   │
//! │ the plugin   │ the host     │ to 4096  │ a power of two       │ as many              │
//! └──────────────┴──────────────┴──────────┴──────────────────────┴──────────────────────┘
//! ```
//!
//! Who writes publishes how much it has written, who reads how much it has read, both modulo 2³². Each side keeps its own
//! count to itself and believes the other's only as far as it is possible: so a hostile process can spoil its own
//! messages, as it can in a pipe, and nothing else. Bytes are copied out before anybody looks at them.
//!
//! Who has nothing to do says so in the marks, looks once more, and sleeps; the other side takes that back after each
//! change. Both exchange the same number, so one comes first: either the sleeper is found, or it finds the change. How one
//! side wakes the other is not known here.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use super::memory::SharedMemory;
use crate::sync::atomic::{AtomicU32, Ordering};

/// What the two sides tell each other about one direction.
#[repr(C)]
struct Marks {
    /// How many bytes have been written.
    written: Mark,
    /// How many bytes have been read.
    read: Mark,
    /// Whether the reader waits for bytes; the writer takes that back.
    reader_waits: Mark,
    /// Whether the writer waits for room; the reader takes that back.
    writer_waits: Mark,
}

/// A number, on cache lines of its own: writing it takes no other away from the other side's processor.
#[repr(C, align(128))]
struct Mark(AtomicU32);

/// One direction: where it is, and how much it holds.
struct Ring {
    memory: Arc<SharedMemory>,
    /// Where its marks and its bytes are in the memory.
    marks: usize,
    bytes: usize,
    /// A power of two.
    capacity: u32,
}

/// The end that bytes go in by.
pub(crate) struct RingWriter {
    ring: Ring,
    position: u32,
    /// How far the reader was when that was last looked at.
    read: u32,
    /// Whether the mark was impossible once: it does not become right again.
    is_spoilt: bool,
}

/// The end that bytes come out of.
pub(crate) struct RingReader {
    ring: Ring,
    position: u32,
    /// How far the writer was when that was last looked at.
    written: u32,
}

/// The other side has claimed what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Impossible;

/// Which side of the memory this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Host,
    Plugin,
}

/// How many bytes of memory two rings take that hold `capacity` bytes each, a power of two.
pub(crate) const fn memory_len(capacity: u32) -> usize {
    FIRST_BYTES + 2 * capacity as usize
}

/// The two ends of one side. The memory must have [`memory_len`] of the capacity.
pub(crate) fn ends(memory: Arc<SharedMemory>, capacity: u32, end: End) -> (RingReader, RingWriter) {
    assert!(capacity.is_power_of_two() && memory.len() == memory_len(capacity), "{capacity}");
    let ring = |to: End| {
        let index = to as usize ^ 1;
        let marks = index * size_of::<Marks>();
        let bytes = FIRST_BYTES + index * capacity as usize;
        Ring { memory: memory.clone(), marks, bytes, capacity }
    };
    let (to_own, to_other) = match end {
        End::Host => (End::Host, End::Plugin),
        End::Plugin => (End::Plugin, End::Host),
    };
    let reader = RingReader { ring: ring(to_own), position: 0, written: 0 };
    (reader, RingWriter { ring: ring(to_other), position: 0, read: 0, is_spoilt: false })
}

/// Where a number stands by which the memory is known.
const MARK: usize = FIRST_BYTES - size_of::<u64>();

/// Writes a number into memory that nobody else has yet.
pub(crate) fn set_mark(memory: &SharedMemory, mark: u64) {
    assert!(memory.len() >= FIRST_BYTES);
    // SAFETY: it lies within the memory, and is aligned, since that begins at a page.
    unsafe { memory.start().add(MARK).cast::<u64>().write(mark) };
}

/// The number that stands in memory, as the other side has written it before it told of it.
pub(crate) fn mark(memory: &SharedMemory) -> u64 {
    assert!(memory.len() >= FIRST_BYTES);
    // SAFETY: as above; any bits are a number.
    unsafe { memory.start().add(MARK).cast::<u64>().read_volatile() }
}

/// Where the bytes begin: at a page of their own, so that they are aligned as well as they can be.
const FIRST_BYTES: usize = 4096;

const _: () = assert!(2 * size_of::<Marks>() <= MARK);

impl Ring {
    fn marks(&self) -> &Marks {
        // SAFETY: it lies within the memory, which lives as long as this, and is aligned, since the memory begins at a
        // page. Zeros are valid marks, as is everything else; and being atomic, they may change at any moment.
        unsafe { self.memory.start().add(self.marks).cast::<Marks>().as_ref() }
    }

    /// Where a position is among the bytes, and how many there are from it to their end.
    fn place(&self, position: u32) -> (NonNull<u8>, usize) {
        let offset = (position & (self.capacity - 1)) as usize;
        // SAFETY: it lies within the memory, by the length that `ends` has checked.
        let place = unsafe { self.memory.start().add(self.bytes + offset) };
        (place, self.capacity as usize - offset)
    }

    /// Copies bytes to a position; as many as there is room for at most.
    fn copy_in(&self, position: u32, bytes: &[u8]) {
        let (place, to_end) = self.place(position);
        let (first, second) = bytes.split_at(bytes.len().min(to_end));
        let begin = self.place(0).0;
        // SAFETY: both pieces lie among the bytes of the ring. Nobody has a reference to those; another process may
        // read and write them at any moment, which spoils the bytes and nothing else. In this process no other thread
        // touches them: one that plays the other side keeps to the positions, which stand in order by their atomics.
        unsafe {
            place.copy_from_nonoverlapping(NonNull::from(first).cast(), first.len());
            begin.copy_from_nonoverlapping(NonNull::from(second).cast(), second.len());
        }
    }

    /// Copies bytes from a position, into all of a place that need not be initialised, and is afterwards.
    fn copy_out(&self, position: u32, into: &mut [MaybeUninit<u8>]) {
        let (place, to_end) = self.place(position);
        let (first, second) = into.split_at_mut(into.len().min(to_end));
        let begin = self.place(0).0;
        // SAFETY: as in `copy_in`.
        unsafe {
            place.copy_to_nonoverlapping(NonNull::from(&mut *first).cast(), first.len());
            begin.copy_to_nonoverlapping(NonNull::from(&mut *second).cast(), second.len());
        }
    }
}

impl RingWriter {
    /// Writes what there is room for, and says how much that was.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<usize, Impossible> {
        if self.room() < bytes.len() {
            self.look()?;
        }
        let len = bytes.len().min(self.room());
        if len > 0 {
            self.ring.copy_in(self.position, &bytes[..len]);
            self.position = self.position.wrapping_add(len as u32);
            self.ring.marks().written.0.store(self.position, Ordering::Release);
        }
        Ok(len)
    }

    /// The same of bytes that are in several places.
    pub(crate) fn write_parts<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Result<usize, Impossible> {
        let mut written = 0;
        for part in parts {
            let of_part = match self.write(part) {
                // What was written before is there to be read. The next write fails, whatever the mark is then.
                Err(Impossible) if written > 0 => break,
                result => result?,
            };
            written += of_part;
            if of_part < part.len() {
                break;
            }
        }
        Ok(written)
    }

    /// Whether the reader waits for bytes, and must be woken: to be asked after each write.
    pub(crate) fn must_wake(&self) -> bool {
        self.ring.marks().reader_waits.0.swap(0, Ordering::AcqRel) != 0
    }

    /// How many of the last `len` bytes that were written the reader has taken, as far as it says: at most that many, if
    /// it says what cannot be.
    pub(crate) fn taken_of_last(&self, len: usize) -> usize {
        let read = self.ring.marks().read.0.load(Ordering::Acquire);
        let left = self.position.wrapping_sub(read);
        if left > self.ring.capacity { len } else { len.saturating_sub(left as usize) }
    }

    /// Says that this side waits for room, unless there is some by now. Then the reader wakes this side once there is.
    pub(crate) fn begin_to_wait(&mut self) -> Result<bool, Impossible> {
        let waits = &self.ring.marks().writer_waits.0;
        waits.swap(1, Ordering::AcqRel);
        self.look()?;
        if self.room() > 0 {
            self.ring.marks().writer_waits.0.swap(0, Ordering::AcqRel);
        }
        Ok(self.room() == 0)
    }

    fn look(&mut self) -> Result<(), Impossible> {
        let read = self.ring.marks().read.0.load(Ordering::Acquire);
        self.is_spoilt |= self.position.wrapping_sub(read) > self.ring.capacity;
        if self.is_spoilt {
            return Err(Impossible);
        }
        self.read = read;
        Ok(())
    }

    fn room(&self) -> usize {
        (self.ring.capacity - self.position.wrapping_sub(self.read)) as usize
    }
}

impl RingReader {
    /// Reads what is there, without waiting; 0 if there is nothing.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> Result<usize, Impossible> {
        // SAFETY: what is initialised may be written like what is not, and `take` writes nothing else into it than bytes
        // that are.
        self.take(unsafe { &mut *(&raw mut *into as *mut [MaybeUninit<u8>]) })
    }

    /// The same behind what is in a vector, within its capacity, and `most` bytes at most.
    pub(crate) fn read_behind(
        &mut self,
        memory: &mut Vec<u8>,
        most: usize,
    ) -> Result<usize, Impossible> {
        let room = memory.spare_capacity_mut();
        let most = most.min(room.len());
        let len = self.take(&mut room[..most])?;
        // SAFETY: so many bytes behind the last have just been initialised, and they lie within the capacity.
        unsafe { memory.set_len(memory.len() + len) };
        Ok(len)
    }

    /// Takes what is there, and says how much that is: so many bytes of the place are initialised then.
    fn take(&mut self, into: &mut [MaybeUninit<u8>]) -> Result<usize, Impossible> {
        if self.held() == 0 {
            self.look()?;
        }
        let len = into.len().min(self.held());
        if len > 0 {
            self.ring.copy_out(self.position, &mut into[..len]);
            self.position = self.position.wrapping_add(len as u32);
            self.ring.marks().read.0.store(self.position, Ordering::Release);
        }
        Ok(len)
    }

    /// Whether the writer waits for room, and must be woken: to be asked after each read. Not before there is room for
    /// something: a writer that is woken for each few bytes is slow.
    pub(crate) fn must_wake(&self) -> bool {
        let is_roomy = self.held() <= self.ring.capacity as usize / 2;
        is_roomy && self.ring.marks().writer_waits.0.swap(0, Ordering::AcqRel) != 0
    }

    /// Claims to have read up to a position, as a hostile process may.
    #[cfg(all(test, target_os = "linux", feature = "shm", not(plug_portable)))]
    pub(crate) fn claim_to_have_read(&self, position: u32) {
        self.ring.marks().read.0.store(position, Ordering::Release);
    }

    /// The most that it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.ring.capacity as usize
    }

    /// Whether there is something to be read. What cannot be is for `read` to find.
    pub(crate) fn has_bytes(&self) -> bool {
        self.held() > 0 || self.ring.marks().written.0.load(Ordering::Relaxed) != self.position
    }

    /// Says that this side waits for bytes, unless there are some by now. Then the writer wakes this side once there are.
    pub(crate) fn begin_to_wait(&self) -> bool {
        let waits = &self.ring.marks().reader_waits.0;
        waits.swap(1, Ordering::AcqRel);
        if self.has_bytes() {
            waits.swap(0, Ordering::AcqRel);
            return false;
        }
        true
    }

    /// Says that this side waits no longer, whoever has woken it.
    pub(crate) fn end_waiting(&self) {
        self.ring.marks().reader_waits.0.swap(0, Ordering::AcqRel);
    }

    fn look(&mut self) -> Result<(), Impossible> {
        let written = self.ring.marks().written.0.load(Ordering::Acquire);
        if written.wrapping_sub(self.position) > self.ring.capacity {
            return Err(Impossible);
        }
        self.written = written;
        Ok(())
    }

    fn held(&self) -> usize {
        self.written.wrapping_sub(self.position) as usize
    }
}

#[cfg(test)]
mod tests;
