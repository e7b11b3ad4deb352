//! Bytes from a pipe, or from memory that both sides share, to the core.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::lead::Lead;
use super::link::{Link, State};
use super::patience::Patience;
use super::roles::{Reader, Writer};
use super::sharing::{RingInput, impossible};
use super::watcher::Report;
use super::writing::Flushed;
use crate::error::{self, Error};
use crate::protocol::{Connection, Place};
use crate::sys::bell::Bell;
use crate::sys::pages;
use crate::sys::pipe::{self, Wait};
use crate::sys::ring::{Impossible, RingReader};

impl Link {
    /// Sends what is queued, then takes what arrives next, waiting for it as long as the patience lasts. Returns once
    /// something was read, or was sent so late that somebody may have news, or the patience is over.
    pub(super) fn flush_and_read<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        lead: &mut Lead<'_>,
        patience: &Patience<'_>,
    ) -> MutexGuard<'a, State> {
        if patience.listens() {
            // Made before the lock is released: whoever brings something from then on finds it.
            let _ = self.bell();
        }
        let flushed;
        (state, flushed) = self.flush(state, usize::MAX);
        if state.workers.has_queue() {
            // What was written has made room for a stream. A worker goes on with it; if this is a caller, somebody else does.
            if lead.own.call.is_none() {
                return state;
            }
            state = self.hire(state);
        }
        if state.left.is_some() || state.core.has_events() {
            return state;
        }
        // Before it reads on, a worker drops what it has sent: the next long message may come to the same memory.
        if lead.own.call.is_none() && state.core.has_dropped() && flushed == Flushed::Done {
            return state;
        }
        let Some(reader) = lead.reader.as_mut() else { return state };
        // A writer that waits for room in a pipe has to be waited for, too: this thread does whichever is possible first.
        let writer = if flushed == Flushed::Full { state.writer.take() } else { None };
        reader.borrow(&mut state.core, &self.input);
        drop(state);
        let read = self.read(reader, writer, patience);
        self.take_read(self.lock(), reader, read)
    }

    /// Takes what arrives next, waiting for it as long as the patience lasts. Who waits for a writer as well gives that role
    /// back.
    pub(super) fn read(
        self: &Arc<Self>,
        reader: &mut Reader,
        writer: Option<Box<Writer>>,
        patience: &Patience<'_>,
    ) -> io::Result<Option<usize>> {
        if writer.is_none() && !patience.is_endless() && !patience.is_cancelled() {
            let read = reader.read_at_once(&self.input);
            if read.is_some() {
                return Ok(read);
            }
        }
        let (target, ring) = reader.target();
        match ring {
            None => self.wait_and_read(writer, patience, target),
            Some(input) => self.wait_and_read_ring(input, writer, patience, target),
        }
    }

    /// Hands what was read to the core.
    pub(super) fn take_read<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        reader: &mut Reader,
        read: io::Result<Option<usize>>,
    ) -> MutexGuard<'a, State> {
        self.take_input(&mut state, reader, read);
        if state.owes_bell {
            // Now: this thread may soon be busy with what it has read.
            state = self.flush_or_leave(state);
        }
        state
    }

    /// Waits for the next bytes in the pipe, and takes them. `None`: it has not come to that.
    fn wait_and_read(
        self: &Arc<Self>,
        writer: Option<Box<Writer>>,
        patience: &Patience<'_>,
        mut target: Target<'_>,
    ) -> io::Result<Option<usize>> {
        if writer.is_none() && patience.is_endless() {
            return self.interrupt.read(&self.input, |input| target.read(input));
        }
        let is_readable = self.wait_for_pipes(writer.as_deref(), patience);
        if writer.is_some() {
            self.leave_writer(writer);
        }
        if !is_readable {
            return Ok(None);
        }
        self.interrupt.read(&self.input, |input| target.read(input))
    }

    /// The same for bytes in memory: what comes by the pipe are bells.
    fn wait_and_read_ring(
        self: &Arc<Self>,
        input: &mut RingInput,
        writer: Option<Box<Writer>>,
        patience: &Patience<'_>,
        target: Target<'_>,
    ) -> io::Result<Option<usize>> {
        let RingInput { ring, polling, .. } = &mut *input;
        let is_there = ring.has_bytes() || polling.poll(|| ring.has_bytes());
        let mut bells = Ok(None);
        if !is_there && ring.begin_to_wait() {
            bells = self.wait_and_read(writer, patience, Target::Buffer(&mut [0; BELLS]));
            ring.end_waiting();
        } else if writer.is_some() {
            self.leave_writer(writer);
        }
        take_from(input, bells, target)
    }

    /// Gives the role of writing back. This thread may soon be busy with what it reads: then the watcher goes on.
    fn leave_writer(self: &Arc<Self>, writer: Option<Box<Writer>>) {
        let mut state = self.lock();
        state.writer = writer;
        state.workers.note_unsent();
        self.keep_ticking(&mut state);
    }

    /// Takes what is there, without waiting: for the watcher, which must never wait.
    pub(super) fn read_now(
        &self,
        state: &mut State,
        reader: &mut Reader,
    ) -> io::Result<Option<usize>> {
        reader.borrow(&mut state.core, &self.input);
        let now = Some(Instant::now());
        // Somebody may have read it since it was announced; as long as the role is this thread's, nobody does.
        let is_readable = pipe::wait(&[Wait::readable(&self.input)], now)[0];
        let mut bells = [0; BELLS];
        let (mut target, ring) = reader.target();
        let from_pipe = if ring.is_some() { &mut Target::Buffer(&mut bells) } else { &mut target };
        let read = if is_readable { from_pipe.read(&self.input).map(Some) } else { Ok(None) };
        match ring {
            None => read,
            Some(input) => take_from(input, read, target),
        }
    }

    /// Waits until there is something to read, or room for a writer, or the patience is over. Says whether it is the
    /// first.
    fn wait_for_pipes(&self, writer: Option<&Writer>, patience: &Patience<'_>) -> bool {
        let bell = if patience.listens() { self.bell() } else { None };
        if patience.is_cancelled() {
            // The bell that said so may have been heard by who read before.
            return false;
        }
        let mut until = patience.until();
        if patience.listens() && bell.is_none() {
            // There is no descriptor left for one. Who brings something cannot say so, and is looked for.
            let soon = Instant::now() + LOOK_EVERY;
            until = Some(until.map_or(soon, |until| until.min(soon)));
        }
        let interrupt = self.interrupt.wait();
        if let (None, None, None) = (writer, bell, interrupt) {
            return pipe::wait_readable(&self.input, until);
        }
        let mut waits = vec![Wait::readable(&self.input)];
        waits.extend(bell.map(Bell::wait));
        waits.extend(interrupt);
        match writer.map(|writer| &writer.output) {
            Some(Some(output)) => waits.push(Wait::writable(output)),
            // It was closed: there is nothing to be written any more.
            Some(None) if patience.is_endless() => return true,
            Some(None) | None => {}
        }
        let ready = pipe::wait(&waits, until);
        if bell.is_some() && ready[1] {
            bell.inspect(|bell| bell.silence());
        }
        ready[0]
    }

    /// Hands what was read to the core, and notices the end.
    pub(super) fn take_input(
        &self,
        state: &mut State,
        reader: &mut Reader,
        read: io::Result<Option<usize>>,
    ) {
        if let Some(input) = &mut reader.ring {
            state.core.handle_idle_bells(std::mem::take(&mut input.bells_in_vain));
        }
        match read {
            Ok(Some(len)) if len > 0 && !state.severed => self.take_bytes(state, reader, len),
            read => self.take_nothing(state, reader, read),
        }
        self.settle(state, reader);
    }

    /// Hands bytes to the core.
    #[inline]
    fn take_bytes(&self, state: &mut State, reader: &mut Reader, read: usize) {
        state.heard = true;
        let mut len = read;
        if reader.ring.is_some() {
            state.owes_bell |= reader.must_wake_writer();
        } else if state.rung && pipe::readable_bytes(&self.input) == 0 {
            // It could complete a frame that the other side has only begun.
            state.rung = false;
            len -= 1;
        }
        if reader.place.is_some() {
            return state.take_place(reader, read - len);
        }
        state.core.handle_bytes(&reader.buffer[..len]);
        state.move_input(reader);
        reader.resize_after(len, state.core.has_place());
    }

    /// Notices the end, or that something is wrong with the input.
    #[cold]
    fn take_nothing(
        &self,
        state: &mut State,
        reader: &mut Reader,
        read: io::Result<Option<usize>>,
    ) {
        let ignored = read.as_ref().ok().copied().flatten();
        state.take_place(reader, ignored.unwrap_or(0));
        match read {
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::InvalidData => state.core.close(&impossible()),
            Err(error) if !self.child => {
                state.input_ended = true;
                let message = "what the other side says cannot be read any more";
                let error = Error::of_kind(error::ErrorKind::Shutdown, message).with_source(error);
                state.core.close(&error);
            }
            Ok(Some(0)) | Err(_) => {
                state.input_ended = true;
                if !self.child {
                    state.core.handle_eof();
                } else if state.over.is_none() {
                    // Its exit says more than the end of its output, and will be there in a moment.
                    self.report(Report::OutputEnded);
                }
            }
            // What a process says that was killed is not heard any more.
            Ok(Some(_)) => {}
        }
    }

    /// Reads what was sent by a process that has ended: another one may hold the pipe and go on writing.
    pub(super) fn drain(&self, state: &mut State, reader: &mut Reader) {
        state.take_place(reader, 0);
        let mut left = pipe::readable_bytes(&self.input).saturating_sub(state.rung.into());
        while left > 0 && !state.input_ended && state.core.failure().is_none() {
            if reader.ring.is_some() {
                // They are bells.
                break;
            }
            let want = left.min(reader.buffer.len());
            match pipe::read(&self.input, &mut reader.buffer[..want]) {
                Ok(len) if len > 0 => {
                    left -= len;
                    state.core.handle_bytes(&reader.buffer[..len]);
                    state.move_input(reader);
                }
                _ => break,
            }
        }
        let Some(input) = &mut reader.ring else { return };
        let mut left = input.ring.capacity();
        while left > 0 && state.core.failure().is_none() {
            let want = left.min(reader.buffer.len());
            match input.ring.read(&mut reader.buffer[..want]) {
                Ok(len) if len > 0 => {
                    left -= len;
                    state.core.handle_bytes(&reader.buffer[..len]);
                }
                Ok(_) => break,
                Err(Impossible) => state.core.close(&impossible()),
            }
        }
    }

    /// Ends a connection that is over, after the last of what was sent before the end has been read.
    #[inline]
    pub(super) fn settle(&self, state: &mut State, reader: &mut Reader) {
        if state.over.is_some() {
            self.settle_now(state, reader);
        }
    }

    #[cold]
    fn settle_now(&self, state: &mut State, reader: &mut Reader) {
        if let Some(error) = state.over.take() {
            if !state.severed {
                self.drain(state, reader);
            }
            state.input_ended = true;
            let error = if state.core.is_truncated() { error.with_note(TRUNCATED) } else { error };
            state.core.close(&error);
        }
    }
}

