//! How a connection ends, and what its calls learn of it.

use super::*;
use crate::protocol::FRAGMENT;

fn lost() -> Error {
    Error::of_kind(ErrorKind::Exited, "the plugin was killed")
}

/// The delivery that each failed call was told, in the order of the calls.
fn deliveries(events: &[Seen]) -> Vec<(u64, Delivery)> {
    let failure = |seen: &Seen| match seen {
        Seen::Failure { call, delivery, .. } => Some((*call, *delivery)),
        _ => None,
    };
    events.iter().filter_map(failure).collect()
}

#[test]
fn f4_an_end_inside_a_frame_is_not_a_clean_close() {
    let frame = bytes(&[end(1, &[7; 300])]);
    assert!(frame[0] >= 0x80, "the length itself has two bytes");
    for cut in 0..frame.len() {
        let mut host = host();
        host.open(&unary(GET), Some(&text("k"))).unwrap();
        output(&mut host);
        assert_eq!(feed(&mut host, &frame[..cut]), []);
        assert_eq!(host.is_truncated(), cut > 0, "{cut}");
        host.handle_eof();
        let kind = if cut == 0 { ErrorKind::Shutdown } else { ErrorKind::Protocol };
        let error = host.failure().unwrap();
        assert_eq!(error.kind(), kind, "cut after {cut} bytes: {error}");
        assert_eq!(deliveries(&seen(&mut host)), [(1, Delivery::MayHaveRun)]);
    }
}

#[test]
fn f4_an_end_inside_the_preamble() {
    let preamble = Side::Plugin.preamble();
    for cut in 1..preamble.len() {
        let mut host = Connection::new(Side::Host, host_hello(), None);
        feed(&mut host, &preamble[..cut]);
        assert!(host.is_truncated());
        host.handle_eof();
        assert_eq!(host.failure().unwrap().kind(), ErrorKind::Protocol, "{cut}");
    }
}

#[test]
fn a_failed_call_knows_whether_its_last_byte_was_written() {
    let mut host = host();
    let mut taken = Vec::new();
    for key in ["written", "written but for a byte", "taken", "queued"] {
        host.open(&unary(GET), Some(&text(key))).unwrap();
        if key == "taken" {
            host.poll_bytes(&mut taken);
        }
    }
    let lengths: Vec<usize> = frames(&taken).iter().map(|frame| bytes(&[*frame]).len()).collect();
    host.handle_written(lengths[0]);
    host.handle_written(lengths[1] - 1);
    host.close(&lost());
    assert_eq!(
        deliveries(&seen(&mut host)),
        [
            (1, Delivery::MayHaveRun),
            (3, Delivery::NotSent),
            (5, Delivery::NotSent),
            (7, Delivery::NotSent),
        ]
    );
    assert!(!host.has_output(), "a call that was reported as not sent is not sent");
    assert!(host.is_output_void(), "nor what was taken");
}

#[test]
fn a_long_request_counts_as_sent_once_its_last_fragment_is_written() {
    let mut host = host();
    host.open(&unary(PUT), Some(&blob(3 * FRAGMENT, 0))).unwrap();
    let mut left = Vec::new();
    let mut written = Vec::new();
    while host.has_output() {
        // Everything before the last take is written, and the last take but for one byte.
        host.handle_written(left.len());
        written.append(&mut left);
        host.poll_bytes(&mut left);
    }
    host.handle_written(left.len() - 1);
    let mut other = self::host();
    other.open(&unary(PUT), Some(&blob(3 * FRAGMENT, 0))).unwrap();
    output(&mut other);

    for (mut connection, delivery) in [(host, Delivery::NotSent), (other, Delivery::MayHaveRun)] {
        connection.close(&lost());
        assert_eq!(deliveries(&seen(&mut connection)), [(1, delivery)]);
    }
}

#[test]
fn a_connection_is_closed_once_and_remembers_why() {
    let mut host = host();
    host.open(&unary(GET), Some(&text("k"))).unwrap();
    output(&mut host);
    host.close(&lost());
    host.close(&Error::of_kind(ErrorKind::Shutdown, "later"));
    host.handle_eof();
    assert_eq!(host.failure().unwrap().kind(), ErrorKind::Exited);
    assert_eq!(seen(&mut host).len(), 1);
    let error = host.open(&unary(GET), Some(&text("k"))).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::NotSent));
    assert_eq!(say(&mut host, &[end(1, b"late")]), [], "what arrives later is ignored");
}

#[test]
fn a_reply_after_the_end_is_dropped() {
    let mut plugin = plugin();
    say(&mut plugin, &[open(1, GET, b"k")]);
    plugin.handle_eof();
    plugin.reply(1, response(&text("late")));
    assert!(!plugin.has_output());
    assert_eq!(plugin.calls_served(), 0);
}

