//! A lower bound: two processes that take turns in shared memory. Who waits yields for a while, if that paid the last
//! time, and then sleeps on a futex.

mod map;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Timespec};

use self::map::{Map, Turn};
use super::child::{self, Kept};
use super::{Candidate, Session};
use crate::timing::{check, one_by_one};
use crate::usage::Processes;
use crate::work::{Job, Kind, Work};

pub const NAME: &str = "shm";

/// How long who waits yields before it sleeps.
const YIELD_FOR: Duration = Duration::from_micros(20);

pub struct Shm;

impl Candidate for Shm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn lacks(&self, work: Work) -> Option<String> {
        (work.kind() == Kind::Stream).then(|| "who takes turns has no streams".to_owned())
    }

    fn child(&self) -> Option<&'static str> {
        Some(NAME)
    }

    fn start(&self, work: Work) -> Result<Box<dyn Session>> {
        let memory = File::from(memfd_create("plug-bench", MemfdFlags::CLOEXEC)?);
        ftruncate(&memory, Map::length_for(work.size()))?;
        let map = Map::new(memory.as_fd(), work.size())?;
        let child = child::command(NAME)?
            .arg(work.size().to_string())
            .stdin(Stdio::from(memory))
            .spawn()?;
        let reply = vec![0; work.size()];
        Ok(Box::new(Shared { child: Kept(child), map, waiting: Waiting::default(), reply }))
    }
}

struct Shared {
    child: Kept,
    map: Map,
    waiting: Waiting,
    reply: Vec<u8>,
}

impl Session for Shared {
    fn processes(&self) -> Processes {
        Processes { host: None, child: Some(self.child.0.id()) }
    }

    fn run(&mut self, job: &Job) -> Result<Vec<f64>> {
        one_by_one(job, || {
            self.map.write_request(&job.payload);
            let answered = self.map.replies().count.load(SeqCst);
            pass(self.map.requests());
            let alive = || match self.child.0.try_wait()? {
                Some(status) => bail!("the child has ended: {status}"),
                None => Ok(()),
            };
            self.waiting.wait(self.map.replies(), answered, alive)?;
            self.map.read_reply(&mut self.reply);
            check(&self.reply, &job.payload)
        })
    }
}

pub fn serve(arguments: &[String]) -> Result<()> {
    let size = arguments.first().context("shared memory has a size")?.parse()?;
    let map = Map::new(std::io::stdin().as_fd(), size)?;
    let mut waiting = Waiting::default();
    let mut served = 0;
    loop {
        waiting.wait(map.requests(), served, || Ok(()))?;
        served += 1;
        map.echo();
        pass(map.replies());
    }
}

/// Gives the turn to the other side.
fn pass(turn: &Turn) {
    turn.count.fetch_add(1, SeqCst);
    if turn.sleeping.load(SeqCst) != 0 {
        // It fails for bad addresses only.
        let _ = futex::wake(&turn.count, Flags::empty(), 1);
    }
}

#[derive(Default)]
struct Waiting {
    /// To yield would not have paid the last time.
    was_long: bool,
}

impl Waiting {
    /// Returns when the turn is no longer the one that was seen. Asks each second whether to go on.
    fn wait(&mut self, turn: &Turn, seen: u32, go_on: impl FnMut() -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        let mut go_on = go_on;
        if !self.was_long {
            while begin.elapsed() < YIELD_FOR {
                if turn.count.load(SeqCst) != seen {
                    return Ok(());
                }
                std::thread::yield_now();
            }
        }
        turn.sleeping.store(1, SeqCst);
        while turn.count.load(SeqCst) == seen {
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            match futex::wait(&turn.count, Flags::empty(), seen, Some(&second)) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::TIMEDOUT) => go_on()?,
                Err(error) => return Err(error.into()),
            }
        }
        turn.sleeping.store(0, SeqCst);
        self.was_long = begin.elapsed() > 2 * YIELD_FOR;
        Ok(())
    }
}
