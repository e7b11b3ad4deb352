//! R10: a message for which there is no memory fails its call, and no other.

use super::model::{Shape, streams_hello};
use super::*;
use crate::protocol::FRAGMENT;
use crate::protocol::memory::refuse;

/// Three fragments.
const LONG: usize = 2 * FRAGMENT + 1;

/// For one frame, and not for a copy of its message.
const SOME: usize = 64 << 10;

fn pair() -> Pair {
    streaming(streams_hello(), streams_hello())
}

fn blob(len: usize) -> Blob {
    Blob(vec![7; len])
}

/// Lets both talk while the host is without memory for more than `largest` bytes at a time. Every frame arrives whole.
fn talk_without(largest: usize, pair: &mut Pair) -> (Vec<Seen>, Vec<Seen>) {
    let (mut host, mut plugin) = (Vec::new(), Vec::new());
    while pair.host.has_output() || pair.plugin.has_output() {
        let bytes = output(&mut pair.host);
        pair.plugin.handle_bytes(&bytes);
        plugin.extend(read(&mut pair.plugin));
        let bytes = output(&mut pair.plugin);
        refuse::over(largest, || pair.host.handle_bytes(&bytes));
        host.extend(read(&mut pair.host));
    }
    (host, plugin)
}

fn of_call(seen: &[Seen], wanted: u64) -> Vec<(ErrorKind, Code, Delivery)> {
    let failures = seen.iter().filter_map(|seen| match seen {
        Seen::Failure { call, kind, code, delivery, text } if *call == wanted => {
            assert!(text.contains("no memory left"), "{text}");
            Some((*kind, *code, *delivery))
        }
        _ => None,
    });
    failures.collect()
}

#[test]
fn r10_a_response_without_memory_fails_its_call_and_the_connection_goes_on() {
    for len in [SOME + 1, FRAGMENT, FRAGMENT + 1, LONG, 40 * FRAGMENT] {
        let mut pair = pair();
        let call = pair.host.open(&Shape::Unary.opening(), Some(&blob(0))).unwrap();
        talk(&mut pair);
        pair.plugin.reply(call, response(&blob(len)));
        let (host, _) = talk_without(SOME, &mut pair);
        let expected = (ErrorKind::TooLarge, Code::ResourceExhausted, Delivery::MayHaveRun);
        assert_eq!(of_call(&host, call), [expected], "{len} bytes: {host:?}");
        assert_whole(&pair);

        let call = pair.host.open(&Shape::Unary.opening(), Some(&blob(0))).unwrap();
        talk(&mut pair);
        pair.plugin.reply(call, response(&blob(len)));
        let (host, _) = talk(&mut pair);
        assert_eq!(host, [Seen::Response { call, message: blob(len) }], "there is some again");
        assert_whole(&pair);
    }
}

#[test]
fn r10_a_request_without_memory_is_refused_and_not_handled() {
    for len in [SOME + 1, FRAGMENT, FRAGMENT + 1, LONG] {
        let mut pair = pair();
        let call = pair.plugin.open(&Shape::Unary.opening(), Some(&blob(len))).unwrap();
        let (host, plugin) = talk_without(SOME, &mut pair);
        assert_eq!(host, [], "no handler runs");
        let expected = (ErrorKind::Status, Code::ResourceExhausted, Delivery::NotSent);
        assert_eq!(of_call(&plugin, call), [expected], "{len} bytes: {plugin:?}");
        assert_whole(&pair);
    }
}

#[test]
fn r10_what_is_lost_of_a_message_is_counted_to_its_end() {
    let mut host = pair().host;
    let call = host.open(&Shape::Unary.opening(), Some(&blob(0))).unwrap();
    output(&mut host);
    let frames = [
        Frame { total: 1000, ..part(call, &[7; 300]) },
        part(call, &[7; 300]),
        part(call, &[7; 300]),
    ];
    refuse::over(200, || say(&mut host, &frames));
    assert_eq!(host.held(), 0, "nothing of it is kept");
    let end =
        Frame { kind: kind::END, call, flags: flag::LAST, payload: &[7; 99], ..Frame::default() };
    say(&mut host, &[end]);
    let error = host.failure().expect("999 of 1000 bytes are a violation");
    assert!(error.message().contains("fragments of a message of 1000 bytes have 999"), "{error}");
}

