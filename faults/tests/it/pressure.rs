//! C, F, M: calls that are given up, peers that do not read or say too much, and a great many calls.

use std::time::{Duration, Instant};

use plug::{CancelToken, Delivery, ErrorKind, Proxy as _};

use crate::aftermath::{BOUND, Case, Folder, helper, in_time, number, raw, start, wait_until};
use crate::streams::{FLOWING, flowing};

/// A host of its own makes them, since the other tests of this process take memory too. `PLUG_FAULTS_PAIRS` has it make
/// more than the 100,000.
#[test]
fn c5_starting_and_cancelling_takes_no_memory() {
    let case = Case::new();
    let pairs = number("PLUG_FAULTS_PAIRS").unwrap_or(100_000).to_string();
    let begin = Instant::now();
    let text = helper(&["pairs", FLOWING, &pairs]);
    let sizes: Vec<Vec<u64>> = text
        .lines()
        .map(|line| line.split(' ').map(|kib| kib.parse().unwrap()).collect())
        .collect();
    println!("{pairs} pairs in {:?}; KiB of host and plugin: {sizes:?}", begin.elapsed());
    // From the second fifth on: what is there once is not what is there for each.
    for (early, late) in sizes[2].iter().zip(&sizes[10]) {
        assert!(*late < early + 8192, "from {early} to {late} KiB");
    }
    case.finish();
}

#[test]
fn c6_a_deadline_ends_calls_to_a_plugin_that_does_not_read() {
    let case = Case::new();
    // One that knows no cancel gets the rest of a request that has begun, should it ever read.
    for (features, begun) in [(&["cancel"][..], Delivery::NotSent), (&[], Delivery::MayHaveRun)] {
        let probe = case.load(raw(&["deaf"]).args(features));
        let brief = probe.with_timeout(Duration::from_millis(100));
        let begin = Instant::now();
        let call = |what: &'static str, len: usize| {
            let brief = brief.clone();
            start(what, move || brief.echo(vec![0; len]).unwrap_err())
        };
        let error = call("a small call", 10).get();
        assert_eq!((error.kind(), error.delivery()), (ErrorKind::Deadline, Delivery::MayHaveRun));
        // More than the pipe holds: its last byte is not taken.
        let error = call("a large call", 1 << 20).get();
        assert_eq!((error.kind(), error.delivery()), (ErrorKind::Deadline, begun));
        // Behind it, nothing is.
        let queued: Vec<_> = (0..20).map(|_| call("a call behind it", 10)).collect();
        for call in queued {
            let error = call.get();
            assert_eq!((error.kind(), error.delivery()), (ErrorKind::Deadline, Delivery::NotSent));
        }
        crate::aftermath::assert_soon("three rounds of 100 ms", begin.elapsed());
    }
    case.finish();
}

/// The plugin takes 1024 calls, and answers none of them before it has as many; the others wait in their threads.
#[test]
fn c11_ten_thousand_calls_at_once_against_a_limit() {
    let case = Case::new();
    let probe = case.load(raw(&["rounds-of", "1024"]));
    let calls: Vec<_> = (0..10_240_u32)
        .map(|call| {
            let probe = probe.clone();
            start(format!("call {call}"), move || {
                assert_eq!(probe.echo(call.to_be_bytes()).unwrap(), call.to_be_bytes());
            })
        })
        .collect();
    calls.into_iter().for_each(crate::aftermath::Pending::get);
    drop(probe);
    case.finish();
}

#[test]
fn f8_a_late_reply_is_dropped() {
    let case = Case::new();
    let probe = case.load(raw(&["late"]));
    for _ in 0..50 {
        let brief = probe.with_timeout(Duration::from_millis(1));
        // A busy machine may take longer than that to send it.
        while in_time("the first", {
            let brief = brief.clone();
            move || {
                let error = brief.echo("late").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Deadline, "{error:?}");
                error.delivery() == Delivery::NotSent
            }
        }) {}
        let probe = probe.clone();
        assert_eq!(in_time("the second", move || probe.echo("second").unwrap()), b"second");
    }
    drop(probe);
    case.finish();
}

#[test]
fn f13_pings_pass_a_message_of_100_mib() {
    let case = Case::new();
    let probe = case.load(crate::aftermath::evil(&["--pipes=8192"]).max_message(128 << 20));
    let mut call = start("100 MiB there and back", {
        let probe = probe.clone();
        move || {
            let large = vec![7; 100 << 20];
            probe.echo(large.clone()).unwrap() == large
        }
    });
    let mut took = Vec::new();
    while call.is_pending() {
        took.push(probe.peer().ping(BOUND).unwrap());
    }
    took.sort();
    println!("{} pings, the longest {:?}", took.len(), took.last());
    assert!(call.get(), "it came back as it was");
    assert!(took.len() > 10, "{} pings passed", took.len());
    drop(probe);
    case.finish();
}

