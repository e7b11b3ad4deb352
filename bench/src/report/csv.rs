//! Results in a file.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::row::Row;

const HEADER: &str =
    "work,candidate,median_us,p99_us,x_pipe,calls_per_s,cpu_us_per_call,switches_per_call";

pub fn write(path: &Path, rows: &[Row]) -> Result<()> {
    std::fs::write(path, text(rows)).with_context(|| format!("cannot write {}", path.display()))
}

pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is no file of --csv", path.display()))
}

fn text(rows: &[Row]) -> String {
    let mut text = format!("{HEADER}\n");
    for row in rows {
        let values = [
            row.median_us,
            row.p99_us,
            row.x_pipe,
            row.calls_per_s,
            row.cpu_us_per_call,
            row.switches_per_call,
        ];
        let value = |value: f64| if value.is_nan() { String::new() } else { format!("{value:.3}") };
        let line = [row.work.clone(), row.candidate.clone()].into_iter().chain(values.map(value));
        text += &line.collect::<Vec<_>>().join(",");
        text.push('\n');
    }
    text
}

fn parse(text: &str) -> Result<Vec<Row>> {
    let mut lines = text.lines();
    ensure!(lines.next() == Some(HEADER), "its first line is not {HEADER}");
    lines.map(|line| row(line).with_context(|| format!("in the line {line}"))).collect()
}

fn row(line: &str) -> Result<Row> {
    let columns: Vec<_> = line.split(',').collect();
    let [work, candidate, values @ ..] = columns.as_slice() else { bail!("columns are missing") };
    let value = |text: &&str| if text.is_empty() { Ok(f64::NAN) } else { text.parse::<f64>() };
    let values = values.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    let [median_us, p99_us, x_pipe, calls_per_s, cpu_us_per_call, switches_per_call] = values[..]
    else {
        bail!("there are {} numbers, not six", values.len());
    };
    Ok(Row {
        work: (*work).to_owned(),
        candidate: (*candidate).to_owned(),
        median_us,
        p99_us,
        x_pipe,
        calls_per_s,
        cpu_us_per_call,
        switches_per_call,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_can_be_read() {
        let whole = Row {
            p99_us: 9.125,
            x_pipe: 1.25,
            calls_per_s: 400_000.0,
            cpu_us_per_call: 2.5,
            switches_per_call: 2.0,
            ..Row::single("echo64", "plug", 2.5)
        };
        let text = text(&[whole.clone(), Row::single("threads-1", "plug", 2.0)]);
        assert_eq!(
            text,
            "work,candidate,median_us,p99_us,x_pipe,calls_per_s,cpu_us_per_call,switches_per_call\n\
             echo64,plug,2.500,9.125,1.250,400000.000,2.500,2.000\n\
             threads-1,plug,2.000,,,,,\n"
        );
        let rows = parse(&text).unwrap();
        assert_eq!(rows[0], whole);
        assert_eq!((rows[1].median_us, rows[1].p99_us.is_nan()), (2.0, true));
    }

    #[test]
    fn other_files_are_refused_and_the_line_is_named() {
        assert!(parse("work,candidate\n").is_err());
        let error = parse(&format!("{HEADER}\necho64,plug,x,,,,,\n")).unwrap_err().to_string();
        assert!(error.contains("echo64,plug,x"), "{error}");
        assert!(parse(&format!("{HEADER}\necho64,plug,1\n")).is_err());
    }
}
