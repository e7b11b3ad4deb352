//! Hellos: who speaks first, what fits and what does not, and what is said instead of one.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn the_host_greets_first_and_both_learn_who_the_other_is() {
    let mut pair = Pair::new(host_hello(), kv_hello());
    assert!(!pair.plugin.has_output(), "a plugin is silent until its host has greeted");
    assert_eq!(pair.host_speaks(), [Seen::Greeted]);
    assert!(!pair.plugin.has_output(), "and until it has decided to accept");
    pair.plugin.accept();
    assert_eq!(pair.plugin_speaks(), [Seen::Greeted]);
    assert_eq!(pair.plugin.peer(), Some(&host_hello()));
    assert_eq!(pair.host.peer(), Some(&kv_hello()));
    assert_eq!(pair.host.peer().unwrap().method_number("example.KV", "Put"), Some(PUT));
    assert!(!pair.host.has_output() && !pair.plugin.has_output());
}

#[test]
fn h6_versions_that_do_not_overlap_fail_both_sides_in_one_round_trip() {
    let speaks = |hello: Hello, min, max| Hello { version_min: min, version_max: max, ..hello };
    for (min, max) in [(1, 1), (4, 4), (3, 2), (0, 0)] {
        let mut pair = Pair::new(speaks(host_hello(), 2, 3), speaks(kv_hello(), min, max));
        assert_eq!(pair.host_speaks(), []);
        assert_eq!(pair.plugin_speaks(), []);
        for connection in [&pair.host, &pair.plugin] {
            let error = connection.failure().expect("no common version");
            assert_eq!(error.kind(), ErrorKind::Incompatible);
            assert!(error.message().contains("the host speaks 2 to 3"), "{error}");
        }
        assert!(!pair.host.has_output() && !pair.plugin.has_output());
    }
    for (min, max) in [(3, 9), (2, 2), (0, 2)] {
        Pair::greeted(speaks(host_hello(), 2, 3), speaks(kv_hello(), min, max));
    }
}

#[test]
fn v8_a_required_feature_that_one_side_lacks_fails_both() {
    let requires = |hello: Hello| Hello { required: vec!["telepathy".into()], ..hello };
    for (host, plugin) in
        [(requires(host_hello()), kv_hello()), (host_hello(), requires(kv_hello()))]
    {
        let mut pair = Pair::new(host, plugin);
        assert_eq!(pair.host_speaks(), []);
        assert_eq!(pair.plugin_speaks(), []);
        for connection in [&pair.host, &pair.plugin] {
            let error = connection.failure().expect("a feature is missing");
            assert_eq!(error.kind(), ErrorKind::Incompatible);
            assert!(error.message().contains("telepathy"), "{error}");
        }
    }
}

#[test]
fn v8_an_optional_feature_that_one_side_lacks_is_ignored() {
    let knows = |hello: Hello| Hello { features: vec!["telepathy".into()], ..hello };
    Pair::greeted(knows(host_hello()), kv_hello());
    Pair::greeted(host_hello(), knows(kv_hello()));
}

#[test]
fn a_plugin_that_refuses_says_why() {
    let mut pair = Pair::new(host_hello(), kv_hello());
    assert_eq!(pair.host_speaks(), [Seen::Greeted]);
    pair.plugin.refuse(&Error::new(Code::FailedPrecondition, "no database at /dev/null"));
    assert_eq!(pair.plugin_speaks(), []);
    let error = pair.host.failure().unwrap();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Handshake, Code::FailedPrecondition));
    assert!(error.message().contains("no database at /dev/null"), "{error}");
    assert!(pair.plugin.failure().is_some());
}

#[test]
fn h3_a_hello_that_is_late_ends_the_connection_when_its_time_is_over() {
    let start = Instant::now();
    let by = start + Duration::from_secs(10);
    let mut host = Connection::new(Side::Host, host_hello(), Some(by));
    assert_eq!(host.poll_timeout(), Some(by));
    host.handle_timeout(by - Duration::from_nanos(1), &mut Output::default());
    assert!(host.failure().is_none());
    host.handle_timeout(by, &mut Output::default());
    assert_eq!(host.failure().unwrap().kind(), ErrorKind::Handshake);
    assert_eq!(host.poll_timeout(), None, "there is nothing left to wait for");
}

#[test]
fn a_hello_in_time_ends_the_wait_for_it() {
    let by = Instant::now();
    let mut pair = Pair::new(host_hello(), kv_hello());
    pair.host = Connection::new(Side::Host, host_hello(), Some(by));
    pair.host_speaks();
    pair.plugin.accept();
    pair.plugin_speaks();
    assert_eq!(pair.host.poll_timeout(), None);
    pair.host.handle_timeout(by + Duration::from_secs(1), &mut Output::default());
    assert!(pair.host.failure().is_none());
}

#[test]
fn h2_a_program_that_echoes_is_not_a_plugin() {
    let mut host = Connection::new(Side::Host, host_hello(), None);
    let echo = output(&mut host);
    assert_eq!(feed(&mut host, &echo), []);
    let error = host.failure().unwrap();
    assert_eq!(error.kind(), ErrorKind::Handshake);
    assert!(error.message().contains("echoes"), "{error}");
}

#[test]
fn f10_stray_text_in_place_of_the_hello_is_quoted() {
    let mut host = Connection::new(Side::Host, host_hello(), None);
    assert_eq!(feed(&mut host, b"Hello\n"), []);
    let error = host.failure().unwrap();
    assert_eq!(error.kind(), ErrorKind::Handshake);
    assert!(error.message().contains(r#""Hello\n""#), "{error}");
}

#[test]
fn only_frames_that_may_be_ignored_come_before_the_hello() {
    let preamble = Side::Plugin.preamble().to_vec();
    let hello = kv_hello().encode_to_vec();
    let hello = Frame { kind: kind::HELLO, payload: &hello, ..Frame::default() };
    let cases = [
        (vec![of_kind(kind::IGNORABLE), hello], None),
        (vec![Frame::default(), hello], None),
        (vec![end(1, b"")], Some("kind 4")),
        (vec![of_kind(63), hello], Some("kind 63")),
        (vec![Frame { payload: b"\xff", ..hello }], Some("decoded")),
    ];
    for (said, problem) in cases {
        let mut host = Connection::new(Side::Host, host_hello(), None);
        let seen = feed(&mut host, &[preamble.clone(), bytes(&said)].concat());
        match problem {
            None => assert_eq!(seen, [Seen::Greeted], "{said:?}"),
            Some(problem) => {
                assert_eq!(seen, [], "{said:?}");
                let error = host.failure().unwrap();
                assert_eq!(error.kind(), ErrorKind::Handshake);
                assert!(error.message().contains(problem), "{error}");
            }
        }
    }
}
