//! Who is given what a plugin prints, line by line.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use super::command::Command;
use super::stderr::{StderrLines, Tail};
use crate::error::{Error, ErrorKind, OneLine, Result};
use crate::panics;
use crate::sys::thread;

/// What a host wants done with the lines that a plugin prints.
#[derive(Clone, Default)]
pub(crate) struct Sinks {
    forward: bool,
    callback: Option<Arc<Mutex<Callback>>>,
}

type Callback = dyn FnMut(&str) + Send;

/// The lines of one process, as long as nobody else sees to it that they end.
pub(crate) struct Lines(Option<Arc<Tail>>);

impl Command {
    /// Also prints each line that the plugin prints, on stderr or with `println!`, to the stderr of the host. Default:
    /// no. The last of it is in errors in any case.
    ///
    /// Control characters are escaped. A thread of its own prints: while the host's stderr takes nothing, lines are lost
    /// as in [`Peer::stderr_lines`](crate::Peer::stderr_lines), and so are lines that it refuses. The plugin never waits
    /// for it, and nor does the end of the host, which may lose the last lines.
    pub fn forward_stderr(mut self, forward: bool) -> Command {
        self.settings.sinks.forward = forward;
        self
    }

    /// Calls a function with each line that the plugin prints, on stderr or with `println!`, from its start to its end,
    /// also if its load fails. The lines are those of [`Peer::stderr_lines`](crate::Peer::stderr_lines).
    ///
    /// It runs on a thread of its own, which ends after the plugin: if it is slow, or never returns, it misses lines,
    /// and nobody waits for it. After a panic it is called with the next line.
    ///
    /// ```no_run
    /// # fn main() -> plug::Result<()> {
    /// let plugin = plug::Command::new("path/to/kv-plugin")
    ///     .on_stderr_line(|line| eprintln!("kv: {}", line.escape_debug()))
    ///     .load()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_stderr_line(mut self, callback: impl FnMut(&str) + Send + 'static) -> Command {
        self.settings.sinks.callback = Some(Arc::new(Mutex::new(callback)));
        self
    }
}

impl Sinks {
    /// Begins to hand out what a process prints, until it is said that no more comes.
    pub(crate) fn follow(&self, tail: &Arc<Tail>) -> Result<Lines> {
        let lines = Lines(Some(tail.clone()));
        if self.forward {
            on_a_thread(tail.lines(), forward)?;
        }
        if let Some(callback) = self.callback.clone() {
            on_a_thread(tail.lines(), move |line| {
                // A panic has been reported by the hook. It concerns nobody else, and the next line may do better.
                let mut callback = callback.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = panics::catch("the callback of Command::on_stderr_line", || callback(line));
            })?;
        }
        Ok(lines)
    }
}

fn on_a_thread(lines: StderrLines, mut take: impl FnMut(&str) + Send + 'static) -> Result<()> {
    let run = move || lines.for_each(|line| take(&line));
    thread::spawn("plug-stderr", run).map(drop).map_err(|error| {
        let message = "cannot start the thread for what it prints";
        Error::of_kind(ErrorKind::Spawn, message).with_source(error)
    })
}

/// Prints a line. Where that is not possible there is nobody to tell.
fn forward(line: &str) {
    let line = format!("{}\n", OneLine(line));
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

impl Lines {
    /// Leaves it to the keeper of the process to say when no more comes.
    pub(crate) fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(tail) = &self.0 {
            tail.end();
        }
    }
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let callback = self.callback.is_some();
        f.debug_struct("Sinks")
            .field("forward", &self.forward)
            .field("callback", &callback)
            .finish()
    }
}
