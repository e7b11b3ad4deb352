//! What a process has, again and again, and what becomes of it.

use std::fmt::Write as _;
use std::time::Duration;

use super::histogram::Histogram;

/// What was measured at one point in time, while nothing was under way but the neighbour's calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Since the beginning.
    pub at: Duration,
    /// Memory of the host, in KiB.
    pub host: u64,
    /// Memory of the neighbour, in KiB.
    pub neighbour: u64,
    /// Open descriptors of the host.
    pub fds: usize,
    /// Threads of the host that the runtime has made.
    pub threads: usize,
    /// Processes that the host has started, zombies included.
    pub children: usize,
    /// How many of these are zombies.
    pub zombies: usize,
    /// How many plugins have ended.
    pub lives: u64,
    /// The 99th percentile of the neighbour's small calls since the sample before.
    pub p99: Duration,
}

/// All samples of a run. Memory for them is taken at the beginning, so that it does not seem to leak.
#[derive(Debug)]
pub struct Samples {
    planned: Duration,
    samples: Vec<Sample>,
    /// The neighbour's calls in the first and in the last tenth of the time.
    early: Histogram,
    late: Histogram,
}

/// A value that is followed over time.
type Value = fn(&Sample) -> f64;

impl Samples {
    /// For a run that takes so long, with a sample in each `every`.
    pub fn new(planned: Duration, every: Duration) -> Samples {
        let count = planned.as_nanos().div_ceil(every.as_nanos()) as usize + 2;
        let mut samples = vec![Sample { at: Duration::MAX, ..Sample::default() }; count];
        samples.clear();
        let (early, late) = (Histogram::default(), Histogram::default());
        Samples { planned, samples, early, late }
    }

    /// Takes one, and what the neighbour's calls took since the one before.
    pub fn add(&mut self, mut sample: Sample, latencies: &Histogram) {
        sample.p99 = latencies.quantile(0.99);
        if sample.at <= self.planned / 10 {
            self.early.add(latencies);
        }
        if sample.at >= self.planned * 9 / 10 {
            self.late.add(latencies);
        }
        self.samples.push(sample);
    }

    /// The samples after the first tenth, in which what is kept for ever is made.
    fn warm(&self) -> &[Sample] {
        let cold = self.samples.iter().take_while(|sample| sample.at < self.planned / 10).count();
        &self.samples[cold..]
    }

    /// How much a value grows in an hour, after the first tenth: least squares.
    pub fn slope(&self, value: Value) -> f64 {
        let warm = self.warm();
        let hours = |sample: &Sample| sample.at.as_secs_f64() / 3600.0;
        let count = warm.len().max(1) as f64;
        let mean_at = warm.iter().map(hours).sum::<f64>() / count;
        let mean = warm.iter().map(value).sum::<f64>() / count;
        let (mut above, mut below) = (0.0, 0.0);
        for sample in warm {
            let at = hours(sample) - mean_at;
            above += at * (value(sample) - mean);
            below += at * at;
        }
        if below == 0.0 { 0.0 } else { above / below }
    }

    /// How much a value has grown after the first tenth, by that slope.
    pub fn growth(&self, value: Value) -> f64 {
        let first = self.warm().first().map_or(Duration::ZERO, |sample| sample.at);
        let last = self.warm().last().map_or(Duration::ZERO, |sample| sample.at);
        self.slope(value) * (last - first).as_secs_f64() / 3600.0
    }

