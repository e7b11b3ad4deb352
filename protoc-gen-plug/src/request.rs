//! `CodeGeneratorRequest` in, `CodeGeneratorResponse` out.

use prost::Message as _;
use prost_types::compiler::CodeGeneratorResponse;
use prost_types::compiler::code_generator_response::{Feature, File};

use crate::generate::{OutputFile, generate_files};
use crate::mirror;
use crate::mistakes::Mistakes;
use crate::options::Options;

/// Answers the request of a protocol buffer compiler: an encoded `CodeGeneratorRequest` in, an encoded
/// `CodeGeneratorResponse` out. A pure function of its argument.
///
/// All mistakes are told in the response's `error`, as protoc wants it, and none by a panic.
///
/// ```
/// let response = protoc_gen_plug::generate(b"this is not a request");
/// assert!(!response.is_empty());
/// ```
pub fn generate(request: &[u8]) -> Vec<u8> {
    let mut response = CodeGeneratorResponse {
        supported_features: Some(Feature::Proto3Optional as u64),
        ..CodeGeneratorResponse::default()
    };
    match answer(request) {
        Ok(files) => {
            response.file = files
                .into_iter()
                .map(|OutputFile { name, content }| File {
                    name: Some(name),
                    content: Some(content),
                    ..File::default()
                })
                .collect();
        }
        Err(mistakes) => response.error = Some(mistakes.to_string()),
    }
    response.encode_to_vec()
}

fn answer(request: &[u8]) -> Result<Vec<OutputFile>, Mistakes> {
    let request = mirror::Request::decode(request).map_err(|error| {
        Mistakes::general(format!(
            "the request cannot be decoded: {error}. protoc-gen-plug is started by protoc: \
             `protoc --plug_out=DIR FILE.proto`"
        ))
    })?;
    let options = Options::parse(request.parameter())?;
    generate_files(&request.proto_file, &request.file_to_generate, &options)
}
