//! What no side may say: each ends the connection, and every call exactly once.

use super::*;
use crate::protocol::FRAGMENT;

/// Says `frames` to a connection with two open calls of its own, 1 and 3 or 2 and 4, and checks that
/// it takes them as a violation.
#[track_caller]
fn breaks(mut connection: Connection, frames: &[Frame<'_>], problem: &str) {
    let calls: Vec<u64> =
        (0..2).map(|_| connection.open(&unary(GET), Some(&text("k"))).unwrap()).collect();
    output(&mut connection);
    let events = say(&mut connection, frames);
    let error = connection.failure().unwrap_or_else(|| panic!("no violation: {events:?}"));
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.message().contains(problem), "{error}");
    assert!(error.message().contains("at byte "), "{error}");
    for call in calls {
        let replies = events.iter().filter(|seen| match seen {
            Seen::Response { call: to, .. } => *to == call,
            Seen::Failure { call: to, .. } => *to == call,
            _ => false,
        });
        assert_eq!(replies.count(), 1, "call {call} in {events:?}");
    }
    assert_eq!((connection.calls_made(), connection.calls_served()), (0, 0));
    assert!(connection.open(&unary(GET), Some(&text("k"))).is_err());
    assert_eq!(say(&mut connection, &[open(101, GET, b""), open(102, GET, b"")]), [], "it is over");
}

#[test]
fn f7_a_reply_for_a_call_that_was_never_made() {
    breaks(host(), &[end(5, b"")], "call 5");
    breaks(host(), &[end_failed(5, 2, "no")], "call 5");
    breaks(host(), &[part(5, b"x")], "call 5");
    breaks(plugin(), &[end(6, b"")], "call 6");
    breaks(plugin(), &[part(6, b"x")], "call 6");
}

#[test]
fn f7_a_reply_for_a_call_of_the_side_that_replies() {
    breaks(host(), &[open(2, GET, b""), end(2, b"")], "call 2");
    breaks(plugin(), &[open(1, GET, b""), end(1, b"")], "call 1");
}

#[test]
fn f6_a_call_with_an_id_that_is_not_the_senders() {
    breaks(host(), &[open(0, GET, b"")], "id 0");
    breaks(host(), &[open(7, GET, b"")], "id 7");
    breaks(plugin(), &[open(0, GET, b"")], "id 0");
    breaks(plugin(), &[open(8, GET, b"")], "id 8");
}

#[test]
fn f6_flags_that_mean_nothing() {
    breaks(plugin(), &[Frame { flags: 8 | flag::LAST, ..open(1, GET, b"") }], "flags in 0x9");
    breaks(host(), &[Frame { flags: 1 << 31 | flag::LAST, ..end(1, b"") }], "flags in 0x80000001");
    let ignorable = Frame { flags: u32::MAX, ..of_kind(kind::IGNORABLE) };
    assert_eq!(say(&mut host(), &[ignorable]), []);
}

#[test]
fn f6_a_call_id_that_was_used_before() {
    breaks(plugin(), &[open(1, GET, b""), open(1, GET, b"")], "id 1 was used before");
    breaks(plugin(), &[open(5, GET, b""), open(3, GET, b"")], "id 3 was used before");

    let mut plugin = plugin();
    say(&mut plugin, &[open(1, GET, b"")]);
    plugin.reply(1, response(&text("")));
    breaks(plugin, &[open(1, GET, b"")], "id 1 was used before");
}

#[test]
fn f9_a_second_end_of_a_call() {
    breaks(host(), &[end(1, b"a"), end(1, b"b")], "call 1");
    breaks(host(), &[end_failed(1, 5, "a"), end(1, b"b")], "call 1");
    breaks(host(), &[end(1, b"a"), part(1, b"b")], "call 1");
}

#[test]
fn f9_a_request_that_goes_on_after_its_last_fragment() {
    breaks(plugin(), &[open(1, GET, b""), last_part(1, b"x")], "call 1");
    breaks(plugin(), &[open_part(1, GET, 1, b""), last_part(1, b"x"), part(1, b"")], "call 1");
}

#[test]
fn f9_a_fragment_for_a_call_that_was_never_opened() {
    breaks(plugin(), &[last_part(1, b"x")], "call 1");
    breaks(plugin(), &[open(1, GET, b""), last_part(3, b"x")], "call 3");
    breaks(plugin(), &[part(0, b"x")], "call 0");
}

#[test]
fn an_end_without_response_and_without_error() {
    breaks(host(), &[Frame { flags: 0, ..end(1, b"x") }], "without a response");
    breaks(host(), &[Frame { flags: flag::LAST, ..part(1, b"x") }], "ends before its call");
}

