//! One connection, shared by all threads that use it: who reads, who writes, who waits.
//!
//! Reading and writing are roles, and a role is a value: who holds the [`Reader`] reads, who holds the
//! [`Writer`] writes, and a role that nobody holds lies in the [`State`]. Frames are handled and queued under
//! the lock, so the order on the wire is the order of the calls; reads and writes happen outside it.
//!
//! The rules, each of which a prototype learnt by hanging:
//!
//! - Writes never block. Who finds the pipe full reads meanwhile if it can have that role, and otherwise leaves
//!   the writing to the watcher: so two full pipes never wait for each other.
//! - Who gives the role of reading back makes sure that somebody takes it who needs it: a waiter, or the
//!   watcher once the connection is idle.
//! - What has been read is kept in the core, not with the reader, so that the role can change hands in the
//!   middle of a frame, also while a thread unwinds.
//! - Code of users (handlers, iterators, what they drop) never runs under the lock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::dispatch::Dispatch;
use super::lead::Wakes;
use super::messages::Inbox;
use super::patience::Patience;
use super::pump::Pump;
use super::roles::{Reader, Writer};
use super::sharing::Shared;
use super::waiter::{Waiter, Waiters};
use super::watcher::{self, Key, Report};
use super::workers::{Task, Workers};
use super::yielding::Yielding;
use crate::budget;
use crate::call::CallState;
use crate::error::{Code, Delivery, Error, ErrorKind, Result};
use crate::log::{CallSpan, Source};
use crate::offer::Offers;
use crate::peer::WeakPeer;
use crate::protocol::{ById, Connection, Output};
use crate::sys::bell::Bell;
use crate::sys::interrupt::Interrupt;
use crate::sys::pipe;

/// The shared half of a connection. See the module's documentation.
pub(crate) struct Link {
    pub(super) state: Mutex<State>,
    /// The role of reading, and what was to run on the thread that had it, after that unwound.
    pub(super) abandoned: Mutex<Option<(Box<Reader>, Vec<Task>)>>,
    pub(super) input: OwnedFd,
    pub(super) interrupt: Interrupt,
    /// Wakes who reads with a call that can be cancelled. Made when the first of them is.
    pub(super) bell: OnceLock<Bell>,
    /// Signalled when the connection is over.
    pub(super) ended: Condvar,
    /// Signalled when a worker is needed, or the connection is over.
    pub(super) work: Condvar,
    /// Whether threads that wait let others run before they sleep.
    pub(super) waiting: Yielding,
    /// What this side serves.
    pub(super) dispatch: OnceLock<Dispatch>,
    /// The other side, for handlers.
    pub(super) peer: OnceLock<WeakPeer>,
    /// How much memory a message that arrives may take, decoded.
    decode_limit: OnceLock<usize>,
    /// Where what a plugin logs goes.
    pub(super) log: OnceLock<Source>,
    /// By what name the watcher knows this connection, once it does.
    pub(super) key: OnceLock<Key>,
    /// Whether the other side is a child of this process, so that its exit, not the end of its output, ends the
    /// connection.
    pub(super) child: bool,
}

pub(super) struct State {
    pub(super) core: Connection,
    /// The role of reading; `None` while somebody has it. Boxed, as that of writing is: each call takes both and gives
    /// them back, and processors are slow to copy what was just written in parts.
    pub(super) reader: Option<Box<Reader>>,
    /// The call that the thread which reads waits for, if it waits for one, and its outcome if another thread has
    /// brought it.
    pub(super) leading: Option<u64>,
    pub(super) left: Option<Result<Bytes>>,
    /// The role of writing; `None` while somebody has it.
    pub(super) writer: Option<Box<Writer>>,
    /// Threads that wait while another reads.
    pub(super) waiters: Waiters,
    last_ticket: u64,
    /// Tickets of those that wait until they may make a call, in the order in which they came.
    pub(super) space: VecDeque<u64>,
    /// Streams that arrive, by call.
    pub(super) inboxes: ById<Inbox>,
    /// Streams that are sent, by call.
    pub(super) pumps: ById<Pump>,
    /// Calls of the other side whose handlers, or whose streams of responses, run.
    pub(super) running: ById<Arc<CallState>>,
    pub(super) workers: Workers,
    /// In which span of the host's each call was made.
    pub(super) spans: BTreeMap<u64, CallSpan>,
    /// Which records the plugin was last told that this host wants, if it sends any.
    pub(super) log_level: Option<i32>,
    /// Tickets of those that wait for the answer to a ping.
    pub(super) pings: BTreeSet<u64>,
    /// Whether the watcher ticks for this connection.
    pub(super) ticking: Ticking,
    /// How many ticks in a row nothing has happened in.
    pub(super) quiet_ticks: u32,
    /// Whether anything has come from the other side since that was last asked.
    pub(super) heard: bool,
    /// How often something has happened since the last tick.
    pub(super) activity: u32,
    /// Whether the watcher waits for input, because nobody else does.
    pub(super) armed: bool,
    /// Since when it does so for a call that came after a pause.
    pub(super) armed_since: Option<Instant>,
    /// Whether what is queued, if anything is, began with an item of a stream that may wait for more, and nobody has wanted it
    /// written since.
    pub(super) can_wait: bool,
    /// Whether the output is to be closed as soon as nothing is left to be written, and no call is left that might need a
    /// grant or a reply.
    pub(super) closing: bool,
    /// Whether the input has ended.
    pub(super) input_ended: bool,
    /// Why the connection is over, although there may be something left to be read.
    pub(super) over: Option<Error>,
    /// Memory that takes the place of the pipes, until it has.
    pub(super) shared: Shared,
    /// Whether the other side waits for room in the memory, and there is some.
    pub(super) owes_bell: bool,
    /// Whether the last byte in the pipe is not from the other side: it wakes whoever reads.
    pub(super) rung: bool,
    /// Whether that byte may be anywhere in what is read now.
    pub(super) severed: bool,
    /// Whether the watcher has been told of the failure.
    pub(super) reported: bool,
    /// How often the lock was taken, now included.
    pub(super) visits: u64,
    /// How often it had been as a call of this side that was alone last released it, and nothing was going on.
    pub(super) rested: u64,
}

