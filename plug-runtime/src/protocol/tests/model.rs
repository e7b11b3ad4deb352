//! Two connections with their drivers and their users, for schedules that a generator makes up: what each was told, what
//! it holds, what is on its way, and what must hold of all that after every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::*;
use crate::protocol::flow::Budget;
use crate::protocol::{Cost, FRAME_COST};

/// Which sides of a call are streams. The methods of [`streams_hello`], in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Unary,
    Responses,
    Requests,
    Both,
}

impl Shape {
    pub(super) const ALL: [Shape; 4] =
        [Shape::Unary, Shape::Responses, Shape::Requests, Shape::Both];

    fn of_method(method: u32) -> Shape {
        Shape::ALL[method as usize - 1]
    }

    pub(super) fn opening(self) -> Opening<'static> {
        Opening {
            method: self as u32 + 1,
            streams_requests: self.has_requests(),
            streams_responses: self.has_responses(),
            ..Opening::default()
        }
    }

    pub(super) fn has_requests(self) -> bool {
        matches!(self, Shape::Requests | Shape::Both)
    }

    pub(super) fn has_responses(self) -> bool {
        matches!(self, Shape::Responses | Shape::Both)
    }
}

/// A side with all features, and a method of each shape.
pub(super) fn streams_hello() -> Hello {
    let methods = Shape::ALL.map(|shape| MethodInfo {
        name: format!("{shape:?}"),
        streams_requests: shape.has_requests(),
        streams_responses: shape.has_responses(),
        ..MethodInfo::default()
    });
    let service = ServiceInfo {
        name: "example.Streams".into(),
        methods: methods.to_vec(),
        ..ServiceInfo::default()
    };
    Hello { services: vec![service], ..hello("streams") }.with_features(&["log"])
}

/// What both sides state in their hellos, and the budget of each for messages of several frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_calls: u32,
    pub(super) stream_window: u64,
    pub(super) connection_window: u64,
    pub(super) budget: u64,
}

impl Limits {
    pub(super) fn hello(self) -> Hello {
        Hello {
            max_calls: self.max_calls,
            stream_window: self.stream_window,
            connection_window: self.connection_window,
            ..streams_hello()
        }
    }
}

/// A message of a stream that its user has not taken: its length and what it cost.
type Inbox = VecDeque<(usize, Cost)>;

/// A call, as its caller knows it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) shape: Shape,
    request: Blob,
    pub(super) sent: Vec<Blob>,
    /// Whether this side has ended its stream of requests.
    pub(super) has_ended: bool,
    pub(super) has_room: bool,
    arrived: usize,
    pub(super) inbox: Inbox,
    pub(super) outcome: Option<Result<Blob, (ErrorKind, Delivery)>>,
    given_up: bool,
}

/// A call, as its handler knows it.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) shape: Shape,
    arrived: usize,
    pub(super) inbox: Inbox,
    pub(super) requests_ended: bool,
    pub(super) is_discarded: bool,
    pub(super) has_begun: bool,
    pub(super) sent: Vec<Blob>,
    pub(super) has_room: bool,
    pub(super) is_cancelled: bool,
    pub(super) answer: Option<Answered>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answered {
    Response(Blob),
    Failed,
    Refused,
    /// A stream, with whether that went well.
    Finished(bool),
}

/// One side with its driver and users.
pub(super) struct End {
    pub(super) side: Side,
    pub(super) connection: Connection,
    /// What was taken from the connection, how much of it was written, and how much the pipe took of a write that has
    /// not returned.
    taken: Vec<u8>,
    written: usize,
    pub(super) writing: Option<usize>,
    /// What the other side wrote and this one has not read.
    pub(super) arriving: VecDeque<u8>,
    /// Whether more may arrive.
    pub(super) hears: bool,
    pub(super) made: BTreeMap<u64, Made>,
    pub(super) served: BTreeMap<u64, Served>,
    wire: Wire,
    pub(super) pongs: usize,
}

