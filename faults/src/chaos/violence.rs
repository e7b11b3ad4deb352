//! What is done to a plugin, and which errors that explains.

use std::os::fd::OwnedFd;

use plug::{Code, Error, ErrorKind, ExitStatus};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::dice::Dice;

/// What is done to a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violence {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, then SIGKILL.
    StopAndKill,
    /// SIGSTOP, then SIGCONT; and a stop when all calls have ended. Nobody may notice.
    Pause,
    /// SIGTERM, which nobody handles.
    Terminate,
    /// A crash in a handler.
    Segfault,
    /// An abort in a handler.
    Abort,
    /// `exit(0)` in a handler.
    Exit,
    /// A handler executes another program, which has no pipe to the host.
    CloseOutput,
    /// Half a frame that is none, then SIGKILL.
    HalfFrame,
    /// SIGKILL while it is being loaded, or shortly after.
    WhileLoading,
    /// SIGKILL while it is being stopped.
    WhileStopping,
    /// The host stops it while it is called.
    Stop,
}

impl Violence {
    /// One of them. Those that take half a second are rare.
    pub fn pick(dice: &mut Dice) -> Violence {
        dice.pick(&[
            (40, Violence::Kill),
            (12, Violence::StopAndKill),
            (6, Violence::Pause),
            (8, Violence::Terminate),
            (6, Violence::Segfault),
            (4, Violence::Abort),
            (8, Violence::Exit),
            (1, Violence::CloseOutput),
            (8, Violence::HalfFrame),
            (8, Violence::WhileLoading),
            (10, Violence::WhileStopping),
            (6, Violence::Stop),
        ])
    }

    /// What a handler is asked to do, if it is a handler that does it.
    pub fn act(self) -> Option<&'static str> {
        match self {
            Violence::Segfault => Some("segfault"),
            Violence::Abort => Some("abort"),
            Violence::Exit => Some("exit"),
            Violence::CloseOutput => Some("close-output"),
            Violence::HalfFrame => Some("half-frame"),
            _ => None,
        }
    }

    /// Whether it writes between the bytes of other frames: what they carry may be wrong then, since no checksum goes
    /// with it.
    pub fn may_corrupt(self) -> bool {
        self == Violence::HalfFrame
    }

    /// Whether a call or a load may fail so because of this. Deadlines and cancellation are not its concern.
    pub fn explains(self, error: &Error) -> bool {
        use ExitStatus::{Code as Exited, Signal as Killed};
        let exit = error.exit().map(|exit| (exit.status(), exit.by_host()));
        let is_legal = match (self, exit) {
            (Violence::Pause, _) => false,
            (Violence::Kill | Violence::StopAndKill | Violence::WhileLoading, Some(exit)) => {
                exit == (Killed(9), false)
            }
            (Violence::Terminate, Some(exit)) => exit == (Killed(15), false),
            (Violence::Segfault, Some(exit)) => exit == (Killed(11), false),
            (Violence::Abort, Some(exit)) => exit == (Killed(6), false),
            (Violence::Exit, Some(exit)) => exit == (Exited(0), false),
            // The host ends what lives on without its pipe.
            (Violence::CloseOutput, Some(exit)) => exit == (Killed(9), true),
            // Who was first does not matter.
            (Violence::HalfFrame, Some((status, _))) => status == Killed(9),
            (Violence::HalfFrame, None) => {
                matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Decode)
            }
            (Violence::WhileStopping, Some(exit)) => {
                exit == (Killed(9), false) || exit == (Exited(0), false)
            }
            (Violence::Stop, Some(exit)) => exit == (Exited(0), false),
            (Violence::WhileStopping | Violence::Stop, None) => {
                // A handler whose call back is too late has its own error, which it returns.
                let late = error.kind() == ErrorKind::Status && error.code() == Code::Unavailable;
                error.kind() == ErrorKind::Shutdown || late
            }
            (_, None) => false,
        };
        let fits = match error.kind() {
            ErrorKind::Exited => exit.is_some(),
            ErrorKind::Handshake => self == Violence::WhileLoading,
            _ => exit.is_none(),
        };
        is_legal && fits
    }
}

/// A process that can be signalled without reaching a stranger, should it have ended.
#[derive(Debug)]
pub struct Victim(OwnedFd);

impl Victim {
    /// A process that is running, or a zombie. `None` if it has been reaped.
    pub fn new(pid: u32) -> Option<Victim> {
        let pid = Pid::from_raw(pid.try_into().ok()?)?;
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok().map(Victim)
    }

    /// Signals it, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.0, signal);
    }
}
