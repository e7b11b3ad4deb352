//! Long payloads that are read straight to where their message is put together.

use super::model::{Shape, streams_hello};
use super::*;
use crate::protocol::{Arrival, FRAGMENT, STREAM_WINDOW};

fn pair() -> Pair {
    let hello = || Hello { max_message: 1 << 20, ..streams_hello() };
    streaming(hello(), hello())
}

/// A host that waits for a response, and one that waits for a stream of them: their calls are 1 and 3.
fn waiting() -> Connection {
    let mut host = pair().host;
    for shape in [Shape::Unary, Shape::Responses] {
        host.open(&shape.opening(), Some(&text("k"))).unwrap();
    }
    output(&mut host);
    host
}

/// Where the frame has a place, as a number; 0 if it has none.
fn place_of(connection: &mut Connection) -> usize {
    let Some(mut place) = connection.lend() else { return 0 };
    let at = place.fill(|memory, _| memory.as_ptr().addr());
    connection.take_back(place);
    at
}

/// The place of a frame of which half was heard, and what it comes to once it is whole.
fn halved(connection: &mut Connection, said: &[u8]) -> (usize, Vec<Seen>) {
    let (first, second) = said.split_at(said.len() / 2);
    assert_eq!(feed(connection, first), []);
    let place = place_of(connection);
    (place, feed(connection, second))
}

#[test]
fn what_lands_is_not_copied_any_more() {
    let payload = vec![7; FRAGMENT];
    let total = 2 * FRAGMENT as u64;
    let mut host = waiting();
    let (place, seen) = halved(&mut host, &bytes(&[Frame { total, ..part(1, &payload) }]));
    assert!(place != 0 && seen.is_empty());
    let said = bytes(&[end(1, &payload)]);
    let (first, second) = said.split_at(100);
    host.handle_bytes(first);
    // There is room for all of it now, which may be elsewhere.
    let place = place_of(&mut host);
    hear(&mut host, second);
    let Some(Event::Reply { outcome: Ok(message), .. }) = host.poll_event() else {
        panic!("it has ended")
    };
    assert_eq!((message.len() as u64, message.as_ptr().addr()), (total, place));
}

#[test]
fn memory_is_used_again_once_its_message_is_dropped() {
    let mut host = waiting();
    let said = bytes(&[item(3, &[7; FRAGMENT])]);
    let mut message = |held: &mut Vec<bytes::Bytes>| {
        let (first, second) = said.split_at(100);
        host.handle_bytes(first);
        let place = place_of(&mut host);
        hear(&mut host, second);
        let Some(Event::Messages { messages, cost, .. }) = host.poll_event() else {
            panic!("it is whole")
        };
        let Arrival::Long(message) = messages else { panic!("it has memory of its own") };
        assert_eq!(message, vec![7; FRAGMENT]);
        host.consume(3, cost);
        output(&mut host);
        held.push(message);
        place
    };
    let mut held = Vec::new();
    let places = [(); 2].map(|()| message(&mut held));
    assert_ne!(places[0], places[1], "the first is still there");
    held.clear();
    let again = message(&mut held);
    assert!(places.contains(&again), "one of them is free");
}

#[test]
fn f3_messages_of_every_kind_land() {
    let payload = &vec![7; FRAGMENT][..];
    let total = FRAGMENT as u64 + 1;
    let whole = || [payload, b"x"].concat();
    let unary = Shape::Unary.opening().method;
    let cases: [(Vec<u8>, Vec<u8>, Seen); 5] = [
        (bytes(&[end(1, payload)]), Vec::new(), Seen::response(1, payload)),
        (
            bytes(&[Frame { total, ..part(1, payload) }]),
            bytes(&[end(1, b"x")]),
            Seen::response(1, &whole()),
        ),
        (bytes(&[open(2, unary, payload)]), Vec::new(), Seen::request(2, unary, payload)),
        (
            bytes(&[open_part(2, unary, total, payload)]),
            bytes(&[last_part(2, b"x")]),
            Seen::request(2, unary, &whole()),
        ),
        (
            bytes(&[open_part(2, unary, total, b"x"), last_part(2, payload)]),
            Vec::new(),
            Seen::request(2, unary, &[b"x", payload].concat()),
        ),
    ];
    for (which, (said, behind, expected)) in cases.into_iter().enumerate() {
        let mut host = waiting();
        let (place, mut seen) = halved(&mut host, &said);
        assert_ne!(place, 0, "{which} has a place");
        seen.extend(feed(&mut host, &behind));
        assert_eq!(seen, [expected], "{which}");
    }
}

