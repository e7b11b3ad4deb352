//! Letting other callers run before a write, so that it takes their requests along.
//!
//! Where many threads call at once, replies that come together wake them together. The first that runs would write its
//! request alone and wake the other side for that. If it lets the others run before, one write here, and one read and one
//! write there, are for all of them.

use std::sync::MutexGuard;
use std::thread;
use std::time::Instant;

use super::link::{Link, State};
use super::yielding::Yielding;

impl Link {
    /// Lets others run before what is queued is written, where they may have more. It is for who has the role of
    /// writing: what they have is left to that one.
    pub(super) fn gather<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        gathering: &Yielding,
    ) -> MutexGuard<'a, State> {
        let before = state.core.queued();
        let others = state.waiters.len() + state.waiters.take_served();
        if others < MANY || before >= ENOUGH || !gathering.is_due() {
            return state;
        }
        drop(state);
        let begin = Instant::now();
        thread::yield_now();
        let took = begin.elapsed();
        let state = self.lock();
        gathering.note(took, state.core.queued() > before);
        state
    }
}

/// How many threads wait at least, or have waited until just now, where one more may be about to call.
const MANY: usize = 3;

/// With so many bytes a write is worth its while.
const ENOUGH: usize = 16 << 10;
