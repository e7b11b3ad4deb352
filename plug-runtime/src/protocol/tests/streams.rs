//! Streams of requests and of responses: order, ends, errors, and messages of every size.

use super::model::{Limits, Shape, streams_hello};
use super::*;
use crate::protocol::{FRAGMENT, STREAM_WINDOW};

fn pair() -> Pair {
    streaming(streams_hello(), streams_hello())
}

fn open_stream(pair: &mut Pair, shape: Shape) -> u64 {
    let request = (!shape.has_requests()).then(|| text("go"));
    let call = pair.host.open(&shape.opening(), request.as_ref()).unwrap();
    let message: &[u8] = if shape.has_requests() { b"" } else { b"go" };
    assert_eq!(talk(pair).1, [Seen::request(call, shape as u32 + 1, message)]);
    call
}

fn ended(call: u64) -> Seen {
    Seen::RequestsEnded { call, result: Ok(()) }
}

#[test]
fn responses_arrive_in_order_and_then_the_end() {
    let mut pair = pair();
    let call = open_stream(&mut pair, Shape::Responses);
    pair.plugin.begin_responses(call);
    for message in ["one", "", "three"] {
        assert!(pair.plugin.send(call, message.as_bytes()).unwrap());
    }
    pair.plugin.finish(call, Ok(()));
    let (host, _) = talk(&mut pair);
    let messages = [b"one".as_slice(), b"", b"three"].map(|m| Seen::message(call, m));
    assert_eq!(host, [&messages[..], &[Seen::response(call, b"")]].concat());
    assert_whole(&pair);
}

#[test]
fn a_stream_that_fails_delivers_what_came_before_then_the_error_then_nothing() {
    for early in [true, false] {
        let mut pair = pair();
        let call = open_stream(&mut pair, Shape::Responses);
        let error = || Error::new(Code::DataLoss, "the disk is gone");
        let mut expected = Vec::new();
        if early {
            pair.plugin.finish(call, Err(error()));
        } else {
            pair.plugin.begin_responses(call);
            // More than goes out at once, so that some of it waits when the stream ends.
            for seed in 0..9 {
                pair.plugin.send(call, &blob(200_000, seed).0).unwrap();
                expected.push(Seen::message(call, &blob(200_000, seed).0));
            }
            pair.plugin.finish(call, Err(error()));
            assert!(pair.plugin.send(call, b"too late").unwrap(), "nobody is to wait for room");
        }
        expected.push(Seen::status(call, Code::DataLoss, Delivery::MayHaveRun, "the disk is gone"));
        assert_eq!(talk(&mut pair).0, expected);
        assert_whole(&pair);
    }
}

#[test]
fn requests_begin_with_an_empty_open_and_end_with_a_half_close_which_cost_nothing() {
    let mut pair = pair();
    let call = pair.host.open(&Shape::Requests.opening(), None::<&Blob>).unwrap();
    pair.host.end_requests(call);
    pair.host.end_requests(call);
    let said = output(&mut pair.host);
    let method = Shape::Requests as u32 + 1;
    let open = Frame { kind: kind::OPEN, call, method, ..Frame::default() };
    assert_eq!(frames(&said), [open, half_close(call)]);
    assert_eq!(feed(&mut pair.plugin, &said), [Seen::request(call, method, b""), ended(call)]);
    pair.plugin.reply(call, response(&text("none")));
    assert_eq!(talk(&mut pair).0, [Seen::response(call, b"none")]);
    assert_eq!(pair.host.outbox.allowance().1, 0, "no message was sent");
    assert_whole(&pair);
}

#[test]
fn requests_may_begin_and_end_in_the_open_frame() {
    let mut pair = pair();
    let method = Shape::Requests as u32 + 1;
    let both = open(1, method, b"only");
    let seen = say(&mut pair.plugin, &[both]);
    assert_eq!(seen, [Seen::request(1, method, b""), Seen::message(1, b"only"), ended(1)]);
}

