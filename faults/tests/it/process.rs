//! P, M1: processes that end while they are needed. Deaths of hosts are in [`ends`](crate::ends).

use std::time::{Duration, Instant};

use plug::{Code, Delivery, ErrorKind, ExitStatus, Proxy as _};
use rustix::process::Signal;

use crate::aftermath::{
    Case, assert_exited, assert_soon, evil, hang, in_time, is_alive, is_stopped, kill, number, pid,
    raw, signal, start, wait_until,
};

const SIGKILL: ExitStatus = ExitStatus::Signal(9);

/// As the kernel does that is out of memory.
#[test]
fn p1_r8_killed_while_idle() {
    let case = Case::new();
    let probe = case.evil(&[]);
    assert_eq!(probe.echo("before").unwrap(), b"before");
    // The end of its output is what a host can wait for.
    let lines = probe.peer().stderr_lines().unwrap();
    let end = start("the end of its output", move || lines.count());
    let pid = pid(&probe);
    let begin = Instant::now();
    kill(pid);
    assert_soon("from the kill to the end of the output", end.timed().1 - begin);
    let error = probe.echo("after").unwrap_err();
    assert_exited(&error, SIGKILL);
    assert_eq!(error.exit().unwrap().pid(), pid);
    assert_eq!(error.delivery(), Delivery::NotSent);
    let error = probe.peer().stop(Duration::from_secs(1)).unwrap_err();
    assert_exited(&error, SIGKILL);
    drop(probe);
    case.finish();
}

/// Its watcher may not have come to make what it waits with.
#[test]
fn a_plugin_loads_another_in_its_first_call() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let error = probe.act("load exit 3").unwrap_err();
    assert!(error.message().contains("exited with code 3"), "{error:?}");
    drop(probe);
    case.finish();
}

#[test]
fn p2_killed_with_calls_in_flight() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let other = case.evil(&[]);
    probe.act("eprint last words").unwrap();
    let calls: Vec<_> = (0..100).map(|_| hang(&probe, "hang")).collect();
    let busy = start("calls to another plugin", {
        let other = other.clone();
        move || (0..2000).map(|_| other.echo("x").unwrap().len()).sum::<usize>()
    });
    let begin = Instant::now();
    kill(pid(&probe));
    let mut last = begin;
    for call in calls {
        let (result, at) = call.timed();
        let error = result.unwrap_err();
        assert_exited(&error, SIGKILL);
        assert_eq!(error.delivery(), Delivery::MayHaveRun);
        assert!(error.stderr().unwrap().contains("last words"), "{error:?}");
        last = last.max(at);
    }
    assert_soon("from the kill to the last of 100 errors", last - begin);
    assert_eq!(busy.get(), 2000);
    drop((probe, other));
    case.finish();
}

/// A thousand calls are all in the plugin, which answers the first and is killed: so there is data to be read.
#[test]
fn p2_killed_with_a_thousand_calls_in_flight_and_a_reply_in_the_pipe() {
    let case = Case::new();
    let probe = case.load(raw(&["die-at", "1000"]));
    let calls: Vec<_> = (0..1000)
        .map(|index| {
            let probe = probe.clone();
            start(format!("call {index}"), move || probe.echo("x"))
        })
        .collect();
    let mut answered = 0;
    for call in calls {
        match call.get() {
            Ok(payload) => {
                assert_eq!(payload, b"x");
                answered += 1;
            }
            Err(error) => {
                assert_exited(&error, SIGKILL);
                assert_eq!(error.delivery(), Delivery::MayHaveRun);
            }
        }
    }
    assert_eq!(answered, 1, "what was sent before the end counts");
    drop(probe);
    case.finish();
}

#[test]
fn p3_crashes_in_a_handler() {
    let case = Case::new();
    let crashes = [("segfault", 11, ""), ("abort", 6, ""), ("overflow", 6, "overflowed its stack")];
    for (act, signal, said) in crashes {
        let probe = case.evil(&[]);
        let beside = hang(&probe, "hang");
        let error = in_time(act, move || probe.act(act).unwrap_err());
        assert_exited(&error, ExitStatus::Signal(signal));
        assert_eq!(error.delivery(), Delivery::MayHaveRun);
        assert!(error.stderr().unwrap_or_default().contains(said), "{error:?}");
        assert_exited(&beside.get().unwrap_err(), ExitStatus::Signal(signal));
    }
    case.finish();
}

