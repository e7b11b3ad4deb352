//! Where several plugins live at once, beside an innocent one, in a host that must be left as it was.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::{Ledger, Tally};
use super::life::Life;
use super::neighbour::Neighbour;
use super::violence::Violence;
use crate::census::Census;

/// A host with an innocent plugin, and plugins that come and go.
#[derive(Debug)]
pub struct Arena {
    seed: u64,
    life: Life,
    lanes: usize,
    next: u64,
    neighbour: Neighbour,
    baseline: Census,
    progress: Progress,
}

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// How often each violence was done.
    pub lives: BTreeMap<Violence, u64>,
    /// How the calls ended.
    pub calls: Tally,
}

impl Progress {
    /// How many plugins have lived.
    pub fn count(&self) -> u64 {
        self.lives.values().sum()
    }
}

impl Arena {
    /// Starts the neighbour, and counts what there is with it alone. Plugins live in so many lanes, the first with
    /// the number `from`.
    ///
    /// # Errors
    ///
    /// If the neighbour cannot be started.
    pub fn new(seed: u64, from: u64, life: Life, lanes: usize) -> Result<Arena, String> {
        let neighbour = Neighbour::start(&life.plugin)?;
        let begin = Instant::now();
        let baseline = loop {
            let now = Census::now().map_err(|error| error.to_string())?;
            // A thread names itself, when it comes to run.
            let has_moved = now.shared.len() == 1 || cfg!(plug_portable);
            if now.threads == ["plug-watcher"] && has_moved {
                break now;
            }
            if begin.elapsed() > BOUND {
                return Err(format!(
                    "with the neighbour alone, there is this after {BOUND:?}: {now:?}"
                ));
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        let progress = Progress::default();
        Ok(Arena { seed, life, lanes, next: from, neighbour, baseline, progress })
    }

    /// The innocent plugin.
    pub fn neighbour(&self) -> &Neighbour {
        &self.neighbour
    }

    /// What has happened so far.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Has plugins live in all lanes at once, one after the other in each, for as long as there is to be another. Then
    /// nothing may be left.
    ///
    /// # Errors
    ///
    /// All that was wrong, with the seed and the numbers of the lives that it happened in.
    pub fn live(&mut self, another: impl Fn(u64) -> bool + Sync) -> Result<Census, String> {
        let begun = self.next;
        let next = AtomicU64::new(begun);
        let results = Mutex::new(Vec::new());
        let under_way = UnderWay::default();
        let (seed, life) = (self.seed, &self.life);
        let lane = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if !another(number) {
                    break;
                }
                let ledger = Arc::new(Ledger::default());
                under_way.begin(number, &ledger);
                let result = life.live(seed, number, &ledger);
                under_way.end(number);
                lock(&results).push((number, result));
            }
        };
        let (done, watched) = channel();
        std::thread::scope(|scope| {
            let watch = &under_way;
            scope.spawn(move || watch.watch(seed, &watched));
            let lanes: Vec<_> = (0..self.lanes).map(|_| scope.spawn(lane)).collect();
            let panics = lanes.into_iter().filter_map(|lane| lane.join().err()).count();
            drop(done);
            assert_eq!(panics, 0, "a lane panicked, from life {begun} of seed {seed} on");
        });

        let mut wrong = Vec::new();
        let results = std::mem::take(&mut *lock(&results));
        self.next = begun + results.len() as u64;
        for (number, result) in results {
            match result {
                Ok((violence, calls)) => {
                    *self.progress.lives.entry(violence).or_default() += 1;
                    self.progress.calls.add(calls);
                }
                Err(what) => wrong.push(format!("life {number} of seed {seed}: {what}")),
            }
        }
        wrong.extend(self.neighbour.wrong().map(|what| format!("the neighbour: {what}")));
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        let range = format!("lives {begun} to {} of seed {seed}", self.next);
        self.settle().map_err(|left| format!("after {range}, {left}"))
    }

    /// Waits until nothing is left beside the neighbour.
    fn settle(&self) -> Result<Census, String> {
        let begin = Instant::now();
        loop {
            let now = Census::now().map_err(|error| error.to_string())?;
            let left = now.beyond(&self.baseline);
            if left == Census::default() {
                return Ok(now);
            }
            if begin.elapsed() > BOUND {
                return Err(format!("this is left for {BOUND:?}: {left:?}"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// The lives that have not ended: they must.
#[derive(Default)]
struct UnderWay(Mutex<BTreeMap<u64, (Instant, Arc<Ledger>)>>);

impl UnderWay {
    fn begin(&self, number: u64, ledger: &Arc<Ledger>) {
        lock(&self.0).insert(number, (Instant::now(), ledger.clone()));
    }

    fn end(&self, number: u64) {
        lock(&self.0).remove(&number);
    }

    /// Ends this process if a life takes too long: a thread that hangs cannot be ended otherwise. Returns when all lanes
    /// have ended.
    fn watch(&self, seed: u64, ended: &std::sync::mpsc::Receiver<()>) {
        while ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            for (number, (begin, ledger)) in &*lock(&self.0) {
                if begin.elapsed() > LONGEST_LIFE {
                    let open = ledger.open();
                    eprintln!("FAILED: life {number} of seed {seed} hangs; open calls: {open}");
                    eprintln!("process {} waits to be looked at, for a minute", std::process::id());
                    std::thread::sleep(Duration::from_secs(60));
                    std::process::exit(1);
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder for the notes of plugins, which is removed again.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// One for this process.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn new() -> Result<Folder, String> {
        let path = std::env::temp_dir().join(format!("plug-chaos-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Folder(path))
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.0.clone()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How long a host may take to let go of a plugin. It takes milliseconds, but the machine does other things too.
pub const BOUND: Duration = Duration::from_secs(30);

/// How long a life may take, all in all.
const LONGEST_LIFE: Duration = Duration::from_secs(120);