#[test]
fn both_sides_stream_at_once() {
    let mut pair = pair();
    let call = open_stream(&mut pair, Shape::Both);
    pair.plugin.begin_responses(call);
    for round in 0..100 {
        assert!(pair.host.send(call, &blob(30_000, round).0).unwrap());
        assert!(pair.plugin.send(call, &blob(30_000, round ^ 255).0).unwrap());
        let (host, plugin) = talk(&mut pair);
        let of = |seen: &[Seen]| seen.iter().filter(|s| matches!(s, Seen::Message { .. })).count();
        assert_eq!((of(&host), of(&plugin)), (1, 1), "round {round}");
    }
    pair.host.end_requests(call);
    assert_eq!(talk(&mut pair).1, [ended(call)]);
    pair.plugin.finish(call, Ok(()));
    assert_eq!(talk(&mut pair).0, [Seen::response(call, b"")]);
    assert_whole(&pair);
}

#[test]
fn a_call_that_is_answered_before_its_requests_end_is_half_closed_by_its_caller() {
    for waits in [false, true] {
        let mut pair = pair();
        let call = open_stream(&mut pair, Shape::Requests);
        // Some of it is on its way, and some waits for credit that nobody will grant, with the end behind it.
        for seed in 0..if waits { 4 } else { 1 } {
            pair.host.send(call, &blob(200_000, seed).0).unwrap();
        }
        if waits {
            pair.host.end_requests(call);
        }
        let on_its_way = output(&mut pair.host);
        pair.plugin.reply(call, response(&text("enough")));
        assert_eq!(pair.plugin.calls_served(), 0, "nobody works on it");
        assert_eq!(pair.plugin.served.len(), 1, "but what is on its way must be counted");
        assert_eq!(feed(&mut pair.plugin, &on_its_way), [], "for nobody");
        let (host, _) = talk(&mut pair);
        assert_eq!(host.last(), Some(&Seen::response(call, b"enough")));
        assert_whole(&pair);
    }
}

#[test]
fn a_handler_that_drops_its_requests_lets_the_rest_pass() {
    let mut pair = pair();
    let call = open_stream(&mut pair, Shape::Requests);
    pair.host.send(call, b"first").unwrap();
    // The first fragment of a long one has come when the handler loses interest.
    pair.host.send(call, &blob(400_000, 1).0).unwrap();
    let mut some = Vec::new();
    pair.host.poll_bytes(&mut some);
    pair.host.handle_written(some.len());
    pair.plugin.handle_bytes(&some);
    read(&mut pair.plugin);
    pair.plugin.discard(call);
    pair.host.end_requests(call);
    talk(&mut pair);
    pair.plugin.reply(call, response(&text("done")));
    talk(&mut pair);
    assert_whole(&pair);
}

#[test]
fn messages_of_every_size_arrive_whole() {
    let window = STREAM_WINDOW as usize;
    let mut pair = pair();
    for len in [0, 1, FRAGMENT - 17, FRAGMENT - 16, FRAGMENT - 15, FRAGMENT, FRAGMENT + 1]
        .into_iter()
        .chain([window - 16, window, window + 1, 5 * window])
    {
        let call = open_stream(&mut pair, Shape::Both);
        pair.plugin.begin_responses(call);
        // The second finds less of the window.
        for seed in [1, 2] {
            pair.host.send(call, &blob(len, seed).0).unwrap();
            pair.plugin.send(call, &blob(len, seed).0).unwrap();
        }
        pair.host.end_requests(call);
        let (host, plugin) = talk(&mut pair);
        let expected = [1, 2].map(|seed| Seen::message(call, &blob(len, seed).0));
        let messages = |seen: Vec<Seen>| -> Vec<Seen> {
            seen.into_iter().filter(|seen| matches!(seen, Seen::Message { .. })).collect()
        };
        assert!(messages(host) == expected && messages(plugin) == expected, "{len}");
        pair.plugin.finish(call, Ok(()));
        talk(&mut pair);
        assert_whole(&pair);
    }
}

