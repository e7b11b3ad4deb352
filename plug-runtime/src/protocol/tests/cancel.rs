//! Calls that are given up, at every moment of their lives.

use super::model::{Shape, streams_hello};
use super::*;
use crate::protocol::FRAGMENT;

fn pair() -> Pair {
    streaming(streams_hello(), streams_hello())
}

const UNARY: u32 = Shape::Unary as u32 + 1;

fn give_up(connection: &mut Connection, call: u64, taken: &mut Vec<u8>) {
    let mut output = Output::from(std::mem::take(taken));
    connection.cancel(call, &Error::of_kind(ErrorKind::Cancelled, "not wanted"), &mut output);
    *taken = output.to_vec();
}

fn given_up(call: u64, delivery: Delivery) -> Seen {
    let (kind, code) = (ErrorKind::Cancelled, Code::Cancelled);
    Seen::Failure { call, kind, code, delivery, text: "not wanted".into() }
}

/// Opens a call that sends `len` bytes.
fn open_call(pair: &mut Pair, len: usize) -> u64 {
    pair.host.open(&Shape::Unary.opening(), Some(&blob(len, 1))).unwrap()
}

#[test]
fn c4_a_call_that_is_queued_is_not_sent_and_the_others_are() {
    let mut pair = pair();
    let calls: Vec<u64> = (0..3).map(|_| open_call(&mut pair, 9)).collect();
    give_up(&mut pair.host, calls[1], &mut Vec::new());
    give_up(&mut pair.host, calls[1], &mut Vec::new());
    assert_eq!(seen(&mut pair.host), [given_up(calls[1], Delivery::NotSent)]);
    let said = output(&mut pair.host);
    let others = [calls[0], calls[2]];
    assert_eq!(
        feed(&mut pair.plugin, &said),
        others.map(|c| Seen::request(c, UNARY, &blob(9, 1).0))
    );
    assert!(
        !outline(&frames(&said)).contains(&(kind::CANCEL, calls[1])),
        "there is nothing to cancel"
    );
    for call in others {
        pair.plugin.reply(call, response(&text("")));
    }
    talk(&mut pair);
    assert_whole(&pair);
}

#[test]
fn c6_a_call_is_not_sent_iff_none_of_it_is_out_of_reach() {
    // What the operating system has of the call, whether a write is under way, and whether the driver reaches what it
    // has taken.
    for (written, writing, reaches, is_sent) in [
        (0, false, true, false),
        (0, false, false, true),
        (0, true, false, true),
        (1, false, true, true),
        (5, false, true, true),
        (usize::MAX, false, true, true),
    ] {
        let mut pair = pair();
        let before = open_call(&mut pair, 9);
        let call = open_call(&mut pair, 9);
        let behind = open_call(&mut pair, 9);
        let mut taken = Vec::new();
        pair.host.poll_bytes(&mut taken);
        let begin = bytes(&frames(&taken)[..1]).len();
        let len = bytes(&frames(&taken)[1..2]).len();
        let mut sent: Vec<u8> = taken.drain(..begin + written.min(len)).collect();
        pair.host.handle_written(sent.len());
        if writing {
            pair.host.handle_writing(taken.len());
        }
        let out_of_reach = &mut Vec::new();
        give_up(&mut pair.host, call, if reaches { &mut taken } else { out_of_reach });
        let delivery = if is_sent { Delivery::MayHaveRun } else { Delivery::NotSent };
        assert_eq!(seen(&mut pair.host), [given_up(call, delivery)], "{written} {writing}");
        pair.host.handle_writing(0);
        pair.host.handle_written(taken.len());
        sent.extend(taken);
        sent.extend(output(&mut pair.host));
        let all = feed(&mut pair.plugin, &sent);
        assert!(pair.plugin.failure().is_none(), "{:?}", pair.plugin.failure());
        assert_eq!(all.contains(&Seen::request(call, UNARY, &blob(9, 1).0)), is_sent);
        assert_eq!(all.contains(&Seen::Cancelled { call }), is_sent);
        for call in [before, call, behind] {
            pair.plugin.reply(call, response(&text("")));
        }
        talk(&mut pair);
        assert_whole(&pair);
    }
}

