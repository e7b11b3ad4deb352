//! Keeping a plugin going: when its process ends unasked, another one takes its place.
//!
//! Each process has a connection of its own, and a number. A call that finds the connection over waits for a process with
//! a higher one. The watcher waits until it is time for the next process, and makes a thread that starts it:
//!
//! ```text
//!        it ends                        the start fails, or there is no thread for it
//!   Up ───────────▶ Down ◀──────────────────────────┐
//!    ▲               │  waits, then starts the next ─┤
//!    └───────────────┼───────────────────────────────┘ it is ready
//!                    ├──▶ Failed: too many crashes, or a plugin that offers something else
//!   Stopped ◀── stop, or the drop of the last peer, from anywhere
//! ```
//!
//! This host's own wish to end the plugin comes first: it is looked for before every step, and a start under way is
//! broken off. The lock is held for moments only, and no other is taken under it but that of [`Due`].

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::link::Link;
use super::load::Launched;
use super::patience::cancelled_here;
use super::remote::{Heir, Remote};
use super::watcher::{self, Care, Key, Report};
use crate::call;
use crate::cancel::CancelToken;
use crate::error::{Code, Delivery, Error, ErrorKind, Result};
use crate::options::Outbound;
use crate::peer::WeakPeer;
use crate::process::{Program, Settings};
use crate::protocol::ServiceInfo;
use crate::restart::{Next, Record};
use crate::sys::bell::Bell;
use crate::sys::pipe::Wait;
use crate::sys::thread;

/// See the module's documentation.
pub(crate) struct Supervisor {
    program: Program,
    settings: Settings,
    /// What the plugin says it is called.
    name: Arc<str>,
    /// What the first process offered. The others must too: proxies know methods by their numbers.
    services: Vec<ServiceInfo>,
    /// By what name the watcher knows this.
    key: Key,
    peer: OnceLock<WeakPeer>,
    state: Mutex<State>,
    /// Signalled when the phase changes, when the thread that starts processes ends, and when a token is cancelled.
    changed: Condvar,
}

struct State {
    phase: Phase,
    /// The last process that was ready, which may have ended, and its number, from 1.
    current: Arc<Remote>,
    number: u64,
    record: Record,
    due: Arc<Due>,
    /// Whether there is a thread that starts a process.
    is_busy: bool,
    start: Option<Start>,
}

enum Phase {
    Up,
    /// The last process has ended, or its start has failed, like this.
    Down(Error),
    /// No process is started any more: all calls fail with this.
    Failed(Error),
    /// This host wants no process any more.
    Stopped,
}

/// When the next process is to be started, while one is to be and no thread is at it. Apart from the supervisor: if the
/// watcher held that whenever it looks for its deadlines, it would often be the last.
#[derive(Default)]
struct Due(Mutex<Option<Instant>>);

/// The watcher's view of a supervisor.
struct Successor {
    supervisor: Weak<Supervisor>,
    due: Arc<Due>,
}

/// A start that is under way.
struct Start {
    abort: Arc<Abort>,
    /// Once it has said hello.
    remote: Option<Arc<Remote>>,
}

/// A call that was not made, or has failed.
pub(super) struct Unmade {
    pub(super) error: Error,
    /// Whether it could not be made again, since its stream of requests has begun.
    pub(super) is_spent: bool,
}

impl From<Error> for Unmade {
    fn from(error: Error) -> Unmade {
        Unmade { error, is_spent: false }
    }
}

impl Supervisor {
    /// Of a plugin whose first process is about to become ready.
    pub(super) fn new(
        program: Program,
        settings: Settings,
        launched: &Launched,
    ) -> Arc<Supervisor> {
        let record = Record::new(settings.restart.clone(), Instant::now());
        let due = Arc::<Due>::default();
        let state = State {
            phase: Phase::Up,
            current: launched.remote.clone(),
            number: 1,
            record,
            due: due.clone(),
            is_busy: false,
            start: None,
        };
        Arc::new_cyclic(|supervisor| {
            let watched = |_| Arc::new(Successor { supervisor: supervisor.clone(), due }) as _;
            let Ok(key) = watcher::register(watched) else {
                unreachable!("the watcher is there: it has the process");
            };
            Supervisor {
                program,
                settings,
                name: launched.name.clone(),
                services: launched.hello.services.clone(),
                key,
                peer: OnceLock::new(),
                state: Mutex::new(state),
                changed: Condvar::new(),
            }
        })
    }

    pub(super) fn set_peer(&self, peer: WeakPeer) {
        self.current().link().set_peer(peer.clone());
        let _ = self.peer.set(peer);
    }

