//! The services of the example, and an implementation of each.
//!
//! The traits, proxies and messages come from the `.proto` files by way of `build.rs`. [`Store`] and [`Json`] are
//! here and not in the plugins' binaries, so that tests can also run them [inside their own process](plug::in_process).

plug::include_proto!("example");

mod files;
mod json;
mod store;
mod sync;
mod watchers;

pub use json::Json;
pub use store::Store;

/// The examples of the README, to be compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
