//! Where what a host logs comes from: one of its plugins.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message as _;
use tracing::Span;
use tracing::dispatcher::{self, WeakDispatch};
use tracing::subscriber::NoSubscriber;

use super::event::{emit, emit_line};
use super::queue::{QUEUE, Queue};
use super::record::Record;
use super::span::CallSpan;

/// A plugin, as the source of records and lines. Clones are the same source.
#[derive(Clone)]
pub(crate) struct Source(Arc<Inner>);

struct Inner {
    plugin: String,
    queue: &'static Queue,
    /// The subscriber of the thread that loaded the plugin, where that had one of its own.
    subscriber: Option<WeakDispatch>,
    /// How much was dropped since something was last emitted.
    lost: AtomicU64,
}

/// Something that a plugin has said.
pub(super) enum Said {
    /// An encoded [`Record`], and the span of its call.
    Record(Vec<u8>, CallSpan),
    /// A line of its stderr.
    Line(String),
}

impl Source {
    /// The plugin with this name. Its records go to the subscriber of the thread that calls this, or, if that has none,
    /// to the global default of the time when they come.
    pub(crate) fn new(plugin: &str) -> Source {
        Source::to(plugin, &QUEUE)
    }

    pub(super) fn to(plugin: &str, queue: &'static Queue) -> Source {
        let subscriber = dispatcher::get_default(|current| {
            (!current.is::<NoSubscriber>()).then(|| current.downgrade())
        });
        Source(Arc::new(Inner {
            plugin: plugin.to_owned(),
            queue,
            subscriber,
            lost: AtomicU64::new(0),
        }))
    }

    /// Takes the payload of a log frame, and the span of its call. It becomes an event soon, on another thread: this
    /// runs no code of users, and may be called under a lock.
    pub(crate) fn record(&self, payload: &[u8], span: &CallSpan) {
        self.say(Said::Record(payload.to_vec(), span.clone()));
    }

    pub(super) fn say(&self, said: Said) {
        if !self.0.queue.push(self, said) {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes it an event.
    pub(super) fn emit(&self, said: &Said) {
        let plugin = &self.0.plugin;
        let lost = self.0.lost.swap(0, Ordering::Relaxed);
        match said {
            Said::Record(payload, span) => match Record::decode(&payload[..]) {
                Ok(record) => {
                    let span = span.get();
                    self.in_subscriber(span, || emit(plugin, &record, span, lost));
                }
                Err(_) => drop(self.0.lost.fetch_add(lost + 1, Ordering::Relaxed)),
            },
            Said::Line(line) => self.in_subscriber(None, || emit_line(plugin, line, lost)),
        }
    }

    /// Runs `emit` where the subscriber of the span is the default, in which alone the span's id means something.
    fn in_subscriber(&self, span: Option<&Span>, emit: impl FnOnce()) {
        let of_span = span.and_then(|span| span.with_subscriber(|(_, of)| of.clone()));
        let of_loader = || self.0.subscriber.as_ref().and_then(WeakDispatch::upgrade);
        match of_span.or_else(of_loader) {
            Some(subscriber) => dispatcher::with_default(&subscriber, emit),
            // An event that meets no subscriber at all would have `tracing` note that nobody wants events like it,
            // also where the only subscriber is that of another thread.
            None if dispatcher::get_default(|global| global.is::<NoSubscriber>()) => {}
            None => emit(),
        }
    }
}
