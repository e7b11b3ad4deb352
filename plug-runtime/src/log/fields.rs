//! What an event or a span has to say, as text.

use std::error::Error;
use std::fmt;

use tracing::field::{Field, Visit};

use super::text::Limited;

/// Collects fields until they take more than they may.
pub(super) struct Fields {
    /// The field `message`.
    pub(super) message: String,
    pub(super) others: Vec<(&'static str, String)>,
    /// How many bytes more all of them may take.
    pub(super) room: usize,
}

impl Fields {
    pub(super) fn new(room: usize) -> Fields {
        Fields { message: String::new(), others: Vec::new(), room }
    }

    /// All of them, `message` among the others. It has no other meaning for a span.
    pub(super) fn into_all(mut self) -> Vec<(&'static str, String)> {
        if !self.message.is_empty() {
            self.others.push((MESSAGE, self.message));
        }
        self.others
    }

    fn add(&mut self, field: &Field, value: &dyn fmt::Display) {
        if field.name() == MESSAGE {
            self.message = Limited::of(value, self.room);
            self.room -= self.message.len();
            return;
        }
        let Some(room) = self.room.checked_sub(field.name().len() + OVERHEAD) else {
            self.room = 0;
            return;
        };
        let value = Limited::of(value, room);
        self.room = room - value.len();
        self.others.push((field.name(), value));
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.add(field, &value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add(field, &Chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format_args!("{value:?}"));
    }
}

/// An error and what caused it, as one line.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// The field that `tracing` gives the text of an event.
const MESSAGE: &str = "message";

/// What a field takes in a record beside its name and value, in bytes, at most.
const OVERHEAD: usize = 8;