#[test]
fn calls_under_way_end_after_a_goodbye() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    pair.host.open(&unary(GET), Some(&text("before"))).unwrap();
    pair.host.goodbye(Duration::from_millis(2));
    let error = pair.host.open(&unary(GET), Some(&text("after"))).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Shutdown, Delivery::NotSent));

    let grace = Some(Duration::from_millis(2));
    assert_eq!(pair.host_speaks(), [Seen::request(1, GET, b"before"), Seen::Goodbye { grace }]);
    assert!(pair.plugin.is_leaving() && pair.plugin.failure().is_none());
    assert!(
        pair.plugin.open(&unary(GET), Some(&text("after"))).is_err(),
        "no new calls either way"
    );
    pair.plugin.reply(1, response(&text("done")));
    assert_eq!(pair.plugin_speaks(), [Seen::response(1, b"done")]);
    pair.plugin.handle_eof();
    assert_eq!(pair.plugin.failure().unwrap().kind(), ErrorKind::Shutdown);
}

#[test]
fn answers_are_sent_after_a_goodbye_and_the_end_of_input() {
    let mut pair = Pair::greeted(kv_hello(), kv_hello());
    for len in [1, 3 * FRAGMENT, 1] {
        pair.host.open(&unary(PUT), Some(&blob(len, 0))).unwrap();
    }
    assert_eq!(pair.plugin.open(&unary(GET), Some(&text("k"))).unwrap(), 2);
    pair.host.goodbye(Duration::ZERO);
    assert_eq!(pair.host_speaks().len(), 4);
    pair.plugin.handle_eof();
    assert!(pair.plugin.failure().is_none());
    assert_eq!(deliveries(&seen(&mut pair.plugin)), [(2, Delivery::MayHaveRun)], "no answer comes");

    assert_eq!(pair.plugin.calls_served(), 3);
    pair.plugin.reply(5, response(&text("five")));
    pair.plugin.reply(3, response(&blob(3 * FRAGMENT, 1)));
    let seen = pair.plugin_speaks();
    assert_eq!(seen, [Seen::response(5, b"five"), Seen::response(3, &blob(3 * FRAGMENT, 1).0)]);
    pair.plugin.close(&lost());
    pair.plugin.reply(1, response(&text("too late")));
    assert!(!pair.plugin.has_output());
}

#[test]
fn a_request_that_is_on_its_way_when_a_goodbye_is_said_is_served() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    let long = blob(3 * FRAGMENT, 0);
    pair.host.open(&unary(PUT), Some(&long)).unwrap();
    pair.host.goodbye(Duration::ZERO);
    let said = output(&mut pair.host);
    assert_eq!(outline(&frames(&said))[1].0, kind::GOODBYE, "it passes the rest of the request");
    let seen = feed(&mut pair.plugin, &said);
    assert_eq!(seen, [Seen::Goodbye { grace: None }, Seen::request(1, PUT, &long.0)]);
}

#[test]
fn requests_that_are_incomplete_at_the_end_of_input_are_not_waited_for() {
    let mut plugin = plugin();
    say(&mut plugin, &[open_part(1, PUT, 9, b"abc"), goodbye()]);
    plugin.handle_eof();
    assert_eq!(plugin.calls_served(), 0);
    assert_eq!(plugin.failure().unwrap().kind(), ErrorKind::Shutdown);
}

#[test]
fn a_goodbye_is_said_once() {
    let mut host = host();
    host.goodbye(Duration::ZERO);
    host.goodbye(Duration::from_secs(1));
    assert_eq!(frames(&output(&mut host)), [goodbye()]);
}

#[test]
fn a_call_that_crosses_a_goodbye_is_refused_as_not_started() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    pair.plugin.goodbye(Duration::ZERO);
    pair.host.open(&unary(GET), Some(&text("crosses"))).unwrap();
    assert_eq!(pair.host_speaks(), [], "no handler hears of it");
    let seen = pair.plugin_speaks();
    let [Seen::Goodbye { grace: None }, Seen::Failure { call: 1, code, delivery, .. }] = &seen[..]
    else {
        panic!("{seen:?}")
    };
    assert_eq!((*code, *delivery), (Code::Unavailable, Delivery::NotSent));
}

#[test]
fn a_goodbye_with_an_error_is_why_later_calls_fail() {
    let mut host = host();
    let said = Frame { code: 8, message: "out of memory", ..goodbye() };
    assert_eq!(say(&mut host, &[said]), [Seen::Goodbye { grace: None }]);
    let error = host.open(&unary(GET), Some(&text("k"))).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Shutdown, Code::ResourceExhausted));
    assert!(error.message().contains("out of memory"), "{error}");
}
