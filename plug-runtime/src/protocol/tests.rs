//! Tests of the protocol as a whole: two connections without any I/O between them, and a small
//! language of frames for what a well-behaved connection never says.
//!
//! Names begin with the fault case that they prove, where there is one.
//!
//! The modules `fuzz`, `model`, `survivor` and `world`, and what is here, are compiled for fuzzers too.
#![cfg_attr(not(test), allow(dead_code))]

pub(crate) mod fuzz;
mod model;
mod survivor;
mod world;

#[cfg(test)]
mod alone;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod cancel;
#[cfg(test)]
mod credit;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod evil;
#[cfg(test)]
mod features;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod landing;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod owners;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod random;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod session;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod splitting;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod violations;

use std::collections::VecDeque;
use std::fmt;
use std::io::Read as _;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Buf, BufMut};
use prost::DecodeError;
use prost::Message;
use prost::encoding::{DecodeContext, WireType};

use super::frame::{Frame, flag, kind};
use super::varint::{Varint, read_varint};
use super::{
    Answer, Connection, Event, Hello, LONG, MethodInfo, Opening, Output, ServiceInfo, Side,
};
use crate::encoding::encode_long;
use crate::error::{Code, Delivery, Error, ErrorKind, Result};

/// A host and a plugin. What one sends reaches the other when a test says so.
struct Pair {
    host: Connection,
    plugin: Connection,
}

impl Pair {
    /// Two sides that have not said anything yet.
    fn new(host: Hello, plugin: Hello) -> Pair {
        Pair {
            host: Connection::new(Side::Host, host, None),
            plugin: Connection::new(Side::Plugin, plugin, None),
        }
    }

    /// Two sides that have shaken hands.
    fn greeted(host: Hello, plugin: Hello) -> Pair {
        let mut pair = Pair::new(host, plugin);
        assert_eq!(pair.host_speaks(), [Seen::Greeted]);
        pair.plugin.accept();
        assert_eq!(pair.plugin_speaks(), [Seen::Greeted]);
        pair
    }

    /// Delivers all that the host has to send, and returns what the plugin makes of it.
    fn host_speaks(&mut self) -> Vec<Seen> {
        let bytes = output(&mut self.host);
        feed(&mut self.plugin, &bytes)
    }

    /// Delivers all that the plugin has to send, and returns what the host makes of it.
    fn plugin_speaks(&mut self) -> Vec<Seen> {
        let bytes = output(&mut self.plugin);
        feed(&mut self.host, &bytes)
    }
}

/// Two sides with all features, that have shaken hands and are ready. Methods are those of [`model::Shape`].
fn streaming(host: Hello, plugin: Hello) -> Pair {
    let mut pair = Pair::greeted(host, plugin);
    pair.plugin.ready();
    assert_eq!(pair.plugin_speaks(), [Seen::Ready]);
    pair
}

/// A host that has heard a plugin with the service `example.KV`.
fn host() -> Connection {
    Pair::greeted(host_hello(), kv_hello()).host
}

/// A plugin with the service `example.KV` that has heard its host and answered.
fn plugin() -> Connection {
    Pair::greeted(host_hello(), kv_hello()).plugin
}

fn host_hello() -> Hello {
    hello("example-host")
}

fn kv_hello() -> Hello {
    let method = |name: &str| MethodInfo { name: name.into(), ..MethodInfo::default() };
    let kv = ServiceInfo {
        name: "example.KV".into(),
        methods: vec![method("Get"), method("Put")],
        ..ServiceInfo::default()
    };
    Hello { services: vec![kv], ..hello("kv-plugin") }
}

fn hello(name: &str) -> Hello {
    Hello::new(name.to_owned(), "1.2.0".to_owned())
}

/// What tests do in one step, and drivers in several.
impl Connection {
    /// Starts a call, with a request of any length.
    pub(crate) fn open(
        &mut self,
        opening: &Opening<'_>,
        request: Option<&impl Message>,
    ) -> Result<u64> {
        match request.map(|request| (request, request.encoded_len())) {
            Some((request, len)) if len >= LONG => {
                self.check_size("request", len)?;
                let memory = self.take_spare();
                let mut message = Some(encode_long(request, len, memory, "the request")?);
                self.open_long(opening, &mut message)
            }
            Some((_, len)) => self.open_short(opening, request, len),
            None => self.open_short(opening, request, 0),
        }
    }