#[test]
fn what_fits_into_one_frame_waits_until_it_can_be_sent_in_one() {
    let limits = Limits { max_calls: 9, stream_window: 100, connection_window: 100, budget: 9 };
    let mut pair = streaming(limits.hello(), limits.hello());
    let call = open_stream(&mut pair, Shape::Requests);
    // 60 of 100 are used up; 34 and 16 more do not fit until half of the window is granted again.
    assert!(pair.host.send(call, &[1; 44]).unwrap());
    assert!(!pair.host.send(call, &[2; 34]).unwrap());
    let said = output(&mut pair.host);
    assert_eq!(frames(&said), [item(call, &[1; 44])]);
    pair.plugin.handle_bytes(&said);
    read(&mut pair.plugin);
    pair.plugin_speaks();
    assert_eq!(frames(&output(&mut pair.host)), [item(call, &[2; 34])]);
}

#[test]
fn many_streams_with_messages_of_a_fraction_of_the_window_do_not_get_stuck() {
    // Parts of all of them together would be more than the window of the connection.
    let limits =
        Limits { max_calls: 400, stream_window: 1000, connection_window: 4000, budget: 1000 };
    let mut pair = streaming(limits.hello(), limits.hello());
    let calls: Vec<u64> = (0..300).map(|_| open_stream(&mut pair, Shape::Requests)).collect();
    let mut left: Vec<(u64, usize)> = calls.iter().map(|&call| (call, 10)).collect();
    let mut arrived = 0;
    let mut free = calls.clone();
    while arrived < 3000 {
        for call in std::mem::take(&mut free) {
            let (_, left) = left.iter_mut().find(|(of, _)| *of == call).unwrap();
            while *left > 0 {
                *left -= 1;
                if !pair.host.send(call, &[7; 390]).unwrap() {
                    break;
                }
            }
        }
        let (host, plugin) = talk(&mut pair);
        let messages = plugin.iter().filter(|seen| matches!(seen, Seen::Message { .. })).count();
        assert!(messages > 0, "stuck after {arrived}");
        arrived += messages;
        free.extend(host.iter().filter_map(|seen| match seen {
            Seen::Room { call } => Some(*call),
            _ => None,
        }));
    }
}

#[test]
fn c2_a_consumer_that_stops_stops_its_producer_within_the_window_and_nobody_else() {
    let mut pair = pair();
    let stopped = open_stream(&mut pair, Shape::Responses);
    let other = open_stream(&mut pair, Shape::Responses);
    pair.plugin.begin_responses(stopped);
    pair.plugin.begin_responses(other);
    let mut sent = 0;
    while pair.plugin.send(stopped, &[7; 1000]).unwrap() {
        sent += 1000;
        let bytes = output(&mut pair.plugin);
        pair.host.handle_bytes(&bytes);
        assert!(sent <= STREAM_WINDOW, "{sent} bytes were taken");
    }
    assert!(sent > STREAM_WINDOW - 20_000, "{sent}");
    // Nobody reads those; what the others bring is read at once.
    let mut unread = Vec::new();
    while let Some(event) = pair.host.poll_event() {
        if let Event::Messages { call, cost, .. } = event {
            unread.push((call, cost));
        }
    }
    for round in 0..100 {
        assert!(pair.plugin.send(other, &[8; 10_000]).unwrap(), "round {round}");
        assert_eq!(talk(&mut pair).0, [Seen::message(other, &[8; 10_000])]);
    }
    for (call, cost) in unread {
        pair.host.consume(call, cost);
    }
    let (host, plugin) = talk(&mut pair);
    assert_eq!(host, [Seen::message(stopped, &[7; 1000])], "what had waited");
    assert_eq!(plugin, [Seen::Room { call: stopped }]);
}

#[test]
fn c2_consumers_that_stop_on_nearly_all_of_the_connection_do_not_stop_the_rest() {
    let limits =
        Limits { max_calls: 40, stream_window: 1000, connection_window: 10_000, budget: 1000 };
    let mut pair = streaming(limits.hello(), limits.hello());
    let calls: Vec<u64> = (0..10).map(|_| open_stream(&mut pair, Shape::Requests)).collect();
    for &call in &calls[..9] {
        while pair.host.send(call, &[7; 84]).unwrap() {}
        let bytes = output(&mut pair.host);
        pair.plugin.handle_bytes(&bytes);
    }
    while let Some(event) = pair.plugin.poll_event() {
        assert!(matches!(event, Event::Messages { .. }), "read by nobody: {event:?}");
    }
    for round in 0..1000 {
        assert!(pair.host.send(calls[9], &[8; 400]).unwrap(), "round {round}");
        assert_eq!(talk(&mut pair).1, [Seen::message(calls[9], &[8; 400])], "round {round}");
    }
}