#[test]
fn r10_a_stream_of_responses_is_cancelled_where_a_message_is_lost() {
    for len in [SOME + 1, FRAGMENT, LONG] {
        let mut pair = pair();
        let call = pair.host.open(&Shape::Responses.opening(), Some(&blob(0))).unwrap();
        talk(&mut pair);
        pair.plugin.begin_responses(call);
        pair.plugin.send(call, b"first").unwrap();
        talk(&mut pair);
        pair.plugin.send(call, &blob(len).0).unwrap();
        let (host, plugin) = talk_without(SOME, &mut pair);
        let expected = (ErrorKind::TooLarge, Code::ResourceExhausted, Delivery::MayHaveRun);
        assert_eq!(of_call(&host, call), [expected], "{len} bytes: {host:?}");
        assert!(plugin.contains(&Seen::Cancelled { call }), "{plugin:?}");
        pair.plugin.finish(call, Ok(()));
        talk(&mut pair);
        assert_whole(&pair);
    }
}

#[test]
fn r10_a_handler_learns_that_a_request_of_its_stream_is_lost() {
    for len in [SOME + 1, FRAGMENT, LONG] {
        let mut pair = pair();
        let call = pair.plugin.open(&Shape::Requests.opening(), None::<&Blob>).unwrap();
        pair.plugin.send(call, b"first").unwrap();
        talk(&mut pair);
        pair.plugin.send(call, &blob(len).0).unwrap();
        let (host, _) = talk_without(SOME, &mut pair);
        let ended = Seen::RequestsEnded { call, result: Err(Code::ResourceExhausted) };
        assert_eq!(host, [ended], "{len} bytes");
        pair.plugin.send(call, b"more, which nobody reads").unwrap();
        pair.plugin.end_requests(call);
        assert_eq!(talk(&mut pair).0, []);
        pair.host.reply(call, response(&blob(1)));
        let (_, plugin) = talk(&mut pair);
        assert_eq!(plugin, [Seen::Response { call, message: blob(1) }]);
        assert_whole(&pair);
    }
}

#[test]
fn r10_a_frame_without_memory_ends_the_connection_and_says_why() {
    let mut pair = pair();
    let call = pair.host.open(&Shape::Unary.opening(), Some(&blob(0))).unwrap();
    talk(&mut pair);
    pair.plugin.reply(call, response(&blob(FRAGMENT)));
    let bytes = output(&mut pair.plugin);
    let seen = refuse::over(SOME, || feed(&mut pair.host, &bytes[..2 * SOME]));
    let expected = (ErrorKind::Shutdown, Code::ResourceExhausted, Delivery::MayHaveRun);
    assert_eq!(of_call(&seen, call), [expected], "{seen:?}");
}

#[test]
fn r10_a_long_request_that_cannot_be_encoded_is_not_sent() {
    let mut pair = pair();
    let opening = Shape::Unary.opening();
    let opened = refuse::over(SOME, || pair.host.open(&opening, Some(&blob(LONG))));
    let error = opened.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::TooLarge, Delivery::NotSent));
    let call = pair.host.open(&opening, Some(&blob(LONG))).unwrap();
    let (_, plugin) = talk(&mut pair);
    assert_eq!(plugin, [Seen::Request { call, method: 1, message: blob(LONG) }]);
}

#[test]
fn r10_a_record_without_memory_is_dropped() {
    let mut pair = pair();
    pair.plugin.log(0, &[7; SOME + 1]);
    assert_eq!(talk_without(SOME, &mut pair).0, []);
    pair.plugin.log(0, &[7; SOME + 1]);
    assert_eq!(talk(&mut pair).0, [Seen::Log { call: 0, record: blob(SOME + 1) }]);
}
