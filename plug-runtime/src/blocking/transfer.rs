//! Bytes between the pipes and the core.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lead::Lead;
use super::link::{Link, Reader, State, Writer};
use super::patience::Patience;
use super::watcher::{self, Report, Source};
use crate::error::{self, Error};
use crate::sys::bell::Bell;
use crate::sys::pipe::{self, Wait, Written};

/// What a pass of writing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Nothing is left to be written, or somebody else writes.
    Done,
    /// The pipe is full.
    Full,
}

impl Link {
    // ---- reading

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
        if state.left.is_some() || state.core.has_events() {
            return state;
        }
        // A writer that waits for room has to be waited for, too: this thread does whichever is possible first.
        let writer = if flushed == Flushed::Full { state.writer.take() } else { None };
        drop(state);
        let is_readable = if writer.is_some() || !patience.is_endless() {
            let is_readable = self.wait_for_pipes(writer.as_ref(), patience);
            if writer.is_some() {
                let mut state = self.lock();
                state.writer = writer;
                // This thread may soon be busy with what it reads: then the watcher goes on.
                state.workers.note_unsent();
                self.keep_ticking(&mut state);
            }
            is_readable
        } else {
            true
        };
        let Some(reader) = lead.reader.as_mut() else { return self.lock() };
        let read = if is_readable {
            self.interrupt.read(&self.input, &mut reader.buffer)
        } else {
            Ok(None)
        };
        state = self.lock();
        self.take_input(&mut state, reader, read);
        state
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
        match read {
            Ok(None) => {}
            Ok(Some(len)) if state.severed && len > 0 => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
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
            Ok(Some(mut len)) => {
                state.heard = true;
                if state.rung && pipe::readable_bytes(&self.input) == 0 {
                    // It could complete a frame that the other side has only begun.
                    state.rung = false;
                    len -= 1;
                }
                state.core.handle_bytes(&reader.buffer[..len]);
            }
        }
        self.settle(state, reader);
    }

    /// Reads what is in the pipe, of a process that has ended: another one may hold the pipe and go on writing.
    pub(super) fn drain(&self, state: &mut State, reader: &mut Reader) {
        let mut left = pipe::readable_bytes(&self.input).saturating_sub(state.rung.into());
        while left > 0 && !state.input_ended && state.core.failure().is_none() {
            let want = left.min(reader.buffer.len());
            match pipe::read(&self.input, &mut reader.buffer[..want]) {
                Ok(len) if len > 0 => {
                    left -= len;
                    state.core.handle_bytes(&reader.buffer[..len]);
                }
                _ => break,
            }
        }
    }

    /// Ends a connection that is over, after the last of what was sent before the end has been read.
    pub(super) fn settle(&self, state: &mut State, reader: &mut Reader) {
        if let Some(error) = state.over.take() {
            if !state.severed {
                self.drain(state, reader);
            }
            state.input_ended = true;
            let error = if state.core.is_truncated() { error.with_note(TRUNCATED) } else { error };
            state.core.close(&error);
        }
    }

    // ---- writing

    /// Sends what is queued, and leaves what does not fit to the watcher.
    pub(super) fn flush_or_leave<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let (mut state, flushed) = self.flush(state, usize::MAX);
        if flushed == Flushed::Full {
            self.leave_writing(&mut state);
        }
        state
    }

    /// Sends what is queued to the last byte, waiting for room, unless the other side ends.
    pub(super) fn flush_to_the_end(self: &Arc<Self>) {
        let mut state = self.lock();
        loop {
            let flushed;
            (state, flushed) = self.flush(state, usize::MAX);
            let Some(writer) = state.writer.take_if(|_| flushed == Flushed::Full) else {
                if state.writer.is_some() {
                    return;
                }
                // Another thread has taken what is left. If this one ended the process now, it would not be sent.
                state = wait_briefly(&self.work, state);
                continue;
            };
            drop(state);
            if let Some(output) = &writer.output {
                pipe::wait(&[Wait::writable(output)], None);
            }
            state = self.lock();
            state.writer = Some(writer);
        }
    }

    pub(super) fn leave_writing(self: &Arc<Self>, state: &mut State) {
        let output = state.writer.as_ref().and_then(|writer| writer.output.as_ref());
        if let (Some(key), Some(output)) = (self.key.get(), output) {
            if watcher::arm_output(*key, output).is_err() {
                // It cannot wait for one more pipe. So it tries again with each tick.
                state.workers.note_unsent();
                self.keep_ticking(state);
            }
        }
    }

    /// Has the watcher forget an output that it waited for.
    pub(super) fn disarm_output(&self, state: &State) {
        let output = state.writer.as_ref().and_then(|writer| writer.output.as_ref());
        if let (Some(key), Some(output)) = (self.key.get(), output) {
            watcher::disarm(*key, Source::Output, output);
        }
    }

    /// Writes what is queued, unless somebody else does, in at most `writes` goes.
    pub(super) fn flush<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        mut writes: usize,
    ) -> (MutexGuard<'a, State>, Flushed) {
        let closes = state.closing && state.core.has_no_calls();
        if !closes && !state.has_unsent() {
            return (state, Flushed::Done);
        }
        // Who writes looks for more before it lets the role go.
        let Some(mut writer) = state.writer.take() else { return (state, Flushed::Done) };
        let mut flushed = Flushed::Done;
        while let Some(output) = &writer.output {
            if state.core.is_output_void() {
                // What is left begins a call that was reported as not sent.
                self.close_output(&mut writer);
                break;
            }
            if writer.written == writer.buffer.len() {
                writer.written = 0;
                writer.buffer.clear();
                // A buffer that a long message has grown is not kept for ever.
                if !state.core.has_output() {
                    if writer.buffer.capacity() > KEPT_BUFFER {
                        writer.buffer = Vec::new();
                    }
                    break;
                }
                state.core.poll_output(&mut writer.buffer);
                if state.core.has_rooms() {
                    self.note_rooms(&mut state);
                }
            }
            if writes == 0 {
                flushed = Flushed::Full;
                break;
            }
            writes -= 1;
            let rest = &writer.buffer[writer.written..];
            let result = if rest.len() <= WRITTEN_UNDER_LOCK && state.is_quiet() {
                // Nobody is there who could want the lock meanwhile, and taking it again costs 2 %.
                pipe::write(output, rest)
            } else {
                // If the connection ends now, whatever is being written may have been sent.
                state.core.handle_writing(rest.len());
                drop(state);
                let result = pipe::write(output, rest);
                state = self.lock();
                state.core.handle_writing(0);
                result
            };
            match result {
                Written::Bytes(bytes) => {
                    writer.written += bytes;
                    state.core.handle_written(bytes);
                }
                Written::Full => {
                    flushed = Flushed::Full;
                    break;
                }
                Written::Broken => {
                    self.close_output(&mut writer);
                    if self.child {
                        self.report(Report::OutputEnded);
                    }
                }
            }
        }
        if state.closing && flushed == Flushed::Done && state.core.has_no_calls() {
            self.close_output(&mut writer);
        }
        state.writer = Some(writer);
        (state, flushed)
    }

    pub(super) fn close_output(&self, writer: &mut Writer) {
        if let (Some(key), Some(output)) = (self.key.get(), &writer.output) {
            watcher::disarm(*key, Source::Output, output);
        }
        writer.output = None;
    }
}

