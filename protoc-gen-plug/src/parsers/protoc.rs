//! protoc as a parser.

use std::fs;
use std::path::Path;
use std::process::Command;

use prost::Message as _;

use crate::builder::{Error, Parsed};
use crate::mirror;
use crate::parsers::{PLUG_PROTO, PLUG_PROTO_NAME};

pub(crate) fn parse(protoc: &Path, protos: &[&Path], includes: &[&Path]) -> Result<Parsed, Error> {
    let folder = tempfile::tempdir()
        .map_err(|error| Error::from(format!("cannot make a temporary folder: {error}")))?;
    let plug_proto = folder.path().join(PLUG_PROTO_NAME);
    fs::write(&plug_proto, PLUG_PROTO)
        .map_err(|error| Error::io("cannot write", &plug_proto, &error))?;
    let set = run(protoc, protos, includes, folder.path(), true)?;
    // Without imports the set holds the named files only: that is how their names are known, which
    // depend on how protoc maps paths.
    let named = run(protoc, protos, includes, folder.path(), false)?;
    let named = mirror::FileSet::decode(&named[..])
        .map_err(|error| Error::from(format!("protoc's output cannot be decoded: {error}")))?;
    let named = named.file.iter().map(|file| file.name().to_owned()).collect();
    Parsed::of_set(&set, named)
}

/// Runs protoc, which writes a `FileDescriptorSet`.
fn run(
    protoc: &Path,
    protos: &[&Path],
    includes: &[&Path],
    folder: &Path,
    all: bool,
) -> Result<Vec<u8>, Error> {
    let set = folder.join("descriptors");
    let mut command = Command::new(protoc);
    command.arg("-o").arg(&set);
    if all {
        command.args(["--include_imports", "--include_source_info"]);
    }
    // protoc warns of folders that are not there.
    for include in includes.iter().filter(|include| include.exists()) {
        command.arg("-I").arg(include);
    }
    // Last, so that the user's own `plug.proto` comes first, as with the other parsers.
    command.arg("-I").arg(folder);
    let output = command.args(protos).output().map_err(|error| {
        Error::from(format!("cannot start protoc at {}: {error}", protoc.display()))
    })?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned().into());
    }
    fs::read(&set).map_err(|error| Error::io("cannot read", &set, &error))
}
