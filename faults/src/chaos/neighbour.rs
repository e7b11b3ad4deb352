//! An innocent plugin beside those that die: it must never notice.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plug::{Command, Proxy as _, SharedMemory};

use super::histogram::Histogram;
use super::{ID, WorkProxy, load_work};

/// A plugin that is called, a thousand times a second at most, until this is dropped.
#[derive(Debug)]
pub struct Neighbour {
    pid: u32,
    shared: Arc<Shared>,
    caller: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    small: Histogram,
    last: Instant,
    wrong: Option<String>,
}

impl Neighbour {
    /// Loads it and begins to call it.
    ///
    /// # Errors
    ///
    /// If that is not possible.
    pub fn start(plugin: &Path) -> Result<Neighbour, String> {
        // It has too many calls to note them.
        // At once, so that the memory is there when what there is with it alone is counted.
        let command = Command::new(plugin).arg("/dev/null").shared_memory(SharedMemory::AtOnce);
        let work = load_work(command);
        let work = work.map_err(|error| format!("the neighbour cannot be loaded: {error:?}"))?;
        let pid = work.peer().pid().ok_or("the neighbour has no process")?;
        let seen = Seen { small: Histogram::default(), last: Instant::now(), wrong: None };
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), seen: Mutex::new(seen) });
        shared
            .call(&work, 0)
            .map_err(|error| format!("the neighbour cannot be called: {error}"))?;
        let caller = {
            let shared = shared.clone();
            std::thread::spawn(move || shared.run(&work))
        };
        Ok(Neighbour { pid, shared, caller: Some(caller) })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What was wrong with its calls, if anything, or whether they hang.
    pub fn wrong(&self) -> Option<String> {
        let seen = self.shared.seen();
        let hangs = seen.last.elapsed() > HANGS;
        seen.wrong.clone().or_else(|| hangs.then(|| format!("no call ended for {HANGS:?}")))
    }

    /// How long its small calls took since this was asked last.
    pub fn take_latencies(&self) -> Histogram {
        std::mem::take(&mut self.shared.seen().small)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(caller) = self.caller.take() {
            let _ = caller.join();
        }
    }
}

impl Shared {
    fn run(&self, work: &WorkProxy) {
        let mut number = 1;
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(wrong) = self.call(work, number) {
                self.seen().wrong = Some(format!("call {number}: {wrong}"));
                return;
            }
            number += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn call(&self, work: &WorkProxy, number: u64) -> Result<(), String> {
        let payload = [number.to_le_bytes(); 8].concat();
        let work = work.with_metadata(ID, number.to_le_bytes().to_vec());
        let begin = Instant::now();
        let echoed = work.echo(payload.clone()).map_err(|error| format!("{error:?}"))?;
        let took = begin.elapsed();
        if echoed != payload {
            return Err("it returned something else".to_owned());
        }
        let mut seen = self.seen();
        seen.small.record(took);
        seen.last = Instant::now();
        drop(seen);
        // A stream now and then; what it takes is not measured.
        if number % 50 == 0 {
            let pieces = work.count(100, 100).map_err(|error| format!("{error:?}"))?;
            let count = pieces.map_while(Result::ok).count();
            if count != 100 {
                return Err(format!("a stream had {count} of 100 pieces"));
            }
        }
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a call of it may take before it counts as one that never ends.
const HANGS: Duration = Duration::from_secs(30);
