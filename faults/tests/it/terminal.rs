//! P17, P18: hosts that a person has started in a terminal.

use std::fs::File;
use std::io::Write as _;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::aftermath::{
    Case, EVIL, Folder, assert_soon, in_time, is_alive, is_stopped, signal, wait_until,
};
use crate::ends::Host;

/// A terminal, as the person sees it.
pub(crate) struct Terminal {
    pub(crate) keyboard: File,
    /// The path of what programs see.
    pub(crate) name: String,
}

impl Terminal {
    pub(crate) fn new() -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = openpt(flags).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        Terminal { keyboard: keyboard.into(), name }
    }

    fn press(&mut self, key: &[u8]) {
        self.keyboard.write_all(key).unwrap();
    }
}

/// Whether this process does, and so what it starts.
fn ignores_sigint() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() & (1 << (Signal::INT.as_raw() - 1)) != 0
}

/// Ctrl-C is for the host alone. It ends here, and the plugin ends in good order.
#[test]
fn p17_ctrl_c_reaches_the_host_only() {
    if ignores_sigint() {
        println!(
            "skipped: SIGINT is ignored here, as in a job in the background, and so in the host"
        );
        return;
    }
    let case = Case::new();
    let folder = Folder::new("p17");
    let file = folder.join("stopped");
    let mut terminal = Terminal::new();
    let host = Host::start(&case, &["terminal", &terminal.name, EVIL, file.to_str().unwrap()]);
    terminal.press(b"\x03");
    let (status, lived_on) = host.end();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2), "{status:?}");
    assert_soon("the plugin lived on for", lived_on);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "stopped", "not by a signal");
    drop(terminal);
    case.finish();
}

/// Ctrl-Z stops the host alone, in the middle of a call, and `fg` has it go on as if nothing had been.
#[test]
fn p18_ctrl_z_stops_the_host_only_and_it_goes_on() {
    let case = Case::new();
    let folder = Folder::new("p18");
    let go = folder.join("go");
    let mut terminal = Terminal::new();
    // A shell of a kind, since what nobody could continue is not stopped.
    let shell = Host::start(&case, &["shell", &terminal.name, EVIL, go.to_str().unwrap()]);
    let host = crate::aftermath::parent(shell.plugin);
    assert_ne!(host, shell.child.0.id());
    terminal.press(b"\x1a");
    wait_until("the host to be stopped", || is_stopped(host));
    assert!(is_alive(shell.plugin) && !is_stopped(shell.plugin), "it has a group of its own");
    // The plugin answers while nobody reads.
    std::fs::write(&go, "").unwrap();
    wait_until("the plugin to have taken its leave", || !go.exists());
    assert!(is_stopped(host));
    signal(host, Signal::CONT);
    let (status, _) = in_time("the end", move || shell.end());
    assert_eq!(status.code(), Some(0), "its call was answered");
    drop(terminal);
    case.finish();
}
