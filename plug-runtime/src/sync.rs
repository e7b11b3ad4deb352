//! What threads share and wait with: that of the standard library, or, where a test tries all schedules, loom's.
//!
//! Only for what such a test runs (`RUSTFLAGS="--cfg loom" cargo test -p plug-runtime --release --lib loom`): loom's own
//! works nowhere else.

#[cfg(not(all(loom, test)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread::{Thread, current, park, park_timeout},
};

#[cfg(all(loom, test))]
pub(crate) use {
    loom::sync::{Condvar, Mutex, MutexGuard, atomic},
    model::{Thread, current, model, park, park_timeout},
};

#[cfg(all(loom, test))]
mod model {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Condvar, Mutex};

    /// A thread to be unparked. Loom's own forgets that it was if the thread waits for a lock in between.
    #[derive(Clone, Debug)]
    pub(crate) struct Thread {
        token: Arc<Token>,
    }

    #[derive(Debug)]
    struct Token {
        is_there: Mutex<bool>,
        changed: Condvar,
    }

    loom::thread_local! {
        static CURRENT: Thread = Thread {
            token: Arc::new(Token { is_there: Mutex::new(false), changed: Condvar::new() }),
        };
    }

    pub(crate) fn current() -> Thread {
        CURRENT.with(Thread::clone)
    }

    pub(crate) fn park() {
        let token = current().token;
        let mut is_there = token.is_there.lock().unwrap();
        while !*is_there {
            is_there = token.changed.wait(is_there).unwrap();
        }
        *is_there = false;
    }

    /// There is no time in a model: what has an end elsewhere must be ended by something else.
    pub(crate) fn park_timeout(_: Duration) {
        park();
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            *self.token.is_there.lock().unwrap() = true;
            self.token.changed.notify_one();
        }
    }

    /// Tries the schedules in which threads are interrupted at most three times: of all of them there are too many, and
    /// two are enough for most mistakes.
    pub(crate) fn model(run: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(run);
    }
}
