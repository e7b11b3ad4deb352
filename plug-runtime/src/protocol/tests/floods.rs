//! F16: frames that do nothing, and peers that take nothing, cost a bounded amount.

use std::time::Instant;

use super::model::{Limits, Shape, streams_hello};
use super::*;
use crate::protocol::FRAGMENT;
use crate::protocol::receive::MAX_IDLE;

fn pair() -> Pair {
    streaming(streams_hello(), streams_hello())
}

/// How many times a side takes `bytes` before it ends the connection for that.
fn taken(connection: &mut Connection, bytes: &[u8]) -> usize {
    for times in 0.. {
        connection.handle_bytes(bytes);
        if let Some(error) = connection.failure() {
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(error.message().contains("a flood of frames that do nothing"), "{error}");
            return times;
        }
        assert!(times < 2 << 20, "it takes them for ever");
    }
    unreachable!()
}

#[test]
fn f16_frames_that_do_nothing_end_the_connection_after_a_megabyte_or_two() {
    let ignorable = Frame { payload: &[7; 1000], ..of_kind(1000) };
    let most = MAX_IDLE as usize / 1024;
    assert_eq!(taken(&mut pair().plugin, &[0; 1024]), most, "empty frames");
    assert!((most..most + 50).contains(&taken(&mut pair().host, &bytes(&[ignorable]))));
    for frame in [of_kind(kind::PING), of_kind(kind::PONG), of_kind(kind::LEVEL)] {
        assert!(taken(&mut pair().plugin, &bytes(&[frame])) > 100_000, "{frame:?}");
    }
    // The base protocol has them as well.
    assert_eq!(taken(&mut plugin(), &[0; 1024]), most);
}

#[test]
fn f16_long_calls_that_are_given_up_before_they_are_sent_are_no_flood() {
    let mut pair = pair();
    let request = vec![7_u8; FRAGMENT - 16];
    let error = Error::of_kind(ErrorKind::Cancelled, "as a test");
    for _ in 0..2 * MAX_IDLE as usize / FRAGMENT {
        let call = pair.host.open(&Opening { method: 1, ..Opening::default() }, Some(&request));
        pair.host.cancel(call.unwrap(), &error, &mut Output::default());
    }
    let sent = output(&mut pair.host);
    assert!(sent.len() as u64 > MAX_IDLE, "void frames are as long as what they were");
    pair.plugin.handle_bytes(&sent);
    assert!(pair.plugin.failure().is_none(), "{:?}", pair.plugin.failure());
    // But there is an end to them, too.
    let void = Frame { payload: &[7; 100], ..of_kind(kind::VOID) };
    assert!((10_000..50_000).contains(&taken(&mut pair.plugin, &bytes(&[void]))));
}

#[test]
fn f16_what_comes_late_for_a_call_is_taken_for_a_while() {
    let mut pair = pair();
    let method = Shape::Unary as u32 + 1;
    say(&mut pair.plugin, &[open(1, method, b"")]);
    pair.plugin.reply(1, response(&text("")));
    output(&mut pair.plugin);
    for frame in [cancel_of(1), credit(1, 9)] {
        let mut other = self::pair().plugin;
        say(&mut other, &[open(1, method, b"")]);
        other.reply(1, response(&text("")));
        assert!(taken(&mut other, &bytes(&[frame])) > 50_000, "{frame:?}");
    }
    assert!(taken(&mut pair.plugin, &bytes(&[part(1, b"late")])) > 50_000);
}

#[test]
fn f16_empty_fragments_are_counted_or_paid_for() {
    // Of a request: counted.
    let mut plugin = pair().plugin;
    say(&mut plugin, &[open_part(1, 1, 9, b"")]);
    assert!(taken(&mut plugin, &bytes(&[part(1, b"")])) > 50_000);

    // Of a stream: each is granted anew once its message is admitted, and counted.
    let method = Shape::Requests as u32 + 1;
    let mut plugin = pair().plugin;
    let open = Frame { kind: kind::OPEN, call: 1, method, ..Frame::default() };
    say(&mut plugin, &[open, Frame { total: 9, ..part(1, b"") }]);
    assert!(taken(&mut plugin, &bytes(&[part(1, b"")])) < 200_000);
}