    /// Moves the next bytes to send into `out`, which must be empty.
    pub(crate) fn poll_bytes(&mut self, out: &mut Vec<u8>) {
        let mut output = Output::default();
        self.poll_output(&mut output);
        *out = output.to_vec();
        self.discard_output(&mut output);
    }
}

/// A call with one message each way, and nothing more.
fn unary(method: u32) -> Opening<'static> {
    Opening { method, ..Opening::default() }
}

/// Numbers of the methods in [`kv_hello`].
const GET: u32 = 1;
const PUT: u32 = 2;

/// Feeds bytes to one side, and returns what it makes of them.
fn feed(connection: &mut Connection, bytes: &[u8]) -> Vec<Seen> {
    hear(connection, bytes);
    seen(connection)
}

/// Feeds bytes to one side as a driver does: where that has a place for them, they are put there.
fn hear(connection: &mut Connection, mut bytes: &[u8]) {
    if let Some(mut place) = connection.lend() {
        let (first, behind) = bytes.split_at(bytes.len().min(place.missing()));
        place.fill(|memory, _| memory.extend_from_slice(first));
        connection.take_back(place);
        bytes = behind;
    }
    connection.handle_bytes(bytes);
}

/// Feeds frames to one side that has shaken hands.
fn say(connection: &mut Connection, frames: &[Frame<'_>]) -> Vec<Seen> {
    feed(connection, &bytes(frames))
}

/// All that one side has to send, taken and written.
fn output(connection: &mut Connection) -> Vec<u8> {
    let mut all = Vec::new();
    while connection.has_output() {
        let mut some = Vec::new();
        connection.poll_bytes(&mut some);
        connection.handle_written(some.len());
        all.append(&mut some);
    }
    all
}

/// All events of one side, and then the streams that have room.
fn seen(connection: &mut Connection) -> Vec<Seen> {
    let mut seen: Vec<Seen> =
        std::iter::from_fn(|| connection.poll_event()).flat_map(Seen::all_of).collect();
    seen.extend(std::iter::from_fn(|| connection.poll_room()).map(|call| Seen::Room { call }));
    seen
}

/// Takes all events of one side, as a user who reads every message of its streams at once.
fn read(connection: &mut Connection) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Some(event) = connection.poll_event() {
        if let Event::Messages { call, cost, .. } = &event {
            connection.consume(*call, *cost);
        }
        seen.extend(Seen::all_of(event));
    }
    seen.extend(std::iter::from_fn(|| connection.poll_room()).map(|call| Seen::Room { call }));
    seen
}

/// Lets all that both sides have to say arrive and be read, until they fall silent. Returns what the host and the
/// plugin made of it.
fn talk(pair: &mut Pair) -> (Vec<Seen>, Vec<Seen>) {
    let (mut host, mut plugin) = (read(&mut pair.host), read(&mut pair.plugin));
    while pair.host.has_output() || pair.plugin.has_output() {
        let bytes = output(&mut pair.host);
        pair.plugin.handle_bytes(&bytes);
        plugin.extend(read(&mut pair.plugin));
        let bytes = output(&mut pair.plugin);
        pair.host.handle_bytes(&bytes);
        host.extend(read(&mut pair.host));
    }
    plugin.extend(read(&mut pair.plugin));
    (host, plugin)
}

/// Checks that nothing is left of any call, and that all credit is back.
#[track_caller]
fn assert_whole(pair: &Pair) {
    for (connection, other) in [(&pair.host, &pair.plugin), (&pair.plugin, &pair.host)] {
        assert!(connection.failure().is_none(), "{:?}", connection.failure());
        assert_eq!((connection.calls_made(), connection.served.len()), (0, 0));
        assert!(connection.outbox.is_bare(), "{:?}", connection.outbox);
        assert!(connection.budget.is_unused() && connection.stream_budget.is_unused());
        let (size, granted, received, consumed) = connection.window.numbers();
        assert_eq!(received, consumed, "credit that leaked");
        assert!(granted - consumed >= size.div_ceil(2), "the window is not whole again");
        assert_eq!(other.outbox.allowance(), (granted, received), "both sides count the same");
    }
}