#[test]
fn c7_dropping_streams_half_way_a_hundred_thousand_times_leaves_the_windows_whole() {
    let limits =
        Limits { max_calls: 4, stream_window: 1000, connection_window: 2000, budget: 5000 };
    let mut pair = streaming(limits.hello(), limits.hello());
    let mut bytes = Vec::new();
    for round in 0..100_000 {
        let shape = if round % 2 == 0 { Shape::Both } else { Shape::Responses };
        let request = (!shape.has_requests()).then(Blob::default);
        let call = pair.host.open(&shape.opening(), request.as_ref()).unwrap();
        if shape.has_requests() {
            pair.host.send(call, &[1; 300]).unwrap();
            pair.host.send(call, &[2; 700]).unwrap();
        }
        bytes.append(&mut output(&mut pair.host));
        pair.plugin.handle_bytes(&bytes);
        bytes.clear();
        pair.plugin.begin_responses(call);
        pair.plugin.send(call, &vec![3; 100 + round % 300]).unwrap();
        pair.plugin.send(call, &[4; 2000]).unwrap();
        // Sometimes the caller has some of it, sometimes not.
        if round % 3 > 0 {
            let some = output(&mut pair.plugin);
            pair.host.handle_bytes(&some);
        }
        pair.host.cancel(call, &Error::new(Code::Cancelled, "dropped"), &mut Output::default());
        if round % 5 > 0 {
            talk(&mut pair);
        }
        pair.plugin.finish(call, Ok(()));
        talk(&mut pair);
        if round % 1000 == 0 {
            assert_whole(&pair);
        }
    }
    assert_whole(&pair);
}

#[test]
fn m4_large_messages_over_the_budget_all_arrive_in_both_directions_first_come_first_served() {
    for shape in [Shape::Unary, Shape::Both] {
        let mut pair = pair();
        for connection in [&mut pair.host, &mut pair.plugin] {
            connection.budget = crate::protocol::flow::Budget::new(1 << 20);
            connection.stream_budget = crate::protocol::flow::Budget::new(1 << 20);
        }
        let len = 700 << 10;
        let mut calls = Vec::new();
        let streams: Vec<u64> = match shape {
            Shape::Unary => Vec::new(),
            _ => (0..6).map(|_| open_stream(&mut pair, shape)).collect(),
        };
        for seed in 0..6 {
            if shape == Shape::Unary {
                calls.push(pair.host.open(&shape.opening(), Some(&blob(len, seed))).unwrap());
                calls.push(pair.plugin.open(&shape.opening(), Some(&blob(len, seed))).unwrap());
            } else {
                let call = streams[usize::from(seed)];
                pair.plugin.begin_responses(call);
                pair.host.send(call, &blob(len, seed).0).unwrap();
                pair.plugin.send(call, &blob(len, seed).0).unwrap();
                calls.push(call);
            }
        }
        let (host, plugin) = talk(&mut pair);
        for (seen, is_host) in [(host, true), (plugin, false)] {
            let order: Vec<u64> = seen
                .iter()
                .filter_map(|seen| match seen {
                    Seen::Request { call, .. } => Some(*call),
                    Seen::Message { call, message } if message.0.len() == len => Some(*call),
                    _ => None,
                })
                .collect();
            let expected: Vec<u64> = calls
                .iter()
                .copied()
                .filter(|call| shape != Shape::Unary || (call % 2 == 0) == is_host)
                .collect();
            assert_eq!(order, expected, "{shape:?}");
        }
    }
}

#[test]
fn a_message_of_a_stream_over_the_limit_is_refused_and_the_stream_goes_on() {
    let limited = Hello { max_message: 100, ..streams_hello() };
    let mut pair = streaming(streams_hello(), limited);
    let call = open_stream(&mut pair, Shape::Requests);
    let error = pair.host.send(call, &[7; 101]).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::TooLarge, Delivery::NotSent));
    pair.host.send(call, &[7; 100]).unwrap();
    assert_eq!(talk(&mut pair).1, [Seen::message(call, &[7; 100])]);
}

