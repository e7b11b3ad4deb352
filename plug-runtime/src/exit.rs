//! How processes end.

use std::fmt;

/// How a plugin's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub(crate) pid: u32,
    pub(crate) status: ExitStatus,
    pub(crate) by_host: bool,
    pub(crate) cause: ExitCause,
}

/// Why a plugin's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitCause {
    /// This host asked it to, and it went in time, whatever its exit code: by [`Peer::stop`](crate::Peer::stop), or as
    /// its last peer was dropped.
    Stopped,
    /// This host asked it to, and had to end it by a signal when the grace was over.
    Overdue,
    /// It ended unasked, whatever its exit code. So did one that was asked to and then ended by a signal that was not
    /// this host's.
    Crashed,
    /// This host ended it, because it broke the protocol, or went on for long after it had closed its side of the
    /// connection.
    Protocol,
    /// This host ended it, because it gave no sign of life: see [`Command::heartbeat`](crate::Command::heartbeat).
    Unresponsive,
    /// The system ended it, because it used more than it was allowed to, where the system says so: SIGXCPU for
    /// processor time, SIGXFSZ for a file. (What fails for lack of memory mostly ends with an abort: a crash.)
    Limit,
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

    /// Why it ended.
    pub fn cause(&self) -> ExitCause {
        self.cause
    }

    /// Whether it ended as it should: because this host asked it to, in time, and with code 0.
    pub fn is_graceful(&self) -> bool {
        self.cause == ExitCause::Stopped && self.status == ExitStatus::Code(0)
    }

    /// The end of a process that this host has not signalled.
    pub(crate) fn by_itself(pid: u32, status: ExitStatus) -> Exit {
        let cause = match status {
            ExitStatus::Signal(libc::SIGXCPU | libc::SIGXFSZ) => ExitCause::Limit,
            _ => ExitCause::Crashed,
        };
        Exit { pid, status, by_host: false, cause }
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
