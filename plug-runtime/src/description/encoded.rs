//! Descriptors and descriptions as bytes: those of services put together, and those of a plugin decoded within bounds.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::budget::{self, Undecodable};
use crate::error::{Code, Error, ErrorKind, Result};

/// `Description` of `frame.proto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EncodedDescription {
    /// A `Hello`: encoded, so that it is not decoded where it is too long.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) hello: Option<Bytes>,
    /// A `FileDescriptorSet`.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) descriptors: Bytes,
}

/// `Descriptors` of `frame.proto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Descriptors {
    /// A `FileDescriptorSet`.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) descriptors: Bytes,
}

/// Decodes the descriptors of a plugin, which take no more than `limit` bytes of memory.
pub(crate) fn decode_descriptors(encoded: &[u8], limit: usize) -> Result<FileDescriptorSet> {
    budget::decode_descriptors(encoded, limit).map_err(|error| match error {
        Undecodable::TooLarge(_) => error.of_response("its description"),
        Undecodable::Broken(error) => {
            let message = format!("its descriptors cannot be decoded: {error}");
            Error::of_kind(ErrorKind::Decode, message)
        }
    })
}

/// For descriptors that are part of this program.
pub(crate) const NO_LIMIT: usize = usize::MAX;

/// One encoded `FileDescriptorSet` of several, each file once.
///
/// Files are not decoded: `prost_types` would lose the options that others have defined.
pub(crate) fn merged(sets: &[&[u8]]) -> Result<Bytes> {
    let broken =
        |error| Error::new(Code::Internal, format!("a service has broken descriptors: {error}"));
    let mut files = Vec::new();
    let mut names = BTreeSet::new();
    for set in sets {
        for file in EncodedFiles::decode(*set).map_err(broken)?.files {
            let FileName { name } = FileName::decode(file.clone()).map_err(broken)?;
            if names.insert(name) {
                files.push(file);
            }
        }
    }
    Ok(EncodedFiles { files }.encode_to_vec().into())
}

/// A `FileDescriptorSet` whose files are left as they are.
#[derive(Clone, PartialEq, Message)]
struct EncodedFiles {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    files: Vec<Bytes>,
}

/// What of a file is looked at.
#[derive(Clone, PartialEq, Message)]
struct FileName {
    #[prost(string, tag = "1")]
    name: String,
}

#[cfg(test)]
mod tests {
    use prost_types::FileDescriptorProto;

    use super::*;
    use crate::description::tests::set;

    #[test]
    fn files_are_merged_by_name_and_left_as_they_are() {
        let common = ("common.proto", "syntax = \"proto3\"; message A {}");
        let mut first = set(&[common]);
        // Another file: the name `z`, and a field with a number that is not in descriptors.
        first.extend(b"\x0a\x06\x0a\x01z\xb8\x3e\x05");
        let second = set(&[common, ("b.proto", "syntax = \"proto3\"; message B {}")]);
        let both = merged(&[&first, &second]).unwrap();
        assert!(both.starts_with(&first), "what was there stays as it was");
        let files = FileDescriptorSet::decode(both).unwrap().file;
        let names: Vec<_> = files.iter().map(FileDescriptorProto::name).collect();
        assert_eq!(names, ["common.proto", "z", "b.proto"]);
        let error = merged(&[b"\xff"]).unwrap_err();
        assert!(error.message().contains("broken descriptors"), "{error}");
    }
}
