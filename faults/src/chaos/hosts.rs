//! Hosts that are killed: which of their plugins are left?

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use plug::Proxy as _;
use rustix::process::Signal;

use super::arena::Folder;
use super::dice::Dice;
use super::ledger::Ledger;
use super::traffic::Traffic;
use super::violence::{Victim, Violence};
use super::{HomeService, House, WorkProxy};
use crate::census::marked;

/// Kills so many hosts, each with one to five plugins under mixed traffic, and waits for the end of all that they have
/// started. Returns a report.
///
/// A plugin ends by itself within two seconds, and with it what it has started in its own process group. What has taken
/// a session of its own lives on: it is counted, and ended here.
///
/// # Errors
///
/// What is left, with the seed and the number of the host.
pub fn hosts(count: u64, seed: u64) -> Result<String, String> {
    let folder = Folder::new()?;
    let next = AtomicU64::new(0);
    let results: Vec<Result<Seen, String>> = std::thread::scope(|scope| {
        let lane = || {
            let mut seen = Seen::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(seen);
                }
                let killed = kill_one(seed, number, &folder.path(), &mut seen);
                killed.map_err(|wrong| format!("host {number} of seed {seed}: {wrong}"))?;
            }
        };
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        let end = |lane: std::thread::ScopedJoinHandle<'_, _>| {
            lane.join().unwrap_or_else(|_| Err("a lane panicked".to_owned()))
        };
        lanes.into_iter().map(end).collect()
    });
    let mut all = Seen::default();
    for seen in results {
        let seen = seen?;
        all.hosts += seen.hosts;
        all.plugins += seen.plugins;
        all.orphans += seen.orphans;
        all.longest = all.longest.max(seen.longest);
    }
    Ok(format!(
        "{} hosts killed with {} plugins, seed {seed}: the last plugin was gone after {:.2?}; {} processes with \
         a session of their own lived on, as documented",
        all.hosts, all.plugins, all.longest, all.orphans
    ))
}

#[derive(Debug, Default)]
struct Seen {
    hosts: u64,
    plugins: usize,
    /// What plugins had started and left behind.
    orphans: usize,
    /// How long the last plugin of a host has lived on.
    longest: Duration,
}

