//! Threads that run handlers.
//!
//! A worker takes the next request that has been read and runs its handler; when there is none, it sends the
//! replies and reads. So a plugin whose handlers are fast has one thread that does everything, and
//! answers with one write all that one read has brought.
//!
//! In a host, where no thread is there to serve, workers are made when there is something to do, read for a while in
//! case more comes, and end.
//!
//! A handler that takes long must not keep others waiting. While something runs, the watcher ticks
//! every 2 ms (0.5 ms made the 99th percentile three times worse), and gets another worker going if
//! nobody has read, or a request has waited, since the tick before.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::lead::{Lead, Wakes};
use super::link::{Link, State};
use super::messages::Messages;
use super::patience::Patience;
use super::workers::Task;
use super::writing::Flushed;
use crate::call::{CallState, Start};
use crate::error::{Code, Delivery, Error};
use crate::incoming::Outcome;
use crate::peer::WeakPeer;
use crate::protocol::{Answer, Request, is_large};
use crate::stream::Outgoing;
use crate::sys::thread;

impl State {
    /// Refuses a call whose time was over before its handler could start.
    #[cold]
    fn refuse_late(&mut self, call: u64) {
        let why = "the call's time was over before its handler could start";
        let error = Error::status(Code::DeadlineExceeded, why, Delivery::NotSent);
        drop(self.drop_inbox(call));
        self.core.reply(call, Answer::Refused(error));
    }
}

impl Link {
    /// Serves calls on this thread, and on more where that is needed, until the connection is over, all handlers have
    /// returned and what they answered is sent.
    pub(super) fn serve(self: &Arc<Self>) {
        let mut state = self.lock();
        state.workers.threads += 1;
        state = self.work(state, true);
        while state.workers.is_busy() {
            (state, _) = self.wait_for_work(state, None);
        }
        drop(state);
        self.flush_to_the_end();
    }

