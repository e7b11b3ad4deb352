//! What waits for the threads that run handlers, and how many of those there are: told of ticks, without a clock or threads.

use std::collections::VecDeque;
use std::sync::Arc;

use super::lead::Errand;
use crate::call::CallState;
use crate::protocol::Request;

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
    pub(super) threads: usize,
    /// How many of them wait for something to do.
    pub(super) parked: usize,
    /// How many of them have been called and have not come yet.
    pub(super) called: usize,
    tick: u64,
    /// The tick in which the role of reading was given back.
    free_since: u64,
    /// The tick in which the first of the frames that are not sent was queued.
    unsent_since: Option<u64>,
    /// The tick in which the first of the parts was sent that users may have made, and that nobody has dropped.
    undropped_since: Option<u64>,
}

impl Workers {
    pub(super) fn enqueue(&mut self, task: Task) {
        self.queue.push_back((self.tick, task));
    }

    pub(super) fn next_task(&mut self) -> Option<Task> {
        self.queue.pop_front().map(|(_, task)| task)
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

    /// Notes that all that was queued is about to be written.
    pub(super) fn note_all_sent(&mut self) {
        self.unsent_since = None;
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
    pub(super) fn uncall(&mut self, count: usize) {
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

/// For how many ticks something waits for a worker where none can be made: about two seconds.
const WITHOUT_A_WORKER: u64 = 1000;

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
