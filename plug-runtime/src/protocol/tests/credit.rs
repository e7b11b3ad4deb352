//! What a side must not send, and what no honest side grants.

use super::model::{Limits, Shape, cost, streams_hello};
use super::*;
use crate::protocol::FRAGMENT;

const REQUESTS: u32 = Shape::Requests as u32 + 1;

fn limits() -> Limits {
    Limits { max_calls: 8, stream_window: 1000, connection_window: 2000, budget: 1 << 20 }
}

fn pair() -> Pair {
    streaming(limits().hello(), limits().hello())
}

fn open_requests(call: u64) -> Frame<'static> {
    Frame { kind: kind::OPEN, call, method: REQUESTS, ..Frame::default() }
}

/// Says `frames` to a plugin, and checks that it takes them as a violation.
#[track_caller]
fn breaks(frames: &[Frame<'_>], problem: &str) {
    let mut plugin = pair().plugin;
    let call = plugin.open(&Shape::Requests.opening(), None::<&Blob>).unwrap();
    assert_eq!(call, 2);
    output(&mut plugin);
    let events = say(&mut plugin, frames);
    let error = plugin.failure().unwrap_or_else(|| panic!("no violation: {events:?}"));
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.message().contains(problem), "{error}");
}

#[test]
fn c16_a_grant_that_shrinks_or_is_absurd() {
    breaks(&[credit(2, 999)], "a credit of 999 after one of 1000");
    breaks(&[credit(2, 5000), credit(2, 4999)], "a credit of 4999 after one of 5000");
    breaks(&[credit(0, 1999)], "a credit of 1999 after one of 2000");
    breaks(&[credit(2, (1 << 62) + 1)], "over 2^62");
    breaks(&[credit(0, u64::MAX)], "over 2^62");
    breaks(&[credit(4, 5000)], "call 4");
    breaks(&[credit(1, 5000)], "call 1");

    let mut plugin = pair().plugin;
    plugin.open(&Shape::Requests.opening(), None::<&Blob>).unwrap();
    let most = 1 << 62;
    say(&mut plugin, &[credit(2, most), credit(2, most), credit(0, most)]);
    assert!(plugin.failure().is_none(), "the same again is no less");
}

#[test]
fn c16_a_grant_for_a_call_that_has_ended_is_late_and_still_not_absurd() {
    let mut pair = pair();
    let call = pair.host.open(&Shape::Responses.opening(), Some(&text(""))).unwrap();
    talk(&mut pair);
    pair.plugin.finish(call, Ok(()));
    say(&mut pair.plugin, &[credit(call, 5000)]);
    assert!(pair.plugin.failure().is_none());
    say(&mut pair.plugin, &[credit(call, u64::MAX)]);
    assert!(pair.plugin.failure().unwrap().message().contains("over 2^62"));
}

#[test]
fn c16_windows_with_which_nothing_could_be_sent() {
    for (stream, connection, problem) in [
        (31, 1000, "stream_window is 31"),
        (0, 0, "stream_window is 0"),
        (1000, 999, "connection_window 999"),
        (32, (1 << 62) + 1, "over 2^62"),
    ] {
        let window =
            |hello: Hello| Hello { stream_window: stream, connection_window: connection, ..hello };
        let mut pair = Pair::new(window(streams_hello()), streams_hello());
        pair.host_speaks();
        let error = pair.plugin.failure().expect(problem);
        assert!(error.message().contains(problem), "{error}");
        // Who knows no streams has no windows.
        Pair::greeted(window(host_hello()), kv_hello());
    }
}

#[test]
fn more_than_was_granted_in_one_call_and_in_all() {
    let full = [7; 1000 - 16];
    breaks(&[open_requests(1), item(1, &[7; 1000 - 15])], "1001 bytes of a stream");
    breaks(&[open_requests(1), item(1, &full), item(1, b"")], "1016 bytes of a stream");
    let both = [open_requests(1), item(1, &full), open_requests(3), item(3, &full)];
    let mut plugin = pair().plugin;
    say(&mut plugin, &both);
    assert!(plugin.failure().is_none(), "as much as was granted");
    let third = [&both[..], &[open_requests(5), item(5, b"")]].concat();
    breaks(&third, "2016 bytes of a stream were sent where 2000 were granted");
}

#[test]
fn every_frame_with_a_message_costs_its_payload_and_16_more() {
    let mut plugin = pair().plugin;
    let parts =
        [open_requests(1), Frame { total: 5, ..part(1, b"ab") }, part(1, b""), item(1, b"cde")];
    say(&mut plugin, &parts);
    let (_, _, received, _) = plugin.window.numbers();
    assert_eq!(received, cost(2) + cost(0) + cost(3));
    say(&mut plugin, &[item(1, b""), half_close(1)]);
    let (_, _, received, _) = plugin.window.numbers();
    assert_eq!(
        received,
        2 * cost(0) + cost(2) + cost(3),
        "an empty message costs, an end does not"
    );
}

#[test]
fn f9_a_stream_that_goes_on_after_its_end() {
    breaks(&[open_requests(1), half_close(1), item(1, b"x")], "after the end");
    breaks(&[open_requests(1), half_close(1), half_close(1)], "second end");
    let part = Frame { total: 9, ..part(1, b"x") };
    breaks(&[open_requests(1), part, half_close(1)], "in the middle of a message");

    for (frames, problem) in [
        (&[end(1, b"x")][..], "an end of a stream with a message"),
        (&[end(1, b"")], "an end of a stream with a message"),
        (&[part, end_stream(1)], "in the middle of a message"),
        (&[end_stream(1), item(1, b"x")], "call 1"),
    ] {
        let mut pair = pair();
        pair.host.open(&Shape::Responses.opening(), Some(&text(""))).unwrap();
        output(&mut pair.host);
        say(&mut pair.host, frames);
        let error = pair.host.failure().expect(problem);
        assert!(error.message().contains(problem), "{error}");
        assert_eq!(pair.host.calls_made(), 0);
    }
}