#[test]
fn c6_a_call_of_which_more_than_the_first_frame_is_queued_is_cancelled_and_not_made_void() {
    // A long request whose second fragment is queued as well, and a stream with a message, or with its end.
    for which in 0..3 {
        // With credit, the second fragment waits for the other side to have read the first.
        let mut simple = streams_hello();
        simple.features.retain(|feature| feature != "credit" || which > 0);
        let mut pair = streaming(streams_hello(), simple);
        let mut taken = Vec::new();
        let call = match which {
            0 => {
                let call = open_call(&mut pair, FRAGMENT + 1000);
                pair.host.poll_bytes(&mut taken);
                while pair.host.has_output() {
                    let mut more = Vec::new();
                    pair.host.poll_bytes(&mut more);
                    taken.append(&mut more);
                }
                call
            }
            _ => {
                let call = pair.host.open(&Shape::Requests.opening(), None::<&Blob>).unwrap();
                if which == 1 {
                    pair.host.send(call, b"first").unwrap();
                } else {
                    pair.host.end_requests(call);
                }
                pair.host.poll_bytes(&mut taken);
                call
            }
        };
        give_up(&mut pair.host, call, &mut taken);
        pair.plugin.handle_bytes(&taken);
        pair.host.handle_written(taken.len());
        let (_, plugin) = talk(&mut pair);
        assert!(pair.plugin.failure().is_none(), "{which}: {:?}", pair.plugin.failure());
        for seen in plugin {
            if let Seen::Request { call, .. } = seen {
                pair.plugin.reply(call, response(&text("")));
            }
        }
        talk(&mut pair);
        assert_whole(&pair);
    }
}

#[test]
fn c4_a_request_that_is_half_sent_goes_no_further_and_is_never_handled() {
    let mut pair = pair();
    let call = open_call(&mut pair, 5 * FRAGMENT);
    let mut some = Vec::new();
    pair.host.poll_bytes(&mut some);
    pair.host.handle_written(some.len());
    pair.plugin.handle_bytes(&some);
    give_up(&mut pair.host, call, &mut Vec::new());
    assert_eq!(seen(&mut pair.host), [given_up(call, Delivery::NotSent)], "it is never whole");
    let said = output(&mut pair.host);
    assert_eq!(frames(&said), [cancel_of(call)]);
    assert_eq!(feed(&mut pair.plugin, &said), [], "no handler hears of it");
    assert_eq!(pair.plugin_speaks(), [Seen::Freed]);
    assert_whole(&pair);
}

#[test]
fn c4_a_call_that_runs_counts_until_its_handler_has_answered() {
    let limited = Hello { max_calls: 1, ..streams_hello() };
    let mut pair = streaming(streams_hello(), limited);
    let call = open_call(&mut pair, 9);
    talk(&mut pair);
    give_up(&mut pair.host, call, &mut Vec::new());
    let outcome = given_up(call, Delivery::MayHaveRun);
    assert_eq!(talk(&mut pair), (vec![outcome], vec![Seen::Cancelled { call }]));
    assert!(!pair.host.can_open(), "the plugin still works on it");
    assert!(!pair.host.is_wanted(call));
    pair.plugin.reply(call, response(&text("for nobody")));
    assert_eq!(talk(&mut pair).0, [Seen::Freed]);
    assert!(pair.host.can_open());
    assert_whole(&pair);
}

#[test]
fn c4_a_cancel_that_crosses_the_reply_is_ignored() {
    let mut pair = pair();
    let call = open_call(&mut pair, 9);
    talk(&mut pair);
    pair.plugin.reply(call, response(&text("in time")));
    give_up(&mut pair.host, call, &mut Vec::new());
    assert_eq!(seen(&mut pair.host), [given_up(call, Delivery::MayHaveRun)]);
    let reply = output(&mut pair.plugin);
    assert_eq!(pair.host_speaks(), [], "no handler is left");
    assert_eq!(feed(&mut pair.host, &reply), [Seen::Freed], "and only one outcome");
    assert_whole(&pair);
}

