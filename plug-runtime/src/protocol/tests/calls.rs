//! Calls that go well, or fail by themselves: order, errors, fragments, limits.

use super::*;
use crate::protocol::FRAGMENT;

#[test]
fn replies_come_in_any_order() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    let calls: Vec<u64> =
        ["a", "b", "c"].map(|key| pair.host.open(&unary(GET), Some(&text(key))).unwrap()).to_vec();
    assert_eq!(calls, [1, 3, 5]);
    assert_eq!(
        pair.host_speaks(),
        [Seen::request(1, GET, b"a"), Seen::request(3, GET, b"b"), Seen::request(5, GET, b"c"),]
    );
    for call in [3, 5, 1] {
        pair.plugin.reply(call, response(&text(&format!("to {call}"))));
    }
    assert_eq!(
        pair.plugin_speaks(),
        [Seen::response(3, b"to 3"), Seen::response(5, b"to 5"), Seen::response(1, b"to 1"),]
    );
    assert_eq!((pair.host.calls_made(), pair.plugin.calls_served()), (0, 0));
}

#[test]
fn both_sides_call_at_once() {
    let mut pair = Pair::greeted(kv_hello(), kv_hello());
    assert_eq!(pair.host.open(&unary(GET), Some(&text("from the host"))).unwrap(), 1);
    assert_eq!(pair.plugin.open(&unary(PUT), Some(&text("from the plugin"))).unwrap(), 2);
    assert_eq!(pair.host_speaks(), [Seen::request(1, GET, b"from the host")]);
    assert_eq!(pair.plugin_speaks(), [Seen::request(2, PUT, b"from the plugin")]);
    pair.plugin.reply(1, response(&text("one")));
    pair.host.reply(2, response(&text("two")));
    assert_eq!(pair.host_speaks(), [Seen::response(2, b"two")]);
    assert_eq!(pair.plugin_speaks(), [Seen::response(1, b"one")]);
    assert_eq!(pair.plugin.open(&unary(GET), Some(&text(""))).unwrap(), 4);
    assert_eq!(pair.host.open(&unary(GET), Some(&text(""))).unwrap(), 3);
}

#[test]
fn a_failed_call_says_how_and_whether_it_ran() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    for _ in 0..3 {
        pair.host.open(&unary(GET), Some(&text("k"))).unwrap();
    }
    pair.host_speaks();
    let refused = |code, text: &str| Answer::Refused(Error::new(code, text));
    pair.plugin.reply(1, failed(Code::NotFound, "no such key"));
    pair.plugin.reply(3, refused(Code::ResourceExhausted, "busy"));
    pair.plugin.reply(5, refused(Code::Unimplemented, "no method 1"));
    assert_eq!(
        pair.plugin_speaks(),
        [
            Seen::status(1, Code::NotFound, Delivery::MayHaveRun, "no such key"),
            Seen::status(3, Code::ResourceExhausted, Delivery::NotSent, "busy"),
            Seen::Failure {
                call: 5,
                kind: ErrorKind::Unimplemented,
                code: Code::Unimplemented,
                delivery: Delivery::NotSent,
                text: "no method 1".into(),
            },
        ]
    );
    assert!(pair.host.failure().is_none(), "the connection goes on");
}

#[test]
fn a_code_that_nobody_knows_is_unknown() {
    let mut host = host();
    host.open(&unary(GET), Some(&text("k"))).unwrap();
    assert_eq!(
        say(&mut host, &[end_failed(1, 4_000_000_000, "new")]),
        [Seen::status(1, Code::Unknown, Delivery::MayHaveRun, "new")]
    );
}

#[test]
fn the_text_of_an_error_is_cut_to_what_fits_into_a_frame() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    pair.host.open(&unary(GET), Some(&text("k"))).unwrap();
    pair.host_speaks();
    pair.plugin.reply(1, failed(Code::Internal, &"é".repeat(2 << 20)));
    let seen = pair.plugin_speaks();
    let [Seen::Failure { text, .. }] = &seen[..] else { panic!("{seen:?}") };
    assert!(text.starts_with("éé") && text.ends_with("(4194304 bytes in all)"));
    assert!(text.len() < 70 << 10, "{}", text.len());
}

#[test]
fn the_error_of_a_refusal_is_cut_too() {
    let mut pair = Pair::new(host_hello(), kv_hello());
    pair.host_speaks();
    pair.plugin.refuse(&Error::new(Code::Internal, "x".repeat(2 << 20)));
    pair.plugin_speaks();
    let error = pair.host.failure().unwrap();
    assert_eq!(error.kind(), ErrorKind::Handshake, "a frame that is not too large");
}

