//! What the watcher does for a connection, and how one ends.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lead::{Lead, Wakes};
use super::link::{Link, State, Ticking};
use super::roles::Reader;
use super::watcher::{self, Key, Report, Source};
use super::workers::Task;
use super::writing::Flushed;
use crate::error::{Error, ErrorKind};
use crate::protocol::Output;
use crate::sys::pipe;
use crate::sys::thread;

impl Link {
    // ---- care

    /// Makes this connection known to the watcher.
    pub(super) fn watch(self: &Arc<Self>, key: Key) {
        let mut state = self.lock();
        let _ = self.key.set(key);
        // Not yet for a plugin whose `Peer` is still to be made: the watcher would read what it calls as it starts, and
        // the handler would not know who has called.
        if !self.child || self.peer.get().is_some() {
            self.keep_ticking(&mut state);
        }
        if state.core.failure().is_some() {
            // It came together with the hello, when nobody could be told.
            self.report(Report::Failed);
        }
    }

    /// Stops being known to the watcher.
    pub(super) fn unwatch(self: &Arc<Self>) {
        if let Some(key) = self.key.get() {
            watcher::disarm(*key, Source::Input, &self.input);
            let mut state = self.lock();
            if let Some(mut writer) = state.writer.take() {
                self.close_output(&mut writer);
                state.writer = Some(writer);
            }
            state.discard_unsent();
            drop(self.leave_sent(state));
        }
    }

    /// Has the watcher tick for this connection, if it does not.
    #[inline]
    pub(super) fn keep_ticking(self: &Arc<Self>, state: &mut State) {
        if state.ticking != Ticking::Yes {
            self.begin_ticking(state);
        }
    }

    /// The same for a plugin that serves a call which came after a pause: it takes a while to see that its handler is slow.
    pub(super) fn keep_ticking_late(self: &Arc<Self>, state: &mut State) {
        if state.ticking == Ticking::No && watcher::tick_late(self) {
            state.ticking = Ticking::Late;
            state.workers.next_tick();
        }
    }

    #[cold]
    fn begin_ticking(self: &Arc<Self>, state: &mut State) {
        // While it is being loaded there may be no watcher, and then no tick.
        if state.ticking == Ticking::Late {
            watcher::hurry();
            state.ticking = Ticking::Yes;
        } else if watcher::tick(self) {
            state.ticking = Ticking::Yes;
            state.workers.next_tick();
        }
    }

    /// Has the watcher no longer wait for input, which somebody else is going to read.
    #[inline]
    pub(super) fn disarm_input(&self, state: &mut State) {
        if let (true, Some(key), Some(reader)) = (state.armed, self.key.get(), &state.reader) {
            reader.end_waiting();
            state.armed = false;
            watcher::disarm(*key, Source::Input, &self.input);
        }
    }

    /// Has the watcher wait for input, where nobody else reads. Says whether it does.
    pub(super) fn arm_input(&self, state: &mut State) -> bool {
        if let (false, Some(key)) = (state.armed, self.key.get()) {
            let is_quiet = state.reader.as_deref().is_none_or(Reader::begin_to_wait);
            state.armed = is_quiet && watcher::arm(*key, Source::Input, &self.input).is_ok();
        }
        state.armed
    }

