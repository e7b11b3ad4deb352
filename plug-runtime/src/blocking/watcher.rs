//! The one thread of a process that looks after what nobody waits for.
//!
//! It is made when the first connection needs it, and serves all of them. It never blocks but in its own
//! wait, and never runs code of users.
//!
//! Lock order: a connection's lock may be held while the watcher's is taken, never the other way round.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::link::Link;
use super::remote::Remote;
use super::serve::HostWatch;
use super::supervisor::{Due, Supervisor};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::poller::{Interest, Poller, Ready};
use crate::sys::thread;

/// By what the watcher knows a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

/// What the watcher looks after.
#[derive(Clone)]
pub(super) enum Watched {
    /// A plugin that this process has started.
    Remote(Arc<Remote>),
    /// The host that has started this process.
    Host(Arc<HostWatch>),
    /// One side of a connection inside this process.
    Inside(Weak<Link>),
    /// What starts the next process of a plugin, and when it does.
    Supervisor(Weak<Supervisor>, Arc<Due>),
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
    poller: Poller,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    watched: BTreeMap<Key, Watched>,
    last_key: u64,
    /// Connections on which something happens.
    ticking: Vec<Weak<Link>>,
    reports: VecDeque<(Key, Report)>,
}

/// How long somebody who should read or act is waited for, before somebody else does.
const TICK: Duration = Duration::from_millis(2);

static WATCHER: OnceLock<Arc<Watcher>> = OnceLock::new();

/// Makes the watcher, unless it is there. If it cannot be made now, the next load tries again.
pub(super) fn start() -> Result<()> {
    static MAKING: Mutex<()> = Mutex::new(());
    if get().is_some() {
        return Ok(());
    }
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if get().is_some() {
        return Ok(());
    }
    let make = || {
        let watcher = Arc::new(Watcher { poller: Poller::new()?, shared: Mutex::default() });
        // The thread must not look for it in `WATCHER`, which is not set yet.
        let same = watcher.clone();
        thread::spawn("plug-watcher", move || same.run())?;
        let _ = WATCHER.set(watcher);
        Ok(())
    };
    make().map_err(|error: io::Error| {
        let message = "cannot start the thread that watches plugins";
        Error::of_kind(ErrorKind::Spawn, message).with_source(error)
    })
}

/// Takes something under its care. What it waits for is armed one by one.
pub(super) fn register(watched: impl FnOnce(Key) -> Watched) -> Result<Key> {
    start()?;
    let Some(watcher) = get() else { unreachable!("it was started") };
    let mut shared = watcher.lock();
    shared.last_key += 1;
    let key = Key(shared.last_key);
    shared.watched.insert(key, watched(key));
    Ok(key)
}

/// Lets go of something, which has disarmed what it waited for.
pub(super) fn forget(key: Key) {
    let forgotten = get().and_then(|watcher| watcher.lock().watched.remove(&key));
    drop(forgotten);
}

/// Waits once for a descriptor to be readable.
pub(super) fn arm(key: Key, source: Source, fd: impl AsFd) -> io::Result<()> {
    let Some(watcher) = get() else { return Ok(()) };
    watcher.poller.arm(fd, key.with(source), Interest::Read)
}

/// Waits once for room to write.
pub(super) fn arm_output(key: Key, fd: impl AsFd) -> io::Result<()> {
    let Some(watcher) = get() else { return Ok(()) };
    watcher.poller.arm(fd, key.with(Source::Output), Interest::Write)
}

/// Waits for a descriptor no longer, which may be about to be closed.
pub(super) fn disarm(key: Key, source: Source, fd: impl AsFd) {
    if let Some(watcher) = get() {
        watcher.poller.forget(fd, key.with(source));
    }
}

/// Ticks for a connection from now on, until it says that nothing happens any more. Says whether it can.
pub(super) fn tick(link: &Arc<Link>) -> bool {
    let Some(watcher) = start().ok().and_then(|()| get()) else { return false };
    let mut shared = watcher.lock();
    shared.ticking.push(Arc::downgrade(link));
    if shared.ticking.len() == 1 {
        watcher.poller.set_timer(TICK);
    }
    true
}

/// Lets the watcher act on something, on its own thread.
pub(super) fn report(key: Key, report: Report) {
    if let Some(watcher) = get() {
        watcher.lock().reports.push_back((key, report));
        watcher.poller.wake();
    }
}

/// Lets the watcher look at its deadlines again.
pub(super) fn wake() {
    if let Some(watcher) = get() {
        watcher.poller.wake();
    }
}