#[test]
fn c3_small_calls_and_cancels_pass_a_stream_without_end() {
    let mut pair = pair();
    let stream = open_stream(&mut pair, Shape::Requests);
    for seed in 0..2 {
        pair.host.send(stream, &blob(200_000, seed).0).unwrap();
    }
    // What is taken cannot be overtaken; the rest can.
    let mut taken = Vec::new();
    pair.host.poll_bytes(&mut taken);
    pair.host.send(stream, &blob(200_000, 2).0).unwrap();
    let unary = pair.host.open(&Shape::Unary.opening(), Some(&text("quick"))).unwrap();
    pair.host.ping(b"1").unwrap();
    let mut next = Vec::new();
    pair.host.poll_bytes(&mut next);
    let kinds = outline(&frames(&next));
    assert_eq!(kinds[..2], [(kind::OPEN, unary), (kind::PING, 0)], "{kinds:?}");
}

#[test]
fn a_goodbye_lets_streams_go_on_to_their_end() {
    let mut pair = pair();
    let call = open_stream(&mut pair, Shape::Both);
    pair.plugin.begin_responses(call);
    pair.host.goodbye(Duration::ZERO);
    pair.host.send(call, b"after").unwrap();
    pair.plugin.send(call, b"all").unwrap();
    pair.host.end_requests(call);
    let (host, plugin) = talk(&mut pair);
    assert_eq!(host, [Seen::message(call, b"all")]);
    let goodbye = Seen::Goodbye { grace: None };
    assert_eq!(plugin, [goodbye, Seen::message(call, b"after"), ended(call)]);
    pair.plugin.finish(call, Ok(()));
    assert_eq!(talk(&mut pair).0, [Seen::response(call, b"")]);
    assert_whole(&pair);
}

#[test]
fn a_stream_that_crosses_a_goodbye_is_refused_and_counted_to_its_end() {
    let mut pair = pair();
    pair.plugin.goodbye(Duration::ZERO);
    let call = pair.host.open(&Shape::Requests.opening(), None::<&Blob>).unwrap();
    pair.host.send(call, &[7; 1000]).unwrap();
    let bytes = output(&mut pair.host);
    assert_eq!(feed(&mut pair.plugin, &bytes), [], "no handler hears of it");
    let (host, _) = talk(&mut pair);
    let Seen::Failure { code: Code::Unavailable, delivery: Delivery::NotSent, .. } = host[1] else {
        panic!("{host:?}")
    };
    assert_whole(&pair);
}

#[test]
fn f4_the_end_of_input_ends_requests_with_an_error_and_the_handler_learns_of_it() {
    for goodbye in [false, true] {
        let mut pair = pair();
        let call = open_stream(&mut pair, Shape::Requests);
        if goodbye {
            pair.host.goodbye(Duration::ZERO);
            talk(&mut pair);
        }
        pair.plugin.handle_eof();
        let events = seen(&mut pair.plugin);
        let result = Err(Code::Unavailable);
        assert_eq!(events[0], Seen::RequestsEnded { call, result });
        // Without a goodbye there is nobody left to answer.
        assert_eq!(events.contains(&Seen::Cancelled { call }), !goodbye, "{events:?}");
        assert_eq!(pair.plugin.calls_served(), usize::from(goodbye));
    }
}

#[test]
fn c17_handlers_learn_when_the_connection_is_lost() {
    let mut pair = pair();
    let streams = open_stream(&mut pair, Shape::Both);
    let unary = pair.host.open(&Shape::Unary.opening(), Some(&text("k"))).unwrap();
    talk(&mut pair);
    pair.plugin.begin_responses(streams);
    pair.plugin.send(streams, &[7; 2000]).unwrap();
    pair.plugin.close(&Error::of_kind(ErrorKind::Exited, "the host is gone"));
    let events = seen(&mut pair.plugin);
    assert!(matches!(events[0], Seen::RequestsEnded { call, result: Err(_) } if call == streams));
    let cancelled = [streams, unary].map(|call| Seen::Cancelled { call });
    assert_eq!(events[1..], cancelled);
    assert!(!pair.plugin.can_send(streams));
}