    /// What has grown that must not.
    ///
    /// Descriptors, threads and processes are counted while nothing is under way, so any growth is a leak. Memory
    /// moves a little whatever happens: 1 MB in an hour, which is `MEMORY_PER_HOUR`, would be a third of a byte for
    /// each of the neighbour's calls or some hundred bytes for each plugin that has lived. A growth of less
    /// than `MEMORY_AT_ALL` may come and go, and in less than `MEMORY_TAKES` nothing can be said.
    pub fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for (what, value, is_memory) in VALUES {
            let (slope, growth) = (self.slope(value), self.growth(value));
            let leaks_so = if is_memory {
                let is_told = self.planned >= MEMORY_TAKES;
                is_told && slope > MEMORY_PER_HOUR && growth > MEMORY_AT_ALL
            } else {
                growth.abs() > 0.0
            };
            if leaks_so {
                leaks.push(format!("{what}: {slope:+.1} an hour, {growth:+.1} so far"));
            }
        }
        leaks
    }

    /// All of it, as Markdown: twenty of the samples, the slopes, and the neighbour's calls.
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| minutes | host, KiB | neighbour, KiB | fds | threads | children | zombies | lives | p99, µs |\n\
             |--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        let step = self.samples.len().div_ceil(20).max(1);
        let last = self.samples.len().saturating_sub(1);
        for (index, sample) in self.samples.iter().enumerate() {
            if index % step == 0 || index == last {
                let Sample { at, host, neighbour, fds, threads, children, zombies, lives, p99 } =
                    *sample;
                let minutes = at.as_secs_f64() / 60.0;
                let micros = p99.as_micros();
                let _ = writeln!(
                    table,
                    "| {minutes:.1} | {host} | {neighbour} | {fds} | {threads} | {children} | {zombies} | {lives} | \
                     {micros} |"
                );
            }
        }
        table.push_str("| **an hour** |");
        for (_, value, _) in VALUES {
            let _ = write!(table, " {:+.1} |", self.slope(value));
        }
        table.push_str(" | |\n\n");
        let of = |share: f64| [&self.early, &self.late].map(|calls| calls.quantile(share));
        let ([early50, late50], [early99, late99]) = (of(0.5), of(0.99));
        let _ = write!(
            table,
            "The neighbour's small calls in the first and in the last tenth: median {early50:.0?} and {late50:.0?}, \
             99th percentile {early99:.0?} and {late99:.0?}",
        );
        let drift = late99.as_secs_f64() / early99.as_secs_f64() - 1.0;
        let _ = match drift.is_finite() {
            true => write!(table, " ({:+.0} %).", drift * 100.0),
            // Too short for one of them.
            false => write!(table, "."),
        };
        table
    }
}

/// What must not grow, and whether it is memory in KiB.
const VALUES: [(&str, Value, bool); 6] = [
    ("memory of the host", |sample| sample.host as f64, true),
    ("memory of the neighbour", |sample| sample.neighbour as f64, true),
    ("descriptors", |sample| sample.fds as f64, false),
    ("threads", |sample| sample.threads as f64, false),
    ("children", |sample| sample.children as f64, false),
    ("zombies", |sample| sample.zombies as f64, false),
];

/// How much memory may grow in an hour, in KiB.
const MEMORY_PER_HOUR: f64 = 1024.0;

/// How much it may grow in any case, in KiB.
const MEMORY_AT_ALL: f64 = 512.0;

/// How long a run must take to say something about memory: a tenth of it is not enough to get warm otherwise.
const MEMORY_TAKES: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    /// An hour of samples with a value of each.
    fn hour(host: fn(u64) -> u64, fds: fn(u64) -> usize) -> Samples {
        let mut samples = Samples::new(Duration::from_secs(3600), Duration::from_secs(10));
        for number in 0..=360 {
            let at = Duration::from_secs(number * 10);
            let (host, fds) = (host(number), fds(number));
            samples.add(Sample { at, host, fds, ..Sample::default() }, &Histogram::default());
        }
        samples
    }

    #[test]
    fn what_grows_is_found_and_what_moves_is_not() {
        assert!(hour(|_| 5000, |_| 10).leaks().is_empty());
        assert!(hour(|number| 5000 + number % 7 * 100, |_| 10).leaks().is_empty());
        // Two megabytes in the first tenth are what is kept for ever.
        assert!(hour(|number| 5000 + number.min(36) * 60, |_| 10).leaks().is_empty());
        let grows = hour(|number| 5000 + number * 6, |_| 10);
        assert!((grows.slope(|sample| sample.host as f64) - 2160.0).abs() < 1.0);
        assert_eq!(grows.leaks().len(), 1, "{:?}", grows.leaks());
        assert_eq!(hour(|_| 5000, |number| 10 + usize::from(number > 300)).leaks().len(), 1);
        println!("{}", grows.table());
    }
}