#[test]
fn what_is_not_as_it_should_be_has_no_place() {
    let payload = &vec![7; FRAGMENT][..];
    let unary = Shape::Unary.opening().method;
    let long = vec![7; FRAGMENT + 1];
    let unknown = |frame: Frame<'_>| {
        // A field behind the payload.
        let mut content = bytes(&[frame]);
        let Varint::Value(len, prefix) = read_varint(&content) else { panic!("a length") };
        content.drain(..prefix);
        content.extend([0x98, 0x06, 0x07]);
        let mut said = Vec::new();
        let mut len = len + 3;
        while len >= 0x80 {
            said.push(len as u8 | 0x80);
            len >>= 7;
        }
        said.push(len as u8);
        [said, content].concat()
    };
    let cases = [
        ("a fragment that is too long", bytes(&[end(1, &long)])),
        ("more than the total", bytes(&[Frame { total: 9, ..part(1, payload) }])),
        ("less than the total", bytes(&[Frame { total: 1 << 19, ..end(1, payload) }])),
        ("no total", bytes(&[part(1, payload)])),
        ("over the limit", bytes(&[Frame { total: 1 << 40, ..part(1, payload) }])),
        ("a call that was not made", bytes(&[end(5, payload)])),
        ("a call of the wrong side", bytes(&[open(5, unary, payload)])),
        ("an unknown method with a stream", bytes(&[item(2, payload)])),
        ("an error with a payload", bytes(&[Frame { code: 5, ..end(1, payload) }])),
        ("an end that is none", bytes(&[Frame { flags: 0, ..end(1, payload) }])),
        ("an end of a stream with a message", bytes(&[end(3, payload)])),
        ("unknown flags", bytes(&[Frame { flags: 64, ..end(1, payload) }])),
        ("a kind that is no call's", bytes(&[Frame { payload, ..of_kind(kind::PING) }])),
        ("a field behind", unknown(end(1, &payload[..FRAGMENT / 2]))),
    ];
    for (what, said) in cases {
        let mut whole = waiting();
        let expected = (feed(&mut whole, &said), whole.failure().map(Error::to_string));
        let mut cut = waiting();
        let (place, seen) = halved(&mut cut, &said);
        assert_eq!(place, 0, "{what}");
        assert_eq!((seen, cut.failure().map(Error::to_string)), expected, "{what}");
    }
}

#[test]
fn what_was_not_granted_has_no_place() {
    let mut host = waiting();
    let said = bytes(&[item(3, &[7; FRAGMENT])]);
    let mut places = Vec::new();
    while host.failure().is_none() {
        places.push(halved(&mut host, &said).0 != 0);
    }
    // Each costs a little more than its length.
    let covered = STREAM_WINDOW as usize / FRAGMENT - 1;
    assert_eq!(places, [vec![true; covered], vec![false]].concat());
}

#[test]
fn a_place_that_comes_back_after_the_end_is_nothing() {
    let mut host = waiting();
    let said = bytes(&[open(2, Shape::Unary.opening().method, &[7; FRAGMENT])]);
    let (first, second) = said.split_at(100);
    host.handle_bytes(first);
    let mut place = host.lend().unwrap();
    place.fill(|memory, _| memory.extend_from_slice(second));
    host.close(&Error::of_kind(ErrorKind::Shutdown, "as a test"));
    let ended = seen(&mut host);
    assert_eq!(ended.len(), 2, "{ended:?}");
    host.take_back(place);
    assert_eq!(seen(&mut host), []);
}

#[test]
fn an_end_in_the_middle_of_a_frame_that_lands_is_one() {
    let mut host = waiting();
    let said = bytes(&[end(1, &[7; FRAGMENT])]);
    host.handle_bytes(&said[..100]);
    host.handle_bytes(&said[100..said.len() - 1]);
    assert!(host.has_place() && host.is_truncated());
    host.handle_eof();
    let error = host.failure().unwrap().to_string();
    assert!(error.contains("in the middle of a message"), "{error}");
}