/// The connections to all plugins that have processes of their own.
pub(super) fn links() -> Vec<Arc<Link>> {
    let watched = get().map(Watcher::watched).unwrap_or_default();
    let remote = |watched| match watched {
        Watched::Remote(remote) => Some(remote.link().clone()),
        Watched::Host(_) | Watched::Inside(_) | Watched::Supervisor(..) => None,
    };
    watched.into_iter().filter_map(|(_, watched)| remote(watched)).collect()
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

impl Watcher {
    fn run(&self) {
        IS_WATCHER.set(true);
        let mut ready = Ready::default();
        loop {
            let deadline =
                self.watched().iter().filter_map(|(_, watched)| watched.deadline()).min();
            self.poller.wait(deadline, &mut ready);
            for &key in &ready.keys {
                let (key, source) = Key::split(key);
                let watched = self.lock().watched.get(&key).cloned();
                if let Some(watched) = watched {
                    guard(|| watched.handle_ready(source));
                }
            }
            if ready.timer {
                self.handle_tick();
            }
            while let Some((key, report)) = self.next_report() {
                let watched = self.lock().watched.get(&key).cloned();
                if let Some(watched) = watched {
                    guard(|| watched.handle_report(report));
                }
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                for (_, watched) in self.watched() {
                    guard(|| watched.handle_deadline(Instant::now()));
                }
            }
        }
    }

    fn handle_tick(&self) {
        let ticking = std::mem::take(&mut self.lock().ticking);
        let still: Vec<_> = ticking
            .into_iter()
            .filter(|link| {
                let ticked = || link.upgrade().is_some_and(|link| link.handle_tick());
                guard(ticked).unwrap_or(false)
            })
            .collect();
        let mut shared = self.lock();
        shared.ticking.extend(still);
        if !shared.ticking.is_empty() {
            self.poller.set_timer(TICK);
        }
    }

    fn watched(&self) -> Vec<(Key, Watched)> {
        self.lock().watched.iter().map(|(key, watched)| (*key, watched.clone())).collect()
    }

    fn next_report(&self) -> Option<(Key, Report)> {
        self.lock().reports.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what is done for one connection. A bug of ours that panics there ends that connection, which
/// [`Link::lock`] sees to, and not the watch over all others.
fn guard<R>(act: impl FnOnce() -> R) -> Option<R> {
    panic::catch_unwind(AssertUnwindSafe(act)).ok()
}

impl Watched {
    fn deadline(&self) -> Option<Instant> {
        let of_process = match self {
            Watched::Remote(remote) => remote.deadline(),
            Watched::Host(host) => host.deadline(),
            Watched::Supervisor(_, due) => due.get(),
            Watched::Inside(_) => None,
        };
        let of_calls = self.link().and_then(|link| link.deadline());
        of_process.into_iter().chain(of_calls).min()
    }

    fn handle_ready(&self, source: Source) {
        match (self, source) {
            (Watched::Remote(remote), Source::Exit) => remote.handle_exit(),
            (Watched::Remote(remote), Source::Stderr) => remote.handle_stderr(),
            (Watched::Host(host), Source::Exit) => host.handle_exit(),
            (_, Source::Exit | Source::Stderr) => {}
            (watched, Source::Input) => {
                watched.link().inspect(Link::handle_readable);
            }
            (watched, Source::Output) => {
                watched.link().inspect(|link| link.handle_writable());
            }
        }
    }

    fn handle_report(&self, report: Report) {
        match self {
            Watched::Remote(remote) => remote.handle_report(report),
            Watched::Host(host) => host.handle_report(report),
            Watched::Inside(_) if report == Report::Unwound => {
                self.link().inspect(Link::take_over);
            }
            Watched::Inside(_) | Watched::Supervisor(..) => {}
        }
    }

    fn handle_deadline(&self, now: Instant) {
        self.link().inspect(Link::expire);
        match self {
            Watched::Remote(remote) => remote.handle_deadline(now),
            Watched::Host(host) => host.handle_deadline(now),
            Watched::Supervisor(supervisor, due) if due.is_at(now) => {
                supervisor.upgrade().inspect(|supervisor| supervisor.start_if_due(now));
            }
            Watched::Inside(_) | Watched::Supervisor(..) => {}
        }
    }

    fn link(&self) -> Option<Arc<Link>> {
        match self {
            Watched::Remote(remote) => Some(remote.link().clone()),
            Watched::Host(host) => host.link(),
            Watched::Inside(link) => link.upgrade(),
            Watched::Supervisor(..) => None,
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
