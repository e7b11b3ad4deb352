//! One side whose peer says anything at all, with a driver and users: what must hold all the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::model::{Shape, Wire, streams_hello};
use super::*;
use crate::protocol::{Cost, MAX_FRAME};

/// What a user of a [`Survivor`] may do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Answers the oldest call that it serves: with a response, an error or a refusal.
    Respond,
    Fail,
    Refuse,
    /// Answers it with a stream, goes on with that, or ends it.
    SendResponse,
    Finish,
    /// Does not want the rest of its requests.
    Discard,
    /// Takes one message that has arrived, or all.
    Consume,
    ConsumeAll,
    /// Makes a call, sends another request in the newest one, ends its requests, gives it up.
    Open(Shape),
    SendRequest,
    EndRequests,
    Cancel,
    Ping,
    Goodbye,
    /// The operating system takes what there is to be sent.
    Write,
    /// Nothing more arrives.
    Eof,
}

pub(super) const ACTS: [Act; 19] = [
    Act::Respond,
    Act::Fail,
    Act::Refuse,
    Act::SendResponse,
    Act::Finish,
    Act::Discard,
    Act::Consume,
    Act::ConsumeAll,
    Act::Open(Shape::Unary),
    Act::Open(Shape::Responses),
    Act::Open(Shape::Requests),
    Act::Open(Shape::Both),
    Act::SendRequest,
    Act::EndRequests,
    Act::Cancel,
    Act::Ping,
    Act::Goodbye,
    Act::Write,
    Act::Eof,
];

pub(super) struct Survivor {
    side: Side,
    pub(super) connection: Connection,
    limits: Limits,
    /// Its calls that have no outcome.
    open: BTreeSet<u64>,
    /// The calls that it serves, with what is not answered of them.
    served: BTreeMap<u64, Serving>,
    unread: VecDeque<(u64, Cost)>,
    heard: usize,
    wire: Wire,
    has_preamble: bool,
    /// Whether a plugin answers the hello of its host.
    pub(super) accepts: bool,
    /// Whether what arrives is put where it belongs.
    pub(super) lends: bool,
    pub(super) events: Vec<Seen>,
}

#[derive(Debug, Default)]
struct Serving {
    streams: bool,
    requests_ended: bool,
    is_cancelled: bool,
}

/// What a small side states, and what it therefore may hold.
struct Limits {
    calls: usize,
    message: usize,
    window: u64,
}

const SMALL: Limits = Limits { calls: 4, message: 1000, window: 600 };

/// The hello of a side that serves at most four calls of at most 1000 bytes.
fn small_hello(has_features: bool) -> Hello {
    let base = if has_features { streams_hello() } else { kv_hello() };
    Hello {
        max_calls: SMALL.calls as u32,
        max_message: SMALL.message as u64,
        stream_window: base.stream_window.min(SMALL.window / 2),
        connection_window: base.connection_window.min(SMALL.window),
        ..base
    }
}

/// A small side that has four calls of its own open: one of each shape, if both sides have all features.
pub(super) fn small(side: Side, has_features: bool) -> Connection {
    let limited = small_hello(has_features);
    let pair = match has_features {
        true => streaming(limited.clone(), limited),
        false => Pair::greeted(limited.clone(), limited),
    };
    let mut connection = match side {
        Side::Host => pair.host,
        Side::Plugin => pair.plugin,
    };
    for shape in Shape::ALL {
        let opening = if has_features { shape.opening() } else { unary(GET) };
        let request = (!opening.streams_requests).then(|| text("k"));
        let call = connection.open(&opening, request.as_ref()).unwrap();
        if opening.streams_requests {
            connection.send(call, &[7; 500]).unwrap();
        }
    }
    output(&mut connection);
    connection
}

impl Survivor {
    /// A side that has not heard anything yet.
    pub(super) fn ungreeted(side: Side, has_features: bool) -> Survivor {
        let connection = Connection::new(side, small_hello(has_features), None);
        Survivor::new(side, connection, &[], false)
    }

    /// A side that has shaken hands, with [`small`]'s calls open.
    pub(super) fn greeted(side: Side, has_features: bool) -> Survivor {
        let first = if side == Side::Host { 1 } else { 2 };
        let open = [first, first + 2, first + 4, first + 6];
        Survivor::new(side, small(side, has_features), &open, true)
    }

