//! Making threads.

use std::io;
use std::thread::{Builder, ThreadId};

use super::seam::{self, Call};

/// Runs something on a thread of its own. If none can be made, it is dropped on this one.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<ThreadId> {
    seam::step(Call::Thread)?;
    Builder::new().name(name.to_owned()).spawn(run).map(|thread| thread.thread().id())
}
