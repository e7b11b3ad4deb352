//! What a plugin's process may take.

use std::io;
use std::time::Duration;

use super::command::Command;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::limits::{Resource, lower};

/// Limits on one process, each its own: what it starts in turn inherits them, and does not share them.
#[derive(Debug, Default)]
pub(super) struct Limits {
    memory: Option<u64>,
    cpu_seconds: Option<u64>,
    open_files: Option<u64>,
    /// Whether core dumps are allowed, if that was said.
    core_dumps: Option<bool>,
}

/// # Limits
///
/// They are set from outside, right after the start of the process and before the host says hello: what the plugin does
/// before [`run`](crate::run) may run without them. They hold for [`describe`](Command::describe) too. Each process that the plugin
/// starts has the same limits for itself. Where the host's own hard limits are lower, those stay. A limit that cannot
/// be set fails the load with [`ErrorKind::Spawn`]; outside of Linux that is each one that is asked for.
impl Command {
    /// The most address space that the plugin may use, in bytes. Default: as much as the host may.
    ///
    /// Beyond that, allocations fail: most programs abort then, and the error of their calls shows what they said.
    /// Memory that is only reserved counts: 2 MiB for the stack of each thread, and up to 128 MiB for its heap (glibc).
    /// So leave room; a plugin that cannot even start within the limit fails its load.
    pub fn max_memory(self, bytes: u64) -> Command {
        self.limits(|limits| limits.memory = Some(bytes))
    }

    /// The most processor time that all threads of the plugin together may use, from its start to its end. Whole
    /// seconds, rounded up, at least one. Default: as much as the host may.
    ///
    /// Then it gets SIGXCPU, which ends it, and a second later SIGKILL, should it go on. It is meant for plugins that
    /// do one thing and end; for calls that take too long, see [`timeout`](Command::timeout).
    pub fn max_cpu_time(self, time: Duration) -> Command {
        let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1);
        self.limits(|limits| limits.cpu_seconds = Some(seconds))
    }

    /// The most files, pipes and sockets that the plugin may have open. Default: as many as the host may.
    ///
    /// The runtime takes up to ten of them. Opening more fails in the plugin.
    pub fn max_open_files(self, count: u64) -> Command {
        self.limits(|limits| limits.open_files = Some(count))
    }

    /// Whether the plugin may leave a core file behind when it crashes, as far as the host may. Default: no, since
    /// writing it delays the news of the crash, by seconds if it is large.
    ///
    /// The default does without where the system does not let it be set; `core_dumps(false)` fails the load there.
    pub fn core_dumps(self, allow: bool) -> Command {
        self.limits(|limits| limits.core_dumps = Some(allow))
    }

    fn limits(self, change: impl FnOnce(&mut Limits)) -> Command {
        self.program(|program| change(&mut program.limits))
    }
}

impl Limits {
    pub(super) fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Limits a child that has just been started.
    pub(super) fn apply(&self, pid: u32) -> Result<()> {
        if let Some(bytes) = self.memory {
            lower(pid, Resource::Memory, bytes, bytes).map_err(|error| refused("memory", error))?;
        }
        if let Some(seconds) = self.cpu_seconds {
            // With both the same there would be no SIGXCPU, which says what has happened.
            let hard = seconds.saturating_add(1);
            lower(pid, Resource::CpuTime, seconds, hard)
                .map_err(|error| refused("processor time", error))?;
        }
        if let Some(count) = self.open_files {
            lower(pid, Resource::OpenFiles, count, count)
                .map_err(|error| refused("open files", error))?;
        }
        if self.core_dumps != Some(true) {
            match lower(pid, Resource::CoreFile, 0, 0) {
                Err(error) if self.core_dumps.is_some() => {
                    return Err(refused("core dumps", error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn refused(what: &str, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::Unsupported => ": this system has no such limits for other processes",
        io::ErrorKind::PermissionDenied => ": does it run as another user (setuid)?",
        _ => "",
    };
    Error::of_kind(ErrorKind::Spawn, format!("cannot limit its {what}{hint}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::super::command::Target;
    use super::*;

    #[test]
    fn processor_time_is_rounded_up_to_seconds() {
        let seconds = |time| match Command::new("x").max_cpu_time(time).target {
            Target::Program(program) => program.limits.cpu_seconds.unwrap(),
            Target::InProcess(_) => unreachable!("it is a program"),
        };
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_secs(1)), 1);
        assert_eq!(seconds(Duration::from_millis(1001)), 2);
        assert_eq!(seconds(Duration::MAX), u64::MAX);
    }
}
