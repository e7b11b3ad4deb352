//! The life of one plugin: load, traffic, violence, and what is to be said about it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use plug::{CancelToken, Command, Proxy as _};
use rustix::process::Signal;

use super::dice::Dice;
use super::ledger::{Ledger, Tally};
use super::traffic::Traffic;
use super::violence::{Victim, Violence};
use super::{HomeService, House, WorkProxy};

/// How a plugin is to live.
#[derive(Clone, Debug)]
pub struct Life {
    /// The program.
    pub plugin: PathBuf,
    /// Where it may keep its notes.
    pub folder: PathBuf,
    /// How many threads call it.
    pub threads: u64,
    /// How long it is left in peace, at most.
    pub peace: Duration,
    /// How long a thread rests between two calls, at most.
    pub pause: Duration,
}

impl Life {
    /// Lives once, as the seed and the number say.
    ///
    /// # Errors
    ///
    /// All that was wrong.
    pub fn live(
        &self,
        seed: u64,
        number: u64,
        ledger: &Arc<Ledger>,
    ) -> Result<(Violence, Tally), String> {
        let mut dice = Dice::new(seed, number);
        let violence = Violence::pick(&mut dice);
        let notes = self.folder.join(number.to_string());
        let mut command = Command::new(&self.plugin)
            .arg(&notes)
            .start_timeout(PATIENCE)
            .serve::<HomeService>(Arc::new(House::default()));
        if violence == Violence::WhileLoading {
            let after = dice.time(LOADS_WITHIN);
            command = command.arg(format!("--die-after={}", after.as_micros()));
        }
        match command.load().and_then(|peer| peer.proxy::<WorkProxy>()) {
            Ok(work) => self.suffer(work, violence, &mut dice, ledger),
            Err(error) if violence == Violence::WhileLoading && violence.explains(&error) => {}
            Err(error) => ledger.wrong(format!("the load failed: {:?} {error:?}", error.kind())),
        }
        let noted = std::fs::read(&notes).unwrap_or_default();
        // It may have died before it made it.
        let _ = std::fs::remove_file(&notes);
        let settled = ledger.settle(&noted);
        settled.map(|tally| (violence, tally)).map_err(|wrong| format!("{violence:?}: {wrong}"))
    }

    /// What happens to a plugin that is loaded, until its process has ended.
    fn suffer(&self, work: WorkProxy, violence: Violence, dice: &mut Dice, ledger: &Ledger) {
        let victim = work.peer().pid().and_then(Victim::new);
        let stop = AtomicBool::new(false);
        let (canceller, to_cancel) = channel::<(CancelToken, Duration)>();
        std::thread::scope(|scope| {
            let traffic = |part| Traffic {
                work: work.clone(),
                ledger,
                dice: Dice::new(part, 0),
                violence,
                canceller: canceller.clone(),
                pause: self.pause,
            };
            for _ in 0..self.threads {
                let traffic = traffic(dice.roll());
                scope.spawn(|| traffic.run(&stop));
            }
            scope.spawn(move || {
                for (token, after) in to_cancel {
                    std::thread::sleep(after);
                    token.cancel();
                }
            });
            let last = traffic(dice.roll());
            // The one that cancels ends with the last that may ask it to.
            drop(canceller);
            std::thread::sleep(dice.time(self.peace));
            let signal = |signal| victim.iter().for_each(|victim| victim.signal(signal));
            match violence {
                Violence::Kill => signal(Signal::KILL),
                Violence::Terminate => signal(Signal::TERM),
                Violence::StopAndKill => {
                    signal(Signal::STOP);
                    std::thread::sleep(dice.time(STOPPED_FOR));
                    signal(Signal::KILL);
                }
                Violence::Pause => {
                    signal(Signal::STOP);
                    std::thread::sleep(dice.time(STOPPED_FOR));
                    signal(Signal::CONT);
                    std::thread::sleep(dice.time(STOPPED_FOR));
                    stop.store(true, Ordering::Relaxed);
                }
                Violence::WhileStopping => {
                    let kill_after = dice.time(STOPPED_FOR);
                    scope.spawn(move || {
                        std::thread::sleep(kill_after);
                        signal(Signal::KILL);
                    });
                    stop_it(&work, violence, ledger);
                }
                Violence::Stop => stop_it(&work, violence, ledger),
                // It kills itself.
                Violence::WhileLoading => {}
                Violence::Segfault
                | Violence::Abort
                | Violence::Exit
                | Violence::CloseOutput
                | Violence::HalfFrame => {}
            }
            match violence.act() {
                Some(how) => last.end_by(how),
                None => drop(last),
            }
        });
        // Its process has ended when this returns.
        stop_it(&work, violence, ledger);
    }
}

/// Stops a plugin, and waits for its end.
fn stop_it(work: &WorkProxy, violence: Violence, ledger: &Ledger) {
    if let Err(error) = work.peer().stop(PATIENCE) {
        if !violence.explains(&error) {
            ledger.wrong(format!("the stop failed: {:?} {error:?}", error.kind()));
        }
    }
}

/// How long a load or a stop may take: the machine has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A load takes about as long, or less.
const LOADS_WITHIN: Duration = Duration::from_millis(4);

/// How long a process is kept stopped, at most.
const STOPPED_FOR: Duration = Duration::from_millis(4);