/// Where bytes are read to.
enum Target<'a> {
    Buffer(&'a mut [u8]),
    /// Straight to where they belong.
    Place(&'a mut Place),
}

impl Target<'_> {
    #[inline]
    fn read(&mut self, pipe: &OwnedFd) -> io::Result<usize> {
        match self {
            Target::Buffer(buffer) => pipe::read(pipe, buffer),
            Target::Place(place) => {
                place.fill(|memory, most| pipe::read_behind(pipe, memory, most))
            }
        }
    }

    fn read_ring(&mut self, ring: &mut RingReader) -> Result<usize, Impossible> {
        match self {
            Target::Buffer(buffer) => ring.read(buffer),
            Target::Place(place) => place.fill(|memory, most| ring.read_behind(memory, most)),
        }
    }
}

impl State {
    /// Takes memory back that was lent, but for the last bytes that came there, which do not count.
    #[cold]
    fn take_place(&mut self, reader: &mut Reader, ignored: usize) {
        if let Some(mut place) = reader.place.take() {
            place.withdraw(ignored);
            self.core.take_back(place);
        }
    }
}

impl Reader {
    /// Borrows the place where the next bytes belong, if the core knows one, until they are handed to it. Who does not come
    /// to that leaves it to the next who has this role.
    #[inline]
    pub(super) fn borrow(&mut self, core: &mut Connection, pipe: &OwnedFd) {
        if core.has_place() && self.place.is_none() {
            self.place = core.lend();
            if let Some(memory) = self.place.as_mut().and_then(|place| place.take_new()) {
                pages::prefer_large(memory);
            }
            if self.ring.is_none() {
                self.bulk.note(pipe, core);
            }
        }
    }

