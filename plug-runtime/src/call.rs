//! The call that a handler serves: what it can ask about it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::blocking::Link;
use crate::cancel::{CancelToken, Registration};
use crate::panics;
use crate::peer::{Peer, WeakPeer};
use crate::protocol::Extra;
use crate::sys::thread;

/// The call that is being served: how long it may take, whether it is still wanted, who made it.
///
/// A handler gets it from [`Call::current`]. It is there while the handler runs, and while the next item is taken
/// from the stream that the handler has returned. For another thread, hand it over:
///
/// ```
/// # fn read_a_block() -> Option<Vec<u8>> { None }
/// # fn handler() -> plug::Result<()> {
/// let call = plug::Call::current();
/// std::thread::spawn(move || {
///     call.scope(|| {
///         while !plug::Call::current().is_cancelled() {
///             let Some(block) = read_a_block() else { break };
///             // Calls that are made here end with the call that is served.
///         }
///     });
/// });
/// # Ok(())
/// # }
/// # handler().unwrap();
/// ```
///
/// Calls that a handler makes, to whatever peer, inherit the deadline of its call and end when that is cancelled.
/// Metadata is not inherited.
///
/// Outside of handlers there is a call as well: one without deadline, metadata and peer, which is never cancelled.
///
/// Cheap to clone. Who keeps it keeps neither the call nor the connection.
#[derive(Clone)]
pub struct Call {
    state: Option<Arc<CallState>>,
}

impl Call {
    /// The call that this thread serves.
    pub fn current() -> Call {
        Call { state: current() }
    }

    /// When the caller stops waiting. `None`: it sets no limit.
    pub fn deadline(&self) -> Option<Instant> {
        self.state.as_ref()?.deadline()
    }

    /// How long the caller still waits: zero once the deadline has passed, `None` without one.
    pub fn remaining(&self) -> Option<Duration> {
        Some(self.deadline()?.saturating_duration_since(Instant::now()))
    }

    /// Whether nobody waits for the outcome any more: the caller has cancelled the call, or is gone, or the deadline
    /// has passed. Then there is no use in going on.
    pub fn is_cancelled(&self) -> bool {
        let Some(state) = &self.state else { return false };
        state.cancel.is_cancelled() || state.deadline().is_some_and(|at| at <= Instant::now())
    }

    /// Waits until the call is [cancelled](Call::is_cancelled), at most for `at_most`. Returns whether it is.
    ///
    /// This is a `sleep` that a cancellation ends.
    pub fn wait_cancelled(&self, at_most: Duration) -> bool {
        let until = Instant::now().checked_add(at_most);
        match &self.state {
            None => CancelToken::new().wait(until),
            Some(state) => {
                let until = [until, state.deadline()].into_iter().flatten().min();
                state.cancel.wait(until) || self.is_cancelled()
            }
        }
    }

    /// Runs `callback` when the call is cancelled, at once if it is already; never if it ends before.
    ///
    /// All callbacks of the process run one after the other, on a thread of their own: they should do little, such as
    /// to wake or to close something. The caller of a call whose deadline passes cancels it, so callbacks run then
    /// too.
    ///
    /// Outside of handlers it is never run.
    pub fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) {
        if let Some(state) = &self.state {
            state.on_cancel(Box::new(callback));
        }
    }

    /// The first value that the caller has sent with this key: see
    /// [`Proxy::with_metadata`](crate::Proxy::with_metadata).
    pub fn metadata(&self, key: &str) -> Option<Bytes> {
        self.metadata_all().iter().find(|(of, _)| of == key).map(|(_, value)| value.clone())
    }

    /// All keys and values that the caller has sent, in its order. A key may come more than once.
    pub fn metadata_all(&self) -> &[(String, Bytes)] {
        let extra = self.state.as_ref().and_then(|state| state.extra.as_deref());
        extra.map_or(&[], |extra| &extra.metadata)
    }

    /// The full name of the method that is called, such as `example.KV/Get`. Empty outside of handlers.
    pub fn method(&self) -> &str {
        self.state.as_ref().map_or("", |state| &state.method)
    }

    /// Who has made the call. `None` outside of handlers, and in a host whose [`Peer`] for the plugin does not exist
    /// yet, or no more.
    pub fn peer(&self) -> Option<Peer> {
        self.state.as_ref()?.peer.upgrade()
    }

    /// Runs `f` with this as the [current](Call::current) call of this thread.
    pub fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        let _entered = enter(self.state.clone());
        f()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method())
            .field("deadline", &self.deadline())
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

