//! The spans that are open in a plugin, and which of them each thread is in.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::Metadata;
use tracing::span::{Attributes, Id};

use super::fields::Fields;

/// The open spans.
#[derive(Default)]
pub(super) struct Spans {
    open: Mutex<BTreeMap<u64, Span>>,
}

struct Span {
    metadata: &'static Metadata<'static>,
    parent: Option<u64>,
    fields: Vec<(&'static str, String)>,
    /// How many bytes more the fields may take.
    room: usize,
    handles: usize,
}

thread_local! {
    /// The spans that the thread is in, the innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Spans {
    pub(super) fn open(&self, id: u64, attributes: &Attributes<'_>) {
        let parent = if attributes.is_contextual() {
            self.innermost()
        } else {
            attributes.parent().map(Id::into_u64)
        };
        // Outside the lock: formatting a field runs code of users.
        let mut fields = Fields::new(SPAN_LIMIT);
        attributes.record(&mut fields);
        let span = Span {
            metadata: attributes.metadata(),
            parent,
            room: fields.room,
            fields: fields.into_all(),
            handles: 1,
        };
        let mut open = self.lock();
        if open.len() < MAX_OPEN {
            open.insert(id, span);
        }
    }

    /// Adds fields that were given later. They take the place of those with the same name.
    pub(super) fn record(&self, id: &Id, record: impl FnOnce(&mut Fields)) {
        let Some(room) = self.lock().get(&id.into_u64()).map(|span| span.room) else { return };
        let mut fields = Fields::new(room);
        record(&mut fields);
        let room = fields.room;
        if let Some(span) = self.lock().get_mut(&id.into_u64()) {
            span.room = span.room.min(room);
            for (name, value) in fields.into_all() {
                match span.fields.iter_mut().find(|(known, _)| *known == name) {
                    Some(field) => field.1 = value,
                    None => span.fields.push((name, value)),
                }
            }
        }
    }

    pub(super) fn clone_handle(&self, id: &Id) {
        if let Some(span) = self.lock().get_mut(&id.into_u64()) {
            span.handles += 1;
        }
    }

    /// Drops a handle, and says whether it was the last.
    pub(super) fn close_handle(&self, id: &Id) -> bool {
        let mut open = self.lock();
        let Some(span) = open.get_mut(&id.into_u64()) else { return false };
        span.handles -= 1;
        let is_last = span.handles == 0;
        let closed = if is_last { open.remove(&id.into_u64()) } else { None };
        drop((open, closed));
        is_last
    }

    pub(super) fn enter(&self, id: &Id) {
        // A thread that ends may have no list any more, and whoever forgets to leave must not make it grow.
        let _ = ENTERED.try_with(|entered| {
            let mut entered = entered.borrow_mut();
            if entered.len() < MAX_ENTERED {
                entered.push(id.into_u64());
            }
        });
    }

    pub(super) fn exit(&self, id: &Id) {
        let _ = ENTERED.try_with(|entered| {
            let mut entered = entered.borrow_mut();
            if let Some(at) = entered.iter().rposition(|&entered| entered == id.into_u64()) {
                entered.remove(at);
            }
        });
    }

    /// The span that this thread is in.
    pub(super) fn current(&self) -> Option<(Id, &'static Metadata<'static>)> {
        let id = self.innermost()?;
        Some((Id::from_u64(id), self.lock().get(&id)?.metadata))
    }

    /// The fields of the current span and of those around it, the innermost first, as `span.field`.
    pub(super) fn current_fields(&self) -> Vec<(String, String)> {
        self.innermost().map_or_else(Vec::new, |id| self.fields_from(id))
    }

    /// The fields of a span and of those around it.
    pub(super) fn fields_of(&self, id: &Id) -> Vec<(String, String)> {
        self.fields_from(id.into_u64())
    }

    fn fields_from(&self, id: u64) -> Vec<(String, String)> {
        let open = self.lock();
        let around = std::iter::successors(open.get(&id), |span| open.get(&span.parent?));
        let named = |span: &Span| {
            let name = span.metadata.name();
            let fields = span.fields.iter();
            fields.map(move |(key, value)| (format!("{name}.{key}"), value.clone())).collect()
        };
        around.take(MAX_AROUND).flat_map(|span| -> Vec<_> { named(span) }).collect()
    }

    /// The innermost span that this thread is in and that is known here: another subscriber's are not.
    fn innermost(&self) -> Option<u64> {
        let open = self.lock();
        let innermost = |entered: &RefCell<Vec<u64>>| {
            entered.borrow().iter().rev().copied().find(|id| open.contains_key(id))
        };
        ENTERED.try_with(innermost).ok().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Span>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many bytes the fields of one span take at most.
pub(super) const SPAN_LIMIT: usize = 1 << 10;

/// How many spans are open at most. Those beyond have an id, and their fields are in no record.
const MAX_OPEN: usize = 4096;

/// How many spans a thread is in at most, as far as records are concerned.
const MAX_ENTERED: usize = 256;

/// How many spans around an event have their fields in its record.
const MAX_AROUND: usize = 16;