/// What one side was told: an [`Event`] that can be compared.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Greeted,
    Request {
        call: u64,
        method: u32,
        message: Blob,
    },
    Response {
        call: u64,
        message: Blob,
    },
    Failure {
        call: u64,
        kind: ErrorKind,
        code: Code,
        delivery: Delivery,
        text: String,
    },
    Goodbye {
        grace: Option<Duration>,
    },
    Ready,
    Message {
        call: u64,
        message: Blob,
    },
    /// How the stream of requests of a call ended.
    RequestsEnded {
        call: u64,
        result: Result<(), Code>,
    },
    Freed,
    Cancelled {
        call: u64,
    },
    Room {
        call: u64,
    },
    Pong {
        payload: Blob,
    },
    Log {
        call: u64,
        record: Blob,
    },
    Level {
        record: Blob,
    },
    Memory,
}

impl Seen {
    fn request(call: u64, method: u32, message: &[u8]) -> Seen {
        Seen::Request { call, method, message: Blob(message.to_vec()) }
    }

    fn response(call: u64, message: &[u8]) -> Seen {
        Seen::Response { call, message: Blob(message.to_vec()) }
    }

    fn message(call: u64, message: &[u8]) -> Seen {
        Seen::Message { call, message: Blob(message.to_vec()) }
    }

    /// A handler's error.
    fn status(call: u64, code: Code, delivery: Delivery, text: &str) -> Seen {
        Seen::Failure { call, kind: ErrorKind::Status, code, delivery, text: text.into() }
    }
}

impl Seen {
    /// What an event tells: several things where messages have come together.
    fn all_of(event: Event) -> Vec<Seen> {
        let one = match event {
            Event::Greeted => Seen::Greeted,
            Event::Request(request) => {
                Seen::request(request.call, request.method, &request.message)
            }
            Event::Reply { call, outcome: Ok(message) } => Seen::response(call, &message),
            Event::Reply { call, outcome: Err(error) } => Seen::Failure {
                call,
                kind: error.kind(),
                code: error.code(),
                delivery: error.delivery(),
                text: error.message().to_owned(),
            },
            Event::Goodbye(goodbye) => Seen::Goodbye { grace: goodbye.grace },
            Event::Ready => Seen::Ready,
            Event::Messages { call, messages, cost } => {
                let each = messages.split(cost).into_iter();
                return each.map(|(message, _)| Seen::message(call, &message)).collect();
            }
            Event::RequestsEnded { call, result } => {
                Seen::RequestsEnded { call, result: result.map_err(|error| error.code()) }
            }
            Event::Freed => Seen::Freed,
            Event::Cancelled { call } => Seen::Cancelled { call },
            Event::Pong { payload } => Seen::Pong { payload: Blob(payload.to_vec()) },
            Event::Log { call, record } => Seen::Log { call, record: Blob(record.to_vec()) },
            Event::Level { record } => Seen::Level { record: Blob(record.to_vec()) },
            Event::MemoryWanted(_) | Event::MemoryOffered(_) | Event::MemoryDeclined => {
                Seen::Memory
            }
        };
        vec![one]
    }
}

/// Bytes that do not flood the terminal when a test fails.
#[derive(Clone, Default, PartialEq)]
struct Blob(Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(24)];
        write!(f, "{} bytes \"{}\"", self.0.len(), shown.escape_ascii())
    }
}

/// A message whose encoding is these very bytes: the core never looks inside one.
impl Message for Blob {
    fn encode_raw(&self, out: &mut impl BufMut) {
        // In several ways, as the fields of a message are: what is long enough is not copied.
        let (slice, rest) = self.0.split_at(self.0.len() / 3);
        out.put_slice(slice);
        out.put(bytes::Bytes::copy_from_slice(rest));
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: WireType,
        _: &mut impl Buf,
        _: DecodeContext,
    ) -> Result<(), DecodeError> {
        unreachable!("the core decodes no user's message")
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// A message of `len` bytes that differ from place to place, and from message to message.
fn blob(len: usize, seed: u8) -> Blob {
    // Copied, as making each byte anew takes five sixths of the time of random schedules.
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        (0..1 << 16).map(|at| (at as u8) ^ ((at >> 8) as u8).wrapping_mul(31)).collect()
    });
    let mut blob = Vec::with_capacity(len);
    let mut bytes = &BYTES[usize::from(seed) << 8..];
    while blob.len() < len {
        blob.extend_from_slice(&bytes[..bytes.len().min(len - blob.len())]);
        bytes = &BYTES;
    }
    Blob(blob)
}

