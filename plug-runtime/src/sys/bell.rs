//! Waking a thread that waits in `poll`.

use std::io;
use std::os::fd::OwnedFd;

use super::pipe;

/// A descriptor that is readable once the bell has been rung.
#[derive(Debug)]
pub(crate) struct Bell {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Bell> {
        let (reader, writer) = pipe::pair()?;
        pipe::set_nonblocking(&reader)?;
        pipe::set_nonblocking(&writer)?;
        Ok(Bell { reader, writer })
    }

    /// Wakes who waits, or is about to.
    pub(crate) fn ring(&self) {
        pipe::ring(&self.writer);
    }

    /// Lets the bell be waited for again.
    pub(crate) fn silence(&self) {
        while matches!(pipe::read(&self.reader, &mut [0; 64]), Ok(64)) {}
    }

    pub(crate) fn wait(&self) -> pipe::Wait<'_> {
        pipe::Wait::readable(&self.reader)
    }
}