/// What one side has written so far, frame by frame.
#[derive(Default)]
struct Wire {
    partial: Vec<u8>,
    last_open: u64,
    /// Calls of which this side must not say anything more.
    closed: BTreeSet<u64>,
    credits: BTreeMap<u64, u64>,
}

impl Wire {
    fn note(&mut self, side: Side, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let mut at = 0;
        while let Varint::Value(len, prefix) = read_varint(&self.partial[at..]) {
            let end = at + prefix + len as usize;
            let Some(frame) = self.partial.get(at + prefix..end) else { break };
            let frame = Frame::decode(frame).expect("a frame");
            at = end;
            let call = frame.call;
            let is_own = side.is_caller_of(call);
            match frame.kind {
                kind::OPEN => {
                    assert!(is_own && call > self.last_open, "{side:?} opens {call}");
                    self.last_open = call;
                    if frame.flags & flag::HALF_CLOSE != 0 {
                        self.closed.insert(call);
                    }
                }
                kind::MESSAGE => {
                    assert!(!self.closed.contains(&call), "{side:?}: a message of {call}");
                    assert!(!is_own || call <= self.last_open, "{side:?}: {call} is not open");
                    if frame.flags & flag::HALF_CLOSE != 0 {
                        self.closed.insert(call);
                    }
                }
                kind::END => {
                    assert!(!is_own && self.closed.insert(call), "{side:?} ends {call}");
                }
                kind::CANCEL => {
                    assert!(is_own && call <= self.last_open, "{side:?} cancels {call}");
                    self.closed.insert(call);
                }
                kind::CREDIT => {
                    let before = self.credits.insert(call, frame.credit);
                    assert!(before < Some(frame.credit), "{side:?}: credits for {call}");
                }
                _ => {}
            }
        }
        self.partial.drain(..at);
    }
}

impl End {
    fn new(connection: Connection, side: Side) -> End {
        End {
            side,
            connection,
            taken: Vec::new(),
            written: 0,
            writing: None,
            arriving: VecDeque::new(),
            hears: true,
            made: BTreeMap::new(),
            served: BTreeMap::new(),
            wire: Wire::default(),
            pongs: 0,
        }
    }

    /// Whether the driver has something to write.
    pub(super) fn has_output(&self) -> bool {
        self.written < self.taken.len() || self.connection.has_output()
    }

    /// What a driver passes when it cancels: nothing while a write is under way elsewhere.
    fn with_taken<R>(
        &mut self,
        reaches: bool,
        act: impl FnOnce(&mut Connection, &mut [u8]) -> R,
    ) -> R {
        if self.writing.is_some() || !reaches {
            act(&mut self.connection, &mut [])
        } else {
            act(&mut self.connection, &mut self.taken[self.written..])
        }
    }

