//! How processes end.

use std::fmt;

/// How a plugin's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub(crate) pid: u32,
    pub(crate) status: ExitStatus,
    pub(crate) by_host: bool,
}

/// What the operating system said about the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// It was ended by the signal with this number.
    Signal(i32),
    /// The status was lost: something else in this process waited for the child.
    Unknown,
}

impl Exit {
    /// The process id it had.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Exit code or signal.
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// Whether this host ended it: by `stop`, after a time-out, or after it broke the protocol.
    pub fn by_host(&self) -> bool {
        self.by_host
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status, self.by_host) {
            (ExitStatus::Code(code), _) => write!(f, "exited with code {code}"),
            (ExitStatus::Signal(signal), true) => {
                write!(f, "was ended by its host with {}", SignalName(signal))
            }
            (ExitStatus::Signal(signal), false) => {
                write!(f, "was killed by {}", SignalName(signal))
            }
            (ExitStatus::Unknown, _) => {
                f.write_str("ended; its status was taken by another wait in this process")
            }
        }
    }
}

struct SignalName(i32);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            libc::SIGHUP => "SIGHUP",
            libc::SIGINT => "SIGINT",
            libc::SIGQUIT => "SIGQUIT",
            libc::SIGILL => "SIGILL",
            libc::SIGTRAP => "SIGTRAP",
            libc::SIGABRT => "SIGABRT",
            libc::SIGBUS => "SIGBUS",
            libc::SIGFPE => "SIGFPE",
            libc::SIGKILL => "SIGKILL",
            libc::SIGSEGV => "SIGSEGV",
            libc::SIGPIPE => "SIGPIPE",
            libc::SIGALRM => "SIGALRM",
            libc::SIGTERM => "SIGTERM",
            libc::SIGXCPU => "SIGXCPU: its processor time is used up",
            libc::SIGXFSZ => "SIGXFSZ: a file became larger than it may write",
            libc::SIGSYS => "SIGSYS: a system call that it may not make",
            number => return write!(f, "signal {number}"),
        };
        write!(f, "signal {} ({name})", self.0)
    }
}