    /// Called every 2 ms while something happens. Says whether to go on.
    pub(super) fn handle_tick(self: &Arc<Self>) -> bool {
        self.expire();
        let mut state = self.lock();
        let is_late = state.ticking == Ticking::Late;
        if is_late {
            // What has waited since has waited for long enough.
            state.workers.next_tick();
        }
        state.ticking = Ticking::Yes;
        let wait_for_input = state.reader.is_some() && !state.input_ended;
        // In a plugin somebody must read for the handlers that run; in a host the watcher does.
        let is_plugin = state.core.is_plugin();
        let help = state.workers.help_needed(wait_for_input && is_plugin);
        if state.workers.take_overdue() {
            // Who has queued it is busy with code of its user.
            state = self.flush_or_leave_some(state);
        }
        let has_forgotten = state.workers.has_forgotten();
        state.workers.next_tick();
        self.look_at_output(&mut state);
        let is_deaf = self.rouse_reader(&mut state);
        state.discard_unsent();
        // The call for which a late one was begun is not a sign that more will come.
        let mut busy = state.activity > u32::from(is_late)
            || (state.workers.is_busy() && wait_for_input && is_plugin)
            || state.workers.is_waited_for()
            || is_deaf;
        if busy || state.activity > 0 {
            state.quiet_ticks = 0;
        }
        state.activity = 0;
        let mut stands_in = false;
        if !busy {
            // Whoever has queued something writes it. If somebody has not, it is not left for ever.
            state = self.flush_or_leave_some(state);
            if wait_for_input && state.core.failure().is_none() && self.key.get().is_some() {
                // Where it cannot wait for one more pipe, it looks with each tick.
                stands_in = !self.arm_input(&mut state);
            }
            busy = stands_in || state.keeps_memory();
            state.ticking = if busy { Ticking::Yes } else { Ticking::No };
            state = self.leave_sent(state);
        } else if has_forgotten {
            state = self.leave_sent(state);
        }
        if help > 0 {
            stands_in |= !self.promote(state, help);
        } else {
            drop(state);
        }
        if stands_in {
            self.stand_in();
        }
        busy
    }