/// Whether the watcher ticks for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ticking {
    No,
    /// It will, and nobody needs the first tick soon.
    Late,
    Yes,
}

impl Link {
    /// A connection over two pipes. Nobody reads it yet.
    pub(super) fn new(
        core: Connection,
        input: OwnedFd,
        output: OwnedFd,
        child: bool,
    ) -> io::Result<Arc<Link>> {
        pipe::set_nonblocking(&output)?;
        let writer = Writer::new(output);
        Ok(Arc::new(Link {
            state: Mutex::new(State {
                core,
                reader: Some(Box::new(Reader::new())),
                leading: None,
                left: None,
                writer: Some(Box::new(writer)),
                waiters: Waiters::default(),
                last_ticket: TICKETS,
                space: VecDeque::new(),
                inboxes: ById::default(),
                pumps: ById::default(),
                running: ById::default(),
                workers: Workers::default(),
                spans: BTreeMap::new(),
                log_level: None,
                pings: BTreeSet::new(),
                ticking: Ticking::No,
                quiet_ticks: 0,
                heard: false,
                activity: 0,
                armed: false,
                armed_since: None,
                can_wait: false,
                closing: false,
                input_ended: false,
                over: None,
                shared: Shared::default(),
                owes_bell: false,
                rung: false,
                severed: false,
                reported: false,
                // Nothing is at rest that was not looked at.
                visits: 1,
                rested: 0,
            }),
            abandoned: Mutex::new(None),
            input,
            interrupt: Interrupt::new()?,
            bell: OnceLock::new(),
            ended: Condvar::new(),
            work: Condvar::new(),
            waiting: Yielding::default(),
            dispatch: OnceLock::new(),
            peer: OnceLock::new(),
            decode_limit: OnceLock::new(),
            log: OnceLock::new(),
            key: OnceLock::new(),
            child,
        }))
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        let locked = self.state.lock();
        let mut state = locked.unwrap_or_else(|poisoned| self.break_down(poisoned.into_inner()));
        state.visits += 1;
        state
    }

