//! V9, X11: memory that is shared, refused, or spoilt by the other side.

use std::collections::BTreeSet;
use std::time::Duration;

use plug::{Command, Delivery, ErrorKind, ExitStatus, Proxy as _, Restart, SharedMemory};
use plug_faults::memory::{Mark, To};
use plug_faults::wire::{self, Frame, Hello};
use plug_faults::{EchoRequest, ProbeProxy, census};
use rustix::process::Signal;

use crate::aftermath::{
    BOUND, Case, EVIL, assert_exited, evil, in_time, kill, pid, raw, start, wait_until,
};
use crate::raw_host::RawHost;

/// The raw plugin that shares memory in a way.
fn sharing(args: &[&str]) -> Command {
    raw(&[&["sharing"], args].concat()).shared_memory(SharedMemory::AtOnce)
}

/// Memory that this process shares at the moment.
fn shared() -> BTreeSet<String> {
    census::shared().unwrap()
}

fn wait_until_shared(probe: &ProbeProxy, count: usize) {
    wait_until("memory to be shared", || {
        probe.echo("x").unwrap();
        shared().len() == count
    });
}

/// Calls of several sizes, the larger ones larger than any ring.
fn echo_all(probe: &ProbeProxy, times: usize) {
    let probe = probe.clone();
    in_time("the calls", move || {
        for round in 0..times {
            let payload = vec![round as u8; [0, 10, 1000, 5000, 100_000, 250_000][round % 6]];
            assert!(probe.echo(payload.clone()).unwrap() == payload, "the call {round}");
        }
    });
}

/// Calls until one fails, with its error; `None` if none does. Each ends in time.
fn first_error(what: &str, probe: &ProbeProxy, timeout: Duration) -> Option<plug::Error> {
    let probe = probe.clone().with_timeout(timeout);
    in_time(format!("calls of a plugin: {what}"), move || {
        // More than there is room for.
        (0..20).find_map(|round| probe.echo(vec![round; 6000]).err())
    })
}

/// A second plugin, which has nothing to do with it.
struct Innocent(ProbeProxy);

impl Innocent {
    fn load(case: &Case) -> Innocent {
        let probe = case.load(evil(&[]).shared_memory(SharedMemory::AtOnce));
        wait_until_shared(&probe, 1);
        Innocent(probe)
    }

    fn must_be_well(&self) {
        echo_all(&self.0, 6);
    }
}

// ---- as it should be

/// What the tests play by hand and what the runtime does are the same protocol.
#[test]
fn memory_is_shared_with_a_plugin_that_is_none_of_ours() {
    let case = Case::new();
    for way in ["serve", "behind", "shout", "alarm"] {
        let probe = case.load(sharing(&[way]));
        wait_until_shared(&probe, 1);
        echo_all(&probe, 30);
        let many: Vec<_> = (0..4)
            .map(|_| {
                let probe = probe.clone();
                start("calls of one of several threads", move || {
                    for _ in 0..100 {
                        probe.echo(vec![1; 300]).unwrap();
                    }
                })
            })
            .collect();
        many.into_iter().for_each(crate::aftermath::Pending::get);
    }
    case.finish();
}

#[test]
fn memory_is_shared_with_a_host_that_is_none_of_ours() {
    let case = Case::new();
    let mut host = RawHost::start(&[], &able_to_share());
    host.hello();
    host.share();
    for call in 0..30 {
        let payload = vec![call as u8; [10, 1000, 5000, 100_000][call as usize % 4]];
        host.send(&[Frame::open(2 * call + 1, 1, &EchoRequest { payload: payload.clone() })]);
        let reply = host.next();
        assert_eq!((reply.kind, reply.call), (wire::END, 2 * call + 1), "{}", reply.message);
        assert!(reply.payload.ends_with(&payload));
    }
    let (code, printed) = in_time("the end of the plugin", move || host.end());
    assert_eq!(code, Some(0), "{printed}");
    case.finish();
}

/// Calls of many threads are under way, also in the middle of a write, when each direction moves.
#[test]
fn v9_no_call_is_lost_while_the_bytes_move() {
    let case = Case::new();
    for _ in 0..20 {
        let probe = case.load(evil(&[]).shared_memory(SharedMemory::AtOnce));
        let calls: Vec<_> = (0..6_usize)
            .map(|thread| {
                let probe = probe.clone();
                start("calls from the start", move || {
                    for call in 0..8 {
                        let payload = vec![call as u8; (thread * 7919 + call * 30_011) % 100_000];
                        assert_eq!(probe.echo(payload.clone()).unwrap(), payload);
                    }
                })
            })
            .collect();
        calls.into_iter().for_each(crate::aftermath::Pending::get);
        wait_until_shared(&probe, 1);
        drop(probe);
        wait_until("nothing to be shared", || shared().is_empty());
    }
    case.finish();
}

