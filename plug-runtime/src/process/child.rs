//! A running child process, which is never left behind.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::exit::ExitStatus;
use crate::sys::pipe::{self, Wait};
use crate::sys::process::{self, End, ExitFd, Peek};
use crate::sys::thread;

/// A child that leads a process group. Dropping it kills the group and reaps the child.
#[derive(Debug)]
pub(crate) struct Child {
    pid: u32,
    exit_fd: Option<ExitFd>,
    ended: Cell<Option<ExitStatus>>,
}

/// A child that has just been started, and this side's ends of its pipes.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Child {
    pub(super) fn started(mut child: std::process::Child) -> Started {
        let pid = child.id();
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            unreachable!("all three were asked for as pipes");
        };
        Started {
            // Sound until we reap the child: before that, nobody else can have its id.
            child: Child { pid, exit_fd: ExitFd::open(pid), ended: Cell::new(None) },
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What becomes readable when the child ends, where the system has that.
    pub(crate) fn exit_fd(&self) -> Option<&ExitFd> {
        self.exit_fd.as_ref()
    }

    /// How the child ended, if it has. What is left of its process group is killed then, while the zombie still
    /// keeps the group's id from being used by others.
    pub(crate) fn try_end(&self) -> Option<ExitStatus> {
        if self.ended.get().is_none() {
            match process::peek(self.pid) {
                Peek::Running => {}
                Peek::Ended => {
                    process::signal_group(self.pid, End::Force);
                    self.ended.set(Some(process::reap(self.pid)));
                }
                Peek::Lost => self.ended.set(Some(ExitStatus::Unknown)),
            }
        }
        self.ended.get()
    }

    /// Waits for the end of the child, and says whether it has come.
    pub(crate) fn ends_within(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        while self.try_end().is_none() {
            if until <= Instant::now() {
                return false;
            }
            match &self.exit_fd {
                Some(exit_fd) => {
                    pipe::wait(&[Wait::readable(exit_fd)], Some(until));
                }
                None => std::thread::sleep(LOOK_EVERY.min(at_most)),
            }
        }
        true
    }

    /// Signals the whole process group, unless the child has ended.
    pub(crate) fn signal(&self, end: End) {
        if self.ended.get().is_none() && process::peek(self.pid) != Peek::Lost {
            process::signal_group(self.pid, end);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.try_end().is_some() {
            return;
        }
        self.signal(End::Force);
        // A killed process ends within milliseconds, unless it has gigabytes to give back or the kernel is
        // stuck: then a thread waits for it, and not the one that drops.
        if self.ends_within(BRIEFLY) {
            return;
        }
        let pid = self.pid;
        let waiter = move || {
            while process::peek(pid) == Peek::Running {
                std::thread::sleep(LOOK_EVERY);
            }
            process::reap(pid);
        };
        if thread::spawn("plug-reaper", waiter).is_err() {
            // After that the zombie stays until this process ends: all that can be done.
            self.ends_within(WITHOUT_A_THREAD);
        }
    }
}

/// How long who drops a child waits for its end, and how long if no thread can.
const BRIEFLY: Duration = Duration::from_millis(50);
const WITHOUT_A_THREAD: Duration = Duration::from_secs(2);

/// How often to look after a child whose end the system does not announce.
const LOOK_EVERY: Duration = Duration::from_millis(5);
