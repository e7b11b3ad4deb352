//! The one thread of a process that looks after what nobody waits for.
//!
//! It is made when the first connection needs it, and serves all of them. It never blocks but in its own
//! wait, and never runs code of users.
//!
//! Lock order: a connection's lock may be held while the watcher's is taken, never the other way round.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::CStr;
use std::io;
use std::ops::Bound;
use std::os::fd::AsFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::link::Link;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::poller::{Interest, Poller, Ready};
use crate::sys::thread::{self, Forever};

/// By what the watcher knows a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

/// What the watcher looks after: one side of a connection, or what starts the next process of a plugin.
///
/// It is known by its trait only, so that a plugin, which starts no processes, has nothing in its program of what starts and
/// looks after them. That is a sixth of the code, and a third of the symbols that are looked up with each start.
pub(super) trait Care: Send + Sync {
    /// The connection, where it is one that is still there.
    fn link(&self) -> Option<Arc<Link>>;

    /// Begins to wait for what it waits for, where it was registered before the watcher could: see [`register_soon`].
    fn arm(&self, key: Key) {
        let _ = key;
    }

    /// When it is to be looked at, beside the deadlines of the connection.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn handle_deadline(&self, now: Instant) {
        let _ = now;
    }

    /// The other process has ended.
    fn handle_exit(&self) {}

    /// The other process has printed something.
    fn handle_stderr(&self) {}

    fn handle_report(&self, report: Report);

    /// The connection, to a plugin that has a process of its own.
    fn plugin(&self) -> Option<Arc<Link>> {
        None
    }
}

/// One side of a connection inside this process.
pub(super) struct Inside(pub(super) Weak<Link>);

impl Care for Inside {
    fn link(&self) -> Option<Arc<Link>> {
        self.0.upgrade()
    }

    fn handle_report(&self, report: Report) {
        if report == Report::Unwound {
            self.link().inspect(Link::take_over);
        }
    }
}

/// What a connection tells the watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// One of the pipes to a child has ended: the child should do so too.
    OutputEnded,
    /// The connection is over.
    Failed,
    /// A thread has panicked that read for all, or that changed the connection.
    Unwound,
    /// The other side wants no more calls, and waits so long for those under way.
    Goodbye(Option<Duration>),
}

/// Which descriptor of a connection is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The other process has ended.
    Exit = 0,
    /// It has printed something.
    Stderr = 1,
    /// It has sent something.
    Input = 2,
    /// There is room for what is sent to it.
    Output = 3,
}

struct Watcher {
    /// What it waits with, in a plugin not from the beginning.
    poller: OnceLock<Poller>,
    shared: Mutex<Shared>,
    /// Signalled when it is roused, as long as there is no poller.
    roused: Condvar,
}

#[derive(Default)]
struct Shared {
    watched: BTreeMap<Key, Arc<dyn Care>>,
    last_key: u64,
    /// Connections on which something happens.
    ticking: VecDeque<Weak<Link>>,
    /// Whether the next tick comes late.
    is_late: bool,
    reports: VecDeque<(Key, Report)>,
    /// Whether there is something to look at, where there is no poller that could tell.
    is_roused: bool,
}

/// How long somebody who should read or act is waited for, before somebody else does.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// The same after a pause, where nobody needs it sooner. A timer that is due before the system's own next tick, which comes
/// every 4 ms as a rule, has it set the processor's clock: in a virtual machine, one on each side doubled what such a call
/// takes.
const LATE_TICK: Duration = Duration::from_millis(5);

/// How long a plugin has been there when its watcher gets ready to wait for the end of the host. A host that starts many has
/// better things to do for its processors until then.
const LATE: Duration = Duration::from_millis(20);

static WATCHER: OnceLock<Arc<Watcher>> = OnceLock::new();

