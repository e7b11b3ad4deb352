//! What a plugin's events are sent by.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Metadata};
use tracing_core::span::Current;

use super::spans::Spans;
use super::uplink::{UPLINK, Uplink};

/// Sends a plugin's `tracing` events to its host, where they become events in the host's `tracing`.
///
/// [`run`](crate::run) makes it the global default of a plugin that has none. So events that are made while the plugin
/// serves, or in [`Plugin::start`](crate::Plugin::start), reach the host without further ado:
///
/// ```no_run
/// # struct Store;
/// # impl plug::Plugin for Store { type Services = (); }
/// # fn main() -> plug::Result<()> {
/// plug::run(Store) // from here on, tracing::info!(path, "opened") is an event of the host
/// # }
/// ```
///
/// - **Levels**: nothing is sent that the host does not want, and events that it does not want cost no more than with
///   any subscriber. The host's wish follows its own subscribers while the plugin runs. A host whose plug-runtime lacks
///   the feature `tracing` wants nothing.
/// - **Fields** travel as text. Those of the spans around an event come behind its own, as `span.field`.
/// - **Limits**: a record takes at most 16 KiB, the fields of a span 1 KiB; longer text is cut off, and ends with an
///   ellipsis. Of 16 spans around an event the fields are sent, and of 4096 open spans they are kept.
/// - **A slow host** never makes an event wait. What finds the connection's queue full is dropped, and the next event
///   that gets through says how many there were. An event that is made while another is formatted is dropped too.
///
/// In the host, each becomes an event with the target `plug` and the fields `plugin`, `plugin_target` and `fields`, under
/// the span in which the host made the call that the plugin was serving. They come in order, but not at once: perhaps
/// after the call has returned.
///
/// # With another subscriber
///
/// A plugin that sets a global default before `run` keeps it, and nothing is sent. To have both, pass events on with
/// [`LogSubscriber::forward`]. With tracing-subscriber that is a layer of a few lines:
///
/// ```no_run
/// # struct Store;
/// # impl plug::Plugin for Store { type Services = (); }
/// use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
/// use tracing_subscriber::util::SubscriberInitExt as _;
///
/// struct ToHost;
///
/// impl<S: tracing::Subscriber> Layer<S> for ToHost {
///     fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
///         plug::LogSubscriber::forward(event);
///     }
/// }
///
/// fn main() -> plug::Result<()> {
///     tracing_subscriber::registry().with(ToHost).with(tracing_subscriber::fmt::layer()).init();
///     plug::run(Store)
/// }
/// ```
pub struct LogSubscriber {
    uplink: &'static Uplink,
    spans: Spans,
}

impl LogSubscriber {
    /// Needed only to make it a default by other means than [`run`](crate::run).
    pub fn new() -> LogSubscriber {
        LogSubscriber::of(&UPLINK)
    }

    pub(super) fn of(uplink: &'static Uplink) -> LogSubscriber {
        LogSubscriber { uplink, spans: Spans::default() }
    }

    /// Sends one event to the host, if the host wants events of its level; without the fields of the spans around it.
    ///
    /// For subscribers that do other things with events as well. Does nothing outside a plugin.
    pub fn forward(event: &Event<'_>) {
        UPLINK.send(event, Vec::new);
    }

    /// What the host wants at present. Off outside a plugin, and before the host has said so.
    ///
    /// When it changes, `tracing` asks all subscribers again what interests them.
    pub fn level() -> LevelFilter {
        UPLINK.filter()
    }
}

impl Default for LogSubscriber {
    fn default() -> LogSubscriber {
        LogSubscriber::new()
    }
}

impl fmt::Debug for LogSubscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSubscriber")
            .field("level", &self.uplink.filter())
            .finish_non_exhaustive()
    }
}

impl Subscriber for LogSubscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // It holds until the level changes, when the cache of these answers is made anew.
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.uplink.filter()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.uplink.filter())
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        // Unique among all of these subscribers: a thread may be in spans of several.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        self.spans.open(id, attributes);
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.spans.record(span, |fields| values.record(fields));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.uplink.send(event, || match event.parent() {
            Some(parent) => self.spans.fields_of(parent),
            None if event.is_contextual() => self.spans.current_fields(),
            None => Vec::new(),
        });
    }

    fn enter(&self, span: &Id) {
        self.spans.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.spans.exit(span);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.spans.clone_handle(id);
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        self.spans.close_handle(&id)
    }

    fn current_span(&self) -> Current {
        let current = self.spans.current();
        current.map_or_else(Current::none, |(id, metadata)| Current::new(id, metadata))
    }
}
