//! F5 to F11, C16, R3, P22, X12: plugins that know the protocol and break it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use plug::{Delivery, ErrorKind, ExitCause, Proxy as _};
use plug_faults::load_probe;
use rustix::process::Signal;

use crate::aftermath::{
    BOUND, Case, assert_soon, evil, hang, in_time, is_alive, number, pid, raw, running, signal,
    wait_until,
};
use crate::exits::{next_end, watched};

/// The answer to the first call of a plugin that sends a bad frame before it.
fn after_bad_frame(case: &Case, what: &str) -> plug::Result<Vec<u8>> {
    let probe = case.load(raw(&["bad", what]));
    in_time(format!("the first call with {what}"), move || probe.echo("first"))
}

#[test]
fn f5_f6_f7_c16_frames_that_no_plugin_may_send() {
    let case = Case::new();
    for (what, problem) in [
        ("unknown-kind", "kind 20"),
        ("unknown-flags", "flags in 0x100001"),
        ("call-0", "the call 0"),
        ("call-of-the-other-parity", "the call 2"),
        ("open-with-an-id-of-the-host", "id 1"),
        ("cancel-of-nothing", "2"),
        ("absurd-credit", "credit"),
        ("credit-that-shrinks", "credit"),
    ] {
        let error = after_bad_frame(&case, what).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{what}: {error:?}");
        assert_eq!(error.delivery(), Delivery::MayHaveRun, "{what}");
        assert!(error.message().contains(problem), "{what}: {error}");
        assert!(error.message().contains("at byte "), "{what}: {error}");
    }
    case.finish();
}

#[test]
fn f5_a_frame_that_may_be_ignored_is() {
    let case = Case::new();
    assert_eq!(after_bad_frame(&case, "ignorable-kind").unwrap(), b"first");
    case.finish();
}

/// A session is good up to some byte, for each byte of its first frames; then 64 KiB of anything follow, and then the
/// end or nothing.
#[test]
fn f11_random_bytes_from_each_byte_of_a_session_on() {
    let case = Case::new();
    let mut kinds = BTreeMap::new();
    for from in 0..SESSION {
        let calls = move || -> plug::Result<()> {
            let command = raw(&["garbage-from", &from.to_string()]).start_timeout(PATIENCE);
            let probe = load_probe(command)?.with_timeout(PATIENCE);
            for _ in 0..10 {
                // What is garbled may still be a reply, with other bytes.
                probe.echo("good")?;
            }
            Ok(())
        };
        let result = in_time(format!("a session that goes wrong at byte {from}"), calls);
        let error = result.expect_err("it is too short for all calls");
        *kinds.entry(format!("{:?}", error.kind())).or_insert(0) += 1;
        assert!(
            matches!(
                error.kind(),
                ErrorKind::Protocol
                    | ErrorKind::Handshake
                    | ErrorKind::Incompatible
                    | ErrorKind::Exited
                    | ErrorKind::Deadline
                    | ErrorKind::Decode
                    | ErrorKind::Status
            ),
            "{from}: {error:?}"
        );
    }
    println!("{kinds:?}");
    case.finish();
}

#[test]
fn r3_a_response_that_nests_too_deep_fails_alone() {
    let case = Case::new();
    for depth in ["101", "200000"] {
        let probe = case.load(raw(&["nested", depth]));
        let error = {
            let probe = probe.clone();
            in_time("the call", move || probe.echo("first").unwrap_err())
        };
        assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
        assert_eq!(error.delivery(), Delivery::MayHaveRun);
        assert_eq!(in_time("the next call", move || probe.echo("next")).unwrap(), b"next");
    }
    case.finish();
}

