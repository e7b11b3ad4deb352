//! Generates typed out-of-process plugins from a `.proto`: for each service a trait that plugins
//! implement, a proxy with which hosts call it, and a function that loads it. The generated code is
//! written against the crate `plug-runtime`.
//!
//! From `build.rs`, with nothing installed but cargo:
//!
//! ```no_run
//! protoc_gen_plug::compile(&["proto/kv.proto"], &["proto"]).unwrap();
//! ```
//!
//! and then, in the crate's code, `plug::include_proto!("example")` for the package `example`. With
//! options: [`Builder`]. With protoc, the binary of this crate does the same:
//!
//! ```sh
//! protoc --plug_out=src/proto --plug_opt=bytes=. proto/kv.proto
//! ```
//!
//! All three ways give the same code, to the byte.
//!
//! # What becomes of a service
//!
//! - The fields of a request become arguments, in the order of their numbers, a oneof at its lowest.
//!   A response without fields becomes `()`, one with a single field becomes that field's value, any
//!   other stays a message. Well-known types stay whole.
//! - A `stream` becomes a `plug::Stream` of messages, which are never unwrapped. The fields of a request whose
//!   response is a stream are arguments all the same.
//! - `import "plug.proto"` brings options: `(plugpb.magic)`, `(plugpb.version)` and
//!   `(plugpb.unwrap_methods)` for services, `(plugpb.unwrap)` and `(plugpb.one_way)` for methods. The
//!   file need not be on disk; for protoc, `protoc-gen-plug --include DIR` writes it.
//! - Messages are those of [prost](https://docs.rs/prost), re-exported by the runtime.

mod builder;
mod check;
mod clashes;
mod comments;
mod defaults;
mod descriptors;
mod emit;
mod fuzz;
mod generate;
mod layout;
mod messages;
mod mirror;
mod mistakes;
mod model;
mod modules;
mod names;
mod options;
mod parsers;
mod plug_options;
mod recursion;
mod render;
mod request;
mod source;
mod types;
mod wire;

pub use builder::{Builder, Error, compile};
pub use request::generate;

/// The text of `plug.proto`, which defines the options in package `plugpb`.
pub const PLUG_PROTO: &str = parsers::PLUG_PROTO;