    /// Takes what is in the pipe already, unless that is hardly ever anything.
    fn read_at_once(&mut self, pipe: &OwnedFd) -> Option<usize> {
        if self.ring.is_some() || self.place.is_some() || !self.at_once.is_due() {
            return None;
        }
        let read = pipe::read_at_once(pipe, &mut self.buffer);
        self.at_once.note(read.is_none());
        read
    }

    fn target(&mut self) -> (Target<'_>, Option<&mut RingInput>) {
        let target = match &mut self.place {
            None => Target::Buffer(&mut self.buffer),
            Some(place) => Target::Place(place),
        };
        (target, self.ring.as_deref_mut())
    }
}

/// Takes bytes from memory, after a look into the pipe, whose end comes behind them.
fn take_from(
    input: &mut RingInput,
    bells: io::Result<Option<usize>>,
    mut target: Target<'_>,
) -> io::Result<Option<usize>> {
    match target.read_ring(&mut input.ring) {
        Ok(0) => match bells? {
            Some(0) => Ok(Some(0)),
            count => {
                input.bells_in_vain += count.unwrap_or(0);
                Ok(None)
            }
        },
        Ok(len) => Ok(Some(len)),
        Err(Impossible) => Err(ErrorKind::InvalidData.into()),
    }
}

/// How many bells are taken at a time.
const BELLS: usize = 64;

/// What is added to the reason of an end that cut off a frame.
const TRUNCATED: &str = "; what it sent last was cut off in the middle of a message";

/// How often who cannot be called looks whether something was brought.
const LOOK_EVERY: Duration = Duration::from_millis(2);

#[cfg(all(test, target_os = "linux", not(plug_portable)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_pipe_is_taken_at_once_and_looked_for_less_often_where_nothing_is() {
        let (input, output) = pipe::pair().unwrap();
        if !pipe::can_read_at_once(&input) {
            return;
        }
        let mut reader = Reader::new();
        assert_eq!(reader.read_at_once(&input), None, "there is nothing");
        pipe::write(&output, b"ab");
        assert_eq!(reader.read_at_once(&input), None, "it was in vain the last time");
        for _ in 0..10 {
            assert_eq!(reader.read_at_once(&input), Some(2));
            pipe::write(&output, b"ab");
        }
    }
}
