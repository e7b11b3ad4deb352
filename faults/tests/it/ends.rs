//! P10 to P13, H14: hosts that end, each a process of its own.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::aftermath::{
    Case, EVIL, Folder, HOST, KillOnDrop, assert_soon, helper, in_time, is_alive, kill, start,
    wait_until,
};

/// A host, and the plugin that it has loaded.
pub(crate) struct Host {
    pub(crate) child: KillOnDrop,
    pub(crate) plugin: u32,
}

impl Host {
    pub(crate) fn start(case: &Case, args: &[&str]) -> Host {
        Host::start_with(case, args, Stdio::inherit())
    }

    pub(crate) fn start_with(case: &Case, args: &[&str], stderr: Stdio) -> Host {
        let mut command = Command::new(HOST);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = KillOnDrop(command.spawn().unwrap());
        let output = BufReader::new(child.0.stdout.take().unwrap());
        let line = in_time("the plugin's process id", || output.lines().next().unwrap().unwrap());
        let plugin = line.parse().unwrap();
        case.expect_gone(plugin);
        Host { child, plugin }
    }

    /// Waits for its end, and returns how it ended and how long the plugin has lived on.
    pub(crate) fn end(mut self) -> (ExitStatus, Duration) {
        let (status, at) =
            start("the end of the host", move || self.child.0.wait().unwrap()).timed();
        wait_until("the end of the plugin", || !is_alive(self.plugin));
        (status, at.elapsed())
    }

    pub(crate) fn kill(self) -> Duration {
        kill(self.child.0.id());
        let (status, lived_on) = self.end();
        assert_eq!(status.signal(), Some(9));
        lived_on
    }
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

/// What a child of the host does that was made by `fork` and has not come to an `exec`: so the plugin's pipes have no
/// end when the host is gone. It is this process that has them open here.
#[cfg(not(plug_portable))]
#[test]
fn p13_the_host_is_killed_while_another_process_holds_its_pipes() {
    let case = Case::new();
    let host = Host::start(&case, &["wait", EVIL]);
    let held = pipes_of(host.child.0.id());
    assert!(held.len() >= 3, "{held:?}");
    assert_soon("the plugin lived on for", host.kill());
    drop(held);
    case.finish();
}

/// What a child of the host has that was made by `fork`, for as long as it is there: it must not matter to its parent. It is
/// this process that has all twice here.
#[cfg(not(plug_portable))]
#[test]
fn p26_pipes_that_somebody_else_holds_and_closes_are_nothing_to_a_host() {
    use plug::Proxy as _;

    let case = Case::new();
    let probe = case.evil(&[]);
    let held = pipes_of(std::process::id());
    assert!(held.len() >= 3, "{held:?}");
    assert_eq!(probe.echo("held").unwrap(), b"held");
    drop(held);
    assert_eq!(probe.echo("closed").unwrap(), b"closed");
    // No pipe has an end now when the plugin has: neither the call nor the stop waits for one.
    let held = pipes_of(std::process::id());
    let begin = Instant::now();
    crate::aftermath::assert_exited(&probe.act("exit 3").unwrap_err(), plug::ExitStatus::Code(3));
    assert_soon("the call", begin.elapsed());
    drop((held, probe));
    let probe = case.evil(&[]);
    let held = pipes_of(std::process::id());
    let begin = Instant::now();
    probe.peer().stop(crate::aftermath::BOUND).unwrap();
    assert_soon("the stop", begin.elapsed());
    drop((held, probe));
    case.finish();
}

/// Both ends of all the pipes of a process.
#[cfg(not(plug_portable))]
fn pipes_of(pid: u32) -> Vec<std::fs::File> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    fds.map(|fd| fd.unwrap().path())
        .filter(|fd| {
            std::fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"))
        })
        // Its own standard streams may be from another user.
        .filter_map(|fd| std::fs::File::options().read(true).write(true).open(fd).ok())
        .collect()
}

/// Before the plugin's hello, and between its hello and the end of its start.
#[test]
fn h14_the_host_is_killed_in_the_middle_of_a_load() {
    let case = Case::new();
    let folder = Folder::new("h14");
    let file = folder.join("there");
    for option in ["--announce-before-hello", "--announce-in-start"] {
        let announce = format!("{option}={}", file.display());
        let host = Command::new(HOST).args(["load", EVIL, &announce]).stdin(Stdio::null()).spawn();
        let mut host = KillOnDrop(host.unwrap());
        let read = || std::fs::read_to_string(&file).ok().and_then(|text| text.parse().ok());
        wait_until("the plugin to be in its start", || read().is_some());
        let plugin = read().unwrap();
        case.expect_gone(plugin);
        assert!(is_alive(plugin));
        kill(host.0.id());
        host.0.wait().unwrap();
        std::fs::write(&file, "go on").unwrap();
        wait_until("the end of the plugin", || !is_alive(plugin));
        std::fs::remove_file(&file).unwrap();
    }
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