    /// Waits until something is to be done, or until the end of `at_most`. Says whether it is the latter.
    pub(super) fn wait_for_work<'a>(
        &self,
        state: MutexGuard<'a, State>,
        at_most: Option<Duration>,
    ) -> (MutexGuard<'a, State>, bool) {
        let (mut state, timed_out) = match at_most {
            None => (self.work.wait(state).unwrap_or_else(PoisonError::into_inner), false),
            Some(at_most) => {
                let waited = self.work.wait_timeout(state, at_most);
                let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                (state, timeout.timed_out())
            }
        };
        // It has the lock again.
        state.visits += 1;
        (state, timed_out)
    }

    /// Closes a connection whose lock was held by a thread that panicked: by a bug of ours, or in a message that
    /// somebody has encoded by hand. It may have half a frame queued, so nothing that it says can be trusted.
    #[cold]
    fn break_down<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.state.clear_poison();
        let message =
            "a thread has panicked in the middle of a change to the connection, which is closed";
        state.core.close(&Error::of_kind(ErrorKind::Protocol, message));
        self.report(Report::Unwound);
        state
    }

    /// Has the thread that reads look at what another one has brought, if it listens.
    pub(super) fn rouse_leader(&self) {
        if let Some(bell) = self.bell.get() {
            bell.ring();
        }
    }

    /// Wakes the first who waits until it may make a call, also if it reads meanwhile.
    pub(super) fn wake_space(&self, state: &State, wakes: &mut Wakes) {
        if let Some(ticket) = state.space.front() {
            state.wake(*ticket, wakes);
            if state.leading == Some(*ticket) {
                self.rouse_leader();
            }
        }
    }

    /// Makes the other side known to handlers.
    pub(crate) fn set_peer(self: &Arc<Self>, peer: WeakPeer) {
        let _ = self.peer.set(peer);
        // See `watch`.
        self.keep_ticking(&mut self.lock());
    }

    /// Says how much memory a message may take, decoded: before the first arrives.
    pub(super) fn limit_decoding(&self, limit: usize) {
        let _ = self.decode_limit.set(limit);
    }

    pub(crate) fn decode_limit(&self) -> usize {
        self.decode_limit.get().copied().unwrap_or_else(|| budget::default_limit(0))
    }

    /// Serves what is offered, if anything is: before the first call can arrive.
    pub(super) fn offer(&self, offers: Vec<Offers>) {
        if !offers.is_empty() {
            let _ = self.dispatch.set(Dispatch::new(offers));
        }
    }

    /// The bell for who reads; `None` where the system has no descriptor for it at the moment.
    pub(super) fn bell(&self) -> Option<&Bell> {
        if self.bell.get().is_none() {
            // Another thread may have been faster.
            let _ = Bell::new().map(|bell| self.bell.set(bell));
        }
        self.bell.get()
    }

    pub(super) fn ring(&self) {
        if let Some(bell) = self.bell() {
            bell.ring();
        }
    }

    /// Lets everybody look at the connection.
    pub(super) fn notify_all(&self, state: &mut State, wakes: &mut Wakes) {
        self.work.notify_all();
        state.wake_all(wakes);
    }

    /// Passes the role of reading on, or sees to it that the watcher takes it once nothing happens.
    pub(super) fn pass_on(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) {
        state.note_activity();
        state.workers.note_free();
        if state.input_ended {
            return;
        }
        match state.waiters.first_reader() {
            Some(waiting) => wakes.some().look.push(waiting.waiter.clone()),
            None => self.keep_ticking(state),
        }
    }

    /// Passes the role of reading on if nobody has it: for a thread that may have been told to take it, and does
    /// something else.
    pub(super) fn pass_on_if_free(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) {
        if state.reader.is_some() {
            self.pass_on(state, wakes);
        }
    }

    pub(super) fn report(&self, report: Report) {
        if let Some(key) = self.key.get() {
            watcher::report(*key, report);
        }
    }
}

impl State {
    #[inline]
    pub(super) fn note_activity(&mut self) {
        self.activity = self.activity.saturating_add(1);
    }

    /// Whether nothing is left to be served: the connection is over, or was left and all calls are answered.
    pub(super) fn is_served(&self) -> bool {
        self.core.failure().is_some() || (self.core.is_leaving() && self.core.calls_served() == 0)
    }

    /// Whether there is something to be written that nobody is writing.
    pub(super) fn has_unsent(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| {
            !writer.taken.is_empty() || self.core.has_output() || self.owes_bell
        })
    }

    /// Whether at most one thread has business with this connection.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiters.are_none() && self.workers.is_alone()
    }

    /// Has this thread wait by a call or a ticket, until it is told otherwise or its patience is over. `nested` are calls
    /// that are to be run on it meanwhile.
    #[inline(never)]
    pub(super) fn add_waiter(
        &mut self,
        key: u64,
        nested: Vec<Task>,
        patience: &Patience<'_>,
    ) -> Arc<Waiter> {
        patience.wait_by(key);
        self.waiters.add(key, nested)
    }

    /// What was taken from the core and is not written, if nobody writes it at this moment.
    pub(super) fn with_taken<R>(
        &mut self,
        act: impl FnOnce(&mut Connection, &mut Output) -> R,
    ) -> R {
        match &mut self.writer {
            Some(writer) => act(&mut self.core, &mut writer.taken),
            None => act(&mut self.core, &mut Output::default()),
        }
    }

    /// Has what was to be sent dropped, once the connection is over and nothing can be written any more.
    pub(super) fn discard_unsent(&mut self) {
        let is_over = self.core.failure().is_some();
        let closed = self.writer.as_mut().filter(|writer| is_over && writer.output.is_none());
        if let Some(writer) = closed {
            self.core.discard_unsent(&mut writer.taken);
        }
    }

    /// Takes what was sent of the memory of users, to be dropped where their code may run.
    pub(super) fn take_sent(&mut self) -> Vec<Bytes> {
        self.workers.note_dropped();
        self.core.take_dropped()
    }

    /// The same of one call, for who makes or serves it.
    pub(super) fn take_sent_of(&mut self, call: u64) -> Vec<Bytes> {
        let parts = self.core.take_dropped_of(call);
        if !self.core.has_dropped() {
            self.workers.note_dropped();
        }
        parts
    }

    /// A name to wait by that is no call.
    pub(super) fn next_ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// Wakes who waits by a name.
    pub(super) fn wake(&self, key: u64, wakes: &mut Wakes) {
        if let Some(waiting) = self.waiters.get(key) {
            wakes.some().look.push(waiting.waiter.clone());
        }
    }

    pub(super) fn wake_all(&self, wakes: &mut Wakes) {
        wakes.some().look.extend(self.waiters.iter().map(|waiting| waiting.waiter.clone()));
    }
}

pub(super) fn cancelled(delivery: Delivery) -> Error {
    Error::status(Code::Cancelled, "the call was cancelled by its caller", delivery)
}

/// The first ticket: more than any connection has calls.
const TICKETS: u64 = 1 << 63;
