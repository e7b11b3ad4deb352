//! What holds for every order of commands and for every way in which bytes are cut, delayed and lost.

use std::collections::{BTreeMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::survivor::small;
use super::*;
use crate::protocol::{FRAGMENT, MAX_FRAME};

/// One step of a schedule.
#[derive(Clone, Debug)]
enum Step {
    /// A side makes a call, if the other takes one more.
    Open(Side, usize),
    /// A side answers one of the calls that it serves.
    Reply(Side, usize, Outcome),
    /// The operating system takes up to so many bytes of what a side has to send.
    Write(Side, usize),
    /// A side reads up to so many of the bytes that were written to it.
    Read(Side, usize),
    Goodbye(Side),
    /// The connection is over for one side, as if its peer had died.
    Close(Side),
    /// Nothing more is written to a side, and it learns of that.
    Eof(Side),
}

#[derive(Clone, Debug)]
enum Outcome {
    Response(usize),
    Failed,
    Refused,
}

/// One side with its driver: what it was told, what it holds, and what is on its way to it.
struct End {
    connection: Connection,
    /// What was taken from the connection and not written yet.
    taken: VecDeque<u8>,
    /// What the other side wrote and this one has not read.
    arriving: VecDeque<u8>,
    /// Whether more may arrive: until it was told that nothing does.
    hears: bool,
    /// Each call made, with its request, and what became of it.
    made: BTreeMap<u64, (Blob, Option<Seen>)>,
    /// Each call served, with its request, and the answer once there is one.
    served: BTreeMap<u64, (Blob, Option<Seen>)>,
    waiting: Vec<u64>,
}

/// The two of them.
struct World {
    host: End,
    plugin: End,
    seed: u8,
}

const MAX_CALLS: u32 = 4;

impl World {
    fn new() -> World {
        let limited = |hello| Hello { max_calls: MAX_CALLS, ..hello };
        let pair = Pair::greeted(limited(kv_hello()), limited(kv_hello()));
        let end = |connection| End {
            connection,
            taken: VecDeque::new(),
            arriving: VecDeque::new(),
            hears: true,
            made: BTreeMap::new(),
            served: BTreeMap::new(),
            waiting: Vec::new(),
        };
        World { host: end(pair.host), plugin: end(pair.plugin), seed: 0 }
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Host => &mut self.host,
            Side::Plugin => &mut self.plugin,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Open(side, len) => {
                self.seed = self.seed.wrapping_add(1);
                let request = blob(*len, self.seed);
                let end = self.end(*side);
                let is_over = end.connection.failure().is_some() || end.connection.is_leaving();
                if !end.connection.can_open() {
                    return;
                }
                match end.connection.open(&unary(GET), Some(&request)) {
                    Ok(call) => drop(end.made.insert(call, (request, None))),
                    Err(error) => assert!(is_over, "{error}"),
                }
            }
            Step::Reply(side, which, outcome) => {
                self.seed = self.seed.wrapping_add(1);
                let seed = self.seed;
                let end = self.end(*side);
                if end.waiting.is_empty() {
                    return;
                }
                let call = end.waiting.swap_remove(which % end.waiting.len());
                let (answer, expected) = match outcome {
                    Outcome::Response(len) => {
                        let message = blob(*len, seed);
                        (response(&message), Seen::response(call, &message.0))
                    }
                    Outcome::Failed => (
                        failed(Code::NotFound, "nothing there"),
                        Seen::status(call, Code::NotFound, Delivery::MayHaveRun, "nothing there"),
                    ),
                    Outcome::Refused => (
                        Answer::Refused(Error::new(Code::Aborted, "not now")),
                        Seen::status(call, Code::Aborted, Delivery::NotSent, "not now"),
                    ),
                };
                end.connection.reply(call, answer);
                end.served.get_mut(&call).unwrap().1 = Some(expected);
            }
            Step::Write(side, most) => self.write(*side, *most),
            Step::Read(side, most) => self.read(*side, *most),
            Step::Goodbye(side) => {
                self.end(*side).connection.goodbye(Duration::ZERO);
            }
            Step::Close(side) => self.end(*side).connection.close(&lost()),
            Step::Eof(side) => {
                let end = self.end(*side);
                end.arriving.clear();
                end.hears = false;
                end.connection.handle_eof();
            }
        }
        self.settle();
    }

    fn write(&mut self, side: Side, most: usize) {
        let end = self.end(side);
        if end.taken.is_empty() {
            let mut out = Vec::new();
            end.connection.poll_bytes(&mut out);
            end.taken = out.into();
        }
        let written = read_from(&mut end.taken, most);
        end.connection.handle_written(written.len());
        let other = self.end(side.other());
        if other.hears {
            other.arriving.extend(written);
        }
    }

    fn read(&mut self, side: Side, most: usize) {
        let end = self.end(side);
        let read = read_from(&mut end.arriving, most);
        end.connection.handle_bytes(&read);
    }

    /// Does what a driver does after each step, and checks what must hold then.
    fn settle(&mut self) {
        for side in [Side::Host, Side::Plugin] {
            let end = self.end(side);
            for seen in seen(&mut end.connection) {
                end.note(seen);
            }
            if end.connection.is_output_void() {
                end.taken.clear();
            }
            end.check();
        }
        for (caller, server) in [(&self.host, &self.plugin), (&self.plugin, &self.host)] {
            for (call, (request, outcome)) in &caller.made {
                let served = server.served.get(call);
                if let Some((arrived, _)) = served {
                    assert_eq!(arrived, request, "the request of call {call}");
                }
                if let Some(outcome) = outcome {
                    agree(outcome, served.map(|(_, answer)| answer.as_ref()));
                }
            }
            assert!(server.served.keys().all(|call| caller.made.contains_key(call)));
        }
    }

    /// Lets everything arrive and be answered.
    fn finish(&mut self) {
        for round in 0.. {
            assert!(round < 1000, "it does not come to rest");
            for side in [Side::Host, Side::Plugin] {
                self.step(&Step::Reply(side, 0, Outcome::Response(3)));
                self.write(side, usize::MAX);
                self.settle();
                self.read(side.other(), usize::MAX);
                self.settle();
            }
            let idle = |end: &End| {
                end.taken.is_empty()
                    && end.arriving.is_empty()
                    && end.waiting.is_empty()
                    && !end.connection.has_output()
            };
            if idle(&self.host) && idle(&self.plugin) {
                break;
            }
        }
        for side in [Side::Host, Side::Plugin] {
            // Who writes to a side that does not read any more learns of it, and a side that is over
            // closes its pipes.
            if !self.end(side).hears {
                self.step(&Step::Close(side.other()));
            }
            if self.end(side).connection.failure().is_some() {
                self.step(&Step::Eof(side.other()));
            }
        }
    }
}

