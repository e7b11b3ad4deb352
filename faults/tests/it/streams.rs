//! Streams: how they end, what they hold up, and that nothing of them is left.

use std::sync::Arc;
use std::time::Duration;

use plug::{CancelToken, Code, Command, Delivery, ErrorKind, ExitStatus, Proxy as _, Stream};
use plug_faults::flow::{FlowProxy, Flowing, HomeService, House, Item, Node, counted};

use crate::aftermath::{BOUND, Case, assert_exited, in_time, kill, number, start, wait_until};

/// The plugin that streams.
pub(crate) const FLOWING: &str = env!("CARGO_BIN_EXE_flowing");

/// What fits into the window of one stream and the buffers on the way, in bytes.
const UNDER_WAY: u64 = 2 << 20;

/// Loads the plugin in a process of its own.
pub(crate) fn flowing(case: &Case, args: &[&str]) -> FlowProxy {
    let command = Command::new(FLOWING).args(args);
    let peer = command.serve::<HomeService>(Arc::new(House::default())).load().unwrap();
    case.expect_gone(peer.pid().unwrap());
    peer.proxy().unwrap()
}

/// The plugin in a process of its own, and inside this one.
fn both(test: impl Fn(&FlowProxy)) {
    let case = Case::new();
    test(&flowing(&case, &[]));
    let inside = Command::in_process(Flowing::default());
    let peer = inside.serve::<HomeService>(Arc::new(House::default())).load().unwrap();
    test(&peer.proxy().unwrap());
    drop(peer);
    case.finish();
}

fn numbers(items: impl Iterator<Item = plug::Result<Item>>) -> Vec<u64> {
    items.map(|item| item.unwrap().number).collect()
}

#[test]
fn c1_both_sides_stream_a_lot_at_once_through_pipes_of_8_kib() {
    let case = Case::new();
    let flow = flowing(&case, &["--pipes=8192"]);
    const ITEMS: u64 = 1024;
    let down = start("64 MiB from the plugin", {
        let flow = flow.clone();
        move || {
            let items = flow.count(ITEMS, 64_u64 << 10).unwrap();
            items.map(|item| item.unwrap().payload.len() as u64).sum::<u64>()
        }
    });
    let up = start("64 MiB to the plugin", {
        let flow = flow.clone();
        move || flow.sum(counted(ITEMS, 64 << 10)).unwrap().bytes
    });
    let there_and_back = start("16 MiB there and back", {
        let flow = flow.clone();
        move || numbers(flow.mirror(counted(ITEMS / 4, 64 << 10)).unwrap())
    });
    assert_eq!(down.get(), ITEMS * (64 << 10));
    assert_eq!(up.get(), ITEMS * (64 << 10));
    assert_eq!(there_and_back.get(), (0..ITEMS / 4).collect::<Vec<_>>());
    drop(flow);
    case.finish();
}

#[test]
fn c2_a_consumer_that_stops_stops_its_producer_and_nobody_else() {
    both(|flow| {
        let mut stopped: Vec<_> = (0..8)
            .map(|_| {
                let mut stream = flow.count(u64::MAX, 1000_u64).unwrap();
                assert_eq!(stream.next().unwrap().unwrap().number, 0);
                stream
            })
            .collect();
        // Others go on meanwhile, much further than the windows of those.
        for _ in 0..4 {
            assert_eq!(numbers(flow.count(4000_u64, 1000_u64).unwrap()).len(), 4000);
            assert_eq!(flow.sum(counted(4000, 1000)).unwrap().items, 4000);
            assert_eq!(flow.ask("method").unwrap(), "flow.Flow/Ask");
        }
        let made: u64 = flow.ask("made").unwrap().parse().unwrap();
        let made_for_stopped = made - 4 * 4000;
        assert!(made_for_stopped * 1000 < 8 * UNDER_WAY, "{made_for_stopped} items were made");
        for stream in &mut stopped {
            let next = numbers(stream.take(2000));
            assert_eq!(next, (1..2001).collect::<Vec<_>>(), "none is lost");
        }
        drop(stopped);
        assert_eq!(flow.ask("given-up 12").unwrap(), "12", "all streams were dropped");
    });
}

