//! The standard streams of this process.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use super::seam::{self, Call};

/// Moves stdin and stdout to descriptors that nothing else in this process knows and no child inherits. In their place
/// come nothing and stderr.
pub(crate) fn take() -> io::Result<(OwnedFd, OwnedFd)> {
    seam::step(Call::Duplicate)?;
    let input = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    seam::step(Call::Duplicate)?;
    let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    seam::step(Call::Open)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    if rustix::stdio::dup2_stdout(io::stderr()).is_err() {
        rustix::stdio::dup2_stdout(&null)?;
    }
    Ok((input, output))
}
