//! Results beside earlier ones.

use super::readable;
use crate::row::Row;

/// Prints, for all that is in both, the medians and the ratios to the pipe, then and now.
pub fn print(earlier: &[Row], now: &[Row]) {
    println!("\ncompared with the earlier run:");
    println!(
        "  {:<30}{:>12}{:>12}{:>9}{:>11}{:>11}{:>9}",
        "", "µs then", "µs now", "change", "× then", "× now", "change"
    );
    for (then, now) in pairs(earlier, now) {
        println!(
            "  {:<30}{:>12}{:>12}{:>9}{:>11}{:>11}{:>9}",
            format!("{} {}", now.work, now.candidate),
            readable(then.median_us),
            readable(now.median_us),
            change(then.median_us, now.median_us),
            readable(then.x_pipe),
            readable(now.x_pipe),
            change(then.x_pipe, now.x_pipe),
        );
    }
}

fn pairs<'a>(earlier: &'a [Row], now: &'a [Row]) -> impl Iterator<Item = (&'a Row, &'a Row)> {
    now.iter().filter_map(|now| {
        let same = |then: &&Row| then.work == now.work && then.candidate == now.candidate;
        Some((earlier.iter().find(same)?, now))
    })
}

fn change(then: f64, now: f64) -> String {
    let percent = (now / then - 1.0) * 100.0;
    if percent.is_finite() { format!("{percent:+.1} %") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_one_of_the_runs_has_is_not_compared() {
        let then = [Row::single("echo64", "plug", 2.0), Row::single("start", "plug", 5.0)];
        let now = [Row::single("echo64", "plug", 3.0), Row::single("echo64", "pipe", 1.0)];
        let pairs: Vec<_> = pairs(&then, &now).collect();
        assert_eq!(pairs.len(), 1);
        assert_eq!(change(pairs[0].0.median_us, pairs[0].1.median_us), "+50.0 %");
    }

    #[test]
    fn there_is_no_change_of_what_was_not_measured() {
        assert_eq!(change(f64::NAN, 1.0), "");
    }
}
