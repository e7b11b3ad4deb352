//! The fault cases, with real processes. Each test has the id of its case in its name.
//!
//! One binary, since linking takes longer than running. Most tests count descriptors, threads and children of
//! this process, so they take turns: see [`aftermath`].

mod aftermath;
mod bursts;
mod calls;
mod chaos;
mod drops;
mod ends;
mod exits;
mod flow;
mod framing;
mod handshake;
mod heartbeat;
mod hostile;
mod hosts;
mod launch;
mod limits;
#[cfg(feature = "tracing")]
mod logs;
mod pressure;
mod process;
#[cfg_attr(plug_portable, allow(dead_code, reason = "nothing is shared there"))]
mod raw_host;
mod restart;
mod schema;
#[cfg(not(plug_portable))]
mod sharing;
mod stdio;
mod streams;
mod table;
mod terminal;
mod user;
