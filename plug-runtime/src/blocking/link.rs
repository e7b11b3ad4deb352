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

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use prost::Message;

use super::dispatch::Dispatch;
use super::lead::{Lead, Wakes};
use super::waiter::{Waiter, Woken};
use super::watcher::{self, Key, Report};
use super::worker::Workers;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::{Answer, Connection, Event};
use crate::sys::interrupt::Interrupt;
use crate::sys::pipe;

/// The shared half of a connection. See the module's documentation.
pub(crate) struct Link {
    pub(super) state: Mutex<State>,
    pub(super) input: OwnedFd,
    pub(super) interrupt: Interrupt,
    /// Signalled when one more call can be made.
    pub(super) space: Condvar,
    /// Signalled when the connection is over.
    pub(super) ended: Condvar,
    /// Signalled when a worker is needed, or the connection is over.
    pub(super) work: Condvar,
    /// What this side serves.
    pub(super) dispatch: OnceLock<Dispatch>,
    /// By what name the watcher knows this connection, once it does.
    pub(super) key: OnceLock<Key>,
    /// Whether the other side is a child of this process, so that its exit, not the end of its output, ends the
    /// connection.
    pub(super) child: bool,
}

pub(super) struct State {
    pub(super) core: Connection,
    /// The role of reading; `None` while somebody has it.
    pub(super) reader: Option<Reader>,
    /// The role of writing; `None` while somebody has it.
    pub(super) writer: Option<Writer>,
    /// Threads that wait for their replies while another reads.
    pub(super) waiters: BTreeMap<u64, Arc<Waiter>>,
    pub(super) workers: Workers,
    /// How many threads wait until they may make a call.
    waiting_for_space: usize,
    /// Whether the watcher ticks for this connection.
    pub(super) ticking: bool,
    /// Whether something has happened since the last tick.
    pub(super) active: bool,
    /// Whether the watcher waits for input, because nobody else does.
    pub(super) armed: bool,
    /// Whether the output is to be closed as soon as nothing is left to be written.
    pub(super) closing: bool,
    /// Whether the input has ended.
    pub(super) input_ended: bool,
    /// Why the connection is over, although there may be something left to be read.
    pub(super) over: Option<Error>,
    /// Whether the last byte in the pipe is not from the other side: it wakes whoever reads.
    pub(super) rung: bool,
    /// Whether the watcher has been told of the failure.
    reported: bool,
}

/// The role of reading, and the buffer for it.
pub(super) struct Reader {
    pub(super) buffer: Box<[u8]>,
}

/// The role of writing, and what was taken from the core to be written.
pub(super) struct Writer {
    /// `None` once closed.
    pub(super) output: Option<OwnedFd>,
    pub(super) buffer: Vec<u8>,
    pub(super) written: usize,
}

