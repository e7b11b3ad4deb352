//! Programs in memory that nobody can change any more.

use std::fs::File;
use std::io;
use std::path::PathBuf;

/// A copy of a file that can be read and executed, and that nobody can change, not even this process.
#[derive(Debug)]
pub(crate) struct Sealed(File);

impl Sealed {
    /// Copies a file, as long as it is now. The name is for those who list processes.
    ///
    /// [`io::ErrorKind::Unsupported`] where the system has nothing like that.
    #[cfg(all(target_os = "linux", not(plug_portable)))]
    pub(crate) fn copy(file: &File, name: &str) -> io::Result<Sealed> {
        linux::copy(file, name).map(Sealed)
    }

    #[cfg(not(all(target_os = "linux", not(plug_portable))))]
    pub(crate) fn copy(_file: &File, _name: &str) -> io::Result<Sealed> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Reads the copy from its begin to its end.
    pub(crate) fn read(&self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let mut buffer = vec![0; 64 << 10];
        let mut position = 0;
        loop {
            match self.0.read_at(&mut buffer, position) {
                Ok(0) => return Ok(()),
                Ok(len) => {
                    take(&buffer[..len]);
                    position += len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The path by which this process, or a child of it that has not executed anything else yet, executes the copy.
    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        // The child looks the descriptor up before it closes it.
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

#[cfg(all(target_os = "linux", not(plug_portable)))]
mod linux {
    use std::fs::File;
    use std::io::{self, Read as _};
    use std::time::{Duration, Instant};

    use rustix::fs::{MemfdFlags, SealFlags};
    use rustix::io::Errno;
    use rustix::process::{Resource, getrlimit};

    use crate::sys::seam::{self, Call};

    pub(super) fn copy(file: &File, name: &str) -> io::Result<File> {
        let len = file.metadata()?.len();
        // This process would get SIGXFSZ, which ends it.
        if getrlimit(Resource::Fsize).current.is_some_and(|most| most < len) {
            return Err(Errno::FBIG.into());
        }
        let mut memory = File::from(create(name)?);
        io::copy(&mut file.take(len), &mut memory)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        seam::step(Call::Memory)?;
        match add_seals(&memory, seals | SealFlags::EXEC) {
            // Before Linux 6.3 nobody knows that seal.
            Err(Errno::INVAL) => add_seals(&memory, seals)?,
            result => result?,
        }
        Ok(memory)
    }

    /// The system may have its hands on some of the pages at this moment, to move them. It waits for itself, but for no longer
    /// than some 150 ms: a test with a program of 18 MB has met with that in two of three runs of the fault suite.
    fn add_seals(memory: &File, seals: SealFlags) -> Result<(), Errno> {
        let begin = Instant::now();
        loop {
            match rustix::fs::fcntl_add_seals(memory, seals) {
                Err(Errno::BUSY) if begin.elapsed() < BUSY_FOR_AT_MOST => {
                    std::thread::sleep(LOOK_EVERY);
                }
                result => return result,
            }
        }
    }

    /// How long pages are waited for that the system is at.
    const BUSY_FOR_AT_MOST: Duration = Duration::from_secs(2);
    const LOOK_EVERY: Duration = Duration::from_millis(1);

    fn create(name: &str) -> io::Result<std::os::fd::OwnedFd> {
        // The longest name that it takes has 249 bytes.
        let name: String = name.chars().take(60).collect();
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        seam::step(Call::Memory)?;
        match rustix::fs::memfd_create(name.as_str(), flags | MemfdFlags::EXEC) {
            // Before Linux 6.3 all are executable, and nobody knows the flag.
            Err(Errno::INVAL) => Ok(rustix::fs::memfd_create(name.as_str(), flags)?),
            result => Ok(result?),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::super::Sealed;
        use super::*;
        use std::io::{Seek as _, Write as _};

        #[test]
        fn nobody_can_change_a_sealed_copy() {
            let file = File::open("/bin/sh").unwrap();
            let sealed = Sealed::copy(&file, &"a long name ".repeat(100)).unwrap();
            let mut copy = Vec::new();
            sealed.read(|piece| copy.extend_from_slice(piece)).unwrap();
            assert!(copy == std::fs::read("/bin/sh").unwrap(), "it is another");
            let mut memory = &sealed.0;
            memory.rewind().unwrap();
            assert!(memory.write(b"other").is_err());
            assert!(memory.set_len(0).is_err());
            assert!(memory.set_len(1 << 30).is_err());
            let reopened = File::options().write(true).open(sealed.path());
            assert!(reopened.and_then(|mut file| file.write(b"other")).is_err());
            assert!(rustix::fs::fcntl_add_seals(memory, SealFlags::FUTURE_WRITE).is_err());
        }
    }
}