    fn note(&mut self, event: Event, other: &End) {
        let side = self.side;
        match event {
            Event::Request(request) => {
                let made = &other.made[&request.call];
                let shape = Shape::of_method(request.method);
                assert_eq!(shape, made.shape, "the method of {}", request.call);
                assert_eq!(request.has_stream, shape.has_requests());
                assert!(made.request.0 == request.message, "the request of {}", request.call);
                let served = Served {
                    shape,
                    arrived: 0,
                    inbox: Inbox::new(),
                    requests_ended: !shape.has_requests(),
                    is_discarded: false,
                    has_begun: false,
                    sent: Vec::new(),
                    has_room: true,
                    is_cancelled: false,
                    answer: None,
                };
                let before = self.served.insert(request.call, served);
                assert!(before.is_none(), "call {} arrives twice", request.call);
            }
            Event::Message { call, message, cost } => {
                let (arrived, inbox, sent) = if side.is_caller_of(call) {
                    let made = self.made.get_mut(&call).expect("a call that was made");
                    assert!(made.outcome.is_none(), "a message of {call}, which has ended");
                    (&mut made.arrived, &mut made.inbox, &other.served[&call].sent)
                } else {
                    let served = self.served.get_mut(&call).expect("a call that arrived");
                    assert!(!served.requests_ended, "a request of {call}, which have ended");
                    assert!(served.answer.is_none(), "a request of {call}, which is answered");
                    (&mut served.arrived, &mut served.inbox, &other.made[&call].sent)
                };
                assert!(sent[*arrived].0 == message, "message {arrived} of {call}");
                *arrived += 1;
                inbox.push_back((message.len(), cost));
            }
            Event::RequestsEnded { call, result } => {
                let served = self.served.get_mut(&call).expect("a call that arrived");
                assert!(!served.requests_ended, "the requests of {call} end twice");
                served.requests_ended = true;
                let made = &other.made[&call];
                if result.is_ok() {
                    assert!(made.has_ended, "{call}: nobody has ended the requests");
                    assert_eq!(served.arrived, made.sent.len(), "requests of {call}");
                }
            }
            Event::Reply { call, outcome } => {
                let made = self.made.get_mut(&call).expect("a call that was made");
                assert!(made.outcome.is_none(), "call {call} ends twice");
                let outcome = outcome.map(|message| Blob(message.to_vec()));
                agree(call, made, &outcome, other.served.get(&call));
                made.outcome = Some(outcome.map_err(|error| (error.kind(), error.delivery())));
            }
            Event::Cancelled { call } => {
                let served = self.served.get_mut(&call).expect("a call that arrived");
                assert!(served.answer.is_none(), "call {call} was answered");
                assert!(!served.is_cancelled, "call {call} is cancelled twice");
                served.is_cancelled = true;
                let wanted = other.made[&call].outcome.is_none() && !other.made[&call].given_up;
                let is_over = self.connection.failure().is_some();
                assert!(is_over || !wanted, "call {call} is wanted");
            }
            Event::Pong { payload } => {
                assert!(payload == "ping", "another payload");
                self.pongs -= 1;
            }
            Event::Log { record, .. } => assert!(record == "record" && side == Side::Host),
            Event::Level { record } => assert!(record == "level" && side == Side::Plugin),
            Event::Freed | Event::Goodbye(_) => {}
            Event::Greeted | Event::Ready => panic!("a second greeting"),
        }
    }

    /// Does what a driver does after each step, and checks what must hold then.
    fn settle(&mut self, other: &End, limits: Limits) {
        while let Some(event) = self.connection.poll_event() {
            self.note(event, other);
        }
        while let Some(call) = self.connection.poll_room() {
            if let Some(made) = self.made.get_mut(&call) {
                made.has_room = true;
            } else {
                self.served.get_mut(&call).expect("a call").has_room = true;
            }
        }
        if self.connection.is_output_void() {
            self.taken.clear();
            self.written = 0;
        }
        self.check(limits);
    }

    fn check(&self, limits: Limits) {
        let open = self.made.values().filter(|made| made.outcome.is_none()).count();
        let connection = &self.connection;
        assert!(connection.calls_made() >= open);
        assert!(connection.calls_made() <= limits.max_calls as usize);
        assert!(connection.served.len() <= limits.max_calls as usize);
        if connection.failure().is_some() {
            assert_eq!((open, connection.calls_made(), connection.calls_served()), (0, 0, 0));
        }
        // What all streams may bring, what the budget allows (one message may be larger), and of each call what has
        // arrived of a message that waits for the budget.
        let inboxes = self.made.values().map(|made| &made.inbox);
        let inboxes = inboxes.chain(self.served.values().map(|served| &served.inbox));
        let unread: usize = inboxes.flatten().map(|(len, _)| len).sum();
        let begun = 2 * u64::from(limits.max_calls) * limits.stream_window;
        let bound = limits.connection_window + limits.budget + LONGEST as u64 + begun;
        assert!(unread as u64 <= bound, "{unread} bytes are not read, where {bound} may be");
    }
}

