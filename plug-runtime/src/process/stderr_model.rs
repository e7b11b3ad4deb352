//! The lines of what a plugin prints, done naively: to be compared with `stderr.rs`.

use std::sync::Arc;

use super::stderr::{KEPT, LONGEST_LINE, Tail};
use crate::choices::Choices;

/// Everything that was printed, and how far a reader has come.
#[derive(Default)]
struct Model {
    printed: Vec<u8>,
    read: usize,
    dropped: usize,
    has_ended: bool,
}

impl Model {
    /// The next line, if it is there.
    fn next(&mut self) -> Option<String> {
        let oldest = self.printed.len().saturating_sub(KEPT);
        self.dropped += oldest.saturating_sub(self.read);
        self.read = self.read.max(oldest);
        let rest = &self.printed[self.read..];
        let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = &line[..line.len().min(LONGEST_LINE)];
        let is_whole = line.len() == LONGEST_LINE || line.len() < rest.len();
        if !is_whole && (!self.has_ended || line.is_empty()) {
            return None;
        }
        let ends = line.len() < LONGEST_LINE && line.len() < rest.len();
        self.read += line.len() + usize::from(ends);
        Some(String::from_utf8_lossy(line).into_owned())
    }

    /// What is kept, without control characters.
    fn text(&self) -> String {
        let oldest = self.printed.len().saturating_sub(KEPT);
        let text = String::from_utf8_lossy(&self.printed[oldest..]).into_owned();
        let escaped = |char: char| match char {
            '\n' | '\t' => char.to_string(),
            char if char.is_control() => char.escape_default().to_string(),
            char => char.to_string(),
        };
        text.trim_end().chars().map(escaped).collect()
    }
}

/// A plugin prints what `data` says, while somebody reads.
pub(crate) fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let tail = Arc::new(Tail::default());
    let mut lines = tail.lines();
    let mut model = Model::default();
    while !choices.are_over() {
        let printed = match choices.below(6) {
            0 | 1 => {
                let len = choices.below(64);
                choices.take(len).to_vec()
            }
            // As long as lines are, and what is kept.
            2 => vec![choices.pick(b"x\n\t\xc3\0"); LONGEST_LINE - 4 + choices.below(8)],
            3 => b"123\n56\n".repeat(choices.below(KEPT / 6)),
            // Never where the iterator would wait.
            _ => {
                if let Some(line) = model.next() {
                    assert_eq!(lines.next(), Some(line));
                }
                continue;
            }
        };
        if model.printed.len() > MOST {
            break;
        }
        tail.push(&printed);
        model.printed.extend(printed);
    }
    let text = tail.text();
    assert_eq!(text, model.text());
    assert!(!text.contains(|char: char| char.is_control() && char != '\n' && char != '\t'));
    tail.end();
    model.has_ended = true;
    while let Some(line) = model.next() {
        assert_eq!(lines.next(), Some(line));
    }
    assert_eq!(lines.next(), None);
    assert_eq!(lines.dropped_bytes(), model.dropped as u64);
}

/// As much as is printed at most, in bytes.
const MOST: usize = KEPT / 2 * 5;
