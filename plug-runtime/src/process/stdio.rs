//! The standard streams of a plugin, which carry the protocol.

use std::io;
use std::os::fd::OwnedFd;

use super::environment::HOST_VARIABLE;
use crate::sys::{pipe, signals, stdio};

/// The pipes to the host, out of reach for everything else in this process and for its children.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
}

/// Takes descriptors 0 and 1 for the protocol.
///
/// From then on, what prints to stdout prints to stderr, be it `println!`, C's `printf` or a child; what reads
/// stdin finds it empty; and no child inherits the pipes. Signals are as in a program started by hand.
pub(crate) fn claim() -> io::Result<Claimed> {
    signals::reset();
    let (input, output) = stdio::take()?;
    Ok(Claimed { input, output })
}

/// The process id of the host, as it says.
pub(crate) fn host_pid() -> Option<u32> {
    std::env::var(HOST_VARIABLE).ok()?.parse().ok()
}

/// Whether a host has started this process.
pub(crate) fn is_hosted() -> bool {
    host_pid().is_some() && pipe::is_pipe(io::stdin()) && pipe::is_pipe(io::stdout())
}
