//! P15, P18, P23: plugins that give no sign of life.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use plug::{Command, Delivery, ErrorKind, ExitCause, ExitStatus, Proxy as _};
use rustix::process::Signal;

use crate::aftermath::{
    BOUND, Case, EVIL, HOST, assert_soon, evil, hang, is_alive, kill, pid, raw, signal, start,
    wait_until,
};
use crate::exits::{next_end, watched};

const BRIEF: Duration = Duration::from_millis(10);
const SIGKILL: ExitStatus = ExitStatus::Signal(9);

/// One that has half a second: enough for a plugin that lives, also on a busy machine.
fn beating(command: Command) -> Command {
    command.heartbeat(Duration::from_millis(100), 4)
}

#[test]
fn p15_a_stopped_plugin_is_found_unresponsive_and_killed() {
    let case = Case::new();
    for busy in [true, false] {
        let (command, ends) = watched(beating(evil(&[])));
        let probe = case.load(command);
        let call = busy.then(|| hang(&probe, "hang"));
        let begin = Instant::now();
        signal(pid(&probe), Signal::STOP);
        let end = next_end(&ends);
        println!("unresponsive for {:?}", begin.elapsed());
        assert_eq!((end.cause(), end.status()), (ExitCause::Unresponsive, SIGKILL));
        assert!(end.by_host() && !end.is_graceful());
        let (error, delivery) = match call {
            Some(call) => (call.get().unwrap_err(), Delivery::MayHaveRun),
            None => (probe.echo("after").unwrap_err(), Delivery::NotSent),
        };
        assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, delivery), "{error:?}");
        assert_eq!(error.exit().unwrap().cause(), ExitCause::Unresponsive);
        assert!(error.message().contains("gave no sign of life for"), "{error}");
        drop(probe);
    }
    case.finish();
}

/// Its pipes are there and nobody is behind them.
#[test]
fn p23_a_plugin_that_reads_nothing_is_found_unresponsive_and_killed() {
    let case = Case::new();
    let (command, ends) = watched(beating(raw(&["deaf", "ping"])));
    let probe = case.load(command);
    // More than the pipe holds: the pings are behind it.
    let call = start("a call that is not read", {
        let probe = probe.clone();
        move || probe.echo(vec![7; 1 << 20])
    });
    assert_eq!(next_end(&ends).cause(), ExitCause::Unresponsive);
    let error = call.get().unwrap_err();
    assert_eq!(error.exit().unwrap().cause(), ExitCause::Unresponsive, "{error:?}");
    drop(probe);
    case.finish();
}

/// Silence is no sign of anything there.
#[test]
fn a_plugin_that_knows_no_pings_has_no_heartbeat() {
    let case = Case::new();
    let probe = case.load(raw(&["deaf"]).heartbeat(BRIEF, 1));
    let pid = pid(&probe);
    let begin = Instant::now();
    wait_until("the time of twenty heartbeats", || {
        assert!(is_alive(pid), "it was killed after {:?}", begin.elapsed());
        begin.elapsed() > 20 * BRIEF
    });
    probe.peer().stop(BRIEF).unwrap_err();
    drop(probe);
    case.finish();
}

#[test]
fn a_plugin_whose_handlers_are_all_busy_answers() {
    let case = Case::new();
    let probe = case.load(evil(&[]).heartbeat(Duration::from_millis(100), 10));
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let probe = probe.clone();
            start("a handler that spins", move || probe.act("spin 2500"))
        })
        .collect();
    for call in calls {
        assert_eq!(call.get().unwrap(), "done");
    }
    assert_eq!(probe.echo("on").unwrap(), b"on");
    drop(probe);
    case.finish();
}

/// Nobody but the watcher reads its answers.
#[test]
fn an_idle_plugin_lives_on() {
    let case = Case::new();
    let probe = case.load(beating(evil(&[])));
    let pid = pid(&probe);
    let idle = Instant::now();
    wait_until("the time in which it would be given up three times", || {
        assert!(is_alive(pid), "it was killed after {:?}", idle.elapsed());
        idle.elapsed() > Duration::from_millis(1500)
    });
    assert_eq!(probe.echo("on").unwrap(), b"on");
    drop(probe);
    case.finish();
}

/// Its runtime does not read while it ends, and it has the time it was given.
#[test]
fn a_plugin_that_is_being_stopped_need_not_answer() {
    let case = Case::new();
    let file = crate::aftermath::Folder::new("heartbeat");
    let saved = file.join("saved");
    let clean_up = evil(&[&format!("--clean-up={}", saved.display())]);
    let (command, ends) = watched(clean_up.heartbeat(Duration::from_millis(20), 1));
    let probe = case.load(command);
    probe.peer().stop(BOUND).unwrap();
    assert_eq!(next_end(&ends).cause(), ExitCause::Stopped);
    assert_eq!(std::fs::read_to_string(saved).unwrap(), "saved");
    drop(probe);
    case.finish();
}

#[test]
fn p18_a_host_that_was_stopped_for_longer_than_the_limit_goes_on() {
    let case = Case::new();
    let mut host = Process::new(HOST)
        .args(["heartbeat", EVIL, "100", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = host.stdin.take().unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let plugin: u32 = lines.next().unwrap().unwrap().parse().unwrap();
    case.expect_gone(plugin);
    for round in 0..2 {
        // The plugin is stopped first, so that nothing that it has said waits for the host.
        signal(plugin, Signal::STOP);
        signal(host.id(), Signal::STOP);
        // Longer than the host gives it: that is what this is about.
        std::thread::sleep(Duration::from_millis(1200));
        signal(host.id(), Signal::CONT);
        signal(plugin, Signal::CONT);
        let begin = Instant::now();
        writeln!(input, "round {round}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), format!("round {round}"));
        assert_soon("the call after it goes on", begin.elapsed());
    }
    // It has not stopped looking.
    signal(plugin, Signal::STOP);
    wait_until("the end of a plugin that does not go on", || !is_alive(plugin));
    writeln!(input, "after").unwrap();
    assert!(!host.wait().unwrap().success(), "its call has failed");
    drop((input, lines));
    if is_alive(plugin) {
        kill(plugin);
    }
    case.finish();
}
