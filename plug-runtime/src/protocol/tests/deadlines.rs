//! Deadlines, with a clock that the tests turn.

use std::time::Instant;

use super::model::{Shape, streams_hello};
use super::*;
use crate::protocol::FRAGMENT;

fn pair() -> Pair {
    streaming(streams_hello(), streams_hello())
}

const MS: Duration = Duration::from_millis(1);

/// Opens a call that has `left` from `now` on.
fn open_until(pair: &mut Pair, now: Instant, left: Duration, len: usize) -> u64 {
    let opening = Opening { deadline: Some((now + left, now)), ..Shape::Unary.opening() };
    pair.host.open(&opening, Some(&blob(len, 1))).unwrap()
}

fn timed_out(call: u64, delivery: Delivery) -> Seen {
    let (kind, code) = (ErrorKind::Deadline, Code::DeadlineExceeded);
    Seen::Failure { call, kind, code, delivery, text: "the call did not end in time".into() }
}

fn timeout_of(pair: &mut Pair) -> Option<Duration> {
    let said = output(&mut pair.host);
    pair.plugin.handle_bytes(&said);
    match pair.plugin.poll_event() {
        Some(Event::Request(request)) => request.extra.and_then(|extra| extra.timeout),
        other => panic!("{other:?} instead of a request"),
    }
}

#[test]
fn the_time_that_is_left_travels_with_the_call() {
    let mut pair = pair();
    let now = Instant::now();
    for (left, told) in [
        (1500 * MS, 1500 * MS),
        (Duration::from_nanos(1_999), Duration::from_micros(1)),
        (Duration::ZERO, Duration::from_micros(1)),
    ] {
        open_until(&mut pair, now, left, 1);
        assert_eq!(timeout_of(&mut pair), Some(told), "nothing left is not no limit");
    }
    pair.host.open(&Shape::Unary.opening(), Some(&text("k"))).unwrap();
    assert_eq!(timeout_of(&mut pair), None);
}

#[test]
fn a_side_that_does_not_list_the_feature_is_told_nothing_and_the_call_ends_in_time() {
    let mut pair = Pair::greeted(streams_hello(), kv_hello());
    let now = Instant::now();
    let call = open_until(&mut pair, now, 5 * MS, 1);
    assert_eq!(timeout_of(&mut pair), None);
    pair.host.handle_timeout(now + 5 * MS, &mut Output::default());
    assert_eq!(seen(&mut pair.host), [timed_out(call, Delivery::MayHaveRun)]);
    assert!(!pair.host.has_output(), "nor does it know of cancels");
}

#[test]
fn calls_end_at_their_deadlines_and_not_before() {
    let mut pair = pair();
    let now = Instant::now();
    let late = open_until(&mut pair, now, 9 * MS, 1);
    let early = open_until(&mut pair, now, 3 * MS, 1);
    let never = pair.host.open(&Shape::Unary.opening(), Some(&text("k"))).unwrap();
    talk(&mut pair);
    assert_eq!(pair.host.poll_timeout(), Some(now + 3 * MS));
    pair.host.handle_timeout(now + 3 * MS - Duration::from_nanos(1), &mut Output::default());
    assert_eq!(seen(&mut pair.host), []);
    pair.host.handle_timeout(now + 3 * MS, &mut Output::default());
    assert_eq!(seen(&mut pair.host), [timed_out(early, Delivery::MayHaveRun)]);
    assert_eq!(frames(&output(&mut pair.host)), [cancel_of(early)]);
    assert_eq!(pair.host.poll_timeout(), Some(now + 9 * MS));
    // The clock jumps.
    pair.host.handle_timeout(now + 1_000_000 * MS, &mut Output::default());
    assert_eq!(seen(&mut pair.host), [timed_out(late, Delivery::MayHaveRun)]);
    assert_eq!(pair.host.poll_timeout(), None);
    pair.plugin.reply(never, response(&text("still")));
    assert_eq!(pair.plugin_speaks(), [Seen::response(never, b"still")]);
}

