//! Calls that are alone on their connection: one thread makes or serves them, writes once and reads once, and what that
//! brings is what it waits for and nothing else.
//!
//! Nearly all calls are, so they have a short way of their own: it does what the general one does, without asking at each
//! step for all that could be going on besides. Where something is, the general way goes on from there. That nothing is,
//! is looked at once; from then on it is enough that nobody else has taken the lock ([`State::is_at_rest`]).

use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use prost::Message;

use super::caller::Unwinding;
use super::lead::Lead;
use super::link::{Link, State};
use super::patience::Patience;
use super::roles::Reader;
use super::worker::Worker;
use crate::error::Result;
use crate::incoming::Outcome;
use crate::options::Outbound;
use crate::protocol::{Answer, Request};
use crate::sys::pipe;

impl Link {
    /// Makes a call with a request of `len` bytes, encoded, if it is alone. If not, nothing has happened, and the lock is
    /// returned.
    #[inline]
    pub(super) fn call_alone<'a>(
        self: &'a Arc<Self>,
        outbound: &Outbound<'_>,
        request: &impl Message,
        len: usize,
    ) -> std::result::Result<Result<Bytes>, MutexGuard<'a, State>> {
        let mut state = self.lock();
        if !state.is_still_at_rest() {
            return Err(state);
        }
        let mut deadline = None;
        if let Some(at) = outbound.deadline {
            let now = outbound.made_at.unwrap_or_else(Instant::now);
            if at <= now {
                return Err(state);
            }
            deadline = Some((at, now));
        }
        let State { core, writer: Some(writer), .. } = &mut *state else { return Err(state) };
        let unwinding = Unwinding(self);
        let opened = core.open_alone(outbound.method, deadline, request, len, &mut writer.taken);
        drop(unwinding);
        let Some(call) = opened else { return Err(state) };
        Ok(self.exchange(state, call, &Patience::until_then(outbound.deadline)))
    }

    /// Writes the request of a call, and waits for its response.
    fn exchange<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        call: u64,
        patience: &Patience<'_>,
    ) -> Result<Bytes> {
        let is_written = self.write_alone(&mut state);
        let lead = if is_written { Lead::take(self, &mut state, Some(call)) } else { None };
        let Some(mut lead) = lead else {
            return self.wait_for_reply(state, call, patience);
        };
        let visits = state.visits;
        drop(state);
        let read = self.read_alone(&mut lead, patience);
        state = self.lock();
        if let Some(bytes) = state.alone(visits, &lead, &read) {
            if let Some(response) = state.core.take_alone_response(call, bytes) {
                state.take_back(&mut lead);
                state.rested = state.visits;
                return Ok(response);
            }
        }
        state = self.take_late(state, &mut lead, read);
        self.lead_to_reply(state, lead, call, patience, true)
    }

    /// Serves calls, as long as each is alone. Returns once something else has come, which may be left to be done.
    pub(super) fn serve_alone<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        worker: &mut Worker,
    ) -> MutexGuard<'a, State> {
        while let Some(mut lead) = Lead::take(self, &mut state, None) {
            let visits = state.visits;
            drop(state);
            let read = self.read_alone(&mut lead, &Patience::endless());
            state = self.lock();
            let bytes = state.alone(visits, &lead, &read);
            let request = bytes.and_then(|bytes| state.core.take_alone_request(bytes));
            let Some(request) = request else {
                state = self.take_late(state, &mut lead, read);
                return self.bring(state, lead);
            };
            state.take_back(&mut lead);
            let is_done;
            (state, is_done) = self.run_alone(state, request, worker);
            if !is_done {
                break;
            }
        }
        state
    }

    /// Runs the handler of a call, and sends its response. Says whether the connection is at rest then.
    fn run_alone<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        mut request: Request,
        worker: &mut Worker,
    ) -> (MutexGuard<'a, State>, bool) {
        let call = request.call;
        if let Some(extra) = &mut request.extra {
            extra.arrive(Instant::now());
        }
        let visits = state.visits;
        let outcome;
        (state, outcome) = self.handle(state, request, None, worker);
        let mut is_done = false;
        match outcome {
            Outcome::Answer(Answer::Response(response))
                if state.visits == visits + 1 && state.reply_alone(call, &response) =>
            {
                worker.keep(state.running.remove(call), response);
                is_done = self.write_alone(&mut state);
                if is_done {
                    state.rested = state.visits;
                }
            }
            outcome => self.answer(&mut state, call, outcome, worker),
        }
        (state, is_done)
    }

    /// Takes what was read, where that is not what a call that is alone has brought.
    #[cold]
    fn take_late<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
        lead: &mut Lead<'_>,
        read: io::Result<Option<usize>>,
    ) -> MutexGuard<'a, State> {
        match lead.reader.as_deref_mut() {
            Some(reader) => self.take_read(state, reader, read),
            None => state,
        }
    }

    /// Writes what a call that is alone has to say. Says whether that is all; if not, the general way goes on.
    #[inline]
    fn write_alone(self: &Arc<Self>, state: &mut State) -> bool {
        let Some(mut writer) = state.writer.take() else { return false };
        let is_written = self.write_taken(state, &mut writer);
        state.writer = Some(writer);
        is_written
    }

    /// Waits for the next bytes, and takes them.
    #[inline]
    fn read_alone(
        self: &Arc<Self>,
        lead: &mut Lead<'_>,
        patience: &Patience<'_>,
    ) -> io::Result<Option<usize>> {
        let Some(reader) = lead.reader.as_deref_mut() else { return Ok(None) };
        if reader.ring.is_none() && patience.is_endless() {
            return self.interrupt.read(&self.input, |input| pipe::read(input, &mut reader.buffer));
        }
        self.read(reader, None, patience)
    }
}

