//! Tokens that cancel calls from another thread.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{self, Mutex, MutexGuard, Thread};

/// Cancels calls from another thread: give a clone of it to a proxy with
/// [`Proxy::with_cancel`](crate::Proxy::with_cancel), and call [`cancel`](CancelToken::cancel) on another.
///
/// One token may be shared by any number of calls and threads. Once cancelled, it stays so: calls that are made
/// with it later fail at once. A cancelled call fails with [`Code::Cancelled`](crate::Code::Cancelled), and its
/// handler can learn of it from [`Call::is_cancelled`](crate::Call::is_cancelled).
///
/// ```
/// let token = plug::CancelToken::new();
/// let other = token.clone();
/// std::thread::spawn(move || other.cancel()).join().unwrap();
/// assert!(token.is_cancelled());
/// ```
#[derive(Clone, Default)]
pub struct CancelToken {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Written with the lock of `wakers` held, so that no waker is registered after it and never woken.
    cancelled: AtomicBool,
    wakers: Mutex<Wakers>,
}

#[derive(Default)]
struct Wakers {
    next: u64,
    by_id: BTreeMap<u64, Waker>,
}

/// A waker that a token will wake. Dropping it takes the waker back.
#[must_use = "dropping a registration takes its waker back"]
pub(crate) struct Registration {
    /// `None` if the token was cancelled before.
    registered: Option<(Arc<Inner>, u64)>,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Cancels all calls that were made with this token or one of its clones, and all that will be.
    pub fn cancel(&self) {
        let wakers = {
            let mut wakers = self.inner.lock();
            self.inner.cancelled.store(true, Ordering::Release);
            std::mem::take(&mut wakers.by_id)
        };
        wakers.into_values().for_each(Waker::wake);
    }

    /// Whether this token or one of its clones was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::Acquire)
    }

    /// Has `waker` woken when the token is cancelled; at once if it is already. A waker is never woken under the
    /// token's lock.
    pub(crate) fn on_cancel(&self, waker: Waker) -> Registration {
        let mut wakers = self.inner.lock();
        if self.is_cancelled() {
            drop(wakers);
            waker.wake();
            return Registration { registered: None };
        }
        let id = wakers.next;
        wakers.next += 1;
        wakers.by_id.insert(id, waker);
        Registration { registered: Some((self.inner.clone(), id)) }
    }

    /// Waits until the token is cancelled, or `until` has come. Returns whether it is cancelled.
    pub(crate) fn wait(&self, until: Option<Instant>) -> bool {
        let unpark = Arc::new(Unpark { thread: sync::current() });
        let _registration = self.on_cancel(unpark.into());
        loop {
            if self.is_cancelled() {
                return true;
            }
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => sync::park(),
                Some(left) if left.is_zero() => return false,
                Some(left) => sync::park_timeout(left),
            }
        }
    }

    /// Makes sure that this token can stand for another call: it is not cancelled, and nobody else has it.
    pub(crate) fn is_fresh(&mut self) -> bool {
        // There are no weak ones. Who had a strong one has cancelled it before dropping that, if at all.
        let is_alone = Arc::strong_count(&self.inner) == 1;
        std::sync::atomic::fence(Ordering::Acquire);
        is_alone && !self.is_cancelled()
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Wakers> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some((token, id)) = self.registered.take() {
            // Dropped after the lock is given back: a waker may own anything.
            let _waker = token.lock().by_id.remove(&id);
        }
    }
}

struct Unpark {
    thread: Thread,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    /// Counts how often it was woken, and looks at the token, which needs its lock, each time.
    struct Counter {
        woken: AtomicUsize,
        token: CancelToken,
    }

    impl Counter {
        fn new(token: &CancelToken) -> Arc<Counter> {
            Arc::new(Counter { woken: AtomicUsize::new(0), token: token.clone() })
        }

        fn count(&self) -> usize {
            self.woken.load(Ordering::Relaxed)
        }
    }

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            drop(self.token.on_cancel(Waker::noop().clone()));
            self.woken.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_who_registered_are_woken_once_and_without_the_lock() {
        let token = CancelToken::new();
        let counter = Counter::new(&token);
        let registrations: Vec<_> =
            (0..3).map(|_| token.on_cancel(counter.clone().into())).collect();
        assert_eq!(counter.count(), 0);
        token.clone().cancel();
        token.cancel();
        assert_eq!(counter.count(), 3);
        assert!(token.is_cancelled());
        drop(registrations);
    }

    #[test]
    fn who_registers_late_is_woken_at_once() {
        let token = CancelToken::new();
        token.cancel();
        let counter = Counter::new(&token);
        let _registration = token.on_cancel(counter.clone().into());
        assert_eq!(counter.count(), 1);
    }

    #[test]
    fn a_dropped_registration_gives_its_waker_back() {
        let token = CancelToken::new();
        let counter = Counter::new(&token);
        let registration = token.on_cancel(counter.clone().into());
        assert_eq!(Arc::strong_count(&counter), 2);
        drop(registration);
        assert_eq!(Arc::strong_count(&counter), 1, "the token has forgotten the waker");
        token.cancel();
        assert_eq!(counter.count(), 0);
    }

    #[test]
    fn waiting_ends_with_the_cancellation_or_the_time() {
        let token = CancelToken::new();
        assert!(!token.wait(Some(Instant::now())), "the time has come");
        let waiting = token.clone();
        let waiter = std::thread::spawn(move || {
            waiting.wait(Some(Instant::now() + Duration::from_secs(60)))
        });
        token.cancel();
        assert!(waiter.join().unwrap(), "it waited 60 s for a token that was cancelled");
    }

    #[test]
    fn a_token_can_be_used_again_if_it_is_unused() {
        let mut token = CancelToken::new();
        assert!(token.is_fresh());
        let other = token.clone();
        assert!(!token.is_fresh(), "somebody else has it");
        drop(other);
        assert!(token.is_fresh());
        token.cancel();
        assert!(!token.is_fresh(), "it is cancelled");
    }
}

#[cfg(all(loom, test))]
mod loom_models {
    use super::*;
    use crate::sync::model;

    #[test]
    fn c13_who_waits_for_a_token_is_woken_whenever_it_is_cancelled() {
        model(|| {
            let token = CancelToken::new();
            let cancelling = token.clone();
            let cancels = loom::thread::spawn(move || cancelling.cancel());
            assert!(token.wait(None));
            cancels.join().unwrap();
        });
    }

    #[test]
    fn c13_two_who_cancel_wake_a_waiter_once_and_a_registration_can_go_meanwhile() {
        model(|| {
            let token = CancelToken::new();
            let leaving = token.clone();
            let leaves = loom::thread::spawn(move || {
                let unpark = Arc::new(Unpark { thread: sync::current() });
                drop(leaving.on_cancel(unpark.into()));
            });
            let cancelling = token.clone();
            let cancels = loom::thread::spawn(move || cancelling.cancel());
            assert!(token.wait(None));
            leaves.join().unwrap();
            cancels.join().unwrap();
        });
    }
}