#[test]
fn an_answer_that_comes_twice_is_sent_once() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    pair.host.open(&unary(GET), Some(&text("k"))).unwrap();
    pair.host_speaks();
    pair.plugin.reply(1, response(&text("first")));
    pair.plugin.reply(1, response(&text("second")));
    pair.plugin.reply(99, response(&text("to nobody")));
    assert_eq!(pair.plugin_speaks(), [Seen::response(1, b"first")]);
}

#[test]
fn messages_of_every_length_around_a_fragment_arrive_intact() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    for (len, frames_each_way) in [
        (0, 1),
        (1, 1),
        (127, 1),
        (128, 1),
        (FRAGMENT - 1, 1),
        (FRAGMENT, 1),
        (FRAGMENT + 1, 2),
        (2 * FRAGMENT, 2),
        (3 * FRAGMENT + 7, 4),
    ] {
        let (request, answer) = (blob(len, 1), blob(len, 2));
        let call = pair.host.open(&unary(PUT), Some(&request)).unwrap();
        let sent = output(&mut pair.host);
        assert_eq!(frames(&sent).len(), frames_each_way, "{len}");
        assert_eq!(feed(&mut pair.plugin, &sent), [Seen::request(call, PUT, &request.0)]);
        pair.plugin.reply(call, response(&answer));
        let sent = output(&mut pair.plugin);
        assert_eq!(frames(&sent).len(), frames_each_way, "{len}");
        assert_eq!(feed(&mut pair.host, &sent), [Seen::response(call, &answer.0)]);
    }
}

#[test]
fn fragments_have_the_shape_that_the_specification_gives_them() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    let long = blob(2 * FRAGMENT + 1, 3);
    let total = long.0.len() as u64;
    let (first, rest) = long.0.split_at(FRAGMENT);
    let (second, third) = rest.split_at(FRAGMENT);

    pair.host.open(&unary(PUT), Some(&long)).unwrap();
    let sent = output(&mut pair.host);
    assert_eq!(
        frames(&sent),
        [open_part(1, PUT, total, first), part(1, second), last_part(1, third)]
    );
    feed(&mut pair.plugin, &sent);
    pair.plugin.reply(1, response(&long));
    let sent = output(&mut pair.plugin);
    let first = Frame { total, ..part(1, first) };
    assert_eq!(frames(&sent), [first, part(1, second), end(1, third)]);
}

#[test]
fn fragments_may_be_of_any_length_and_empty() {
    let mut plugin = plugin();
    let said = [open_part(1, PUT, 5, b""), part(1, b"ab"), part(1, b""), last_part(1, b"cde")];
    assert_eq!(say(&mut plugin, &said), [Seen::request(1, PUT, b"abcde")]);
}

#[test]
fn a_small_call_waits_for_one_fragment_of_a_long_one_at_most() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    pair.host.open(&unary(PUT), Some(&blob(8 * FRAGMENT, 1))).unwrap();
    pair.host.open(&unary(GET), Some(&text("small"))).unwrap();
    let sent = output(&mut pair.host);
    assert_eq!(
        outline(&frames(&sent))[..3],
        [(kind::OPEN, 1), (kind::OPEN, 3), (kind::MESSAGE, 1)]
    );

    // The same in the middle of a long message, and for the answers.
    pair.host.open(&unary(PUT), Some(&blob(8 * FRAGMENT, 1))).unwrap();
    let mut taken = Vec::new();
    pair.host.poll_bytes(&mut taken);
    assert!(taken.len() < 3 * FRAGMENT, "what is taken cannot be overtaken: {}", taken.len());
    pair.host.open(&unary(GET), Some(&text("small"))).unwrap();
    let mut next = Vec::new();
    pair.host.poll_bytes(&mut next);
    assert_eq!(outline(&frames(&next))[0], (kind::OPEN, 7));

    feed(&mut pair.plugin, &sent);
    pair.plugin.reply(1, response(&blob(8 * FRAGMENT, 2)));
    pair.plugin.reply(3, response(&text("quick")));
    let seen = pair.plugin_speaks();
    assert_eq!(seen[0], Seen::response(3, b"quick"), "the small answer overtakes");
    assert_eq!(seen[1], Seen::response(1, &blob(8 * FRAGMENT, 2).0));
}

#[test]
fn long_messages_take_turns() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    for _ in 0..2 {
        pair.host.open(&unary(PUT), Some(&blob(4 * FRAGMENT, 1))).unwrap();
    }
    let sent = output(&mut pair.host);
    let calls: Vec<u64> = frames(&sent).iter().map(|frame| frame.call).collect();
    // The second begins behind much else, so its first fragment is short.
    assert_eq!(calls, [1, 3, 1, 3, 1, 3, 1, 3, 3]);
    assert_eq!(feed(&mut pair.plugin, &sent).len(), 2);
}

