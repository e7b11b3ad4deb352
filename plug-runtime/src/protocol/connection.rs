//! The state machine of one side of one pipe pair.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

use super::Side;
use super::call::{ById, Made, Phase, Served};
use super::event::Event;
use super::flow::{Budget, Window};
use super::hello::{Features, Hello};
use super::landing::Landing;
use super::memory::Kept;
use super::outbox::{Outbox, Progress};
use super::output::Output;
use super::sharing::Sharing;
use super::splitter::{Found, Splitter};
use crate::error::{Delivery, Error, ErrorKind};

/// One side of a connection. It has four families of methods:
///
/// - **look**: `peer`, `own`, `features`, `failure`, `is_leaving`, `has_output`, `can_open`, …
/// - **input**: `handle_bytes`, `handle_eof`, `advance`, `handle_writing`, `handle_timeout`
/// - **commands** (in `command.rs` and `sharing.rs`): `accept`, `refuse`, `ready`, `open`, `send`, `end_requests`, `consume`,
///   `discard`, `reply`, `begin_responses`, `finish`, `cancel`, `ping`, `log`, `goodbye`, `close`,
///   `ask_for_memory`, `offer_memory`, `decline_memory`, `switch`
/// - **output**: `poll_output`, `poll_event`, `poll_room`, `poll_timeout`
///
/// After any input or command, a driver drains the output, then the events and the streams that have
/// room, then asks for the time-out. The order of frames on the wire is the order of the commands, but for long messages and
/// streams, whose fragments let others pass.
///
/// ```text
///            handle_bytes: the other's hello fits        goodbye, either way
/// Greeting ───────────────────────────────────▶ Open ────────────────────────▶ Open, no new calls
///     └───────── close, or an error in what arrives ────────┴──────────▶ Closed ◀──── close ──┘
/// ```
pub(crate) struct Connection {
    pub(super) side: Side,
    pub(super) own: Hello,
    /// Whether the requests of each method that this side serves are a stream, by number.
    takes_stream: Vec<bool>,
    pub(super) peer: Option<Hello>,
    pub(super) features: Features,
    /// When the other side's hello must be there, and where there is one, its ready.
    pub(super) greet_by: Option<Instant>,
    /// Whether the preamble of this side was queued: the host's at once, the plugin's when it accepts.
    pub(super) greeted: bool,
    /// Whether the plugin can be called.
    pub(super) is_ready: bool,
    pub(super) splitter: Splitter,
    /// The frame that arrives straight where its message is put together, if one does.
    pub(super) landing: Option<Box<Landing>>,
    /// Memory of long messages that have arrived, for the next ones.
    pub(super) kept: Kept,
    pub(super) outbox: Outbox,
    pub(super) events: VecDeque<Event>,
    /// Streams that can be sent again. Apart from the events, since sending brings them about as well.
    pub(super) rooms: VecDeque<u64>,
    /// Calls of this side, by id.
    pub(super) made: ById<Made>,
    pub(super) next_call: u64,
    /// Those of them that have a deadline, in the order of these. A vector that keeps its memory: a tree takes and gives
    /// back a node for each call.
    pub(super) deadlines: Vec<(Instant, u64)>,
    /// Calls of the other side, by id.
    pub(super) served: ById<Served>,
    pub(super) last_served: u64,
    /// How many of them are answered and only wait for the end of their requests.
    pub(super) draining: usize,
    /// The longest message that both sides allow for; 0 before the other side's hello.
    pub(super) sends_at_most: u64,
    /// What all streams together may bring.
    pub(super) window: Window,
    /// Memory for long messages: those that are no streams, and those of streams. Apart, since a stream that nobody
    /// reads holds on to it.
    pub(super) budget: Budget,
    pub(super) stream_budget: Budget,
    /// How far the sides have come in sharing memory.
    pub(super) sharing: Sharing,
    /// Whether what the other side sends is in that memory.
    pub(super) has_switched: bool,
    /// How many bytes of frames have arrived that did nothing, and since when they are counted.
    pub(super) idle_bytes: u64,
    pub(super) idle_since: Option<Instant>,
    /// Whether one of the sides said goodbye, and why.
    pub(super) leaving: Option<Error>,
    pub(super) failure: Option<Error>,
    pub(super) is_output_void: bool,
}