#[test]
fn p4_a_panic_fails_its_call_alone() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let beside = start("a call beside it", {
        let probe = probe.clone();
        move || probe.sleep(300)
    });
    for _ in 0..20 {
        let error = probe.act("panic all is lost").unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Status, Code::Internal), "{error:?}");
        assert_eq!(error.delivery(), Delivery::MayHaveRun);
        assert!(error.message().contains("panicked at "), "{error}");
        assert!(error.message().contains("evil.rs:"), "{error}");
        assert!(error.message().ends_with("all is lost"), "{error}");
    }
    beside.get().unwrap();
    assert_eq!(probe.echo("on").unwrap(), b"on");
    drop(probe);
    case.finish();
}

#[test]
fn p5_a_panic_that_aborts_ends_the_process() {
    let case = Case::new();
    let probe = case.evil(&["--abort-on-panic"]);
    let error = in_time("the call", move || probe.act("panic all is lost").unwrap_err());
    assert_exited(&error, ExitStatus::Signal(6));
    assert!(error.stderr().unwrap().contains("all is lost"), "{error:?}");
    case.finish();
}

/// Its pipes end where the other program begins, which is told to end, and does not read that.
#[test]
fn p27_a_plugin_that_becomes_another_program_is_ended() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let pid = pid(&probe);
    let beside = hang(&probe, "hang");
    let error = in_time("the call", move || probe.act("exec 100").unwrap_err());
    for error in [error, beside.get().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Exited, "{error:?}");
        assert_eq!(error.delivery(), Delivery::MayHaveRun);
        assert!(error.exit().unwrap().by_host(), "{error:?}");
        assert_eq!(error.exit().unwrap().pid(), pid);
    }
    case.finish();
}

/// It ends as far as its host can see, and what it has become goes on, with all of its pipes.
#[test]
fn p27_a_plugin_that_becomes_a_daemon_has_ended() {
    let case = Case::new();
    let probe = case.load(
        plug::Command::new(crate::aftermath::EVIL).args(["raw-with-survivor", "hello-then-exit"]),
    );
    let error = in_time("the call", move || probe.echo("first").unwrap_err());
    assert_exited(&error, ExitStatus::Code(3));
    let daemon = error.stderr().and_then(|text| text.strip_prefix("survivor "));
    kill(daemon.expect("it says its id").parse().unwrap());
    case.finish();
}

#[test]
fn p6_an_exit_in_a_handler_is_an_error_also_with_code_0() {
    let case = Case::new();
    for code in [0, 7] {
        let probe = case.evil(&[]);
        let beside = hang(&probe, "hang");
        let error = in_time("the call", move || probe.act(format!("exit {code}")).unwrap_err());
        assert_exited(&error, ExitStatus::Code(code));
        assert_eq!(error.delivery(), Delivery::MayHaveRun);
        assert_exited(&beside.get().unwrap_err(), ExitStatus::Code(code));
    }
    case.finish();
}

/// `PLUG_FAULTS_REPLIES` has it take more than 300 of them.
#[test]
fn p7_the_last_reply_is_delivered_before_the_exit() {
    let case = Case::new();
    // A page and less, and as much as fits into the pipe beside the frame's head.
    let sizes = [10, 4000, 65_000];
    for round in 0..number("PLUG_FAULTS_REPLIES").unwrap_or(300) / 3 {
        for size in sizes {
            let probe = case.load(raw(&["reply-then-exit", &size.to_string()]));
            let reply = {
                let probe = probe.clone();
                in_time("the last reply", move || probe.echo("first"))
            };
            assert_eq!(
                reply.unwrap_or_else(|error| panic!("{round}, {size}: {error:?}")).len(),
                size
            );
            let error = in_time("the next call", move || probe.echo("second").unwrap_err());
            assert_exited(&error, ExitStatus::Code(0));
        }
    }
    case.finish();
}

/// The same with more in the pipe than one read takes: the exit is noticed before all is read.
#[test]
fn p7_also_behind_much_that_is_still_to_be_read() {
    let case = Case::new();
    for _ in 0..20 {
        let probe = case.load(raw(&["much-then-die"]));
        let reply = {
            let probe = probe.clone();
            in_time("the last reply", move || probe.echo("first"))
        };
        assert_eq!(reply.unwrap(), b"first");
        let error = in_time("the next call", move || probe.echo("second").unwrap_err());
        assert_exited(&error, SIGKILL);
    }
    case.finish();
}

