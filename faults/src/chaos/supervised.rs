//! A plugin that is killed again and again and restarted each time, while others call it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use plug::{Command, Delivery, Error, ErrorKind, Exit, ExitStatus, Proxy as _, Restart};
use rustix::process::Signal;

use super::dice::Dice;
use super::violence::Victim;
use super::{ID, WorkProxy, load_work};

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Supervised {
    /// How often the plugin was killed, and restarted.
    pub kills: u64,
    /// Calls that were made.
    pub calls: u64,
    /// Those of them that died with the plugin.
    pub lost: u64,
}

impl Supervised {
    /// Adds another time to it.
    pub fn add(&mut self, other: Supervised) {
        self.kills += other.kills;
        self.calls += other.calls;
        self.lost += other.lost;
    }
}

/// Kills a plugin so many times. Two threads call it meanwhile: their calls wait for the next process, and only those
/// that may have run fail. In the end it is stopped in good order.
///
/// # Errors
///
/// What was wrong.
pub fn supervised(plugin: &Path, kills: u64, dice: &mut Dice) -> Result<Supervised, String> {
    let restart = Restart::on_crash()
        .backoff(Duration::from_millis(1), Duration::from_millis(10))
        .at_most(u32::MAX, Duration::from_secs(1))
        .queue_for(BOUND);
    let (sender, exits) = channel();
    let command =
        Command::new(plugin).arg("/dev/null").restart(restart).on_exit(move |exit: &Exit| {
            let _ = sender.send(*exit);
        });
    let work = load_work(command).map_err(|error| format!("it cannot be loaded: {error:?}"))?;

    let (calls, lost, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let call = || {
            while !stop.load(Ordering::Relaxed) {
                let number = calls.fetch_add(1, Ordering::Relaxed);
                let died =
                    call(&work, number).map_err(|wrong| format!("call {number}: {wrong}"))?;
                lost.fetch_add(died.into(), Ordering::Relaxed);
            }
            Ok(())
        };
        let callers = [scope.spawn(call), scope.spawn(call)];
        let killed = kill_often(&work, kills, dice).and_then(|()| wait_for_call(&work));
        stop.store(true, Ordering::Relaxed);
        callers.into_iter().fold(killed, |so_far, caller| {
            so_far.and(caller.join().unwrap_or_else(|_| Err("a caller panicked".to_owned())))
        })
    })?;
    work.peer().stop(BOUND).map_err(|error| format!("it did not stop: {error:?}"))?;
    drop(work);
    check_exits(&exits, kills)?;
    let (calls, lost) = (calls.into_inner(), lost.into_inner());
    Ok(Supervised { kills, calls, lost })
}

/// Kills each process that comes.
fn kill_often(work: &WorkProxy, kills: u64, dice: &mut Dice) -> Result<(), String> {
    let mut last = None;
    for number in 0..kills {
        let begin = Instant::now();
        let pid = loop {
            let pid = work.peer().pid();
            if pid != last {
                break pid;
            }
            if begin.elapsed() > BOUND {
                return Err(format!("after {BOUND:?}, it was not restarted after {number} kills"));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        std::thread::sleep(dice.time(LIVES_FOR));
        last = pid;
        if let Some(victim) = pid.and_then(Victim::new) {
            victim.signal(Signal::KILL);
        }
    }
    Ok(())
}

/// Waits until a process is there that answers: the last one is to be stopped, not found dead.
fn wait_for_call(work: &WorkProxy) -> Result<(), String> {
    for number in 0..LOST_AT_MOST {
        if !call(work, 10 * number + 1)? {
            return Ok(());
        }
    }
    Err(format!("after the last kill, {LOST_AT_MOST} calls died one after the other"))
}

/// Makes a call. Returns whether it has died with the plugin.
fn call(work: &WorkProxy, number: u64) -> Result<bool, String> {
    let work = work.with_metadata(ID, number.to_le_bytes().to_vec());
    let streams = number % 10 == 0;
    let result = if streams {
        count(&work)
    } else {
        let payload = number.to_le_bytes().repeat(1 + (number % 5) as usize * 4000);
        work.echo(payload.clone()).map(|echoed| echoed == payload)
    };
    match result {
        Ok(true) => Ok(false),
        Ok(false) => Err("it returned something else".to_owned()),
        // One that cannot have run waits for the next process, unless it is a stream: that has begun here by then.
        Err(error) if is_death(&error) && (streams || error.delivery() == Delivery::MayHaveRun) => {
            Ok(true)
        }
        Err(error) => Err(format!("{error:?}")),
    }
}

fn count(work: &WorkProxy) -> plug::Result<bool> {
    let mut seen = 0;
    for piece in work.count(100, 100)? {
        seen += u64::from(piece?.number == seen);
    }
    Ok(seen == 100)
}

/// Whether that is how a call ends that a kill has interrupted.
fn is_death(error: &Error) -> bool {
    error.kind() == ErrorKind::Exited
        && error.exit().is_some_and(|exit| exit.status() == ExitStatus::Signal(9))
}

/// Each process must be told of once: those that were killed, and the one that was stopped.
fn check_exits(exits: &Receiver<Exit>, kills: u64) -> Result<(), String> {
    for number in 0..=kills {
        let exit = exits
            .recv_timeout(BOUND)
            .map_err(|error| format!("no notice of the exit {number} of {kills}: {error}"))?;
        let is_last = number == kills;
        if exit.is_graceful() != is_last {
            return Err(format!("the exit {number} of {kills} is {exit:?}"));
        }
    }
    match exits.recv_timeout(BOUND) {
        Err(_) => Ok(()),
        Ok(exit) => Err(format!("one exit more than there were processes: {exit:?}")),
    }
}

/// How many calls may die with a process, one after the other: those that are under way when it is killed.
const LOST_AT_MOST: u64 = 10;

/// How long a process lives, at most, once it is there.
const LIVES_FOR: Duration = Duration::from_millis(40);

/// How long anything is waited for that must come.
const BOUND: Duration = Duration::from_secs(60);