/// Its calls end when this host decides that it must end, not when it has given its memory back. By hand:
/// `PLUG_FAULTS_BLOAT=4096`, in MiB.
#[test]
fn p22_calls_of_a_large_plugin_do_not_wait_for_its_end() {
    let case = Case::new();
    let mib = number("PLUG_FAULTS_BLOAT").unwrap_or(256).to_string();
    let probe = case.load(raw(&["bloat-then-bogus", &mib]));
    let pid = pid(&probe);
    let (error, at) = crate::aftermath::start("the call", {
        let probe = probe.clone();
        move || probe.echo("first").unwrap_err()
    })
    .timed();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert!(error.exit().is_none(), "it says how the process ended: {error:?}");
    wait_until("the end of the process", || !is_alive(pid));
    println!("a plugin with {mib} MiB lived on for {:?}", at.elapsed());
    drop(probe);
    case.finish();
}

/// It is killed for its silence, or since its time to stop is over. The system takes a moment to take back 1 GiB, and
/// nobody waits for that. Whether that can be seen is up to the scheduler, so it is printed (by hand, `PLUG_FAULTS_TRIES=5`
/// tries until it is); that it does not wait, a test of the connection alone shows.
#[test]
fn p22_calls_fail_at_the_decision_to_kill_and_not_when_the_process_has_ended() {
    const MIB: u64 = 1024;

    if available_mib() < 4 * MIB {
        println!("skipped: with less than {} MiB available, {MIB} may be too much", 4 * MIB);
        return;
    }
    let case = Case::new();
    for cause in [ExitCause::Unresponsive, ExitCause::Overdue] {
        let mut seen_alive = 0;
        for _ in 0..number("PLUG_FAULTS_TRIES").unwrap_or(1) {
            let beats = cause == ExitCause::Unresponsive;
            let every = if beats { Duration::from_millis(500) } else { BOUND };
            let (command, ends) = watched(evil(&[]).heartbeat(every, 4));
            let probe = case.load(command);
            probe.act(format!("bloat {MIB}")).unwrap();
            let pid = pid(&probe);
            let call = hang(&probe, "hang");
            let other = crate::aftermath::start("a call that looks after its process", {
                let probe = probe.clone();
                move || {
                    let error = probe.act("hang").unwrap_err();
                    (error, is_alive(pid))
                }
            });
            wait_until("the second handler", || running(&probe) == 2);
            signal(pid, Signal::STOP);
            if cause == ExitCause::Overdue {
                probe.peer().stop(Duration::ZERO).unwrap_err();
            }
            let (error, was_alive) = other.get();
            for error in [error, call.get().unwrap_err()] {
                let exit = error.exit().expect("it says who has ended the process");
                assert_eq!((exit.by_host(), exit.cause()), (true, cause), "{error:?}");
                assert_eq!(
                    (error.kind(), error.delivery()),
                    (ErrorKind::Exited, Delivery::MayHaveRun)
                );
            }
            assert_eq!(next_end(&ends).cause(), cause);
            drop(probe);
            seen_alive += usize::from(was_alive);
            if was_alive {
                break;
            }
        }
        println!("{cause:?}: {seen_alive} calls ended before the process");
    }
    case.finish();
}

/// How much memory the system has left, in MiB.
fn available_mib() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("Linux says so").parse::<u64>().unwrap() >> 10
}

/// There is no such service here: no code of this host runs.
#[test]
fn x12_a_plugin_calls_what_it_was_not_given() {
    let case = Case::new();
    for method in ["0", "1", "4294967295"] {
        let probe = case.load(raw(&["call-back", method]));
        let begin = Instant::now();
        let said = in_time("the call", {
            let probe = probe.clone();
            move || probe.act("").unwrap()
        });
        assert_soon("the answer", begin.elapsed());
        // An end of the call 2, with the code for what is not implemented.
        assert_eq!(said, "4 2 12", "method {method}");
        assert_eq!(in_time("the next call", move || probe.echo("next")).unwrap(), b"next");
    }
    case.finish();
}

/// The hello and some replies.
const SESSION: usize = 140;

/// How long what a garbled plugin says is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
