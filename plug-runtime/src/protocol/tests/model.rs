//! One side of a connection with its driver and its users, for schedules that a generator makes up: what it was told,
//! what it holds, what is on its way to it, and what must hold of all that after every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
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
pub(super) type Inbox = VecDeque<(usize, Cost)>;

/// A call, as its caller knows it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) shape: Shape,
    pub(super) request: Blob,
    pub(super) sent: Vec<Blob>,
    /// Whether this side has ended its stream of requests.
    pub(super) has_ended: bool,
    pub(super) has_room: bool,
    pub(super) arrived: usize,
    pub(super) inbox: Inbox,
    pub(super) outcome: Option<Result<Blob, (ErrorKind, Delivery)>>,
    pub(super) given_up: bool,
}

/// A call, as its handler knows it.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) shape: Shape,
    pub(super) arrived: usize,
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
    /// What was taken from the connection and not written, and how much the pipe took of a write that has
    /// not returned.
    pub(super) taken: Output,
    pub(super) writing: Option<usize>,
    /// What the other side wrote and this one has not read.
    pub(super) arriving: VecDeque<u8>,
    /// Whether more may arrive.
    pub(super) hears: bool,
    pub(super) made: BTreeMap<u64, Made>,
    pub(super) served: BTreeMap<u64, Served>,
    pub(super) wire: Wire,
    pub(super) pongs: usize,
}

/// What one side has written so far, frame by frame.
#[derive(Default)]
pub(super) struct Wire {
    partial: Vec<u8>,
    last_open: u64,
    /// Calls of which this side must not say anything more.
    closed: BTreeSet<u64>,
    credits: BTreeMap<u64, u64>,
}

impl Wire {
    pub(super) fn note(&mut self, side: Side, bytes: &[u8]) {
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
    pub(super) fn new(connection: Connection, side: Side) -> End {
        End {
            side,
            connection,
            taken: Output::default(),
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
        !self.taken.is_empty() || self.connection.has_output()
    }

    /// What a driver passes when it cancels: nothing while a write is under way elsewhere.
    pub(super) fn with_taken<R>(
        &mut self,
        reaches: bool,
        act: impl FnOnce(&mut Connection, &mut Output) -> R,
    ) -> R {
        if self.writing.is_some() || !reaches {
            act(&mut self.connection, &mut Output::default())
        } else {
            act(&mut self.connection, &mut self.taken)
        }
    }

    pub(super) fn note(&mut self, event: Event, other: &End) {
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
            Event::Messages { call, messages, cost } => {
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
                for (message, cost) in messages.split(cost) {
                    assert!(sent[*arrived].0 == message, "message {arrived} of {call}");
                    *arrived += 1;
                    inbox.push_back((message.len(), cost));
                }
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
            Event::MemoryWanted(_) | Event::MemoryOffered(_) | Event::MemoryDeclined => {
                panic!("neither side lists shm")
            }
        }
    }

    /// Does what a driver does after each step, and checks what must hold then.
    pub(super) fn settle(&mut self, other: &End, limits: Limits) {
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
            self.connection.discard_output(&mut self.taken);
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

impl End {
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.connection.handle_writing(0);
        if self.taken.is_empty() {
            // It was thrown away, since the connection has ended meanwhile.
            return self.connection.handle_written(bytes);
        }
        self.connection.advance(&mut self.taken, bytes);
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

/// What a message of a stream costs in one frame.
pub(super) fn cost(len: usize) -> u64 {
    len as u64 + FRAME_COST
}

/// The longest message of a schedule, in bytes.
pub(super) const LONGEST: usize = 600 << 10;
