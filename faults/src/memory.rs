//! The memory that two sides share, by hand, after `PROTOCOL.md`: as a file that is read and written, so that either side
//! can put anything anywhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::wire::MemoryOffer;

/// The memory, opened as a file.
#[derive(Debug)]
pub struct Memory {
    /// The file.
    pub file: File,
    capacity: u32,
}

/// A direction, as it stands in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The first.
    Plugin = 0,
    /// The second.
    Host = 1,
}

/// What stands in the memory for each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// How many bytes were written.
    Written = 0,
    /// How many bytes were read.
    Read = 1,
    /// Whether the reader waits.
    ReaderWaits = 2,
    /// Whether the writer waits.
    WriterWaits = 3,
}

/// How many bytes the memory has.
pub fn memory_len(capacity: u32) -> u64 {
    4096 + 2 * u64::from(capacity)
}

impl Memory {
    /// New memory without any seals.
    ///
    /// # Errors
    ///
    /// If the system has none.
    pub fn unsealed(capacity: u32, mark: u64) -> io::Result<Memory> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("plug", flags)?);
        file.set_len(memory_len(capacity))?;
        file.write_all_at(&mark.to_ne_bytes(), 4088)?;
        Ok(Memory { file, capacity })
    }

    /// New memory as it should be.
    ///
    /// # Errors
    ///
    /// If the system has none.
    pub fn new(capacity: u32, mark: u64) -> io::Result<Memory> {
        let memory = Memory::unsealed(capacity, mark)?;
        memory.seal(SealFlags::SHRINK | SealFlags::GROW)?;
        Ok(memory)
    }

    /// That of another process.
    ///
    /// # Errors
    ///
    /// If it is not there, or has another mark.
    pub fn open(pid: u32, offer: &MemoryOffer) -> io::Result<Memory> {
        let path = format!("/proc/{pid}/fd/{}", offer.descriptor);
        let file = File::options().read(true).write(true).open(path)?;
        let mut mark = [0; 8];
        file.read_exact_at(&mut mark, 4088)?;
        if u64::from_ne_bytes(mark) != offer.mark {
            return Err(io::Error::other("another mark"));
        }
        Ok(Memory { file, capacity: offer.capacity })
    }

    /// Adds seals.
    ///
    /// # Errors
    ///
    /// If it may have no more.
    pub fn seal(&self, seals: SealFlags) -> io::Result<()> {
        Ok(rustix::fs::fcntl_add_seals(&self.file, seals)?)
    }

    /// What its plugin says of it.
    pub fn offer(&self, mark: u64) -> MemoryOffer {
        let descriptor = self.file.as_raw_fd().unsigned_abs();
        MemoryOffer { descriptor, capacity: self.capacity, mark }
    }

    /// What one side reads that has read `pipe` so far. It rings as long as somebody has the bell.
    pub fn input(self: Arc<Self>, to: To, pipe: File, bell: Weak<File>) -> Input {
        Input { memory: self, to, position: 0, pipe, bell }
    }

    /// What one side writes that has written `bell` so far.
    pub fn output(self: Arc<Self>, to: To, bell: Arc<File>) -> Output {
        Output { memory: self, to, position: 0, bell, rings: true }
    }

    /// A mark.
    pub fn mark(&self, to: To, mark: Mark) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, place(to, mark))?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// Changes a mark.
    pub fn set_mark(&self, to: To, mark: Mark, value: u32) -> io::Result<()> {
        self.file.write_all_at(&value.to_ne_bytes(), place(to, mark))
    }

    /// Writes bytes, at most so many as it holds, and says nothing of it.
    pub fn put(&self, to: To, position: u32, bytes: &[u8]) -> io::Result<()> {
        let (first, second) = bytes.split_at(bytes.len().min(self.to_end(position)));
        self.file.write_all_at(first, self.bytes(to, position))?;
        self.file.write_all_at(second, self.bytes(to, 0))
    }

    fn get(&self, to: To, position: u32, into: &mut [u8]) -> io::Result<()> {
        let (first, second) = into.split_at_mut(into.len().min(self.to_end(position)));
        self.file.read_exact_at(first, self.bytes(to, position))?;
        self.file.read_exact_at(second, self.bytes(to, 0))
    }

    fn bytes(&self, to: To, position: u32) -> u64 {
        4096 + to as u64 * u64::from(self.capacity) + u64::from(position % self.capacity)
    }

    fn to_end(&self, position: u32) -> usize {
        (self.capacity - position % self.capacity) as usize
    }
}

fn place(to: To, mark: Mark) -> u64 {
    to as u64 * 512 + mark as u64 * 128
}

/// What one side reads.
#[derive(Debug)]
pub struct Input {
    memory: Arc<Memory>,
    to: To,
    position: u32,
    /// Where the bells come.
    pub pipe: File,
    bell: Weak<File>,
}

/// What one side writes.
#[derive(Debug)]
pub struct Output {
    memory: Arc<Memory>,
    to: To,
    /// How much was written.
    pub position: u32,
    /// The pipe that was written so far.
    pub bell: Arc<File>,
    /// Whether it rings for a reader that waits.
    pub rings: bool,
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let held = self.memory.mark(self.to, Mark::Written)?.wrapping_sub(self.position);
            if held > 0 {
                let len = into.len().min(held as usize);
                self.memory.get(self.to, self.position, &mut into[..len])?;
                self.position = self.position.wrapping_add(len as u32);
                self.memory.set_mark(self.to, Mark::Read, self.position)?;
                if self.memory.mark(self.to, Mark::WriterWaits)? == 1 {
                    self.memory.set_mark(self.to, Mark::WriterWaits, 0)?;
                    let bell = self.bell.upgrade();
                    bell.map_or(Ok(()), |bell| (&*bell).write_all(&[0]))?;
                }
                return Ok(len);
            }
            self.memory.set_mark(self.to, Mark::ReaderWaits, 1)?;
            let is_empty = self.memory.mark(self.to, Mark::Written)? == self.position;
            // A bell that is not needed any more is heard later.
            if is_empty && self.pipe.read(&mut [0; 64])? == 0 {
                return Ok(0);
            }
            self.memory.set_mark(self.to, Mark::ReaderWaits, 0)?;
        }
    }
}

impl Output {
    /// Says that so much has been written, and wakes who waits for it.
    ///
    /// # Errors
    ///
    /// If nobody is there.
    pub fn publish(&mut self, position: u32) -> io::Result<()> {
        self.position = position;
        self.memory.set_mark(self.to, Mark::Written, position)?;
        if self.rings && self.memory.mark(self.to, Mark::ReaderWaits)? == 1 {
            self.memory.set_mark(self.to, Mark::ReaderWaits, 0)?;
            (&*self.bell).write_all(&[0])?;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let held = self.position.wrapping_sub(self.memory.mark(self.to, Mark::Read)?);
            let room = self.memory.capacity.saturating_sub(held) as usize;
            if room > 0 {
                let len = bytes.len().min(room);
                self.memory.put(self.to, self.position, &bytes[..len])?;
                self.publish(self.position.wrapping_add(len as u32))?;
                return Ok(len);
            }
            // The bells are for who reads: this one looks again.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
