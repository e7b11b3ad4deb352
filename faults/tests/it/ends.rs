//! P10 to P17: hosts that end, each a process of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::aftermath::{
    Case, EVIL, Folder, HOST, assert_soon, helper, in_time, is_alive, kill, start, wait_until,
};

/// A host, and the plugin that it has loaded.
pub(crate) struct Host {
    pub(crate) child: Child,
    plugin: u32,
}

impl Host {
    pub(crate) fn start(case: &Case, args: &[&str]) -> Host {
        Host::start_with(case, args, Stdio::inherit())
    }

    pub(crate) fn start_with(case: &Case, args: &[&str], stderr: Stdio) -> Host {
        let mut child = Command::new(HOST)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let line = in_time("the plugin's process id", || output.lines().next().unwrap().unwrap());
        let plugin = line.parse().unwrap();
        case.expect_gone(plugin);
        Host { child, plugin }
    }

    /// Waits for its end, and returns how it ended and how long the plugin has lived on.
    fn end(mut self) -> (ExitStatus, Duration) {
        let (status, at) = start("the end of the host", move || self.child.wait().unwrap()).timed();
        wait_until("the end of the plugin", || !is_alive(self.plugin));
        (status, at.elapsed())
    }

    pub(crate) fn kill(self) -> Duration {
        kill(self.child.id());
        let (status, lived_on) = self.end();
        assert_eq!(status.signal(), Some(9));
        lived_on
    }
}

/// A terminal: what stands for keyboard and screen, and its path.
pub(crate) fn terminal() -> (OwnedFd, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let keyboard = openpt(flags).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let terminal = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
    (keyboard, terminal)
}

#[test]
fn p10_the_host_returns_from_main() {
    let case = Case::new();
    let (status, lived_on) = Host::start(&case, &["leave", EVIL]).end();
    assert_eq!(status.code(), Some(0));
    assert_soon("the plugin lived on for", lived_on);
    case.finish();
}

#[test]
fn p11_the_host_is_killed_while_the_plugin_is_idle() {
    let case = Case::new();
    for _ in 0..5 {
        let lived_on = Host::start(&case, &["wait", EVIL]).kill();
        assert_soon("the plugin lived on for", lived_on);
    }
    case.finish();
}

/// The plugin ends by itself, since nothing keeps it: nobody else can end what it has started.
#[test]
fn p11_what_an_idle_plugin_has_started_ends_with_it() {
    let case = Case::new();
    let folder = Folder::new("p11-group");
    let file = folder.join("child");
    let host = Host::start(&case, &["child", EVIL, "linger", &file.display().to_string()]);
    let child = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    assert!(is_alive(child), "the plugin has started it");
    host.kill();
    wait_until("the end of what the plugin had started", || !is_alive(child));
    case.finish();
}

#[test]
fn p12_the_host_is_killed_while_handlers_spin_and_block() {
    let case = Case::new();
    let lived_on = Host::start(&case, &["wait", EVIL, "spin", "block", "hang"]).kill();
    println!("the plugin lived on for {lived_on:?}");
    // 2 seconds are its grace.
    assert!(lived_on < Duration::from_secs(2) + crate::aftermath::SOON, "{lived_on:?}");
    case.finish();
}

/// Its handlers may clean up: they have two seconds.
#[test]
fn c17_handlers_see_that_their_host_was_killed() {
    let case = Case::new();
    let folder = Folder::new("c17-host");
    let file = folder.join("cancelled");
    let what = format!("wait-and-write {}", file.display());
    Host::start(&case, &["ask", crate::streams::FLOWING, &what]).kill();
    wait_until("what the handler does once it is cancelled", || file.exists());
    case.finish();
}

/// Ctrl-C is for the host alone. It ends here, and the plugin ends in good order.
#[test]
fn p17_ctrl_c_reaches_the_host_only() {
    let case = Case::new();
    let folder = Folder::new("p17");
    let file = folder.join("stopped");
    let (keyboard, terminal) = terminal();
    let host = Host::start(&case, &["terminal", &terminal, EVIL, file.to_str().unwrap()]);
    let mut keyboard = std::fs::File::from(keyboard);
    keyboard.write_all(b"\x03").unwrap();
    let (status, lived_on) = host.end();
    assert_eq!(status.signal(), Some(2), "{status:?}");
    assert_soon("the plugin lived on for", lived_on);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "stopped", "not by a signal");
    drop(keyboard);
    case.finish();
}

/// Acceptance: 100 plugins at once, and at most 3 threads more than with none.
#[test]
fn a_hundred_plugins_take_three_threads_at_most() {
    let case = Case::new();
    let begin = Instant::now();
    let text = helper(&["many", EVIL, "100"]);
    print!("{text}");
    println!("in {:?}", begin.elapsed());
    let number = |what: &str| -> usize {
        let line = text.lines().find_map(|line| line.strip_prefix(what));
        line.unwrap_or_else(|| panic!("no {what:?} in {text}")).trim().parse().unwrap()
    };
    assert!(number("threads with") <= number("threads before") + 3, "{text}");
    assert!(number("threads after") <= number("threads before") + 1, "{text}");
    assert_eq!(number("children after"), 0, "{text}");
    // What the watcher waits with stays: three on Linux, two elsewhere.
    assert!(number("fds after") <= number("fds before") + 3, "{text}");
    case.finish();
}
