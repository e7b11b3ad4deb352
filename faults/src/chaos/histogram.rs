//! How long many things took, in little memory.

use std::time::Duration;

/// Counts of times, in buckets that are 1/16 of a power of two wide: so a quantile is wrong by 6 % at most.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
}

/// Buckets of each power of two.
const STEPS: u64 = 16;

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; 64 * STEPS as usize] }
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, time: Duration) {
        let nanos = (time.as_nanos() as u64).max(STEPS);
        let power = u64::from(nanos.ilog2());
        let step = (nanos >> (power - STEPS.ilog2() as u64)) - STEPS;
        self.counts[(power * STEPS + step) as usize] += 1;
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time that this share of all did not exceed, or zero if there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in (0..).zip(&self.counts) {
            seen += count;
            if seen >= rank {
                let (power, step) = (bucket / STEPS, bucket % STEPS);
                return Duration::from_nanos((STEPS + step + 1) << (power - STEPS.ilog2() as u64));
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_right_within_a_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        assert_eq!(histogram.count(), 1000);
        for (share, exact) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let micros = histogram.quantile(share).as_secs_f64() * 1e6;
            assert!(micros >= exact && micros < exact * 1.07, "{share}: {micros}");
        }
        histogram.record(Duration::ZERO);
        histogram.record(Duration::from_secs(1 << 30));
    }
}
