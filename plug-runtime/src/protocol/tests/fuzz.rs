//! What must hold for any bytes: the checks behind the targets in `fuzz/`, which a test here does over for each input
//! that is stored there.

use std::time::Instant;

use super::model::{Answered, LONGEST, Limits, Shape, streams_hello};
use super::survivor::{ACTS, Survivor};
use super::world::{Step, World};
use super::*;
use crate::choices::Choices;
use crate::protocol::FRAGMENT;
use crate::protocol::frame::is_read_alike;

const SIDES: [Side; 2] = [Side::Host, Side::Plugin];

/// A side hears frames and garbage, and its users do this and that in between. Short frames are read as any others.
pub(crate) fn frames(data: &[u8]) {
    assert!(is_read_alike(data), "{data:02x?}");
    let mut choices = Choices::new(data);
    let mut survivor = survivor(&mut choices);
    while !choices.are_over() {
        match choices.below(8) {
            // As they are: also half a frame, or several.
            0 => {
                let len = choices.below(1 << 12);
                survivor.hear(choices.take(len));
            }
            1..4 => survivor.hear(&framed(&mut choices)),
            4 | 5 => survivor.hear(&frame(&mut choices)),
            _ => survivor.act(choices.pick(&ACTS)),
        }
    }
    survivor.end();
}

/// A side hears the same in one piece, in pieces cut anywhere, and byte by byte, read to where it belongs or not.
pub(crate) fn split(data: &[u8]) {
    let mut choices = Choices::new(data);
    let setup = choices.take(1);
    let mut cuts: Vec<usize> = (0..choices.below(16)).map(|_| choices.below(1 << 12)).collect();
    let mut said = Vec::new();
    while !choices.are_over() {
        match choices.below(4) {
            0 => said.extend_from_slice(choices.rest()),
            1 | 2 => said.extend(framed(&mut choices)),
            _ => said.extend(frame(&mut choices)),
        }
    }
    let understood = |pieces: &mut dyn Iterator<Item = &[u8]>, lends: bool| {
        let mut survivor = survivor(&mut Choices::new(setup));
        // A call before that is a mistake of the host's, which depends on the time.
        survivor.accepts = false;
        survivor.lends = lends;
        pieces.for_each(|piece| survivor.hear(piece));
        let said = output(&mut survivor.connection);
        (survivor.end(), said)
    };
    let whole = understood(&mut [&said[..]].into_iter(), false);
    cuts.iter_mut().for_each(|cut| *cut = (*cut).min(said.len()));
    cuts.sort_unstable();
    let begins = [0].into_iter().chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([said.len()]);
    let pieces = begins.zip(ends).map(|(begin, end)| &said[begin..end]);
    for lends in [false, true] {
        assert_eq!(understood(&mut pieces.clone(), lends), whole, "cut at {cuts:?}, {lends}");
        assert_eq!(understood(&mut said.chunks(1), lends), whole, "byte by byte, {lends}");
    }
}

/// Both roles make calls, serve them, and send and read streams, over pipes that hold little, until something ends it
/// or all of it has come to its end.
pub(crate) fn sessions(data: &[u8]) {
    let mut choices = Choices::new(data);
    let stream_window = choices.pick(&[32, 64, 500, 3000, 512 << 10]);
    let limits = Limits {
        max_calls: choices.pick(&[1, 2, 5, 64]),
        stream_window,
        connection_window: stream_window * choices.pick(&[1, 2, 5, 32]),
        budget: choices.pick(&[1, 3000, 300 << 10, 64 << 20]),
    };
    let capacity = choices.pick(&[1, 7, 100, 4096, 65536]);
    let mut world = World::new(limits);
    for _ in 0..MOST_STEPS {
        if choices.are_over() {
            break;
        }
        let step = step(&mut choices, &mut world, capacity);
        world.step(&step);
    }
    world.finish();
}

/// Two sides that say anything in their hellos, or one that hears anything instead of a hello: both come to the same
/// end, and to one.
pub(crate) fn handshake(data: &[u8]) {
    let mut choices = Choices::new(data);
    if choices.flag() {
        let [host, plugin] = [(); 2].map(|()| {
            let len = choices.below(1 << 10);
            sane(Hello::decode(choices.take(len)).unwrap_or_else(|_| kv_hello()))
        });
        agree(host, plugin);
        return;
    }
    let side = choices.pick(&SIDES);
    let by = Instant::now();
    let mut connection = Connection::new(side, streams_hello(), Some(by));
    connection.handle_bytes(side.other().preamble());
    let payload = choices.rest();
    let hello = bytes(&[Frame { kind: kind::HELLO, payload, ..Frame::default() }]);
    connection.handle_bytes(&hello);
    let has_greeted = seen(&mut connection) == [Seen::Greeted];
    assert_eq!(has_greeted, connection.peer().is_some());
    assert_ne!(has_greeted, connection.failure().is_some(), "neither greeted nor over");
    if side == Side::Plugin && has_greeted {
        connection.accept();
        connection.ready();
    }
    for shape in Shape::ALL {
        let request = (!shape.has_requests()).then(|| text("k"));
        if let Ok(call) = connection.open(&shape.opening(), request.as_ref()) {
            if shape.has_requests() {
                let _ = connection.send(call, &[7; 1000]);
            }
        }
    }
    output(&mut connection);
    connection.handle_timeout(by, &mut Output::default());
    let is_up = has_greeted && (side == Side::Plugin || connection.is_ready());
    assert_ne!(is_up, connection.failure().is_some(), "it waits for ever");
}

