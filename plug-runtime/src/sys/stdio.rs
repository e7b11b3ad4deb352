//! The standard streams of this process.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::seam::{self, Call};

/// Moves stdin and stdout to descriptors that nothing else in this process knows and no child inherits. In their place
/// come nothing and stderr.
pub(crate) fn take() -> io::Result<(OwnedFd, OwnedFd)> {
    seam::step(Call::Duplicate)?;
    let input = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    seam::step(Call::Duplicate)?;
    let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    seam::step(Call::Open)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    if rustix::stdio::dup2_stdout(io::stderr()).is_err() {
        rustix::stdio::dup2_stdout(&null)?;
    }
    Ok((input, output))
}
