//! The table of the README, between two comments that mark its place.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{readable, short};
use crate::row::Row;
use crate::work::Work;

const BEGIN: &str = "<!-- bench: begin. This part is written by `--readme`. -->";
const END: &str = "<!-- bench: end -->";

/// Replaces the table in `README.md` of that folder.
pub fn update(root: &Path, rows: &[Row], one_core: bool) -> Result<()> {
    let path = root.join("README.md");
    let before = std::fs::read_to_string(&path).context("cannot read README.md")?;
    let after = replace(&before, &text(rows, one_core))
        .with_context(|| format!("README.md has no line {BEGIN:?} with {END:?} after it"))?;
    std::fs::write(&path, after).context("cannot write README.md")
}

/// None if the marks are not there.
fn replace(readme: &str, with: &str) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{with}\n{END}{after}"))
}

fn text(rows: &[Row], one_core: bool) -> String {
    let option = if one_core { " --one-core" } else { "" };
    let place = if one_core { "All processes on one core" } else { "Processes on any core" };
    format!(
        "{place}. Medians, with the ratio to the raw pipe of the same round in brackets.\n\n{}\n\
         ```text\ncargo run --release --manifest-path bench/Cargo.toml --{option} --readme\n```\n\n\
         <picture>\n  \
         <source media=\"(prefers-color-scheme: dark)\" srcset=\"docs/speed-dark.svg\">\n  \
         <img alt=\"The same figures as bars\" src=\"docs/speed-light.svg\">\n\
         </picture>\n",
        table(rows)
    )
}

fn table(rows: &[Row]) -> String {
    let columns: Vec<_> = Work::ALL.iter().filter_map(|&work| Some((work, head(work)?))).collect();
    let heads: String = columns.iter().map(|(_, head)| format!(" {head} |")).collect();
    let mut table = format!("| |{heads}\n|---|{}\n", "--:|".repeat(columns.len()));
    for name in candidates(rows) {
        let cells = columns.iter().map(|&(work, _)| format!(" {} |", cell(rows, work, name)));
        table += &format!("| {name} |{}\n", cells.collect::<String>());
    }
    table
}

/// In the order of the results, each once.
pub fn candidates(rows: &[Row]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.candidate.as_str()) {
            names.push(&row.candidate);
        }
    }
    names
}

/// The head of a work's column, if it has one.
fn head(work: Work) -> Option<&'static str> {
    Some(match work {
        Work::Echo64 => "64 B echo, µs",
        Work::Echo64Paused => "64 B after a pause, µs",
        Work::Echo64Rare => return None,
        Work::Echo64X32 => "32 callers, calls/s",
        Work::Echo1M => "1 MiB echo, µs",
        Work::Echo64M => "64 MiB echo, ms",
        Work::Stream64 => "64 B items/s",
        Work::Stream64K => "64 KiB items/s",
        Work::Start => "start to first reply, ms",
        Work::Memory => "idle child, MiB",
    })
}

fn cell(rows: &[Row], work: Work, candidate: &str) -> String {
    let same = |row: &&Row| row.work == work.name() && row.candidate == candidate;
    let Some(row) = rows.iter().find(same) else { return String::new() };
    let value = match work {
        Work::Echo64X32 | Work::Stream64 | Work::Stream64K => return short(row.calls_per_s),
        Work::Echo64M | Work::Start => row.median_us / 1e3,
        Work::Memory => row.median_us / 1024.0,
        _ => row.median_us,
    };
    format!("{} ({})", readable(value), readable(row.x_pipe))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |work: &str, candidate: &str, median_us, x_pipe| Row {
            x_pipe,
            calls_per_s: 1e6 / median_us,
            ..Row::single(work, candidate, median_us)
        };
        vec![
            row("echo64", "pipe", 2.0, 1.0),
            row("echo64", "plug", 2.5, 1.25),
            row("echo64-x32", "plug", 4.0, 0.5),
            row("memory", "plug", 1536.0, 1.5),
            Row::single("threads-1", "plug", 2.0),
        ]
    }

    #[test]
    fn candidates_are_lines_and_works_are_columns() {
        let table = table(&rows());
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(lines.iter().all(|line| line.matches('|').count() == 11), "{table}");
        assert_eq!(lines[2], format!("| pipe | 2.00 (1.00) |{}", "  |".repeat(8)));
        assert!(lines[3].starts_with("| plug | 2.50 (1.25) |  | 250 k |"), "{table}");
        assert!(lines[3].ends_with(" 1.50 (1.50) |"), "{table}");
    }

    #[test]
    fn only_what_is_between_the_marks_changes_however_often() {
        let readme = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = replace(&readme, "new\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(replace(&once, "new\n").unwrap(), once);
        assert_eq!(replace("before\nafter\n", "new"), None);
    }

    #[test]
    fn the_readme_has_the_marks() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        assert!(replace(&readme, "").is_some(), "the marks are missing");
    }
}
