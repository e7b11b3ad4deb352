//! The standard aftermath, which every case with a process ends with: nothing is left, and the next load works.
//!
//! Descriptors, threads and children are counted for the whole process. So the tests that use [`Case`]
//! take turns: one lock for all of them, held from the first count to the last. They are short. What is
//! counted:
//!
//! - descriptors: all of the process;
//! - threads: those that the runtime makes, by their names, since the test harness has threads that come
//!   and go. The watcher stays, and so does the one for log records, where there is one;
//! - memory that is shared with plugins: what is mapped;
//! - children: all processes whose parent is this one, zombies included;
//! - calls: all that a test does on another thread with [`start`], which returns once for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plug::{Command, ErrorKind, ExitStatus, Proxy as _};
pub(crate) use plug_faults::census::is_alive;
use plug_faults::census::{Census, Stat};
use plug_faults::{ProbeProxy, load_probe};
use rustix::process::{Pid, Signal};

/// How long anything that must happen is waited for before the test says what did not.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// What the rows that say "50 ms" are held to here: this machine does other things too.
pub(crate) const SOON: Duration = Duration::from_secs(2);

static TURN: Mutex<()> = Mutex::new(());

/// What other threads do for the test whose turn it is, by a number that counts up.
static PENDING: Mutex<BTreeMap<u64, String>> = Mutex::new(BTreeMap::new());

fn pending() -> MutexGuard<'static, BTreeMap<u64, String>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One test, from the count before to the count after.
pub(crate) struct Case {
    before: Census,
    pids: Mutex<BTreeSet<u32>>,
    _turn: MutexGuard<'static, ()>,
}

impl Case {
    /// Waits for its turn, has the watcher started, and counts.
    pub(crate) fn new() -> Case {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Of one that has failed.
        pending().clear();
        drop(plug::in_process(plug_faults::evil::Evil::default()).unwrap());
        wait_until("an idle process before the test", || {
            let mut now = Census::now().unwrap();
            forgive_log(&mut now.threads);
            now.threads == ["plug-watcher"] && now.children.is_empty()
        });
        let before = Census::now().unwrap();
        Case { before, pids: Mutex::default(), _turn: turn }
    }

    /// Loads a plugin whose process must be gone in the end.
    pub(crate) fn load(&self, command: impl Into<Command>) -> ProbeProxy {
        let probe = load_probe(command).unwrap();
        self.expect_gone(pid(&probe));
        probe
    }

    /// Loads the evil plugin.
    pub(crate) fn evil(&self, args: &[&str]) -> ProbeProxy {
        self.load(evil(args))
    }

    /// A process that must be gone in the end.
    pub(crate) fn expect_gone(&self, pid: u32) {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
    }

    /// Whether this process had something open before.
    pub(crate) fn had(&self, target: &str) -> bool {
        self.before.fds.values().any(|had| had == target)
    }

    /// Asserts that nothing is left, and that the next load works. All proxies must have been dropped.
    pub(crate) fn finish(self) {
        self.wait_until_nothing_is_left("after the test");
        let probe = load_probe(evil(&[])).expect("the next load works");
        assert_eq!(probe.echo("next").unwrap(), b"next");
        probe.peer().stop(BOUND).expect("a plugin without calls stops in good order");
        drop(probe);
        self.wait_until_nothing_is_left("after the next load");
    }

