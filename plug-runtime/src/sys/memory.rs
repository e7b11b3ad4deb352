//! Memory that two processes share.
//!
//! One process makes it, without a name, and seals its size: a mapping of a file that may shrink is a SIGBUS waiting to
//! happen. The other one finds it among the descriptors of the first.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

/// The features that a hello lists for this.
pub(crate) const FEATURES: &[&str] = system::FEATURES;

/// Memory that is mapped into this process, and maybe into another one.
///
/// Whatever is read from it may have been written by that other process, at any moment.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    start: NonNull<u8>,
    len: usize,
    /// How to let go of it.
    unmap: fn(NonNull<u8>, usize),
}

// SAFETY: it is an address and a length, which any thread may have. What threads do with the bytes there is up to those
// who ask for the address.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// New memory of `len` bytes, all 0, and the descriptor by which another process finds it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] where the system has nothing like that.
    pub(crate) fn new(len: usize) -> io::Result<(OwnedFd, SharedMemory)> {
        system::new(len)
    }

    /// The memory of `len` bytes that another process has open as its descriptor `fd`. Nothing of what that process says
    /// is believed: there must be memory, of that size, and sealed, or it is an error.
    pub(crate) fn open(pid: u32, fd: u32, len: usize) -> io::Result<SharedMemory> {
        system::open(pid, fd, len)
    }

    /// Where it begins: at a page.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Memory of this process alone, all 0.
    #[cfg(test)]
    pub(crate) fn private(len: usize) -> SharedMemory {
        use std::alloc::{Layout, alloc_zeroed, dealloc};

        fn layout(len: usize) -> Layout {
            Layout::from_size_align(len, 4096).unwrap()
        }
        // SAFETY: the layout has a size, which no test makes 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout(len)) }).unwrap();
        // SAFETY: it was allocated with this layout, and is freed once.
        let unmap = |start: NonNull<u8>, len| unsafe { dealloc(start.as_ptr(), layout(len)) };
        SharedMemory { start, len, unmap }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        (self.unmap)(self.start, self.len);
    }
}

#[cfg(all(target_os = "linux", feature = "shm", not(plug_portable)))]
mod system {
    use std::io;
    use std::os::fd::{AsRawFd as _, OwnedFd};
    use std::ptr::{self, NonNull};
    use std::sync::OnceLock;

    use rustix::fs::{
        self, AtFlags, FallocateFlags, FileType, MemfdFlags, Mode, OFlags, SealFlags, Statx,
        StatxFlags,
    };
    use rustix::io::Errno;
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    use rustix::process::{Resource, getrlimit};

    use super::SharedMemory;
    use crate::sys::seam::{self, Call};

    pub(super) const FEATURES: &[&str] = &["shm"];

    /// Nobody can make it shorter or longer.
    const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

    pub(super) fn new(len: usize) -> io::Result<(OwnedFd, SharedMemory)> {
        // This process would get SIGXFSZ, which ends it.
        if getrlimit(Resource::Fsize).current.is_some_and(|most| most < len as u64) {
            return Err(Errno::FBIG.into());
        }
        let memory = create()?;
        // Memory that is not there when somebody touches it first is a SIGBUS, where the system keeps account of what it
        // has promised (`vm.overcommit_memory=2`); and where a group of processes may have no more, one of them is killed.
        seam::step(Call::Memory)?;
        fs::fallocate(&memory, FallocateFlags::empty(), 0, len as u64)?;
        seam::step(Call::Memory)?;
        fs::fcntl_add_seals(&memory, SEALS | SealFlags::SEAL)?;
        let mapped = map(&memory, len)?;
        Ok((memory, mapped))
    }

