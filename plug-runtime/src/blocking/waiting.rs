//! Waiting for what the other side says: reading for all that wait, or while another thread does.

use std::cell::Cell;
use std::sync::{Arc, MutexGuard};

use bytes::Bytes;

use super::lead::{Lead, Wakes};
use super::link::{Link, State};
use super::patience::{Patience, cancelled_here};
use super::waiter::{Waiter, Woken};
use super::watcher;
use super::worker::Worker;
use super::workers::Task;
use crate::error::{Error, Result};
use crate::sys::dormitory::Rising;

impl Link {
    /// Waits for the reply to a call that was just made, reading if nobody else does.
    pub(super) fn wait_for_reply<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        call: u64,
        patience: &Patience<'_>,
    ) -> Result<Bytes> {
        match Lead::take(self, &mut state, Some(call)) {
            Some(lead) => {
                // Not before: the outcome would find nobody if it came while the lock is free.
                state = self.hire(state);
                self.lead_to_reply(state, lead, call, patience, false)
            }
            None => {
                let waiter = state.add_waiter(call, Vec::new(), patience);
                drop(self.flush_or_leave(self.hire(state)));
                self.wait_beside(waiter, call, patience).map_err(|error| patience.explain(error))
            }
        }
    }

    /// The same of the thread that reads. `has_read`: it has done so just now.
    pub(super) fn lead_to_reply<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
        mut lead: Lead<'a>,
        call: u64,
        patience: &Patience<'_>,
        has_read: bool,
    ) -> Result<Bytes> {
        let outcome = match self.read_until_done(state, &mut lead, call, patience, has_read) {
            None => lead.own.take_outcome(),
            Some(waiter) => self.wait_beside(waiter, call, patience),
        };
        outcome.map_err(|error| patience.explain(error))
    }

    /// Waits for the reply while another thread reads, or until this one is needed for that.
    #[inline(never)]
    fn wait_beside(
        self: &Arc<Self>,
        mut waiter: Arc<Waiter>,
        call: u64,
        patience: &Patience<'_>,
    ) -> Result<Bytes> {
        loop {
            match waiter.wait(patience, &self.waiting) {
                Woken::Done(outcome) => return outcome,
                Woken::Look => {
                    let mut state = self.lock();
                    let Some(waiting) = state.waiters.get_mut(call) else {
                        // The outcome is on its way to the waiter.
                        continue;
                    };
                    if !waiting.nested.is_empty() {
                        waiting.is_busy = true;
                        let nested = std::mem::take(&mut waiting.nested);
                        if patience.until().is_some() {
                            // It looks after the deadline meanwhile.
                            watcher::wake();
                        }
                        state = self.run_nested(state, nested);
                        if let Some(waiting) = state.waiters.get_mut(call) {
                            waiting.is_busy = false;
                        } else {
                            continue;
                        }
                    }
                    if let Some(mut lead) = Lead::take(self, &mut state, Some(call)) {
                        state.waiters.remove(call);
                        match self.read_until_done(state, &mut lead, call, patience, false) {
                            None => return lead.own.take_outcome(),
                            Some(again) => waiter = again,
                        }
                    }
                }
                Woken::Impatient => {
                    // If it has ended meanwhile, the outcome is there or on its way.
                    drop(self.give_up(self.lock(), call, &patience.error()));
                    match waiter.wait(&Patience::endless(), &self.waiting) {
                        Woken::Done(outcome) => return outcome,
                        Woken::Look | Woken::Impatient => {}
                    }
                }
            }
        }
    }

    /// Reads until the call has ended, and leaves the outcome in the lead. If there is nothing more to read before that, or
    /// there are calls to be run on this thread, the outcome comes to the waiter that is returned.
    fn read_until_done<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
        lead: &mut Lead<'a>,
        call: u64,
        patience: &Patience<'_>,
        has_read: bool,
    ) -> Option<Arc<Waiter>> {
        let mut wakes = Wakes::default();
        let is_done = |state: &mut State, lead: &mut Lead<'_>, wakes: &mut Wakes| {
            if lead.own.outcome.is_none() && !patience.is_endless() && patience.is_over() {
                let error = patience.error();
                state.with_taken(|core, taken| core.cancel(call, &error, taken));
                lead.handle_events(state, wakes);
            }
            lead.own.outcome.is_some()
        };
        let mut state = self.read_until(state, lead, &mut wakes, patience, has_read, is_done);
        // It may also have come with the end of the connection, as the role was given back.
        let waiter = match lead.own.outcome {
            Some(_) => {
                self.enqueue_all(&mut state, &mut lead.own.nested);
                None
            }
            None => {
                let nested = std::mem::take(&mut lead.own.nested);
                let waiter = state.add_waiter(call, nested, patience);
                waiter.look(&mut Rising::default());
                Some(waiter)
            }
        };
        state = self.hire(state);
        // What is queued behind a full pipe must not wait for the next call.
        drop(self.flush_or_leave(state));
        wakes.wake();
        waiter
    }

    /// Waits until `done` finds what it looks for, reading if nobody else does. `key` is the call in whose name this
    /// thread waits, or a ticket. `Err` if the patience is over.
    pub(super) fn wait_until<'a, R>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        key: u64,
        patience: &Patience<'_>,
        mut done: impl FnMut(&mut State) -> Option<R>,
    ) -> std::result::Result<(R, MutexGuard<'a, State>), MutexGuard<'a, State>> {
        let mut has_waited = false;
        loop {
            let found = done(&mut state);
            if found.is_some() || patience.is_over() {
                if has_waited {
                    let mut wakes = Wakes::default();
                    self.pass_on_if_free(&mut state, &mut wakes);
                    wakes.wake();
                }
                return match found {
                    Some(result) => Ok((result, state)),
                    None => Err(state),
                };
            }
            let nested = match Lead::take(self, &mut state, Some(key)) {
                Some(mut lead) => {
                    let mut wakes = Wakes::default();
                    let mut found = None;
                    let is_done = |state: &mut State, _: &mut Lead<'_>, _: &mut Wakes| {
                        found = done(state);
                        found.is_some() || patience.is_over()
                    };
                    state = self.read_until(state, &mut lead, &mut wakes, patience, false, is_done);
                    drop(self.flush_or_leave(state));
                    wakes.wake();
                    state = self.lock();
                    if let Some(result) = found {
                        self.enqueue_all(&mut state, &mut lead.own.nested);
                        return Ok((result, self.hire(state)));
                    }
                    std::mem::take(&mut lead.own.nested)
                }
                None => {
                    let waiter = state.add_waiter(key, Vec::new(), patience);
                    drop(self.flush_or_leave(state));
                    let _ = waiter.wait(patience, &self.waiting);
                    has_waited = true;
                    state = self.lock();
                    state.waiters.remove(key).map(|waiting| waiting.nested).unwrap_or_default()
                }
            };
            if !nested.is_empty() {
                state = self.run_nested(state, nested);
            }
        }
    }

    /// Reads, unless it has just done so, and gives the role back once `is_done` says so, there is nothing more to read, or there are calls to be run
    /// on this thread. Who is to be woken then is left to the caller.
    fn read_until<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        lead: &mut Lead<'a>,
        wakes: &mut Wakes,
        patience: &Patience<'_>,
        mut has_read: bool,
        mut is_done: impl FnMut(&mut State, &mut Lead<'a>, &mut Wakes) -> bool,
    ) -> MutexGuard<'a, State> {
        loop {
            if !std::mem::take(&mut has_read) {
                state = self.flush_and_read(state, lead, patience);
            }
            lead.handle_events(&mut state, wakes);
            let is_done = is_done(&mut state, lead, wakes);
            if is_done || state.input_ended || !lead.own.nested.is_empty() {
                lead.release(&mut state, wakes);
                return state;
            }
            state = self.hire(state);
            if !wakes.is_empty() {
                state = self.wake_between(state, wakes);
            }
        }
    }

    /// Wakes those whom this thread has brought something, which reads on.
    #[inline(never)]
    fn wake_between<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
        wakes: &mut Wakes,
    ) -> MutexGuard<'a, State> {
        drop(self.leave_drops(state, wakes));
        std::mem::take(wakes).wake();
        self.lock()
    }

    /// Ends a call for its caller, who does not wait any longer. The outcome goes where it would have gone.
    pub(super) fn give_up<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        call: u64,
        error: &Error,
    ) -> MutexGuard<'a, State> {
        let mut wakes = Wakes::default();
        state.with_taken(|core, taken| core.cancel(call, error, taken));
        self.handle_events(&mut state, None, &mut wakes);
        state = self.flush_or_leave(state);
        drop(state);
        wakes.wake();
        self.lock()
    }

    /// Has a thread that waits by a call or a ticket look at its tokens. Where it runs a handler at the moment and cannot,
    /// its call is cancelled.
    pub(super) fn rouse(self: &Arc<Self>, key: impl FnOnce() -> u64) {
        let state = self.lock();
        let key = key();
        if state.waiters.get(key).is_some_and(|waiting| waiting.is_busy) {
            drop(self.give_up(state, key, &cancelled_here()));
            return;
        }
        let mut wakes = Wakes::default();
        state.wake(key, &mut wakes);
        drop(state);
        wakes.wake();
    }

    /// Runs one of the calls that the handler of this thread's own call makes in turn, and leaves the others to
    /// workers: it may wait for them. It leaves that one to them too where this thread runs as many already as its stack
    /// should hold.
    fn run_nested<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        mut nested: Vec<Task>,
    ) -> MutexGuard<'a, State> {
        let depth = NESTED.get();
        let first = if depth < NESTED_AT_MOST && !nested.is_empty() {
            Some(nested.remove(0))
        } else {
            None
        };
        self.enqueue_all(&mut state, &mut nested);
        let mut wakes = Wakes::default();
        self.pass_on_if_free(&mut state, &mut wakes);
        wakes.wake();
        state = self.hire(state);
        if let Some(task) = first {
            NESTED.set(depth + 1);
            state = self.run_task(state, task, &mut Worker::default());
            NESTED.set(depth);
        }
        // It may have begun a stream.
        state = self.hire(state);
        self.flush_or_leave(state)
    }
}

thread_local! {
    /// How many calls this thread runs, each while it waits for the one before.
    static NESTED: Cell<u32> = const { Cell::new(0) };
}

/// The most of them. A level of the least handlers takes 5 KiB of stack without optimisation, so that 400 fill the 2 MiB
/// of a thread, and what overflows a stack ends the process: a plugin must not be able to do that to its host.
const NESTED_AT_MOST: u32 = 32;
