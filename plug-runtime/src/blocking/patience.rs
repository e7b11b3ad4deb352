//! How long a thread waits for a call, and what ends its wait early.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Wake, Waker};
use std::time::Instant;

use super::link::Link;
use crate::cancel::{CancelToken, Registration};
use crate::error::{Code, Error, ErrorKind};

/// What a waiting thread is told to wait no longer by.
#[derive(Default)]
pub(super) struct Patience<'a> {
    deadline: Option<Instant>,
    /// Apart, since few calls have any.
    tokens: Option<Box<Tokens<'a>>>,
    /// Whether another thread may bring what this one waits for.
    listens: Cell<bool>,
}

/// The tokens that end a wait.
struct Tokens<'a> {
    tokens: &'a [Option<CancelToken>],
    /// Wake this thread when a token is cancelled, until they are dropped.
    _registrations: Vec<Registration>,
    /// What they wake.
    rouse: Arc<Rouse>,
}

impl<'a> Patience<'a> {
    /// Waits for ever.
    pub(super) fn endless() -> Patience<'static> {
        Patience::until_then(None)
    }

    /// For the current thread.
    #[inline]
    pub(super) fn new(
        link: &Arc<Link>,
        deadline: Option<Instant>,
        tokens: &'a [Option<CancelToken>],
    ) -> Patience<'a> {
        if tokens.iter().all(Option::is_none) {
            return Patience::until_then(deadline);
        }
        let tokens = Some(Tokens::new(link, tokens));
        Patience { deadline, tokens, listens: Cell::new(true) }
    }

    /// The same, of a thread that has to be woken when another one brings what it waits for, also while it reads: the
    /// outcome of a call may come of its own stream of requests.
    pub(super) fn listening(self) -> Patience<'a> {
        self.listens.set(true);
        self
    }

    /// Has this thread listen for what another one brings, or no more. Returns what it did before.
    pub(super) fn listen(&self, listens: bool) -> bool {
        self.listens.replace(listens)
    }

    /// Notes by which call or ticket this thread waits from now on, under the connection's lock.
    pub(super) fn wait_by(&self, key: u64) {
        if let Some(tokens) = &self.tokens {
            tokens.rouse.key.store(key, Ordering::Relaxed);
        }
    }

    /// Until a point in time.
    pub(super) fn until_then(deadline: Option<Instant>) -> Patience<'static> {
        Patience { deadline, tokens: None, listens: Cell::new(false) }
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether it never is over.
    pub(super) fn is_endless(&self) -> bool {
        self.deadline.is_none() && !self.listens.get()
    }

    /// Whether the bell wakes this thread before its time.
    pub(super) fn listens(&self) -> bool {
        self.listens.get()
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_cancelled() || self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    pub(super) fn is_over_at(&self, now: Instant) -> bool {
        self.is_cancelled() || self.deadline.is_some_and(|deadline| deadline <= now)
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.tokens
            .as_ref()
            .is_some_and(|tokens| tokens.tokens.iter().flatten().any(CancelToken::is_cancelled))
    }

    /// Why the wait is over.
    pub(super) fn error(&self) -> Error {
        self.error_with("the call did not end in time")
    }

    /// The same for a call that has waited for others to end.
    pub(super) fn error_in_queue(&self) -> Error {
        self.error_with(
            "the call did not end in time: as many others as the other side takes at once were under way all the while. \
             Streams count until they end, and so do calls that wait for others that they made",
        )
    }

    fn error_with(&self, text: &str) -> Error {
        if self.is_cancelled() {
            cancelled_here()
        } else {
            Error::of_kind(ErrorKind::Deadline, text)
        }
    }
}

impl<'a> Tokens<'a> {
    fn new(link: &Arc<Link>, tokens: &'a [Option<CancelToken>]) -> Box<Tokens<'a>> {
        let rouse = Arc::new(Rouse { link: link.clone(), key: AtomicU64::new(0) });
        let waker = Waker::from(rouse.clone());
        let registrations = tokens.iter().flatten().map(|token| token.on_cancel(waker.clone()));
        let _registrations = registrations.collect();
        Box::new(Tokens { tokens, _registrations, rouse })
    }
}

impl Patience<'_> {
    /// The error of a call that this was for. A handler that was told to stop because the time is over may say so
    /// before this side does.
    #[cold]
    pub(super) fn explain(&self, error: Error) -> Error {
        let is_told = matches!(error.code(), Code::Cancelled | Code::DeadlineExceeded);
        if error.kind() == ErrorKind::Status && is_told && self.is_over() {
            return self.error().with_delivery(error.delivery());
        }
        error
    }
}

/// The error of a call that a token has cancelled.
pub(super) fn cancelled_here() -> Error {
    Error::of_kind(ErrorKind::Cancelled, "the call was cancelled by its caller")
}

/// Wakes a thread wherever it waits: among others, or reading for them. While it runs a handler it does not wait; then its
/// call is cancelled from here, so that the other side learns of it.
struct Rouse {
    link: Arc<Link>,
    /// By what it waits among others, or has waited last; 0 before that. Set and read under the connection's lock: so either
    /// it is found there, or it sees that a token is cancelled before it sleeps.
    key: AtomicU64,
}

impl Wake for Rouse {
    fn wake(self: Arc<Self>) {
        self.link.ring();
        self.link.rouse(|| self.key.load(Ordering::Relaxed));
    }
}
