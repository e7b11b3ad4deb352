//! Log records: a plugin's `tracing` events become events of its host's `tracing`.
//!
//! In the plugin, [`LogSubscriber`] makes events into records and hands them to the connection ([`start`]). In the host,
//! each plugin is a [`Source`], whose records and lines wait in a queue for the one thread that makes them events. What
//! the host's subscribers want ([`wanted_level`]) travels the other way.
//!
//! Without the feature `tracing`, `off.rs` takes the place of this module, so that the driver need not care.

mod event;
mod fields;
mod lines;
mod queue;
mod record;
mod source;
mod span;
mod spans;
mod subscriber;
#[cfg(test)]
mod tests;
mod text;
mod uplink;
mod wish;

use std::time::Duration;

use prost::Message as _;

pub(crate) use event::warn;
pub(crate) use lines::Lines;
pub(crate) use source::Source;
pub(crate) use span::CallSpan;
pub use subscriber::LogSubscriber;
pub(crate) use uplink::SendRecord;

use queue::QUEUE;
use record::{Level, Record};
use uplink::UPLINK;

/// The features that a hello lists for this.
pub(crate) const FEATURES: &[&str] = &["log"];

// ---- in a plugin

/// Begins to send what happens in this process to its host. `level` is that of the host's hello.
///
/// Makes [`LogSubscriber`] the global default, unless there is one. Runs code of subscribers: not under a lock.
pub(crate) fn start(level: i32, send: SendRecord) {
    UPLINK.connect(send);
    UPLINK.set_level(Level::from_wire(level));
    if tracing::subscriber::set_global_default(LogSubscriber::new()).is_err() {
        // Theirs may ask for the level.
        tracing_core::callsite::rebuild_interest_cache();
    }
}

/// Takes the payload of a level frame. What is no `Record` is ignored, as an unknown frame would be.
///
/// Subscribers are told soon, on another thread: this may be called under a lock.
pub(crate) fn set_level(payload: &[u8]) {
    let Ok(wish) = Record::decode(payload) else { return };
    if UPLINK.set_level(Level::from_wire(wish.level)) {
        QUEUE.call(tracing_core::callsite::rebuild_interest_cache);
    }
}

// ---- in a host

/// The least important level that this process wants to hear of, for its hello and level frames. 0: nothing.
///
/// The first call runs code of subscribers: not under a lock.
pub(crate) fn wanted_level() -> i32 {
    wish::level() as i32
}

/// Has `tell` called, on the thread for log records, each time that [`wanted_level`] may have changed. Once a process.
pub(crate) fn on_level_change(tell: fn()) {
    wish::on_change(tell);
}

/// The payload of a level frame.
pub(crate) fn level_payload(level: i32) -> Vec<u8> {
    Record { level, ..Record::default() }.encode_to_vec()
}

/// Waits until what has arrived so far has become events, but not longer than `limit`. Says whether it has.
pub(crate) fn flush(limit: Duration) -> bool {
    QUEUE.flush(limit)
}
