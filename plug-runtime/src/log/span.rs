//! The span in which a call was made.

use std::sync::Arc;

use tracing::Span;

use super::record::Level;
use super::wish;

/// What the records of a call become events of: the span that its caller was in.
///
/// A clone runs no code of users. Dropping the last one may close the span, which does: not under a lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallSpan(Option<Arc<Span>>);

impl CallSpan {
    /// The span that this thread is in, if there is one and anybody wants records. Runs code of the subscriber: not
    /// under a lock.
    pub(crate) fn current() -> CallSpan {
        if wish::known_level() == Level::Off {
            return CallSpan(None);
        }
        CallSpan::of(Span::current())
    }

    pub(super) fn of(span: Span) -> CallSpan {
        CallSpan((!span.is_none()).then(|| Arc::new(span)))
    }

    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn get(&self) -> Option<&Span> {
        self.0.as_deref()
    }
}
