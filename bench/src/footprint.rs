//! What idle children cost their host: memory and threads.
//!
//! A process of its own measures that for each candidate, so that nothing else has left its traces there.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::candidates::{self, Candidate, Session};
use crate::memory;
use crate::program;
use crate::row::Row;
use crate::work::{Job, Kind, Work};

/// The argument with which this program is such a process. A candidate's name follows.
pub const FOOTPRINT: &str = "--footprint";

const CHILDREN: usize = 100;

/// The names of the figures, which are works in the CSV.
pub const FIGURES: [(&str, &str); 3] = [
    ("memory-host", "what each of 100 idle children costs its host, KiB (PSS without files)"),
    ("threads-1", "threads of a host with one idle child"),
    ("threads-100", "threads of a host with 100 idle children"),
];

/// A row for each of [`FIGURES`].
pub fn measure(candidate: &dyn Candidate) -> Result<Vec<Row>> {
    let name = candidate.name();
    let output = Command::new(program::own()?).args([FOOTPRINT, name]).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{name} with {CHILDREN} children failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let row = |((figure, _), value): (&(&str, &str), &str)| -> Result<Row> {
        let value = value.parse().with_context(|| format!("{value} is no number"))?;
        Ok(Row::single(figure, name, value))
    };
    FIGURES.iter().zip(printed.split_whitespace()).map(row).collect()
}

/// The process that measures: prints the figures.
pub fn print(name: &str) -> Result<()> {
    let all = candidates::all();
    let candidate =
        all.iter().find(|one| one.name() == name).with_context(|| format!("there is no {name}"))?;
    let own = std::process::id();
    let once = Job { kind: Kind::Echo, calls: 1, ..Work::Memory.job(true) };
    let start = || -> Result<Box<dyn Session>> {
        let mut session = candidate.start(Work::Memory)?;
        session.run(&once)?;
        Ok(session)
    };
    // What is there for the first child only is not counted for each.
    let mut sessions = vec![start()?];
    let (memory_with_one, threads_with_one) =
        (memory::pss_without_files(own)?, memory::threads(own)?);
    while sessions.len() <= CHILDREN {
        sessions.push(start()?);
    }
    let each = (memory::pss_without_files(own)? - memory_with_one) / CHILDREN as f64;
    println!("{each:.1} {threads_with_one} {}", memory::threads(own)?);
    Ok(())
}