#[test]
fn c6_a_call_whose_deadline_passes_while_it_is_queued_is_not_sent() {
    let mut pair = pair();
    let now = Instant::now();
    let first = open_until(&mut pair, now, 100 * MS, 1);
    let mut taken = Vec::new();
    pair.host.poll_bytes(&mut taken);
    let in_taken = open_until(&mut pair, now, MS, 1);
    taken.extend(output_of_one(&mut pair.host));
    let queued = open_until(&mut pair, now, 2 * MS, 3 * FRAGMENT);
    let mut left = Output::from(taken);
    pair.host.handle_timeout(now + 2 * MS, &mut left);
    let mut taken = left.to_vec();
    let expected = [in_taken, queued].map(|call| timed_out(call, Delivery::NotSent));
    assert_eq!(seen(&mut pair.host), expected);
    pair.host.handle_written(taken.len());
    taken.extend(output(&mut pair.host));
    assert_eq!(feed(&mut pair.plugin, &taken), [Seen::request(first, 1, &blob(1, 1).0)]);
    pair.plugin.reply(first, response(&text("")));
    talk(&mut pair);
    assert_whole(&pair);
}

/// What would be taken next, and is not written yet.
fn output_of_one(connection: &mut Connection) -> Vec<u8> {
    let mut some = Vec::new();
    connection.poll_bytes(&mut some);
    some
}

#[test]
fn a_callee_whose_clock_is_faster_ends_the_call_as_the_callers_would() {
    let mut pair = pair();
    let now = Instant::now();
    let call = open_until(&mut pair, now, 5 * MS, 1);
    talk(&mut pair);
    pair.plugin.reply(call, failed(Code::DeadlineExceeded, "the call did not end in time"));
    assert_eq!(pair.plugin_speaks(), [timed_out(call, Delivery::MayHaveRun)]);
    assert_eq!(pair.host.poll_timeout(), None);

    // For a call without one, it is an error like others.
    let call = pair.host.open(&Shape::Unary.opening(), Some(&text("k"))).unwrap();
    talk(&mut pair);
    pair.plugin.reply(call, failed(Code::DeadlineExceeded, "of its own"));
    let status = Seen::status(call, Code::DeadlineExceeded, Delivery::MayHaveRun, "of its own");
    assert_eq!(pair.plugin_speaks(), [status]);
}

#[test]
fn a_deadline_ends_a_stream_with_what_came_before() {
    let mut pair = pair();
    let now = Instant::now();
    let opening = Opening { deadline: Some((now + MS, now)), ..Shape::Both.opening() };
    let call = pair.host.open(&opening, None::<&Blob>).unwrap();
    talk(&mut pair);
    pair.plugin.begin_responses(call);
    pair.plugin.send(call, b"before").unwrap();
    let bytes = output(&mut pair.plugin);
    pair.host.handle_bytes(&bytes);
    pair.host.handle_timeout(now + MS, &mut Output::default());
    pair.plugin.send(call, b"after").unwrap();
    let bytes = output(&mut pair.plugin);
    pair.host.handle_bytes(&bytes);
    let expected = [Seen::message(call, b"before"), timed_out(call, Delivery::MayHaveRun)];
    assert_eq!(read(&mut pair.host), expected);
    talk(&mut pair);
    pair.plugin.finish(call, Ok(()));
    talk(&mut pair);
    assert_whole(&pair);
}

#[test]
fn a_call_that_ended_or_was_given_up_has_no_deadline_any_more() {
    let mut pair = pair();
    let now = Instant::now();
    let ended = open_until(&mut pair, now, MS, 1);
    let given_up = open_until(&mut pair, now, MS, 1);
    let lost = open_until(&mut pair, now, MS, 1);
    talk(&mut pair);
    pair.plugin.reply(ended, response(&text("")));
    pair.host.cancel(given_up, &Error::of_kind(ErrorKind::Cancelled, "no"), &mut Output::default());
    talk(&mut pair);
    pair.host.handle_timeout(now + MS, &mut Output::default());
    assert_eq!(seen(&mut pair.host), [timed_out(lost, Delivery::MayHaveRun)]);
    pair.host.close(&Error::of_kind(ErrorKind::Exited, "gone"));
    assert_eq!(pair.host.poll_timeout(), None);
    assert_eq!(seen(&mut pair.host), []);
}
