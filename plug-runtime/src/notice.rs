//! Telling users of a host that a plugin's process has ended.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::exit::Exit;
use crate::panics;
use crate::sys::thread;

/// A callback of the user's, and the ends that it has not been told of yet.
///
/// It runs on a thread of its own, which is made when there is something to tell: neither the watcher nor whoever noticed
/// the end waits for it, and nothing but the next notice of the same plugin does.
pub(crate) struct ExitNotice {
    state: Mutex<State>,
}

type Callback = Box<dyn FnMut(&Exit) + Send>;

struct State {
    untold: VecDeque<Exit>,
    /// `None` while a thread has it.
    callback: Option<Callback>,
}

impl ExitNotice {
    pub(crate) fn new(callback: impl FnMut(&Exit) + Send + 'static) -> ExitNotice {
        let callback: Option<Callback> = Some(Box::new(callback));
        ExitNotice { state: Mutex::new(State { untold: VecDeque::new(), callback }) }
    }

    /// Has the callback told of an end. The thread that tells it has the last hold on the callback where this was the
    /// last: its drop is code of the user's, too.
    pub(crate) fn tell(self: Arc<Self>, exit: Exit) {
        let mut state = self.lock();
        state.untold.push_back(exit);
        let Some(callback) = state.callback.take() else { return };
        drop(state);
        // If there can be no thread, the closure is dropped with the callback in it, so it must not own that.
        let held = Arc::new(Mutex::new(Some((self, callback))));
        let taken = held.clone();
        let made = thread::spawn("plug-exit", move || {
            let held = lock(&taken).take();
            if let Some((notice, callback)) = held {
                notice.tell_all(callback);
            }
        });
        if made.is_err() {
            // The next end tells of this one as well.
            if let Some((notice, callback)) = lock(&held).take() {
                notice.lock().callback = Some(callback);
            }
        }
    }

    fn tell_all(self: Arc<Self>, mut callback: Callback) {
        loop {
            let mut state = self.lock();
            let Some(exit) = state.untold.pop_front() else {
                state.callback = Some(callback);
                return;
            };
            drop(state);
            // The panic was printed, and concerns nobody else.
            let _ = panics::catch("the callback of Command::on_exit", || callback(&exit));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for ExitNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExitNotice").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::exit::ExitStatus;

    const BOUND: Duration = Duration::from_secs(30);

    #[test]
    fn ends_are_told_in_order_one_after_the_other_although_a_callback_blocks_and_panics() {
        let (go_on, gate) = channel();
        let (sender, told) = channel();
        let notice = Arc::new(ExitNotice::new(move |exit: &Exit| {
            gate.recv_timeout(BOUND).unwrap();
            sender.send((exit.pid(), std::thread::current().name().map(str::to_owned))).unwrap();
            assert_ne!(exit.pid(), 1, "as a test");
        }));
        for pid in 0..4 {
            notice.clone().tell(Exit::by_itself(pid, ExitStatus::Code(0)));
        }
        drop(notice);
        for pid in 0..4 {
            assert!(told.try_recv().is_err(), "it waits for {pid}");
            go_on.send(()).unwrap();
            let expected = (pid, Some("plug-exit".to_owned()));
            assert_eq!(told.recv_timeout(BOUND).expect("the next end is told"), expected);
        }
        let over = told.recv_timeout(BOUND).unwrap_err();
        assert_eq!(over, std::sync::mpsc::RecvTimeoutError::Disconnected, "it is dropped");
    }
}
