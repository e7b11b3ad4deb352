//! Times of calls, and ratios of them round by round.

use std::time::{Duration, Instant};

use anyhow::Result;

/// The times of a candidate, in microseconds.
#[derive(Default)]
pub struct Samples {
    all: Vec<f64>,
    round_medians: Vec<f64>,
}

impl Samples {
    /// Times calls one by one. A round that does not count warms up.
    pub fn round(
        &mut self,
        calls: usize,
        counted: bool,
        pause: Duration,
        mut call: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            let begin = Instant::now();
            call()?;
            times.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        if counted {
            self.round_medians.push(median(&times));
            self.all.append(&mut times);
        }
        Ok(())
    }

    /// Prints a line: the median, the 99th percentile, and the median over the rounds of the ratio to another
    /// candidate's median in the same round.
    pub fn print(&self, name: &str, to: &Samples) {
        let ratios: Vec<_> = self
            .round_medians
            .iter()
            .zip(&to.round_medians)
            .map(|(own, other)| own / other)
            .collect();
        println!(
            "  {name:<42}{:>10.2}{:>10.2}{:>10.2}",
            median(&self.all),
            percentile(&self.all, 0.99),
            median(&ratios)
        );
    }
}

/// The middle one of the values.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = ((sorted.len() as f64 - 1.0) * part).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