impl Connection {
    /// A connection on which nothing has been sent or received.
    ///
    /// The host greets at once. The plugin hears the host's hello first ([`Event::Greeted`]) and
    /// then answers with [`accept`](Self::accept) or [`refuse`](Self::refuse).
    pub(crate) fn new(side: Side, own: Hello, greet_by: Option<Instant>) -> Connection {
        let mut connection = Connection {
            side,
            window: Window::new(own.connection_window),
            takes_stream: own
                .services
                .iter()
                .flat_map(|service| &service.methods)
                .map(|method| method.streams_requests)
                .collect(),
            own,
            peer: None,
            features: Features::default(),
            greet_by,
            greeted: false,
            is_ready: false,
            splitter: Splitter::new(side.other()),
            landing: None,
            kept: Kept::default(),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            rooms: VecDeque::new(),
            made: ById::default(),
            next_call: if side == Side::Host { 1 } else { 2 },
            deadlines: Vec::new(),
            served: ById::default(),
            last_served: 0,
            draining: 0,
            sends_at_most: 0,
            budget: Budget::new(REASSEMBLY),
            stream_budget: Budget::new(REASSEMBLY),
            sharing: Sharing::No,
            has_switched: false,
            idle_bytes: 0,
            idle_since: None,
            leaving: None,
            failure: None,
            is_output_void: false,
        };
        if side == Side::Host {
            connection.accept();
        }
        connection
    }

    // ---- look

    /// The other side's hello, once it has arrived.
    pub(crate) fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// What this side says about itself.
    pub(crate) fn own(&self) -> &Hello {
        &self.own
    }

    /// What both sides can do, once the other side's hello has arrived.
    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// Whether the plugin can be called.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Why the connection is over, if it is.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Whether one of the sides has said goodbye.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether this is the side that was started.
    pub(crate) fn is_plugin(&self) -> bool {
        self.side == Side::Plugin
    }

    /// How many bytes of frames wait to be taken by [`poll_output`](Self::poll_output), besides what is in turns.
    pub(crate) fn queued(&self) -> usize {
        self.outbox.ready_len()
    }

    /// Whether [`poll_output`](Self::poll_output) has something.
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether what `poll_output` gave and the operating system did not take must be thrown away: a call in
    /// it was reported as not sent.
    pub(crate) fn is_output_void(&self) -> bool {
        self.is_output_void
    }

    /// Whether the other side takes one more call now, or says at once why not.
    pub(crate) fn can_open(&self) -> bool {
        let limit = self.peer.as_ref().map_or(0, |peer| peer.max_calls as usize);
        let taken = self.made.len() + self.outbox.voids();
        limit == 0 || taken < limit || self.leaving.is_some()
    }

    /// Whether no call is left that has anything to send, either way.
    pub(crate) fn has_no_calls(&self) -> bool {
        self.failure.is_some() || self.made.len() + self.served.len() == 0
    }

    /// Whether a call of this side has not ended, nor been given up.
    pub(crate) fn is_wanted(&self, call: u64) -> bool {
        self.made.get(call).is_some_and(|made| !made.is_abandoned)
    }

