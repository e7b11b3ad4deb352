//! Two sides with what is between them, the steps of a schedule, and what must hold at its end.

use std::collections::BTreeMap;
use std::time::Instant;

use super::model::{Answered, End, Inbox, Limits, Made, Served, Shape};
use super::*;
use crate::protocol::flow::Budget;

/// The two of them.
pub(super) struct World {
    pub(super) host: End,
    pub(super) plugin: End,
    pub(super) limits: Limits,
    pub(super) now: Instant,
    seed: u8,
}

/// One step of a schedule. A number that chooses a call is taken modulo how many there are to choose from.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A side makes a call, if the other takes one more, with a request of that length, and maybe so many
    /// milliseconds.
    Open(Side, Shape, usize, Option<u64>),
    /// A message of a stream, of requests and of responses.
    Send(Side, usize, usize),
    Respond(Side, usize, usize),
    EndRequests(Side, usize),
    /// A user takes the next message of a stream, or all.
    Consume(Side, usize, bool),
    /// A handler does not want the rest of its requests.
    Discard(Side, usize),
    /// A side answers one of the calls that it serves.
    Answer(Side, usize, Answered),
    /// A caller gives up. The driver may reach what it has taken but not written, or not.
    Cancel(Side, usize, bool),
    /// Time passes, and both sides notice.
    Tick(u64),
    /// The operating system takes up to so many bytes of what a side has to send; the driver learns of it with the
    /// next step of that kind, or at once.
    Write(Side, usize, bool),
    /// A side reads up to so many of the bytes that were written to it.
    Read(Side, usize),
    Ping(Side),
    Log,
    Level,
    Goodbye(Side),
    /// The connection is over for one side, as if its peer had died.
    Close(Side),
    /// Nothing more is written to a side, and it learns of that.
    Eof(Side),
}

impl World {
    pub(super) fn new(limits: Limits) -> World {
        let mut pair = Pair::greeted(limits.hello(), limits.hello());
        pair.plugin.ready();
        assert_eq!(pair.plugin_speaks(), [Seen::Ready]);
        for connection in [&mut pair.host, &mut pair.plugin] {
            connection.budget = Budget::new(limits.budget);
            connection.stream_budget = Budget::new(limits.budget);
        }
        World {
            host: End::new(pair.host, Side::Host),
            plugin: End::new(pair.plugin, Side::Plugin),
            limits,
            now: Instant::now(),
            seed: 0,
        }
    }

