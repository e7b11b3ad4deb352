//! How the tour shows what it does.

use std::io;

use plug::Peer;
use plug_example::Event;

use crate::terminal::{Style, Terminal};

pub(crate) struct Show<'a> {
    terminal: &'a mut Terminal,
}

impl Show<'_> {
    pub(crate) fn new(terminal: &mut Terminal) -> Show<'_> {
        Show { terminal }
    }

    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        self.terminal.paragraph(Style::Plain, 0, text)
    }

    pub(crate) fn heading(&mut self, text: &str) -> io::Result<()> {
        self.terminal.heading(text)
    }

    pub(crate) fn explain(&mut self, text: &str) -> io::Result<()> {
        self.terminal.paragraph(Style::Plain, 2, text)
    }

    /// A line that a plugin printed.
    pub(crate) fn printed(&mut self, line: &str) -> io::Result<()> {
        self.terminal.paragraph(Style::Faint, 4, &format!("| {line}"))
    }

    /// A plugin that was loaded.
    pub(crate) fn loaded(&mut self, call: &str, plugin: &Peer) -> io::Result<()> {
        self.explain(&format!("{call}({:?})", plugin.name()))?;
        let text = format!("process {}, offers {}", pid(plugin), plugin.services().join(", "));
        self.terminal.paragraph(Style::Good, 4, &text)
    }

    /// A call and what became of it.
    pub(crate) fn outcome(&mut self, call: &str, outcome: plug::Result<String>) -> io::Result<()> {
        self.explain(call)?;
        let error = match outcome {
            Ok(value) => return self.terminal.paragraph(Style::Good, 4, &value),
            Err(error) => error,
        };
        self.terminal.paragraph(Style::Bad, 4, &error.to_string())?;
        let (kind, code, delivery) = (error.kind(), error.code(), error.delivery());
        let what = format!("kind: {kind:?}, code: {code:?}, delivery: {delivery:?}");
        self.terminal.paragraph(Style::Faint, 4, &what)
    }
}

pub(crate) fn pid(plugin: &Peer) -> String {
    plugin.pid().map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
}

pub(crate) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn quoted(bytes: Vec<u8>) -> String {
    format!("{:?}", text(bytes))
}

pub(crate) fn event(event: Event) -> String {
    let existing = if event.existing { ", existing" } else { "" };
    format!("{:?}: {}{existing}", event.key, quoted(event.value))
}
