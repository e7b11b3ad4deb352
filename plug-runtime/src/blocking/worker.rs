//! Threads that run handlers.
//!
//! A worker takes the next request that has been read and runs its handler; when there is none, it sends the
//! replies and reads. So a plugin whose handlers are fast has one thread that does everything, and
//! answers with one write all that one read has brought.
//!
//! A handler that takes long must not keep others waiting. While something runs, the watcher ticks
//! every 2 ms (0.5 ms made the 99th percentile three times worse), and gets another worker going if
//! nobody has read, or a request has waited, since the tick before.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::lead::{Lead, Wakes};
use super::link::{Link, State};
use super::streams::streams_are_not_carried;
use crate::call::{CallState, Start};
use crate::incoming::Outcome;
use crate::protocol::{Answer, Request};

/// The requests of a connection that wait for a handler, and the threads that run handlers.
#[derive(Default)]
pub(super) struct Workers {
    /// Requests, each with the tick in which it was read.
    queue: VecDeque<(u64, Request)>,
    /// How many handlers run.
    running: usize,
    /// How many threads there are, the first included.
    threads: usize,
    /// How many of them wait for something to do.
    parked: usize,
    tick: u64,
    /// The tick in which the role of reading was given back.
    free_since: u64,
    /// The tick in which the first of the replies that are not sent was queued.
    unsent_since: Option<u64>,
}

impl Workers {
    pub(super) fn enqueue(&mut self, request: Request) {
        self.queue.push_back((self.tick, request));
    }

    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.running > 0
    }

    /// Whether no handler runs, and no second worker is about.
    pub(super) fn is_alone(&self) -> bool {
        self.running == 0 && self.threads - self.parked <= 1
    }

    pub(super) fn note_free(&mut self) {
        self.free_since = self.tick;
    }

    pub(super) fn next_tick(&mut self) {
        self.tick += 1;
    }

    /// How many more workers are needed: one for each request that has waited since before the last tick, but not
    /// more than there are already; one if nobody has read since then although handlers run.
    ///
    /// So there are twice as many with each tick, and a thousand handlers that sleep all sleep after 20 ms.
    pub(super) fn help_needed(&self, reader_is_free: bool) -> usize {
        let starved = self.queue.iter().take_while(|(since, _)| *since < self.tick).count();
        let deaf = reader_is_free && self.running > 0 && self.free_since < self.tick;
        starved.min(self.threads).max(deaf.into())
    }
}

/// What a worker keeps of one call for the next, so that an ordinary one takes no memory.
#[derive(Default)]
struct Spare {
    buffer: Vec<u8>,
    call: Option<Arc<CallState>>,
}

