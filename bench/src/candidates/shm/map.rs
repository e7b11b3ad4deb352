//! The memory: whose turn it is, and a place for a request and for a reply. The only file of the benchmark with `unsafe`.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use anyhow::{Context as _, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// How often a side has passed its turn, and whether the other one sleeps until the next time.
#[repr(C, align(64))]
pub struct Turn {
    pub count: AtomicU32,
    pub sleeping: AtomicU32,
}

/// At the beginning of the memory.
#[repr(C)]
struct Head {
    requests: Turn,
    replies: Turn,
}

/// Where the requests begin, so that they are aligned to pages.
const REQUEST_AT: usize = 4096;

pub struct Map {
    start: NonNull<c_void>,
    size: usize,
}

impl Map {
    /// The length of the memory for messages of a size.
    pub fn length_for(size: usize) -> u64 {
        (REQUEST_AT + 2 * size) as u64
    }

    /// The memory behind `memory`, which is as long as [`length_for`](Map::length_for) says.
    pub fn new(memory: BorrowedFd<'_>, size: usize) -> Result<Map> {
        let length = usize::try_from(Map::length_for(size))?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: it is a fresh mapping at an address that the kernel chooses, so it overlaps nothing that exists.
        let start = unsafe {
            mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, memory, 0)
                .context("cannot map the memory")?
        };
        let start = NonNull::new(start).context("the memory is at address 0")?;
        Ok(Map { start, size })
    }

    /// Passed by the host.
    pub fn requests(&self) -> &Turn {
        &self.head().requests
    }

    /// Passed by the child.
    pub fn replies(&self) -> &Turn {
        &self.head().replies
    }

    /// In the host's turn.
    pub fn write_request(&self, request: &[u8]) {
        assert_eq!(request.len(), self.size);
        // SAFETY: the place has `size` bytes, as `request` has; the child does not look at it before its turn.
        unsafe { std::ptr::copy_nonoverlapping(request.as_ptr(), self.request(), self.size) }
    }

    /// In the host's turn.
    pub fn read_reply(&self, reply: &mut [u8]) {
        assert_eq!(reply.len(), self.size);
        // SAFETY: the place has `size` bytes, as `reply` has; the child does not write to it before its turn.
        unsafe { std::ptr::copy_nonoverlapping(self.reply(), reply.as_mut_ptr(), self.size) }
    }

    /// Makes a reply of the request, in the child's turn.
    pub fn echo(&self) {
        // SAFETY: both places have `size` bytes and do not overlap; the host touches neither before its turn.
        unsafe { std::ptr::copy_nonoverlapping(self.request(), self.reply(), self.size) }
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping is page-aligned, longer than a head, lives as long as `self`, and both sides touch this
        // part of it only as the atomics that it consists of, for which any bytes are valid.
        unsafe { self.start.cast::<Head>().as_ref() }
    }

    fn request(&self) -> *mut u8 {
        self.start.as_ptr().cast::<u8>().wrapping_add(REQUEST_AT)
    }

    fn reply(&self) -> *mut u8 {
        self.request().wrapping_add(self.size)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and no reference into it outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr(), REQUEST_AT + 2 * self.size) };
    }
}
