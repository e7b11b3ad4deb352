//! Medians, percentiles and ratios.

/// The middle one of the values, or NaN where there are none.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The smallest value that is no less than `part` of all of them, or NaN where there are none.
pub fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = ((sorted.len() as f64 - 1.0) * part).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// NaN where there are no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The median over the rounds of the ratio to another candidate in the same round.
pub fn ratio(own: &[f64], other: &[f64]) -> f64 {
    let ratios: Vec<_> = own.iter().zip(other).map(|(own, other)| own / other).collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_in_whatever_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn one_in_a_hundred_is_above_the_99th_percentile() {
        let values: Vec<f64> = (0..=1000).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.99), 990.0);
        assert_eq!(percentile(&values, 0.0), 0.0);
        assert_eq!(percentile(&values, 1.0), 1000.0);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        // The machine was ten times slower in the second round: the medians say 2.0 or 20, the rounds 2.0.
        assert_eq!(ratio(&[2.0, 20.0, 2.2], &[1.0, 10.0, 1.0]), 2.0);
        // A round that only one of them has does not count.
        assert_eq!(ratio(&[2.0, 9.0], &[1.0]), 2.0);
    }

    #[test]
    fn the_mean_counts_each_value() {
        assert_eq!(mean(&[1.0, 2.0, 6.0]), 3.0);
        assert!(mean(&[]).is_nan());
    }
}