fn survivor(choices: &mut Choices<'_>) -> Survivor {
    let setup = choices.below(8);
    let (side, has_features) = (SIDES[setup & 1], setup & 2 != 0);
    match setup & 4 {
        0 => Survivor::greeted(side, has_features),
        _ => Survivor::ungreeted(side, has_features),
    }
}

/// The next bytes as the content of a frame.
fn framed(choices: &mut Choices<'_>) -> Vec<u8> {
    let len = choices.below(256);
    let content = choices.take(len);
    let mut framed = vec![content.len() as u8];
    if content.len() >= 0x80 {
        framed = vec![content.len() as u8 | 0x80, 1];
    }
    framed.extend_from_slice(content);
    framed
}

/// A frame that is well-formed, and mostly of the kinds and about the calls that there are.
fn frame(choices: &mut Choices<'_>) -> Vec<u8> {
    let kind = choices.pick(&[2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 64, 65, 127, 11]);
    let call = choices.below(16) as u64;
    let method = choices.below(6) as u32;
    let flags = choices.pick(&[0, 1, 2, 3, 4, 5, 8]);
    let total = choices.pick(&[0, 0, 5, 100, 600, 1000, 1001, 1 << 20, u64::MAX]);
    let credit = choices.pick(&[0, 100, 300, 500, 600, 10_000, 1 << 50, u64::MAX]);
    let code = choices.pick(&[0, 5, 77]);
    let len = choices.below(512);
    let payload = &vec![7; len];
    bytes(&[Frame { kind, call, method, flags, total, credit, code, payload, ..Frame::default() }])
}

fn step(choices: &mut Choices<'_>, world: &mut World, capacity: usize) -> Step {
    let kind = choices.below(64);
    let side = SIDES[kind & 1];
    let other = side.other();
    match kind >> 1 {
        0..3 => {
            let shape = choices.pick(&Shape::ALL);
            let timeout = choices.pick(&[None, None, Some(1), Some(20)]);
            Step::Open(side, shape, len(choices), timeout)
        }
        3..6 => Step::Send(side, choices.below(16), len(choices)),
        6..9 => Step::Respond(side, choices.below(16), len(choices)),
        9 => Step::EndRequests(side, choices.below(16)),
        10..12 => Step::Consume(side, choices.below(16), choices.flag()),
        12 => Step::Discard(side, choices.below(16)),
        13..15 => {
            let which = choices.below(16);
            let answer = match choices.below(6) {
                0 => Answered::Failed,
                1 => Answered::Refused,
                2 => Answered::Finished(false),
                3 => Answered::Finished(true),
                _ => Answered::Response(blob(len(choices), 7)),
            };
            Step::Answer(side, which, answer)
        }
        15 => Step::Cancel(side, choices.below(16), choices.flag()),
        16 => Step::Tick(choices.below(30) as u64),
        17 => Step::Ping(side),
        18 => [Step::Log, Step::Level][choices.below(2)].clone(),
        19 => match choices.below(16) {
            0 => Step::Goodbye(side),
            1 => Step::Close(side),
            2 => Step::Eof(side),
            // The bytes to a side stop in the middle.
            3 => {
                let after = choices.below(1 << 12);
                world.end(side).arriving.truncate(after);
                world.step(&Step::Read(side, usize::MAX));
                Step::Eof(side)
            }
            _ => Step::Tick(1),
        },
        20..26 => {
            let room = capacity.saturating_sub(world.end(other).arriving.len());
            Step::Write(side, room.min(piece(choices)), choices.flag())
        }
        _ => Step::Read(side, piece(choices)),
    }
}

fn len(choices: &mut Choices<'_>) -> usize {
    match choices.below(16) {
        0 => FRAGMENT - 20 + choices.below(64),
        1 => 2 * FRAGMENT + choices.below(LONGEST - 2 * FRAGMENT),
        2..6 => choices.below(4096),
        few => few,
    }
}

fn piece(choices: &mut Choices<'_>) -> usize {
    choices.pick(&[1, 5, 30, 200, 4096, usize::MAX])
}

/// What a side of ours may say of itself, since it does not mean to harm.
fn sane(hello: Hello) -> Hello {
    let stream_window = hello.stream_window.clamp(32, 1 << 30);
    let connection_window = hello.connection_window.clamp(stream_window, 1 << 40);
    Hello { stream_window, connection_window, ..hello }
}

fn agree(host: Hello, plugin: Hello) {
    let mut pair = Pair::new(host, plugin);
    let heard = pair.host_speaks();
    if heard == [Seen::Greeted] {
        pair.plugin.accept();
        pair.plugin.ready();
    }
    let answered = pair.plugin_speaks();
    let failures = [&pair.host, &pair.plugin].map(|side| side.failure().map(Error::kind));
    assert_eq!(failures[0], failures[1], "{heard:?} and {answered:?}");
    if failures[0].is_some() {
        return;
    }
    assert_eq!(pair.host.features(), pair.plugin.features());
    assert!(pair.host.is_ready(), "{answered:?}");
    // A call that the plugin answers, with whatever it was called for.
    let can_open = pair.host.can_open();
    let Ok(call) = pair.host.open(&unary(1), Some(&Blob::default())) else { return };
    assert!(can_open);
    pair.host_speaks();
    pair.plugin.reply(call, response(&Blob::default()));
    let answered = pair.plugin_speaks();
    assert_eq!(answered.len(), 1, "{answered:?}");
}

/// As many steps as a session takes at most.
const MOST_STEPS: usize = 1000;
