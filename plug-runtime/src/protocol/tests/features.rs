//! What both sides can do beyond calls, and that a side which lists no features meets none of it.

use std::time::Instant;

use super::model::{Shape, streams_hello};
use super::*;

fn pair() -> Pair {
    streaming(streams_hello(), streams_hello())
}

/// Both list all features but one.
fn pair_without(feature: &str) -> Pair {
    let without = |mut hello: Hello| {
        hello.features.retain(|listed| listed != feature);
        hello
    };
    let mut pair = Pair::greeted(streams_hello(), without(streams_hello()));
    pair.plugin.ready();
    pair.plugin_speaks();
    pair
}

fn next_request(connection: &mut Connection) -> super::super::Request {
    match connection.poll_event() {
        Some(Event::Request(request)) => request,
        other => panic!("{other:?} instead of a request"),
    }
}

#[test]
fn metadata_travels_with_a_call_in_its_order() {
    let mut pair = pair();
    let pairs: Vec<(String, bytes::Bytes)> =
        [("trace", "1"), ("", ""), ("trace", "2"), ("ключ", "\0\u{ff}")]
            .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec().into()))
            .to_vec();
    let opening = Opening { metadata: &pairs, ..Shape::Unary.opening() };
    pair.host.open(&opening, Some(&text("k"))).unwrap();
    let said = output(&mut pair.host);
    pair.plugin.handle_bytes(&said);
    assert_eq!(next_request(&mut pair.plugin).extra.unwrap().metadata, pairs);
}

