//! However the bytes are cut on their way, the same is understood.

use super::*;

/// What a plugin says up to its hello.
fn greeting() -> Vec<u8> {
    let hello = kv_hello().encode_to_vec();
    let hello = Frame { kind: kind::HELLO, payload: &hello, ..Frame::default() };
    [&Side::Plugin.preamble()[..], &bytes(&[of_kind(kind::IGNORABLE), hello])].concat()
}

/// What it says to a host that has made the calls 1, 3, 5 and 7: every kind of frame of the base
/// protocol, an empty one, fragments, and lengths of two bytes.
fn session() -> Vec<u8> {
    let mut said = bytes(&[
        end(3, b"three"),
        Frame { total: 300, ..part(1, &[1; 200]) },
        open_part(2, GET, 4, b"ca"),
        end_failed(5, 5, "no such key"),
        last_part(2, b"ll"),
        end(1, &[2; 100]),
    ]);
    said.push(0);
    said.extend(bytes(&[of_kind(1000), Frame { timeout_us: 1500, ..goodbye() }]));
    said.extend(bytes(&[open(4, PUT, b"too late")]));
    said
}

/// What a host makes of all that when each of its reads ends at one of `cuts`, what it answers,
/// and how it ends.
fn understood(cuts: impl IntoIterator<Item = usize>) -> (Vec<Seen>, Vec<u8>, ErrorKind) {
    let said = [greeting(), session()].concat();
    let mut host = Connection::new(Side::Host, host_hello(), None);
    output(&mut host);
    let mut events = Vec::new();
    let mut at = 0;
    for cut in cuts.into_iter().chain([said.len()]) {
        events.extend(feed(&mut host, &said[at..cut]));
        if cut == greeting().len() && host.calls_made() == 0 {
            (0..4).for_each(|_| assert!(host.open(&unary(GET), Some(&text("k"))).is_ok()));
            output(&mut host);
        }
        at = cut;
    }
    host.reply(2, response(&text("back")));
    host.handle_eof();
    events.extend(seen(&mut host));
    (events, output(&mut host), host.failure().unwrap().kind())
}

#[test]
fn f3_every_split_point_and_byte_by_byte_give_the_same_events() {
    let greeted = greeting().len();
    let len = greeted + session().len();
    let whole = understood([greeted]);
    let grace = Some(Duration::from_micros(1500));
    let response_1 = [&[1; 200][..], &[2; 100]].concat();
    assert_eq!(
        whole.0[..6],
        [
            Seen::Greeted,
            Seen::response(3, b"three"),
            Seen::status(5, Code::NotFound, Delivery::MayHaveRun, "no such key"),
            Seen::request(2, GET, b"call"),
            Seen::response(1, &response_1),
            Seen::Goodbye { grace },
        ]
    );
    assert_eq!(whole.0.len(), 7, "and call 7 fails: {:?}", whole.0);
    assert_eq!(outline(&frames(&whole.1)), [(kind::END, 4), (kind::END, 2)], "call 4 is refused");
    assert_eq!(whole.2, ErrorKind::Shutdown);

    for cut in 0..=len {
        let mut cuts = [cut, greeted];
        cuts.sort_unstable();
        assert_eq!(understood(cuts), whole, "cut at {cut}");
    }
    assert_eq!(understood(1..len), whole, "byte by byte");
    for step in 2..17 {
        let mut cuts: Vec<usize> = (0..len).step_by(step).chain([greeted]).collect();
        cuts.sort_unstable();
        assert_eq!(understood(cuts), whole, "in pieces of {step}");
    }
}
