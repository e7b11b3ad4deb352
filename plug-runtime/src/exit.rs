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
            1 => "SIGHUP",
            2 => "SIGINT",
            3 => "SIGQUIT",
            4 => "SIGILL",
            6 => "SIGABRT",
            8 => "SIGFPE",
            9 => "SIGKILL",
            11 => "SIGSEGV",
            13 => "SIGPIPE",
            15 => "SIGTERM",
            number => return write!(f, "signal {number}"),
        };
        write!(f, "signal {} ({name})", self.0)
    }
}
