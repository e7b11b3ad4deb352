//! Children of this program that are this program again.

use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::{Context as _, Result};
use rustix::process::{Signal, set_parent_process_death_signal};

/// The argument with which this program is the other side of a candidate, whose name follows.
pub const CHILD: &str = "--child";

pub fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program")
}

/// This program as the other side of a candidate.
pub fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(own_program()?);
    command.args([CHILD, name]);
    Ok(command)
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
