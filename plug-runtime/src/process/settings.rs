//! How to talk to a plugin, be it a process or not.

use std::sync::Arc;
use std::time::Duration;

use super::sinks::Sinks;
use crate::budget;
use crate::notice::ExitNotice;
use crate::offer::Offers;
use crate::restart::Restart;

/// What both kinds of plugin have in common.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) start_timeout: Duration,
    pub(crate) stop_grace: Duration,
    pub(crate) max_message: usize,
    /// In bytes of memory; `None` if nobody has said.
    pub(crate) max_decoded: Option<usize>,
    /// For calls whose proxy sets no limit.
    pub(crate) timeout: Option<Duration>,
    /// An encoded message for the plugin to start with.
    pub(crate) config: Option<Vec<u8>>,
    /// What the host offers to the plugin.
    pub(crate) offers: Vec<Offers>,
    /// How many calls of the plugin the host serves at once.
    pub(crate) max_calls: u32,
    /// Whether what it prints becomes log events.
    pub(crate) trace_stderr: bool,
    /// Who is told when its process has ended.
    pub(crate) on_exit: Option<Arc<ExitNotice>>,
    /// Who else is given what it prints.
    pub(crate) sinks: Sinks,
    /// How often it must give a sign of life, and how often it may miss that.
    pub(crate) heartbeat: Option<(Duration, u32)>,
    pub(crate) restart: Restart,
    pub(crate) shared_memory: SharedMemory,
    /// Whether who waits for that looks for a while before it sleeps.
    pub(crate) polling: bool,
}

/// When a connection moves from its pipes into [shared memory](crate::Command::shared_memory).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SharedMemory {
    /// After 64 calls have ended: the first ones, and plugins that are hardly used, cost nothing for it.
    #[default]
    WhenUsed,
    /// With the first call: it takes up half a megabyte.
    AtOnce,
    /// Not at all.
    Never,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            start_timeout: Duration::from_secs(10),
            stop_grace: Duration::from_secs(2),
            max_message: 64 << 20,
            max_decoded: None,
            timeout: None,
            config: None,
            offers: Vec::new(),
            max_calls: 1024,
            trace_stderr: false,
            on_exit: None,
            sinks: Sinks::default(),
            heartbeat: None,
            restart: Restart::never(),
            // With the seam, so that the cases of both directions meet it from the start.
            shared_memory: if cfg!(plug_seam) {
                SharedMemory::AtOnce
            } else {
                SharedMemory::WhenUsed
            },
            polling: true,
        }
    }
}

impl Settings {
    /// How much memory a message that arrives may take, decoded.
    pub(crate) fn decode_limit(&self) -> usize {
        self.max_decoded.unwrap_or_else(|| budget::default_limit(self.max_message))
    }
}
