//! The parser of the crate protobuf-parse.

use std::fs;
use std::path::Path;

use protobuf::Message as _;

use crate::builder::{Error, Parsed};
use crate::parsers::{PLUG_PROTO, PLUG_PROTO_NAME};

pub(crate) fn parse(protos: &[&Path], includes: &[&Path]) -> Result<Parsed, Error> {
    let folder = tempfile::tempdir()
        .map_err(|error| Error::from(format!("cannot make a temporary folder: {error}")))?;
    let plug_proto = folder.path().join(PLUG_PROTO_NAME);
    fs::write(&plug_proto, PLUG_PROTO)
        .map_err(|error| Error::io("cannot write", &plug_proto, &error))?;
    let parsed = ::protobuf_parse::Parser::new()
        .pure()
        .includes(includes)
        .include(folder.path())
        .inputs(protos)
        .parse_and_typecheck()
        .map_err(|error| Error::from(format!("{error:#}")))?;
    let files = parsed
        .file_descriptors
        .iter()
        .map(|file| file.write_to_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| Error::from(format!("a descriptor cannot be encoded: {error}")))?;
    let named = parsed.relative_paths.iter().map(|path| path.to_string()).collect();
    Ok(Parsed { files, named })
}