/// For what is over in a moment and not announced.
fn wait_briefly<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    let waited = condition.wait_timeout(state, Duration::from_millis(1));
    waited.unwrap_or_else(PoisonError::into_inner).0
}

/// What is added to the reason of an end that cut off a frame.
const TRUNCATED: &str = "; what it sent last was cut off in the middle of a message";

/// How often who cannot be called looks whether something was brought.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How much may be written while the lock is held: it takes about as long as taking the lock.
const WRITTEN_UNDER_LOCK: usize = 4 << 10;

/// The largest write buffer that is kept while nothing is to be written.
const KEPT_BUFFER: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::protocol::{Connection, Hello, Side};

    /// A process that ends then takes the last reply with it.
    #[test]
    fn the_end_waits_for_a_thread_that_still_writes() {
        let (input, _other_output) = pipe::pair().unwrap();
        let (_other_input, output) = pipe::pair().unwrap();
        let hello = Hello::new(String::new(), String::new());
        let core = Connection::new(Side::Host, hello, None);
        let link = Link::new(core, input, output, false).unwrap();
        let writer = link.lock().writer.take();
        let (sender, ended) = channel();
        let same = link.clone();
        std::thread::spawn(move || {
            same.flush_to_the_end();
            sender.send(()).unwrap();
        });
        assert!(ended.recv_timeout(Duration::from_millis(50)).is_err(), "somebody writes");
        link.lock().writer = writer;
        ended.recv_timeout(Duration::from_secs(30)).expect("it ends once nobody writes");
        assert!(!link.lock().has_unsent());
    }
}
