//! The results, for the terminal.

use super::readable;
use crate::footprint::FIGURES;
use crate::row::Row;
use crate::work::Work;

pub fn print(work: Work, rows: &[Row]) {
    println!("\n{}: {}", work.name(), work.about());
    let (value, p99) =
        if work == Work::Memory { ("median KiB", "p99 KiB") } else { ("median µs", "p99 µs") };
    line("", [value, p99, "× pipe", "calls/s", "CPU µs/call", "switches/call"].map(str::to_owned));
    for row in rows {
        let values = [
            row.median_us,
            row.p99_us,
            row.x_pipe,
            row.calls_per_s,
            row.cpu_us_per_call,
            row.switches_per_call,
        ];
        line(&row.candidate, values.map(readable));
    }
}

/// The figures beside `memory`: a line for each candidate, a column for each figure.
pub fn print_footprint(rows: &[Row]) {
    println!();
    FIGURES.iter().for_each(|(name, about)| println!("{name}: {about}"));
    println!("  {:<16}{}", "", FIGURES.map(|(name, _)| format!("{name:>14}")).concat());
    for of_one in rows.chunk_by(|one, other| one.candidate == other.candidate) {
        let values: String = of_one.iter().map(|row| format!("{:>14}", row.median_us)).collect();
        println!("  {:<16}{values}", of_one[0].candidate);
    }
}

fn line(name: &str, [median, p99, ratio, rate, cpu, switches]: [String; 6]) {
    println!("  {name:<16}{median:>12}{p99:>12}{ratio:>9}{rate:>12}{cpu:>13}{switches:>15}");
}
