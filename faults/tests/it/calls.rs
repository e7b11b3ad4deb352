//! C, M: many calls at once, in any order, large and small, between a real host and a real plugin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use plug::{Code, ErrorKind, Proxy as _};
use plug_faults::evil::Evil;
use plug_faults::wire::{self, Frame, Hello};
use plug_faults::{ActRequest, EchoRequest, ProbeProxy, SleepRequest};

use crate::aftermath::{Case, SOON, assert_soon, hang, in_time, raw, running, start};
use crate::raw_host::RawHost;

/// What every plugin must do, wherever it runs.
fn ordinary_calls(probe: &ProbeProxy) {
    assert_eq!(probe.echo("hello").unwrap(), b"hello");
    assert_eq!(probe.echo("").unwrap(), b"");
    // As large as a fragment with its head, a bit more, a bit less, and of many fragments.
    for len in [1, 127, 128, 16_383, 16_384, 262_139, 262_140, 262_141, 300_000, 5 << 20] {
        let payload: Vec<u8> = (0..len).map(|index| (index % 253) as u8).collect();
        assert!(probe.echo(payload.clone()).unwrap() == payload, "{len} bytes");
    }
    let error = probe.act("nonsense").unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Status, Code::Unknown));
    assert_eq!(error.to_string(), r#"evil: probe.Probe/Act: there is no act "nonsense""#);
    let error = probe.act("panic oh no").unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.message().ends_with("oh no"), "{error}");
    let slow = start("a slow call", {
        let probe = probe.clone();
        move || probe.sleep(200)
    });
    for index in 0..200_u32 {
        assert_eq!(probe.echo(index.to_be_bytes()).unwrap(), index.to_be_bytes());
    }
    slow.get().unwrap();
}

#[test]
fn ordinary_calls_to_a_process() {
    let case = Case::new();
    let probe = case.evil(&[]);
    ordinary_calls(&probe);
    probe.peer().stop(Duration::from_secs(20)).unwrap();
    drop(probe);
    case.finish();
}

#[test]
fn ordinary_calls_inside_this_process() {
    let case = Case::new();
    let probe = ProbeProxy::in_process(Evil::default()).unwrap();
    ordinary_calls(&probe);
    assert_eq!(probe.peer().pid(), None);
    probe.peer().stop(Duration::from_secs(20)).unwrap();
    let error = probe.echo("after").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown, "{error:?}");
    drop(probe);

    let mut reluctant = Evil::default();
    reluctant.start_error = Some("no".to_owned());
    let error = plug::in_process(reluctant).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error:?}");
    case.finish();
}