    /// Ends the calls whose deadlines have passed, for those that nobody waits for at the moment.
    pub(super) fn expire(self: &Arc<Self>) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let now = Instant::now();
        state.with_taken(|core, taken| core.handle_timeout(now, taken));
        let has_expired = state.core.has_events();
        self.handle_events(&mut state, None, &mut wakes);
        state = self.leave_errand(state, &mut wakes);
        if has_expired {
            // The other side is to learn of it, and nobody else may come to write.
            state = self.flush_or_leave_some(state);
        }
        drop(state);
        wakes.wake();
    }

    /// When the first of those comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.lock();
        let is_busy = state.waiters.iter().any(|waiting| waiting.is_busy);
        if is_busy || !state.inboxes.is_empty() { state.core.poll_timeout() } else { None }
    }

    /// Wakes the thread that reads although the connection is over, if it has not been woken. Says whether there is one.
    fn rouse_reader(&self, state: &mut State) -> bool {
        let is_over = state.over.is_some() || state.core.failure().is_some();
        let is_deaf = is_over && state.reader.is_none();
        if is_deaf && !state.rung {
            state.rung = self.interrupt.interrupt(&self.input);
        }
        is_deaf
    }

    /// Input has come that nobody waits for.
    pub(super) fn handle_readable(self: &Arc<Self>) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let Some(mut lead) = Lead::take(self, &mut state, None) else { return };
        if let Some(reader) = lead.reader.as_mut() {
            let read = self.read_now(&mut state, reader);
            self.take_input(&mut state, reader, read);
        }
        lead.handle_events(&mut state, &mut wakes);
        lead.release(&mut state, &mut wakes);
        state = self.leave_errand(state, &mut wakes);
        state = self.hire(state);
        drop(self.flush_or_leave_some(state));
        wakes.wake();
    }

    /// Leaves what runs code of users to a worker: the watcher must not.
    pub(super) fn leave_errand<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        wakes: &mut Wakes,
    ) -> MutexGuard<'a, State> {
        if let Some(errand) = wakes.take_errand() {
            self.enqueue(&mut state, Task::Errand(errand));
        }
        self.hire(state)
    }

    /// Leaves to a worker what users have to drop: it may take long, or call, and a thread that reads cannot wait for
    /// what it reads itself.
    pub(super) fn leave_drops<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        wakes: &mut Wakes,
    ) -> MutexGuard<'a, State> {
        match wakes.take_dropped() {
            Some(errand) => {
                self.enqueue(&mut state, Task::Errand(errand));
                self.hire(state)
            }
            None => state,
        }
    }

    /// The pipe has room again for what did not fit.
    pub(super) fn handle_writable(self: &Arc<Self>) {
        let (mut state, flushed) = self.flush(self.lock(), WRITES_AT_A_TIME);
        self.leave_writing(&mut state, flushed);
        if flushed == Flushed::Done {
            self.disarm_output(&state);
        }
        // There may be no tick any more that would do it.
        drop(self.leave_sent(state));
    }

    /// Leaves what was sent of users' memory to a worker, to be dropped.
    fn leave_sent<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let mut wakes = Wakes::default();
        if state.core.has_dropped() {
            wakes.errand().parts = state.take_sent();
        }
        self.leave_errand(state, &mut wakes)
    }

    /// Sends what is queued, up to a point: the watcher has others to look after, and comes back for the rest.
    pub(super) fn flush_or_leave_some<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let (mut state, flushed) = self.flush(state, WRITES_AT_A_TIME);
        self.leave_writing(&mut state, flushed);
        state
    }

    /// Leaves the role of reading to the watcher, for a thread that unwinds and may hold the lock.
    pub(super) fn abandon(&self, reader: Box<Reader>, nested: Vec<Task>) {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        *abandoned = Some((reader, nested));
        self.report(Report::Unwound);
    }

    /// Puts in order what a thread has left behind that unwound.
    pub(super) fn take_over(self: &Arc<Self>) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((mut reader, mut nested)) = abandoned {
            if state.over.is_some() {
                self.settle(&mut state, &mut reader);
            }
            state.reader = Some(reader);
            state.leading = None;
            state.left = None;
            self.enqueue_all(&mut state, &mut nested);
        }
        self.handle_events(&mut state, None, &mut wakes);
        if state.reader.is_some() {
            self.pass_on(&mut state, &mut wakes);
        } else if state.core.failure().is_some() {
            // Whoever reads learns of it.
            state.rung = self.interrupt.interrupt(&self.input);
        }
        state = self.leave_errand(state, &mut wakes);
        drop(self.flush_or_leave_some(state));
        wakes.wake();
    }

    // ---- signs of life

    /// Whether the other side answers pings.
    pub(super) fn knows_pings(&self) -> bool {
        self.lock().core.features().ping
    }

    /// Whether anything has come from the other side since this was last asked, read or not.
    pub(super) fn take_heard(&self) -> bool {
        let mut state = self.lock();
        let has_bytes = state.reader.as_deref().is_some_and(Reader::has_bytes);
        std::mem::take(&mut state.heard) || has_bytes || pipe::readable_bytes(&self.input) > 0
    }

    /// Asks the other side for an answer that nobody waits for, from the watcher.
    pub(super) fn send_ping(self: &Arc<Self>) {
        let mut state = self.lock();
        // If the connection is over, that is known elsewhere.
        if state.core.ping(&[]).is_ok() {
            drop(self.flush_or_leave_some(state));
        }
    }

    // ---- ends

    /// Says goodbye, and closes the output as soon as that is sent. Replies still arrive.
    pub(crate) fn goodbye(self: &Arc<Self>, grace: Duration) {
        let mut state = self.lock();
        state.core.goodbye(grace);
        state.closing = true;
        let mut wakes = Wakes::default();
        self.notify_all(&mut state, &mut wakes);
        drop(self.flush_or_leave(state));
        wakes.wake();
    }

    /// Ends the connection with `error`, after the last of what was sent before has been read: for an end that
    /// was noticed beside the pipe.
    pub(super) fn end(self: &Arc<Self>, error: &Error) {
        self.end_now(error, false);
    }

    /// The same, of a process that has been killed and may not be dead yet: what it writes from now on does not count.
    pub(super) fn sever(self: &Arc<Self>, error: &Error) {
        self.end_now(error, true);
    }

    fn end_now(self: &Arc<Self>, error: &Error, may_write: bool) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        if state.over.is_none() && state.core.failure().is_none() {
            state.over = Some(error.duplicate());
        }
        match state.reader.take() {
            Some(mut reader) => {
                self.settle(&mut state, &mut reader);
                state.reader = Some(reader);
                self.handle_events(&mut state, None, &mut wakes);
                drop(self.leave_errand(state, &mut wakes));
            }
            None => {
                // Whoever reads may wait for an end that never comes; it settles when it wakes. Under the lock, so
                // that it knows of the byte when it does.
                state.severed |= may_write;
                self.rouse_reader(&mut state);
                // The system may have no descriptor for that at the moment: then it is tried again.
                self.keep_ticking(&mut state);
                drop(state);
            }
        }
        wakes.wake();
        self.work.notify_all();
    }

    /// Why the connection is over, if it is.
    pub(crate) fn failure(&self) -> Option<Error> {
        let state = self.lock();
        state.core.failure().or(state.over.as_ref()).map(Error::duplicate)
    }

    /// Whether it is over because the plugin refused to start.
    pub(super) fn was_refused(&self) -> bool {
        let state = self.lock();
        state.core.failure().is_some_and(|failure| failure.kind() == ErrorKind::Handshake)
    }

    /// Whether everything that the other side sent has been read.
    pub(super) fn input_has_ended(&self) -> bool {
        self.lock().input_ended
    }

    /// Waits until the connection is over, or the time has passed. Says whether it is over.
    pub(crate) fn wait_for_end(&self, at_most: Duration) -> bool {
        let lives = |state: &mut State| state.core.failure().is_none();
        let ended = self.ended.wait_timeout_while(self.lock(), at_most, lives);
        !ended.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let writer = self.lock().writer.take();
        let mut taken = Output::default();
        if let Some(mut writer) = writer {
            self.close_output(&mut writer);
            taken = writer.taken;
        }
        if let Some(key) = self.key.get() {
            watcher::disarm(*key, Source::Input, &self.input);
            watcher::forget(*key);
        }
        let dispatch = self.dispatch.take();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.core.discard_unsent(&mut taken);
        let held = (
            dispatch,
            std::mem::take(&mut state.pumps),
            std::mem::take(&mut state.workers),
            std::mem::take(&mut state.inboxes),
            std::mem::take(&mut state.running),
            std::mem::take(&mut state.spans),
            state.core.take_dropped(),
        );
        if watcher::is_current() {
            // It had the last hold on this connection, and must not run what users do when they are dropped. Without a
            // thread they are dropped here, after all.
            let _ = thread::spawn("plug-drop", move || drop(held));
        }
    }
}

