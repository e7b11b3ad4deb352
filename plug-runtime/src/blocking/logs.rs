//! Log records on their way between a connection and `crate::log`.

use std::sync::{Arc, Once};

use super::link::{Link, State};
use super::watcher;
use crate::call;
use crate::log;

/// Has hosts say what they want to hear of whenever that changes. Not under a lock: it runs code of subscribers.
pub(super) fn follow_level() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| log::on_level_change(push_level));
}

fn push_level() {
    let level = log::wanted_level();
    for link in watcher::links() {
        link.send_level(level);
    }
}

impl Link {
    // ---- in a host

    /// Says which records this host wants, if it has not said so.
    pub(super) fn send_level(self: &Arc<Self>, level: i32) {
        let mut state = self.lock();
        if state.log_level.is_some_and(|sent| sent != level) {
            state.log_level = Some(level);
            state.core.set_level(&log::level_payload(level));
            drop(self.flush_or_leave(state));
        }
    }

    /// Takes a record that a plugin has made during a call.
    pub(super) fn take_record(&self, state: &State, call: u64, record: &[u8]) {
        if let Some(source) = self.log.get() {
            let span = state.spans.get(&call).cloned().unwrap_or_default();
            source.record(record, &span);
        }
    }

    // ---- in a plugin

    /// Begins to send what this process logs, if the host wants that. Not under a lock.
    pub(super) fn send_records(self: &Arc<Self>) {
        let state = self.lock();
        if !state.core.features().log {
            return;
        }
        let level = state.core.peer().map_or(0, |host| host.level);
        drop(state);
        let link = Arc::downgrade(self);
        log::start(
            level,
            Box::new(move |record| {
                let Some(link) = link.upgrade() else { return false };
                let call = call::current().and_then(|call| call.id_within(&link)).unwrap_or(0);
                let mut state = link.lock();
                let taken = state.core.log(call, &record);
                // It goes with the next reply, or with the next tick.
                state.workers.note_unsent();
                link.keep_ticking(&mut state);
                taken
            }),
        );
    }
}
