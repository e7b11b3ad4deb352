//! R: messages that take far more memory or depth than their length tells.

use plug::{Code, Command, Delivery, ErrorKind, Proxy as _};

use crate::aftermath::{Case, helper, raw};
use crate::streams::{FLOWING, flowing};

/// In a host of its own, since the other tests of this process take memory too.
#[test]
fn r2_messages_that_would_burst_fail_alone_and_take_no_memory() {
    let case = Case::new();
    let text = helper(&["burst", FLOWING]);
    let lines: Vec<&str> = text.lines().collect();
    let [before, request, between, response, after] = lines[..] else {
        panic!("five lines: {text}");
    };
    assert!(request.starts_with("Status ResourceExhausted NotSent flowing"), "{text}");
    assert!(request.contains("its 4194304 bytes would become"), "{text}");
    assert!(response.starts_with("TooLarge ResourceExhausted MayHaveRun flowing"), "{text}");
    assert!(response.ends_with("Command::max_decoded sets the limit"), "{text}");
    let sizes =
        |line: &str| -> Vec<u64> { line.split(' ').map(|kib| kib.parse().expect("KiB")).collect() };
    let (before, between, after) = (sizes(before), sizes(between), sizes(after));
    println!("KiB of host and plugin: {before:?}, {between:?}, {after:?}");
    // Decoded, it would be 256 MiB. What they have are the message itself and buffers for it.
    assert!(after[0] < before[0] + (48 << 10), "the host: {text}");
    assert!(between[1] < before[1] + (48 << 10), "the plugin: {text}");
    case.finish();
}

#[test]
fn r2_the_limit_is_the_hosts_to_choose_and_holds_for_items_of_streams() {
    let case = Case::new();
    let load = |limit: usize| {
        let peer = Command::new(FLOWING).max_decoded(limit).load().unwrap();
        case.expect_gone(peer.pid().unwrap());
        peer.proxy::<plug_faults::flow::FlowProxy>().unwrap()
    };
    let small = load(1 << 20);
    let error = small.burst(vec![], 100_000_u32).map(|all| all.len()).unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    assert!(error.message().contains("of at most 1048576"), "{error}");
    let mut items = small.bursts(vec![], 100_000_u32).unwrap();
    let error = items.next().expect("an item").unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::TooLarge, Delivery::MayHaveRun));
    assert!(items.next().is_none(), "nothing follows an error");
    assert_eq!(small.burst(vec![], 1000_u32).unwrap().len(), 1000);
    drop((items, small));
    let large = load(64 << 20);
    assert_eq!(large.burst(vec![], 100_000_u32).unwrap().len(), 100_000);
    drop(large);
    case.finish();
}

#[test]
fn r2_descriptors_that_would_burst_are_not_decoded() {
    let case = Case::new();
    let few = raw(&["descriptors", "10000"]);
    // They would take 200 MB.
    let many = || raw(&["descriptors", "450000"]);
    let limited = case.load(raw(&["descriptors", "10000"]).max_decoded(1 << 20));
    let unlimited = case.load(many());
    for (what, result) in [
        ("descriptors", unlimited.peer().descriptors().map(drop)),
        ("description", unlimited.peer().description().map(drop)),
        ("describe", many().describe().map(drop)),
        ("descriptors, with a limit", limited.peer().descriptors().map(drop)),
        (
            "describe, with a limit",
            raw(&["descriptors", "10000"]).max_decoded(1 << 20).describe().map(drop),
        ),
    ] {
        let error = result.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{what}: {error:?}");
        assert!(error.message().contains("Command::max_decoded"), "{what}: {error}");
    }
    assert_eq!(few.describe().unwrap().descriptors().file.len(), 10_000);
    drop((limited, unlimited));
    case.finish();
}

#[test]
fn r3_requests_of_any_depth_fail_alone() {
    let case = Case::new();
    let flow = flowing(&case, &[]);
    // Each level is field 1 with a length, or a group: known by its number, or not known at all.
    let deep = |levels: usize| {
        let mut lengths = vec![0];
        while lengths.len() < levels {
            lengths.push(lengths.last().map_or(0, |len| len + 1 + varint(*len).len()));
        }
        let levels = lengths.iter().rev();
        levels.flat_map(|len| [vec![10], varint(*len)].concat()).collect::<Vec<u8>>()
    };
    let good = deep(100);
    assert!(flow.peer().call("flow.Flow/Nest", &good).is_ok(), "100 levels are decoded");
    for (what, request) in [
        ("101 levels", deep(101)),
        ("a million levels", deep(1_000_000)),
        ("a million groups", vec![0x0b; 1_000_000]),
        ("a million groups that nobody knows", vec![0x7b; 1_000_000]),
    ] {
        let error = flow.peer().call("flow.Flow/Nest", &request).expect_err(what);
        assert_eq!(error.code(), Code::InvalidArgument, "{what}: {error:?}");
        assert!(flow.peer().call("flow.Flow/Nest", &good).is_ok(), "after {what}");
    }
    drop(flow);
    case.finish();
}

fn varint(number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    plug::prost::encoding::encode_varint(number as u64, &mut out);
    out
}