impl End {
    fn note(&mut self, seen: Seen) {
        match &seen {
            Seen::Request { call, message, .. } => {
                let before = self.served.insert(*call, (message.clone(), None));
                assert_eq!(before, None, "call {call} arrives twice");
                self.waiting.push(*call);
            }
            Seen::Response { call, .. } | Seen::Failure { call, .. } => {
                let (_, outcome) = self.made.get_mut(call).expect("a call that was made");
                assert_eq!(*outcome, None, "call {call} ends twice");
                *outcome = Some(seen);
            }
            Seen::Goodbye { .. } => {}
            Seen::Cancelled { call } => {
                assert!(self.connection.failure().is_some(), "nobody cancels");
                assert!(self.served.contains_key(call), "call {call} has no handler");
            }
            other => panic!("{other:?} between sides without features"),
        }
    }

    /// The tables hold what is under way and nothing else.
    fn check(&self) {
        let open = self.made.values().filter(|(_, outcome)| outcome.is_none()).count();
        assert_eq!(self.connection.calls_made(), open);
        assert!(open <= MAX_CALLS as usize);
        match self.connection.failure() {
            None => {
                assert!(self.connection.calls_served() <= MAX_CALLS as usize);
            }
            Some(_) => assert_eq!((open, self.connection.calls_served()), (0, 0)),
        }
    }
}