/// The same with many who wait, so that who reads is not who the reply is for.
#[test]
fn p7_also_to_those_who_do_not_read() {
    let case = Case::new();
    for _ in 0..20 {
        let probe = case.load(raw(&["die-at", "8"]));
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let probe = probe.clone();
                start("a call", move || probe.echo("x"))
            })
            .collect();
        let answered = calls.into_iter().map(|call| call.get().is_ok());
        assert_eq!(answered.filter(|&answered| answered).count(), 1);
    }
    case.finish();
}

#[test]
fn p8_grandchild_holds_stdio() {
    let case = Case::new();
    let probe = case.evil(&["--child=linger"]);
    let child: u32 = probe.act("children").unwrap().parse().unwrap();
    case.expect_gone(child);
    let call = hang(&probe, "hang");
    assert!(is_alive(child));
    let begin = Instant::now();
    kill(pid(&probe));
    let (result, at) = call.timed();
    assert_exited(&result.unwrap_err(), SIGKILL);
    assert_soon("from the kill to the error", at - begin);
    // It is killed with its group, while the proxy is still there.
    wait_until("the end of the grandchild", || !is_alive(child));
    drop(probe);
    case.finish();
}

#[test]
fn m1_a_survivor_holds_the_pipe_that_a_caller_reads() {
    let case = Case::new();
    let probe = case.evil(&["--child=survive"]);
    let survivor: u32 = probe.act("children").unwrap().parse().unwrap();
    // The only call: so it reads, without a time-out.
    let call = hang(&probe, "hang");
    let begin = Instant::now();
    kill(pid(&probe));
    let (result, at) = call.timed();
    assert_exited(&result.unwrap_err(), SIGKILL);
    assert_soon("from the kill to the error", at - begin);
    assert!(is_alive(survivor), "it must live for this test to mean something");
    drop(probe);
    case.finish();
    assert!(is_alive(survivor), "it must live for this test to mean something");
    kill(survivor);
    wait_until("the end of the survivor", || !is_alive(survivor));
}

#[test]
fn m1_also_with_others_who_wait_and_more_to_be_written() {
    let case = Case::new();
    let probe = case.evil(&["--child=survive", "--pipes=8192"]);
    let survivor: u32 = probe.act("children").unwrap().parse().unwrap();
    let mut calls: Vec<_> = (0..4).map(|_| hang(&probe, "hang")).collect();
    // Nobody reads the rest of these.
    signal(pid(&probe), Signal::STOP);
    calls.extend((0..4).map(|_| {
        let probe = probe.clone();
        start("a large call", move || probe.act("x".repeat(1 << 20)))
    }));
    let begin = Instant::now();
    kill(pid(&probe));
    for call in calls {
        let (result, at) = call.timed();
        assert_exited(&result.unwrap_err(), SIGKILL);
        assert_soon("from the kill to the error", at - begin);
    }
    drop(probe);
    kill(survivor);
    case.finish();
}

#[test]
fn p9_a_survivor_that_a_handler_has_started() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let survivor: u32 = probe.act("child survive").unwrap().parse().unwrap();
    let call = hang(&probe, "hang");
    let begin = Instant::now();
    kill(pid(&probe));
    let (result, at) = call.timed();
    assert_exited(&result.unwrap_err(), SIGKILL);
    // It holds stderr.
    assert_soon("from the kill to the error", at - begin);
    let lines = probe.peer().stderr_lines().unwrap();
    in_time("the end of the output", move || lines.count());
    drop(probe);
    case.finish();
    assert!(is_alive(survivor), "documented: a session of its own escapes");
    kill(survivor);
}

/// What a plugin does after `plug::run` has the time that its host gives it.
#[test]
fn p16_a_plugin_may_clean_up_within_the_grace() {
    let case = Case::new();
    let file = std::env::temp_dir().join(format!("plug-clean-up-{}", std::process::id()));
    let option = format!("--clean-up={}", file.display());
    let probe = case.evil(&[&option]);
    let peer = probe.peer().clone();
    in_time("the stop", move || peer.stop(Duration::from_secs(60))).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "saved");
    std::fs::remove_file(&file).unwrap();
    drop(probe);
    case.finish();
}