/// A call that this side serves, as its handler sees it.
pub(crate) struct CallState {
    id: u64,
    /// Which connection it came over: not to be used, but compared. A bare address could be that of another one
    /// once this one is gone.
    link: Weak<Link>,
    method: Arc<str>,
    extra: Option<Box<Extra>>,
    peer: WeakPeer,
    cancel: CancelToken,
    ended: AtomicBool,
    /// Whether there may be callbacks: most calls have none, and taking the lock to see that costs two atomics.
    has_callbacks: AtomicBool,
    callbacks: Mutex<Vec<Registration>>,
}

/// What a driver knows of a call whose handler is about to run.
pub(crate) struct Start<'a> {
    /// The call's id on the wire.
    pub(crate) id: u64,
    pub(crate) link: &'a Arc<Link>,
    /// Its deadline and metadata, where it has any.
    pub(crate) extra: Option<Box<Extra>>,
}

impl CallState {
    /// The state of a new call: `spare` if nobody has kept that, and it was not cancelled. So an ordinary call costs
    /// no memory of its own.
    pub(crate) fn new(
        spare: Option<Arc<CallState>>,
        start: Start<'_>,
        method: &Arc<str>,
        peer: &WeakPeer,
    ) -> Arc<CallState> {
        if let Some(mut spare) = spare {
            if let Some(state) = Arc::get_mut(&mut spare) {
                if std::ptr::eq(state.link.as_ptr(), Arc::as_ptr(start.link))
                    && state.cancel.is_fresh()
                {
                    state.id = start.id;
                    state.extra = start.extra;
                    if !Arc::ptr_eq(&state.method, method) {
                        state.method = method.clone();
                    }
                    // It may have come to be since.
                    if !state.peer.is(peer) {
                        state.peer = peer.clone();
                    }
                    *state.ended.get_mut() = false;
                    *state.has_callbacks.get_mut() = false;
                    return spare;
                }
            }
        }
        Arc::new(CallState {
            id: start.id,
            link: Arc::downgrade(start.link),
            method: method.clone(),
            extra: start.extra,
            peer: peer.clone(),
            cancel: CancelToken::new(),
            ended: AtomicBool::new(false),
            has_callbacks: AtomicBool::new(false),
            callbacks: Mutex::default(),
        })
    }