/// Takes something under its care. What it waits for is armed one by one.
pub(super) fn register(watched: impl FnOnce(Key) -> Arc<dyn Care>) -> Result<Key> {
    let watcher = Watcher::get_or_make(|| Ok(OnceLock::from(Poller::new()?)))?;
    // That of a plugin which has just been started, and loads plugins itself, has none yet.
    watcher.make_poller().map_err(unmade)?;
    Ok(watcher.register(watched))
}

/// The same, in a plugin, whose first reply waits for this: if there is no watcher yet, its thread is made and nothing else.
/// What it waits with, it makes itself, and then has [`Care::arm`] called. Until then it ticks: a first handler that
/// does not return, or a first call beside it, needs no more than that.
pub(super) fn register_soon(watched: Arc<dyn Care>) -> Result<Key> {
    let watcher = Watcher::get_or_make(|| Ok(OnceLock::new()))?;
    let key = watcher.register(|_| watched.clone());
    if watcher.poller.get().is_some() {
        // It has looked for what it is to wait for, and may have done so before.
        watched.arm(key);
    }
    Ok(key)
}

/// Lets go of something, which has disarmed what it waited for.
pub(super) fn forget(key: Key) {
    let forgotten = get().and_then(|watcher| watcher.lock().watched.remove(&key));
    drop(forgotten);
}

/// Waits once for a descriptor to be readable.
pub(super) fn arm(key: Key, source: Source, fd: impl AsFd) -> io::Result<()> {
    poller()?.arm(fd, key.with(source), Interest::Read)
}

/// Waits once for room to write.
pub(super) fn arm_output(key: Key, fd: impl AsFd) -> io::Result<()> {
    poller()?.arm(fd, key.with(Source::Output), Interest::Write)
}

/// Waits for a descriptor no longer, which may be about to be closed.
pub(super) fn disarm(key: Key, source: Source, fd: impl AsFd) {
    if let Ok(poller) = poller() {
        poller.forget(fd, key.with(source));
    }
}

/// Ticks for a connection from now on, until it says that nothing happens any more. Says whether there is a watcher.
pub(super) fn tick(link: &Arc<Link>) -> bool {
    get().map(|watcher| watcher.tick(link, false)).is_some()
}

/// The same, where the first tick may come [late](LATE_TICK).
pub(super) fn tick_late(link: &Arc<Link>) -> bool {
    get().map(|watcher| watcher.tick(link, true)).is_some()
}

/// Has a first tick that would come late come in time.
pub(super) fn hurry() {
    if let Some(watcher) = get() {
        watcher.hurry(&mut watcher.lock());
    }
}

/// Lets the watcher act on something, on its own thread.
pub(super) fn report(key: Key, report: Report) {
    if let Some(watcher) = get() {
        watcher.lock().reports.push_back((key, report));
        watcher.wake();
    }
}

/// Lets the watcher look at its deadlines again.
pub(super) fn wake() {
    if let Some(watcher) = get() {
        watcher.wake();
    }
}

/// The connections to all plugins that have processes of their own.
pub(super) fn links() -> Vec<Arc<Link>> {
    let watched = get().into_iter().flat_map(Watcher::watched);
    watched.filter_map(|(_, watched)| watched.plugin()).collect()
}

/// Whether this thread is the watcher.
pub(super) fn is_current() -> bool {
    // A thread that is ending has lost its locals.
    IS_WATCHER.try_with(Cell::get).unwrap_or(false)
}

thread_local! {
    pub(super) static IS_WATCHER: Cell<bool> = const { Cell::new(false) };
}

fn get() -> Option<&'static Watcher> {
    WATCHER.get().map(|watcher| &**watcher)
}

fn unmade(error: io::Error) -> Error {
    let message = "cannot start the thread that watches plugins";
    Error::of_kind(ErrorKind::Spawn, message).with_source(error)
}

/// What the watcher waits with, if it has that by now.
fn poller() -> io::Result<&'static Poller> {
    let poller = get().and_then(|watcher| watcher.poller.get());
    poller.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
}

