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
mod tests {
    use super::*;

    fn both(capacity: u32) -> [(RingReader, RingWriter); 2] {
        let memory = Arc::new(SharedMemory::private(memory_len(capacity)));
        prepare(&memory);
        [End::Host, End::Plugin].map(|end| ends(memory.clone(), capacity, end))
    }

    /// Loom's atomics are not valid when they are 0.
    fn prepare(memory: &SharedMemory) {
        let fresh = || Marks {
            written: Mark(AtomicU32::new(0)),
            read: Mark(AtomicU32::new(0)),
            reader_waits: Mark(AtomicU32::new(0)),
            writer_waits: Mark(AtomicU32::new(0)),
        };
        // SAFETY: the marks are at the beginning of the memory, which nobody else has yet.
        unsafe { memory.start().cast().write([fresh(), fresh()]) };
    }

    #[cfg(not(loom))]
    mod one_by_one {
        use proptest::prelude::*;

        use super::*;

        #[test]
        fn what_goes_in_comes_out_on_the_other_side_also_around_the_end() {
            let [(mut host_reader, mut host_writer), (mut reader, mut writer)] = both(8);
            let mut into = [0; 16];
            for round in 0..10_u8 {
                assert_eq!(host_writer.write(&[round, 1, 2, 3, 4]), Ok(5));
                assert_eq!(writer.write(&[round; 3]), Ok(3));
                assert_eq!(reader.read(&mut into), Ok(5));
                assert_eq!(into[..5], [round, 1, 2, 3, 4]);
                assert_eq!(host_reader.read(&mut into), Ok(3));
                assert_eq!(into[..3], [round; 3]);
                assert_eq!(reader.read(&mut into), Ok(0));
            }
            assert_eq!(writer.write(&[9; 16]), Ok(8), "no more than there is room for");
            assert_eq!(writer.write(&[9; 16]), Ok(0));
            assert_eq!(host_reader.read(&mut into[..6]), Ok(6));
            assert_eq!(writer.write(&[9; 16]), Ok(6));
        }

        #[test]
        fn positions_pass_the_end_of_their_numbers() {
            let [(_, mut writer), (mut reader, _)] = both(8);
            let start = u32::MAX - 5;
            writer.position = start;
            writer.read = start;
            reader.position = start;
            reader.written = start;
            writer.ring.marks().written.0.store(start, Ordering::Relaxed);
            writer.ring.marks().read.0.store(start, Ordering::Relaxed);
            let mut into = [0; 8];
            for round in 0..10 {
                assert_eq!(writer.write(&[round; 7]), Ok(7));
                assert_eq!(reader.read(&mut into), Ok(7));
                assert_eq!(into[..7], [round; 7]);
            }
        }

        #[test]
        fn who_waits_is_woken_once_and_only_then() {
            let [(_, mut writer), (mut reader, _)] = both(8);
            assert!(!writer.must_wake(), "nobody waits");
            assert!(reader.begin_to_wait());
            writer.write(&[1; 8]).unwrap();
            assert!(writer.must_wake());
            assert!(!writer.must_wake(), "it has been told");
            assert!(!reader.begin_to_wait(), "there is something");
            assert!(!writer.must_wake());
            assert_eq!(writer.begin_to_wait(), Ok(true));
            let mut into = [0; 3];
            reader.read(&mut into).unwrap();
            assert!(!reader.must_wake(), "there is room for a few bytes only");
            reader.read(&mut into).unwrap();
            assert!(reader.must_wake());
            assert!(!reader.must_wake());
            assert_eq!(writer.begin_to_wait(), Ok(false), "there is room");
            reader.read(&mut into).unwrap();
            assert!(reader.begin_to_wait());
            reader.end_waiting();
            writer.write(&[1]).unwrap();
            assert!(!writer.must_wake());
        }

        #[test]
        fn x11_what_was_written_before_a_mark_became_impossible_counts() {
            let [(_, mut writer), (mut reader, _)] = both(8);
            reader.ring.marks().read.0.store(1000, Ordering::Release);
            let parts = [&[1, 2, 3][..], &[4; 8][..]];
            let written = writer.write_parts(parts.iter().copied());
            let read = reader.read(&mut [0; 8]).unwrap();
            assert_eq!(written.unwrap_or(0), read, "{written:?}");
            // To read has made the mark right again, which is too late.
            assert_eq!(writer.write_parts(parts[1..].iter().copied()), Err(Impossible));
        }

        #[test]
        fn a_writer_learns_how_much_of_its_last_bytes_was_taken() {
            let [(_, mut writer), (mut reader, _)] = both(8);
            writer.write(&[1; 3]).unwrap();
            writer.write(&[2; 4]).unwrap();
            assert_eq!(writer.taken_of_last(4), 0);
            reader.read(&mut [0; 2]).unwrap();
            assert_eq!(writer.taken_of_last(4), 0, "those were others");
            reader.read(&mut [0; 3]).unwrap();
            assert_eq!(writer.taken_of_last(4), 2);
            reader.read(&mut [0; 8]).unwrap();
            assert_eq!(writer.taken_of_last(4), 4);
            reader.ring.marks().read.0.store(100, Ordering::Relaxed);
            assert_eq!(writer.taken_of_last(4), 4, "it may have taken them");
        }

