//! What a plugin prints, as lines.

use super::source::{Said, Source};

/// Cuts what is read from a plugin's stderr into lines, and has each become an event.
pub(crate) struct Lines {
    source: Source,
    /// The begin of a line whose end has not come: less than the longest.
    line: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(source: Source) -> Lines {
        Lines { source, line: Vec::new() }
    }

    /// Takes what was read. Runs no code of users, and may be called under a lock.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let piece = &bytes[..bytes.len().min(LONGEST_LINE - self.line.len())];
            let newline = piece.iter().position(|&byte| byte == b'\n');
            let len = newline.unwrap_or(piece.len());
            self.line.extend_from_slice(&piece[..len]);
            bytes = &bytes[len + usize::from(newline.is_some())..];
            if newline.is_some() || self.line.len() == LONGEST_LINE {
                self.end();
            }
        }
    }

    /// Nothing more comes, or a line has ended. Empty lines say nothing.
    pub(crate) fn end(&mut self) {
        if !self.line.is_empty() {
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            self.source.say(Said::Line(line));
        }
    }
}

/// The longest line that comes in one piece, in bytes.
const LONGEST_LINE: usize = 8 << 10;