impl Link {
    /// Serves calls on this thread, and on more where that is needed, until the connection is over, all handlers have
    /// returned and what they answered is sent.
    pub(super) fn serve(self: &Arc<Self>) {
        let mut state = self.lock();
        state.workers.threads += 1;
        state = self.work(state, true);
        while state.workers.running > 0 {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.flush_to_the_end();
    }

    /// Does what there is to do, until the connection is over or, but for the first worker, there are more than
    /// enough of them.
    fn work<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        is_first: bool,
    ) -> MutexGuard<'a, State> {
        let mut spare = Spare::default();
        while !state.is_served() {
            if state.workers.unsent_since.is_some_and(|since| since < state.workers.tick) {
                state.workers.unsent_since = None;
                state = self.flush_or_leave(state);
            }
            if let Some((_, request)) = state.workers.queue.pop_front() {
                state = self.run_handler(state, request, &mut spare);
                continue;
            }
            state.workers.unsent_since = None;
            if let Some(mut lead) = Lead::take(self, &mut state, None) {
                state = self.flush_and_read(state, &mut lead);
                let mut wakes = Wakes::default();
                lead.handle_events(&mut state, &mut wakes);
                let _ = lead.release(&mut state, &mut wakes);
                if !wakes.is_empty() {
                    drop(state);
                    wakes.wake();
                    state = self.lock();
                }
                continue;
            }
            state = self.flush_or_leave(state);
            if state.workers.has_queue() || state.is_served() {
                continue;
            }
            if state.workers.parked >= PARKED_AT_MOST && !is_first {
                break;
            }
            state.workers.parked += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.workers.parked -= 1;
            // Whoever was busy may have left replies behind.
            state = self.flush_or_leave(state);
        }
        state
    }

    fn run_handler<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        request: Request,
        spare: &mut Spare,
    ) -> MutexGuard<'a, State> {
        let Some(dispatch) = self.dispatch.get() else {
            unreachable!("a side that serves nothing has no methods to call");
        };
        let call = request.call;
        state.workers.running += 1;
        drop(state);
        let start = Start { id: call, link: self, deadline: None, metadata: Vec::new() };
        let served = dispatch.begin(spare.call.take(), request.method, start);
        let buffer = std::mem::take(&mut spare.buffer);
        let answer = match dispatch.run(request, None, &served, buffer) {
            Outcome::Answer(answer) => answer,
            Outcome::Stream(_) => Answer::Failed(streams_are_not_carried()),
        };
        spare.call = Some(served);
        state = self.lock();
        state.workers.running -= 1;
        spare.buffer = state.core.reply(call, answer);
        let tick = state.workers.tick;
        state.workers.unsent_since.get_or_insert(tick);
        if state.workers.running == 0 && state.is_served() {
            self.work.notify_all();
            // A host that said goodbye may leave the pipe open, and somebody reads it.
            self.interrupt.interrupt(&self.input);
        }
        state
    }

    /// Gets that many more workers going, as far as the limit on calls allows.
    pub(super) fn promote(self: &Arc<Self>, mut state: MutexGuard<'_, State>, help: usize) {
        let woken = help.min(state.workers.parked);
        let at_most = match state.core.own().max_calls {
            0 => usize::MAX,
            // One more than can run handlers: it reads.
            max_calls => max_calls as usize + 1,
        };
        let room = at_most.saturating_sub(state.workers.threads);
        let made = if state.is_served() { 0 } else { (help - woken).min(room) };
        state.workers.threads += made;
        drop(state);
        for _ in 0..woken {
            self.work.notify_one();
        }
        for made_before in 0..made {
            let link = self.clone();
            let work = move || {
                let mut state = link.work(link.lock(), false);
                state.workers.threads -= 1;
            };
            let name = "plug-worker".to_owned();
            if std::thread::Builder::new().name(name).spawn(work).is_err() {
                // The slow handlers delay the others until the next tick tries again.
                self.lock().workers.threads -= made - made_before;
                return;
            }
        }
    }
}

/// How many workers wait for something to do. More than that end.
const PARKED_AT_MOST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn with_requests(threads: usize, requests: u64) -> Workers {
        let mut workers = Workers { threads, ..Workers::default() };
        for call in 1..=requests {
            workers.enqueue(Request { call, method: 1, message: bytes::Bytes::new() });
        }
        workers
    }

    #[test]
    fn requests_that_wait_double_the_workers_with_each_tick() {
        let mut workers = with_requests(1, 100);
        assert_eq!(workers.help_needed(false), 0, "they have just come");
        workers.next_tick();
        assert_eq!(workers.help_needed(false), 1);
        workers.threads = 16;
        assert_eq!(workers.help_needed(false), 16);
        workers.threads = 128;
        assert_eq!(workers.help_needed(false), 100, "no more than there are requests");
    }

    #[test]
    fn a_reader_is_needed_only_while_handlers_run() {
        let mut workers = with_requests(1, 0);
        workers.note_free();
        workers.next_tick();
        assert_eq!(workers.help_needed(true), 0, "nothing runs: who runs nothing reads");
        workers.running = 1;
        assert_eq!(workers.help_needed(false), 0, "somebody reads");
        assert_eq!(workers.help_needed(true), 1);
        workers.note_free();
        assert_eq!(workers.help_needed(true), 0, "since this tick only");
    }
}
