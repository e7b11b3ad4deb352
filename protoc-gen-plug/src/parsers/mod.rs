//! The parsers that `build.rs` can choose from.

#[cfg(feature = "protobuf-parse")]
pub(crate) mod protobuf_parse;
pub(crate) mod protoc;
#[cfg(feature = "protox")]
pub(crate) mod protox;

/// `plug.proto`, which need not be on the user's disk.
pub(crate) const PLUG_PROTO: &str = include_str!("../../proto/plug.proto");

/// The name by which it is imported.
pub(crate) const PLUG_PROTO_NAME: &str = "plug.proto";
