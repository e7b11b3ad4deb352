//! Plugins as processes: how they start, why they ended, what they print.
//!
//! Nothing here knows the protocol that is spoken over the pipes.

#[cfg(feature = "tracing")]
mod audit;
mod child;
mod command;
mod environment;
mod limits;
mod path;
mod program;
mod settings;
mod sinks;
mod stderr;
#[cfg(any(test, fuzzing))]
pub(crate) mod stderr_model;
mod stdio;
mod strict;
#[cfg(feature = "verify")]
mod verify;

pub(crate) use child::Child;
pub use command::Command;
pub(crate) use command::{InProcess, Target};
pub(crate) use program::Program;
pub(crate) use settings::Settings;
pub use settings::SharedMemory;
pub use stderr::StderrLines;
pub(crate) use stderr::{Fill, Tail};
pub(crate) use stdio::{Claimed, claim, host_pid, is_hosted};
