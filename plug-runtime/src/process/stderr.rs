//! What a plugin prints: read all the time, so that it never blocks; the end of it kept for errors.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::log::Lines;
use crate::sys::pipe;

/// The last 64 KiB that a plugin printed.
#[derive(Default)]
pub(crate) struct Tail {
    state: Mutex<State>,
    grown: Condvar,
    /// Makes log events of the lines, where the host wants that.
    events: Option<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// How many bytes came before the first of `bytes`.
    start: u64,
    ended: bool,
}

/// Whether more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    More,
    Empty,
    Ended,
    /// It cannot be read at the moment.
    Failed,
}

impl Tail {
    /// What a plugin prints, and whether its lines become log events.
    pub(crate) fn new(events: Option<Lines>) -> Tail {
        Tail { events: events.map(Mutex::new), ..Tail::default() }
    }

    /// Takes what is in the pipe now, up to 64 KiB. The pipe does not block.
    pub(crate) fn fill(&self, stderr: &OwnedFd) -> Fill {
        let mut buffer = [0; 16 << 10];
        for _ in 0..4 {
            match pipe::read(stderr, &mut buffer) {
                Ok(0) => return Fill::Ended,
                Ok(len) => self.push(&buffer[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Fill::Empty;
                }
                Err(_) => return Fill::Failed,
            }
        }
        Fill::More
    }

    /// Notes that no more will come: whoever iterates over lines gets the rest.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.grown.notify_all();
        self.log(Lines::end);
    }

    /// The lines kept, control characters escaped.
    pub(crate) fn text(&self) -> String {
        let mut state = self.lock();
        escape(state.bytes.make_contiguous())
    }

    /// The lines from now on, and those kept so far.
    pub(crate) fn lines(self: &Arc<Tail>) -> StderrLines {
        let position = self.lock().start;
        StderrLines { tail: self.clone(), position, dropped: 0 }
    }

    pub(super) fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.bytes.extend(bytes);
        let excess = state.bytes.len().saturating_sub(KEPT);
        state.bytes.drain(..excess);
        state.start += excess as u64;
        drop(state);
        self.grown.notify_all();
        self.log(|lines| lines.push(bytes));
    }

    fn log(&self, act: impl FnOnce(&mut Lines)) {
        if let Some(events) = &self.events {
            act(&mut events.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail").field("state", &self.state).finish_non_exhaustive()
    }
}

/// The lines that a plugin prints, on stderr or with `println!`, as an iterator that waits for the next
/// one: see [`Peer::stderr_lines`](crate::Peer::stderr_lines).
///
/// The plugin never waits for it: at most 64 KiB are kept, and who reads too slowly misses lines. A line
/// longer than 8 KiB comes in pieces; bytes that are not UTF-8 are replaced; control characters are left as they
/// are, so escape them before you print them to a terminal. Ends when the plugin has ended.
#[derive(Debug)]
pub struct StderrLines {
    tail: Arc<Tail>,
    /// How many bytes of everything printed were returned or dropped.
    position: u64,
    dropped: u64,
}

impl StderrLines {
    /// How many bytes were overwritten before this iterator came to them.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped
    }
}

impl Iterator for StderrLines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut state = self.tail.lock();
        loop {
            if self.position < state.start {
                self.dropped += state.start - self.position;
                self.position = state.start;
            }
            let from = usize::try_from(self.position - state.start).unwrap_or(usize::MAX);
            let rest = state.bytes.len().saturating_sub(from);
            let newline =
                state.bytes.iter().skip(from).take(LONGEST_LINE).position(|&b| b == b'\n');
            let (len, ending) = match newline {
                Some(len) => (len, 1),
                None if rest >= LONGEST_LINE => (LONGEST_LINE, 0),
                None if state.ended && rest > 0 => (rest, 0),
                None if state.ended => return None,
                None => {
                    state = self.tail.grown.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            let line: Vec<u8> = state.bytes.iter().skip(from).take(len).copied().collect();
            self.position += (len + ending) as u64;
            return Some(String::from_utf8_lossy(&line).into_owned());
        }
    }
}

/// Text that is safe to print: what is not UTF-8 is replaced, control characters are escaped, and lines
/// end where they ended.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for char in String::from_utf8_lossy(bytes).trim_end().chars() {
        match char {
            '\n' | '\t' => text.push(char),
            char if char.is_control() => {
                let _ = write!(text, "{}", char.escape_default());
            }
            char => text.push(char),
        }
    }
    text
}

/// How much of what a plugin prints is kept, in bytes. Less where it is fuzzed: there what matters is to come around
/// often, and a text of 64 KiB took a tenth of a second.
pub(super) const KEPT: usize = if cfg!(fuzzing) { 1 << 10 } else { 64 << 10 };

/// The longest line that is returned in one piece, in bytes.
pub(super) const LONGEST_LINE: usize = KEPT / 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s4_long_lines_come_in_pieces_and_what_is_not_text_is_replaced() {
        let tail = Arc::new(Tail::default());
        let mut lines = tail.lines();
        tail.push(b"one\n\xff\x00two\n");
        tail.push(&[b'x'; LONGEST_LINE + 3]);
        tail.push(b"\nlast");
        tail.end();
        assert_eq!(lines.next().unwrap(), "one");
        assert_eq!(lines.next().unwrap(), "\u{fffd}\0two");
        assert_eq!(lines.next().unwrap().len(), LONGEST_LINE);
        assert_eq!(lines.next().unwrap(), "xxx");
        assert_eq!(lines.next().unwrap(), "last");
        assert_eq!(lines.next(), None);
        assert_eq!(lines.dropped_bytes(), 0);
    }

    #[test]
    fn s3_only_the_end_is_kept_and_the_rest_is_counted() {
        let tail = Arc::new(Tail::default());
        let mut lines = tail.lines();
        for _ in 0..100 {
            tail.push(&[b'x'; 1024]);
        }
        tail.push(b"\nend\n");
        tail.end();
        assert_eq!(tail.text().len(), KEPT - 1, "without the last line's end");
        assert_eq!(lines.by_ref().last().unwrap(), "end");
        assert_eq!(lines.dropped_bytes(), (100 * 1024 + 5 - KEPT) as u64);
    }

    #[test]
    fn control_characters_are_escaped_in_errors() {
        assert_eq!(escape(b"\x1b[31mred\tand\n\x07\n\n"), "\\u{1b}[31mred\tand\n\\u{7}");
    }
}
