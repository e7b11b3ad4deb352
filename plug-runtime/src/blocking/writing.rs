//! Bytes from the core to a pipe, or to memory that both sides share.

use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::link::{Link, State};
use super::roles::{Bulk, Writer};
use super::sharing::impossible;
use super::watcher::{self, Report, Source};
use crate::protocol::{self, Output};
use crate::sys::pipe::{self, Wait, Written};
use crate::sys::ring::{Impossible, RingWriter};

/// What a pass of writing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Nothing is left to be written but what can wait, or somebody else writes.
    Done,
    /// The pipe is full.
    Full,
    /// The memory is full. The other side rings once there is room, so who reads learns of it.
    NoRoom,
}

/// Where bytes are written to.
enum Put<'a> {
    /// To the pipe, and so many at most: what follows does not belong there.
    Pipe { pipe: &'a OwnedFd, most: u64 },
    /// To memory, and who waits for them is woken by a byte in the pipe.
    Ring { ring: &'a mut RingWriter, bell: &'a OwnedFd },
}

/// What a go at writing came to.
struct Went {
    written: Written,
    /// Whether nobody will ever read what is written from now on.
    is_broken: bool,
}

impl Put<'_> {
    fn write(&mut self, output: &Output) -> Result<Went, Impossible> {
        match self {
            Put::Pipe { pipe, most } => {
                let most = usize::try_from(*most).unwrap_or(usize::MAX);
                let written = match output.whole() {
                    Some(bytes) => pipe::write(pipe, &bytes[..most.min(bytes.len())]),
                    None => pipe::write_parts(pipe, output.parts(), most),
                };
                Ok(Went { written, is_broken: written == Written::Broken })
            }
            Put::Ring { ring, bell } => loop {
                let written = match output.whole() {
                    Some(bytes) => ring.write(bytes)?,
                    None => ring.write_parts(output.parts())?,
                };
                if written > 0 {
                    let is_broken = ring.must_wake() && pipe::ring(bell) == Written::Broken;
                    // Another thread of the other side may have read them before the last one ended.
                    let taken = if is_broken { ring.taken_of_last(written) } else { written };
                    return Ok(Went { written: Written::Bytes(taken), is_broken });
                }
                if ring.begin_to_wait()? {
                    return Ok(Went { written: Written::Full, is_broken: false });
                }
            },
        }
    }

    /// What it means that there was no room.
    fn full(&self) -> Flushed {
        match self {
            Put::Pipe { .. } => Flushed::Full,
            Put::Ring { .. } => Flushed::NoRoom,
        }
    }
}