    /// Takes care of the process with a number, which has become ready.
    pub(super) fn adopt(self: &Arc<Self>, remote: &Remote, number: u64) {
        let heir = Heir { supervisor: Arc::downgrade(self), number };
        remote.set_loaded(&self.settings, Some(heir));
    }

    /// The last process that was ready.
    pub(super) fn current(&self) -> Arc<Remote> {
        self.lock().current.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- calls

    /// Makes a call, again where it has failed with its process and must not have run, and once more if it may have run
    /// and `repeats`.
    pub(super) fn call<R>(
        self: &Arc<Self>,
        outbound: &Outbound<'_>,
        repeats: bool,
        mut attempt: impl FnMut(&Arc<Link>, &Outbound<'_>) -> std::result::Result<R, Unmade>,
    ) -> Result<R> {
        let mut queued_until = None;
        let mut beyond = 0;
        // How a try has ended that may have run.
        let mut ran: Option<Error> = None;
        let mut last = None;
        loop {
            let (number, link) = match self.next_link(beyond, outbound, &mut queued_until) {
                Ok(next) => next,
                Err(None) => match ran.or(last) {
                    Some(error) => return Err(error),
                    None => unreachable!("a call that was not tried is told why"),
                },
                Err(Some(error)) => {
                    return Err(match ran {
                        Some(ran) if error.kind() == ErrorKind::Exited => ran,
                        Some(_) => error.with_delivery(Delivery::MayHaveRun),
                        None => error,
                    });
                }
            };
            let Unmade { error, is_spent } = match attempt(&link, &outbound.over(&link)) {
                Ok(result) => return Ok(result),
                Err(unmade) => unmade,
            };
            // One that is still starting is not over: who calls it serves its start, and would wait for itself.
            let is_starting = error.code() == Code::FailedPrecondition;
            let is_over = matches!(
                error.kind(),
                ErrorKind::Exited | ErrorKind::Protocol | ErrorKind::Shutdown
            ) && !is_starting;
            match error.delivery() {
                Delivery::NotSent if is_over && !is_spent => last = Some(error),
                // Once: it may be what the plugin dies of.
                Delivery::MayHaveRun if is_over && repeats && ran.is_none() => ran = Some(error),
                _ if ran.is_some() => return Err(error.with_delivery(Delivery::MayHaveRun)),
                _ => return Err(error),
            }
            beyond = number;
        }
    }

    /// The connection to a process with a higher number, waiting for it as long as the call may. `None` instead of an
    /// error: there will be none, and the call knows itself why it failed.
    fn next_link(
        self: &Arc<Self>,
        beyond: u64,
        outbound: &Outbound<'_>,
        queued_until: &mut Option<Instant>,
    ) -> std::result::Result<(u64, Arc<Link>), Option<Error>> {
        if let Some(found) = self.lock().link_beyond(beyond) {
            return found;
        }
        let queue_for = self.settings.restart.queues_for();
        let begin = Instant::now();
        let queued_until = *queued_until
            .get_or_insert_with(|| begin.checked_add(queue_for).unwrap_or(begin + LONGEST));
        let until = outbound.deadline.map_or(queued_until, |deadline| deadline.min(queued_until));
        let tokens = || outbound.cancel.iter().flatten();
        // Before the lock is taken: a token that is cancelled by now wakes at once.
        let waker = Waker::from(Arc::new(Rouse(self.clone())));
        let _registrations: Vec<_> = tokens().map(|token| token.on_cancel(waker.clone())).collect();
        let mut state = self.lock();
        loop {
            if let Some(found) = state.link_beyond(beyond) {
                return found;
            }
            if tokens().any(CancelToken::is_cancelled) {
                return Err(Some(cancelled_here()));
            }
            let now = Instant::now();
            if outbound.deadline.is_some_and(|deadline| deadline <= now) {
                let why = "the call did not end in time: the plugin was being restarted";
                return Err(Some(Error::of_kind(ErrorKind::Deadline, why)));
            }
            if queued_until <= now {
                return Err(Some(state.overdue(queue_for)));
            }
            let waited = self.changed.wait_timeout(state, until - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    // ---- ends that the host wants

    /// Ends the plugin, whatever state it is in, and starts no other. Does not wait for that.
    pub(super) fn begin_to_stop(&self, grace: Duration) {
        let mut state = self.lock();
        if !matches!(state.phase, Phase::Failed(_)) {
            state.phase = Phase::Stopped;
        }
        state.due.set(None);
        let start = state.start.take();
        let current = state.current.clone();
        drop(state);
        self.changed.notify_all();
        current.begin_to_stop(grace);
        if let Some(start) = start {
            start.abort.ask();
            start.remote.inspect(|remote| remote.begin_to_end(grace.min(BROKEN_OFF_WITHIN)));
        }
    }

    /// Waits until no start is under way any more, after a stop. Returns the last process.
    pub(super) fn wait_until_idle(&self) -> Arc<Remote> {
        let waited = self.changed.wait_while(self.lock(), |state| state.is_busy);
        waited.unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    // ---- ends that it does not want

    /// The process with that number has ended. Called by the watcher, too.
    pub(super) fn process_ended(self: &Arc<Self>, number: u64, error: &Error) {
        let mut state = self.lock();
        if state.number != number || !matches!(state.phase, Phase::Up) {
            return;
        }
        state.note_crash(error);
        drop(state);
        self.changed.notify_all();
        watcher::wake();
    }

    /// Has a thread start the next process, if it is time. Called by the watcher.
    fn start_if_due(self: &Arc<Self>, now: Instant) {
        let mut state = self.lock();
        if !state.due.is_at(now) {
            return;
        }
        state.due.set(None);
        let supervisor = self.clone();
        match thread::spawn("plug-restart", move || supervisor.run()) {
            Ok(_) => state.is_busy = true,
            // A start that has failed: for the next one there may be a thread.
            Err(why) => {
                let error = state.without_thread(&why);
                state.note_crash(&error);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Starts a process, and leaves the next try to the watcher if it fails.
    fn run(self: Arc<Self>) {
        let Err(error) = self.start() else { return };
        let mut state = self.lock();
        state.start = None;
        state.is_busy = false;
        if matches!(state.phase, Phase::Down(_)) {
            state.note_crash(&error);
        }
        drop(state);
        self.changed.notify_all();
        watcher::wake();
    }

    /// Starts a process and puts it in the place of the last. If it returns an error, nothing is left of it.
    fn start(self: &Arc<Self>) -> Result<()> {
        let abort = Arc::new(Abort::new()?);
        let begin = |remote| {
            let mut state = self.lock();
            if !matches!(state.phase, Phase::Down(_)) {
                return Err(unwanted());
            }
            state.start = Some(Start { abort: abort.clone(), remote });
            drop(state);
            // What serves this start may wait for a process already, and learns that it cannot.
            self.changed.notify_all();
            Ok(())
        };
        begin(None)?;
        let launched = Launched::start(&self.program, &self.settings, &self.name, Some(&abort))?;
        let remote = &launched.remote;
        if let Some(peer) = self.peer.get() {
            // It may call this host while it starts.
            remote.link().set_peer(peer.clone());
        }
        let fits = launched.hello.services == self.services;
        let begun = if fits { begin(Some(remote.clone())) } else { Err(self.fail_for_good()) };
        if let Err(error) = begun {
            remote.begin_to_end(Duration::ZERO);
            remote.wait();
            return Err(error);
        }
        launched.wait_until_ready()?;

        let mut state = self.lock();
        if !matches!(state.phase, Phase::Down(_)) {
            drop(state);
            remote.wait();
            return Err(unwanted());
        }
        state.current = remote.clone();
        state.number += 1;
        let number = state.number;
        state.phase = Phase::Up;
        state.record.started(Instant::now());
        state.start = None;
        state.is_busy = false;
        drop(state);
        self.changed.notify_all();
        // It may have ended by now: then there soon is another thread like this one.
        self.adopt(remote, number);
        Ok(())
    }

    /// The program offers something else than the one that was loaded.
    fn fail_for_good(&self) -> Error {
        let message = "the plugin was restarted and offers other services than before, or other methods in them: its file was replaced. Load it anew";
        let error = Error::of_kind(ErrorKind::Incompatible, message).with_plugin(&self.name);
        let mut state = self.lock();
        if matches!(state.phase, Phase::Down(_)) {
            state.phase = Phase::Failed(error.duplicate());
        }
        drop(state);
        self.changed.notify_all();
        error
    }
}

impl Care for Successor {
    fn link(&self) -> Option<Arc<Link>> {
        None
    }

    fn deadline(&self) -> Option<Instant> {
        self.due.get()
    }

    fn handle_deadline(&self, now: Instant) {
        if self.due.is_at(now) {
            self.supervisor.upgrade().inspect(|supervisor| supervisor.start_if_due(now));
        }
    }

    fn handle_report(&self, _: Report) {}
}

impl Due {
    fn get(&self) -> Option<Instant> {
        *self.lock()
    }

    fn is_at(&self, now: Instant) -> bool {
        self.get().is_some_and(|due| due <= now)
    }

    fn set(&self, due: Option<Instant>) {
        *self.lock() = due;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What [`Supervisor::next_link`] returns, if it need not wait.
    #[expect(clippy::type_complexity, reason = "it is used twice, side by side")]
    fn link_beyond(
        &self,
        beyond: u64,
    ) -> Option<std::result::Result<(u64, Arc<Link>), Option<Error>>> {
        let is_new = self.number > beyond;
        match &self.phase {
            // Of one that was stopped the connection itself says why there is no call.
            Phase::Up | Phase::Stopped if is_new => {
                Some(Ok((self.number, self.current.link().clone())))
            }
            Phase::Stopped => Some(Err(None)),
            Phase::Failed(error) => Some(Err(Some(error.duplicate()))),
            Phase::Up => None,
            Phase::Down(_) => {
                // A handler of this host that serves the start of a plugin cannot wait for the end of that start: the
                // connection tells it so.
                let starting = self.start.as_ref()?.remote.as_ref()?.link();
                let number = self.number + 1;
                let serves = call::current().is_some_and(|call| call.id_within(starting).is_some());
                (serves && number > beyond).then(|| Ok((number, starting.clone())))
            }
        }
    }

    /// Sees to what follows on a crash, or on a start that has failed: another start after a wait, or the end.
    fn note_crash(&mut self, error: &Error) {
        let now = Instant::now();
        match self.record.crashed(now, RandomState::new().hash_one(())) {
            Next::StartAfter(wait) => {
                self.phase = Phase::Down(error.duplicate());
                self.due.set(Some(now.checked_add(wait).unwrap_or(now + LONGEST)));
            }
            Next::GiveUp => {
                let limit = self.record.limit();
                let why = format!("the plugin is not restarted any more, after {limit}: last, ");
                self.phase = Phase::Failed(self.exited(why + error.message(), error));
            }
        }
    }

    /// The error of a start for which there is no thread.
    fn without_thread(&self, why: &io::Error) -> Error {
        let message = format!("no thread could be made that starts the plugin: {why}");
        match &self.phase {
            Phase::Down(error) => self.exited(message, error),
            _ => Error::of_kind(ErrorKind::Exited, message),
        }
    }

    /// The error of a call that has waited long enough.
    fn overdue(&self, queue_for: Duration) -> Error {
        let why =
            format!("the plugin is being restarted, which has taken longer than {queue_for:?}");
        match &self.phase {
            Phase::Down(error) => self.exited(format!("{why}: {}", error.message()), error),
            _ => Error::of_kind(ErrorKind::Exited, why),
        }
    }

    /// An error that says how the last process has ended, and what it, or a start after it, has printed.
    fn exited(&self, message: String, cause: &Error) -> Error {
        let error = Error::of_kind(ErrorKind::Exited, message);
        let error = error.with_stderr(cause.stderr().unwrap_or_default());
        match cause.exit().or(self.current.exit()) {
            Some(exit) => error.with_exit(exit),
            None => error,
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        watcher::forget(self.key);
        if watcher::is_current() {
            // It had the last hold, and must not run what users do when what they offer is dropped.
            let settings = std::mem::take(&mut self.settings);
            // Without a thread it is dropped here, after all.
            let _ = thread::spawn("plug-drop", move || drop(settings));
        }
    }
}

/// Wakes the calls that wait for a process: one of them may have been cancelled.
struct Rouse(Arc<Supervisor>);

impl Wake for Rouse {
    fn wake(self: Arc<Self>) {
        // Nobody is between a look at its token and its wait then.
        drop(self.0.lock());
        self.0.changed.notify_all();
    }
}

/// Breaks off a start.
pub(super) struct Abort {
    is_asked: AtomicBool,
    bell: Bell,
}

impl Abort {
    fn new() -> Result<Abort> {
        Ok(Abort { is_asked: AtomicBool::new(false), bell: Bell::new()? })
    }

    fn ask(&self) {
        self.is_asked.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Whom to wait for beside what the start waits for.
    pub(super) fn wait(&self) -> Wait<'_> {
        self.bell.wait()
    }

    /// Whether the start goes on.
    pub(super) fn look(&self) -> Result<()> {
        if self.is_asked.load(Ordering::Acquire) { Err(unwanted()) } else { Ok(()) }
    }
}

fn unwanted() -> Error {
    Error::of_kind(ErrorKind::Shutdown, "the plugin was stopped while it was restarted")
}

/// How long a start that is broken off may take to end by itself.
const BROKEN_OFF_WITHIN: Duration = Duration::from_millis(50);

/// The longest wait that can be computed with: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
