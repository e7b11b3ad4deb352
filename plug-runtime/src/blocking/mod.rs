//! The driver on threads: pipes on one side, calls on the other, the protocol core between them.
//!
//! There is no thread per plugin. A thread that calls reads the pipe itself while it waits
//! ([`link`]); in a plugin, the thread that reads a request runs its handler ([`worker`]); one thread per
//! process ([`watcher`]) looks after everything that nobody waits for: ends of processes, stderr, pipes
//! that are idle or full, and handlers that take so long that somebody else must read.

mod alone;
mod attempts;
mod caller;
mod describe;
mod dispatch;
mod events;
mod gathering;
mod greeting;
mod heartbeat;
mod lead;
mod line;
mod link;
mod load;
mod logs;
mod messages;
mod patience;
mod polling;
mod pump;
mod reading;
mod remote;
mod roles;
mod serve;
mod sharing;
mod stand_in;
mod supervisor;
mod upkeep;
mod waiter;
mod waiting;
mod watcher;
mod worker;
mod workers;
mod writing;
mod yielding;

#[cfg(all(loom, test))]
mod loom_models;
#[cfg(test)]
mod tests;

pub(crate) use caller::Requests;
pub(crate) use describe::describe;
#[cfg(test)]
pub(crate) use dispatch::idle_link;
pub(crate) use line::Line;
pub(crate) use link::Link;
pub(crate) use load::load;
pub(crate) use messages::Messages;
pub(crate) use serve::command_for;
pub use serve::{hosted, in_process, run, run_with};
