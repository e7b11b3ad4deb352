//! What the watcher does itself where the system makes no more threads.
//!
//! Slow handlers then delay the others. But what the other side says is heard, so that a cancellation reaches the handler
//! that runs; and nothing waits for ever for a worker that does not come.

use std::sync::Arc;

use super::lead::Wakes;
use super::link::Link;
use super::pump::Pump;
use super::workers::Task;
use crate::error::{Code, Delivery, Error};
use crate::protocol::Answer;

impl Link {
    /// Reads what is there, and does what cannot wait for a worker.
    pub(super) fn stand_in(self: &Arc<Self>) {
        self.handle_readable();
        let mut state = self.lock();
        let cancelled = state.workers.take_cancelled();
        let mut wakes = Wakes::default();
        for task in state.workers.take_hopeless() {
            let why = "no thread can be made for it";
            match task {
                Task::Request(request) => {
                    let error = Error::status(Code::ResourceExhausted, why, Delivery::NotSent);
                    drop(state.drop_inbox(request.call));
                    state.core.reply(request.call, Answer::Refused(error));
                }
                Task::Pump(call) => {
                    let Some(source) = state.pumps.get_mut(call).and_then(Pump::stop) else {
                        continue;
                    };
                    wakes.errand().dropped.push(source);
                    state.pumps.remove(call);
                    let error = Error::new(Code::ResourceExhausted, why);
                    self.end_pump(&mut state, call, Err(error));
                }
                Task::Errand(_) => unreachable!("there is hope for those"),
            }
        }
        self.handle_events(&mut state, None, &mut wakes);
        if let Some(errand) = wakes.take_errand() {
            self.enqueue(&mut state, Task::Errand(errand));
        }
        drop(self.flush_or_leave_some(state));
        wakes.wake();
        for call in cancelled {
            call.cancel().cancel();
        }
    }
}