#[test]
fn small_calls_without_end_do_not_starve_a_long_one() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    pair.host.open(&unary(PUT), Some(&blob(4 * FRAGMENT, 1))).unwrap();
    for round in 0.. {
        assert!(round < 10, "the long message makes no progress");
        pair.host.open(&unary(GET), Some(&text("small"))).unwrap();
        let mut taken = Vec::new();
        pair.host.poll_bytes(&mut taken);
        let seen = feed(&mut pair.plugin, &taken);
        if seen.contains(&Seen::request(1, PUT, &blob(4 * FRAGMENT, 1).0)) {
            break;
        }
    }
}

#[test]
fn a_request_that_is_answered_early_is_not_sent_to_its_end() {
    let mut pair = Pair::greeted(host_hello(), kv_hello());
    pair.host.open(&unary(PUT), Some(&blob(8 * FRAGMENT, 1))).unwrap();
    let mut taken = Vec::new();
    pair.host.poll_bytes(&mut taken);
    pair.host.handle_written(taken.len());
    assert_eq!(feed(&mut pair.plugin, &taken), [], "the request is not complete");
    pair.plugin.reply(1, Answer::Refused(Error::new(Code::ResourceExhausted, "full")));
    let refused = Seen::status(1, Code::ResourceExhausted, Delivery::NotSent, "full");
    assert_eq!(pair.plugin_speaks(), [refused]);
    assert!(!pair.host.has_output(), "the rest was for nobody");

    pair.host.open(&unary(GET), Some(&text("next"))).unwrap();
    assert_eq!(pair.host_speaks(), [Seen::request(3, GET, b"next")]);
}

#[test]
fn fragments_on_their_way_to_a_call_that_has_ended_are_dropped() {
    let mut plugin = plugin();
    assert_eq!(say(&mut plugin, &[open_part(1, PUT, 9, b"abc")]), []);
    plugin.reply(1, failed(Code::Aborted, "no"));
    assert_eq!(say(&mut plugin, &[part(1, b"def"), last_part(1, b"ghi")]), []);
    assert!(plugin.failure().is_none());
    assert_eq!(plugin.calls_served(), 0);
}

#[test]
fn f12_a_request_over_the_limit_fails_alone_and_sends_nothing() {
    // Whichever side states the limit.
    for (host_limit, plugin_limit, whose) in [(0, 100, "receiver's"), (100, 200, "this side's")] {
        let host = Hello { max_message: host_limit, ..host_hello() };
        let plugin = Hello { max_message: plugin_limit, ..kv_hello() };
        let mut pair = Pair::greeted(host, plugin);
        let error = pair.host.open(&unary(PUT), Some(&blob(101, 0))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(error.delivery(), Delivery::NotSent);
        assert!(error.message().contains("101 bytes") && error.message().contains(whose));
        assert!(!pair.host.has_output());
        assert_eq!((pair.host.calls_made(), seen(&mut pair.host)), (0, vec![]));

        pair.host.open(&unary(PUT), Some(&blob(100, 0))).unwrap();
        assert_eq!(pair.host_speaks(), [Seen::request(1, PUT, &blob(100, 0).0)]);
    }
}

#[test]
fn f12_a_response_over_the_limit_fails_its_call_alone() {
    for (host_limit, plugin_limit) in [(100, 0), (0, 100), (100, 200)] {
        let host = Hello { max_message: host_limit, ..host_hello() };
        let plugin = Hello { max_message: plugin_limit, ..kv_hello() };
        let mut pair = Pair::greeted(host, plugin);
        for _ in 0..2 {
            pair.host.open(&unary(GET), Some(&text("k"))).unwrap();
        }
        pair.host_speaks();
        pair.plugin.reply(1, response(&blob(101, 0)));
        pair.plugin.reply(3, response(&blob(100, 0)));
        let seen = pair.plugin_speaks();
        let [Seen::Failure { call: 1, code, delivery, text, .. }, other] = &seen[..] else {
            panic!("{seen:?}")
        };
        assert_eq!((*code, *delivery), (Code::ResourceExhausted, Delivery::MayHaveRun));
        assert!(text.contains("101 bytes") && text.contains("limit is 100"), "{text}");
        assert_eq!(*other, Seen::response(3, &blob(100, 0).0));
    }
}

#[test]
fn a_side_that_states_how_many_calls_it_serves_is_asked_for_no_more() {
    let mut pair = Pair::greeted(host_hello(), Hello { max_calls: 2, ..kv_hello() });
    for _ in 0..2 {
        assert!(pair.host.can_open());
        pair.host.open(&unary(GET), Some(&text("k"))).unwrap();
    }
    assert!(!pair.host.can_open());
    pair.host_speaks();
    pair.plugin.reply(3, response(&text("")));
    assert!(!pair.host.can_open(), "the answer is on its way");
    pair.plugin_speaks();
    assert!(pair.host.can_open());
}
