//! The end of processes: noticing it, causing it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use super::seam::{self, Call};
use crate::exit::ExitStatus;

/// Starts a program.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    seam::step(Call::Spawn)?;
    command.spawn()
}

/// A process whose end can be waited for with `poll`: where the system does not have that, there is none.
#[cfg(all(target_os = "linux", not(plug_portable)))]
#[derive(Debug)]
pub(crate) struct ExitFd(std::os::fd::OwnedFd);

/// A process whose end can be waited for with `poll`: where the system does not have that, there is none.
#[cfg(not(all(target_os = "linux", not(plug_portable))))]
#[derive(Debug)]
pub(crate) enum ExitFd {}

impl ExitFd {
    /// For a child that has not been reaped, or the parent: processes whose id cannot be taken over by another.
    #[cfg(all(target_os = "linux", not(plug_portable)))]
    pub(crate) fn open(pid: u32) -> Option<ExitFd> {
        let pid = pid_of(pid)?;
        seam::step(Call::PidfdOpen).ok()?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        Some(ExitFd(pidfd))
    }

    #[cfg(not(all(target_os = "linux", not(plug_portable))))]
    pub(crate) fn open(_pid: u32) -> Option<ExitFd> {
        None
    }
}

impl AsFd for ExitFd {
    #[cfg(all(target_os = "linux", not(plug_portable)))]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    #[cfg(not(all(target_os = "linux", not(plug_portable))))]
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}

/// What is known about a child that may have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    Running,
    /// It has ended and is a zombie: its id cannot be taken over until it is reaped.
    Ended,
    /// Something else in this process has reaped it; its id may belong to a stranger by now.
    Lost,
}

/// Looks whether a child has ended, and leaves it as it is.
pub(crate) fn peek(pid: u32) -> Peek {
    let Some(pid) = pid_of(pid) else { return Peek::Lost };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(pid, options) {
        Ok(None) => Peek::Running,
        Ok(Some(_)) => Peek::Ended,
        Err(_) => Peek::Lost,
    }
}

/// Takes the status of a child that has ended.
pub(crate) fn reap(pid: u32) -> ExitStatus {
    let Some(pid) = pid_of(pid) else { return ExitStatus::Unknown };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match waitid(pid, options) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, Some(signal)) => ExitStatus::Signal(signal),
            (None, None) => ExitStatus::Unknown,
        },
        _ => ExitStatus::Unknown,
    }
}

fn waitid(pid: Pid, options: WaitIdOptions) -> Result<Option<WaitIdStatus>, Errno> {
    rustix::io::retry_on_intr(|| {
        seam::step(Call::Waitid)?;
        rustix::process::waitid(WaitId::Pid(pid), options)
    })
}

/// A signal of the ladder that ends a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// SIGTERM
    Ask,
    /// SIGKILL
    Force,
}

/// Signals the process group that a child leads. Only while the child has not been reaped.
pub(crate) fn signal_group(leader: u32, end: End) {
    let signal = match end {
        End::Ask => Signal::TERM,
        End::Force => Signal::KILL,
    };
    if let Some(group) = pid_of(leader) {
        // It may have ended by itself.
        let _ = seam::step(Call::Kill)
            .and_then(|()| rustix::process::kill_process_group(group, signal));
    }
}

/// Ends this process at once, whatever its other threads do and without running anything at exit. If it leads a
/// process group, as a plugin does, that ends with it.
pub(crate) fn kill_self() -> ! {
    let this = rustix::process::getpid();
    // There is no such group unless this process leads it. Asking for the group instead (`getpgrp`) panics where that
    // is 0, outside of a PID namespace; and a group 1 would mean every process.
    if !this.is_init() {
        let _ = rustix::process::kill_process_group(this, Signal::KILL);
    }
    let _ = rustix::process::kill_process(this, Signal::KILL);
    std::process::abort()
}

/// Asks all other processes of the group that this one leads, as a plugin does, to end.
pub(crate) fn end_others_of_group() {
    let this = rustix::process::getpid();
    if !this.is_init() {
        // There is no such group unless this process leads it.
        super::signals::ignoring_sigterm(|| {
            let _ = rustix::process::kill_process_group(this, Signal::TERM);
        });
    }
}

/// The id of the process that started this one, if it is still there and visible.
pub(crate) fn parent() -> Option<u32> {
    rustix::process::getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok())
}

pub(super) fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}