#[test]
fn fragments_that_do_not_add_up() {
    breaks(plugin(), &[open_part(1, GET, 0, b"")], "no total");
    breaks(plugin(), &[open_part(1, GET, 0, b"x")], "no total");
    breaks(plugin(), &[open_part(1, GET, 3, b"abcd")], "message of 3 bytes have 4");
    breaks(plugin(), &[open_part(1, GET, 3, b"a"), last_part(1, b"b")], "of 3 bytes have 2");
    breaks(plugin(), &[open(1, PUT, &[7; FRAGMENT + 1])], "a fragment has 262145 bytes");
    breaks(host(), &[end(1, &[7; FRAGMENT + 1])], "a fragment has 262145 bytes");
    let again = Frame { total: 3, ..part(1, b"b") };
    breaks(plugin(), &[open_part(1, GET, 3, b"a"), again], "later fragment has a total");
    breaks(host(), &[Frame { total: 3, ..part(1, b"a") }, end(1, b"b")], "of 3 bytes have 2");
}

#[test]
fn f2_a_message_over_the_stated_limit() {
    let limited = |hello| Hello { max_message: 100, ..hello };
    let plugin = || Pair::greeted(host_hello(), limited(kv_hello())).plugin;
    let host = || Pair::greeted(limited(host_hello()), kv_hello()).host;

    assert_eq!(say(&mut plugin(), &[open(1, PUT, &[7; 100])]), [Seen::request(1, PUT, &[7; 100])]);
    breaks(plugin(), &[open(1, PUT, &[7; 101])], "at most 100");
    // The announcement is enough; nothing has to arrive.
    breaks(plugin(), &[open_part(1, PUT, 101, b"")], "at most 100");
    breaks(plugin(), &[open_part(1, PUT, u64::MAX, b"")], "at most 100");
    breaks(host(), &[end(1, &[7; 101])], "at most 100");
    breaks(host(), &[Frame { total: 101, ..part(1, b"") }], "at most 100");
}

#[test]
fn more_calls_at_once_than_the_stated_limit() {
    let plugin = || Pair::greeted(host_hello(), Hello { max_calls: 2, ..kv_hello() }).plugin;
    let opens = [1, 3, 5].map(|call| open(call, GET, b""));
    breaks(plugin(), &opens, "more than 2 calls");
    // Calls whose request is still arriving count too.
    let parts = [1, 3, 5].map(|call| open_part(call, GET, 9, b""));
    breaks(plugin(), &parts, "more than 2 calls");

    let mut served = plugin();
    say(&mut served, &opens[..2]);
    served.reply(1, response(&text("")));
    output(&mut served);
    assert_eq!(say(&mut served, &opens[2..]), [Seen::request(5, GET, b"")]);
}

#[test]
fn f5_an_unknown_kind_below_64() {
    for kind in [0, 11, 63] {
        breaks(
            host(),
            &[Frame { call: 1, ..of_kind(kind) }],
            &format!("kind {kind}, which is unknown"),
        );
        breaks(
            plugin(),
            &[Frame { call: 1, ..of_kind(kind) }],
            &format!("kind {kind}, which is unknown"),
        );
    }
}

#[test]
fn f5_frames_of_features_that_are_not_in_use() {
    for kind in [kind::CANCEL, kind::CREDIT, kind::PING, kind::PONG, kind::READY] {
        for connection in [host(), plugin()] {
            let frame = Frame { call: 1, ..of_kind(kind) };
            breaks(connection, &[frame], "of a feature that is not in use");
        }
    }
}

#[test]
fn f5_unknown_kinds_from_64_on_are_ignored() {
    for mut connection in [host(), plugin()] {
        for kind in [64, 65, 1000, u32::MAX] {
            let frame = Frame { call: 1, payload: b"who knows", ..of_kind(kind) };
            assert_eq!(say(&mut connection, &[frame]), []);
        }
        assert!(connection.failure().is_none());
    }
}

#[test]
fn a_second_hello() {
    breaks(host(), &[of_kind(kind::HELLO)], "second hello");
    breaks(plugin(), &[of_kind(kind::HELLO)], "second hello");
}

#[test]
fn f1_a_length_over_the_limit_of_a_frame() {
    let mut host = host();
    assert_eq!(feed(&mut host, &[0xff, 0xff, 0xff, 0xff, 0x0f]), []);
    let error = host.failure().unwrap();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.message().contains("4294967295 bytes"), "{error}");
}

#[test]
fn f2_empty_frames_are_nothing() {
    for mut connection in [host(), plugin()] {
        assert_eq!(feed(&mut connection, &[0; 1000]), []);
        assert!(connection.failure().is_none());
    }
}