impl Link {
    /// A connection over two pipes. Nobody reads it yet.
    pub(super) fn new(
        core: Connection,
        input: OwnedFd,
        output: OwnedFd,
        child: bool,
    ) -> Result<Arc<Link>> {
        pipe::set_nonblocking(&output)?;
        let writer = Writer { output: Some(output), buffer: Vec::new(), written: 0 };
        Ok(Arc::new(Link {
            state: Mutex::new(State {
                core,
                reader: Some(Reader { buffer: vec![0; READ_BUFFER].into_boxed_slice() }),
                writer: Some(writer),
                waiters: BTreeMap::new(),
                workers: Workers::default(),
                waiting_for_space: 0,
                ticking: false,
                active: false,
                armed: false,
                closing: false,
                input_ended: false,
                over: None,
                rung: false,
                reported: false,
            }),
            input,
            interrupt: Interrupt::new()?,
            space: Condvar::new(),
            ended: Condvar::new(),
            work: Condvar::new(),
            dispatch: OnceLock::new(),
            key: OnceLock::new(),
            child,
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic between two states of the core would be a bug of ours. The connection goes on as well as
        // it can; who panicked has its roles returned by `Lead`.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- calls

    /// Calls a method of the other side, by its number there, and waits for the reply.
    pub(crate) fn call(self: &Arc<Self>, method: u32, request: &impl Message) -> Result<Bytes> {
        let mut state = self.lock();
        while !state.core.can_open() {
            state.waiting_for_space += 1;
            state = self.space.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting_for_space -= 1;
        }
        let call = state.core.open(method, request).inspect_err(|_| {
            // The place that this thread was woken for is still free.
            if state.waiting_for_space > 0 {
                self.space.notify_one();
            }
        })?;
        let mut waiter = match Lead::take(self, &mut state, Some(call)) {
            Some(lead) => match self.read_until_done(state, lead, call) {
                Ok(outcome) => return outcome,
                Err(waiter) => waiter,
            },
            None => {
                let waiter = state.add_waiter(call);
                drop(self.flush_or_leave(state));
                waiter
            }
        };
        loop {
            match waiter.wait() {
                Woken::Done(outcome) => return outcome,
                Woken::Lead => {
                    let mut state = self.lock();
                    // Without an entry, the outcome is on its way to the waiter.
                    if !state.waiters.contains_key(&call) {
                        continue;
                    }
                    if let Some(lead) = Lead::take(self, &mut state, Some(call)) {
                        state.waiters.remove(&call);
                        match self.read_until_done(state, lead, call) {
                            Ok(outcome) => return outcome,
                            Err(again) => waiter = again,
                        }
                    }
                }
            }
        }
    }

    /// Reads until the call has ended. If there is nothing more to read before that, the outcome comes to the
    /// waiter that is returned.
    fn read_until_done<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        mut lead: Lead<'a>,
        call: u64,
    ) -> std::result::Result<Result<Bytes>, Arc<Waiter>> {
        loop {
            state = self.flush_and_read(state, &mut lead);
            let mut wakes = Wakes::default();
            lead.handle_events(&mut state, &mut wakes);
            if lead.outcome.is_some() || state.input_ended {
                let outcome = lead.release(&mut state, &mut wakes);
                let result = outcome.ok_or_else(|| state.add_waiter(call));
                // What is queued behind a full pipe must not wait for the next call.
                drop(self.flush_or_leave(state));
                wakes.wake();
                return result;
            }
            if state.workers.has_queue() {
                self.keep_ticking(&mut state);
            }
            if !wakes.is_empty() {
                drop(state);
                wakes.wake();
                state = self.lock();
            }
        }
    }

    /// Acts on what the core has to say. Returns the outcome of `own`, if that is among it; other outcomes go to
    /// their waiters.
    pub(super) fn handle_events(
        &self,
        state: &mut State,
        own: Option<u64>,
        wakes: &mut Wakes,
    ) -> Option<Result<Bytes>> {
        let mut own_outcome = None;
        while let Some(event) = state.core.poll_event() {
            match event {
                Event::Reply { call, outcome } => {
                    if Some(call) == own {
                        own_outcome = Some(outcome);
                    } else if let Some(waiter) = state.waiters.remove(&call) {
                        wakes.done.push((waiter, outcome));
                    }
                    if state.waiting_for_space > 0 {
                        self.space.notify_one();
                    }
                }
                Event::Request(request) if self.dispatch.get().is_some() => {
                    state.workers.enqueue(request);
                }
                Event::Request(request) => {
                    let error =
                        Error::of_kind(ErrorKind::Unimplemented, "this side serves nothing");
                    state.core.reply(request.call, Answer::Refused(error));
                }
                Event::Goodbye(goodbye) => {
                    self.report(Report::Goodbye(goodbye.grace));
                    self.work.notify_all();
                    self.space.notify_all();
                }
                Event::Greeted => {}
            }
        }
        if state.core.failure().is_some() && !state.reported {
            state.reported = true;
            self.report(Report::Failed);
            self.work.notify_all();
            self.space.notify_all();
            self.ended.notify_all();
        }
        own_outcome
    }

    /// Passes the role of reading on, or sees to it that the watcher takes it once nothing happens.
    pub(super) fn pass_on(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) {
        state.active = true;
        state.workers.note_free();
        if state.input_ended {
            return;
        }
        match state.waiters.first_key_value() {
            Some((_, waiter)) => wakes.lead = Some(waiter.clone()),
            None => self.keep_ticking(state),
        }
    }

    pub(super) fn report(&self, report: Report) {
        if let Some(key) = self.key.get() {
            watcher::report(*key, report);
        }
    }
}

impl State {
    /// Whether nothing is left to be served: the connection is over, or was left and all calls are answered.
    pub(super) fn is_served(&self) -> bool {
        self.core.failure().is_some() || (self.core.is_leaving() && self.core.calls_served() == 0)
    }

    /// Whether there is something to be written that nobody is writing.
    pub(super) fn has_unsent(&self) -> bool {
        self.writer
            .as_ref()
            .is_some_and(|writer| writer.written < writer.buffer.len() || self.core.has_output())
    }

    /// Whether at most one thread has business with this connection.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiters.is_empty() && self.workers.is_alone()
    }

    fn add_waiter(&mut self, call: u64) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter::new());
        self.waiters.insert(call, waiter.clone());
        waiter
    }
}

/// How much one read takes at most: as much as a pipe holds.
const READ_BUFFER: usize = 64 << 10;
