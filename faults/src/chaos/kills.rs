//! P29: many plugins that die, one after the other and at once, and what that leaves.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::arena::{Arena, Folder};
use super::life::Life;
use crate::census::rss;

/// Has so many plugins live and die, of which the first has the number `from`, and returns a report.
///
/// # Errors
///
/// All that was wrong, with the seed and the number of the life that it happened in.
pub fn kills(plugin: PathBuf, count: u64, seed: u64, from: u64) -> Result<String, String> {
    let folder = Folder::new()?;
    let peace = Duration::from_millis(6);
    let life = Life { plugin, folder: folder.path(), threads: 3, peace, pause: Duration::ZERO };
    let mut arena = Arena::new(seed, from, life, LANES as usize)?;
    let begin = Instant::now();
    let (mut warm, mut at) = (None, from);
    let own = || rss(std::process::id()).ok_or("this process has no memory");
    while at < from + count {
        let end = (at + LANES).min(from + count);
        arena.live(|number| number < end)?;
        at = end;
        if warm.is_none() && (at - from) * 10 >= count {
            warm = Some(own()?);
        }
        if (at - from) % 5000 == 0 {
            println!("{} lives after {:?}", at - from, begin.elapsed());
        }
    }
    let (before, after) = (warm.unwrap_or_default(), own()?);
    let progress = arena.progress();
    let report = format!(
        "{} lives in {:.1?}, seed {seed}: {:?}\n\
         calls: {:?}\n\
         the neighbour's small calls: p99 {:?}\n\
         memory of the host: {before} KiB after a tenth, {after} KiB at the end",
        progress.count(),
        begin.elapsed(),
        progress.lives,
        progress.calls,
        arena.neighbour().take_latencies().quantile(0.99),
    );
    if after > before + GROWTH {
        return Err(format!("the host has grown by more than {GROWTH} KiB\n{report}"));
    }
    Ok(report)
}

/// How many plugins live at once.
const LANES: u64 = 4;

/// How much the host may grow, in KiB, whatever the number of lives.
const GROWTH: u64 = 2048;
