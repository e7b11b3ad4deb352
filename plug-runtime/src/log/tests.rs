//! Both ends of log records, and what is between them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::with_default;
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_core::span::Current;

use super::*;

mod host;
mod plugin;

/// An event, as a subscriber has seen it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    level: String,
    target: String,
    fields: BTreeMap<&'static str, String>,
    parent: Option<u64>,
    is_contextual: bool,
}

impl Seen {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    fn message(&self) -> &str {
        self.field("message").unwrap_or_default()
    }
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// A subscriber that keeps what it sees, up to a level. Clones share it.
#[derive(Clone)]
struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    level: LevelFilter,
    /// Called with the text of each event before it is kept.
    hook: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Recorder {
    fn new(level: LevelFilter) -> Recorder {
        Recorder { seen: Arc::default(), level, hook: Arc::new(|_| ()) }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn messages(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.message().to_owned()).collect()
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Id::from_u64(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut seen = Seen {
            level: metadata.level().to_string(),
            target: metadata.target().to_owned(),
            parent: event.parent().map(Id::into_u64),
            is_contextual: event.is_contextual(),
            ..Seen::default()
        };
        event.record(&mut seen);
        (self.hook)(seen.message());
        self.seen.lock().unwrap().push(seen);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn current_span(&self) -> Current {
        Current::none()
    }
}

/// How long something may take that takes milliseconds.
const SOON: Duration = Duration::from_secs(30);

/// Runs a test in a process of its own: it is about what a process has one of. `name` is that of the test below `log`.
fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "PLUG_LOG_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let name = format!("log::tests::{name}");
    let output = child.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed:\n{printed}\n{complained}");
    assert!(printed.contains("1 passed"), "there is no test {name}:\n{printed}");
}
