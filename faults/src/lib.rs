//! What the fault tests are made of: a service, a plugin that misbehaves in every way that is asked for
//! ([`evil`], and [`raw`] for what the runtime would not let it do), and the [`wire`] by hand.

pub mod census;
pub mod chaos;
pub mod evil;
pub mod flow;
pub mod memory;
pub mod raw;
pub mod wire;

plug::include_proto!("probe");