#[test]
fn p16_the_shutdown_ends_with_sigkill() {
    let case = Case::new();
    let ignores_term = plug::Command::new("/bin/sh").args([
        "-c",
        "trap '' TERM; exec \"$0\"",
        crate::aftermath::EVIL,
    ]);
    let probe = case.load(ignores_term);
    signal(pid(&probe), Signal::TERM);
    let call = hang(&probe, "hang");
    let grace = Duration::from_millis(600);
    let begin = Instant::now();
    let stop = start("the stop", {
        let peer = probe.peer().clone();
        move || peer.stop(grace)
    });
    let (result, at) = stop.timed();
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exited, "{error:?}");
    assert_eq!(error.exit().unwrap().status(), SIGKILL);
    assert!(error.exit().unwrap().by_host());
    assert!(at - begin >= grace, "{:?}", at - begin);
    assert_soon("the end, beyond the grace", at - begin - grace);
    let error = call.get().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exited, "{error:?}");
    drop(probe);
    case.finish();
}

#[test]
fn p15_a_stopped_process_is_killed_by_stop() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let pid = pid(&probe);
    signal(pid, Signal::STOP);
    // Before that it would heed a SIGTERM.
    wait_until("the plugin to be stopped", || is_stopped(pid));
    let peer = probe.peer().clone();
    let error = in_time("the stop", move || peer.stop(Duration::from_millis(200)).unwrap_err());
    assert_eq!(error.exit().unwrap().status(), SIGKILL);
    drop(probe);
    case.finish();
}

#[test]
fn stop_waits_for_calls_under_way_and_reports() {
    let case = Case::new();
    let folder = crate::aftermath::Folder::new("stop");
    let file = folder.join("stopped");
    let probe = case.evil(&[&format!("--stop-file={}", file.display())]);
    let call = hang(&probe, "nap 500");
    let begin = Instant::now();
    let peer = probe.peer().clone();
    in_time("the stop", move || peer.stop(Duration::from_secs(20)).unwrap());
    assert_soon("the stop", begin.elapsed());
    assert_eq!(call.get().unwrap(), "done");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "stopped");
    let error = probe.echo("after").unwrap_err();
    assert_eq!(error.delivery(), Delivery::NotSent, "{error:?}");
    assert!(matches!(error.kind(), ErrorKind::Shutdown | ErrorKind::Exited), "{error:?}");
    let says_why = error.message().contains("stopped by this host");
    assert!(says_why || error.kind() == ErrorKind::Shutdown, "{error}");
    // Once more does no harm.
    probe.peer().stop(Duration::from_secs(20)).unwrap();
    drop(probe);
    case.finish();
}

#[test]
fn stop_gives_a_handler_half_of_the_grace_then_sigterm() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let call = hang(&probe, "hang");
    let peer = probe.peer().clone();
    let grace = Duration::from_secs(1);
    let begin = Instant::now();
    let (result, at) = start("the stop", move || peer.stop(grace)).timed();
    let error = result.unwrap_err();
    assert_eq!(error.exit().unwrap().status(), ExitStatus::Signal(15), "{error:?}");
    assert!(error.exit().unwrap().by_host());
    assert!(at - begin >= grace / 2, "{:?}", at - begin);
    assert_eq!(call.get().unwrap_err().kind(), ErrorKind::Exited);
    drop(probe);
    case.finish();
}

#[test]
fn stop_takes_a_grace_without_end() {
    let case = Case::new();
    let probe = case.load(evil(&[]).stop_grace(Duration::MAX));
    let peer = probe.peer().clone();
    in_time("the stop", move || peer.stop(Duration::MAX).unwrap());
    drop(probe);
    let inside = plug::in_process(plug_faults::evil::Evil::default()).unwrap();
    in_time("the stop", move || inside.stop(Duration::MAX).unwrap());
    case.finish();
}

#[test]
fn the_process_ends_with_its_last_proxy() {
    let case = Case::new();
    let folder = crate::aftermath::Folder::new("drop");
    let file = folder.join("stopped");
    let probe = case.evil(&[&format!("--stop-file={}", file.display())]);
    let clone = probe.clone();
    let pid = pid(&probe);
    drop(probe);
    assert_eq!(clone.echo("still").unwrap(), b"still");
    let begin = Instant::now();
    drop(clone);
    assert_soon("the drop", begin.elapsed());
    wait_until("the end of the process", || !is_alive(pid));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "stopped");

    // A thread that is in a call has a proxy too.
    let probe = case.evil(&[]);
    let mut call = hang(&probe, "hang");
    let pid = crate::aftermath::pid(&probe);
    drop(probe);
    assert!(call.is_pending() && is_alive(pid));
    signal(pid, Signal::TERM);
    assert_exited(&call.get().unwrap_err(), ExitStatus::Signal(15));
    case.finish();
}