/// Starts a host, kills it at some point, and waits until its plugins are gone.
fn kill_one(seed: u64, number: u64, folder: &Path, seen: &mut Seen) -> Result<(), String> {
    let mut dice = Dice::new(seed, number);
    let mark = format!("{}-{number}", std::process::id());
    let plugins = 1 + dice.below(5);
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let host = Command::new(own)
        .args(["host", &mark, &plugins.to_string(), &dice.roll().to_string()])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut host = host.map_err(|error| format!("it cannot be started: {error}"))?;
    // A fourth of them die while they load their plugins.
    if dice.once_in(4) {
        std::thread::sleep(dice.time(LOADS_WITHIN));
    } else {
        await_line(&mut host)?;
        std::thread::sleep(dice.time(LIVES_FOR));
    }
    // It starts no more plugins while they are counted.
    let alive = Victim::new(host.id()).ok_or("it has ended by itself")?;
    alive.signal(Signal::STOP);
    let before = marked(MARK, &mark).map_err(|error| error.to_string())?;
    seen.plugins += before.keys().filter(|&&pid| is_plugin(pid)).count();
    alive.signal(Signal::KILL);
    host.wait().map_err(|error| error.to_string())?;
    let begin = Instant::now();
    let left = loop {
        let left = marked(MARK, &mark).map_err(|error| error.to_string())?;
        if left.keys().all(|&pid| is_survivor(pid)) {
            break left;
        }
        if begin.elapsed() > BOUND {
            return Err(format!("after {BOUND:?}, of what it started this lives: {left:?}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    seen.longest = seen.longest.max(begin.elapsed());
    seen.hosts += 1;
    seen.orphans += left.len();
    for pid in left.into_keys() {
        if let Some(orphan) = Victim::new(pid) {
            orphan.signal(Signal::KILL);
        }
    }
    Ok(())
}

/// Whether a process is a plugin, and not what a plugin has started: that says so in its first argument.
fn is_plugin(pid: u32) -> bool {
    !matches!(first_argument(pid).as_deref(), None | Some(b"linger" | b"survive"))
}

/// Whether a process has taken a session of its own, or is about to.
fn is_survivor(pid: u32) -> bool {
    first_argument(pid).as_deref() == Some(b"survive")
}

fn first_argument(pid: u32) -> Option<Vec<u8>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|&byte| byte == 0).nth(1).map(<[u8]>::to_vec)
}

/// Waits for a line, or the end.
fn await_line(host: &mut Child) -> Result<(), String> {
    use std::io::{BufRead as _, BufReader};
    let output = host.stdout.take().ok_or("it has no output")?;
    let (sender, line) = channel();
    std::thread::spawn(move || {
        let _ = sender.send(BufReader::new(output).lines().next());
    });
    match line.recv_timeout(BOUND) {
        Ok(Some(Ok(_))) => Ok(()),
        other => Err(format!("it did not say that it is ready: {other:?}")),
    }
}

/// A host that loads plugins, keeps them busy with mixed traffic, and waits to be killed.
///
/// # Errors
///
/// If a plugin cannot be loaded.
pub fn host(
    plugin: PathBuf,
    mark: &str,
    plugins: u64,
    seed: u64,
    folder: &str,
) -> plug::Result<()> {
    // Nobody compares it with anything: what it is for is that plugins have something to do.
    let (ledger, stop) = (Ledger::default(), AtomicBool::new(false));
    let mut dice = Dice::new(seed, 0);
    let works: plug::Result<Vec<WorkProxy>> = (0..plugins)
        .map(|_| {
            let started = dice.pick(&[(3, None), (1, Some("linger")), (1, Some("survive"))]);
            let mut command = plug::Command::new(&plugin)
                .arg(format!("{folder}/of-hosts"))
                .env(MARK, mark)
                .serve::<HomeService>(Arc::new(House::default()));
            if let Some(how) = started {
                command = command.arg(format!("--child={how}"));
            }
            command.load()?.proxy()
        })
        .collect();
    let works = works?;
    std::thread::scope(|scope| {
        for work in &works {
            let (canceller, to_cancel) = channel();
            scope.spawn(move || {
                for (token, after) in to_cancel {
                    std::thread::sleep(after);
                    plug::CancelToken::cancel(&token);
                }
            });
            for _ in 0..2 {
                let traffic = Traffic {
                    work: work.clone(),
                    ledger: &ledger,
                    dice: Dice::new(dice.roll(), 0),
                    violence: Violence::Kill,
                    canceller: canceller.clone(),
                    pause: Duration::ZERO,
                };
                scope.spawn(|| traffic.run(&stop));
            }
            // A handler that does not return.
            if dice.once_in(3) {
                let napping = work.with_metadata(super::ID, [0; 8].to_vec());
                scope.spawn(move || napping.end("hang"));
            }
        }
        println!("ready");
        let _ = std::io::stdout().flush();
        // Not for ever, should nobody kill it.
        std::thread::sleep(crate::evil::HANG);
        std::process::exit(1);
    })
}

/// The variable in the environment of a plugin, and of what it starts, that says whose it is.
const MARK: &str = "PLUG_CHAOS";

/// How many hosts live at once.
const LANES: usize = 16;

/// A host has loaded its plugins within about that time.
const LOADS_WITHIN: Duration = Duration::from_millis(15);

/// How long a host with all its plugins lives, at most.
const LIVES_FOR: Duration = Duration::from_millis(30);

/// How long a plugin may live on without its host: two seconds by what the runtime promises, and what a busy machine takes.
const BOUND: Duration = Duration::from_secs(20);