    fn create() -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        seam::step(Call::Memory)?;
        match fs::memfd_create("plug", flags | MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3 nobody knows the flag.
            Err(Errno::INVAL) => Ok(fs::memfd_create("plug", flags)?),
            result => Ok(result?),
        }
    }

    pub(super) fn open(pid: u32, fd: u32, len: usize) -> io::Result<SharedMemory> {
        let found = |what: &str| Err(io::Error::other(format!("its descriptor {fd} is {what}")));
        // Opened as a place first, which has no effect whatever it is: a device, or a pipe that blocks.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        seam::step(Call::Proc)?;
        let place = fs::open(format!("/proc/{pid}/fd/{fd}"), flags, Mode::empty())?;
        let stat = status(&place)?;
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
            return found("no file");
        }
        if device(&stat) != device_of_memory()? {
            return found("a file outside of memory");
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        seam::step(Call::Proc)?;
        let path = format!("/proc/self/fd/{}", place.as_raw_fd());
        let memory = fs::open(path, flags, Mode::empty())?;
        seam::step(Call::Memory)?;
        if !fs::fcntl_get_seals(&memory)?.contains(SEALS) {
            return found("memory whose size may change");
        }
        // Not before: it could have been changed up to that.
        if u64::try_from(fs::fstat(&memory)?.st_size) != Ok(len as u64) {
            return found("memory of another size");
        }
        map(&memory, len)
    }

    /// What the system knows of a file without asking who keeps it: a server that does not answer, or the other process
    /// that plays a file system. This thread would wait for that, and others for this thread.
    fn status(file: &OwnedFd) -> io::Result<Statx> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        seam::step(Call::Memory)?;
        Ok(fs::statx(file, "", flags, StatxFlags::TYPE)?)
    }

    fn device(stat: &Statx) -> (u32, u32) {
        (stat.stx_dev_major, stat.stx_dev_minor)
    }

    /// Where all memory is that has no name: there is one such place for all processes.
    fn device_of_memory() -> io::Result<(u32, u32)> {
        static DEVICE: OnceLock<(u32, u32)> = OnceLock::new();
        if let Some(device) = DEVICE.get() {
            return Ok(*device);
        }
        let device = device(&status(&create()?)?);
        Ok(*DEVICE.get_or_init(|| device))
    }

    fn map(memory: &OwnedFd, len: usize) -> io::Result<SharedMemory> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        seam::step(Call::Memory)?;
        // SAFETY: the system chooses a place where nothing is.
        let start = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, memory, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(SharedMemory { start, len, unmap })
    }

    fn unmap(start: NonNull<u8>, len: usize) {
        // SAFETY: it was mapped with this length, and whoever has asked for the address keeps the `SharedMemory`, which
        // is being dropped.
        let unmapped = unsafe { munmap(start.as_ptr().cast(), len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }

    #[cfg(test)]
    mod tests {
        use std::fs::File;
        use std::io::Write as _;
        use std::os::fd::AsRawFd;

        use super::*;

        const LEN: usize = 8 << 10;

        /// Opens what this process has as `fd`.
        fn open_own(fd: &impl AsRawFd) -> io::Result<SharedMemory> {
            open(std::process::id(), fd.as_raw_fd().unsigned_abs(), LEN)
        }

        #[test]
        fn two_mappings_are_one_memory() {
            let (fd, own) = new(LEN).unwrap();
            let theirs = open_own(&fd).unwrap();
            assert_ne!(own.start(), theirs.start());
            for at in [0, LEN - 1] {
                // SAFETY: both are mapped, with so many bytes.
                unsafe {
                    assert_eq!(theirs.start().add(at).read_volatile(), 0);
                    own.start().add(at).write_volatile(7);
                    assert_eq!(theirs.start().add(at).read_volatile(), 7);
                }
            }
            drop((fd, own));
            // SAFETY: it is mapped still.
            assert_eq!(unsafe { theirs.start().read_volatile() }, 7);
        }

        /// Who touched it when there is none left would get SIGBUS.
        #[test]
        fn all_of_it_is_there_from_the_start() {
            let (fd, _own) = new(LEN).unwrap();
            assert_eq!(fs::fstat(&fd).unwrap().st_blocks * 512, LEN as i64);
        }

        #[test]
        fn its_size_is_for_good() {
            let (fd, _own) = new(LEN).unwrap();
            let mut file = File::from(fd);
            assert!(file.set_len(0).is_err());
            assert!(file.set_len(2 * LEN as u64).is_err());
            assert!(file.write_all(&[1; 2 * LEN]).is_err());
        }

        #[test]
        fn x11_what_is_no_sealed_memory_of_that_size_is_refused() {
            let refused = |what: &dyn AsRawFd, why: &str| {
                let opened = open(std::process::id(), what.as_raw_fd().unsigned_abs(), LEN);
                let error = opened.map(drop).unwrap_err().to_string();
                assert!(error.contains(why), "{error} is not {why}");
            };
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let unsealed = fs::memfd_create("unsealed", flags).unwrap();
            fs::ftruncate(&unsealed, LEN as u64).unwrap();
            refused(&unsealed, "size may change");
            fs::fcntl_add_seals(&unsealed, SealFlags::SHRINK).unwrap();
            refused(&unsealed, "size may change");
            let (short, _own) = new(LEN / 2).unwrap();
            refused(&short, "another size");
            let (pipe, _other_end) = crate::sys::pipe::pair().unwrap();
            refused(&pipe, "no file");
            refused(&File::open("/dev/zero").unwrap(), "no file");
            refused(&File::open("/proc/self/status").unwrap(), "outside of memory");
            assert!(open(std::process::id(), 1 << 20, LEN).is_err(), "nothing is there");
        }
    }
}

#[cfg(not(all(target_os = "linux", feature = "shm", not(plug_portable))))]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;

    use super::SharedMemory;

    pub(super) const FEATURES: &[&str] = &[];

    pub(super) fn new(_len: usize) -> io::Result<(OwnedFd, SharedMemory)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn open(_pid: u32, _fd: u32, _len: usize) -> io::Result<SharedMemory> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