/// As many as the window of the connection holds: it is for all of them together.
#[test]
fn c2_unary_calls_go_on_when_the_readers_of_a_hundred_streams_have_stopped() {
    let case = Case::new();
    let flow = flowing(&case, &[]);
    let stopped: Vec<_> = (0..100).map(|_| flow.count(u64::MAX, 10_000_u64).unwrap()).collect();
    for number in 0..1000 {
        let said = flow.ask(format!("say {number}")).unwrap();
        assert_eq!(said, format!("you said {number}"));
    }
    flow.peer().ping(BOUND).unwrap();
    drop(stopped);
    assert_eq!(flow.ask("given-up 100").unwrap(), "100");
    assert_eq!(numbers(flow.count(1000_u64, 1000_u64).unwrap()).len(), 1000);
    drop(flow);
    case.finish();
}

/// Far more than the window of the connection, had each kept what it did not read. `PLUG_FAULTS_DROPS` has it drop more
/// of them than 1000.
#[test]
fn c7_after_streams_that_were_dropped_midway_the_connection_is_as_good_as_new() {
    let rounds = number("PLUG_FAULTS_DROPS").unwrap_or(1000);
    both(|flow| {
        for round in 0..rounds {
            let mut stream = flow.count(u64::MAX, 10_000_u64).unwrap();
            if round % 2 == 0 {
                assert_eq!(stream.next().unwrap().unwrap().number, 0);
            }
            drop(stream);
            let enough = flow.with_metadata("enough", "3");
            if round % 10 == 0 {
                assert_eq!(numbers(enough.mirror(counted(u64::MAX, 10_000)).unwrap()), [0, 1, 2]);
                assert_eq!(enough.sum(counted(u64::MAX, 10_000)).unwrap().items, 3);
            }
        }
        let items = flow.count(1000_u64, 100_000_u64).unwrap();
        assert_eq!(numbers(items), (0..1000).collect::<Vec<_>>());
        assert_eq!(flow.sum(counted(1000, 100_000)).unwrap().items, 1000);
    });
}

/// `PLUG_FAULTS_STREAM` is for how many MiB, where it is not 256.
#[test]
fn c14_small_calls_pass_a_large_stream() {
    let case = Case::new();
    let flow = flowing(&case, &["--pipes=8192"]);
    let items = 4 * number("PLUG_FAULTS_STREAM").unwrap_or(256);
    let mut large = start("a large stream", {
        let flow = flow.clone();
        move || numbers(flow.count(items, 256_u64 << 10).unwrap()).len() as u64
    });
    let mut took: Vec<_> = Vec::new();
    while large.is_pending() {
        let begin = std::time::Instant::now();
        assert_eq!(flow.ask("method").unwrap(), "flow.Flow/Ask");
        took.push(begin.elapsed());
    }
    assert_eq!(large.get(), items);
    took.sort();
    let (median, last) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!("{} calls passed, p50 {median:?}, p99 {last:?}", took.len());
    // Behind what fits into the windows at most, not behind all of it.
    assert!(took.len() > 20, "{} calls passed", took.len());
    drop(flow);
    case.finish();
}

/// What controls the connection does not wait behind what it carries, in either direction.
#[test]
fn c3_pings_and_cancels_pass_large_streams() {
    let case = Case::new();
    let flow = flowing(&case, &["--pipes=8192"]);
    let up = start("a stream to the plugin without end", {
        let flow = flow.clone();
        move || flow.sum(counted(u64::MAX, 256 << 10)).unwrap_err()
    });
    let down = start("a stream from the plugin without end", {
        let flow = flow.clone();
        move || flow.count(u64::MAX, 256_u64 << 10).unwrap().find_map(Result::err)
    });
    let mut pings = Vec::new();
    for round in 1..=20 {
        pings.push(flow.peer().ping(BOUND).unwrap());
        let token = CancelToken::new();
        let waits = start("a call that is cancelled", {
            let flow = flow.with_cancel(&token);
            move || flow.ask("wait").unwrap_err()
        });
        wait_until("the handler", || flow.ask("waiting").unwrap() == round.to_string());
        token.cancel();
        assert_eq!(waits.get().kind(), ErrorKind::Cancelled);
        // The handler has learnt of it.
        assert_eq!(flow.ask(format!("given-up {round}")).unwrap(), round.to_string());
    }
    println!("the longest ping {:?}", pings.iter().max());
    kill(flow.peer().pid().unwrap());
    assert_exited(&up.get(), ExitStatus::Signal(9));
    assert_exited(&down.get().expect("it has no other end"), ExitStatus::Signal(9));
    drop(flow);
    case.finish();
}