/// The first fragment of a reply is in the pipe, and its last in the memory.
#[test]
fn v9_a_reply_may_be_cut_in_two_by_the_switch() {
    let case = Case::new();
    let probe = case.load(sharing(&["in-pieces"]));
    let same = probe.clone();
    let reply = in_time("the first call", move || {
        loop {
            // Those before the memory is agreed on are answered by the pipe.
            let reply = same.echo("x").unwrap();
            if reply != b"x" {
                return reply;
            }
        }
    });
    assert!(reply == [7; 3000]);
    echo_all(&probe, 6);
    drop(probe);
    case.finish();
}

#[test]
fn v9_a_plugin_that_is_restarted_gets_memory_of_its_own() {
    let case = Case::new();
    let brief = Duration::from_millis(10);
    let restart = Restart::on_crash().backoff(brief, brief).queue_for(BOUND);
    let command = evil(&[]).restart(restart).shared_memory(SharedMemory::AtOnce);
    let probe = case.load(command);
    wait_until_shared(&probe, 1);
    let (first, first_pid) = (shared(), pid(&probe));
    kill(first_pid);
    wait_until("another process", || probe.echo("x").is_ok() && pid(&probe) != first_pid);
    case.expect_gone(pid(&probe));
    wait_until("memory of its own", || {
        probe.echo("x").unwrap();
        let now = shared();
        now.len() == 1 && now.is_disjoint(&first)
    });
    echo_all(&probe, 6);
    probe.peer().stop(BOUND).unwrap();
    drop(probe);
    case.finish();
}

// ---- refused, or half-way

#[test]
fn v9_x11_what_is_no_memory_as_it_should_be_is_declined_and_calls_go_on() {
    let case = Case::new();
    let innocent = Innocent::load(&case);
    for what in [
        "unsealed",
        "may-shrink",
        "may-grow",
        "read-only",
        "longer",
        "shorter",
        "other-mark",
        "pipe",
        "closed",
        "no-number",
        "/proc/self/exe",
        "/dev/zero",
        "/dev/null",
        "/proc/self/maps",
        "/",
        // Capacities.
        "0",
        "1",
        "2048",
        "4095",
        "6000",
        "524288",
        "1048576",
    ] {
        let probe = case.load(sharing(&["offer", what]));
        wait_until(&format!("the host to decline {what}"), || {
            probe.act("").unwrap() == "declined 14"
        });
        echo_all(&probe, 6);
        assert_eq!(shared().len(), 1, "{what}");
    }
    innocent.must_be_well();
    drop(innocent);
    case.finish();
}

#[test]
fn v9_calls_go_on_where_memory_is_declined_or_never_offered() {
    let case = Case::new();
    for what in ["declined", "nothing"] {
        let probe = case.load(sharing(&["offer", what]));
        echo_all(&probe, 100);
        assert_eq!(probe.act("").unwrap(), "nothing");
    }
    assert!(shared().is_empty());
    case.finish();
}

