//! What a host's `tracing` wants to hear from plugins.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

use tracing::subscriber::Interest;
use tracing_core::callsite::{self, Callsite};
use tracing_core::metadata::{Kind, Metadata};

use super::event::{FIELDS, TARGET};
use super::queue::QUEUE;
use super::record::Level;

/// The least important level at which some subscriber may want events of plugins.
///
/// It asks the subscribers what interests them, each time they have changed: a filter such as `info,plug=debug` counts
/// as it would for an event.
pub(super) fn level() -> Level {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| PROBES.into_iter().for_each(|probe| callsite::register(probe)));
    known_level()
}

/// The same, as far as it is known: off before [`level`] was called.
pub(super) fn known_level() -> Level {
    let wanted = PROBES.into_iter().filter(|probe| probe.is_wanted.load(Ordering::Relaxed));
    wanted.map(|probe| Level::from(probe.metadata.level())).max().unwrap_or(Level::Off)
}

/// Has `tell` called, on the thread for log records, after [`level`] may have changed. Later calls change nothing.
pub(super) fn on_change(tell: fn()) {
    let _ = ON_CHANGE.set(tell);
}

static ON_CHANGE: OnceLock<fn()> = OnceLock::new();

/// Stands for the events of plugins of one level, which are the same to a subscriber, and learns what interests it.
struct Probe {
    metadata: Metadata<'static>,
    is_wanted: AtomicBool,
}

impl Callsite for Probe {
    /// `tracing` holds locks of its own here: nothing may be done that makes an event or waits for one.
    fn set_interest(&self, interest: Interest) {
        let is_wanted = !interest.is_never();
        if self.is_wanted.swap(is_wanted, Ordering::Relaxed) != is_wanted {
            if let Some(tell) = ON_CHANGE.get() {
                QUEUE.call(*tell);
            }
        }
    }

    fn metadata(&self) -> &Metadata<'_> {
        &self.metadata
    }
}

static PROBES: [&Probe; 5] = [&ERROR, &WARN, &INFO, &DEBUG, &TRACE];

macro_rules! probe {
    ($name:ident) => {
        static $name: Probe = Probe {
            metadata: tracing_core::metadata! {
                name: "plug log level",
                target: TARGET,
                level: tracing::Level::$name,
                fields: FIELDS,
                callsite: &$name,
                kind: Kind::EVENT,
            },
            is_wanted: AtomicBool::new(false),
        };
    };
}

probe!(ERROR);
probe!(WARN);
probe!(INFO);
probe!(DEBUG);
probe!(TRACE);
