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

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::lead::{Errand, Lead, Wakes};
use super::link::{Link, State};
use super::messages::Messages;
use super::patience::Patience;
use super::writing::Flushed;
use crate::call::{CallState, Start};
use crate::error::{Code, Delivery, Error};
use crate::incoming::Outcome;
use crate::peer::WeakPeer;
use crate::protocol::{Answer, Request, is_large};
use crate::stream::Outgoing;
use crate::sys::thread;

/// Something for a worker to do.
pub(super) enum Task {
    /// To run the handler of a call of the other side, unless its time is over.
    Request(Request),
    /// To send what the stream of a call has.
    Pump(u64),
    /// What is not for the watcher.
    Errand(Box<Errand>),
}

impl Task {
    pub(super) fn is_request(&self, call: u64) -> bool {
        matches!(self, Task::Request(request) if request.call == call)
    }
}

/// What waits for a worker, and the threads that work.
#[derive(Default)]
pub(super) struct Workers {
    /// Tasks, each with the tick in which it came.
    queue: VecDeque<(u64, Task)>,
    /// How many handlers and streams run, on whatever thread.
    running: usize,
    /// How many workers there are, the first included.
    threads: usize,
    /// How many of them wait for something to do.
    parked: usize,
    /// How many of them have been called and have not come yet.
    called: usize,
    tick: u64,
    /// The tick in which the role of reading was given back.
    free_since: u64,
    /// The tick in which the first of the frames that are not sent was queued.
    unsent_since: Option<u64>,
    /// The tick in which the first of the parts was sent that users may have made, and that nobody has dropped.
    undropped_since: Option<u64>,
}

impl Workers {
    fn enqueue(&mut self, task: Task) {
        self.queue.push_back((self.tick, task));
    }

    /// Takes tasks back that have not begun.
    pub(super) fn withdraw(&mut self, is_it: impl Fn(&Task) -> bool) {
        self.queue.retain(|(_, task)| !is_it(task));
    }

    /// Takes the calls whose handlers are to learn that nobody waits for them: they may be what keeps the workers.
    pub(super) fn take_cancelled(&mut self) -> Vec<Arc<CallState>> {
        let mut cancelled = Vec::new();
        for (_, task) in &mut self.queue {
            if let Task::Errand(errand) = task {
                cancelled.append(&mut errand.cancelled);
            }
        }
        cancelled
    }

    /// Takes what has waited for long although there is no worker. Errands can wait.
    pub(super) fn take_hopeless(&mut self) -> Vec<Task> {
        let mut hopeless = Vec::new();
        if self.threads == 0 {
            let queue = std::mem::take(&mut self.queue);
            for (since, task) in queue {
                let is_errand = matches!(task, Task::Errand(_));
                if is_errand || since + WITHOUT_A_WORKER > self.tick {
                    self.queue.push_back((since, task));
                } else {
                    hopeless.push(task);
                }
            }
        }
        hopeless
    }

    /// Whether nothing waits for a worker, and none has been called.
    pub(super) fn has_nothing_to_do(&self) -> bool {
        !self.is_waited_for() && self.undropped_since.is_none() && self.called == 0
    }

    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether something is to be done or written that nobody may be at.
    pub(super) fn is_waited_for(&self) -> bool {
        self.has_queue() || self.unsent_since.is_some()
    }

    pub(super) fn begin_running(&mut self) {
        self.running += 1;
    }

    pub(super) fn end_running(&mut self) {
        self.running -= 1;
    }

    /// How many ticks there were.
    pub(super) fn tick(&self) -> u64 {
        self.tick
    }

    /// Notes that something was queued that is to be written in a moment.
    pub(super) fn note_unsent(&mut self) {
        self.unsent_since.get_or_insert(self.tick);
    }

    /// Whether something has waited to be written since before the last tick. It is written now.
    pub(super) fn take_overdue(&mut self) -> bool {
        self.unsent_since.take_if(|since| *since < self.tick).is_some()
    }

    /// Notes that a part was sent that a user may have made. Who has sent it drops it, or a worker after a tick.
    pub(super) fn note_undropped(&mut self) {
        self.undropped_since.get_or_insert(self.tick);
    }

    pub(super) fn note_dropped(&mut self) {
        self.undropped_since = None;
    }

    /// Whether something was to be dropped before the last tick.
    pub(super) fn has_forgotten(&self) -> bool {
        self.undropped_since.is_some_and(|since| since < self.tick)
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
        // Who has not come by now was called in vain: two calls may wake one.
        self.called = 0;
    }

    /// Notes that some who were called have come, or never will. A tick may have given them up before.
    fn uncall(&mut self, count: usize) {
        self.called = self.called.saturating_sub(count);
    }

    /// How many more workers are needed: one for each request that has waited since before the last tick, but not
    /// more than there are already; one if nobody has read since then although handlers run.
    ///
    /// So there are twice as many with each tick, and a thousand handlers that sleep all sleep after 20 ms.
    pub(super) fn help_needed(&self, reader_is_free: bool) -> usize {
        let starved = self.queue.iter().take_while(|(since, _)| *since < self.tick).count();
        let deaf = reader_is_free && self.running > 0 && self.free_since < self.tick;
        starved.min(self.threads.max(1)).max(deaf.into())
    }
}

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
        while state.workers.running > 0 {
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
            if let Some((_, task)) = state.workers.queue.pop_front() {
                state = self.run_task(state, task, &mut worker);
                if !is_plugin {
                    linger = Instant::now() + LINGER;
                }
                continue;
            }
            state.workers.unsent_since = None;
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
        if state.workers.running == 0 && state.is_served() {
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

/// For how many ticks something waits for a worker where none can be made: about two seconds.
const WITHOUT_A_WORKER: u64 = 1000;

/// How long a worker of a host reads after it has done something: a plugin that calls again and again is answered
/// without a detour over the watcher, which costs 2 ms.
const LINGER: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn with_requests(threads: usize, requests: u64) -> Workers {
        let mut workers = Workers { threads, ..Workers::default() };
        for call in 1..=requests {
            let request = Request { call, method: 1, ..Request::default() };
            workers.enqueue(Task::Request(request));
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
    fn who_was_called_may_come_after_a_tick_has_given_it_up() {
        let mut workers = Workers { called: 2, ..Workers::default() };
        workers.uncall(1);
        assert_eq!(workers.called, 1);
        workers.next_tick();
        workers.uncall(1);
        assert!(workers.has_nothing_to_do());
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