    /// How many calls of this side have not ended.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn calls_made(&self) -> usize {
        self.made.len()
    }

    /// How many calls of the other side have not been answered.
    pub(crate) fn calls_served(&self) -> usize {
        self.served.len() - self.draining
    }

    /// Whether what has arrived ends inside a frame.
    pub(crate) fn is_truncated(&self) -> bool {
        !self.splitter.is_at_boundary() || self.landing.is_some()
    }

    // ---- input

    /// Takes bytes that arrived, however they were cut. After a failure they are ignored.
    pub(crate) fn handle_bytes(&mut self, mut bytes: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        if self.landing.is_some() {
            bytes = self.land(bytes);
            if self.failure.is_some() {
                return;
            }
        }
        let had_switched = self.has_switched;
        while let Some((frame, behind)) = self.splitter.first(bytes) {
            if let Err(error) = self.handle_frame(frame) {
                return self.fail(error);
            }
            self.splitter.pass(bytes.len() - behind.len());
            if behind.is_empty() || self.has_switched != had_switched {
                return;
            }
            bytes = behind;
        }
        if bytes.is_empty() || self.failure.is_some() {
            return;
        }
        let empty = Splitter::new(self.side.other());
        let mut splitter = std::mem::replace(&mut self.splitter, empty);
        let result = splitter.feed(bytes, |found| {
            let frame = match found {
                Found::Frame(frame) => frame,
                Found::Part { bytes, len, prefix } => {
                    return Ok(match self.begin_to_land(bytes, len, prefix) {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    });
                }
            };
            self.handle_frame(frame)?;
            // What is behind a switch in the pipe is no frame: it is as if it had come with the next read.
            let is_last = self.has_switched != had_switched;
            Ok(if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        self.splitter = splitter;
        if let Err(error) = result {
            self.fail(error);
        }
    }

    /// Takes `bytes` away that the operating system took of what `poll_output` gave.
    pub(crate) fn advance(&mut self, output: &mut Output, bytes: usize) {
        output.advance(bytes, |piece| self.outbox.drop_part(piece));
        self.handle_written(bytes);
    }

    /// Drops what `poll_output` gave and is not written.
    pub(crate) fn discard_output(&mut self, output: &mut Output) {
        output.discard().for_each(|piece| self.outbox.drop_part(piece));
    }

    /// Drops all that was not sent, where nobody will read it any more: also what `poll_output` did not give yet.
    pub(crate) fn discard_unsent(&mut self, taken: &mut Output) {
        self.discard_output(taken);
        self.outbox.discard();
    }

    /// Notes that the operating system took `bytes` of what `poll_output` gave. Until then a call counts
    /// as not sent.
    pub(super) fn handle_written(&mut self, bytes: usize) {
        for _ in 0..self.outbox.written(bytes) {
            self.events.push_back(Event::Freed);
        }
    }

    /// Notes that nothing more will arrive, and ends the connection for that reason.
    ///
    /// After a goodbye, the other side may have closed its output to wait for answers: then the connection
    /// lives on while calls are served, and no answer comes to calls of this side.
    pub(crate) fn handle_eof(&mut self) {
        let is_whole = self.failure.is_none() && !self.is_truncated();
        if let Some(leaving) = self.leaving.as_ref().filter(|_| is_whole) {
            let error = leaving.duplicate().with_delivery(Delivery::MayHaveRun);
            // What the other side has not sent to its end never comes.
            self.end_unfinished_requests(&error);
            if self.calls_served() > 0 {
                for (call, made) in self.made.drain() {
                    self.outbox.forget(call);
                    if !made.is_abandoned {
                        let outcome = Err(error.duplicate());
                        self.events.push_back(Event::Reply { call, outcome });
                    }
                }
                self.deadlines.clear();
                return;
            }
        }
        let error = if self.is_truncated() {
            broken("the other side ended in the middle of a message")
        } else if let Some(leaving) = &self.leaving {
            leaving.duplicate()
        } else {
            Error::of_kind(ErrorKind::Shutdown, "the other side closed the connection")
        };
        self.close(&error);
    }

    fn end_unfinished_requests(&mut self, error: &Error) {
        let unfinished: Vec<u64> = self.served.ids_where(|served| match served.phase {
            Phase::Running => served.requests.as_ref().is_some_and(|requests| !requests.has_ended),
            Phase::Arriving(_) | Phase::Draining => true,
        });
        for call in unfinished {
            let Some(served) = self.served.get_mut(call) else { continue };
            if let (Phase::Running, Some(requests)) = (&served.phase, &mut served.requests) {
                requests.discard();
                requests.has_ended = true;
                let result = Err(error.duplicate());
                self.events.push_back(Event::RequestsEnded { call, result });
            } else {
                self.remove_served(call);
            }
        }
    }

    /// Notes that the operating system is about to take up to `bytes` more, until the next `handle_writing(0)`:
    /// if the connection is closed meanwhile, the calls in them may have been sent.
    pub(crate) fn handle_writing(&mut self, bytes: usize) {
        self.outbox.writing(bytes);
    }

    /// Ends the connection if the other side's hello is overdue, and calls whose deadline has passed. `taken` is what
    /// [`cancel`](Self::cancel) needs.
    pub(crate) fn handle_timeout(&mut self, now: Instant, taken: &mut Output) {
        if self.greet_by.is_some_and(|by| by <= now) && !self.is_greeting_complete() {
            let message = if self.peer.is_some() {
                "it said hello, but did not become ready in time. If its start takes long, raise Command::start_timeout"
            } else {
                "it did not say hello in time: is it a plugin, and did it read stdin before plug::run? If it is slow to start, raise Command::start_timeout"
            };
            self.close(&Error::of_kind(ErrorKind::Handshake, message));
        }
        while let Some(&(deadline, call)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            let error = Error::of_kind(ErrorKind::Deadline, "the call did not end in time");
            self.cancel(call, &error, taken);
            self.remove_deadline(deadline, call);
        }
        // Answers to pings that nobody reads must not pile up, a little each second.
        let is_read = !self.outbox.is_congested();
        if is_read && self.idle_since.is_none_or(|since| now.duration_since(since) >= IDLE_PERIOD) {
            self.idle_since = Some(now);
            self.idle_bytes = 0;
        }
    }

    // ---- output

    /// Moves the next bytes to send into `out`, which must be empty; nothing if there are none.
    pub(crate) fn poll_output(&mut self, out: &mut Output) {
        let made = &mut self.made;
        let rooms = &mut self.rooms;
        self.outbox.take(out, |progress| match progress {
            Progress::Finished(call, at) => {
                if let Some(made) = made.get_mut(call) {
                    made.sent_at = at;
                }
            }
            Progress::Room(call) => rooms.push_back(call),
        });
    }

    /// Whether memory is kept for the next long message. It makes long messages that follow each other faster: fresh
    /// pages for each of them take longer than copying.
    pub(crate) fn keeps_memory(&self) -> bool {
        self.splitter.keeps_memory() || self.outbox.keeps_memory() || !self.kept.is_empty()
    }

    /// Gives that back.
    pub(crate) fn release(&mut self) {
        self.splitter.release();
        self.kept = Kept::default();
        self.outbox.release();
    }

    /// Whether [`poll_room`](Self::poll_room) has something.
    pub(crate) fn has_rooms(&self) -> bool {
        !self.rooms.is_empty()
    }

    /// The next stream that could take no more messages, and can.
    pub(crate) fn poll_room(&mut self) -> Option<u64> {
        self.rooms.pop_front()
    }

    /// Whether [`poll_event`](Self::poll_event) has something.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `handle_timeout` wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.failure.is_some() {
            return None;
        }
        let greet_by = self.greet_by.filter(|_| !self.is_greeting_complete());
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        greet_by.into_iter().chain(deadline).min()
    }

    // ---- helpers

    /// How many bytes of incomplete frames and messages are held.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        let requests = self.served.values().map(|served| {
            let unary = match &served.phase {
                Phase::Arriving(arriving) => arriving.message.held(),
                Phase::Running | Phase::Draining => 0,
            };
            unary + served.requests.as_ref().map_or(0, |requests| requests.held())
        });
        let responses = self.made.values().map(|made| {
            made.response.held() + made.responses.as_ref().map_or(0, |responses| responses.held())
        });
        let landing = self.landing.as_ref().map_or(0, |landing| landing.held());
        self.splitter.held() + landing + requests.sum::<usize>() + responses.sum::<usize>()
    }

    /// Whether the requests of a method that this side serves are a stream.
    pub(super) fn takes_stream(&self, method: u32) -> bool {
        let index = (method as usize).checked_sub(1);
        index.and_then(|index| self.takes_stream.get(index)).is_some_and(|takes| *takes)
    }

    fn is_greeting_complete(&self) -> bool {
        self.peer.is_some() && (self.is_ready || self.side == Side::Plugin)
    }

    pub(super) fn remove_made(&mut self, call: u64) {
        let Some(made) = self.made.get(call) else { return };
        if let Some(deadline) = made.deadline {
            self.remove_deadline(deadline, call);
        }
        self.made.drop_one(call);
        self.forget_arriving(call);
    }

    #[inline(never)]
    pub(super) fn insert_deadline(&mut self, deadline: Instant, call: u64) {
        // Behind all others, as a rule.
        if let Err(at) = self.deadlines.binary_search(&(deadline, call)) {
            self.deadlines.insert(at, (deadline, call));
        }
    }

    #[inline(never)]
    fn remove_deadline(&mut self, deadline: Instant, call: u64) {
        if let Ok(at) = self.deadlines.binary_search(&(deadline, call)) {
            self.deadlines.remove(at);
        }
    }

    pub(super) fn remove_served(&mut self, call: u64) -> Option<Served> {
        let served = self.served.remove(call)?;
        if let Phase::Draining = served.phase {
            self.draining -= 1;
        }
        self.forget_arriving(call);
        Some(served)
    }

    pub(super) fn forget_arriving(&mut self, call: u64) {
        if !self.budget.is_quiet() || !self.stream_budget.is_quiet() {
            self.forget_in_budgets(call);
        }
    }

    #[inline(never)]
    fn forget_in_budgets(&mut self, call: u64) {
        self.budget.forget(call);
        self.stream_budget.forget(call);
        self.admit_waiting();
    }

    /// Closes with an error in what arrived, and says where that was.
    #[cold]
    pub(super) fn fail(&mut self, error: Error) {
        let error = if error.kind() == ErrorKind::Protocol {
            let message = format!(
                "broke the protocol: {} (at byte {} of what it sent)",
                error.message(),
                self.splitter.offset(),
            );
            Error::of_kind(ErrorKind::Protocol, message)
        } else {
            error
        };
        self.close(&error);
    }
}

pub(super) use super::call::broken;

/// Memory for long messages that have begun to arrive, in bytes. One is admitted in any case.
const REASSEMBLY: u64 = 64 << 20;

/// How long frames that do nothing are counted together.
const IDLE_PERIOD: std::time::Duration = std::time::Duration::from_secs(1);