#[test]
fn a_call_that_is_given_up_while_its_response_lands_is_given_up() {
    let mut host = waiting();
    let said = bytes(&[end(1, &[7; FRAGMENT])]);
    let (first, second) = said.split_at(100);
    host.handle_bytes(first);
    let mut place = host.lend().unwrap();
    let error = Error::of_kind(ErrorKind::Cancelled, "not wanted");
    host.cancel(1, &error, &mut Output::default());
    assert!(matches!(seen(&mut host)[..], [Seen::Failure { call: 1, .. }]));
    place.fill(|memory, _| memory.extend_from_slice(second));
    host.take_back(place);
    assert_eq!(seen(&mut host), [Seen::Freed]);
    assert!(host.failure().is_none());
}

#[test]
fn f1_a_payload_that_claims_to_be_of_nearly_2_to_the_64_bytes_is_refused() {
    let mut host = waiting();
    let mut said = vec![0xe8, 0x07, 0x08, 0x04, 0x10, 0x01, 0x7a];
    said.extend([0xff; 9]);
    said.push(0x01);
    host.handle_bytes(&said);
    assert!(!host.has_place());
    host.handle_bytes(&[0; 2000]);
    assert_eq!(host.failure().map(Error::kind), Some(ErrorKind::Protocol));
}

#[test]
fn nothing_is_handled_behind_a_frame_that_lands_and_breaks_the_protocol() {
    let unary = Shape::Unary.opening().method;
    // In front, metadata that is a tag with nothing behind it.
    let frame = Frame { payload: &[7; 1000], ..open(2, unary, &[]) };
    let mut content = vec![0x5a, 1, 0x0a];
    let encoded = bytes(&[frame]);
    content.extend(&encoded[2..]);
    let mut said = vec![content.len() as u8 | 0x80, (content.len() >> 7) as u8];
    said.extend(&content);
    let behind = bytes(&[open(4, unary, b"behind")]);
    for (cut, lands) in [(0, false), (100, true)] {
        let mut host = waiting();
        host.handle_bytes(&said[..cut]);
        assert_eq!(host.has_place(), lands);
        host.handle_bytes(&[&said[cut..], &behind].concat());
        assert!(host.failure().is_some());
        let seen = seen(&mut host);
        let requests = seen.iter().filter(|seen| matches!(seen, Seen::Request { .. }));
        assert_eq!((requests.count(), host.calls_served()), (0, 0), "lands: {lands}, {seen:?}");
    }
}

#[test]
fn every_item_of_a_stream_lands() {
    let mut host = waiting();
    let said = bytes(&[item(3, &[7; 64 << 10])]);
    for round in 0..3 {
        host.handle_bytes(&said[..100]);
        assert!(host.has_place(), "round {round}");
        host.handle_bytes(&said[100..]);
        let Some(Event::Messages { cost, .. }) = host.poll_event() else {
            panic!("there is no message")
        };
        host.consume(3, cost);
        output(&mut host);
    }
}

/// Memory that was kept goes to messages that are admitted, and what they have is counted.
#[test]
fn f1_kept_memory_is_not_taken_because_a_number_announces_it() {
    const LEN: usize = 4 << 20;
    const ROUNDS: u64 = 40;
    let hello = || Hello { max_message: 8 << 20, ..streams_hello() };
    let mut host = streaming(hello(), hello()).host;
    host.open(&Shape::Responses.opening(), Some(&text("k"))).unwrap();
    output(&mut host);
    let unary = Shape::Unary.opening().method;
    let payload = vec![7; FRAGMENT];
    for round in 0..ROUNDS {
        // An item of a stream, which is read and dropped: its memory is kept.
        for n in 0..LEN / FRAGMENT {
            let total = if n == 0 { LEN as u64 } else { 0 };
            let flags = if n + 1 == LEN / FRAGMENT { flag::LAST } else { 0 };
            hear(&mut host, &bytes(&[Frame { total, flags, ..part(1, &payload) }]));
        }
        assert!(matches!(read(&mut host)[..], [Seen::Message { .. }]));
        output(&mut host);
        // And the beginning of a request that says to be as long, of which nothing more comes.
        let said = bytes(&[open_part(2 + 2 * round, unary, LEN as u64, &[7; 30])]);
        let (first, second) = said.split_at(said.len() - 20);
        hear(&mut host, first);
        hear(&mut host, second);
        output(&mut host);
    }
    assert!(host.failure().is_none(), "{:?}", host.failure());
    let held = host.held() as u64;
    assert!(held <= (64 << 20) + 30 * ROUNDS, "{held} bytes are held");
}
