//! Panics of users' code, as errors that say where.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::error::{Code, Error, Result};

/// Runs users' code. A panic is an error that begins with `what`, such as "the handler", and says what it said and
/// where.
///
/// What the code left half-done when it panicked, it left to itself: the runtime shares nothing with it.
pub(crate) fn catch<R>(what: &str, run: impl FnOnce() -> R) -> Result<R> {
    record_places();
    PANIC_PLACE.take();
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let place = PANIC_PLACE.take().unwrap_or_default();
        let text = format!("{what} panicked{place}: {}", text_of(&*payload));
        // The payload's own drop may panic too.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(payload)));
        Error::new(Code::Internal, text)
    })
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}

thread_local! {
    /// Where this thread panicked last, as ` at file:line:column`.
    static PANIC_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Adds the place of a panic, which only a hook is told, to what the hook so far does.
fn record_places() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(location) = info.location() {
                // Not if the thread is ending, and its locals are gone.
                let _ =
                    PANIC_PLACE.try_with(|place| place.replace(Some(format!(" at {location}"))));
            }
            before(info);
        }));
    });
}