        #[test]
        fn x11_positions_that_cannot_be_are_refused() {
            let [(mut host_reader, mut host_writer), (reader, writer)] = both(8);
            host_writer.write(&[1; 8]).unwrap();
            for claimed in [9_u32, 1 << 31, u32::MAX] {
                writer.ring.marks().written.0.store(claimed, Ordering::Relaxed);
                assert_eq!(host_reader.read(&mut [0; 8]), Err(Impossible), "written: {claimed}");
                reader.ring.marks().read.0.store(claimed, Ordering::Relaxed);
                assert_eq!(host_writer.write(&[1]), Err(Impossible), "read: {claimed}");
                assert_eq!(host_writer.begin_to_wait(), Err(Impossible), "read: {claimed}");
            }
        }

        #[derive(Clone, Copy, Debug)]
        enum Step {
            Write(usize),
            Read(usize),
        }

        proptest! {
            /// Held against a queue.
            #[cfg_attr(miri, ignore = "proptest asks for the working directory")]
            #[test]
            fn it_is_a_queue(
                steps in prop::collection::vec(
                    prop_oneof![(0..20_usize).prop_map(Step::Write), (0..20_usize).prop_map(Step::Read)],
                    0..200,
                ),
                start in any::<u32>(),
            ) {
                let [(_, mut writer), (mut reader, _)] = both(16);
                writer.position = start;
                writer.read = start;
                reader.position = start;
                reader.written = start;
                writer.ring.marks().written.0.store(start, Ordering::Relaxed);
                writer.ring.marks().read.0.store(start, Ordering::Relaxed);
                let mut model = std::collections::VecDeque::new();
                let mut next = 0_u8;
                for step in steps {
                    match step {
                        Step::Write(len) => {
                            let bytes: Vec<u8> = (0..len).map(|at| next.wrapping_add(at as u8)).collect();
                            let written = writer.write(&bytes).unwrap();
                            prop_assert_eq!(written, len.min(16 - model.len()));
                            model.extend(&bytes[..written]);
                            next = next.wrapping_add(written as u8);
                        }
                        Step::Read(len) => {
                            let mut into = vec![0; len];
                            let read = reader.read(&mut into).unwrap();
                            // What was there when it last looked, which it does when nothing of that is left.
                            prop_assert!(read <= len.min(model.len()));
                            prop_assert_eq!(read == 0, len == 0 || model.is_empty());
                            let expected: Vec<u8> = model.drain(..read).collect();
                            prop_assert_eq!(&into[..read], &expected[..]);
                        }
                    }
                    prop_assert_eq!(reader.has_bytes(), !model.is_empty());
                }
            }
        }

        /// As two processes use it: they wake each other by unparking, and neither may sleep for good.
        #[test]
        fn two_threads_pass_bytes_and_wake_each_other() {
            const LEN: usize = if cfg!(miri) { 2_000 } else { 2_000_000 };
            let [(_, mut writer), (mut reader, _)] = both(64);
            let reading = std::thread::current();
            let (sender, writing) = std::sync::mpsc::channel();
            let sent = std::thread::spawn(move || {
                sender.send(std::thread::current()).unwrap();
                let mut sent = 0;
                while sent < LEN {
                    let len = (sent % 97 + 1).min(LEN - sent);
                    let bytes: Vec<u8> = (sent..sent + len).map(|at| at as u8).collect();
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let written = writer.write(rest).unwrap();
                        rest = &rest[written..];
                        if writer.must_wake() {
                            reading.unpark();
                        }
                        if written == 0 && writer.begin_to_wait().unwrap() {
                            std::thread::park();
                        }
                    }
                    sent += len;
                }
            });
            let writing = writing.recv().unwrap();
            let mut into = [0; 50];
            let mut received = 0;
            while received < LEN {
                let len = reader.read(&mut into).unwrap();
                let expected: Vec<u8> = (received..received + len).map(|at| at as u8).collect();
                assert_eq!(into[..len], expected[..], "at {received}");
                received += len;
                if reader.must_wake() {
                    writing.unpark();
                }
                if len == 0 && reader.begin_to_wait() {
                    std::thread::park();
                    reader.end_waiting();
                }
            }
            sent.join().unwrap();
        }
    }

    #[cfg(loom)]
    mod loom_models {
        use loom::thread;

        use super::*;
        use crate::sync::{current, model, park};

        /// Each way of waiting: the reader for the first byte, and the writer for room for its third.
        #[test]
        fn x11_neither_side_sleeps_while_there_is_something_to_do() {
            model(|| {
                let [(_, mut writer), (mut reader, _)] = both(2);
                let reading = current();
                let (ready, writing) = loom::sync::mpsc::channel();
                let writes = thread::spawn(move || {
                    ready.send(current()).unwrap();
                    for byte in 0..3 {
                        while writer.write(&[byte]).unwrap() == 0 {
                            if writer.begin_to_wait().unwrap() {
                                park();
                            }
                        }
                        if writer.must_wake() {
                            reading.unpark();
                        }
                    }
                });
                let writing = writing.recv().unwrap();
                for expected in 0..3 {
                    let mut into = [9];
                    while reader.read(&mut into).unwrap() == 0 {
                        if reader.begin_to_wait() {
                            park();
                            reader.end_waiting();
                        }
                    }
                    assert_eq!(into, [expected]);
                    if reader.must_wake() {
                        writing.unpark();
                    }
                }
                writes.join().unwrap();
            });
        }
    }
}