/// What a caller was told and what the other side did must fit. `served` is whether the request was
/// handed to a handler there, and its answer.
fn agree(outcome: &Seen, served: Option<Option<&Seen>>) {
    match outcome {
        Seen::Failure { kind: ErrorKind::Status, .. } | Seen::Response { .. } => match served {
            Some(answer) => assert_eq!(answer, Some(outcome)),
            None => {
                let refused = Seen::Failure {
                    call: 0,
                    kind: ErrorKind::Status,
                    code: Code::Unavailable,
                    delivery: Delivery::NotSent,
                    text: "this side is shutting down".into(),
                };
                let Seen::Failure { call, .. } = outcome else {
                    panic!("an answer without a request: {outcome:?}")
                };
                let mut refused = refused;
                if let Seen::Failure { call: of, .. } = &mut refused {
                    *of = *call;
                }
                assert_eq!(*outcome, refused);
            }
        },
        Seen::Failure { delivery: Delivery::NotSent, .. } => {
            assert_eq!(served, None, "it runs although {outcome:?}");
        }
        _ => {}
    }
}

fn lost() -> Error {
    Error::of_kind(ErrorKind::Exited, "the plugin was killed")
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Host), Just(Side::Plugin)]
}

fn message_len() -> impl Strategy<Value = usize> {
    prop_oneof![
        12 => 0..20usize,
        3 => 100..300usize,
        1 => FRAGMENT - 1..FRAGMENT + 2,
        1 => 2 * FRAGMENT..3 * FRAGMENT,
    ]
}

fn piece_len() -> impl Strategy<Value = usize> {
    prop_oneof![1..8usize, 8..200usize, Just(64 << 10), Just(usize::MAX)]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => message_len().prop_map(Outcome::Response),
        1 => Just(Outcome::Failed),
        1 => Just(Outcome::Refused),
    ]
}

fn peaceful_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (side(), message_len()).prop_map(|(side, len)| Step::Open(side, len)),
        3 => (side(), any::<usize>(), outcome()).prop_map(|(a, b, c)| Step::Reply(a, b, c)),
        6 => (side(), piece_len()).prop_map(|(side, len)| Step::Write(side, len)),
        6 => (side(), piece_len()).prop_map(|(side, len)| Step::Read(side, len)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => peaceful_step(),
        1 => side().prop_map(Step::Goodbye),
        1 => side().prop_map(Step::Close),
        1 => side().prop_map(Step::Eof),
    ]
}

/// So many cases, unless `PROPTEST_CASES` says otherwise.
pub(super) fn cases(usual: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { usual };
    ProptestConfig { cases, ..config }
}

