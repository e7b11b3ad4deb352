//! What waits to become an event, and the one thread that makes it one.
//!
//! A subscriber is code of users, which may take long, wait for anything, or call a plugin itself. So it runs neither
//! on the thread that looks after all plugins, nor under the lock of a connection, nor on a thread that happens to read
//! for others, but on one that nobody waits for.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::source::{Said, Source};
use crate::sys;

/// A bounded queue, and the thread that empties it. The thread is made when there is something for it, and stays.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signalled when something was queued or done.
    changed: Condvar,
}

struct State {
    tasks: VecDeque<Task>,
    /// What the tasks take, in bytes.
    cost: usize,
    /// How many were ever queued, and how many of them are done.
    queued: u64,
    done: u64,
    thread: Option<ThreadId>,
}

enum Task {
    Emit(Source, Said),
    Call(fn()),
}

/// That of this process.
pub(super) static QUEUE: Queue = Queue::new();

impl Queue {
    pub(super) const fn new() -> Queue {
        Queue {
            state: Mutex::new(State {
                tasks: VecDeque::new(),
                cost: 0,
                queued: 0,
                done: 0,
                thread: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Queues what a plugin has said, if there is room.
    pub(super) fn push(&'static self, source: &Source, said: Said) -> bool {
        let cost = said.cost();
        let mut state = self.lock();
        if state.cost + cost > MAX_COST || !self.has_thread(&mut state) {
            drop(state);
            return false;
        }
        state.cost += cost;
        self.add(state, Task::Emit(source.clone(), said));
        true
    }

    /// Has something called on the thread of the queue, once for each time that it is to be called, or for several.
    pub(super) fn call(&'static self, call: fn()) {
        let mut state = self.lock();
        let is_queued =
            |task: &Task| matches!(task, Task::Call(queued) if std::ptr::fn_addr_eq(*queued, call));
        if !state.tasks.iter().any(is_queued) && self.has_thread(&mut state) {
            self.add(state, Task::Call(call));
        }
    }

    /// Waits until all that was queued before is done, or `limit` is over. Says which.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        let until = state.queued;
        // A subscriber may come here, too, and would wait for itself.
        while state.done < until && state.thread != Some(thread::current().id()) {
            let Some(left) =
                end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                return false;
            };
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.done >= until
    }

    fn add(&self, mut state: MutexGuard<'_, State>, task: Task) {
        state.tasks.push_back(task);
        state.queued += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Makes the thread, unless it is there. Without one, nothing is queued.
    fn has_thread(&'static self, state: &mut State) -> bool {
        if state.thread.is_none() {
            state.thread = sys::thread::spawn("plug-log", || self.run()).ok();
        }
        state.thread.is_some()
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let Some(task) = state.tasks.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if let Task::Emit(_, said) = &task {
                state.cost -= said.cost();
            }
            drop(state);
            // A subscriber that panics has said so on stderr. The next record may fare better.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| task.run()));
            state = self.lock();
            state.done += 1;
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    fn run(self) {
        match self {
            Task::Emit(source, said) => source.emit(&said),
            Task::Call(call) => call(),
        }
    }
}

impl Said {
    fn cost(&self) -> usize {
        let len = match self {
            Said::Record(payload, _) => payload.len(),
            Said::Line(line) => line.len(),
        };
        len + OVERHEAD
    }
}

/// How much may wait, in bytes. What comes on top of it is dropped and counted.
const MAX_COST: usize = 4 << 20;

/// What a task takes beside its text, in bytes, about.
const OVERHEAD: usize = 256;
