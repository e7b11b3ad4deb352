//! A picture of the results: bars, in panels, once for light and once for dark pages.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::readable;
use crate::row::Row;
use crate::work::Work;

/// Colours of one picture.
struct Theme {
    file: &'static str,
    paper: &'static str,
    text: &'static str,
    faint: &'static str,
    /// Bars of this project, of raw pipes and memory, and of others.
    own: &'static str,
    raw: &'static str,
    other: &'static str,
}

const THEMES: [Theme; 2] = [
    Theme {
        file: "speed-light.svg",
        paper: "#ffffff",
        text: "#1f2328",
        faint: "#59636e",
        own: "#0969da",
        raw: "#8c959f",
        other: "#c9d1d9",
    },
    Theme {
        file: "speed-dark.svg",
        paper: "#0d1117",
        text: "#f0f6fc",
        faint: "#9198a1",
        own: "#4493f8",
        raw: "#6e7681",
        other: "#3d444d",
    },
];

/// A panel: a work, what its bars are, and how to get that from a row.
struct Panel {
    work: Work,
    title: &'static str,
    more_is_better: bool,
    value: fn(&Row) -> f64,
}

const PANELS: [Panel; 4] = [
    Panel {
        work: Work::Echo64,
        title: "64 B echo, µs (less is better)",
        more_is_better: false,
        value: |row| row.median_us,
    },
    Panel {
        work: Work::Echo1M,
        title: "1 MiB echo, µs (less is better)",
        more_is_better: false,
        value: |row| row.median_us,
    },
    Panel {
        work: Work::Echo64X32,
        title: "32 callers, thousand calls/s (more is better)",
        more_is_better: true,
        value: |row| row.calls_per_s / 1e3,
    },
    Panel {
        work: Work::Start,
        title: "start to first reply, ms (less is better)",
        more_is_better: false,
        value: |row| row.median_us / 1e3,
    },
];

const PANEL_WIDTH: f64 = 440.0;
const NAME_WIDTH: f64 = 110.0;
const BAR_WIDTH: f64 = 240.0;
const LINE: f64 = 20.0;
const TOP: f64 = 64.0;
const PANEL_HEAD: f64 = 34.0;

/// Writes the pictures to `docs` of that folder.
pub fn write(root: &Path, rows: &[Row], one_core: bool) -> Result<()> {
    for theme in &THEMES {
        let path = root.join("docs").join(theme.file);
        std::fs::write(&path, picture(rows, one_core, theme))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn picture(rows: &[Row], one_core: bool, theme: &Theme) -> String {
    let bars = PANELS.map(|panel| bars(rows, &panel));
    let height = |one: usize, other: usize| {
        PANEL_HEAD + LINE * bars[one].len().max(bars[other].len()) as f64 + 16.0
    };
    let (upper, lower) = (height(0, 1), height(2, 3));
    let (width, all) = (2.0 * PANEL_WIDTH + 20.0, TOP + upper + lower);
    let place = if one_core { "all processes on one core" } else { "processes on any core" };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {all}\" width=\"{width}\" height=\"{all}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>Calls by plug, by a raw pipe and by others</title>\n\
         <rect width=\"{width}\" height=\"{all}\" fill=\"{}\"/>\n\
         <text x=\"20\" y=\"28\" font-size=\"16\" font-weight=\"600\" fill=\"{}\">A call of a plugin</text>\n\
         <text x=\"20\" y=\"48\" fill=\"{}\">medians of one run, {place}; blue is plug, the darker grey is raw</text>\n",
        theme.paper, theme.text, theme.faint
    );
    for (index, panel) in PANELS.iter().enumerate() {
        let x = 20.0 + PANEL_WIDTH * (index % 2) as f64;
        let y = if index < 2 { TOP } else { TOP + upper };
        draw(&mut svg, (x, y), panel.title, &bars[index], theme);
    }
    svg + "</svg>\n"
}

/// Names and values, the best first.
fn bars<'a>(rows: &'a [Row], panel: &Panel) -> Vec<(&'a str, f64)> {
    let of_work = rows.iter().filter(|row| row.work == panel.work.name());
    let mut bars: Vec<_> = of_work
        .map(|row| (row.candidate.as_str(), (panel.value)(row)))
        .filter(|(_, value)| value.is_finite())
        .collect();
    bars.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    if panel.more_is_better {
        bars.reverse();
    }
    bars
}

fn draw(svg: &mut String, (x, y): (f64, f64), title: &str, bars: &[(&str, f64)], theme: &Theme) {
    let text = theme.text;
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{}\" font-weight=\"600\" fill=\"{text}\">{title}</text>",
        y + 18.0
    );
    let longest = bars.iter().map(|&(_, value)| value).fold(0.0, f64::max);
    let from = x + NAME_WIDTH;
    for (index, &(name, value)) in bars.iter().enumerate() {
        let top = y + PANEL_HEAD + LINE * index as f64;
        let width = (BAR_WIDTH * value / longest).max(1.0);
        let (colour, weight) = match name {
            "pipe" | "pipe-2core" | "shm" => (theme.raw, 400),
            own if own.starts_with("plug") => (theme.own, 600),
            _ => (theme.other, 400),
        };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-weight=\"{weight}\" fill=\"{text}\">{name}</text>\
             <rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"14\" rx=\"2\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{}\">{}</text>",
            from - 8.0,
            top + 11.5,
            from + width + 6.0,
            top + 11.5,
            theme.faint,
            readable(value)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_sorted_and_as_long_as_their_values() {
        let rows = [
            Row::single("echo64", "tonic", 40.0),
            Row::single("echo64", "plug", 10.0),
            Row::single("echo64-x32", "plug", 7.0), // has no calls/s, so no bar
        ];
        assert_eq!(bars(&rows, &PANELS[0]), [("plug", 10.0), ("tonic", 40.0)]);
        let svg = picture(&rows, true, &THEMES[0]);
        assert!(svg.contains("width=\"60.0\" height=\"14\" rx=\"2\" fill=\"#0969da\""), "{svg}");
        assert!(svg.contains("width=\"240.0\" height=\"14\" rx=\"2\" fill=\"#c9d1d9\""), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 3, "the paper and two bars: {svg}");
    }

    #[test]
    fn elements_are_closed_and_nothing_is_not_a_number() {
        for theme in &THEMES {
            let svg = picture(&[Row::single("start", "pipe", 760.0)], false, theme);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
            assert!(svg.ends_with("</svg>\n"));
        }
    }
}
