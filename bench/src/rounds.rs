//! Measures candidates at a work, round by round: in each round every candidate has its turn, so that what disturbs the
//! machine disturbs all.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::candidates::{Candidate, Session};
use crate::memory;
use crate::progress::Progress;
use crate::row::Row;
use crate::stats::{mean, median, percentile, ratio};
use crate::usage::{Processes, Usage};
use crate::work::{Job, Kind, Work};

/// What one candidate has done, one value for each round, but for `samples`.
#[derive(Default)]
struct Measured {
    samples: Vec<f64>,
    medians: Vec<f64>,
    rates: Vec<f64>,
    cpu: Vec<f64>,
    switches: Vec<f64>,
}

/// The rows of a work. The first of the candidates is what the others are compared with.
pub fn measure(
    work: Work,
    candidates: &[&dyn Candidate],
    quick: bool,
    progress: &Progress,
) -> Result<Vec<Row>> {
    let (job, rounds) = (work.job(quick), work.rounds(quick));
    let mut turns = Vec::new();
    for &candidate in candidates {
        let session = open(candidate, work).with_context(|| about(candidate, work))?;
        turns.push((candidate, session, Measured::default()));
    }
    for round in 0..=rounds {
        for (candidate, session, measured) in &mut turns {
            progress.round(work, round, rounds, candidate.name());
            let mut take_turn = || -> Result<()> {
                let before = usage(&job, &**session)?;
                let times = session.run(&job)?;
                let after = usage(&job, &**session)?;
                if round > 0 {
                    measured.add(&job, times, before.zip(after));
                }
                Ok(())
            };
            take_turn().with_context(|| about(*candidate, work))?;
        }
    }
    let base = turns.first().map(|(_, _, measured)| measured.medians.clone()).unwrap_or_default();
    Ok(turns
        .iter()
        .map(|(candidate, _, measured)| measured.row(work, candidate.name(), &base))
        .collect())
}

fn open(candidate: &dyn Candidate, work: Work) -> Result<Box<dyn Session + '_>> {
    match work.kind() {
        Kind::Start if !candidate.is_foreign() => Ok(Box::new(Starting { candidate })),
        Kind::Memory => Ok(Box::new(Idle { candidate })),
        _ => candidate.start(work),
    }
}

fn about(candidate: &dyn Candidate, work: Work) -> String {
    format!("{} cannot do {}", candidate.name(), work.name())
}

/// None where it cannot be told.
fn usage(job: &Job, session: &dyn Session) -> Result<Option<Usage>> {
    let processes = session.processes();
    match (job.kind, processes.host) {
        (Kind::Memory, _) | (Kind::Start, Some(_)) => Ok(None),
        (Kind::Start, None) => Usage::with_ended_children().map(Some),
        _ => Usage::of(processes).map(Some),
    }
}

impl Measured {
    fn add(&mut self, job: &Job, mut times: Vec<f64>, usage: Option<(Usage, Usage)>) {
        self.medians.push(median(&times));
        if job.kind != Kind::Memory {
            self.rates.push(1e6 / mean(&times));
        }
        self.samples.append(&mut times);
        if let Some((before, after)) = usage {
            let used = after.since(before);
            self.cpu.push(used.cpu.as_secs_f64() * 1e6 / job.calls as f64);
            self.switches.push(used.switches as f64 / job.calls as f64);
        }
    }

    fn row(&self, work: Work, candidate: &str, base: &[f64]) -> Row {
        Row {
            work: work.name().to_owned(),
            candidate: candidate.to_owned(),
            median_us: median(&self.samples),
            p99_us: percentile(&self.samples, 0.99),
            x_pipe: ratio(&self.medians, base),
            calls_per_s: median(&self.rates),
            cpu_us_per_call: median(&self.cpu),
            switches_per_call: median(&self.switches),
        }
    }
}

/// A call of this starts a child and has it answer once.
struct Starting<'a> {
    candidate: &'a dyn Candidate,
}

impl Session for Starting<'_> {
    fn processes(&self) -> Processes {
        Processes::default()
    }

    fn run(&mut self, job: &Job) -> Result<Vec<f64>> {
        let once = Job { kind: Kind::Echo, calls: 1, ..job.clone() };
        let (mut kept, mut times) = (Vec::new(), Vec::new());
        for _ in 0..job.calls {
            let begin = Instant::now();
            let mut session = self.candidate.start(Work::Start)?;
            session.run(&once)?;
            times.push(begin.elapsed().as_nanos() as f64 / 1e3);
            kept.push(session); // its end is not part of the start
        }
        Ok(times)
    }
}

/// A call of this looks at the memory of a child that has nothing to do.
struct Idle<'a> {
    candidate: &'a dyn Candidate,
}

impl Session for Idle<'_> {
    fn processes(&self) -> Processes {
        Processes::default()
    }

    fn run(&mut self, job: &Job) -> Result<Vec<f64>> {
        let mut session = self.candidate.start(Work::Memory)?;
        session.run(&Job { kind: Kind::Echo, calls: 1, ..job.clone() })?;
        // Long enough for whatever it does when nothing comes.
        thread::sleep(Duration::from_millis(100));
        let child = session.processes().child.context("it has no child")?;
        Ok(vec![memory::pss(child)?])
    }
}
