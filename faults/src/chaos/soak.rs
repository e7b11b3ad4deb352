//! R1 and R11: a long time, and a great many calls.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plug::{Command, Proxy as _};

use super::arena::{Arena, Folder};
use super::dice::Dice;
use super::life::Life;
use super::samples::{Sample, Samples};
use super::supervised::{Supervised, supervised};
use super::{ID, load_work};
use crate::census::{Census, rss};

/// Has plugins live and die for so long, each for some seconds, beside a neighbour, and one be killed and restarted again
/// and again. Every ten seconds all of them have ended, and what there is is measured. Returns a report.
///
/// # Errors
///
/// All that was wrong, or leaks.
pub fn soak(plugin: PathBuf, planned: Duration, seed: u64) -> Result<String, String> {
    let folder = Folder::new()?;
    let pause = Duration::from_millis(4);
    let peace = Duration::from_secs(3);
    let life = Life { plugin, folder: folder.path(), threads: 3, peace, pause };
    let (kept, mut dice) = (life.plugin.clone(), Dice::new(seed, u64::MAX));
    let mut restarted = Supervised::default();
    let mut arena = Arena::new(seed, 0, life, LANES)?;
    let mut samples = Samples::new(planned, EVERY);
    let begin = Instant::now();
    // Those that are made first are there before the first sample.
    let first = arena.live(|number| number < LANES as u64)?;
    drop(arena.neighbour().take_latencies());
    samples.add(sample(&arena, &first, begin)?, &arena.neighbour().take_latencies());
    let mut said = begin;
    while begin.elapsed() < planned {
        let until = (Instant::now() + EVERY).min(begin + planned);
        restarted.add(supervised(&kept, KILLS, &mut dice)?);
        // The last one is let go when it is time.
        let census = arena.live(|_| Instant::now() + SHORTEST < until)?;
        let latencies = arena.neighbour().take_latencies();
        let sample = sample(&arena, &census, begin)?;
        samples.add(sample, &latencies);
        if said.elapsed() > Duration::from_secs(59) {
            said = Instant::now();
            println!(
                "minute {:.0}: {} lives, host {} KiB, neighbour {} KiB, p99 {:?}",
                begin.elapsed().as_secs_f64() / 60.0,
                sample.lives,
                sample.host,
                sample.neighbour,
                latencies.quantile(0.99)
            );
        }
    }
    let progress = arena.progress();
    let report = format!(
        "{:.1} minutes, seed {seed}: {} lives: {:?}\ncalls: {:?}\none that is restarted: {restarted:?}\n\n{}",
        begin.elapsed().as_secs_f64() / 60.0,
        progress.count(),
        progress.lives,
        progress.calls,
        samples.table()
    );
    match samples.leaks() {
        leaks if leaks.is_empty() => Ok(report),
        leaks => Err(format!("{report}\n\nLeaks:\n{}", leaks.join("\n"))),
    }
}

fn sample(arena: &Arena, census: &Census, begin: Instant) -> Result<Sample, String> {
    Ok(Sample {
        at: begin.elapsed(),
        host: memory(std::process::id())?,
        neighbour: memory(arena.neighbour().pid())?,
        fds: census.fds.len(),
        threads: census.threads.len(),
        children: census.children.len(),
        zombies: census.zombies(),
        lives: arena.progress().count(),
        ..Sample::default()
    })
}

/// Makes so many small calls from two threads. Neither the host nor the plugin may grow by more than 1 MiB after the
/// first tenth. Returns a report.
///
/// # Errors
///
/// What was wrong.
pub fn calls(plugin: &Path, count: u64) -> Result<String, String> {
    let work = load_work(Command::new(plugin).arg("/dev/null"));
    let work = work.map_err(|error| format!("{error:?}"))?;
    let pid = work.peer().pid().ok_or("the plugin has no process")?;
    let begin = Instant::now();
    let mut sizes = Vec::with_capacity(11);
    for tenth in 0..10 {
        let share = count * (tenth + 1) / 10 - count * tenth / 10;
        std::thread::scope(|scope| {
            let caller = |share: u64, first: u64| {
                let work = work.clone();
                scope.spawn(move || {
                    for number in first..first + share {
                        let payload = number.to_le_bytes();
                        let work = work.with_metadata(ID, payload.to_vec());
                        let echoed = work.echo(payload).map_err(|error| format!("{error:?}"))?;
                        if echoed != payload {
                            return Err(format!("call {number} returned something else"));
                        }
                    }
                    Ok(())
                })
            };
            let first = tenth * (count / 10 + 1);
            let callers = [caller(share / 2, first), caller(share - share / 2, first + count)];
            callers.into_iter().try_for_each(|caller| {
                caller.join().unwrap_or_else(|_| Err("a caller panicked".to_owned()))
            })
        })?;
        sizes.push((memory(std::process::id())?, memory(pid)?));
    }
    let (took, (first, last)) = (begin.elapsed(), (sizes[0], sizes[9]));
    let report = format!(
        "{count} calls in {took:.1?}, {:.0} a second; KiB of host and plugin after each tenth: {sizes:?}",
        count as f64 / took.as_secs_f64()
    );
    let has_grown = last.0 > first.0 + CALLS_MAY_TAKE || last.1 > first.1 + CALLS_MAY_TAKE;
    work.peer().stop(Duration::from_secs(60)).map_err(|error| format!("{error:?}"))?;
    if has_grown { Err(format!("memory has grown: {report}")) } else { Ok(report) }
}

fn memory(pid: u32) -> Result<u64, String> {
    rss(pid).ok_or_else(|| format!("process {pid} is gone"))
}

/// How often the plugin that is restarted is killed in that time.
const KILLS: u64 = 20;

/// How many plugins live at once.
const LANES: usize = 3;

/// How often samples are taken.
const EVERY: Duration = Duration::from_secs(10);

/// For less than that, no plugin is started any more before a sample.
const SHORTEST: Duration = Duration::from_secs(1);

/// How much a process may grow by calls, in KiB, after the first tenth of them.
const CALLS_MAY_TAKE: u64 = 1024;
