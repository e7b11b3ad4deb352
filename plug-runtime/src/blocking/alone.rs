//! Calls that are alone on their connection: one thread makes or serves them, writes once and reads once, and what that
//! brings is what it waits for and nothing else.
//!
//! Nearly all calls are, so they have a short way of their own: it does what the general one does, without asking at each
//! step for all that could be going on besides. Where something is, the general way goes on from there. That nothing is,
//! is looked at once; from then on it is enough that nobody else has taken the lock ([`State::is_at_rest`]).

use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::caller::Unwinding;
use super::lead::Lead;
use super::link::{Link, State, Ticking};
use super::patience::Patience;
use super::roles::{Reader, Writer};
use super::watcher::TICK;
use super::worker::Worker;
use crate::error::Result;
use crate::incoming::Outcome;
use crate::options::Outbound;
use crate::protocol::{Answer, Request};
use crate::sys::pipe::{self, Written};

impl Link {
    /// Begins a call with a request of `len` bytes, encoded, if it is alone; [`exchange`](Self::exchange) makes it. If not,
    /// nothing has happened, and the lock is returned.
    ///
    /// They are two, as an outcome that is handed on within another one costs a call 5 ns: a processor is slow to copy what
    /// was just written.
    #[inline]
    pub(super) fn begin_alone<'a>(
        self: &'a Arc<Self>,
        outbound: &Outbound<'_>,
        request: &impl Message,
        len: usize,
    ) -> std::result::Result<Begun<'a>, MutexGuard<'a, State>> {
        let mut state = self.lock();
        let mut is_rare = false;
        if !state.is_still_at_rest() {
            match self.wake_at_rest(&mut state) {
                Some(rare) => is_rare = rare,
                None => return Err(state),
            }
        }
        let Some(call) = self.open_alone(&mut state, outbound, request, len) else {
            if is_rare {
                // Whatever comes of it in the general way, somebody has to look after the input.
                self.keep_ticking(&mut state);
            }
            return Err(state);
        };
        Ok(Begun { state, call, is_rare })
    }

    #[inline]
    fn open_alone(
        self: &Arc<Self>,
        state: &mut State,
        outbound: &Outbound<'_>,
        request: &impl Message,
        len: usize,
    ) -> Option<u64> {
        let mut deadline = None;
        if let Some(at) = outbound.deadline {
            let now = outbound.made_at.unwrap_or_else(Instant::now);
            if at <= now {
                return None;
            }
            deadline = Some((at, now));
        }
        let State { core, reader: Some(_), writer: Some(writer), .. } = state else { return None };
        let unwinding = Unwinding(self);
        let opened = core.open_alone(outbound.method, deadline, request, len, &mut writer.taken);
        drop(unwinding);
        opened
    }

    /// Takes a connection, on which nothing has gone on for a while, from the watcher, which waits for its input. `None` if
    /// something goes on after all. Otherwise, says whether this call comes by itself; where calls come close together, the
    /// watcher ticks from now on, and waits again when they have stopped.
    #[cold]
    fn wake_at_rest(self: &Arc<Self>, state: &mut State) -> Option<bool> {
        if !state.armed {
            return None;
        }
        let is_close = |since: Instant| since.elapsed() < CLOSE;
        let is_rare =
            state.ticking == Ticking::No && !state.armed_since.take().is_some_and(is_close);
        self.disarm_input(state);
        let is_calm = state.reader.as_deref().is_some_and(|reader| state.is_calm(reader));
        if !is_rare || !is_calm {
            self.keep_ticking(state);
        }
        is_calm.then_some(is_rare)
    }

    /// Gives it back after such a call. It costs a call that comes by itself as much as a timer for a tick would, and the
    /// watcher need not wake up for it.
    #[cold]
    fn sleep_again(self: &Arc<Self>, state: &mut State) {
        if self.arm_input(state) {
            state.armed_since = Some(Instant::now());
        } else {
            self.keep_ticking(state);
        }
    }

    /// Writes the request of a call, and waits for its response.
    pub(super) fn exchange<'a>(
        self: &'a Arc<Self>,
        begun: Begun<'a>,
        patience: &Patience<'_>,
    ) -> Result<Bytes> {
        let Begun { mut state, call, is_rare } = begun;
        if !self.write_alone(&mut state) {
            return self.wait_for_reply(state, call, patience);
        }
        let mut alone = Alone::begin(self, &mut state, Some(call));
        drop(state);
        let read = alone.read(patience);
        state = self.lock();
        if let Some(bytes) = alone.has_read(&mut state, &read) {
            if let Some(response) = state.core.take_alone_response(call, bytes) {
                alone.end(&mut state);
                state.ask_for_memory(1);
                if is_rare {
                    self.sleep_again(&mut state);
                } else if !state.shared.is_wished_for() {
                    state.rested = state.visits;
                }
                return Ok(response);
            }
        }
        let lead;
        (state, lead) = alone.go_on(state, Some(call), read);
        self.lead_to_reply(state, lead, call, patience, true)
    }

    /// Serves calls, as long as each is alone. Returns once something else has come, which may be left to be done.
    pub(super) fn serve_alone<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        worker: &mut Worker,
    ) -> MutexGuard<'a, State> {
        loop {
            let mut alone = Alone::begin(self, &mut state, None);
            drop(state);
            let read = alone.read(&Patience::endless());
            state = self.lock();
            let bytes = alone.has_read(&mut state, &read);
            let request = bytes.and_then(|bytes| state.core.take_alone_request(bytes));
            let Some(request) = request else {
                let lead;
                (state, lead) = alone.go_on(state, None, read);
                return self.bring(state, lead);
            };
            alone.end(&mut state);
            let is_done;
            (state, is_done) = self.run_alone(state, request, worker);
            if !is_done {
                return state;
            }
        }
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
            }
            outcome => self.answer(&mut state, call, outcome, worker),
        }
        (state, is_done)
    }

    /// Writes what a call that is alone has to say. Says whether that is all; if not, the general way goes on.
    #[inline]
    fn write_alone(self: &Arc<Self>, state: &mut State) -> bool {
        let State { core, writer: Some(writer), .. } = state else { return false };
        let Writer { output: Some(output), ring: None, taken, .. } = &mut **writer else {
            return self.write_alone_elsewhere(state);
        };
        let bytes = taken.whole().unwrap_or_default();
        let len = bytes.len();
        let written = pipe::write(&*output, bytes);
        if written != Written::Bytes(len) {
            return self.note_written_in_part(state, written);
        }
        core.advance(taken, len);
        taken.clear();
        true
    }

    /// The same where it goes to shared memory.
    #[inline(never)]
    fn write_alone_elsewhere(self: &Arc<Self>, state: &mut State) -> bool {
        let Some(mut writer) = state.writer.take() else { return false };
        let is_written = self.write_taken(state, &mut writer);
        state.writer = Some(writer);
        is_written
    }
}