#[test]
fn a_stream_may_fail_in_the_middle_of_a_message() {
    let mut pair = pair();
    pair.host.open(&Shape::Responses.opening(), Some(&text(""))).unwrap();
    output(&mut pair.host);
    let part = Frame { total: 900, ..part(1, &[7; 300]) };
    say(&mut pair.host, &[part, end_failed(1, 15, "the disk is gone")]);
    assert!(pair.host.failure().is_none());
    let (size, granted, received, consumed) = pair.host.window.numbers();
    assert_eq!(received, consumed, "what has come of it is given back");
    assert!(granted - consumed > size / 2);
    assert!(pair.host.stream_budget.is_unused());
}

#[test]
fn a_grant_is_sent_for_half_a_window_and_not_for_each_message() {
    let mut pair = pair();
    let call = pair.host.open(&Shape::Requests.opening(), None::<&Blob>).unwrap();
    talk(&mut pair);
    let mut grants = 0;
    for _ in 0..1000 {
        assert!(pair.host.send(call, &[7; 84]).unwrap());
        let bytes = output(&mut pair.host);
        pair.plugin.handle_bytes(&bytes);
        read(&mut pair.plugin);
        let bytes = output(&mut pair.plugin);
        grants += frames(&bytes).len();
        pair.host.handle_bytes(&bytes);
    }
    // 100 bytes each: of 1000 for the call, and of 2000 for all.
    assert_eq!(grants, 1000 / 5 + 1000 / 10);
}

#[test]
fn the_rest_of_a_long_message_waits_for_its_grant() {
    let mut pair = pair();
    let long = blob(3 * FRAGMENT, 1);
    pair.host.open(&Shape::Unary.opening(), Some(&long)).unwrap();
    let first = output(&mut pair.host);
    assert_eq!(outline(&frames(&first)), [(kind::OPEN, 1)]);
    pair.plugin.handle_bytes(&first);
    let grant = output(&mut pair.plugin);
    assert_eq!(frames(&grant), [credit(1, 3 * FRAGMENT as u64)]);
    pair.host.handle_bytes(&grant);
    let rest = output(&mut pair.host);
    assert_eq!(feed(&mut pair.plugin, &rest), [Seen::request(1, 1, &long.0)]);
}

#[test]
fn the_rest_of_a_long_message_that_does_not_wait_is_refused() {
    let mut pair = pair();
    // The budget is used up by the first.
    pair.plugin.budget = crate::protocol::flow::Budget::new(1);
    let total = 2 * FRAGMENT as u64;
    let first = [7; FRAGMENT];
    let (one, two) = (open_part(1, 1, total, &first), open_part(3, 1, total, &first));
    assert_eq!(say(&mut pair.plugin, &[one, two]), []);
    assert_eq!(frames(&output(&mut pair.plugin)), [credit(1, total)]);
    say(&mut pair.plugin, &[last_part(3, &first)]);
    let error = pair.plugin.failure().unwrap();
    assert!(error.message().contains("call 3 before it was granted"), "{error}");
}

#[test]
fn a_long_message_whose_call_ends_makes_room_for_the_next() {
    let mut pair = pair();
    pair.plugin.budget = crate::protocol::flow::Budget::new(1);
    let total = 2 * FRAGMENT as u64;
    let opens = [1, 3, 5].map(|call| open_part(call, 1, total, b""));
    say(&mut pair.plugin, &opens);
    output(&mut pair.plugin);
    // One that waits, and the one that does not.
    say(&mut pair.plugin, &[cancel_of(3)]);
    assert_eq!(outline(&frames(&output(&mut pair.plugin))), [(kind::END, 3)]);
    pair.plugin.reply(1, failed(Code::Aborted, "no"));
    let said = output(&mut pair.plugin);
    assert_eq!(outline(&frames(&said)), [(kind::END, 1), (kind::CREDIT, 5)]);
}

#[test]
fn a_long_message_that_the_window_is_enough_for_does_not_wait_and_is_counted_all_the_same() {
    let wide = Limits { stream_window: 1 << 20, connection_window: 4 << 20, ..limits() };
    let mut pair = streaming(wide.hello(), wide.hello());
    pair.plugin.stream_budget = crate::protocol::flow::Budget::new(1);
    let mut kept = Vec::new();
    for seed in 0..2 {
        let call = pair.host.open(&Shape::Requests.opening(), None::<&Blob>).unwrap();
        pair.host.send(call, &blob(300 << 10, seed).0).unwrap();
        let said = output(&mut pair.host);
        pair.plugin.handle_bytes(&said);
        while let Some(event) = pair.plugin.poll_event() {
            if let Event::Messages { call, cost, .. } = event {
                kept.push((call, cost));
            }
        }
        pair.host.end_requests(call);
    }
    assert_eq!(kept.len(), 2, "the second found the budget used up, and needed none");
    for (call, cost) in kept {
        assert!(!pair.plugin.stream_budget.is_unused());
        pair.plugin.consume(call, cost);
    }
    assert!(pair.plugin.stream_budget.is_unused());
}