#[test]
fn c17_a_handler_sees_that_nobody_waits_for_it() {
    let case = Case::new();
    let folder = crate::aftermath::Folder::new("c17");
    let flow = flowing(&case, &[]);
    let file = folder.join("cancelled");
    let ask = format!("wait-and-write {}", file.display());
    let token = CancelToken::new();
    let waiting = start("the call", {
        let flow = flow.with_cancel(&token);
        move || flow.ask(ask)
    });
    wait_until("the handler to run", || flow.ask("asked").unwrap() == "1");
    token.cancel();
    assert_eq!(waiting.get().unwrap_err().kind(), ErrorKind::Cancelled);
    wait_until("the handler to see its cancellation", || file.exists());
    drop(flow);
    case.finish();
}

#[test]
fn p2_a_plugin_that_is_killed_ends_a_thousand_calls_and_fifty_streams_after_what_it_sent() {
    let case = Case::new();
    let flow = flowing(&case, &[]);
    // Its 100 bytes are in the pipe or in the window when it dies.
    let mut streams: Vec<_> = (0..50).map(|_| flow.count(100_u64, 1_u64).unwrap()).collect();
    let mut endless = flow.count(u64::MAX, 1000_u64).unwrap();
    assert_eq!(endless.next().unwrap().unwrap().number, 0);
    let up = start("a stream to the plugin", {
        let flow = flow.clone();
        move || flow.sum(counted(u64::MAX, 10)).unwrap_err()
    });
    let calls: Vec<_> = (0..1000)
        .map(|index| {
            let flow = flow.clone();
            start(format!("call {index}"), move || flow.ask("wait").unwrap_err())
        })
        .collect();
    wait_until("the items of the short streams", || {
        flow.ask("made").unwrap().parse::<u64>().unwrap() > 50 * 100
    });
    wait_until("the handlers", || flow.ask("waiting").unwrap() == "1000");
    let other = flowing(&case, &[]);
    let busy = start("calls to another plugin", {
        let other = other.clone();
        move || (0..1000).all(|_| other.ask("method").is_ok())
    });
    kill(flow.peer().pid().unwrap());
    for call in calls.into_iter().chain([up]) {
        let error = call.get();
        assert_exited(&error, ExitStatus::Signal(9));
        assert_eq!(error.delivery(), Delivery::MayHaveRun);
    }
    assert!(busy.get(), "another plugin is none the worse for it");
    // In order and without a gap, then the error, then nothing.
    let begun = std::iter::repeat_n(0, streams.len()).chain([1]);
    for (stream, begin) in streams.iter_mut().chain([&mut endless]).zip(begun) {
        let mut expected = begin;
        loop {
            match stream.next() {
                Some(Ok(item)) => {
                    assert_eq!(item.number, expected);
                    expected += 1;
                }
                Some(Err(error)) => {
                    assert_exited(&error, ExitStatus::Signal(9));
                    assert!(stream.next().is_none(), "nothing follows an error");
                    break;
                }
                None => {
                    assert_eq!(expected, 100, "only a whole stream ends without an error");
                    break;
                }
            }
        }
    }
    let error = flow.count(1_u64, 1_u64).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::NotSent));
    drop((flow, other, streams, endless));
    case.finish();
}

