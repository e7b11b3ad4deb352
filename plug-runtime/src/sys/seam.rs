//! Where system calls are made to fail, for tests.
//!
//! Each system call of this crate passes here before it is made: a *step*. In a build with `--cfg plug_seam` a step
//! fails if the environment variable `PLUG_SEAM` says so; in any other there is nothing left of it.
//!
//! `PLUG_SEAM` holds rules, separated by commas, each of which is `where=what`:
//!
//! | where | |
//! |---|---|
//! | `12` | the twelfth step of this process |
//! | `read` | each read |
//! | `read/2` | each second read |
//! | `thread>1` | each thread after the first |
//!
//! | what | |
//! |---|---|
//! | `EMFILE` | this error |
//! | `most:7` | no error, but 7 bytes at most are read or written |
//! | `#0` | the first of the failures that the system can have there, see `Call::failures` |
//!
//! `PLUG_SEAM_TRACE` names a file to which each step appends a line: its number, what was called, how many failures the
//! system can have there, and which of them was made.

use rustix::io::Errno;

/// A kind of system call.
#[allow(
    dead_code,
    reason = "not every system, and not every choice of features, makes all of them"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A new pipe.
    Pipe,
    /// One more descriptor for what is open.
    Duplicate,
    /// Whether a descriptor blocks.
    SetFlags,
    /// How much a pipe holds.
    Resize,
    Read,
    Write,
    /// To a pipe whose bytes mean nothing.
    Ring,
    /// How much there is to be read.
    Readable,
    Poll,
    EpollCreate,
    EpollControl,
    EpollWait,
    TimerCreate,
    TimerSet,
    EventCreate,
    EventWrite,
    PidfdOpen,
    Waitid,
    Kill,
    /// A memory file, and its seals.
    Memory,
    /// How memory is to be given.
    Advise,
    /// What a child may take.
    Limit,
    /// A new process.
    Spawn,
    /// A new thread.
    Thread,
    /// What `/proc` says about this process.
    Proc,
    /// Any other file.
    Open,
}

#[cfg(not(plug_seam))]
#[inline(always)]
pub(crate) fn step(_call: Call) -> Result<(), Errno> {
    Ok(())
}

/// How many of `len` bytes are read or written at most.
#[cfg(not(plug_seam))]
#[inline(always)]
pub(crate) fn step_up_to(_call: Call, len: usize) -> Result<usize, Errno> {
    Ok(len)
}

#[cfg(plug_seam)]
mod armed;
#[cfg(plug_seam)]
pub use armed::{arm, disarm};
#[cfg(plug_seam)]
pub(crate) use armed::{step, step_up_to};
