//! What is going on, on stderr: one line that changes on a terminal, a line for each work elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use crate::work::Work;

pub struct Progress {
    begun: Instant,
    terminal: bool,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { begun: Instant::now(), terminal: std::io::stderr().is_terminal() }
    }

    pub fn work(&self, work: Work) {
        if !self.terminal {
            eprintln!("{} ({:.0} s)", work.name(), self.begun.elapsed().as_secs_f64());
        }
    }

    /// `round` 0 warms up.
    pub fn round(&self, work: Work, round: usize, rounds: usize, candidate: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.show(&format!("{} {round}/{rounds} {candidate} ({seconds:.0} s)", work.name()));
    }

    pub fn doing(&self, what: &str) {
        if self.terminal {
            self.show(what);
        } else {
            eprintln!("{what} ({:.0} s)", self.begun.elapsed().as_secs_f64());
        }
    }

    /// Makes room for what is printed next.
    pub fn clear(&self) {
        self.show("");
    }

    fn show(&self, text: &str) {
        if self.terminal {
            let mut stderr = std::io::stderr().lock();
            // Nothing depends on it.
            let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
        }
    }
}