impl State {
    /// The same for who has just taken the lock.
    ///
    /// Where nothing was going on as it was last released, nobody can have changed that. So all that could go on is looked at
    /// only if somebody else has had the lock, as the watcher has with each tick.
    #[inline]
    fn is_still_at_rest(&self) -> bool {
        self.rested + 1 == self.visits || self.is_at_rest()
    }

    /// Whether nothing goes on, and the thread that asks is the only one that has business here.
    #[inline(never)]
    pub(super) fn is_at_rest(&self) -> bool {
        let (Some(reader), Some(writer)) = (&self.reader, &self.writer) else { return false };
        let can_read = !self.input_ended
            && self.left.is_none()
            && !self.armed
            && !self.rung
            && reader.place.is_none()
            && (reader.ring.is_some() || !self.core.has_switched());
        let has_moved = |from: u64| from <= self.core.sent();
        let can_write = writer.output.is_some()
            && !self.closing
            && !self.owes_bell
            && writer.taken.is_empty()
            && !self.shared.has_output()
            && writer.ring.as_ref().is_none_or(|ring| has_moved(ring.1));
        let has_no_others = self.is_quiet()
            && self.waiters.is_empty()
            && self.workers.has_nothing_to_do()
            && self.space.is_empty()
            && self.inboxes.is_empty()
            && self.pumps.is_empty()
            && self.running.is_empty()
            && self.spans.is_empty();
        let is_usual = self.over.is_none()
            && !self.severed
            && !self.reported
            && self.ticking
            && !self.shared.is_wished_for();
        can_read && can_write && has_no_others && is_usual && self.core.is_at_rest()
    }

    /// What was read, if nothing else has happened since the lock was taken for the `visits`th time.
    #[inline]
    fn alone<'a>(
        &mut self,
        visits: u64,
        lead: &'a Lead<'_>,
        read: &io::Result<Option<usize>>,
    ) -> Option<&'a [u8]> {
        let reader: &Reader = lead.reader.as_deref()?;
        let Ok(Some(len)) = *read else { return None };
        if self.visits != visits + 1 {
            return None;
        }
        if let Some(input) = &reader.ring {
            self.owes_bell |= input.ring.must_wake();
            if self.owes_bell || input.bells_in_vain > 0 {
                return None;
            }
        }
        // Whoever fills the buffer gets a larger one.
        let is_usual = 0 < len && len < reader.buffer.len();
        is_usual.then(|| &reader.buffer[..len])
    }

    /// Takes the role of reading back, after a read that has brought what it was to bring and nothing else.
    #[inline]
    fn take_back(&mut self, lead: &mut Lead<'_>) {
        self.reader = lead.reader.take();
        self.leading = None;
        self.heard = true;
        self.active = true;
        self.workers.note_free();
    }

    #[inline]
    fn reply_alone(&mut self, call: u64, response: &[u8]) -> bool {
        let State { core, writer: Some(writer), .. } = self else { return false };
        core.reply_alone(call, response, &mut writer.taken)
    }
}
