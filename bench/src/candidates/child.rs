//! What both sides know about children.

use std::process::{Child, Command};

use anyhow::Result;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::program;

/// The other side of a candidate.
pub fn command(name: &str) -> Result<Command> {
    Ok(Command::new(program::of_child(name)?))
}

/// What [`command`] was given.
pub fn arguments() -> Vec<String> {
    std::env::args().skip(1).collect()
}

/// A process that is killed and reaped when this is dropped.
pub struct Kept(pub Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has this process killed when the thread that started it ends.
pub fn end_with_parent() -> Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}