    /// What a driver cancels when the caller wants the outcome no more.
    pub(crate) fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.extra.as_ref()?.deadline
    }

    /// The id, if the call came over `link` and has not ended.
    pub(crate) fn id_within(&self, link: &Arc<Link>) -> Option<u64> {
        let same = std::ptr::eq(self.link.as_ptr(), Arc::as_ptr(link));
        (same && !self.ended.load(Ordering::Acquire)).then_some(self.id)
    }

    /// Notes that the handler has returned, and its stream has ended: callbacks are dropped, which may own this very
    /// call.
    pub(crate) fn end(&self) {
        // Either this sees that there is a callback, or who adds it sees that the call has ended.
        self.ended.store(true, Ordering::SeqCst);
        if self.has_callbacks.load(Ordering::SeqCst) {
            let callbacks = std::mem::take(&mut *self.lock());
            drop(callbacks);
        }
    }

    fn on_cancel(&self, callback: Callback) {
        let waker = Waker::from(Arc::new(CallbackWaker { callback: Mutex::new(Some(callback)) }));
        let registration = self.cancel.on_cancel(waker);
        let mut callbacks = self.lock();
        self.has_callbacks.store(true, Ordering::SeqCst);
        if self.ended.load(Ordering::SeqCst) {
            // Dropped without the lock, as what the callback owns may have a drop that comes back here.
            drop(callbacks);
            drop(registration);
        } else {
            callbacks.push(registration);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Registration>> {
        self.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<CallState>>> = const { RefCell::new(None) };
}

/// The call that this thread serves.
pub(crate) fn current() -> Option<Arc<CallState>> {
    // A thread that is ending has lost its locals.
    CURRENT.try_with(|current| current.borrow().clone()).unwrap_or_default()
}

/// Runs `f`, which must not panic, with a call as the current one of this thread, and gives that back: what [`enter`]
/// does, without another hold on it.
pub(crate) fn run_within<R>(call: Arc<CallState>, f: impl FnOnce() -> R) -> (R, Arc<CallState>) {
    let swap = |slot: &mut Option<Arc<CallState>>| {
        // A thread that is ending has lost its locals, the second time as well as the first.
        let _ = CURRENT.try_with(|current| std::mem::swap(&mut *current.borrow_mut(), slot));
    };
    let mut slot = Some(call);
    swap(&mut slot);
    let result = f();
    swap(&mut slot);
    let Some(call) = slot else { unreachable!("what was swapped in is swapped out") };
    (result, call)
}

/// Makes a call the current one of this thread, until the guard is dropped.
pub(crate) fn enter(state: Option<Arc<CallState>>) -> Entered {
    let before = CURRENT.try_with(|current| current.replace(state)).unwrap_or_default();
    Entered { before, this_thread: PhantomData }
}

/// See [`enter`].
#[must_use = "the call is current until this is dropped"]
pub(crate) struct Entered {
    before: Option<Arc<CallState>>,
    this_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        // Dropped when the cell is free again: it may be the last to have it.
        let _inner = CURRENT.try_with(|current| current.replace(before));
    }
}

type Callback = Box<dyn FnOnce() + Send>;

/// Has a callback run by the thread for them: who cancels a call may be the watcher, which runs no code of users.
struct CallbackWaker {
    callback: Mutex<Option<Callback>>,
}

impl Wake for CallbackWaker {
    fn wake(self: Arc<Self>) {
        let callback = self.callback.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(callback) = callback {
            Callbacks::run(callback);
        }
    }
}

/// The callbacks that are to be run. Their thread is there as long as there are some.
struct Callbacks {
    queue: VecDeque<Callback>,
    has_thread: bool,
}

static CALLBACKS: Mutex<Callbacks> =
    Mutex::new(Callbacks { queue: VecDeque::new(), has_thread: false });

impl Callbacks {
    fn lock() -> MutexGuard<'static, Callbacks> {
        CALLBACKS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(callback: Callback) {
        let mut callbacks = Callbacks::lock();
        callbacks.queue.push_back(callback);
        if callbacks.has_thread {
            return;
        }
        // Without a thread they wait for the next one that is cancelled, which tries again.
        callbacks.has_thread = thread::spawn("plug-cancel", Callbacks::run_all).is_ok();
    }

    fn run_all() {
        loop {
            let callback = {
                let mut callbacks = Callbacks::lock();
                let callback = callbacks.queue.pop_front();
                callbacks.has_thread = callback.is_some();
                callback
            };
            let Some(callback) = callback else { return };
            // The panic was printed, and there is nobody to be told of it.
            let _ = panics::catch("a callback", callback);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocking::idle_link;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(60);

    fn state_of(
        link: &Arc<Link>,
        spare: Option<Arc<CallState>>,
        deadline: Option<Instant>,
    ) -> Arc<CallState> {
        let metadata = vec![("trace".to_owned(), Bytes::from_static(b"7"))];
        let extra = Some(Box::new(Extra { deadline, metadata, ..Extra::default() }));
        let start = Start { id: 4, link, extra };
        CallState::new(spare, start, &"example.KV/Get".into(), &WeakPeer::default())
    }

    #[test]
    fn outside_of_handlers_there_is_no_limit_and_no_caller() {
        let call = Call::current();
        assert_eq!((call.deadline(), call.remaining(), call.method()), (None, None, ""));
        assert!(!call.is_cancelled() && !call.wait_cancelled(Duration::ZERO));
        assert!(call.peer().is_none() && call.metadata_all().is_empty());
        call.on_cancel(|| unreachable!("it is never cancelled"));
    }

    #[test]
    fn the_current_call_is_that_of_the_innermost_scope() {
        let link = idle_link();
        let outer = Call { state: Some(state_of(&link, None, None)) };
        outer.scope(|| {
            assert_eq!(Call::current().method(), "example.KV/Get");
            assert_eq!(Call::current().metadata("trace").unwrap(), "7");
            assert_eq!(Call::current().metadata("none"), None);
            Call { state: None }.scope(|| assert_eq!(Call::current().method(), ""));
            let unwound =
                std::panic::catch_unwind(|| Call { state: None }.scope(|| panic!("as a test")));
            assert!(unwound.is_err());
            assert_eq!(Call::current().method(), "example.KV/Get", "also after a panic");
        });
        assert_eq!(Call::current().method(), "");
    }

    #[test]
    fn a_call_is_cancelled_once_its_deadline_has_passed() {
        let link = idle_link();
        let state = state_of(&link, None, Some(Instant::now()));
        let call = Call { state: Some(state) };
        assert!(call.is_cancelled());
        assert_eq!(call.remaining(), Some(Duration::ZERO));
        assert!(call.wait_cancelled(LONG), "it need not wait");
        let call = Call { state: Some(state_of(&link, None, Some(Instant::now() + LONG))) };
        assert!(!call.is_cancelled() && !call.wait_cancelled(Duration::ZERO));
    }

    #[test]
    fn callbacks_run_on_cancellation_also_those_that_come_late_or_after_a_panic() {
        let link = idle_link();
        let state = state_of(&link, None, None);
        let call = Call { state: Some(state.clone()) };
        let (sender, ran) = mpsc::channel();
        call.on_cancel(|| panic!("as a test"));
        let early = sender.clone();
        call.on_cancel(move || early.send("early").unwrap());
        state.cancel().cancel();
        assert_eq!(ran.recv_timeout(LONG), Ok("early"), "waited 60 s for a callback");
        call.on_cancel(move || sender.send("late").unwrap());
        assert_eq!(ran.recv_timeout(LONG), Ok("late"), "waited 60 s for a callback");
    }

    #[test]
    fn an_ended_call_drops_its_callbacks_and_so_itself() {
        let link = idle_link();
        let state = state_of(&link, None, None);
        let call = Call { state: Some(state.clone()) };
        let held = call.clone();
        call.on_cancel(move || drop(held));
        assert_eq!(Arc::strong_count(&state), 3);
        state.end();
        assert_eq!(Arc::strong_count(&state), 2, "the callback is gone, and what it owned");
        let held = call.clone();
        call.on_cancel(move || drop(held));
        assert_eq!(Arc::strong_count(&state), 2, "nothing is kept for a call that has ended");
    }

    #[test]
    fn a_state_is_used_again_unless_somebody_may_still_look_at_it() {
        let (link, other_link) = (idle_link(), idle_link());
        let state = state_of(&link, None, Some(Instant::now()));
        let address = Arc::as_ptr(&state);
        state.end();
        let state = state_of(&link, Some(state), None);
        assert_eq!(Arc::as_ptr(&state), address);
        assert_eq!((state.deadline(), state.id_within(&link)), (None, Some(4)));

        let kept = state.clone();
        let state = state_of(&link, Some(state), None);
        assert!(!Arc::ptr_eq(&state, &kept), "it was kept");
        state.cancel().cancel();
        let state = state_of(&link, Some(state), None);
        assert!(!state.cancel().is_cancelled(), "a cancelled one is not used again");
        let token = state.cancel().clone();
        let state = state_of(&link, Some(state), None);
        token.cancel();
        assert!(!state.cancel().is_cancelled(), "a token that somebody has stays with its call");
        let elsewhere = state_of(&other_link, Some(state), None);
        assert_eq!(elsewhere.id_within(&link), None);
        assert_eq!(elsewhere.id_within(&other_link), Some(4));
    }

    #[test]
    fn nothing_is_within_a_call_that_has_ended() {
        let link = idle_link();
        let state = state_of(&link, None, None);
        assert_eq!(state.id_within(&link), Some(4));
        state.end();
        assert_eq!(state.id_within(&link), None);
    }
}