/// A call that is alone, and whose request is to be written.
pub(super) struct Begun<'a> {
    state: MutexGuard<'a, State>,
    call: u64,
    /// Whether it comes by itself: see [`Link::wake_at_rest`].
    is_rare: bool,
}

/// The role of reading, of a thread that reads for a call that is alone, or waits for one. It is not lost when that unwinds.
struct Alone<'a> {
    link: &'a Arc<Link>,
    /// `None` once it was given back.
    reader: Option<Box<Reader>>,
    /// How often the lock had been taken then.
    visits: u64,
}

impl<'a> Alone<'a> {
    /// Takes the role, on a connection at rest, where nobody has it.
    #[inline]
    fn begin(link: &'a Arc<Link>, state: &mut State, call: Option<u64>) -> Alone<'a> {
        debug_assert!(state.reader.is_some() && !state.armed && !state.input_ended);
        state.leading = call;
        Alone { link, reader: state.reader.take(), visits: state.visits }
    }

    /// Waits for the next bytes, and takes them.
    #[inline]
    fn read(&mut self, patience: &Patience<'_>) -> io::Result<Option<usize>> {
        let Some(reader) = self.reader.as_deref_mut() else { return Ok(None) };
        let Link { interrupt, input, .. } = &**self.link;
        if reader.ring.is_none() && patience.is_endless() {
            return interrupt.read(input, |input| pipe::read(input, &mut reader.buffer));
        }
        self.link.read(reader, None, patience)
    }

    /// What was read, if nothing else has happened meanwhile.
    #[inline]
    fn has_read(&self, state: &mut State, read: &io::Result<Option<usize>>) -> Option<&[u8]> {
        let reader = self.reader.as_deref()?;
        let Ok(Some(len)) = *read else { return None };
        if state.visits != self.visits + 1 && !self.is_undisturbed(state, reader) {
            return None;
        }
        if let Some(input) = &reader.ring {
            state.owes_bell |= input.ring.must_wake();
            if state.owes_bell || input.bells_in_vain > 0 {
                return None;
            }
        }
        // Whoever fills the buffer gets a larger one.
        let is_usual = 0 < len && len < reader.buffer.len();
        is_usual.then(|| &reader.buffer[..len])
    }

    /// Whether nothing goes on although others have had the lock since, as the watcher has with its ticks. It ticks again
    /// then.
    #[cold]
    fn is_undisturbed(&self, state: &mut State, reader: &Reader) -> bool {
        if state.leading.is_some() {
            // There is the call that this waits for.
            return false;
        }
        self.link.keep_ticking_late(state);
        state.ticking != Ticking::No && state.is_calm(reader)
    }

    /// Gives the role back, after a read that has brought what it was to bring and nothing else.
    #[inline]
    fn end(mut self, state: &mut State) {
        state.reader = self.reader.take();
        state.leading = None;
        state.heard = true;
        state.note_activity();
        state.workers.note_free();
    }

    /// Goes over to the general way, after a read that has brought something else.
    #[cold]
    fn go_on(
        mut self,
        state: MutexGuard<'a, State>,
        call: Option<u64>,
        read: io::Result<Option<usize>>,
    ) -> (MutexGuard<'a, State>, Lead<'a>) {
        let mut lead = Lead::with(self.link, self.reader.take(), call);
        let state = match lead.reader.as_deref_mut() {
            Some(reader) => self.link.take_read(state, reader, read),
            None => state,
        };
        (state, lead)
    }
}

impl Drop for Alone<'_> {
    /// Reached with the role only while the thread unwinds.
    #[inline]
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.link.abandon(reader, Vec::new());
        }
    }
}