#[test]
fn f16_empty_messages_that_nobody_reads_are_paid_for() {
    let mut plugin = pair().plugin;
    let method = Shape::Requests as u32 + 1;
    let open = Frame { kind: kind::OPEN, call: 1, method, ..Frame::default() };
    say(&mut plugin, &[open]);
    let empty = bytes(&[item(1, b"")]);
    for times in 0.. {
        plugin.handle_bytes(&empty);
        if plugin.failure().is_some() {
            assert_eq!(times, (512 << 10) / 16);
            break;
        }
    }
}

#[test]
fn a_heartbeat_is_no_flood() {
    let mut pair = pair();
    let start = Instant::now();
    for second in 0..100_000 {
        pair.host.handle_timeout(start + Duration::from_secs(second), &mut Output::default());
        pair.plugin.handle_timeout(start + Duration::from_secs(second), &mut Output::default());
        pair.host.ping(b"eight by").unwrap();
        talk(&mut pair);
    }
    assert_whole(&pair);
}

#[test]
fn calls_pay_for_the_cancels_and_credits_that_come_late_for_them() {
    let mut pair = pair();
    for _ in 0..100_000 {
        let call = pair.host.open(&Shape::Unary.opening(), Some(&text("k"))).unwrap();
        talk(&mut pair);
        pair.plugin.reply(call, response(&text("")));
        pair.host.cancel(call, &Error::new(Code::Cancelled, "late"), &mut Output::default());
        talk(&mut pair);
    }
    assert_whole(&pair);
}

#[test]
fn a_side_that_calls_and_does_not_read_the_answers_is_held_to_the_limit() {
    let limits =
        Limits { max_calls: 8, stream_window: 1000, connection_window: 1000, budget: 1000 };
    for shape in [Shape::Unary, Shape::Responses, Shape::Requests] {
        let mut plugin = streaming(limits.hello(), limits.hello()).plugin;
        let method = shape as u32 + 1;
        for call in (1..).step_by(2) {
            say(&mut plugin, &[open(call, method, b"")]);
            if shape.has_responses() {
                plugin.begin_responses(call);
                plugin.send(call, &[7; 400]).unwrap();
                plugin.finish(call, Ok(()));
            } else {
                plugin.reply(call, response(&blob(1000, 1)));
            }
            if let Some(error) = plugin.failure() {
                assert!(error.message().contains("more than 8 calls at once"), "{error}");
                assert_eq!(call, 17, "{shape:?}");
                break;
            }
        }
    }
}

#[test]
fn a_side_that_pings_and_does_not_read_the_pongs_is_held_to_the_limit() {
    let mut plugin = pair().plugin;
    let start = Instant::now();
    let pings = bytes(&[Frame { payload: &[7; 64], ..of_kind(kind::PING) }; 1000]);
    for second in 0.. {
        plugin.handle_timeout(start + Duration::from_secs(second), &mut Output::default());
        plugin.handle_bytes(&pings);
        if plugin.failure().is_some() {
            break;
        }
        assert!(plugin.queued() < 2 * MAX_IDLE as usize, "{} bytes wait", plugin.queued());
    }
}

/// Nothing else bounds what a side holds for one that begins long messages and does not end them.
#[test]
fn f16_long_messages_that_begin_without_leave_are_bounded_all_together() {
    let long = vec![7; FRAGMENT];
    let total = 2 * FRAGMENT as u64;
    let plugin = || {
        let mut plugin = Pair::greeted(host_hello(), kv_hello()).plugin;
        assert!(!plugin.features().credit);
        plugin.budget = crate::protocol::flow::Budget::new(3 * FRAGMENT as u64);
        plugin
    };

    let mut greedy = plugin();
    say(&mut greedy, &[open_part(1, 1, total, &long), open_part(3, 1, total, &long)]);
    let error = greedy.failure().expect("two have begun, and there is memory for one");
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.message().contains("one after the other"), "{error}");

    let mut modest = plugin();
    let requests = [
        open_part(1, 1, total, &long),
        last_part(1, &long),
        open_part(3, 1, 4 * FRAGMENT as u64, &long),
    ];
    say(&mut modest, &requests);
    assert!(
        modest.failure().is_none(),
        "one, and then one that is larger than all memory for them"
    );
}
