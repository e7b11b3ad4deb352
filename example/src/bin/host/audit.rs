//! What this host offers to its plugins.

use std::sync::mpsc;

use plug_example::{Audit, Decision};

/// Lets only small values be stored, and passes on what was.
pub(crate) struct SmallValues {
    /// The largest that are allowed, in bytes.
    largest: u64,
    recorded: mpsc::SyncSender<String>,
}

impl SmallValues {
    /// The audit, and where its records arrive.
    pub(crate) fn new(largest: u64) -> (SmallValues, mpsc::Receiver<String>) {
        let (recorded, records) = mpsc::sync_channel(16);
        (SmallValues { largest, recorded }, records)
    }
}

impl Audit for SmallValues {
    fn allow(&self, key: String, size: u64) -> plug::Result<Decision> {
        let allowed = size <= self.largest;
        let reason = match allowed {
            true => String::new(),
            false => format!("{size} bytes under {key:?} are more than {}", self.largest),
        };
        Ok(Decision { allowed, reason })
    }

    fn record(&self, key: String, size: u64) -> plug::Result<()> {
        // Nobody waits for this call, so nobody would see an error.
        let _ = self.recorded.try_send(format!("{size} bytes under {key:?}"));
        Ok(())
    }
}