/// The first bytes of a pipe, at most so many. Draining them is byte by byte in a debug build, this is not.
fn read_from(pipe: &mut VecDeque<u8>, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; most.min(pipe.len())];
    pipe.read_exact(&mut bytes).unwrap();
    bytes
}

fn text(text: &str) -> Blob {
    Blob(text.as_bytes().to_vec())
}

fn response(message: &Blob) -> Answer {
    answer(message.0.clone())
}

/// A response as a driver gives it, short or long.
fn answer(message: Vec<u8>) -> Answer {
    let len = message.len();
    if len < LONG {
        return Answer::Response(message);
    }
    let long = encode_long(&Blob(message), len, Vec::new(), "the response").unwrap();
    Answer::Long(long.into())
}

fn failed(code: Code, message: &str) -> Answer {
    Answer::Failed(Error::new(code, message))
}

/// The first frame of a call whose request is one fragment.
fn open(call: u64, method: u32, payload: &[u8]) -> Frame<'_> {
    let flags = flag::LAST | flag::HALF_CLOSE;
    Frame { kind: kind::OPEN, call, method, flags, payload, ..Frame::default() }
}

/// The first of several fragments of a request.
fn open_part(call: u64, method: u32, total: u64, payload: &[u8]) -> Frame<'_> {
    Frame { kind: kind::OPEN, call, method, total, payload, ..Frame::default() }
}

/// A fragment that is neither the first nor the last.
fn part(call: u64, payload: &[u8]) -> Frame<'_> {
    Frame { kind: kind::MESSAGE, call, payload, ..Frame::default() }
}

/// The last fragment of a request.
fn last_part(call: u64, payload: &[u8]) -> Frame<'_> {
    Frame { flags: flag::LAST | flag::HALF_CLOSE, ..part(call, payload) }
}

/// The last fragment of a response.
fn end(call: u64, payload: &[u8]) -> Frame<'_> {
    Frame { kind: kind::END, call, flags: flag::LAST, payload, ..Frame::default() }
}

/// The end of a stream of requests, and of responses.
fn half_close(call: u64) -> Frame<'static> {
    Frame { kind: kind::MESSAGE, call, flags: flag::HALF_CLOSE, ..Frame::default() }
}

fn end_stream(call: u64) -> Frame<'static> {
    Frame { kind: kind::END, call, ..Frame::default() }
}

/// A message of a stream in one frame.
fn item(call: u64, payload: &[u8]) -> Frame<'_> {
    Frame { flags: flag::LAST, ..part(call, payload) }
}

fn cancel_of(call: u64) -> Frame<'static> {
    Frame { call, ..of_kind(kind::CANCEL) }
}

fn credit(call: u64, credit: u64) -> Frame<'static> {
    Frame { kind: kind::CREDIT, call, credit, ..Frame::default() }
}

/// The end of a call that failed.
fn end_failed(call: u64, code: u32, message: &str) -> Frame<'_> {
    Frame { kind: kind::END, call, code, message, ..Frame::default() }
}

fn goodbye() -> Frame<'static> {
    Frame { kind: kind::GOODBYE, ..Frame::default() }
}

fn of_kind(kind: u32) -> Frame<'static> {
    Frame { kind, ..Frame::default() }
}

fn bytes(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    bytes
}

/// The frames in bytes that end with a frame.
fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let Varint::Value(len, prefix) = read_varint(bytes) else { panic!("no length") };
        let (frame, rest) = bytes[prefix..].split_at(len as usize);
        frames.push(Frame::decode(frame).unwrap());
        bytes = rest;
    }
    frames
}

/// The kind and the call of each frame.
fn outline(frames: &[Frame<'_>]) -> Vec<(u32, u64)> {
    frames.iter().map(|frame| (frame.kind, frame.call)).collect()
}