#[test]
fn many_threads_share_a_proxy() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let threads: Vec<_> = (0..32_u32)
        .map(|thread| {
            let probe = probe.clone();
            start(format!("thread {thread}"), move || {
                for index in 0..500_u32 {
                    let payload = [thread.to_be_bytes(), index.to_be_bytes()].concat();
                    assert_eq!(probe.echo(payload.clone()).unwrap(), payload);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(crate::aftermath::Pending::get);
    drop(probe);
    case.finish();
}

#[test]
fn replies_come_in_any_order() {
    let case = Case::new();
    let probe = case.load(raw(&["reverse", "50"]));
    let calls: Vec<_> = (0..50)
        .map(|index: u32| {
            let probe = probe.clone();
            start(format!("call {index}"), move || {
                assert_eq!(probe.echo(index.to_string()).unwrap(), index.to_string().into_bytes());
            })
        })
        .collect();
    calls.into_iter().for_each(crate::aftermath::Pending::get);
    assert_eq!(probe.echo("on").unwrap(), b"on");
    drop(probe);
    case.finish();
}

#[test]
fn a_slow_handler_delays_no_other_call() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let slow = hang(&probe, "hang");
    in_time("fast calls beside one that does not come back", {
        let probe = probe.clone();
        move || (0..1000).for_each(|_| assert_eq!(probe.echo("fast").unwrap(), b"fast"))
    });
    assert_eq!(running(&probe), 1, "the slow one runs on");
    probe.peer().stop(Duration::ZERO).unwrap_err();
    assert_eq!(slow.get().unwrap_err().kind(), ErrorKind::Exited);
    drop(probe);
    case.finish();
}

/// Each of these makes one more thread necessary.
#[test]
fn many_slow_handlers_run_at_once() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let begin = Instant::now();
    let slow: Vec<_> = (0..100)
        .map(|_| {
            let probe = probe.clone();
            start("a slow call", move || probe.sleep(1000))
        })
        .collect();
    for call in slow {
        call.get().unwrap();
    }
    assert_soon(
        "100 calls of a second, beyond that second",
        begin.elapsed() - Duration::from_secs(1),
    );
    drop(probe);
    case.finish();
}

/// 1024 calls are in the plugin at once, and wait for each other there; the rest waits here.
#[test]
fn c11_more_calls_than_the_limit() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let calls: Vec<_> = (0..1100)
        .map(|index| {
            let probe = probe.clone();
            start(format!("call {index}"), move || probe.act("meet 1024"))
        })
        .collect();
    for call in calls {
        assert_eq!(call.get().unwrap(), "done");
    }
    assert_eq!(probe.act("most").unwrap(), "1024");
    drop(probe);
    case.finish();
}

#[test]
fn c1_large_messages_both_ways_from_many_threads_through_small_pipes() {
    let case = Case::new();
    let probe = case.evil(&["--pipes=8192"]);
    let threads: Vec<_> = (0..8_u8)
        .map(|thread| {
            let probe = probe.clone();
            start(format!("thread {thread}"), move || {
                for len in [3 << 20, 100_000, 5_000_000, 1] {
                    let payload = vec![thread; len];
                    assert!(probe.echo(payload.clone()).unwrap() == payload);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(crate::aftermath::Pending::get);
    drop(probe);
    case.finish();
}

/// Who has its reply leaves half of another's in the buffer.
#[test]
fn m2_the_next_reader_goes_on_with_the_partial_frame() {
    let case = Case::new();
    let probe = case.load(raw(&["halves"]));
    // Whichever is first in the plugin calls again.
    let calls = ["one", "two"].map(|text| {
        let probe = probe.clone();
        let text = text.repeat(100);
        start(format!("the calls of {text}"), move || {
            assert_eq!(probe.echo(text.clone()).unwrap(), text.as_bytes());
            assert_eq!(probe.echo("again").unwrap(), b"again");
        })
    });
    calls.into_iter().for_each(crate::aftermath::Pending::get);
    drop(probe);
    case.finish();
}

#[test]
fn m5_fast_fast_slow_in_one_read() {
    let case = Case::new();
    let mut host = RawHost::start(&[], &Hello::of_probe((1, 1)));
    host.hello();
    const SLOW: Duration = Duration::from_secs(4);
    let echo = |call, text: &str| Frame::open(call, 1, &EchoRequest { payload: text.into() });
    let begin = Instant::now();
    host.send(&[
        echo(1, "fast"),
        echo(3, "fast"),
        Frame::open(5, 2, &SleepRequest { milliseconds: SLOW.as_millis() as u32 }),
        echo(7, "behind it"),
    ]);
    let mut fast: Vec<_> = (0..3).map(|_| host.next().call).collect();
    let took = begin.elapsed();
    fast.sort();
    assert_eq!(fast, [1, 3, 7]);
    println!("the fast replies after {took:?}");
    assert!(took < SOON && took < SLOW, "{took:?}");
    assert_eq!(host.next().call, 5);
    assert!(begin.elapsed() >= SLOW);
    let (code, printed) = in_time("the end of the plugin", move || host.end());
    assert_eq!(code, Some(0), "{printed}");
    case.finish();
}

/// The host writes all its requests before it reads a reply: far more than both pipes hold.
#[test]
fn m6_a_plugin_that_cannot_write_reads_on() {
    let case = Case::new();
    for pipes in ["--pipes=8192", "--pipes=65536"] {
        const CALLS: u64 = 200;
        let host = RawHost::start(&[pipes], &Hello::of_probe((1, 1)));
        host.hello();
        let written = start("all requests to be written", move || {
            let mut host = host;
            let payload = vec![7; 60_000];
            for index in 0..CALLS {
                let request = EchoRequest { payload: payload.clone() };
                host.send(&[Frame::open(2 * index + 1, 1, &request)]);
            }
            host
        });
        let host = written.get();
        let replies = start("all replies", move || {
            let mut calls: Vec<_> = (0..CALLS)
                .map(|_| {
                    let frame = host.next();
                    assert_eq!((frame.kind, frame.code), (wire::END, 0), "{}", frame.message);
                    assert_eq!(frame.payload.len(), 60_004);
                    frame.call
                })
                .collect();
            calls.sort();
            assert_eq!(calls, (0..CALLS).map(|index| 2 * index + 1).collect::<Vec<_>>());
            host.end()
        });
        let (code, printed) = replies.get();
        assert_eq!(code, Some(0), "{printed}");
    }
    case.finish();
}

/// The same from the other end: a host whose threads all write at once, and a plugin that answers as much.
#[test]
fn m6_also_with_a_slow_handler_and_a_host_that_writes_from_many_threads() {
    let case = Case::new();
    let probe = case.evil(&["--pipes=8192"]);
    let slow = hang(&probe, "nap 1500");
    let go_on = Arc::new(AtomicBool::new(true));
    let made = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (probe, go_on, made) = (probe.clone(), go_on.clone(), made.clone());
            start("large calls", move || {
                while go_on.load(Ordering::Relaxed) {
                    assert_eq!(probe.echo(vec![1; 60_000]).unwrap().len(), 60_000);
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    slow.get().unwrap();
    go_on.store(false, Ordering::Relaxed);
    threads.into_iter().for_each(crate::aftermath::Pending::get);
    println!("{} large calls", made.load(Ordering::Relaxed));
    assert!(made.load(Ordering::Relaxed) > 0);
    drop(probe);
    case.finish();
}

/// Nothing that a request says is lost when its host goes without waiting.
#[test]
fn a_goodbye_lets_the_plugin_finish() {
    let case = Case::new();
    let mut host = RawHost::start(&[], &Hello::of_probe((1, 1)));
    host.hello();
    let goodbye = Frame { kind: wire::GOODBYE, ..Frame::default() };
    let what = "eprint served".to_owned();
    host.send(&[Frame::open(1, 3, &ActRequest { what }), goodbye]);
    assert_eq!(host.next().call, 1);
    let (code, printed) = in_time("the end of the plugin", move || host.end());
    assert_eq!((code, printed.contains("served")), (Some(0), true), "{printed}");
    case.finish();
}