#[test]
fn c4_a_cancel_after_the_reply_does_nothing() {
    let mut pair = pair();
    let call = open_call(&mut pair, 9);
    talk(&mut pair);
    pair.plugin.reply(call, response(&text("in time")));
    assert_eq!(talk(&mut pair).0, [Seen::response(call, b"in time")]);
    give_up(&mut pair.host, call, &mut Vec::new());
    assert!(!pair.host.has_output());
    assert_eq!(seen(&mut pair.host), []);
}

#[test]
fn f8_m3_a_long_reply_to_a_call_that_was_given_up_is_dropped_and_the_call_ends() {
    // Before the reply begins, before its rest is granted, and when some of that has arrived.
    for moment in 0..3 {
        let mut pair = pair();
        let call = open_call(&mut pair, 9);
        talk(&mut pair);
        if moment == 0 {
            give_up(&mut pair.host, call, &mut Vec::new());
            talk(&mut pair);
        }
        pair.plugin.reply(call, response(&blob(20 * FRAGMENT, 2)));
        let first = output(&mut pair.plugin);
        assert!(first.len() < 2 * FRAGMENT);
        pair.host.handle_bytes(&first);
        if moment == 2 {
            pair.host_speaks();
            let mut some = Vec::new();
            pair.plugin.poll_bytes(&mut some);
            pair.plugin.handle_written(some.len());
            pair.host.handle_bytes(&some);
        }
        if moment > 0 {
            give_up(&mut pair.host, call, &mut Vec::new());
            talk(&mut pair);
        }
        assert!(pair.host.held() < 1000, "what has come is not kept");
        assert_whole(&pair);
        assert_eq!(pair.plugin.outbox.held(), 0);
    }
}

#[test]
fn f8_messages_for_a_stream_that_was_given_up_are_dropped_and_their_credit_comes_back() {
    for ends_first in [false, true] {
        let mut pair = pair();
        let call = pair.host.open(&Shape::Responses.opening(), Some(&text(""))).unwrap();
        talk(&mut pair);
        pair.plugin.begin_responses(call);
        // Far more than the window: the handler waits, or is done and the rest waits by itself.
        for _ in 0..20 {
            pair.plugin.send(call, &[7; 200_000]).unwrap();
        }
        if ends_first {
            pair.plugin.finish(call, Ok(()));
        }
        let on_its_way = output(&mut pair.plugin);
        give_up(&mut pair.host, call, &mut Vec::new());
        assert_eq!(seen(&mut pair.host), [given_up(call, Delivery::MayHaveRun)]);
        assert_eq!(feed(&mut pair.host, &on_its_way), [], "for nobody");
        let (_, plugin) = talk(&mut pair);
        assert_eq!(plugin.contains(&Seen::Cancelled { call }), !ends_first, "{plugin:?}");
        assert!(!pair.plugin.can_send(call), "nothing more is taken");
        assert!(pair.plugin.send(call, b"more").unwrap(), "and nobody waits for room");
        pair.plugin.finish(call, Ok(()));
        talk(&mut pair);
        assert_whole(&pair);
    }
}

#[test]
fn a_handler_that_begins_a_stream_after_the_cancel_sends_nothing() {
    let mut pair = pair();
    let call = pair.host.open(&Shape::Both.opening(), None::<&Blob>).unwrap();
    talk(&mut pair);
    give_up(&mut pair.host, call, &mut Vec::new());
    let result = Err(Code::Cancelled);
    let ended = Seen::RequestsEnded { call, result };
    assert_eq!(talk(&mut pair).1, [ended, Seen::Cancelled { call }]);
    pair.plugin.begin_responses(call);
    for _ in 0..100 {
        assert!(pair.plugin.send(call, &[7; 100_000]).unwrap());
    }
    pair.plugin.finish(call, Ok(()));
    assert_eq!(frames(&output(&mut pair.plugin)), [end_stream(call)]);
}

