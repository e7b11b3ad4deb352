//! Pipes: reading, writing and asking what is in them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// A new pipe: its reading and its writing end, which no child inherits.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let (reader, writer) = rustix::pipe::pipe()?;
        for end in [&reader, &writer] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        Ok((reader, writer))
    }
}

/// Reads what is there, waiting for the first byte. 0 is the end of the stream.
pub(crate) fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let result = rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut *buffer));
    match result {
        // Sockets in place of pipes report that the other side went away with unread input.
        Err(Errno::CONNRESET) => Ok(0),
        result => Ok(result?),
    }
}

/// What a write to a non-blocking pipe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The pipe took this many bytes.
    Bytes(usize),
    /// The pipe is full.
    Full,
    /// Nobody will ever read.
    Broken,
}

/// Writes what fits into a non-blocking pipe.
pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> Written {
    match rustix::io::retry_on_intr(|| rustix::io::write(&fd, bytes)) {
        Ok(written) => Written::Bytes(written),
        Err(Errno::AGAIN) => Written::Full,
        // Whatever else is wrong with the pipe, nothing more gets through it.
        Err(_) => Written::Broken,
    }
}

/// Makes reads or writes of this end return at once. Shared with whoever inherited the same end, so only for ends that
/// nobody else has.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// How many bytes can be read without waiting.
pub(crate) fn readable_bytes(fd: impl AsFd) -> usize {
    rustix::io::ioctl_fionread(fd).map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Whether this is a pipe or a socket, as a host gives to its plugins, rather than a terminal or a file.
pub(crate) fn is_pipe(fd: impl AsFd) -> bool {
    use rustix::fs::FileType;
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        let file_type = FileType::from_raw_mode(stat.st_mode);
        matches!(file_type, FileType::Fifo | FileType::Socket)
    })
}

/// What to wait for.
#[derive(Clone, Copy)]
pub(crate) struct Wait<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) for_writing: bool,
}

impl<'a> Wait<'a> {
    pub(crate) fn readable(fd: &'a OwnedFd) -> Wait<'a> {
        Wait { fd: fd.as_fd(), for_writing: false }
    }

    pub(crate) fn writable(fd: &'a OwnedFd) -> Wait<'a> {
        Wait { fd: fd.as_fd(), for_writing: true }
    }
}

/// Waits until one of the descriptors is ready (or has ended, or is broken) or the time has come, and says
/// which are ready.
pub(crate) fn wait(waits: &[Wait<'_>], until: Option<Instant>) -> io::Result<Vec<bool>> {
    let mut fds: Vec<_> = waits
        .iter()
        .map(|wait| {
            let flags = if wait.for_writing { PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd(wait.fd, flags)
        })
        .collect();
    loop {
        let timeout = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => return Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until a descriptor can be read from, or has ended, or the time has come. Says whether it is the first. What
/// [`wait`] does, without taking memory for it: a call with a deadline pays for this.
pub(crate) fn wait_readable(fd: &OwnedFd, until: Option<Instant>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    loop {
        let timeout = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            // Reading says what is wrong.
            Err(_) => return true,
        }
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