impl State {
    /// The same for who has just taken the lock.
    ///
    /// Where nothing was going on as it was last released, nobody can have changed that. So all that could go on is looked at
    /// only if somebody else has had the lock, as the watcher has with each tick.
    #[inline]
    fn is_still_at_rest(&self) -> bool {
        let has_been = self.rested + 1 == self.visits;
        debug_assert!(!has_been || self.is_at_rest(), "something goes on that was not looked at");
        has_been || self.is_at_rest()
    }

    /// Whether nothing goes on, and the thread that asks is the only one that has business here.
    #[inline(never)]
    pub(super) fn is_at_rest(&self) -> bool {
        let is_calm = |reader| self.is_calm(reader);
        self.ticking != Ticking::No && self.reader.as_deref().is_some_and(is_calm)
    }

    /// The same whether the watcher ticks or not, with the role of reading, whoever has it.
    fn is_calm(&self, reader: &Reader) -> bool {
        let Some(writer) = &self.writer else { return false };
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
        let is_usual =
            self.over.is_none() && !self.severed && !self.reported && !self.shared.is_wished_for();
        can_read && can_write && has_no_others && is_usual && self.core.is_at_rest()
    }

    #[inline]
    fn reply_alone(&mut self, call: u64, response: &[u8]) -> bool {
        let State { core, writer: Some(writer), .. } = self else { return false };
        core.reply_alone(call, response, &mut writer.taken)
    }
}

/// Calls of which each begins so soon after the one before come close together: of two ticks, one would find something.
const CLOSE: Duration = TICK.saturating_mul(2);
