//! The handshake, before anybody else uses the connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lead::{Lead, Wakes};
use super::link::Link;
use super::writing::Flushed;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::{Event, Output};
use crate::sys::pipe::{self, Wait};

impl Link {
    /// Sends what is queued and takes what arrives until the other side's hello is there.
    ///
    /// What `beside` lists is waited for as well, and `look` is called whenever something else than this has happened:
    /// it may end the handshake with an error.
    pub(super) fn greet<'w>(
        self: &Arc<Self>,
        beside: impl Fn() -> Vec<Wait<'w>>,
        mut look: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut state = self.lock();
        let Some(mut lead) = Lead::take(self, &mut state, None) else {
            return Err(Error::of_kind(ErrorKind::Shutdown, "the connection is over"));
        };
        let mut gone = None;
        // When a process that has closed its output must have ended, which says more.
        let mut end_by: Option<Instant> = None;
        let mut has_news = false;
        loop {
            let flushed;
            (state, flushed) = self.flush(state, usize::MAX);
            let greeted = matches!(state.core.poll_event(), Some(Event::Greeted));
            if greeted {
                lead.release(&mut state, &mut Wakes::default());
                return Ok(());
            }
            if let Some(failure) = state.core.failure().map(Error::duplicate) {
                // Dropping it would take the lock, which this thread has.
                lead.release(&mut state, &mut Wakes::default());
                return Err(failure);
            }
            if let Some(error) = gone {
                lead.release(&mut state, &mut Wakes::default());
                return Err(error);
            }
            let mut until = state.core.poll_timeout();
            let input_ended = state.input_ended;
            let writer = state.writer.take();
            drop(state);
            if let Err(error) = if has_news { look() } else { Ok(()) } {
                state = self.lock();
                state.writer = writer;
                // What it has said before it ended says more.
                if let Some(reader) = lead.reader.as_mut() {
                    self.drain(&mut state, reader);
                }
                gone = Some(error);
                continue;
            }
            let output = writer.as_ref().and_then(|writer| writer.output.as_ref());
            let mut waits = beside();
            let count_beside = waits.len();
            if let (Flushed::Full, Some(output)) = (flushed, output) {
                waits.push(Wait::writable(output));
            }
            // An input that has ended is ready for ever.
            if input_ended {
                let now = Instant::now();
                if now >= *end_by.get_or_insert(now + ENDS_AFTER_OUTPUT) {
                    state = self.lock();
                    state.writer = writer;
                    let message = "it has closed its stdout before its hello: is it a plugin?";
                    gone = Some(Error::of_kind(ErrorKind::Handshake, message));
                    continue;
                }
                // Where nothing announces the exit that must follow, it is looked for.
                let soon = now + LOOK_EVERY;
                until = Some(until.map_or(soon, |until| until.min(soon)));
            } else {
                waits.push(Wait::readable(&self.input));
            }
            let ready = pipe::wait(&waits, until);
            state = self.lock();
            state.writer = writer;
            let readable = !input_ended && ready.last().is_some_and(|&readable| readable);
            // Where nothing is ready, the time is over, or the system could not wait.
            has_news = ready[..count_beside].contains(&true) || !ready.contains(&true);
            if let (true, Some(reader)) = (readable, lead.reader.as_mut()) {
                let read = pipe::read(&self.input, &mut reader.buffer).map(Some);
                self.take_input(&mut state, reader, read);
            }
            state.core.handle_timeout(Instant::now(), &mut Output::default());
        }
    }
}

/// How often to look after a process whose output has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long a process may live on that has closed its output before its hello.
const ENDS_AFTER_OUTPUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Connection, Hello, Side};

    fn hello() -> Hello {
        Hello::new(String::new(), String::new())
    }

    #[test]
    fn a_process_that_closes_its_output_and_lives_on_is_not_waited_for() {
        let (input, their_output) = pipe::pair().unwrap();
        let (_their_input, output) = pipe::pair().unwrap();
        drop(their_output);
        let greet_by = Some(Instant::now() + Duration::from_secs(60));
        let core = Connection::new(Side::Host, hello(), greet_by);
        let link = Link::new(core, input, output, true).unwrap();
        let error = link.greet(Vec::new, || Ok(())).unwrap_err();
        assert!(error.message().contains("has closed its stdout"), "{error}");
    }

    /// An exit may be noticed before what was said is read.
    #[test]
    fn what_a_process_said_before_its_end_counts() {
        let said = |say: fn(&mut Connection)| {
            let (input, their_output) = pipe::pair().unwrap();
            let (_their_input, output) = pipe::pair().unwrap();
            let mut theirs = Connection::new(Side::Plugin, hello(), None);
            say(&mut theirs);
            let mut bytes = Vec::new();
            theirs.poll_bytes(&mut bytes);
            rustix::io::write(&their_output, &bytes).unwrap();
            let core = Connection::new(Side::Host, hello(), None);
            let link = Link::new(core, input, output, true).unwrap();
            let (exit, _) = pipe::pair().unwrap();
            let look = || Err(Error::of_kind(ErrorKind::Handshake, "it has ended"));
            link.greet(|| vec![Wait::readable(&exit)], look)
        };
        said(Connection::accept).unwrap();
        let refused = said(|theirs| {
            theirs.refuse(&Error::of_kind(ErrorKind::Status, "no space"));
        });
        assert!(refused.unwrap_err().message().contains("no space"));
        assert_eq!(said(|_| {}).unwrap_err().message(), "it has ended");
    }
}