/// What a caller was told and what the other side did must fit.
fn agree(call: u64, made: &Made, outcome: &Result<Blob, Error>, served: Option<&Served>) {
    let answer = served.map(|served| served.answer.as_ref());
    match outcome {
        Ok(message) => match answer {
            Some(Some(Answered::Response(response))) => assert_eq!(message, response, "{call}"),
            Some(Some(Answered::Finished(true))) => {
                assert_eq!(made.arrived, served.unwrap().sent.len(), "responses of {call}");
            }
            other => panic!("call {call} ends well, but the other side: {other:?}"),
        },
        Err(error) if error.kind() == ErrorKind::Status => {
            let expected = match answer {
                Some(Some(Answered::Failed)) => (Code::NotFound, Delivery::MayHaveRun),
                Some(Some(Answered::Refused)) => (Code::Aborted, Delivery::NotSent),
                Some(Some(Answered::Finished(false))) => {
                    assert_eq!(made.arrived, served.unwrap().sent.len(), "responses of {call}");
                    (Code::DataLoss, Delivery::MayHaveRun)
                }
                None => (Code::Unavailable, Delivery::NotSent),
                other => panic!("call {call} fails with {error}, but the other side: {other:?}"),
            };
            assert_eq!((error.code(), error.delivery()), expected, "{call}: {error}");
        }
        Err(error) if error.delivery() == Delivery::NotSent => {
            assert!(served.is_none(), "call {call} runs although {error}");
        }
        Err(_) => {}
    }
}

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

/// The longest message of a schedule, in bytes.
pub(super) const LONGEST: usize = 600 << 10;

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
                let read: Vec<u8> = end.arriving.drain(..most.min(end.arriving.len())).collect();
                end.connection.handle_bytes(&read);
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
        if end.written == end.taken.len() {
            end.taken.clear();
            end.written = 0;
            end.connection.poll_output(&mut end.taken);
        }
        let rest = &end.taken[end.written..];
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

impl End {
    fn wrote(&mut self, bytes: usize) {
        self.connection.handle_writing(0);
        self.connection.handle_written(bytes);
        // It was thrown away if the connection has ended meanwhile.
        self.written = (self.written + bytes).min(self.taken.len());
    }

    pub(super) fn inboxes(&self) -> impl Iterator<Item = &Inbox> {
        let made = self.made.values().map(|made| &made.inbox);
        made.chain(self.served.values().map(|served| &served.inbox))
    }

    /// Has a user take up to so many messages of a stream.
    pub(super) fn consume(&mut self, call: u64, most: usize) {
        let inbox = match self.made.get_mut(&call) {
            Some(made) => &mut made.inbox,
            None => &mut self.served.get_mut(&call).unwrap().inbox,
        };
        for (_, cost) in inbox.drain(..most.min(inbox.len())) {
            self.connection.consume(call, cost);
        }
    }

    pub(super) fn consume_all(&mut self) {
        let calls: Vec<u64> = self.made.keys().chain(self.served.keys()).copied().collect();
        for call in calls {
            self.consume(call, usize::MAX);
        }
    }

    /// Answers a call, with a stream where the call has one.
    pub(super) fn answer(&mut self, call: u64, answer: &Answered) {
        let served = self.served.get_mut(&call).unwrap();
        let answer = match (answer, served.shape.has_responses()) {
            (Answered::Response(_), true) => Answered::Finished(true),
            (Answered::Failed | Answered::Refused, true) if served.has_begun => {
                Answered::Finished(false)
            }
            (Answered::Finished(_), false) => Answered::Failed,
            (answer, _) => answer.clone(),
        };
        let connection = &mut self.connection;
        match &answer {
            Answered::Response(message) => drop(connection.reply(call, response(message))),
            Answered::Failed => drop(connection.reply(call, failed(Code::NotFound, "not there"))),
            Answered::Refused => {
                let error = Error::new(Code::Aborted, "not now");
                connection.reply(call, super::Answer::Refused(error));
            }
            Answered::Finished(true) => connection.finish(call, Ok(())),
            Answered::Finished(false) => {
                connection.finish(call, Err(Error::new(Code::DataLoss, "broke off")));
            }
        }
        served.answer = Some(answer);
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

/// What a message of a stream costs in one frame.
pub(super) fn cost(len: usize) -> u64 {
    len as u64 + FRAME_COST
}