#[test]
fn f16_a_flood_ends_the_connection_and_no_other() {
    let case = Case::new();
    let other = case.evil(&[]);
    for way in ["empty", "ignored"] {
        let probe = case.load(raw(&["flood", way]));
        let error = in_time("the call", move || probe.echo("first").unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
        assert!(error.message().contains("flood"), "{error}");
        assert_eq!(other.echo("fine").unwrap(), b"fine");
    }
    drop(other);
    case.finish();
}

#[test]
fn f17_frames_of_many_threads_are_never_torn() {
    let case = Case::new();
    let flow = flowing(&case, &["--pipes=8192"]);
    let threads: Vec<_> = (0..24_u64)
        .map(|thread| {
            let flow = flow.clone();
            start(format!("thread {thread}"), move || {
                for round in 0..30 {
                    let (items, size) = (1 + (thread * round) % 50, 1 + 997 * thread);
                    match thread % 4 {
                        0 => assert_eq!(
                            flow.sum(plug_faults::flow::counted(items, size)).unwrap().bytes,
                            items * size
                        ),
                        1 => {
                            for item in flow.count(items, size).unwrap() {
                                let item = item.unwrap();
                                assert!(item.payload == vec![item.number as u8; size as usize]);
                            }
                        }
                        2 => {
                            let sent = plug_faults::flow::counted(items, size);
                            let returned = flow.mirror(sent).unwrap();
                            assert_eq!(
                                returned.map(|item| item.unwrap().number).sum::<u64>(),
                                items * (items - 1) / 2
                            );
                        }
                        _ => assert_eq!(flow.ask("say x").unwrap(), "you said x"),
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(crate::aftermath::Pending::get);
    drop(flow);
    case.finish();
}

#[test]
fn m3_the_rest_of_a_large_reply_that_nobody_waits_for_is_read() {
    let case = Case::new();
    let folder = Folder::new("m3");
    let file = folder.join("half");
    let probe = case.load(raw(&["half-of-a-large-reply", file.to_str().unwrap()]));
    let token = CancelToken::new();
    let first = start("the first call", {
        let probe = probe.with_cancel(&token);
        move || probe.echo("first").unwrap_err()
    });
    wait_until("half of the reply", || file.exists());
    token.cancel();
    assert_eq!(first.get().kind(), ErrorKind::Cancelled);
    for text in ["second", "third"] {
        let probe = probe.clone();
        assert_eq!(in_time(text, move || probe.echo(text).unwrap()), text.as_bytes());
    }
    drop(probe);
    case.finish();
}

/// More together than either side keeps in memory for messages that have begun.
#[test]
fn m4_several_large_messages_at_once_in_both_directions() {
    let case = Case::new();
    let probe = case.load(crate::aftermath::evil(&[]).max_message(32 << 20));
    let calls: Vec<_> = (0..6_u8)
        .map(|index| {
            let probe = probe.clone();
            start(format!("30 MiB, call {index}"), move || {
                let payload = vec![index; 30 << 20];
                probe.echo(payload.clone()).unwrap() == payload
            })
        })
        .collect();
    for call in calls {
        assert!(call.get(), "it came back as it was");
    }
    drop(probe);
    case.finish();
}

/// Deadlines that end at the moment in which others are read for: whoever is left must still be read for.
#[test]
fn c6_calls_that_give_up_leave_nobody_behind() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let end = Instant::now() + Duration::from_secs(1);
    let threads: Vec<_> = (0..16_u32)
        .map(|thread| {
            let probe = probe.clone();
            start(format!("thread {thread}"), move || {
                let mut late = 0;
                for round in 0_u32.. {
                    if Instant::now() > end {
                        break;
                    }
                    if thread % 2 == 0 {
                        assert_eq!(probe.echo("patient").unwrap(), b"patient");
                        continue;
                    }
                    let micros = u64::from(50 + 13 * (round % 40));
                    match probe.with_timeout(Duration::from_micros(micros)).echo("brief") {
                        Ok(payload) => assert_eq!(payload, b"brief"),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Deadline, "{error:?}");
                            late += 1;
                        }
                    }
                }
                late
            })
        })
        .collect();
    let late: u32 = threads.into_iter().map(crate::aftermath::Pending::get).sum();
    println!("{late} calls gave up");
    drop(probe);
    case.finish();
}
