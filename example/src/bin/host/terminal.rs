//! Output that fits a terminal, and is plain where it goes to a file or a pipe.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

/// Stdout.
pub(crate) struct Terminal {
    is_terminal: bool,
    colour: bool,
    width: usize,
}

/// How a piece of text looks.
#[derive(Clone, Copy)]
pub(crate) enum Style {
    Plain,
    Heading,
    Faint,
    Good,
    Bad,
}

impl Terminal {
    pub(crate) fn new() -> Terminal {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        // https://no-color.org: set and not empty, whatever its value.
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| size.ws_col);
        let width = match columns {
            // Not a terminal, or one that does not know.
            0 => 80,
            columns => usize::from(columns).clamp(40, 100),
        };
        Terminal { is_terminal, colour: is_terminal && !unwanted && !dumb, width }
    }

    /// A text as it is.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        self.bytes(text.as_bytes())
    }

    /// A value that may hold anything: as it is, or on a terminal such that it can do no harm.
    pub(crate) fn value(&mut self, value: &[u8]) -> io::Result<()> {
        if !self.is_terminal {
            return self.bytes(value);
        }
        let mut text = printable(&String::from_utf8_lossy(value));
        text.push('\n');
        self.text(&text)
    }

    /// A line that starts a section.
    pub(crate) fn heading(&mut self, text: &str) -> io::Result<()> {
        let text = self.styled(text, Style::Heading);
        self.text(&format!("\n{text}\n"))
    }

    /// Text, indented and broken into lines between words.
    pub(crate) fn paragraph(&mut self, style: Style, indent: usize, text: &str) -> io::Result<()> {
        let mut all = String::new();
        for line in text.lines() {
            for line in wrap(&printable(line), self.width.saturating_sub(indent)) {
                let _ = writeln!(all, "{:indent$}{}", "", self.styled(&line, style));
            }
        }
        self.text(&all)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    fn styled(&self, text: &str, style: Style) -> String {
        let code = match style {
            Style::Heading => "1",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Bad => "31",
            Style::Plain => return text.to_owned(),
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The text with control characters escaped: what a plugin says must not command the terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' | '\t' => printable.push(char),
            char if char.is_control() => printable.extend(char.escape_default()),
            char => printable.push(char),
        }
    }
    printable
}

/// Lines of at most `width` characters, except for words that are longer.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let is_first = line.is_empty();
        if !is_first && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        } else if !is_first {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one two", 6), ["one", "two"]);
        assert_eq!(wrap("a-very-long-word b", 4), ["a-very-long-word", "b"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn escape_codes_do_not_reach_the_terminal() {
        assert_eq!(printable("\x1b[31mred\x07\n"), "\\u{1b}[31mred\\u{7}\n");
    }
}