#[test]
fn metadata_over_the_limit_or_for_a_side_that_takes_none_is_refused() {
    let value = |len: usize| vec![("k".to_owned(), bytes::Bytes::from(vec![7; len]))];
    let empty = vec![(String::new(), bytes::Bytes::new()); 5000];
    for (pairs, problem) in
        [(value(70_000), "the metadata has 70017 bytes"), (empty, "the metadata has 80000 bytes")]
    {
        let mut pair = pair();
        let opening = Opening { metadata: &pairs, ..Shape::Unary.opening() };
        let error = pair.host.open(&opening, Some(&text("k"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.message().contains(problem), "{error}");
        assert!(!pair.host.has_output() && pair.host.calls_made() == 0);
    }
    let pairs = value(1);
    let opening = Opening { metadata: &pairs, ..Shape::Unary.opening() };
    let error = pair_without("metadata").host.open(&opening, Some(&text("k"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
}

#[test]
fn a_call_names_the_call_within_whose_handler_it_is_made() {
    for (mut pair, expected) in [(pair(), 1), (pair_without("within"), 0)] {
        let outer = pair.host.open(&Shape::Unary.opening(), Some(&text("outer"))).unwrap();
        talk(&mut pair);
        let opening = Opening { within: outer, ..Shape::Unary.opening() };
        pair.plugin.open(&opening, Some(&text("inner"))).unwrap();
        let said = output(&mut pair.plugin);
        pair.host.handle_bytes(&said);
        let extra = next_request(&mut pair.host).extra;
        assert_eq!(extra.map_or(0, |extra| extra.within), expected);
    }
}

#[test]
fn a_ping_is_answered_with_what_it_carries() {
    let mut pair = pair();
    for payload in [&b""[..], &[7; 64]] {
        pair.host.ping(payload).unwrap();
        pair.plugin.ping(payload).unwrap();
        let pong = Seen::Pong { payload: Blob(payload.to_vec()) };
        assert_eq!(talk(&mut pair), (vec![pong.clone()], vec![pong]));
    }
    let too_long = Frame { payload: &[7; 65], ..of_kind(kind::PING) };
    say(&mut pair.host, &[too_long]);
    assert!(pair.host.failure().unwrap().message().contains("a ping of 65 bytes"));
    assert!(pair.host.ping(b"").is_err(), "it is over");
    let error = pair_without("ping").host.ping(b"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
}

#[test]
fn log_records_go_to_the_host_and_levels_to_the_plugin() {
    let mut pair = pair();
    assert!(pair.plugin.log(7, b"record"));
    pair.host.set_level(b"level");
    let record = Seen::Log { call: 7, record: Blob(b"record".to_vec()) };
    let level = Seen::Level { record: Blob(b"level".to_vec()) };
    assert_eq!(talk(&mut pair), (vec![record], vec![level]));
    // The wrong way round they mean nothing.
    assert_eq!(say(&mut pair.plugin, &[of_kind(kind::LOG)]), []);
    assert_eq!(say(&mut pair.host, &[of_kind(kind::LEVEL)]), []);

    let mut silent = pair_without("log");
    assert!(!silent.plugin.log(0, b"record"));
    silent.host.set_level(b"level");
    assert!(!silent.plugin.has_output() && !silent.host.has_output());
    assert_eq!(say(&mut silent.host, &[of_kind(kind::LOG)]), [], "ignored as any unknown kind");
}

#[test]
fn records_are_dropped_while_much_else_waits() {
    let mut pair = pair();
    let record = [7; 1000];
    let taken = (0..1000).take_while(|_| pair.plugin.log(0, &record)).count();
    assert!((60..70).contains(&taken), "{taken}");
    output(&mut pair.plugin);
    assert!(pair.plugin.log(0, &record));
}

#[test]
fn a_plugin_that_says_hello_early_is_called_once_it_is_ready() {
    let mut pair = Pair::greeted(streams_hello(), streams_hello());
    let open =
        |connection: &mut Connection| connection.open(&Shape::Unary.opening(), Some(&text("k")));
    let error = open(&mut pair.host).unwrap_err();
    assert!(error.message().contains("still starting"), "{error}");
    assert_eq!(error.delivery(), Delivery::NotSent);
    // It calls its host meanwhile.
    let call = open(&mut pair.plugin).unwrap();
    talk(&mut pair);
    pair.host.reply(call, response(&text("config")));
    assert_eq!(talk(&mut pair).1, [Seen::response(call, b"config")]);
    pair.plugin.ready();
    assert_eq!(pair.plugin_speaks(), [Seen::Ready]);
    assert_eq!(open(&mut pair.host).unwrap(), 1);

    for (connection, name) in [(&mut pair.host, "twice"), (&mut pair.plugin, "by a host")] {
        say(connection, &[of_kind(kind::READY)]);
        assert!(connection.failure().is_some(), "a ready {name}");
    }
}

#[test]
fn a_plugin_that_said_hello_and_cannot_start_says_why() {
    let mut pair = Pair::greeted(streams_hello(), streams_hello());
    pair.plugin.refuse(&Error::new(Code::FailedPrecondition, "no database"));
    pair.plugin_speaks();
    let error = pair.host.failure().unwrap();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Handshake, Code::FailedPrecondition));
    assert!(error.message().contains("no database"), "{error}");
}

#[test]
fn the_time_limit_covers_the_hello_and_the_ready() {
    let by = Instant::now() + Duration::from_secs(1);
    let mut pair = Pair {
        host: Connection::new(Side::Host, streams_hello(), Some(by)),
        plugin: Connection::new(Side::Plugin, streams_hello(), None),
    };
    pair.host_speaks();
    pair.plugin.accept();
    pair.plugin_speaks();
    assert_eq!(pair.host.poll_timeout(), Some(by), "it is not ready");
    pair.host.handle_timeout(by, &mut Output::default());
    let error = pair.host.failure().unwrap();
    assert_eq!(error.kind(), ErrorKind::Handshake);
    assert!(error.message().contains("did not become ready"), "{error}");
}

#[test]
fn v8_a_simple_peer_meets_no_frame_field_or_flag_of_a_feature() {
    for (host, plugin) in [(streams_hello(), kv_hello()), (kv_hello(), streams_hello())] {
        let mut pair = Pair::greeted(host, plugin);
        let now = Instant::now();
        let deadline = Some((now + Duration::from_secs(1), now));
        let mut said = Vec::new();
        for connection in [&mut pair.host, &mut pair.plugin] {
            let opening = Opening { deadline, within: 9, ..unary(GET) };
            let kept = connection.open(&opening, Some(&blob(3 << 20, 1))).unwrap();
            let given_up = connection.open(&opening, Some(&text("k"))).unwrap();
            let error = Error::new(Code::Cancelled, "no");
            said.extend(output(connection));
            connection.cancel(given_up, &error, &mut Output::default());
            connection.handle_timeout(now + Duration::from_secs(2), &mut Output::default());
            assert!(connection.ping(b"").is_err());
            connection.ready();
            connection.log(0, b"record");
            connection.set_level(b"level");
            let streams = Opening { streams_responses: true, ..unary(GET) };
            let error = connection.open(&streams, Some(&text("k"))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unimplemented);
            assert!(kept < given_up);
            said.extend(output(connection));
        }
        for frame in frames(&said) {
            assert!(matches!(frame.kind, kind::OPEN | kind::MESSAGE), "{frame:?}");
            assert_eq!((frame.timeout_us, frame.within, frame.credit), (0, 0, 0));
            assert_eq!(frame.flags & !(flag::LAST | flag::HALF_CLOSE), 0);
        }
    }
}

#[test]
fn v8_streams_are_in_use_only_with_credit_and_cancel() {
    for feature in ["streams", "credit", "cancel"] {
        let pair = pair_without(feature);
        for connection in [&pair.host, &pair.plugin] {
            assert!(!connection.features().streams, "without {feature}");
            assert_eq!(connection.features().credit, feature != "credit");
        }
    }
    let pair = pair_without("ping");
    assert!(pair.host.features().streams && !pair.host.features().ping);
}

#[test]
fn v8_credit_alone_bounds_long_messages() {
    let mut pair = pair_without("streams");
    let long = blob(1 << 20, 1);
    let call = pair.host.open(&Shape::Unary.opening(), Some(&long)).unwrap();
    let first = output(&mut pair.host);
    assert_eq!(frames(&first).len(), 1);
    pair.plugin.handle_bytes(&first);
    talk(&mut pair);
    pair.plugin.reply(call, response(&long));
    assert_eq!(talk(&mut pair).0, [Seen::response(call, &long.0)]);
    assert_whole(&pair);
}