#[test]
fn what_a_user_reads_after_the_call_was_given_up_still_gives_credit_back() {
    let mut pair = pair();
    let call = pair.host.open(&Shape::Responses.opening(), Some(&text(""))).unwrap();
    talk(&mut pair);
    pair.plugin.begin_responses(call);
    for len in [1000, 100_000, 400_000] {
        pair.plugin.send(call, &vec![7; len]).unwrap();
        let bytes = output(&mut pair.plugin);
        pair.host.handle_bytes(&bytes);
        let bytes = output(&mut pair.host);
        pair.plugin.handle_bytes(&bytes);
    }
    let bytes = output(&mut pair.plugin);
    pair.host.handle_bytes(&bytes);
    let mut costs = Vec::new();
    while let Some(event) = pair.host.poll_event() {
        if let Event::Messages { cost, .. } = event {
            costs.push(cost);
        }
    }
    assert_eq!(costs.len(), 3);
    give_up(&mut pair.host, call, &mut Vec::new());
    talk(&mut pair);
    pair.plugin.finish(call, Ok(()));
    talk(&mut pair);
    assert_eq!(pair.host.calls_made(), 0);
    assert!(!pair.host.stream_budget.is_unused(), "the user still has the large one");
    for cost in costs {
        pair.host.consume(call, cost);
    }
    talk(&mut pair);
    assert_whole(&pair);
}

#[test]
fn c5_calls_that_are_given_up_before_anything_is_written_do_not_pile_up() {
    let limited = Hello { max_calls: 4, ..streams_hello() };
    let mut pair = streaming(streams_hello(), limited);
    let mut made = 0;
    while pair.host.can_open() {
        let call = open_call(&mut pair, 1000);
        give_up(&mut pair.host, call, &mut Vec::new());
        made += 1;
        assert!(made <= 4, "the plugin reads nothing, and memory grows with every call");
    }
    assert_eq!(pair.host.calls_made(), 0);
    seen(&mut pair.host);
    let said = output(&mut pair.host);
    assert_eq!(seen(&mut pair.host), vec![Seen::Freed; 4]);
    assert!(pair.host.can_open());
    assert_eq!(feed(&mut pair.plugin, &said), []);
    assert_whole(&pair);
}

#[test]
fn without_the_feature_a_call_that_is_given_up_ends_with_its_reply() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    let call = pair.host.open(&unary(GET), Some(&text("k"))).unwrap();
    talk(&mut pair);
    give_up(&mut pair.host, call, &mut Vec::new());
    assert!(!pair.host.has_output());
    pair.plugin.reply(call, response(&blob(3 * FRAGMENT, 1)));
    let (host, _) = talk(&mut pair);
    assert_eq!(host, [given_up(call, Delivery::MayHaveRun), Seen::Freed]);
    assert_whole(&pair);
}

#[test]
fn f9_cancels_that_no_caller_sends() {
    let breaks = |frames: &[Frame<'_>], problem: &str| {
        let mut plugin = pair().plugin;
        say(&mut plugin, frames);
        let error = plugin.failure().unwrap_or_else(|| panic!("no violation: {frames:?}"));
        assert!(error.message().contains(problem), "{error}");
    };
    breaks(&[cancel_of(1)], "call 1");
    breaks(&[cancel_of(0)], "call 0");
    breaks(&[cancel_of(2)], "call 2");
    let method = Shape::Requests as u32 + 1;
    let open = Frame { kind: kind::OPEN, call: 1, method, ..Frame::default() };
    breaks(&[open, cancel_of(1), item(1, b"x")], "after the end");
    breaks(&[open, cancel_of(1), half_close(1)], "second end");

    let mut plugin = pair().plugin;
    let twice = [open, cancel_of(1), cancel_of(1)];
    let ended = Seen::RequestsEnded { call: 1, result: Err(Code::Cancelled) };
    let request = Seen::request(1, method, b"");
    assert_eq!(say(&mut plugin, &twice), [request, ended, Seen::Cancelled { call: 1 }]);
}
