//! What is refused, what passes, and that nothing panics or goes deep.

use std::sync::OnceLock;

use proptest::prelude::*;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::*;

const PROTO: &str = r#"
    syntax = "proto3";
    package test;
    message Small { uint32 number = 1; }
    message Large {
        string a = 1; string b = 2; string c = 3; string d = 4; repeated Large more = 5; Large one = 6;
    }
    message Bomb { repeated Large all = 1; map<uint32, Large> map = 2; repeated uint64 numbers = 3; }
    message Payload { bytes payload = 1; repeated string texts = 2; Small small = 3; }
    service Test {
        rpc Take(Bomb) returns (Payload);
        rpc Nest(Large) returns (Small);
    }
"#;

fn budget(method: &'static str, side: Side) -> Budget {
    static SET: OnceLock<Vec<u8>> = OnceLock::new();
    let set = SET.get_or_init(|| {
        let file = protox::file::File::from_source("test.proto", PROTO).unwrap();
        let mut pool = prost_reflect::DescriptorPool::new();
        pool.add_file_descriptor_proto(file.file_descriptor_proto().clone()).unwrap();
        pool.encode_to_vec()
    });
    Budget::new("test.Test", set, method, side)
}

/// A field with a length and content.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut out);
    encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

#[test]
fn r2_what_two_bytes_become_is_counted_before_it_is_decoded() {
    let bomb = budget("Take", Side::Request);
    // Five strings and what is in vectors have 128 bytes, so that two million take 256 MiB.
    let empty = field(1, b"").repeat(2 << 20);
    let excess = bomb.check(&empty).unwrap_err();
    assert_eq!((excess.len, excess.limit), (4 << 20, DEFAULT));
    assert!(excess.at_least > DEFAULT && excess.at_least < 3 * DEFAULT, "{excess}");
    for (what, message) in [
        ("entries of a map", field(2, b"\x08\x01").repeat(1 << 20)),
        ("within another", field(1, &field(5, b"").repeat(2 << 20))),
        ("each in a vector of its own", field(1, &field(5, b"")).repeat(1 << 20)),
        ("packed numbers", field(3, &vec![1; 16 << 20])),
        ("many that are merged", field(1, &field(6, &field(5, b"")).repeat(1 << 20))),
    ] {
        bomb.check(&message).expect_err(what);
        bomb.with_limit(usize::MAX).check(&message).expect(what);
    }
    let error = bomb.decode::<()>(Received::Short(&empty)).unwrap_err();
    let (code, text) = error.of_request();
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.starts_with("is not decoded: its 4194304 bytes would become "), "{text}");
    assert_eq!(error.of_response("the response").kind(), ErrorKind::TooLarge);
}

#[test]
fn r2_descriptors_that_would_burst_are_refused() {
    let limit = default_limit(0);
    // Files; fields of a message of a file; paths of the comments of one.
    let files = field(1, b"").repeat(1 << 20);
    let fields = field(1, &field(4, &field(2, b"").repeat(1 << 20)));
    let comments = field(1, &field(9, &field(1, b"").repeat(2 << 20)));
    // Behind what a later `descriptor.proto` has as a message, and decoding skips as what it is here: a number.
    let declaration = field(1, &field(4, &field(5, &field(3, b"\x10\x01"))));
    let hidden = [declaration, files.clone()].concat();
    for bomb in [files, fields, comments, hidden] {
        match decode_descriptors(&bomb, limit) {
            Err(Undecodable::TooLarge(excess)) => assert!(excess.at_least > limit, "{excess}"),
            other => panic!("{:?} of {} bytes", other.map(|set| set.file.len()), bomb.len()),
        }
    }
    assert!(matches!(decode_descriptors(b"\xff", limit), Err(Undecodable::Broken(_))));
    // What a good file takes is some times its length.
    let good = budget("Take", Side::Request).descriptors;
    let copies = good.repeat((4 << 20) / good.len());
    assert_eq!(decode_descriptors(&copies, limit).unwrap().file.len(), (4 << 20) / good.len());
}

#[test]
fn what_is_long_and_takes_little_more_passes() {
    let payload = budget("Take", Side::Response);
    for (what, message) in [
        ("one payload", field(1, &vec![0; 64 << 20])),
        ("a million texts", field(2, b"hello, world").repeat(1_000_000)),
        ("what nobody knows", field(9, &[1; 100]).repeat(600_000)),
        ("the same message again", field(3, b"\x08\x01").repeat(10_000_000)),
        ("packed numbers that are no field", field(7, &vec![1; 60 << 20])),
    ] {
        payload.check(&message).unwrap_or_else(|excess| panic!("{what}: {excess}"));
    }
    budget("Take", Side::Request).check(&field(3, &vec![1; 7 << 20])).unwrap();
    let unknown = Budget::new("test.Unknown", b"", "Take", Side::Request);
    unknown.with_limit(1).check(&[0; 1 << 20]).expect("there is nothing to measure with");
}

#[test]
fn r3_the_walk_is_not_deeper_for_a_deeper_message() {
    let nest = budget("Nest", Side::Request).with_limit(2 << 20);
    let mut deep = Vec::new();
    for _ in 0..100_000 {
        // The lengths are longer than what is there, as far as that goes.
        encode_key(6, WireType::LengthDelimited, &mut deep);
        encode_varint(300_000, &mut deep);
    }
    let groups = |number: u32| {
        let mut groups = Vec::new();
        for _ in 0..1_000_000 {
            encode_key(number, WireType::StartGroup, &mut groups);
        }
        groups
    };
    let mut nested = Vec::new();
    for _ in 0..120 {
        nested = field(6, &nested);
    }
    nested.extend(vec![0; 100]);
    let messages = [deep, groups(9), groups(6), nested, vec![0xff; 1 << 20], vec![0x0b; 1 << 20]];
    let thread = std::thread::Builder::new().stack_size(128 << 10);
    let walked = thread.spawn(move || {
        for message in messages {
            assert!(nest.check(&message).is_ok(), "{:?}", &message[..20]);
        }
    });
    walked.unwrap().join().unwrap();
}

#[test]
fn a_service_is_read_once() {
    let budget = budget("Take", Side::Request);
    let schema = || Schema::of(budget.service, budget.descriptors).unwrap();
    assert!(Arc::ptr_eq(&schema(), &schema()));
    assert!(Schema::of("test.Other", budget.descriptors).is_none());
}

proptest! {
    #[test]
    fn bytes_of_any_kind_are_walked_to_an_end(
        message in prop::collection::vec(any::<u8>(), 0..300),
        limit in 0..100_000_usize,
    ) {
        for (method, side) in [("Take", Side::Request), ("Nest", Side::Request)] {
            let _ = budget(method, side).with_limit(limit).check(&message);
        }
    }

    #[test]
    fn descriptors_of_any_kind_are_read(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        message in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut descriptors = budget("Take", Side::Request).descriptors.to_vec();
        for (place, byte) in changes {
            let place = place.index(descriptors.len());
            descriptors[place] = byte;
        }
        if let Some(schema) = Schema::read("test.Test", &descriptors) {
            for sides in schema.methods.values() {
                for root in [sides.request, sides.response].into_iter().flatten() {
                    walk::memory(&schema.shapes, root, &message, 1);
                }
            }
        }
    }
}