    fn wait_until_nothing_is_left(&self, when: &str) {
        let left = || {
            let mut more = Census::now().unwrap().beyond(&self.before);
            if !self.before.threads.iter().any(|thread| thread == LOG) {
                forgive_log(&mut more.threads);
            }
            let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
            let alive: Vec<_> = pids.iter().copied().filter(|&pid| is_alive(pid)).collect();
            (more, alive, pending().clone())
        };
        let begin = Instant::now();
        loop {
            let (more, alive, pending) = left();
            if more == Census::default() && alive.is_empty() && pending.is_empty() {
                return;
            }
            assert!(
                begin.elapsed() < BOUND,
                "{when}, this is left: {more:?}, these processes live: {alive:?}, and these calls have not come to \
                 their end: {pending:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One that fails does not leave its plugins to the others, which would find this process busy.
impl Drop for Case {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // Only children: a process id of anybody else may be a stranger's by now.
        let left = Census::now().unwrap_or_default().beyond(&self.before).children;
        for pid in left.into_keys().filter_map(|pid| Pid::from_raw(pid.try_into().ok()?)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// The thread that hands what plugins log to the subscribers of this process.
const LOG: &str = "plug-log";

/// With the feature `tracing`, there is one of those once a plugin was loaded that logs, and it stays.
fn forgive_log(threads: &mut Vec<String>) {
    if let Some(place) =
        threads.iter().position(|thread| cfg!(feature = "tracing") && thread == LOG)
    {
        threads.remove(place);
    }
}

/// Whether a process was stopped by a signal, and can be continued.
pub(crate) fn is_stopped(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.state == 'T')
}

/// The process that has started another, which must be there.
pub(crate) fn parent(pid: u32) -> u32 {
    Stat::of(pid).expect("it is there").parent
}

/// The evil plugin, with arguments.
pub(crate) fn evil(args: &[&str]) -> Command {
    Command::new(EVIL).args(args)
}

/// The evil plugin without the runtime.
pub(crate) fn raw(args: &[&str]) -> Command {
    Command::new(EVIL).arg("raw").args(args)
}

/// The path of the evil plugin.
pub(crate) const EVIL: &str = env!("CARGO_BIN_EXE_evil");

/// The path of the helper host.
pub(crate) const HOST: &str = env!("CARGO_BIN_EXE_faults-host");

/// What the helper host prints, which must end well: at once, or after the little that it is told to do.
pub(crate) fn helper(args: &[&str]) -> String {
    let mut command = std::process::Command::new(HOST);
    output(command.args(args))
}

/// What a program prints that must end well.
pub(crate) fn output(command: &mut std::process::Command) -> String {
    let what = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut output = start(what.as_str(), move || child.wait_with_output().unwrap());
    output.bound *= 4;
    let output = output.get();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{text}\n{errors}", output.status);
    text
}

/// A child that a test which fails does not leave to the others.
pub(crate) struct KillOnDrop(pub(crate) std::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process of a plugin.
pub(crate) fn pid(probe: &ProbeProxy) -> u32 {
    probe.peer().pid().expect("it has a process of its own")
}

/// Ends a process by force.
pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// Signals a process.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).expect("a process id is not 0");
    rustix::process::kill_process(pid, signal).unwrap();
}

/// How much of something a person wants who runs a test by hand: what an environment variable says.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Waits, in small steps, for something that must happen.
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !happened() {
        assert!(begin.elapsed() < BOUND, "waited {BOUND:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Something that another thread does, and when it was done.
pub(crate) struct Pending<T> {
    what: String,
    bound: Duration,
    done: Receiver<(T, Instant)>,
    is: Option<(T, Instant)>,
}

/// Does something on another thread.
pub(crate) fn start<T: Send + 'static>(
    what: impl Into<String>,
    act: impl FnOnce() -> T + Send + 'static,
) -> Pending<T> {
    let what = what.into();
    let (sender, done) = channel();
    let is_pending = IsPending::begin(&what);
    let run = move || {
        let result = act();
        drop(is_pending);
        // Nobody listens any more if the test has failed.
        let _ = sender.send((result, Instant::now()));
    };
    // A thousand of them are no trouble.
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap();
    Pending { what, bound: BOUND, done, is: None }
}

/// Something is under way, until this is dropped.
struct IsPending(u64);

impl IsPending {
    fn begin(what: &str) -> IsPending {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        pending().insert(number, what.to_owned());
        IsPending(number)
    }
}

impl Drop for IsPending {
    fn drop(&mut self) {
        pending().remove(&self.0);
    }
}

impl<T> Pending<T> {
    /// Its result, and when it was there.
    pub(crate) fn timed(self) -> (T, Instant) {
        if let Some(done) = self.is {
            return done;
        }
        let Pending { what, bound, .. } = self;
        match self.done.recv_timeout(bound) {
            Ok(done) => done,
            Err(RecvTimeoutError::Timeout) => panic!("waited {bound:?} in vain for: {what}"),
            Err(RecvTimeoutError::Disconnected) => panic!("{what} panicked"),
        }
    }

    /// Its result.
    pub(crate) fn get(self) -> T {
        self.timed().0
    }

    /// Whether it is still under way.
    pub(crate) fn is_pending(&mut self) -> bool {
        if self.is.is_none() {
            self.is = self.done.try_recv().ok();
        }
        self.is.is_none()
    }
}

/// Waits for something that must not hang this test.
pub(crate) fn in_time<T: Send + 'static>(
    what: impl Into<String>,
    act: impl FnOnce() -> T + Send + 'static,
) -> T {
    start(what, act).get()
}

/// Asserts that something took less than [`SOON`], and prints how long.
pub(crate) fn assert_soon(what: &str, took: Duration) {
    println!("{what}: {took:?}");
    assert!(took < SOON, "{what} took {took:?}");
}

/// Asserts that a call failed since the plugin's process has ended by itself.
#[track_caller]
pub(crate) fn assert_exited(error: &plug::Error, status: ExitStatus) {
    assert_eq!(error.kind(), ErrorKind::Exited, "{error:?}");
    let exit = error.exit().expect("it says how the process ended");
    assert_eq!(exit.status(), status, "{error:?}");
    assert!(!exit.by_host(), "{error:?}");
}

/// Starts a handler that does not return, and waits until it runs.
pub(crate) fn hang(probe: &ProbeProxy, act: &str) -> Pending<plug::Result<String>> {
    let before = running(probe);
    let call = {
        let (probe, act) = (probe.clone(), act.to_owned());
        start(format!("the act {act:?}"), move || probe.act(act))
    };
    wait_until("the handler to run", || running(probe) > before);
    call
}

/// How many acts run, without the one that asks.
pub(crate) fn running(probe: &ProbeProxy) -> usize {
    probe.act("running").unwrap().parse::<usize>().unwrap() - 1
}

/// A folder for one test, which is removed again.
pub(crate) struct Folder(std::path::PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let unique = format!("plug-faults-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// Lets other users make and remove files in it.
    pub(crate) fn open_to_all(&self) {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o777)).unwrap();
    }

    pub(crate) fn join(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
