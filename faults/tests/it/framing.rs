//! F: bytes that are no frames, and frames that must not be.

use plug::{Code, Delivery, ErrorKind, ExitStatus};
use plug_faults::wire::MAX_FRAME;

use crate::aftermath::{
    Case, assert_exited, assert_soon, evil, in_time, pid, raw, start, wait_until,
};

/// The first call of a plugin that answers it with something bad.
fn first_call(case: &Case, args: &[&str]) -> plug::Result<Vec<u8>> {
    let probe = case.load(raw(args));
    in_time(format!("the first call of {args:?}"), move || probe.echo("first"))
}

#[test]
fn f1_a_length_of_4_gib_is_refused_on_the_prefix_alone() {
    let case = Case::new();
    let probe = case.load(raw(&["bogus"]));
    let pid = pid(&probe);
    let error = in_time("the call", {
        let probe = probe.clone();
        move || probe.echo("first").unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert_eq!(error.delivery(), Delivery::MayHaveRun);
    assert!(error.message().contains("4294967295"), "{error}");
    // The proxy is still there: what broke the protocol is killed for that, not for being dropped.
    wait_until("the end of a plugin that broke the protocol", || !crate::aftermath::is_alive(pid));
    let next = probe.echo("second").unwrap_err();
    assert_eq!((next.kind(), next.delivery()), (ErrorKind::Protocol, Delivery::NotSent));
    drop(probe);
    case.finish();
}

#[test]
fn f1_also_right_behind_the_hello() {
    let case = Case::new();
    match raw(&["hello-then-bogus"]).load() {
        // It came in one read with the hello, or in the next.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}"),
        Ok(peer) => {
            let pid = peer.pid().unwrap();
            wait_until("the end of a plugin that broke the protocol", || {
                !crate::aftermath::is_alive(pid)
            });
            let probe: plug_faults::ProbeProxy = peer.proxy().unwrap();
            let error = in_time("the call", move || probe.echo("first").unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
            assert_eq!(error.delivery(), Delivery::NotSent);
        }
    }
    case.finish();
}

#[test]
fn f2_the_largest_frame_is_accepted_and_one_more_byte_is_not() {
    let case = Case::new();
    let largest = MAX_FRAME.to_string();
    assert_eq!(first_call(&case, &["frame-of", &largest]).unwrap(), b"first");
    let larger = (MAX_FRAME + 1).to_string();
    let error = first_call(&case, &["frame-of", &larger]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert!(error.message().contains(&larger), "{error}");
    case.finish();
}

#[test]
fn f3_bytes_that_come_one_by_one_are_the_same_frames() {
    let case = Case::new();
    let probe = case.load(raw(&["dribble"]));
    for text in ["one", "two", "three"] {
        let probe = probe.clone();
        assert_eq!(in_time("a call", move || probe.echo(text).unwrap()), text.as_bytes());
    }
    drop(probe);
    case.finish();
}

#[test]
fn f4_an_end_inside_a_frame_is_an_exit_that_says_so() {
    let case = Case::new();
    for place in ["prefix", "header", "body", "last"] {
        let error = first_call(&case, &["cut", place]).unwrap_err();
        assert_exited(&error, ExitStatus::Code(0));
        assert_eq!(error.delivery(), Delivery::MayHaveRun, "{place}");
        let is_said = error.message().contains("cut off in the middle of a message");
        assert!(is_said, "{place}: {error}");
    }
    case.finish();
}

/// Whoever reads is woken by a byte in the pipe. It must not complete what the plugin began.
#[test]
fn f4_nothing_completes_a_frame_that_lacks_its_last_byte() {
    let case = Case::new();
    for _ in 0..5 {
        let command = plug::Command::new(crate::aftermath::EVIL);
        let command = command.args(["raw-with-survivor", "cut", "last"]);
        let probe = case.load(command);
        let error = in_time("the call", move || probe.echo("first")).unwrap_err();
        assert_exited(&error, ExitStatus::Code(0));
        assert!(error.message().contains("cut off in the middle of a message"), "{error}");
        let survivor = error.stderr().and_then(|text| text.strip_prefix("survivor "));
        crate::aftermath::kill(survivor.expect("it says its id").parse().unwrap());
    }
    case.finish();
}

#[test]
fn f7_a_reply_to_a_call_that_was_never_made_breaks_the_protocol() {
    let case = Case::new();
    let error = first_call(&case, &["stranger"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert!(error.message().contains("the call 99"), "{error}");
    case.finish();
}

#[test]
fn f9_a_second_reply_breaks_the_protocol_but_the_first_counts() {
    let case = Case::new();
    let probe = case.load(raw(&["twice"]));
    let first = {
        let probe = probe.clone();
        in_time("the call", move || probe.echo("first"))
    };
    assert_eq!(first.unwrap(), b"first");
    let error = in_time("the next call", move || probe.echo("second").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    case.finish();
}

#[test]
fn f10_text_in_place_of_a_hello_is_quoted() {
    let case = Case::new();
    let begin = std::time::Instant::now();
    let error = evil(&["--say=Hello"]).load().unwrap_err();
    assert_soon("the error", begin.elapsed());
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error:?}");
    assert!(error.message().contains(r#""Hello\n"#), "{error}");
    assert!(error.message().contains("print to stdout"), "{error}");
    case.finish();
}

#[test]
fn f12_a_message_over_the_limit_fails_its_call_alone() {
    let case = Case::new();
    let probe = case.load(evil(&[]).max_message(1 << 20));
    let call = {
        let probe = probe.clone();
        start("a call beside it", move || probe.sleep(300))
    };
    let error = probe.echo(vec![0; 2 << 20]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    assert_eq!(error.delivery(), Delivery::NotSent);
    assert_eq!(error.code(), Code::ResourceExhausted);
    // 4 bytes are the field's head.
    assert_eq!(probe.echo(vec![7; (1 << 20) - 4]).unwrap(), vec![7; (1 << 20) - 4]);
    let error = probe.echo(vec![7; (1 << 20) - 3]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    call.get().unwrap();
    drop(probe);
    case.finish();
}

/// A call that does not count must not keep the place of one that does.
#[test]
fn f12_a_message_over_the_limit_passes_its_turn_on() {
    let case = Case::new();
    let folder = crate::aftermath::Folder::new("f12");
    let go = folder.join("go");
    let probe = case.load(raw(&["one-at-a-time", go.to_str().unwrap()]).max_message(1 << 20));
    let first = {
        let probe = probe.clone();
        start("the first call", move || probe.echo("first"))
    };
    // All of these wait, in some order, until the first call has ended.
    let waiting: Vec<_> = (0..8)
        .map(|index| {
            let probe = probe.clone();
            start(format!("call {index} of those that wait"), move || match index % 2 {
                0 => probe.echo(vec![0; 2 << 20]),
                _ => probe.echo("small"),
            })
        })
        .collect();
    std::fs::write(go, "").unwrap();
    assert_eq!(first.get().unwrap(), b"first");
    for (index, call) in waiting.into_iter().enumerate() {
        match (index % 2, call.get()) {
            (0, Err(error)) => assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}"),
            (_, result) => assert_eq!(result.unwrap(), b"small"),
        }
    }
    drop(probe);
    case.finish();
}

#[test]
fn f13_large_messages_come_through_pipes_of_8_kib() {
    let case = Case::new();
    let probe = case.evil(&["--pipes=8192"]);
    let large: Vec<u8> = (0..20_u32 << 20).map(|index| (index % 251) as u8).collect();
    let mut call = {
        let (probe, large) = (probe.clone(), large.clone());
        start("20 MiB there and back", move || probe.echo(large))
    };
    // Small ones pass it.
    let mut small = 0;
    while call.is_pending() {
        assert_eq!(probe.echo("small").unwrap(), b"small");
        small += 1;
    }
    println!("{small} small calls passed");
    assert!(call.get().unwrap() == large);
    drop(probe);
    case.finish();
}

#[test]
fn p27_a_plugin_that_closes_its_output_is_ended() {
    let case = Case::new();
    let error = first_call(&case, &["close-output"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exited, "{error:?}");
    assert!(error.exit().unwrap().by_host(), "{error:?}");
    case.finish();
}
