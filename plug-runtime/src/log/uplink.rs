//! The way of a plugin's records to its host.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::SystemTime;

use prost::Message;
use tracing::Event;
use tracing::level_filters::LevelFilter;

use super::fields::Fields;
use super::record::{LOST, Level, Pair, Record};

/// Puts an encoded [`Record`] into the queue of the connection, and says whether it did. It is called on the thread of
/// the event, so that it can tell which call is being served. It must not block, nor make events.
pub(crate) type SendRecord = Box<dyn Fn(Vec<u8>) -> bool + Send + Sync>;

/// Where records go, and which.
pub(super) struct Uplink {
    /// The [`Level`] that the host wants. Off until the host is known.
    level: AtomicI32,
    /// How many records were not taken since the last one that was.
    lost: AtomicU64,
    send: OnceLock<SendRecord>,
}

/// That of this process.
pub(super) static UPLINK: Uplink = Uplink::new();

thread_local! {
    /// Whether this thread is making a record.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

impl Uplink {
    pub(super) const fn new() -> Uplink {
        Uplink {
            level: AtomicI32::new(Level::Off as i32),
            lost: AtomicU64::new(0),
            send: OnceLock::new(),
        }
    }

    /// Begins to send. Later calls change nothing.
    pub(super) fn connect(&self, send: SendRecord) {
        let _ = self.send.set(send);
    }

    /// Notes what the host wants, and returns whether that is something else than before.
    pub(super) fn set_level(&self, level: Level) -> bool {
        self.level.swap(level as i32, Ordering::Relaxed) != level as i32
    }

    pub(super) fn filter(&self) -> LevelFilter {
        Level::from_wire(self.level.load(Ordering::Relaxed)).filter()
    }

    /// Sends an event, if the host wants it, with the fields that `around` returns behind its own.
    pub(super) fn send(&self, event: &Event<'_>, around: impl FnOnce() -> Vec<(String, String)>) {
        if *event.metadata().level() > self.filter() {
            return;
        }
        let Some(send) = self.send.get() else { return };
        // An event of a `Debug` that is being formatted for a record could go on like that forever.
        let Some(_busy) = Busy::begin() else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut record = record(event, around);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            record.fields.push(pair(LOST.to_owned(), lost.to_string()));
        }
        if !send(record.encode_to_vec()) {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

/// While it lives, this thread is making a record.
struct Busy;

impl Busy {
    fn begin() -> Option<Busy> {
        (!BUSY.replace(true)).then_some(Busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(false);
    }
}

fn record(event: &Event<'_>, around: impl FnOnce() -> Vec<(String, String)>) -> Record {
    let target = event.metadata().target();
    let mut fields = Fields::new(RECORD_LIMIT.saturating_sub(target.len()));
    event.record(&mut fields);
    let mut room = fields.room;
    let own = fields.others.into_iter().map(|(key, value)| pair(key.to_owned(), value));
    let around = around().into_iter().map_while(|(key, value)| {
        room = room.checked_sub(key.len() + value.len())?;
        Some(pair(key, value))
    });
    Record {
        level: Level::from(event.metadata().level()) as i32,
        target: target.to_owned(),
        text: fields.message,
        fields: own.chain(around).collect(),
        time_ns: now_ns(),
    }
}

fn pair(key: String, value: String) -> Pair {
    Pair { key, value: value.into_bytes() }
}

fn now_ns() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.ok().and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

/// How many bytes the target, the text and the fields of one record take at most.
pub(super) const RECORD_LIMIT: usize = 16 << 10;
