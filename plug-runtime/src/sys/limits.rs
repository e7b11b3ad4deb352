//! Limits on what a child may take, set from outside.

use std::io;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Address space, in bytes.
    Memory,
    /// Time on a processor, in seconds.
    CpuTime,
    /// Descriptors.
    OpenFiles,
    /// The size of a core file, in bytes.
    CoreFile,
}

/// Sees to it that a child, which has not been reaped, takes no more than `soft`, and can allow itself no more than
/// `hard`. A limit that is lower already stays, be it this process's own or one that the child has set itself.
///
/// A child that has ended needs none. [`io::ErrorKind::Unsupported`] where the system cannot do it.
#[cfg(all(target_os = "linux", not(plug_portable)))]
pub(crate) fn lower(pid: u32, resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    linux::lower(pid, resource, soft, hard)
}

#[cfg(not(all(target_os = "linux", not(plug_portable))))]
pub(crate) fn lower(_pid: u32, _resource: Resource, _soft: u64, _hard: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(target_os = "linux", not(plug_portable)))]
mod linux {
    #![allow(unsafe_code)]

    use std::io;

    use rustix::io::Errno;
    use rustix::process::{Rlimit, prlimit};

    use super::Resource;
    use crate::sys::process::pid_of;
    use crate::sys::seam::{self, Call};

    pub(super) fn lower(pid: u32, resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
        let hard = match hard_limit(pid, resource) {
            Ok(now) => hard.min(now),
            // Where nobody waits for children, they are gone as soon as they end.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error),
        };
        let limit = Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) };
        let resource = match resource {
            Resource::Memory => rustix::process::Resource::As,
            Resource::CpuTime => rustix::process::Resource::Cpu,
            Resource::OpenFiles => rustix::process::Resource::Nofile,
            Resource::CoreFile => rustix::process::Resource::Core,
        };
        match seam::step(Call::Limit).and_then(|()| prlimit(pid_of(pid), resource, limit)) {
            Ok(_) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What the child cannot go beyond now: what it has inherited, or what it has set itself.
    fn hard_limit(pid: u32, resource: Resource) -> io::Result<u64> {
        let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
        let resource = match resource {
            Resource::Memory => libc::RLIMIT_AS,
            Resource::CpuTime => libc::RLIMIT_CPU,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::CoreFile => libc::RLIMIT_CORE,
        };
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        seam::step(Call::Limit)?;
        // SAFETY: a null pointer says that nothing is to be set; the other points to a local that lives through the
        // call, which writes one `rlimit` to it.
        let done = unsafe { libc::prlimit(pid, resource, std::ptr::null(), &raw mut limit) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        #[allow(clippy::unnecessary_cast)] // `rlim_t` has 32 bits on some systems.
        Ok(limit.rlim_max as u64)
    }

    #[cfg(test)]
    mod tests {
        use std::io::{BufRead as _, BufReader};
        use std::process::{Command, Stdio};

        use super::*;

        #[test]
        fn what_a_child_has_set_itself_is_not_raised() {
            let mut child = Command::new("/bin/sh")
                .args(["-c", "ulimit -n 50; echo done; read line"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "done\n");
            let files = |most| {
                lower(child.id(), Resource::OpenFiles, most, most).unwrap();
                hard_limit(child.id(), Resource::OpenFiles).unwrap()
            };
            assert_eq!(files(100), 50);
            assert_eq!(files(40), 40);
            drop(child.stdin.take());
            child.wait().unwrap();
            lower(child.id(), Resource::OpenFiles, 30, 30)
                .expect("one that is gone needs no limit");
        }
    }
}