    /// Does what there is to do, until the connection is over or, but for the first worker of a plugin, there are more
    /// than enough of them.
    fn work<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        is_first: bool,
    ) -> MutexGuard<'a, State> {
        let mut worker = Worker::default();
        let is_plugin = state.core.is_plugin();
        // Until when a worker of a host reads, in case there is more to do.
        let mut linger = Instant::now() + LINGER;
        loop {
            if state.is_served() {
                // What is not a handler is still to be done: a stream may have to learn that it is over.
                state.workers.withdraw(|task| matches!(task, Task::Request(_)));
                if !state.workers.has_queue() {
                    // The others may wait for more to do.
                    self.work.notify_all();
                    break;
                }
            }
            if state.workers.take_overdue() {
                state = self.flush_or_leave(state);
            }
            if let Some(task) = state.workers.next_task() {
                state = self.run_task(state, task, &mut worker);
                if !is_plugin {
                    linger = Instant::now() + LINGER;
                }
                continue;
            }
            state.workers.note_all_sent();
            let may_read = is_plugin || (state.waiters.is_empty() && Instant::now() < linger);
            if is_plugin {
                let flushed;
                (state, flushed) = self.flush(state, usize::MAX);
                if flushed == Flushed::Done && state.is_at_rest() && self.dispatch.get().is_some() {
                    state = self.serve_alone(state, &mut worker);
                    continue;
                }
            }
            if let Some(mut lead) = may_read.then(|| Lead::take(self, &mut state, None)).flatten() {
                let patience = Patience::until_then((!is_plugin).then_some(linger));
                state = self.flush_and_read(state, &mut lead, &patience);
                state = self.bring(state, lead);
                continue;
            }
            state = self.flush_or_leave(state);
            if state.workers.has_queue() || state.is_served() {
                continue;
            }
            if !is_plugin && state.reader.is_some() && may_read && !state.input_ended {
                // It has just been given back.
                continue;
            }
            if state.workers.parked >= PARKED_AT_MOST && !is_first {
                break;
            }
            state.workers.parked += 1;
            let timed_out;
            (state, timed_out) = self.wait_for_work(state, (!is_first).then_some(PARKED_FOR));
            state.workers.parked -= 1;
            state.workers.uncall(1);
            // Whoever was busy may have left replies behind.
            state = self.flush_or_leave(state);
            if timed_out && !state.workers.has_queue() {
                break;
            }
            linger = Instant::now() + LINGER;
        }
        // Its last handler may have answered as the connection came to its end, or what it has read may have let
        // something go; and nobody else may come to write.
        self.flush_or_leave(state)
    }

    /// Brings what this thread has read to whom it concerns, and gives the role of reading back.
    pub(super) fn bring<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        mut lead: Lead<'a>,
    ) -> MutexGuard<'a, State> {
        let mut wakes = Wakes::default();
        lead.handle_events(&mut state, &mut wakes);
        lead.release(&mut state, &mut wakes);
        if !wakes.is_empty() {
            drop(state);
            wakes.wake();
            state = self.lock();
        }
        state
    }

    pub(super) fn run_task<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
        task: Task,
        worker: &mut Worker,
    ) -> MutexGuard<'a, State> {
        match task {
            Task::Request(request) => self.run_handler(state, request, worker),
            Task::Pump(call) => self.run_pump(state, call),
            Task::Errand(errand) => {
                drop(state);
                errand.run();
                self.lock()
            }
        }
    }

    fn run_handler<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        request: Request,
        worker: &mut Worker,
    ) -> MutexGuard<'a, State> {
        let call = request.call;
        if !state.core.is_served(call) {
            // Its caller has cancelled it since it was taken out of the queue, and was told that it does not run.
            drop(state.drop_inbox(call));
            return state;
        }
        let deadline = request.extra.as_ref().and_then(|extra| extra.deadline);
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            state.refuse_late(call);
            return state;
        }
        let messages =
            request.has_stream.then(|| Box::new(Messages::of_requests(self.clone(), call)));
        let outcome;
        (state, outcome) = self.handle(state, request, messages, worker);
        self.answer(&mut state, call, outcome, worker);
        state
    }

    /// Runs the handler of a call, without the lock. `messages` is the stream of requests of a method that takes one.
    #[inline]
    pub(super) fn handle<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        mut request: Request,
        messages: Option<Box<Messages>>,
        worker: &mut Worker,
    ) -> (MutexGuard<'a, State>, Outcome) {
        let Some(dispatch) = self.dispatch.get() else {
            unreachable!("a side that serves nothing has no methods to call");
        };
        let call = request.call;
        let start = Start { id: call, link: self, extra: request.extra.take() };
        let nobody = WeakPeer::default();
        let peer = self.peer.get().unwrap_or(&nobody);
        let current = dispatch.begin(worker.call.take(), request.method, start, peer);
        state.running.insert(call, current.clone());
        state.workers.begin_running();
        let mut buffer = std::mem::take(&mut worker.buffer);
        if buffer.capacity() == 0 {
            buffer = state.core.take_spare();
        }
        drop(state);
        let outcome = dispatch.run(request, messages, current, buffer, self.decode_limit());
        state = self.lock();
        state.workers.end_running();
        (state, outcome)
    }

    /// Answers a call whose handler has returned, or begins the stream that it has returned.
    pub(super) fn answer(
        self: &Arc<Self>,
        state: &mut State,
        call: u64,
        outcome: Outcome,
        worker: &mut Worker,
    ) {
        match outcome {
            Outcome::Answer(answer) => {
                let current = state.running.remove(call);
                let buffer = state.core.reply(call, answer);
                worker.keep(current, buffer);
                state.workers.note_unsent();
                self.note_served(state);
            }
            Outcome::Stream(source) => self.begin_responses(state, call, source),
        }
    }

    #[inline(never)]
    fn begin_responses(self: &Arc<Self>, state: &mut State, call: u64, source: Box<dyn Outgoing>) {
        // If it was cancelled, the pump finds out.
        let current = state.running.get(call);
        if current.is_some_and(|current| !current.cancel().is_cancelled()) {
            state.core.begin_responses(call);
        }
        self.begin_pump(state, call, source);
    }

    /// Lets those know who wait for the last call to be answered.
    pub(super) fn note_served(&self, state: &mut State) {
        if !state.workers.is_busy() && state.is_served() {
            self.work.notify_all();
            if state.core.is_plugin() && state.core.has_no_calls() {
                // A host that said goodbye may leave the pipe open, and somebody reads it. There is nothing that the
                // host still has to say, which a byte from here could cut in two.
                self.interrupt.interrupt(&self.input);
            }
        }
    }

    /// Queues something for a worker. As long as it waits, the watcher ticks, and gets more of them going.
    pub(super) fn enqueue(self: &Arc<Self>, state: &mut State, task: Task) {
        state.workers.enqueue(task);
        self.keep_ticking(state);
    }

    /// The same of several, which it takes away.
    #[inline]
    pub(super) fn enqueue_all(self: &Arc<Self>, state: &mut State, tasks: &mut Vec<Task>) {
        if !tasks.is_empty() {
            tasks.drain(..).for_each(|task| self.enqueue(state, task));
        }
    }

    /// Sees to it that somebody does what waits to be done, where this thread will not: one more worker for now. If that
    /// is not enough, the tick brings more.
    #[inline]
    pub(super) fn hire<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        if state.workers.has_queue() { self.hire_one(state) } else { state }
    }

    fn hire_one<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let workers = &mut state.workers;
        if workers.called > 0 {
            return state;
        }
        if workers.parked > 0 {
            workers.called += 1;
            self.work.notify_one();
            return state;
        }
        self.promote(state, 1);
        self.lock()
    }

    /// Gets that many more workers going, as far as the limit on calls allows. Says whether the system lets it make
    /// those that are to be made.
    pub(super) fn promote(self: &Arc<Self>, mut state: MutexGuard<'_, State>, help: usize) -> bool {
        let woken = help.min(state.workers.parked);
        let at_most = match state.core.own().max_calls {
            0 => usize::MAX,
            // One more than can run handlers: it reads. A stream may keep a thread for as long as it likes.
            max_calls => max_calls as usize + 1 + state.pumps.len(),
        };
        let room = at_most.saturating_sub(state.workers.threads);
        // A host that is leaving serves nobody any more, but its own streams of requests go on.
        let is_over = state.is_served() && !state.workers.has_queue();
        let made = if is_over { 0 } else { (help - woken).min(room) };
        state.workers.threads += made;
        state.workers.called += woken + made;
        drop(state);
        for _ in 0..woken {
            self.work.notify_one();
        }
        for made_before in 0..made {
            let link = self.clone();
            let work = move || {
                let mut state = link.lock();
                state.workers.uncall(1);
                state = link.work(state, false);
                state.workers.threads -= 1;
            };
            if thread::spawn("plug-worker", work).is_err() {
                // The slow handlers delay the others until the next tick tries again.
                let mut state = self.lock();
                state.workers.threads -= made - made_before;
                state.workers.uncall(made - made_before);
                return false;
            }
        }
        true
    }
}

/// What a worker keeps from one handler to the next.
#[derive(Default)]
pub(super) struct Worker {
    /// For responses.
    buffer: Vec<u8>,
    call: Option<Arc<CallState>>,
}

impl Worker {
    /// Keeps what the next handler can use: what the last one saw of its call, and the buffer of its response.
    #[inline]
    pub(super) fn keep(&mut self, call: Option<Arc<CallState>>, mut buffer: Vec<u8>) {
        self.call = call;
        if !is_large(buffer.capacity()) {
            buffer.clear();
            self.buffer = buffer;
        }
    }
}

/// How many workers wait for something to do, and how long. More than that end, and after that.
const PARKED_AT_MOST: usize = 8;
const PARKED_FOR: Duration = Duration::from_secs(1);

/// How long a worker of a host reads after it has done something: a plugin that calls again and again is answered
/// without a detour over the watcher, which costs 2 ms.
const LINGER: Duration = Duration::from_millis(20);