#[test]
fn a_stream_that_fails_or_panics_delivers_what_came_before() {
    both(|flow| {
        for (what, code) in [("fail 5", Code::NotFound), ("panic 5", Code::Internal)] {
            let mut stream = flow.make(what).unwrap();
            assert_eq!(numbers(stream.by_ref().take(5)), [0, 1, 2, 3, 4]);
            let error = stream.next().unwrap().unwrap_err();
            assert_eq!(error.code(), code, "{error:?}");
            assert!(error.message().ends_with("no more"), "{error}");
            assert_eq!(error.method(), Some("flow.Flow/Make"));
            assert!(stream.next().is_none());
        }
        // The same from this side.
        let failing = counted(5, 0).map(Ok).chain([Err(plug::Error::new(Code::Aborted, "no"))]);
        let error = flow.sum(Stream::from_results(failing)).unwrap_err();
        assert_eq!(error.code(), Code::Aborted, "{error:?}");
        let panics = (0..5).map(|number| match number {
            4 => panic!("as a test"),
            number => Item { number, payload: Vec::new() },
        });
        let error = flow.sum(Stream::new(panics)).unwrap_err();
        assert_eq!(error.code(), Code::Internal, "{error:?}");
        assert_eq!(flow.ask("method").unwrap(), "flow.Flow/Ask");
    });
}

#[test]
fn either_side_may_end_its_stream_first() {
    both(|flow| {
        // The plugin goes on after the host's stream has ended.
        let more = flow.with_metadata("more", "1000");
        let all = numbers(more.mirror(counted(10, 0)).unwrap());
        assert_eq!(all, (0..10).chain(0..1000).collect::<Vec<_>>());
        // The plugin has enough, and what feeds the host's stream is dropped.
        let (sender, stream) = Stream::channel(4);
        let enough = flow.with_metadata("enough", "2");
        let mut taken = enough.mirror(stream).unwrap();
        for number in 0..2 {
            sender.send(Item { number, payload: Vec::new() }).unwrap();
            assert_eq!(taken.next().unwrap().unwrap().number, number);
        }
        assert!(taken.next().is_none());
        wait_until("the end of a stream that nobody takes", || sender.is_closed());
    });
}

#[test]
fn an_iterator_that_blocks_is_told_when_its_stream_is_dropped() {
    both(|flow| {
        let mut streams: Vec<_> = (0..20).map(|_| flow.make("block 3").unwrap()).collect();
        for stream in &mut streams {
            assert_eq!(numbers(stream.take(3)), [0, 1, 2]);
        }
        assert_eq!(flow.ask("method").unwrap(), "flow.Flow/Ask");
        drop(streams);
        // The rest are those of its wait.
        let given_up: u64 = flow.ask("given-up 20").unwrap().parse().unwrap();
        assert!(given_up >= 20, "{given_up}");
    });
}

#[test]
fn a_stream_of_one_plugin_is_the_request_of_another() {
    let case = Case::new();
    let (first, second) = (flowing(&case, &[]), flowing(&case, &[]));
    let total = in_time("10 MiB from one to the other", {
        let (first, second) = (first.clone(), second.clone());
        move || second.sum(first.count(10_000_u64, 1000_u64).unwrap()).unwrap()
    });
    assert_eq!((total.items, total.bytes), (10_000, 10_000_000));
    // And what the host streams to a plugin, which returns it to the host.
    let returned = in_time("there and back", {
        let first = first.clone();
        move || numbers(first.make("feed 5000").unwrap())
    });
    assert_eq!(returned, (0..5000).collect::<Vec<_>>());
    // The end of the one is an error of the other.
    let endless = first.count(u64::MAX, 1000_u64).unwrap();
    let sum = start("an endless sum", move || second.sum(endless).unwrap_err());
    wait_until("items", || first.ask("made").unwrap().parse::<u64>().unwrap() > 12_000);
    kill(first.peer().pid().unwrap());
    let error = sum.get();
    assert_eq!(error.kind(), ErrorKind::Exited, "{error:?}");
    drop(first);
    case.finish();
}

