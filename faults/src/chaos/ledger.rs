//! Every call of a plugin's life: that it ended once, as it may, and ran as often as it may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The calls of one plugin. Each has a number, which goes with it as metadata.
#[derive(Debug, Default)]
pub struct Ledger {
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    issued: u64,
    /// Calls that have not ended, and what they are.
    open: BTreeMap<u64, &'static str>,
    ended: Vec<(u64, &'static str, Ending)>,
    wrong: Vec<String>,
}

/// How a call ended, as far as that says whether it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With what it was to deliver.
    Right,
    /// Well, but it need not have run: one-way and on its way, or a stream of which nothing was read.
    OnItsWay,
    /// With an error that promises that it did not run and will not.
    NotSent,
    /// With an error that promises nothing.
    MayHaveRun,
}

/// How many calls ended in which way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Well.
    pub right: u64,
    /// Failed, not sent.
    pub not_sent: u64,
    /// Failed, may have run.
    pub may_have_run: u64,
    /// Ran, by the plugin's own notes.
    pub ran: u64,
}

impl Ledger {
    /// Numbers a call that is about to be made.
    pub fn issue(&self, what: &'static str) -> u64 {
        let mut calls = self.lock();
        calls.issued += 1;
        let id = calls.issued;
        calls.open.insert(id, what);
        id
    }

    /// Notes how a call ended.
    pub fn end(&self, id: u64, ending: Ending) {
        let mut calls = self.lock();
        match calls.open.remove(&id) {
            Some(what) => calls.ended.push((id, what, ending)),
            None => calls.wrong.push(format!("call {id} ended that was not open")),
        }
    }

    /// Notes what must not be.
    pub fn wrong(&self, what: String) {
        self.lock().wrong.push(what);
    }

    /// The calls that have not ended.
    pub fn open(&self) -> String {
        format!("{:?}", self.lock().open)
    }

    /// Compares with the notes of the plugin, whose process has ended.
    ///
    /// # Errors
    ///
    /// All that was wrong, a line each.
    pub fn settle(&self, notes: &[u8]) -> Result<Tally, String> {
        let mut calls = self.lock();
        let Calls { issued, open, ended, wrong } = &mut *calls;
        if notes.len() % 8 != 0 {
            wrong.push(format!("the plugin's notes end within a number: {} bytes", notes.len()));
        }
        let mut ran = BTreeSet::new();
        for note in notes.chunks_exact(8) {
            let id = note.try_into().map(u64::from_le_bytes).unwrap_or_default();
            if !ran.insert(id) {
                wrong.push(format!("call {id} ran twice"));
            }
            if id == 0 || id > *issued {
                wrong.push(format!("call {id} ran, which was never made"));
            }
        }
        if !open.is_empty() {
            wrong.push(format!("these calls have not ended: {open:?}"));
        }
        let mut tally = Tally { ran: ran.len() as u64, ..Tally::default() };
        for &(id, what, ending) in &*ended {
            match (ending, ran.contains(&id)) {
                (Ending::Right, false) => {
                    wrong.push(format!("{what} {id} delivered, but never ran"));
                }
                (Ending::NotSent, true) => {
                    wrong.push(format!("{what} {id} was reported as not sent, but ran"));
                }
                (Ending::Right | Ending::OnItsWay, _) => tally.right += 1,
                (Ending::NotSent, false) => tally.not_sent += 1,
                (Ending::MayHaveRun, _) => tally.may_have_run += 1,
            }
        }
        if wrong.is_empty() { Ok(tally) } else { Err(wrong.join("\n")) }
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: Tally) {
        self.right += other.right;
        self.not_sent += other.not_sent;
        self.may_have_run += other.may_have_run;
        self.ran += other.ran;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a ledger says about one call that ended so and ran so often.
    fn settled(ending: Ending, times: usize) -> Result<Tally, String> {
        let ledger = Ledger::default();
        let id = ledger.issue("echo");
        ledger.end(id, ending);
        ledger.settle(&id.to_le_bytes().repeat(times))
    }

    #[test]
    fn it_finds_what_must_not_be() {
        for (ending, times) in [
            (Ending::Right, 0),
            (Ending::NotSent, 1),
            (Ending::Right, 2),
            (Ending::MayHaveRun, 2),
            (Ending::OnItsWay, 2),
        ] {
            settled(ending, times).unwrap_err();
        }
        for (ending, times) in [
            (Ending::Right, 1),
            (Ending::NotSent, 0),
            (Ending::MayHaveRun, 0),
            (Ending::MayHaveRun, 1),
            (Ending::OnItsWay, 0),
            (Ending::OnItsWay, 1),
        ] {
            settled(ending, times).unwrap();
        }
        let ledger = Ledger::default();
        let id = ledger.issue("echo");
        assert!(ledger.settle(&[]).unwrap_err().contains("not ended"));
        ledger.end(id, Ending::NotSent);
        ledger.end(id, Ending::NotSent);
        assert!(ledger.settle(&[]).unwrap_err().contains("not open"));
    }
}
