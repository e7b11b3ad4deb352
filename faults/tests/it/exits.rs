//! P1: what a host is told of the ends of its plugins.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use plug::{Command, Exit, ExitCause, ExitStatus, Proxy as _};
use plug_faults::load_probe;
use rustix::process::Signal;

use crate::aftermath::{
    BOUND, Case, EVIL, assert_exited, assert_soon, evil, hang, in_time, kill, pid, raw, signal,
};

/// The command, and the ends that it is told of. The channel closes with its callback.
pub(crate) fn watched(command: Command) -> (Command, Receiver<Exit>) {
    let (sender, ends) = channel();
    let command = command.on_exit(move |exit| {
        // Nobody listens any more if the test has failed.
        let _ = sender.send(*exit);
    });
    (command, ends)
}

/// The next end.
pub(crate) fn next_end(ends: &Receiver<Exit>) -> Exit {
    ends.recv_timeout(BOUND).expect("the host is told of the end")
}

/// The one end that comes.
fn only_end(ends: &Receiver<Exit>) -> Exit {
    let end = next_end(ends);
    let more = ends.recv_timeout(BOUND);
    assert_eq!(more, Err(RecvTimeoutError::Disconnected), "it is told once, and lets go then");
    end
}

const SIGKILL: ExitStatus = ExitStatus::Signal(9);

#[test]
fn p1_a_host_is_told_that_an_idle_plugin_was_killed() {
    let case = Case::new();
    let (command, ends) = watched(evil(&[]));
    let probe = case.load(command);
    let begin = Instant::now();
    kill(pid(&probe));
    let end = only_end(&ends);
    assert_soon("from the kill to the notice", begin.elapsed());
    assert_eq!((end.pid(), end.status()), (pid(&probe), SIGKILL));
    assert_eq!((end.cause(), end.is_graceful()), (ExitCause::Crashed, false));
    drop(probe);
    case.finish();
}

#[test]
fn every_end_says_why_once() {
    let case = Case::new();
    let end_of = |what: &str, command: Command, act: &dyn Fn(&plug_faults::ProbeProxy)| {
        let (command, ends) = watched(command);
        let probe = case.load(command);
        act(&probe);
        drop(probe);
        let end = only_end(&ends);
        println!("{what}: {end}, {:?}", end.cause());
        (end.cause(), end.status(), end.is_graceful())
    };
    let zero = ExitStatus::Code(0);
    let stop = |probe: &plug_faults::ProbeProxy| probe.peer().stop(BOUND).unwrap();
    let ends = [
        (end_of("stop", evil(&[]), &stop), (ExitCause::Stopped, zero, true)),
        (end_of("drop", evil(&[]), &|_| {}), (ExitCause::Stopped, zero, true)),
        (
            end_of("exit(0) in a handler", evil(&[]), &|probe| {
                assert_exited(&probe.act("exit 0").unwrap_err(), zero);
            }),
            (ExitCause::Crashed, zero, false),
        ),
        (
            end_of("stop of a plugin that hangs", evil(&[]), &|probe| {
                let call = hang(probe, "hang");
                // Its runtime ends it by SIGTERM, after half of the grace.
                probe.peer().stop(Duration::from_millis(400)).unwrap_err();
                call.get().unwrap_err();
            }),
            (ExitCause::Overdue, ExitStatus::Signal(15), false),
        ),
        (
            end_of("a plugin that breaks the protocol", raw(&["bogus", "random"]), &|probe| {
                assert_eq!(probe.echo("x").unwrap_err().kind(), plug::ErrorKind::Protocol);
            }),
            (ExitCause::Protocol, SIGKILL, false),
        ),
        (
            end_of("a plugin that closes its output", raw(&["close-output"]), &|probe| {
                assert_eq!(probe.echo("x").unwrap_err().kind(), plug::ErrorKind::Exited);
            }),
            (ExitCause::Protocol, SIGKILL, false),
        ),
        (
            end_of("SIGXCPU", evil(&[]), &|probe| {
                signal(pid(probe), Signal::XCPU);
                probe.act("hang").unwrap_err();
            }),
            (ExitCause::Limit, ExitStatus::Signal(24), false),
        ),
    ];
    for (is, expected) in ends {
        assert_eq!(is, expected);
    }
    case.finish();
}

#[test]
fn a_load_that_fails_tells_of_no_end() {
    let case = Case::new();
    for command in [Command::new("/bin/true"), evil(&["--fail=no space"]), Command::new("/nowhere")]
    {
        let (command, ends) = watched(command);
        command.load().unwrap_err();
        let told = ends.recv_timeout(BOUND);
        assert_eq!(told, Err(RecvTimeoutError::Disconnected), "the error says it all");
    }
    case.finish();
}

#[test]
fn p7_the_last_reply_is_delivered_although_the_callback_waits_for_it() {
    let case = Case::new();
    for _ in 0..20 {
        let (sender, told) = channel();
        let (reply_taken, taken) = channel();
        let command = raw(&["reply-then-exit", "1"]).on_exit(move |exit| {
            let taken = taken.recv_timeout(BOUND);
            sender.send((taken, exit.status())).unwrap();
        });
        let probe = case.load(command);
        let payload = probe.echo("x").map_err(|error| error.to_string());
        reply_taken.send(payload).unwrap();
        let (payload, status) = told.recv_timeout(BOUND).expect("the end is told");
        assert_eq!(payload.unwrap(), Ok(vec![7]), "{status:?}");
    }
    case.finish();
}

#[test]
fn a_callback_that_blocks_and_panics_hurts_nothing_else() {
    let case = Case::new();
    let (go_on, gate) = channel::<()>();
    let (entered, is_in) = channel();
    let command = evil(&[]).on_exit(move |_| {
        entered.send(()).unwrap();
        let _ = gate.recv_timeout(BOUND);
        panic!("as a test");
    });
    let (probe, other) = (case.load(command), case.evil(&[]));
    let call = hang(&probe, "hang");
    kill(pid(&probe));
    is_in.recv_timeout(BOUND).expect("the callback runs");
    assert_exited(&call.get().unwrap_err(), SIGKILL);
    let peer = probe.peer().clone();
    in_time("a stop of the one that has ended", move || peer.stop(BOUND).unwrap_err());
    assert_eq!(other.echo("beside").unwrap(), b"beside");
    // Ends are noticed, too.
    kill(pid(&other));
    assert_exited(&other.act("hang").unwrap_err(), SIGKILL);
    go_on.send(()).unwrap();
    drop((probe, other));
    case.finish();
}

#[test]
fn a_callback_may_load_the_next_plugin() {
    let case = Case::new();
    let (sender, next) = channel();
    let command = evil(&[]).on_exit(move |_| {
        let _ = sender.send(load_probe(EVIL));
    });
    let probe = case.load(command);
    kill(pid(&probe));
    let next = next.recv_timeout(BOUND).expect("it was called").unwrap();
    case.expect_gone(pid(&next));
    assert_eq!(next.echo("next").unwrap(), b"next");
    drop((probe, next));
    case.finish();
}
