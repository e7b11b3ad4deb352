//! Callers that wait until they may make a call.

use super::*;
use crate::blocking::roles::Bulk;

/// Nobody but the watcher writes it, and who waits for room has nothing else to come by.
#[test]
fn who_waits_for_room_learns_that_a_void_frame_has_gone() {
    let (link, mut other) = pair_taking(3);
    // The pipe goes on to hold little.
    link.lock().writer.as_mut().unwrap().bulk = Bulk::Over;
    let _leader = spawn_call_for(&link, "leader");
    let leading = other.next_request();
    wait_for(&link, "somebody to read", |state| state.leading == Some(leading.call));
    let _stuck = spawn_call_for(&link, &"x".repeat(14 << 10));
    wait_until_stuck(&link);
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    let error =
        link.call::<String>(&Outbound { deadline, ..unary(&link) }, &text("late")).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Deadline, Delivery::NotSent));
    wait_for(&link, "the watcher to rest", |state| state.ticking == Ticking::No);
    let _waiting = spawn_call_for(&link, "waiting");
    wait_for(&link, "it to wait", |state| !state.space.is_empty());
    assert!(other.next_request().message.len() > 14 << 10);
    let next: String = prost::Message::decode(other.next_request().message).unwrap();
    assert_eq!(next, "waiting");
}

#[test]
fn whose_time_is_over_while_it_waits_for_others_learns_that_it_did() {
    let (link, mut other) = pair_taking(1);
    let _leader = spawn_call_for(&link, "leader");
    other.next_request();
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    let error =
        link.call::<String>(&Outbound { deadline, ..unary(&link) }, &text("late")).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Deadline, Delivery::NotSent));
    assert!(error.message().contains("as many others as the other side takes at once"), "{error}");
}
