//! A plugin in a process of its own, from its hello to its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::heartbeat::{Beat, Heartbeat};
use super::link::Link;
use super::load::no_room;
use super::supervisor::Supervisor;
use super::watcher::{self, Care, Key, Report, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::{Exit, ExitCause, ExitStatus};
use crate::notice::ExitNotice;
use crate::process::{Child, Fill, Settings, StderrLines, Tail};
use crate::sys::process::End;

/// A loaded plugin. The watcher keeps it until its process has ended.
pub(crate) struct Remote {
    key: Key,
    link: Arc<Link>,
    name: Arc<str>,
    pid: u32,
    stderr: OwnedFd,
    tail: Arc<Tail>,
    life: Mutex<Life>,
    ended: Condvar,
}

struct Life {
    /// `None` once the process has ended.
    child: Option<Child>,
    exit: Option<Exit>,
    /// How the process is being ended, if it is.
    ladder: Option<Ladder>,
    /// Whether this host has asked it to end.
    asked: bool,
    /// Why this host has sent it a signal, if it has.
    signalled: Option<ExitCause>,
    /// Whether it gives signs of life, once it was loaded and if that matters.
    heartbeat: Option<Heartbeat>,
    /// Who is told when it has ended, once it was loaded.
    notice: Option<Arc<ExitNotice>>,
    /// Whether the system cannot say when there is something in stderr, so that the watcher looks.
    looks_at_stderr: bool,
    heir: Option<Heir>,
}

/// What puts another process in its place. Not held, since this is held by the watcher.
pub(super) struct Heir {
    pub(super) supervisor: Weak<Supervisor>,
    /// By what number the supervisor knows this process.
    pub(super) number: u64,
}

/// What a process gets that does not end by itself.
#[derive(Clone, Copy)]
struct Ladder {
    /// When it gets SIGTERM; `None` once it has.
    ask_at: Option<Instant>,
    /// When it gets SIGKILL.
    force_at: Instant,
    /// Why it gets them.
    cause: ExitCause,
}

impl Remote {
    /// Puts a child that has said hello into the watcher's care.
    pub(super) fn watch(
        link: Arc<Link>,
        name: Arc<str>,
        child: Child,
        stderr: OwnedFd,
        tail: Arc<Tail>,
    ) -> Result<Arc<Remote>> {
        let mut made = None;
        let key = watcher::register(|key| {
            let remote = Arc::new(Remote {
                key,
                link,
                name,
                pid: child.pid(),
                stderr,
                tail,
                life: Mutex::new(Life {
                    child: Some(child),
                    exit: None,
                    ladder: None,
                    asked: false,
                    signalled: None,
                    heartbeat: None,
                    notice: None,
                    looks_at_stderr: false,
                    heir: None,
                }),
                ended: Condvar::new(),
            });
            made = Some(remote.clone());
            remote
        })?;
        let Some(remote) = made else { unreachable!("it was made when it was registered") };
        remote.add_descriptors().map_err(|error| {
            let child = remote.lock().child.take();
            // Dropping it ends it.
            drop(child);
            watcher::disarm(key, Source::Stderr, &remote.stderr);
            watcher::forget(key);
            no_room(error)
        })?;
        Ok(remote)
    }

    fn add_descriptors(&self) -> io::Result<()> {
        watcher::arm(self.key, Source::Stderr, &self.stderr)?;
        self.link.watch(self.key);
        match self.lock().child.as_ref().and_then(Child::exit_fd) {
            Some(exit_fd) => watcher::arm(self.key, Source::Exit, exit_fd),
            None => {
                watcher::wake();
                Ok(())
            }
        }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it has ended, if it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.lock().exit
    }

    pub(crate) fn stderr_lines(&self) -> StderrLines {
        self.tail.lines()
    }

    /// Notes that it was loaded. From now on it must give signs of life, and its end is told to whom it concerns, also if
    /// it has ended by now.
    pub(super) fn set_loaded(&self, settings: &Settings, heir: Option<Heir>) {
        let notice = settings.on_exit.clone();
        let heartbeat = settings.heartbeat.filter(|_| self.link.knows_pings());
        let mut life = self.lock();
        if let Some(exit) = life.exit {
            drop(life);
            self.tell(exit, notice, heir);
            return;
        }
        life.notice = notice;
        life.heir = heir;
        life.heartbeat =
            heartbeat.map(|(every, misses)| Heartbeat::new(every, misses, Instant::now()));
        let has_heartbeat = life.heartbeat.is_some();
        drop(life);
        if has_heartbeat {
            watcher::wake();
        }
    }

    fn tell(&self, exit: Exit, notice: Option<Arc<ExitNotice>>, heir: Option<Heir>) {
        if let Some(notice) = notice {
            notice.tell(exit);
        }
        let Some(heir) = heir else { return };
        if let Some(supervisor) = heir.supervisor.upgrade() {
            let error = self.link.failure().filter(|error| error.exit().is_some());
            let error = error.unwrap_or_else(|| exit_error(&exit, "", "", &self.tail));
            supervisor.process_ended(heir.number, &error);
        }
    }

    // ---- ends that the host wants

    /// Asks the plugin to end, and sees to it that it does within `grace`.
    pub(crate) fn begin_to_stop(&self, grace: Duration) {
        self.lock().asked = true;
        self.begin_to_end(grace);
    }

    /// The same, of one that fails to start: that counts as an end of its own.
    pub(super) fn begin_to_end(&self, grace: Duration) {
        self.link.goodbye(grace);
        let now = Instant::now();
        // Who says "as long as it takes" means that.
        let grace = grace.min(LONGEST_GRACE);
        let cause = ExitCause::Overdue;
        self.hasten(Ladder { ask_at: Some(now + grace / 2), force_at: now + grace, cause });
    }

    /// Waits until the process has ended, and says how.
    pub(crate) fn wait(&self) -> Exit {
        let mut life = self.lock();
        loop {
            if let Some(exit) = life.exit {
                return exit;
            }
            life = self.ended.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Uses a ladder unless a faster one is in use.
    fn hasten(&self, ladder: Ladder) {
        let mut life = self.lock();
        if life.ladder.is_none_or(|current| ladder.force_at < current.force_at) {
            life.ladder = Some(ladder);
            drop(life);
            watcher::wake();
        }
    }

    fn look_for_life(&self, now: Instant) {
        let is_due = |life: &Life| {
            life.must_live() && life.heartbeat.as_ref().is_some_and(|beat| beat.due() <= now)
        };
        if !is_due(&self.lock()) {
            return;
        }
        let heard = self.link.take_heard();
        let mut life = self.lock();
        let Some(heartbeat) = &mut life.heartbeat else { return };
        let misses = heartbeat.misses();
        let beat = heartbeat.tick(now, heard);
        drop(life);
        match beat {
            Beat::Nothing => {}
            Beat::Ping => self.link.send_ping(),
            Beat::Dead(silence) => {
                let silence = silence.as_secs_f64();
                let why = format!(
                    "gave no sign of life for {silence:.1} s, with {misses} pings unanswered, and "
                );
                self.kill(ExitCause::Unresponsive, &why);
            }
        }
    }

    /// Ends the process by force, and the connection with it: nobody waits while the system takes back its memory or
    /// writes its core. `why` goes before what the calls fail with.
    fn kill(&self, cause: ExitCause, why: &str) {
        let mut life = self.lock();
        let Some(child) = &mut life.child else { return };
        if child.try_end().is_some() {
            // How it ended by itself says more.
            drop(life);
            self.handle_exit();
            return;
        }
        life.signal(End::Force, cause);
        let cause = life.signalled.unwrap_or(cause);
        drop(life);
        self.tail.fill(&self.stderr);
        let exit = Exit { pid: self.pid, status: SIGKILL, by_host: true, cause };
        self.link.sever(&exit_error(&exit, why, "", &self.tail).with_plugin(&self.name));
    }

    fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Care for Remote {
    fn link(&self) -> Option<Arc<Link>> {
        Some(self.link.clone())
    }

    fn plugin(&self) -> Option<Arc<Link>> {
        Some(self.link.clone())
    }

    fn deadline(&self) -> Option<Instant> {
        let life = self.lock();
        let child = life.child.as_ref()?;
        let ladder = life.ladder.map(|ladder| ladder.ask_at.unwrap_or(ladder.force_at));
        let heartbeat = life.heartbeat.as_ref().filter(|_| life.must_live()).map(Heartbeat::due);
        let looks = child.exit_fd().is_none() || life.looks_at_stderr;
        let look = looks.then(|| Instant::now() + LOOK_EVERY);
        [ladder, heartbeat, look].into_iter().flatten().min()
    }

    fn handle_deadline(&self, now: Instant) {
        if self.lock().child.as_ref().is_some_and(|child| child.exit_fd().is_none()) {
            self.handle_exit();
        }
        self.look_for_life(now);
        if self.lock().looks_at_stderr {
            self.handle_stderr();
        }
        let mut life = self.lock();
        let (Some(ladder), Some(_)) = (life.ladder, &life.child) else { return };
        if ladder.force_at <= now {
            // Once is enough; what is left is the wait for its end.
            life.ladder = Some(Ladder { ask_at: None, force_at: now + FORCE_AGAIN, ..ladder });
            drop(life);
            self.kill(ladder.cause, "");
        } else if ladder.ask_at.is_some_and(|at| at <= now) {
            life.ladder = Some(Ladder { ask_at: None, ..ladder });
            life.signal(End::Ask, ladder.cause);
        }
    }

    fn handle_report(&self, report: Report) {
        match report {
            Report::Failed if self.link.was_refused() => {
                // It is about to exit by itself, and how says more.
                let force_at = Instant::now() + AFTER_REFUSAL;
                self.hasten(Ladder { ask_at: None, force_at, cause: ExitCause::Protocol });
            }
            Report::Failed => self.kill(ExitCause::Protocol, ""),
            Report::Unwound => self.link.take_over(),
            Report::OutputEnded | Report::Goodbye(_) => {
                // It ends by itself now, or it must be helped. If it is being stopped, it has the time it was given
                // for that, also for what it does after `plug::run`.
                if self.lock().ladder.is_none() {
                    let force_at = Instant::now() + AFTER_ITS_OUTPUT;
                    self.hasten(Ladder { ask_at: None, force_at, cause: ExitCause::Protocol });
                }
            }
        }
    }

    fn handle_stderr(&self) {
        match self.tail.fill(&self.stderr) {
            Fill::More | Fill::Empty => {
                // Somebody must read it, or the plugin comes to wait until there is room in the pipe.
                let armed = watcher::arm(self.key, Source::Stderr, &self.stderr);
                self.lock().looks_at_stderr = armed.is_err();
            }
            Fill::Failed => self.lock().looks_at_stderr = true,
            Fill::Ended => self.lock().looks_at_stderr = false,
        }
    }

    /// The process may have ended. If so, its last output is read before the calls that it has not answered fail.
    fn handle_exit(&self) {
        let mut life = self.lock();
        let Some(status) = life.child.as_ref().and_then(Child::try_end) else { return };
        let exit = life.exit_with(self.pid, status);
        if let (Some(child), Some(exit_fd)) =
            (&life.child, life.child.as_ref().and_then(Child::exit_fd))
        {
            debug_assert_eq!(child.pid(), self.pid);
            watcher::disarm(self.key, Source::Exit, exit_fd);
        }
        life.child = None;
        drop(life);

        // What it wrote before its end is in the pipe. Who else holds the pipe may go on writing.
        for _ in 0..LAST_STDERR_READS {
            if self.tail.fill(&self.stderr) != Fill::More {
                break;
            }
        }
        watcher::disarm(self.key, Source::Stderr, &self.stderr);
        let why = match exit.cause() {
            ExitCause::Stopped => "was stopped by this host, and ",
            _ => "",
        };
        let error = exit_error(&exit, why, "", &self.tail).with_plugin(&self.name);
        self.link.end(&error);
        self.tail.end();
        self.link.unwatch();

        let mut life = self.lock();
        life.exit = Some(exit);
        let (notice, heir) = (life.notice.take(), life.heir.take());
        drop(life);
        self.ended.notify_all();
        watcher::forget(self.key);
        self.tell(exit, notice, heir);
    }
}

impl Life {
    /// Whether it has to give signs of life: it is not about to end.
    fn must_live(&self) -> bool {
        self.ladder.is_none() && self.signalled.is_none()
    }

    fn signal(&mut self, end: End, cause: ExitCause) {
        if let Some(child) = &self.child {
            child.signal(end);
            self.signalled.get_or_insert(cause);
        }
    }

    /// How it ended, by what the system says of it.
    fn exit_with(&self, pid: u32, status: ExitStatus) -> Exit {
        match (self.signalled, status) {
            (Some(cause), SIGKILL | SIGTERM) => Exit { pid, status, by_host: true, cause },
            (_, ExitStatus::Code(_) | ExitStatus::Unknown) if self.asked => {
                Exit { pid, status, by_host: false, cause: ExitCause::Stopped }
            }
            _ => Exit::by_itself(pid, status),
        }
    }
}

const SIGKILL: ExitStatus = ExitStatus::Signal(libc::SIGKILL);
const SIGTERM: ExitStatus = ExitStatus::Signal(libc::SIGTERM);

/// The error of everything that the end of a process ends. `why` goes before what the plugin did, and `when` behind it.
pub(super) fn exit_error(exit: &Exit, why: &str, when: &str, tail: &Tail) -> Error {
    let kind = if when.is_empty() { ErrorKind::Exited } else { ErrorKind::Handshake };
    Error::of_kind(kind, format!("the plugin {why}{exit}{when}"))
        .with_exit(*exit)
        .with_stderr(tail.text())
}

/// The longest grace that a point in time can be computed from: a hundred years.
const LONGEST_GRACE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How long a plugin may live on that has closed a pipe or said goodbye.
const AFTER_ITS_OUTPUT: Duration = Duration::from_millis(500);

/// How long a plugin may live on that has said why it does not start.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// How often to look after a child whose end, or whose stderr, the system does not announce.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long a killed process is given before it is killed again, in vain: it hangs in the kernel.
const FORCE_AGAIN: Duration = Duration::from_secs(10);

/// How often up to 64 KiB of stderr are read after the end.
const LAST_STDERR_READS: usize = 32;