#[test]
fn stop_ends_a_stream_that_runs() {
    let case = Case::new();
    let flow = flowing(&case, &[]);
    let mut stream = flow.count(u64::MAX, 1000_u64).unwrap();
    assert_eq!(stream.next().unwrap().unwrap().number, 0);
    let peer = flow.peer().clone();
    let stopped = in_time("the stop", move || peer.stop(Duration::from_millis(300)));
    assert!(stopped.is_err(), "the stream has not come to its end");
    let end = in_time("the end of the stream", move || {
        let mut expected = 1;
        loop {
            match stream.next() {
                Some(Ok(item)) => assert_eq!(item.number, expected),
                end => return end,
            }
            expected += 1;
        }
    });
    let error = end.expect("a stream that was cut off says so").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exited, "{error:?}");
    assert!(error.exit().unwrap().by_host());
    drop(flow);
    case.finish();
}

#[test]
fn a_stream_outlives_its_proxy() {
    let case = Case::new();
    let flow = flowing(&case, &[]);
    let stream = flow.count(5000_u64, 1000_u64).unwrap();
    drop(flow);
    assert_eq!(in_time("the stream", move || numbers(stream)).len(), 5000);
    case.finish();
}

#[test]
fn one_way_calls_to_a_plugin_that_dies_fail_or_are_gone() {
    let case = Case::new();
    let flow = flowing(&case, &[]);
    kill(flow.peer().pid().unwrap());
    let error = in_time("an error", {
        let flow = flow.clone();
        move || loop {
            if let Err(error) = flow.tell("it") {
                return error;
            }
        }
    });
    assert_exited(&error, ExitStatus::Signal(9));
    drop(flow);
    case.finish();
}

#[test]
fn v10_a_request_that_nests_too_deep_fails_alone() {
    both(|flow| {
        let nest = |depth: u32| {
            (0..depth).fold(None, |child, depth| Some(Box::new(Node { child, depth })))
        };
        assert_eq!(flow.nest(nest(50), 0_u32).unwrap().items, 50);
        let error = flow.nest(nest(200), 0_u32).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
        assert_eq!(error.delivery(), Delivery::NotSent);
        assert_eq!(flow.nest(nest(50), 0_u32).unwrap().items, 50);
    });
}

/// No thread is needed for a stream that waits for its sender.
#[test]
fn ten_thousand_streams_at_once_on_one_connection() {
    const STREAMS: u64 = 10_000;
    let case = Case::new();
    let flow = flowing(&case, &[]);
    let pid = flow.peer().pid().unwrap();
    let memory = || [std::process::id(), pid].map(plug_faults::census::rss);
    let before = memory();
    let mut streams: Vec<_> = (0..STREAMS).map(|_| flow.make("held").unwrap()).collect();
    wait_until("all handlers", || flow.ask("held").unwrap() == STREAMS.to_string());
    assert_eq!(flow.ask("feed-held").unwrap(), STREAMS.to_string());
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    let after = memory();
    println!("{threads} threads in the plugin; KiB before {before:?}, with them {after:?}");
    let mut seen: Vec<_> =
        streams.iter_mut().map(|stream| stream.next().unwrap().unwrap().number).collect();
    seen.sort();
    assert_eq!(seen, (0..STREAMS).collect::<Vec<_>>());
    assert_eq!(flow.ask("let-go").unwrap(), STREAMS.to_string());
    assert!(streams.iter_mut().all(|stream| stream.next().is_none()));
    assert!(threads < 64, "{threads} threads");
    drop((flow, streams));
    case.finish();
}

/// Chaos found it (P29): a host that was leaving had no thread any more for its own streams.
#[test]
fn p29_a_stream_of_requests_goes_on_while_its_plugin_is_stopped() {
    let case = Case::new();
    let flow = flowing(&case, &[]);
    const ITEMS: u64 = 4 * UNDER_WAY / (64 << 10);
    // Nobody reads the answers, so both directions come to a halt.
    let mirrored = flow.mirror(counted(ITEMS, 64 << 10)).unwrap();
    let peer = flow.peer().clone();
    let stop = start("the stop", move || peer.stop(BOUND));
    wait_until("the goodbye", || {
        flow.ask("method").is_err_and(|error| error.delivery() == Delivery::NotSent)
    });
    let numbers = in_time("the rest of the stream", move || numbers(mirrored));
    assert_eq!(numbers, (0..ITEMS).collect::<Vec<_>>());
    stop.get().unwrap();
    drop(flow);
    case.finish();
}