proptest! {
    #![proptest_config(cases(400))]

    /// Without trouble every call gets its own answer.
    #[test]
    fn every_call_gets_its_answer(steps in vec(peaceful_step(), 0..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.finish();
        for (end, other) in [(&world.host, &world.plugin), (&world.plugin, &world.host)] {
            prop_assert!(end.connection.failure().is_none(), "{:?}", end.connection.failure());
            for (call, (_, outcome)) in &end.made {
                prop_assert!(outcome.is_some(), "call {call} has no outcome");
                prop_assert!(other.served.contains_key(call), "call {call} was not served");
            }
        }
    }

    /// Whatever ends the connection and whenever: every call ends once, with the truth.
    #[test]
    fn every_call_ends_once_and_knows_whether_it_ran(steps in vec(step(), 0..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.finish();
        for end in [&world.host, &world.plugin] {
            for (call, (_, outcome)) in &end.made {
                prop_assert!(outcome.is_some(), "call {call} has no outcome");
            }
            if let Some(error) = end.connection.failure() {
                let truncated = error.message().contains("middle of a message");
                prop_assert!(
                    error.kind() != ErrorKind::Protocol || truncated,
                    "a violation among friends: {error}"
                );
            }
        }
    }
}

/// Bytes as a peer might send them, after its hello: frames that are mostly good, in any order.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let frame = (
        prop_oneof![6 => 1..5u32, 3 => 0..12u32, 1 => 64..66u32, 1 => any::<u32>()],
        (
            prop_oneof![6 => 0..9u64, 1 => any::<u64>()],
            prop_oneof![8 => 1..5u32, 1 => any::<u32>()],
            prop_oneof![6 => Just(0u64), 2 => 0..3000u64, 1 => any::<u64>()],
        ),
        prop_oneof![0..5u32, any::<u32>()],
        prop_oneof![4 => 0..5u64, 1 => any::<u64>()],
        prop_oneof![3 => Just(0u32), 1 => 0..20u32],
        vec(any::<u8>(), 0..6),
    );
    let frame = frame.prop_map(|(kind, (call, method, credit), flags, total, code, payload)| {
        bytes(&[Frame {
            kind,
            call,
            method,
            credit,
            flags,
            total,
            code,
            payload: &payload,
            ..Frame::default()
        }])
    });
    let piece = prop_oneof![8 => frame, 1 => vec(any::<u8>(), 0..20)];
    vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// A change to some bytes: one flipped, some cut out, some put in.
fn mutations() -> impl Strategy<Value = Vec<(Index, u8, Index, Vec<u8>)>> {
    vec((any::<Index>(), any::<u8>(), any::<Index>(), vec(any::<u8>(), 0..4)), 0..4)
}

fn mutated(mut bytes: Vec<u8>, mutations: &[(Index, u8, Index, Vec<u8>)]) -> Vec<u8> {
    for (at, flip, cut, insert) in mutations {
        let at = at.index(bytes.len() + 1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= flip;
        }
        let cut_end = (at + cut.index(4)).min(bytes.len());
        bytes.splice(at..cut_end, insert.iter().copied());
    }
    bytes
}

/// Feeds bytes in pieces, and returns the events and how it ended.
fn fed(
    side: Side,
    has_features: bool,
    bytes: &[u8],
    cuts: &[Index],
) -> (Vec<Seen>, Option<String>) {
    let mut connection = small(side, has_features);
    let mut events = Vec::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut at = 0;
    for cut in cuts.into_iter().chain([bytes.len()]) {
        events.extend(feed(&mut connection, &bytes[at..cut]));
        at = cut;
        // One unfinished frame, and the messages of eight calls: no more, whatever is announced.
        let bound = 2 * (MAX_FRAME.min(bytes.len() + 16) + 8 * 1000);
        let held = connection.held();
        assert!(held <= bound, "{held} bytes are held");
        assert!(connection.calls_served() <= 4);
    }
    (events, connection.failure().map(Error::to_string))
}

proptest! {
    #![proptest_config(cases(2000))]

    /// F11: whatever arrives, it never panics, holds no more than its limits, ends each call at most
    /// once, and understands the same however the bytes are cut.
    #[test]
    fn f11_whatever_arrives_is_survived(
        (side, has_features) in (side(), any::<bool>()),
        bytes in garbage(),
        mutations in mutations(),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let bytes = mutated(bytes, &mutations);
        let whole = fed(side, has_features, &bytes, &[]);
        prop_assert_eq!(&fed(side, has_features, &bytes, &cuts), &whole);
        let mut ended = BTreeMap::new();
        for seen in &whole.0 {
            if let Seen::Response { call, .. } | Seen::Failure { call, .. } = seen {
                *ended.entry(call).or_insert(0) += 1;
            }
        }
        prop_assert!(ended.values().all(|&times| times == 1), "{:?}", whole.0);
        if whole.1.is_some() {
            prop_assert_eq!(ended.len(), 4, "a call has no outcome");
        }
    }

    /// The same before the hello, where nothing is agreed yet.
    #[test]
    fn f11_whatever_arrives_in_place_of_a_hello_is_survived(
        mutations in mutations(),
        tail in vec(any::<u8>(), 0..40),
        cut in any::<Index>(),
    ) {
        let hello = kv_hello().encode_to_vec();
        let hello = bytes(&[Frame { kind: kind::HELLO, payload: &hello, ..Frame::default() }]);
        let bytes = [&Side::Plugin.preamble()[..], &hello, &tail].concat();
        let bytes = mutated(bytes, &mutations);
        let cut = cut.index(bytes.len() + 1);
        let mut host = Connection::new(Side::Host, host_hello(), None);
        let mut events = feed(&mut host, &bytes[..cut]);
        events.extend(feed(&mut host, &bytes[cut..]));
        prop_assert!(events.len() <= 1 + tail.len(), "{events:?}");
        prop_assert!(host.held() <= 2 * bytes.len() + 64);
        let mut whole = Connection::new(Side::Host, host_hello(), None);
        prop_assert_eq!(feed(&mut whole, &bytes), events);
        let kind = |connection: &Connection| connection.failure().map(Error::kind);
        prop_assert_eq!(kind(&host), kind(&whole));
    }
}