    pub(super) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Host => &mut self.host,
            Side::Plugin => &mut self.plugin,
        }
    }

    /// A message of that length, or of as much as goes through the window in a bearable number of rounds.
    fn blob(&mut self, len: usize) -> Blob {
        let len = len.min(100 * self.limits.stream_window as usize);
        self.seed = self.seed.wrapping_add(1);
        blob(len, self.seed)
    }

    /// Does a step. Returns the call that it makes, if it makes one.
    pub(super) fn step(&mut self, step: &Step) -> Option<u64> {
        let mut opened = None;
        match *step {
            Step::Open(side, shape, len, timeout) => opened = self.open(side, shape, len, timeout),
            Step::Send(side, which, len) => self.send(side, which, len),
            Step::Respond(side, which, len) => self.respond(side, which, len),
            Step::EndRequests(side, which) => {
                let end = self.end(side);
                let open = |made: &Made| made.shape.has_requests() && !made.has_ended;
                if let Some(call) = nth(&end.made, which, open) {
                    end.made.get_mut(&call).unwrap().has_ended = true;
                    end.connection.end_requests(call);
                }
            }
            Step::Consume(side, which, all) => self.consume(side, which, all),
            Step::Discard(side, which) => {
                let end = self.end(side);
                let open = |served: &Served| served.shape.has_requests() && served.answer.is_none();
                if let Some(call) = nth(&end.served, which, open) {
                    end.served.get_mut(&call).unwrap().is_discarded = true;
                    end.connection.discard(call);
                }
            }
            Step::Answer(side, which, ref answer) => {
                let end = self.end(side);
                if let Some(call) = nth(&end.served, which, |served| served.answer.is_none()) {
                    end.answer(call, answer);
                }
            }
            Step::Cancel(side, which, reaches) => {
                let end = self.end(side);
                if let Some(call) = nth(&end.made, which, |made| made.outcome.is_none()) {
                    end.made.get_mut(&call).unwrap().given_up = true;
                    let error = Error::of_kind(ErrorKind::Cancelled, "not wanted");
                    end.with_taken(reaches, |core, taken| core.cancel(call, &error, taken));
                }
            }
            Step::Tick(millis) => {
                self.now += Duration::from_millis(millis);
                let now = self.now;
                for side in [Side::Host, Side::Plugin] {
                    let end = self.end(side);
                    // A deadline may end any of them now.
                    for made in end.made.values_mut() {
                        made.given_up = true;
                    }
                    end.with_taken(true, |core, taken| core.handle_timeout(now, taken));
                }
            }
            Step::Write(side, most, at_once) => self.write(side, most, at_once),
            Step::Read(side, most) => {
                let end = self.end(side);
                let read = read_from(&mut end.arriving, most);
                hear(&mut end.connection, &read);
            }
            Step::Ping(side) => {
                let end = self.end(side);
                end.pongs += usize::from(end.connection.ping(b"ping").is_ok());
            }
            Step::Log => drop(self.plugin.connection.log(0, b"record")),
            Step::Level => self.host.connection.set_level(b"level"),
            Step::Goodbye(side) => self.end(side).connection.goodbye(Duration::ZERO),
            Step::Close(side) => self.end(side).connection.close(&lost()),
            Step::Eof(side) => {
                let end = self.end(side);
                end.arriving.clear();
                end.hears = false;
                end.connection.handle_eof();
            }
        }
        self.settle();
        opened
    }

    fn open(&mut self, side: Side, shape: Shape, len: usize, timeout: Option<u64>) -> Option<u64> {
        let request = if shape.has_requests() { Blob::default() } else { self.blob(len) };
        let now = self.now;
        let end = self.end(side);
        let is_over = end.connection.failure().is_some() || end.connection.is_leaving();
        if !end.connection.can_open() {
            return None;
        }
        let deadline = timeout.map(|millis| (now + Duration::from_millis(millis), now));
        let opening = Opening { deadline, ..shape.opening() };
        let message = (!shape.has_requests()).then_some(&request);
        match end.connection.open(&opening, message) {
            Ok(call) => {
                let made = Made {
                    shape,
                    request,
                    sent: Vec::new(),
                    has_ended: !shape.has_requests(),
                    has_room: true,
                    arrived: 0,
                    inbox: Inbox::new(),
                    outcome: None,
                    given_up: false,
                };
                end.made.insert(call, made);
                Some(call)
            }
            Err(error) => {
                assert!(is_over, "{error}");
                None
            }
        }
    }

    fn send(&mut self, side: Side, which: usize, len: usize) {
        let message = self.blob(len);
        let end = self.end(side);
        let ready = |made: &Made| made.has_room && !made.has_ended && made.outcome.is_none();
        let Some(call) = nth(&end.made, which, ready) else { return };
        let made = end.made.get_mut(&call).unwrap();
        made.has_room = end.connection.send(call, &message.0).unwrap();
        made.sent.push(message);
    }

    fn respond(&mut self, side: Side, which: usize, len: usize) {
        let message = self.blob(len);
        let end = self.end(side);
        let ready = |served: &Served| {
            served.shape.has_responses() && served.answer.is_none() && served.has_room
        };
        let Some(call) = nth(&end.served, which, ready) else { return };
        let served = end.served.get_mut(&call).unwrap();
        if !served.has_begun {
            served.has_begun = true;
            end.connection.begin_responses(call);
        }
        served.has_room = end.connection.send(call, &message.0).unwrap();
        served.sent.push(message);
    }

    fn consume(&mut self, side: Side, which: usize, all: bool) {
        let end = self.end(side);
        let made = nth(&end.made, which, |made| !made.inbox.is_empty());
        let served = nth(&end.served, which, |served| !served.inbox.is_empty());
        let Some(call) = (if which % 2 == 0 { made.or(served) } else { served.or(made) }) else {
            return;
        };
        end.consume(call, if all { usize::MAX } else { 1 });
    }

    /// Lets the operating system take some bytes of what a side has to send.
    fn write(&mut self, side: Side, most: usize, at_once: bool) {
        let end = self.end(side);
        if let Some(bytes) = end.writing.take() {
            end.wrote(bytes);
        }
        if end.taken.is_empty() {
            end.taken.clear();
            end.connection.poll_output(&mut end.taken);
        }
        let rest = end.taken.to_vec();
        end.connection.handle_writing(rest.len());
        let bytes = rest[..most.min(rest.len())].to_vec();
        end.wire.note(side, &bytes);
        if at_once {
            end.wrote(bytes.len());
        } else {
            end.writing = Some(bytes.len());
        }
        let other = self.end(side.other());
        if other.hears {
            other.arriving.extend(bytes);
        }
    }

    fn settle(&mut self) {
        self.host.settle(&self.plugin, self.limits);
        self.plugin.settle(&self.host, self.limits);
    }

    /// Lets everything arrive and be read, until nothing happens any more.
    pub(super) fn rest(&mut self) {
        for round in 0.. {
            assert!(round < 20_000, "it does not come to rest");
            for side in [Side::Host, Side::Plugin] {
                self.end(side).consume_all();
                self.step(&Step::Write(side, usize::MAX, true));
                self.step(&Step::Read(side.other(), usize::MAX));
            }
            let is_idle = |end: &End| {
                end.arriving.is_empty() && !end.has_output() && end.inboxes().all(Inbox::is_empty)
            };
            if is_idle(&self.host) && is_idle(&self.plugin) {
                break;
            }
        }
    }

    /// Lets everything go on to its end, and checks that it comes to one.
    pub(super) fn finish(&mut self) {
        self.rest();
        self.check_room();
        for side in [Side::Host, Side::Plugin] {
            let end = self.end(side);
            for (&call, made) in end.made.iter_mut().filter(|(_, made)| !made.has_ended) {
                made.has_ended = true;
                end.connection.end_requests(call);
            }
            let open: Vec<u64> =
                end.served.iter().filter(|(_, s)| s.answer.is_none()).map(|(c, _)| *c).collect();
            for call in open {
                let answer = match end.served[&call].shape.has_responses() {
                    true => Answered::Finished(true),
                    false => Answered::Response(text("at last")),
                };
                end.answer(call, &answer);
            }
        }
        self.rest();
        for side in [Side::Host, Side::Plugin] {
            // Who writes to a side that does not read any more learns of it, and a side that is over closes its pipes.
            if !self.end(side).hears {
                self.step(&Step::Close(side.other()));
            }
            if self.end(side).connection.failure().is_some() {
                self.step(&Step::Eof(side.other()));
            }
        }
        self.check_end();
    }

    /// Whether the connection is as good as new.
    pub(super) fn is_peaceful(&self) -> bool {
        [&self.host, &self.plugin].iter().all(|end| {
            end.connection.failure().is_none() && !end.connection.is_leaving() && end.hears
        })
    }

    /// Nobody waits for room in a stream of which everything was read.
    fn check_room(&self) {
        if !self.is_peaceful() {
            return;
        }
        for (end, other) in [(&self.host, &self.plugin), (&self.plugin, &self.host)] {
            for (call, made) in &end.made {
                let wanted = other.served.get(call).is_some_and(|served| !served.is_discarded);
                let is_open = made.outcome.is_none() && !made.has_ended && wanted;
                assert!(!is_open || made.has_room, "the requests of {call} are stuck");
            }
            for (call, served) in &end.served {
                let wanted = other.made[call].outcome.is_none();
                let is_open = served.answer.is_none() && wanted;
                assert!(!is_open || served.has_room, "the responses of {call} are stuck");
            }
        }
    }

    fn check_end(&self) {
        for end in [&self.host, &self.plugin] {
            for (call, made) in &end.made {
                assert!(made.outcome.is_some(), "call {call} has no outcome: {made:?}");
            }
            if let Some(error) = end.connection.failure() {
                let truncated = error.message().contains("middle of a message");
                let is_violation = error.kind() == ErrorKind::Protocol && !truncated;
                assert!(!is_violation, "a violation among friends: {error}");
            }
        }
        if !self.is_peaceful() {
            return;
        }
        for (end, other) in [(&self.host, &self.plugin), (&self.plugin, &self.host)] {
            let connection = &end.connection;
            assert_eq!(connection.calls_made(), 0, "calls that are forgotten but not gone");
            assert_eq!(connection.served.len(), 0, "calls that are never let go");
            assert_eq!(end.pongs, 0, "pings without an answer");
            assert!(connection.outbox.is_bare(), "{:?}", connection.outbox);
            assert!(connection.budget.is_unused(), "{:?}", connection.budget);
            assert!(connection.stream_budget.is_unused(), "{:?}", connection.stream_budget);
            let (size, granted, received, consumed) = connection.window.numbers();
            assert_eq!(received, consumed, "credit that leaked");
            assert!(granted - consumed > size / 2, "a window that is not whole again");
            assert_eq!(other.connection.outbox.allowance(), (granted, received), "both count");
        }
    }
}

/// Chooses one of the calls for which something holds.
fn nth<T>(calls: &BTreeMap<u64, T>, which: usize, holds: impl Fn(&T) -> bool) -> Option<u64> {
    let fitting: Vec<u64> =
        calls.iter().filter(|(_, call)| holds(call)).map(|(id, _)| *id).collect();
    (!fitting.is_empty()).then(|| fitting[which % fitting.len()])
}

fn lost() -> Error {
    Error::of_kind(ErrorKind::Exited, "the plugin was killed")
}