impl Watcher {
    /// The watcher, which is made unless it is there. If it cannot be made now, the next load tries again.
    fn get_or_make(
        poller: impl FnOnce() -> io::Result<OnceLock<Poller>>,
    ) -> Result<&'static Watcher> {
        static MAKING: Mutex<()> = Mutex::new(());
        if let Some(watcher) = get() {
            return Ok(watcher);
        }
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = get() {
            return Ok(watcher);
        }
        let make = || {
            let poller = poller()?;
            let (shared, roused) = (Mutex::default(), Condvar::new());
            let watcher = Arc::new(Watcher { poller, shared, roused });
            // The thread must not look for it in `WATCHER`, which is not set yet.
            thread::run_forever(watcher.clone())?;
            Ok(&**WATCHER.get_or_init(|| watcher))
        };
        make().map_err(unmade)
    }

    /// Makes what it waits with, unless it is there.
    fn make_poller(&self) -> io::Result<()> {
        if self.poller.get().is_none() {
            let poller = Poller::new()?;
            // Another thread may have been faster.
            let _ = self.poller.set(poller);
            self.rouse();
        }
        Ok(())
    }

    fn register(&self, watched: impl FnOnce(Key) -> Arc<dyn Care>) -> Key {
        let mut shared = self.lock();
        shared.last_key += 1;
        let key = Key(shared.last_key);
        shared.watched.insert(key, watched(key));
        key
    }

    fn tick(&self, link: &Arc<Link>, may_be_late: bool) {
        let mut shared = self.lock();
        shared.ticking.push_back(Arc::downgrade(link));
        if shared.ticking.len() == 1 {
            shared.is_late = may_be_late;
            // Under the lock: if it gets a poller now, it looks for who ticks after that.
            match self.poller.get() {
                Some(poller) => poller.set_timer(if may_be_late { LATE_TICK } else { TICK }),
                None => self.roused.notify_one(),
            }
        } else if !may_be_late {
            self.hurry(&mut shared);
        }
    }

    fn hurry(&self, shared: &mut Shared) {
        if std::mem::take(&mut shared.is_late) {
            self.poller.get().inspect(|poller| poller.set_timer(TICK));
        }
    }

    fn wake(&self) {
        match self.poller.get() {
            Some(poller) => poller.wake(),
            None => self.rouse(),
        }
    }

    /// Wakes it where it waits without a poller.
    fn rouse(&self) {
        self.lock().is_roused = true;
        self.roused.notify_one();
    }

    /// What it does until it has a poller, which it makes when it has a moment.
    fn begin(&self) {
        let late = Instant::now() + LATE;
        while self.poller.get().is_none() {
            std::thread::sleep(TICK);
            self.handle_tick();
            self.handle_reports();
            self.handle_deadlines();
            let left = late.saturating_duration_since(Instant::now());
            let is_idle = |shared: &mut Shared| {
                shared.ticking.is_empty() && !std::mem::take(&mut shared.is_roused)
            };
            // Poisoned or not, it only waits.
            let _ = self.roused.wait_timeout_while(self.lock(), left, is_idle);
            if late <= Instant::now() {
                // If there is no room for one now, the next tick tries again.
                let _ = self.make_poller();
            }
        }
        for (key, watched) in self.watched() {
            guard(move || watched.arm(key));
        }
        // Who ticked or reported before it was there could not say so.
        self.handle_tick();
        self.handle_reports();
    }

    fn handle_tick(&self) {
        // One after the other and without a list of them: a thread that does not allocate has no arena.
        let count = {
            let mut shared = self.lock();
            shared.is_late = false;
            shared.ticking.len()
        };
        for _ in 0..count {
            let Some(link) = self.lock().ticking.pop_front() else { break };
            let ticked = || link.upgrade().is_some_and(|link| link.handle_tick());
            if guard(ticked).unwrap_or(false) {
                self.lock().ticking.push_back(link);
            }
        }
        if !self.lock().ticking.is_empty() {
            self.poller.get().inspect(|poller| poller.set_timer(TICK));
        }
    }

    /// All that it looks after. Its lock is not held while one of them is looked at.
    fn watched(&self) -> impl Iterator<Item = (Key, Arc<dyn Care>)> {
        let mut last = Bound::Unbounded;
        std::iter::from_fn(move || {
            let shared = self.lock();
            let (key, watched) = shared.watched.range((last, Bound::Unbounded)).next()?;
            last = Bound::Excluded(*key);
            Some((*key, watched.clone()))
        })
    }

    fn handle_reports(&self) {
        loop {
            let Some((key, report)) = self.lock().reports.pop_front() else { break };
            let watched = self.lock().watched.get(&key).cloned();
            if let Some(watched) = watched {
                guard(move || watched.handle_report(report));
            }
        }
    }

    fn handle_deadlines(&self) {
        for (_, watched) in self.watched() {
            guard(move || handle_deadline(&*watched, Instant::now()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Forever for Watcher {
    const NAME: &'static CStr = c"plug-watcher";

    fn run(&self) -> ! {
        IS_WATCHER.set(true);
        self.begin();
        let Some(poller) = self.poller.get() else { unreachable!("it begins with one") };
        let mut ready = Ready::default();
        loop {
            let due_of = |(_, watched): (Key, Arc<dyn Care>)| guard(move || due(&*watched))?;
            let deadline = self.watched().filter_map(due_of).min();
            poller.wait(deadline, &mut ready);
            for &key in &ready.keys {
                let (key, source) = Key::split(key);
                let watched = self.lock().watched.get(&key).cloned();
                if let Some(watched) = watched {
                    guard(move || handle_ready(&*watched, source));
                }
            }
            if ready.timer {
                self.handle_tick();
            }
            self.handle_reports();
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.handle_deadlines();
            }
        }
    }
}

/// Runs what is done for one connection, and drops what `act` owns: it may be the last to hold that. A bug of ours that
/// panics there ends that connection, which [`Link::lock`] sees to, and not the watch over all others.
fn guard<R>(act: impl FnOnce() -> R) -> Option<R> {
    panic::catch_unwind(AssertUnwindSafe(act)).ok()
}

/// When something is to be looked at.
fn due(watched: &dyn Care) -> Option<Instant> {
    let of_calls = watched.link().and_then(|link| link.deadline());
    watched.deadline().into_iter().chain(of_calls).min()
}

fn handle_deadline(watched: &dyn Care, now: Instant) {
    watched.link().inspect(Link::expire);
    watched.handle_deadline(now);
}

fn handle_ready(watched: &dyn Care, source: Source) {
    match source {
        Source::Exit => watched.handle_exit(),
        Source::Stderr => watched.handle_stderr(),
        Source::Input => {
            watched.link().inspect(Link::handle_readable);
        }
        Source::Output => {
            watched.link().inspect(|link| link.handle_writable());
        }
    }
}

impl Key {
    fn with(self, source: Source) -> u64 {
        self.0 << 2 | source as u64
    }

    fn split(key: u64) -> (Key, Source) {
        let source = match key & 3 {
            0 => Source::Exit,
            1 => Source::Stderr,
            2 => Source::Input,
            _ => Source::Output,
        };
        (Key(key >> 2), source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// What has memory of a user's, whose drop panics.
    struct Bad {
        key: Key,
        told: mpsc::Sender<bool>,
    }

    impl Care for Bad {
        fn link(&self) -> Option<Arc<Link>> {
            None
        }

        fn handle_report(&self, _: Report) {
            forget(self.key);
        }
    }

    impl Drop for Bad {
        fn drop(&mut self) {
            let _ = self.told.send(is_current());
            panic!("as a test");
        }
    }

    #[test]
    fn a_drop_that_panics_ends_nothing_where_the_watcher_has_the_last_hold() {
        for _ in 0..2 {
            let (told, is_told) = mpsc::channel();
            let key = register(|key| Arc::new(Bad { key, told })).unwrap();
            report(key, Report::Unwound);
            let is_watcher = is_told.recv_timeout(Duration::from_secs(30));
            assert!(is_watcher.expect("it is dropped, once more"), "by the watcher");
        }
    }
}