/// In how many goes the watcher writes for one connection.
const WRITES_AT_A_TIME: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::blocking::dispatch::idle_link;
    use crate::blocking::writing::KEPT_FOR;
    use crate::protocol::{Hello, Side};

    #[test]
    fn after_a_call_that_comes_by_itself_one_late_tick_is_enough() {
        for (ticking, calls, goes_on) in [
            (Ticking::Late, 1, false),
            (Ticking::Late, 2, true),
            (Ticking::Yes, 0, false),
            (Ticking::Yes, 1, true),
        ] {
            let link = idle_link();
            let mut state = link.lock();
            state.ticking = ticking;
            (0..calls).for_each(|_| state.note_activity());
            drop(state);
            assert_eq!(link.handle_tick(), goes_on, "{ticking:?} after {calls} calls");
            assert_eq!(link.lock().ticking, if goes_on { Ticking::Yes } else { Ticking::No });
        }
    }

    /// Whatever came before.
    #[test]
    fn memory_is_kept_for_as_long_after_a_call_that_comes_by_itself() {
        let link = idle_link();
        let mut state = link.lock();
        state.writer.as_mut().unwrap().taken = Vec::with_capacity(1 << 20).into();
        assert!(state.keeps_memory());
        state.quiet_ticks = KEPT_FOR;
        state.ticking = Ticking::Late;
        state.note_activity();
        drop(state);
        for tick in 1..KEPT_FOR {
            assert!(link.handle_tick(), "it was given back after {tick} ticks");
        }
        assert!(!link.handle_tick());
    }

    /// A caller may read what made the pipe readable between the watcher's wait and its look.
    #[test]
    fn the_watcher_does_not_wait_for_input_that_somebody_else_has_read() {
        let (input, other_output) = pipe::pair().unwrap();
        let (_other_input, output) = pipe::pair().unwrap();
        let hello = Hello::new(String::new(), String::new());
        let core = crate::protocol::Connection::new(Side::Host, hello, None);
        let link = Link::new(core, input, output, false).unwrap();
        let (sender, returned) = channel();
        std::thread::spawn(move || {
            link.handle_readable();
            sender.send(link.input_has_ended()).unwrap();
        });
        let ended = returned.recv_timeout(Duration::from_secs(30));
        assert!(!ended.expect("it returned"), "the pipe is empty, not at its end");
        drop(other_output);
    }
}
