//! How two sides agree on memory, and that nobody can make them believe they have.

use super::super::{MemoryOffer, MemoryRequest};
use super::*;
use crate::protocol::receive::MAX_IDLE;

fn hello() -> Hello {
    Hello::new(String::new(), String::new()).with_features(&["shm"])
}

fn pair() -> Pair {
    let mut pair = Pair::greeted(hello(), hello());
    pair.plugin.ready();
    pair.plugin_speaks();
    pair
}

const REQUEST: MemoryRequest = MemoryRequest { capacity: 4096, may_poll: true };
const OFFER: MemoryOffer = MemoryOffer { descriptor: 7, capacity: 4096, mark: 1 << 60 };

/// What one side has to say goes to the other.
fn pass(from: &mut Connection, to: &mut Connection) -> Option<Event> {
    let said = output(from);
    to.handle_bytes(&said);
    to.poll_event()
}

#[test]
fn memory_is_asked_for_offered_and_taken_into_use_one_direction_after_the_other() {
    let Pair { mut host, mut plugin, .. } = pair();
    assert!(host.can_share() && !plugin.can_share());
    host.ask_for_memory(&REQUEST);
    assert!(!host.can_share(), "it is asked for once");
    let wanted = pass(&mut host, &mut plugin);
    assert!(matches!(wanted, Some(Event::MemoryWanted(request)) if request == REQUEST));
    plugin.offer_memory(Some(&OFFER));
    let offered = pass(&mut plugin, &mut host);
    assert!(matches!(offered, Some(Event::MemoryOffered(offer)) if offer == OFFER));

    let before = host.sent();
    let from = host.switch();
    let said = output(&mut host);
    assert_eq!(from, before + said.len() as u64, "the switch is the last in the pipe");
    plugin.handle_bytes(&said);
    assert!(plugin.has_switched() && !host.has_switched());
    plugin.switch();
    assert!(pass(&mut plugin, &mut host).is_none());
    assert!(host.has_switched());
    assert!(host.failure().is_none() && plugin.failure().is_none());
}

#[test]
fn either_side_may_have_none_of_it() {
    let Pair { mut host, mut plugin, .. } = pair();
    host.ask_for_memory(&REQUEST);
    pass(&mut host, &mut plugin);
    plugin.offer_memory(None);
    assert!(matches!(pass(&mut plugin, &mut host), Some(Event::MemoryDeclined)));
    assert!(host.failure().is_none() && !host.can_share());

    let Pair { mut host, mut plugin, .. } = pair();
    host.ask_for_memory(&REQUEST);
    pass(&mut host, &mut plugin);
    plugin.offer_memory(Some(&OFFER));
    pass(&mut plugin, &mut host);
    host.decline_memory();
    assert!(matches!(pass(&mut host, &mut plugin), Some(Event::MemoryDeclined)));
    assert!(plugin.failure().is_none() && !plugin.has_switched());

    let without = Hello::new(String::new(), String::new()).with_features(&[]);
    assert!(!Pair::greeted(hello(), without).host.can_share());
}

#[test]
fn x11_what_was_not_agreed_on_ends_the_connection() {
    let memory = |payload: &'static [u8]| Frame { kind: kind::MEMORY, payload, ..Frame::default() };
    let switch = Frame { kind: kind::SWITCH, ..Frame::default() };
    let declined = Frame { kind: kind::MEMORY, code: 14, ..Frame::default() };
    let bytes = |frames: &[Frame<'_>]| {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        bytes
    };
    let to_host: [&[Frame<'_>]; 4] = [&[switch], &[memory(b"")], &[declined], &[memory(b"\xff")]];
    for frames in to_host {
        let mut pair = pair();
        pair.host.handle_bytes(&bytes(frames));
        let failure = pair.host.failure().map(Error::kind);
        assert_eq!(failure, Some(ErrorKind::Protocol), "unasked: {frames:?}");
    }
    for frames in [&[switch][..], &[memory(b"\xff")], &[memory(b""), switch]] {
        let mut pair = pair();
        pair.host.ask_for_memory(&REQUEST);
        pair.host.handle_bytes(&bytes(frames));
        let failure = pair.host.failure().map(Error::kind);
        assert_eq!(failure, Some(ErrorKind::Protocol), "asked: {frames:?}");
    }
    let to_plugin: [&[Frame<'_>]; 5] = [
        &[switch],
        &[declined],
        &[memory(b"\xff")],
        &[memory(b""), memory(b"")],
        &[memory(b""), switch],
    ];
    for frames in to_plugin {
        let mut pair = pair();
        pair.plugin.handle_bytes(&bytes(frames));
        let failure = pair.plugin.failure().map(Error::kind);
        assert_eq!(failure, Some(ErrorKind::Protocol), "{frames:?}");
    }
    let mut twice = pair();
    twice.host.ask_for_memory(&REQUEST);
    pass(&mut twice.host, &mut twice.plugin);
    twice.plugin.offer_memory(Some(&OFFER));
    twice.plugin.handle_bytes(&bytes(&[switch]));
    twice.plugin.handle_bytes(&bytes(&[switch]));
    assert_eq!(twice.plugin.failure().map(Error::kind), Some(ErrorKind::Protocol), "two switches");
}

/// A host that has switched, and what its plugin says then: a switch.
fn switched() -> (Connection, Vec<u8>) {
    let Pair { mut host, mut plugin, .. } = pair();
    host.ask_for_memory(&REQUEST);
    pass(&mut host, &mut plugin);
    plugin.offer_memory(Some(&OFFER));
    pass(&mut plugin, &mut host);
    host.switch();
    pass(&mut host, &mut plugin);
    plugin.switch();
    let said = output(&mut plugin);
    (host, said)
}

/// Whether they come with the same read, or with the next, which nobody hands to the core.
#[test]
fn x11_what_stands_in_the_pipe_behind_a_switch_is_no_frame() {
    for behind in [&[0; 100][..], b"Hello\n", &[0xff; 10], &[3]] {
        let (mut host, said) = switched();
        host.handle_bytes(&[&said, behind].concat());
        assert!(
            host.has_switched() && host.failure().is_none(),
            "{behind:?}: {:?}",
            host.failure()
        );
        assert!(!host.is_truncated(), "{behind:?}");
        // Also where the switch itself came in pieces.
        let (mut host, said) = switched();
        let (first, rest) = said.split_at(1);
        host.handle_bytes(first);
        host.handle_bytes(&[rest, behind].concat());
        assert!(
            host.has_switched() && host.failure().is_none(),
            "{behind:?}: {:?}",
            host.failure()
        );
        assert!(!host.is_truncated(), "{behind:?}");
    }
}

#[test]
fn f16_x11_who_is_woken_for_nothing_again_and_again_ends_the_connection() {
    let (mut host, said) = switched();
    host.handle_bytes(&said);
    host.handle_idle_bells(MAX_IDLE as usize);
    assert!(host.failure().is_none());
    host.handle_idle_bells(1);
    assert_eq!(host.failure().map(Error::kind), Some(ErrorKind::Protocol));
    assert!(host.failure().unwrap().message().contains("a flood"), "{:?}", host.failure());
}