#[test]
fn v9_a_host_that_shares_nothing() {
    let case = Case::new();
    let probe = case.load(evil(&[]).shared_memory(SharedMemory::Never));
    echo_all(&probe, 200);
    assert!(shared().is_empty());
    drop(probe);
    // An offer that it cannot have asked for.
    let probe = case.load(sharing(&["offer-unasked"]).shared_memory(SharedMemory::Never));
    let error = in_time("the call", move || probe.echo("x").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    case.finish();
}

/// The process that was started has not that descriptor, or another one by that number.
#[test]
fn v9_a_plugin_behind_a_wrapper() {
    let case = Case::new();
    let wrapper = Command::new("/bin/sh").args(["-c", "\"$0\"; exit $?", EVIL]);
    let probe = case.load(wrapper.shared_memory(SharedMemory::AtOnce));
    echo_all(&probe, 100);
    assert!(shared().is_empty());
    drop(probe);
    case.finish();
}

#[test]
fn v9_a_plugin_that_can_make_no_memory() {
    let case = Case::new();
    for limit in ["no-more-files", "no-large-files"] {
        let probe = case.load(evil(&[]).shared_memory(SharedMemory::WhenUsed));
        probe.act(limit).unwrap();
        echo_all(&probe, 200);
        assert!(shared().is_empty(), "{limit}");
    }
    case.finish();
}

// ---- a plugin that spoils it

#[test]
fn x11_marks_that_cannot_be_end_the_connection_and_nothing_else() {
    let case = Case::new();
    let innocent = Innocent::load(&case);
    for calls in ["0", "3"] {
        // The first two are the plugin's to change: that they are impossible must be found.
        for (to, mark, must_fail) in [
            ("host", "written", true),
            ("plugin", "read", true),
            ("plugin", "written", false),
            ("host", "read", false),
            ("plugin", "reader-waits", false),
            ("plugin", "writer-waits", false),
            ("host", "reader-waits", false),
            ("host", "writer-waits", false),
        ] {
            for value in ["80000000", "7fffffff", "40001"] {
                let what = format!("{mark} to the {to} is {value} after {calls} calls");
                let probe = case.load(sharing(&["mark", to, mark, value, calls]));
                let timeout = if must_fail { BOUND / 2 } else { Duration::from_millis(30) };
                let error = first_error(&what, &probe, timeout).expect("nobody answers");
                let expected = if must_fail { ErrorKind::Protocol } else { ErrorKind::Deadline };
                assert_eq!(error.kind(), expected, "{what}: {error:?}");
            }
        }
        innocent.must_be_well();
    }
    drop(innocent);
    case.finish();
}

/// A reader that takes back what it has read may be one that has not read yet: then there is no room for good.
#[test]
fn x11_a_count_that_goes_back_leaves_no_room_and_nothing_else() {
    let case = Case::new();
    let innocent = Innocent::load(&case);
    for calls in ["0", "3"] {
        let probe = case.load(sharing(&["mark", "plugin", "read", "ffffffff", calls]));
        let error = first_error("a count that goes back", &probe, Duration::from_millis(100));
        let kind = error.expect("nobody answers").kind();
        assert!(matches!(kind, ErrorKind::Protocol | ErrorKind::Deadline), "{kind:?}");
    }
    innocent.must_be_well();
    drop(innocent);
    case.finish();
}

/// Bytes that were never written are what was there before: frames, or pieces of some.
#[test]
fn x11_a_count_that_jumps_is_garbage_and_nothing_else() {
    let case = Case::new();
    let innocent = Innocent::load(&case);
    let probe = case.load(sharing(&["jump"]));
    let error = first_error("a count that jumps", &probe, BOUND / 2);
    println!("{error:?}");
    drop(probe);
    innocent.must_be_well();
    drop(innocent);
    case.finish();
}

/// All of it changes while it is read and written: marks, and bytes.
#[test]
fn x11_memory_that_changes_all_the_time() {
    let case = Case::new();
    let innocent = Innocent::load(&case);
    for _ in 0..20 {
        let probe = case.load(sharing(&["scribble"]));
        let others: Vec<_> = (0..3)
            .map(|_| {
                let probe = probe.clone().with_timeout(Duration::from_millis(200));
                start("calls of one of several threads", move || {
                    (0..10).find_map(|_| probe.echo(vec![1; 3000]).err())
                })
            })
            .collect();
        for call in others {
            let Some(error) = call.get() else { continue };
            let is_expected = matches!(
                error.kind(),
                ErrorKind::Protocol
                    | ErrorKind::Exited
                    | ErrorKind::Deadline
                    | ErrorKind::Decode
                    | ErrorKind::Status
            );
            assert!(is_expected, "{error:?}");
        }
        innocent.must_be_well();
    }
    drop(innocent);
    case.finish();
}

#[test]
fn x11_frames_in_the_memory_that_no_plugin_may_send() {
    let case = Case::new();
    for what in ["length", "switch", "memory"] {
        let probe = case.load(sharing(&["garbage", what]));
        let error = first_error(what, &probe, BOUND / 2).expect("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Protocol, "{what}: {error:?}");
        assert_eq!(error.delivery(), Delivery::MayHaveRun, "{what}: {error:?}");
    }
    for seed in 0..20 {
        // It may be the beginning of a long frame.
        let probe = case.load(sharing(&["garbage", &seed.to_string()]));
        let error = first_error("garbage", &probe, Duration::from_millis(100));
        let kind = error.expect("nobody answers").kind();
        assert!(matches!(kind, ErrorKind::Protocol | ErrorKind::Deadline), "{seed}: {kind:?}");
    }
    case.finish();
}

#[test]
fn x11_a_switch_or_an_offer_that_is_not_its_turn() {
    let case = Case::new();
    for (what, when) in [("unasked", SharedMemory::WhenUsed), ("early", SharedMemory::AtOnce)] {
        let probe = case.load(sharing(&[what]).shared_memory(when));
        let error = first_error(what, &probe, BOUND / 2).expect("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Protocol, "{what}: {error:?}");
    }
    case.finish();
}

#[test]
fn f16_x11_a_flood_of_bells_ends_the_connection() {
    let case = Case::new();
    let innocent = Innocent::load(&case);
    let probe = case.load(sharing(&["bells"]));
    let error = first_error("bells", &probe, BOUND / 2).expect("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert!(error.message().contains("a flood"), "{error}");
    drop(probe);
    innocent.must_be_well();
    drop(innocent);
    case.finish();
}

/// Who does not look by itself misses the replies, and waits no longer than it may.
#[test]
fn x11_a_plugin_that_never_rings() {
    let case = Case::new();
    let probe = case.load(sharing(&["mute"]));
    let same = probe.clone().with_timeout(Duration::from_millis(20));
    in_time("calls that nobody is woken for", move || {
        for _ in 0..20 {
            if let Err(error) = same.echo("x") {
                assert_eq!(error.kind(), ErrorKind::Deadline, "{error:?}");
            }
        }
    });
    drop(probe);
    case.finish();
}

/// As with pipes, that it does not listen any more shows when there is more to be said.
#[test]
fn x11_a_plugin_that_closes_a_pipe_and_lives_on() {
    let case = Case::new();
    for way in ["close-output", "close-input"] {
        let probe = case.load(sharing(&[way]));
        wait_until_shared(&probe, 1);
        let waiting = start("the call after which it closes it", {
            let probe = probe.clone();
            move || probe.act("close").unwrap_err()
        });
        let later = start("the calls after that", {
            let probe = probe.clone().with_timeout(Duration::from_millis(50));
            move || loop {
                match probe.echo("x") {
                    Err(error) if error.kind() != ErrorKind::Deadline => return error,
                    _ => {}
                }
            }
        });
        for error in [waiting.get(), later.get()] {
            assert_eq!(error.kind(), ErrorKind::Exited, "{way}: {error:?}");
            assert!(error.exit().unwrap().by_host(), "{way}: {error:?}");
        }
    }
    case.finish();
}

// ---- ends

/// Nobody was woken for it.
#[test]
fn p7_x11_what_is_in_the_memory_at_the_end_counts_if_it_is_whole() {
    let case = Case::new();
    let killed = ExitStatus::Signal(Signal::KILL.as_raw());
    for payload in [10, 1000, 3000] {
        for what in ["whole", "half"] {
            let probe = case.load(sharing(&["die", what]));
            wait_until_shared(&probe, 1);
            let reply = in_time("the call", {
                let probe = probe.clone();
                move || probe.act("5".repeat(payload))
            });
            if what == "whole" {
                assert!(reply.unwrap() == "5".repeat(payload));
            } else {
                let error = reply.unwrap_err();
                assert_exited(&error, killed);
                assert!(error.message().contains("cut off"), "{error}");
            }
            let error = in_time("the next call", move || probe.echo("next").unwrap_err());
            assert_exited(&error, killed);
        }
    }
    case.finish();
}

/// In all states: idle, with a call, while much is written.
#[test]
fn p1_p2_x11_a_plugin_that_is_killed_leaves_no_memory() {
    let case = Case::new();
    for round in 0..6 {
        let probe = case.load(evil(&[]).shared_memory(SharedMemory::AtOnce));
        wait_until_shared(&probe, 1);
        let calls: Vec<_> = (0..3)
            .map(|_| {
                let probe = probe.clone();
                start("calls until its end", move || {
                    loop {
                        if let Err(error) = probe.echo(vec![1; 100_000 * round]) {
                            return error;
                        }
                    }
                })
            })
            .collect();
        kill(pid(&probe));
        for call in calls {
            assert_exited(&call.get(), ExitStatus::Signal(Signal::KILL.as_raw()));
        }
        drop(probe);
        wait_until("nothing to be shared", || shared().is_empty());
    }
    case.finish();
}

// ---- a host that spoils it

fn able_to_share() -> Hello {
    Hello { features: vec!["shm".to_owned()], ..Hello::of_probe((1, 1)) }
}

fn open(call: u64, len: usize) -> Frame {
    Frame::open(call, 1, &EchoRequest { payload: vec![1; len] })
}

/// A plugin says of its host what a host says of its plugin.
fn ends_with_a_complaint(what: &str, host: RawHost) {
    let waited = format!("the end of the plugin: {what}");
    let (code, printed) = in_time(waited, move || host.end_by_itself());
    assert_eq!(code, Some(1), "{what}: {printed}");
    assert!(printed.contains("impossible") || printed.contains("broke the protocol"), "{printed}");
}

#[test]
fn x11_a_plugin_ends_whose_host_claims_what_cannot_be() {
    let case = Case::new();
    for (to, mark) in [(To::Plugin, Mark::Written), (To::Host, Mark::Read)] {
        let mut host = RawHost::start(&[], &able_to_share());
        host.hello();
        let memory = host.share();
        host.send(&[open(1, 10)]);
        assert_eq!(host.next().kind, wire::END);
        memory.set_mark(to, mark, 1 << 31).unwrap();
        if mark == Mark::Read {
            // The reply has not the room that it is known to have. Whoever reads here has not begun to read it, and so
            // leaves the mark as it is.
            host.send(&[open(3, 70_000)]);
        } else {
            std::io::Write::write_all(&mut host.input, &[0]).unwrap();
        }
        ends_with_a_complaint(&format!("{mark:?}"), host);
    }
    case.finish();
}

#[test]
fn x11_a_plugin_ends_whose_host_says_what_no_host_may() {
    let case = Case::new();
    let request = wire::MemoryRequest { capacity: 1 << 16, may_poll: false };
    let switch = Frame::of_kind(wire::SWITCH);
    for (what, frames) in [
        ("a switch", vec![switch.clone()]),
        ("two requests", vec![Frame::memory(&request); 2]),
        ("a switch before an answer", vec![Frame::memory(&request), switch.clone()]),
    ] {
        let mut host = RawHost::start(&[], &able_to_share());
        host.hello();
        host.send(&frames);
        ends_with_a_complaint(what, host);
    }
    let mut host = RawHost::start(&[], &able_to_share());
    host.hello();
    host.share();
    host.send(&[switch]);
    ends_with_a_complaint("a second switch", host);
    let mut host = RawHost::start(&[], &able_to_share());
    host.hello();
    host.share();
    // The plugin may end before all of them are written.
    let _ = std::io::Write::write_all(&mut host.input, &vec![0; 4 << 20]);
    ends_with_a_complaint("bells", host);
    case.finish();
}

/// The plugin goes on by the pipes, with whatever the host asks for.
#[test]
fn v9_a_plugin_whose_host_declines_or_never_answers() {
    let case = Case::new();
    for declines in [true, false] {
        for capacity in [0, 4096, 5000, u32::MAX] {
            let mut host = RawHost::start(&[], &able_to_share());
            host.hello();
            let request = wire::MemoryRequest { capacity, may_poll: true };
            host.send(&[Frame::memory(&request), open(1, 10)]);
            let offer = host.next();
            assert_eq!((offer.kind, offer.code), (wire::MEMORY, 0));
            assert_eq!(host.next().kind, wire::END);
            if declines {
                host.send(&[Frame { code: 14, ..Frame::of_kind(wire::MEMORY) }]);
            }
            for call in 1..20 {
                host.send(&[open(2 * call + 1, 10_000)]);
                assert_eq!(host.next().kind, wire::END);
            }
            let (code, printed) = in_time("the end of the plugin", move || host.end());
            assert_eq!(code, Some(0), "{printed}");
        }
    }
    case.finish();
}

/// There is no room for its replies, and nobody will make any. It ends in good order, which is before it would end itself.
#[test]
fn v9_a_plugin_whose_host_is_gone_ends_although_the_memory_is_full() {
    let case = Case::new();
    let mut host = RawHost::start(&["--clean-up=/dev/null"], &able_to_share());
    host.hello();
    let memory = host.share();
    for call in 0..20 {
        host.send(&[open(2 * call + 1, 30_000)]);
    }
    wait_until("the memory to be full", || memory.mark(To::Host, Mark::WriterWaits).unwrap() == 1);
    drop(memory);
    let (code, printed) = in_time("the end of the plugin", move || host.end());
    assert_eq!(code, Some(0), "{printed}");
    case.finish();
}