impl Link {
    /// Sends what is queued, and leaves what does not fit to the watcher.
    #[inline]
    pub(super) fn flush_or_leave<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        if state.want_flush() { self.flush_or_leave_rest(state) } else { state }
    }

    fn flush_or_leave_rest<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let (mut state, flushed) = self.flush(state, usize::MAX);
        self.leave_writing(&mut state, flushed);
        state
    }

    /// Sends what is queued to the last byte, waiting for room, unless the other side ends.
    pub(super) fn flush_to_the_end(self: &Arc<Self>) {
        let mut state = self.lock();
        loop {
            let flushed;
            (state, flushed) = self.flush(state, usize::MAX);
            if flushed == Flushed::NoRoom {
                // Nobody may be reading any more here, and hear the bell; or nobody may be there to ring it.
                self.look_at_output(&mut state);
                (state, _) = self.wait_for_work(state, BRIEFLY);
                continue;
            }
            let Some(writer) = state.writer.take_if(|_| flushed == Flushed::Full) else {
                if state.writer.is_some() {
                    return;
                }
                // Another thread has taken what is left. If this one ended the process now, it would not be sent.
                (state, _) = self.wait_for_work(state, BRIEFLY);
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

    /// Leaves what did not fit to the watcher.
    pub(super) fn leave_writing(self: &Arc<Self>, state: &mut State, flushed: Flushed) {
        match flushed {
            Flushed::Done => return,
            Flushed::Full => {}
            Flushed::NoRoom => {
                // Who reads hears the bell, but may be busy then.
                state.workers.note_unsent();
                self.keep_ticking(state);
                return;
            }
        }
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
        writes: usize,
    ) -> (MutexGuard<'a, State>, Flushed) {
        if !state.want_flush() {
            return (state, Flushed::Done);
        }
        let Some(mut writer) = state.writer.take() else { return (state, Flushed::Done) };
        let mut flushed = Flushed::Done;
        if self.write_little(&mut state, &mut writer) {
            state.writer = Some(writer);
        } else {
            (state, flushed) = self.write_all(state, writer, writes);
        }
        self.note_written(&mut state);
        (state, flushed)
    }

    /// Sees to it that somebody comes for what writing has brought: room for calls, and memory of users to be dropped. This
    /// thread may, or may be about to sleep.
    #[inline]
    pub(super) fn note_written(self: &Arc<Self>, state: &mut State) {
        let has_dropped = state.core.has_dropped();
        if has_dropped {
            state.workers.note_undropped();
        }
        if has_dropped || state.core.has_events() {
            self.keep_ticking(state);
        }
    }

    /// Writes what is usual: a little, with the lock held, since nobody is there who could want it meanwhile. Says
    /// whether that is all there is to do; if not, [`write_all`](Self::write_all) goes on from there.
    ///
    /// It could do this as well. But a call that comes after a pause finds no code in the processor's caches, and this is
    /// a third of it.
    #[inline]
    fn write_little(self: &Arc<Self>, state: &mut State, writer: &mut Writer) -> bool {
        let is_usual = state.is_quiet() && !state.closing && !state.shared.has_output();
        if !is_usual || state.core.is_output_void() || !writer.taken.is_empty() {
            return false;
        }
        state.core.poll_output(&mut writer.taken);
        if state.core.has_rooms() {
            self.note_rooms(state);
        }
        if writer.taken.is_empty() || writer.taken.len() > WRITTEN_UNDER_LOCK {
            return false;
        }
        self.write_taken(state, writer)
    }

    /// Writes what was taken, with the lock held. Says whether that is all there is to do.
    #[inline]
    pub(super) fn write_taken(self: &Arc<Self>, state: &mut State, writer: &mut Writer) -> bool {
        let Some(output) = &writer.output else { return false };
        let mut put = match writer.ring.as_deref_mut() {
            None => Put::Pipe { pipe: output, most: u64::MAX },
            Some((ring, from)) if *from <= state.core.sent() => Put::Ring { ring, bell: output },
            Some(_) => return false,
        };
        let Ok(went) = put.write(&writer.taken) else { return false };
        self.note_went(state, writer, &went)
    }

    /// Notes what a write has come to. Says whether that was all there is to do.
    #[inline]
    fn note_went(&self, state: &mut State, writer: &mut Writer, went: &Went) -> bool {
        let Went { written, is_broken } = *went;
        if let Written::Bytes(bytes) | Written::Part(bytes) = written {
            state.core.advance(&mut writer.taken, bytes);
        }
        if is_broken {
            self.give_up_output(writer);
        }
        if is_broken || !writer.taken.is_empty() || state.owes_bell {
            return false;
        }
        writer.taken.clear();
        !state.core.has_output()
    }

    /// The same of what was taken and a pipe has not taken as a whole.
    #[cold]
    pub(super) fn note_written_in_part(&self, state: &mut State, written: Written) -> bool {
        let Some(mut writer) = state.writer.take() else { return false };
        let went = Went { written, is_broken: written == Written::Broken };
        let is_all = self.note_went(state, &mut writer, &went);
        state.writer = Some(writer);
        is_all
    }

    /// Writes what is queued, in at most `writes` goes.
    #[inline(never)]
    pub(super) fn write_all<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        mut writer: Box<Writer>,
        mut writes: usize,
    ) -> (MutexGuard<'a, State>, Flushed) {
        let mut flushed = Flushed::Done;
        if writes == usize::MAX {
            // The watcher has others to look after.
            state = self.gather(state, &writer.gathering);
        }
        while let Some(output) = &writer.output {
            // Another thread may have agreed on it during the last write, when this one had the role.
            if let Some(ring) = state.shared.take_output() {
                writer.ring = Some(Box::new(ring));
            }
            if state.core.is_output_void() {
                // What is left begins a call that was reported as not sent.
                self.close_output(&mut writer);
                break;
            }
            if writer.taken.is_empty() {
                writer.taken.clear();
                // What a stream has queued during the last write is left to it. A thread that took that along would have more
                // to write after each write, and would be kept from its own work for as long as the stream goes on. What is
                // queued before the output is closed, nobody else writes.
                let is_left = state.can_wait && !state.closing;
                if !state.core.has_output() || is_left {
                    break;
                }
                state.core.poll_output(&mut writer.taken);
                if state.core.has_rooms() {
                    self.note_rooms(&mut state);
                }
            }
            if writes == 0 {
                flushed = Flushed::Full;
                break;
            }
            writes -= 1;
            let rest = writer.taken.len();
            let mut put = match writer.ring.as_deref_mut() {
                Some((ring, from)) if *from <= state.core.sent() => {
                    Put::Ring { ring, bell: output }
                }
                Some((_, from)) => Put::Pipe { pipe: output, most: *from - state.core.sent() },
                None => Put::Pipe { pipe: output, most: u64::MAX },
            };
            let result = if rest <= WRITTEN_UNDER_LOCK && state.is_quiet() {
                // Nobody is there who could want the lock meanwhile, and taking it again costs 2 %.
                put.write(&writer.taken)
            } else {
                // If the connection ends now, whatever is being written may have been sent.
                state.core.handle_writing(rest);
                drop(state);
                let result = put.write(&writer.taken);
                state = self.lock();
                state.core.handle_writing(0);
                result
            };
            let Ok(Went { written, is_broken }) = result else {
                self.close_output(&mut writer);
                state.core.close(&impossible());
                // This thread may not be one that tells the others, and who reads may wait for ever.
                self.keep_ticking(&mut state);
                break;
            };
            match written {
                Written::Bytes(bytes) => {
                    state.core.advance(&mut writer.taken, bytes);
                }
                Written::Part(bytes) => {
                    state.core.advance(&mut writer.taken, bytes);
                    if rest >= BULK && writer.bulk.note(output, &state.core) {
                        continue;
                    }
                    flushed = Flushed::Full;
                    break;
                }
                Written::Full => {
                    flushed = put.full();
                    break;
                }
                Written::Broken => {}
            }
            if is_broken {
                self.give_up_output(&mut writer);
            }
        }
        if writer.output.is_none() {
            state.core.discard_output(&mut writer.taken);
        }
        state.ring_bell(&writer);
        if state.closing && flushed == Flushed::Done && state.core.has_no_calls() {
            self.close_output(&mut writer);
        }
        state.writer = Some(writer);
        (state, flushed)
    }

    /// Notices that nobody is left to read, where bytes go to memory, which does not tell.
    pub(super) fn look_at_output(&self, state: &mut State) {
        let Some(mut writer) = state.writer.take_if(|writer| writer.ring.is_some()) else { return };
        if writer.output.as_ref().is_some_and(pipe::is_broken) {
            self.give_up_output(&mut writer);
        }
        state.writer = Some(writer);
    }

    /// Closes an output that nobody reads any more: a child that closes its input should end.
    #[cold]
    fn give_up_output(&self, writer: &mut Writer) {
        self.close_output(writer);
        if self.child {
            self.report(Report::OutputEnded);
        }
    }

    pub(super) fn close_output(&self, writer: &mut Writer) {
        if let (Some(key), Some(output)) = (self.key.get(), &writer.output) {
            watcher::disarm(*key, Source::Output, output);
        }
        writer.output = None;
        writer.bulk = Bulk::Over;
    }
}

impl State {
    /// Wants all that is queued to be written. Who writes at the moment looks for more before it lets the role go. Says
    /// whether there is something that nobody is writing, or the output is to be closed.
    #[inline]
    fn want_flush(&mut self) -> bool {
        self.can_wait = false;
        self.has_unsent() || (self.closing && self.core.has_no_calls())
    }

    /// Whether a connection that is idle keeps memory for the next long message, to be asked with each tick. After a tenth of a
    /// second it does not.
    pub(super) fn keeps_memory(&mut self) -> bool {
        let keeps = self.core.keeps_memory()
            || self
                .writer
                .as_ref()
                .is_some_and(|writer| protocol::is_large(writer.taken.capacity()));
        if !keeps {
            return false;
        }
        self.quiet_ticks += 1;
        if self.quiet_ticks < KEPT_FOR {
            return true;
        }
        self.core.release();
        if let Some(writer) = &mut self.writer {
            writer.taken.release();
        }
        false
    }

    /// Tells the other side that there is room, if it waits for that. Not while this side has something to write into the
    /// pipe: the bell could stand in the middle of a frame.
    fn ring_bell(&mut self, writer: &Writer) {
        let has_moved = writer.ring.as_ref().is_some_and(|ring| ring.1 <= self.core.sent());
        if has_moved && std::mem::take(&mut self.owes_bell) {
            // If it is full, there are bells enough in it; if it is broken, nobody is there to hear.
            let _ = writer.output.as_ref().map(pipe::ring);
        }
    }
}

/// For what is over in a moment and not announced.
const BRIEFLY: Option<Duration> = Some(Duration::from_millis(1));

/// For how many ticks of 2 ms.
pub(super) const KEPT_FOR: u32 = 50;

/// What is more than fits into a pipe as it is made, and shows that it carries much.
const BULK: usize = 64 << 10;

/// How much may be written while the lock is held: it takes about as long as taking the lock.
const WRITTEN_UNDER_LOCK: usize = 4 << 10;

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
