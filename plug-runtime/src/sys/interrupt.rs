//! Waking a thread that is blocked in reading a pipe which may never end.
//!
//! A process that a plugin started and that took a session of its own can hold the plugin's stdout
//! open for ever: whoever reads it would wait for ever too. Where `/proc` is there, the pipe is
//! opened a second time, for writing, and a byte is written to it. That is sound only once the
//! connection is over, since it could split a frame. The byte is 0, which is an empty frame.
//! Elsewhere each read first polls the pipe and a second one. The poll costs 14 to 16 % of a
//! call, so it is not the first choice.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use super::pipe::{self, Written};
use super::seam::{self, Call};

/// How reads of one pipe can be interrupted.
#[derive(Debug)]
pub(crate) enum Interrupt {
    /// By a byte in the pipe itself.
    Reopen,
    /// By a byte in another pipe: its reading and writing end.
    Beside(OwnedFd, OwnedFd),
}

impl Interrupt {
    pub(crate) fn new() -> io::Result<Interrupt> {
        if can_reopen() {
            return Ok(Interrupt::Reopen);
        }
        let (reader, writer) = pipe::pair()?;
        pipe::set_nonblocking(&writer)?;
        Ok(Interrupt::Beside(reader, writer))
    }

    /// What else to wait for before `read`, by who waits for several things at once.
    pub(crate) fn wait(&self) -> Option<pipe::Wait<'_>> {
        match self {
            Interrupt::Reopen => None,
            Interrupt::Beside(bell, _) => Some(pipe::Wait::readable(bell)),
        }
    }

    /// Reads from `input`, waiting for the first byte. `None`: interrupted.
    #[inline]
    pub(crate) fn read(
        &self,
        input: &OwnedFd,
        mut read: impl FnMut(&OwnedFd) -> io::Result<usize>,
    ) -> io::Result<Option<usize>> {
        loop {
            if let Interrupt::Beside(bell, _) = self {
                let waits = [pipe::Wait::readable(input), pipe::Wait::readable(bell)];
                if !pipe::wait(&waits, None)[0] {
                    return Ok(None);
                }
            }
            match read(input) {
                // Whoever made the pipe may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if matches!(self, Interrupt::Reopen) {
                        pipe::wait_readable(input, None);
                    }
                }
                result => return result.map(Some),
            }
        }
    }

    /// Lets a thread that is, or soon will be, in `read` return. Only for a connection that is over. Says
    /// whether the last byte in `input` is now one that does not belong there. It may fail for the moment.
    pub(crate) fn interrupt(&self, input: &OwnedFd) -> bool {
        match self {
            Interrupt::Reopen => {
                use rustix::fs::{Mode, OFlags};
                let path = format!("/proc/self/fd/{}", input.as_raw_fd());
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let bell = seam::step(Call::Proc)
                    .and_then(|()| rustix::fs::open(path, flags, Mode::empty()));
                bell.is_ok_and(|bell| pipe::ring(bell) == Written::Bytes(1))
            }
            Interrupt::Beside(_, bell) => {
                pipe::ring(bell);
                false
            }
        }
    }
}

/// Whether this process sees its own descriptors in `/proc`: asked once.
fn can_reopen() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        cfg!(all(target_os = "linux", not(plug_portable)))
            && seam::step(Call::Proc).and_then(|()| rustix::fs::stat("/proc/self/fd")).is_ok()
    })
}