    fn new(side: Side, connection: Connection, open: &[u64], has_preamble: bool) -> Survivor {
        let mut wire = Wire::default();
        wire.note(
            side,
            &bytes(&open.iter().map(|&call| super::open_part(call, 1, 1, b"")).collect::<Vec<_>>()),
        );
        Survivor {
            side,
            connection,
            limits: SMALL,
            open: open.iter().copied().collect(),
            served: BTreeMap::new(),
            unread: VecDeque::new(),
            heard: 0,
            wire,
            has_preamble,
            accepts: true,
            lends: true,
            events: Vec::new(),
        }
    }

    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.heard += bytes.len();
        if self.lends {
            hear(&mut self.connection, bytes);
        } else {
            self.connection.handle_bytes(bytes);
        }
        self.settle();
    }

    pub(super) fn act(&mut self, act: Act) {
        let connection = &mut self.connection;
        let mine = self.open.last().copied();
        let served = self.served.first_key_value().map(|(&call, _)| call);
        match (act, served, mine) {
            (Act::Respond, Some(call), _) => {
                let response = super::Answer::Response(vec![1; 700]);
                match self.served.remove(&call) {
                    Some(Serving { streams: true, .. }) => connection.finish(call, Ok(())),
                    _ => drop(connection.reply(call, response)),
                }
            }
            (Act::Fail, Some(call), _) => {
                self.served.remove(&call);
                connection.reply(call, failed(Code::NotFound, "no"));
            }
            (Act::Refuse, Some(call), _) => {
                self.served.remove(&call);
                connection.reply(call, super::Answer::Refused(Error::new(Code::Aborted, "no")));
            }
            (Act::SendResponse, Some(call), _) => {
                let serving = self.served.get_mut(&call).expect("a call that is served");
                if !std::mem::replace(&mut serving.streams, true) {
                    connection.begin_responses(call);
                }
                let _ = connection.send(call, &[2; 200]);
            }
            (Act::Finish, Some(call), _) => {
                self.served.remove(&call);
                connection.finish(call, Err(Error::new(Code::DataLoss, "no")));
            }
            (Act::Discard, Some(call), _) => connection.discard(call),
            (Act::Consume, ..) => self.consume(1),
            (Act::ConsumeAll, ..) => self.consume(usize::MAX),
            (Act::Open(shape), ..) => {
                let request = (!shape.has_requests()).then(|| text("k"));
                if connection.can_open() {
                    if let Ok(call) = connection.open(&shape.opening(), request.as_ref()) {
                        assert!(self.open.insert(call), "call {call} is made twice");
                    }
                }
            }
            (Act::SendRequest, _, Some(call)) => drop(connection.send(call, &[3; 200])),
            (Act::EndRequests, _, Some(call)) => connection.end_requests(call),
            (Act::Cancel, _, Some(call)) => {
                let error = Error::of_kind(ErrorKind::Cancelled, "not wanted");
                connection.cancel(call, &error, &mut Output::default());
            }
            (Act::Ping, ..) => drop(connection.ping(b"ping")),
            (Act::Goodbye, ..) if connection.peer().is_some() => connection.goodbye(Duration::ZERO),
            (Act::Write, ..) => self.write(),
            (Act::Eof, ..) => connection.handle_eof(),
            _ => {}
        }
        self.settle();
    }

    fn consume(&mut self, most: usize) {
        for (call, cost) in self.unread.drain(..most.min(self.unread.len())) {
            self.connection.consume(call, cost);
        }
    }

    fn write(&mut self) {
        let mut said = &output(&mut self.connection)[..];
        if !self.has_preamble && !said.is_empty() {
            said = said.strip_prefix(self.side.preamble()).expect("it begins with its preamble");
            self.has_preamble = true;
        }
        self.wire.note(self.side, said);
    }

    /// Does what a driver does after each step, and checks what must hold then.
    fn settle(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.note(&event);
            let seen = Seen::all_of(event);
            for seen in &seen {
                let Seen::Message { message, .. } = seen else { continue };
                assert!(message.0.len() <= self.limits.message, "{message:?}");
            }
            self.events.extend(seen);
        }
        while let Some(call) = self.connection.poll_room() {
            self.events.push(Seen::Room { call });
        }
        self.check();
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Greeted if self.side == Side::Plugin && self.accepts => {
                self.connection.accept();
                self.connection.ready();
            }
            Event::Request(request) => {
                let serving = Serving { requests_ended: !request.has_stream, ..Serving::default() };
                let before = self.served.insert(request.call, serving);
                assert!(before.is_none(), "call {} arrives twice", request.call);
            }
            Event::Messages { call, cost, .. } => self.unread.push_back((*call, *cost)),
            Event::RequestsEnded { call, .. } => {
                if let Some(serving) = self.served.get_mut(call) {
                    assert!(!serving.requests_ended, "the requests of {call} end twice");
                    serving.requests_ended = true;
                }
            }
            Event::Reply { call, .. } => {
                assert!(self.open.remove(call), "call {call} ends twice, or was not made");
            }
            Event::Cancelled { call } => {
                if let Some(serving) = self.served.get_mut(call) {
                    assert!(!serving.is_cancelled, "call {call} is cancelled twice");
                    serving.is_cancelled = true;
                }
            }
            _ => {}
        }
    }

    fn check(&self) {
        let connection = &self.connection;
        // One unfinished frame, and the messages of eight calls: no more, whatever is announced.
        let bound = 2 * (MAX_FRAME.min(self.heard + 16) + 8 * self.limits.message);
        let held = connection.held();
        assert!(held <= bound, "{held} bytes are held, where {bound} may be");
        let passing: u64 = self.unread.iter().map(|(_, cost)| cost.connection()).sum();
        assert!(passing <= self.limits.window, "{passing} bytes are unread, more than the window");
        assert!(connection.calls_served() <= self.limits.calls);
        assert!(connection.served.len() <= self.limits.calls);
        assert!(connection.calls_made() >= self.open.len());
        if connection.failure().is_some() {
            let left = (self.open.len(), connection.calls_made(), connection.calls_served());
            assert_eq!(left, (0, 0, 0), "what is left of a connection that is over");
        }
    }

    /// The connection ends, and with it everything. Returns what was seen before that, and why it ended if it had.
    pub(super) fn end(mut self) -> (Vec<Seen>, Option<(ErrorKind, String)>) {
        let failure = self.connection.failure().map(|error| match error.kind() {
            // It quotes what had arrived by then.
            ErrorKind::Handshake => (ErrorKind::Handshake, String::new()),
            kind => (kind, error.to_string()),
        });
        self.write();
        self.connection.close(&Error::of_kind(ErrorKind::Exited, "the plugin was killed"));
        let seen = std::mem::take(&mut self.events);
        self.settle();
        assert!(self.open.is_empty(), "calls without an outcome: {:?}", self.open);
        (seen, failure)
    }
}
