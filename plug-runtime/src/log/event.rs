//! What arrives from plugins, as events of the host's `tracing`.

use std::fmt::{self, Write as _};

use tracing::Span;

use super::record::{LOST, Level, Pair, Record};
use super::text::Limited;
use super::uplink::RECORD_LIMIT;
use crate::error::OneLine;

/// The target of records.
pub(super) const TARGET: &str = "plug";

/// The fields of a record's event.
pub(super) const FIELDS: &[&str] = &["message", "plugin", "plugin_target", "fields", "lost"];

/// Makes a record an event, in `span`, or else in none: the thread's own has nothing to do with it.
///
/// A plugin's text may be anything. It comes as one line, without what controls a terminal, and no longer than what a
/// well-behaved plugin sends. `lost` is how many records before this one were lost on this side.
pub(super) fn emit(plugin: &str, record: &Record, span: Option<&Span>, lost: u64) {
    let parent = span.and_then(Span::id);
    let text = Limited::of(&OneLine(&record.text), RECORD_LIMIT);
    let target = Limited::of(&OneLine(&record.target), RECORD_LIMIT);
    let has_fields = record.fields.iter().any(|pair| pair.key != LOST);
    let fields = has_fields.then(|| Limited::of(&Flat(&record.fields), RECORD_LIMIT));
    let lost = Some(record.lost().saturating_add(lost)).filter(|&lost| lost > 0);
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(
                target: TARGET,
                parent: parent,
                tracing::Level::$level,
                plugin,
                plugin_target = target.as_str(),
                fields,
                lost,
                "{text}"
            )
        };
    }
    match Level::from_wire(record.level) {
        Level::Error => event!(ERROR),
        Level::Warn => event!(WARN),
        // A record without a level is somebody's first attempt.
        Level::Off | Level::Info => event!(INFO),
        Level::Debug => event!(DEBUG),
        Level::Trace => event!(TRACE),
    }
}

/// Makes a line of a plugin's stderr an event, in no span: nobody knows what it belongs to.
pub(super) fn emit_line(plugin: &str, line: &str, lost: u64) {
    let line = Limited::of(&OneLine(line), RECORD_LIMIT);
    let lost = Some(lost).filter(|&lost| lost > 0);
    let root = None::<tracing::span::Id>;
    tracing::info!(target: "plug::stderr", parent: root, plugin, lost, "{line}");
}

/// Warns of something that the host should know about how it starts plugins. Runs code of subscribers: not under a lock.
pub(crate) fn warn(text: &str) {
    tracing::warn!(target: TARGET, "{}", OneLine(text));
}

/// Fields as `key=value key="another value"`.
struct Flat<'a>(&'a [Pair]);

impl fmt::Display for Flat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for pair in self.0.iter().filter(|pair| pair.key != LOST) {
            f.write_str(gap)?;
            write_word(f, &pair.key)?;
            f.write_char('=')?;
            write_word(f, &String::from_utf8_lossy(&pair.value))?;
            gap = " ";
        }
        Ok(())
    }
}

/// Quotes what could be taken for something else than one key or one value.
fn write_word(f: &mut fmt::Formatter<'_>, word: &str) -> fmt::Result {
    let is_plain =
        |char: char| char.is_alphanumeric() || "!#$%&()*+,-./:;<>?@[]^_{|}~".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        f.write_str(word)
    } else {
        write!(f, "{word:?}")
    }
}
