//! Requests to the generator that are made of arbitrary bytes, and what must hold for the answers.

use arbitrary::{Result, Unstructured};
use prost::Message as _;
use prost_types::compiler::{CodeGeneratorRequest, CodeGeneratorResponse};
use prost_types::source_code_info::Location;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, MessageOptions, MethodDescriptorProto, OneofDescriptorProto,
    ServiceDescriptorProto, SourceCodeInfo,
};

/// The generator answers a request, without a panic, and with code that can be parsed.
///
/// After a 0, `data` is the request itself, such as those that a protoc has made; after anything else, the request is
/// made up as it says.
pub(crate) fn check(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    if first == 0 {
        answer(rest);
    } else if let Ok(request) = request(&mut Unstructured::new(rest)) {
        answer(&request.encode_to_vec());
    }
}

fn answer(request: &[u8]) {
    let response = protoc_gen_plug::generate(request);
    let response = CodeGeneratorResponse::decode(&response[..]).expect("a response");
    if let Some(error) = &response.error {
        assert!(!error.contains("panicked") && !error.contains("is a bug"), "{error}");
        assert!(response.file.is_empty(), "both an error and files");
    }
    for file in response.file.iter().filter(|file| file.name().ends_with(".rs")) {
        if let Err(error) = syn::parse_file(file.content()) {
            panic!("{} cannot be parsed: {error}", file.name());
        }
    }
}

const PARAMETERS: [&str; 10] = [
    "",
    "unwrap=false",
    "bytes=.,btree_map=.a",
    "messages=none",
    "include_file=mod.rs",
    "runtime=::sdk::plug",
    "fuzz=.a.KV=b::c",
    "compile_well_known_types",
    "extern_path=.a=::b",
    "type_attribute=.=#[derive(Eq)]",
];

const PACKAGES: [&str; 7] = ["a", "", "a.b", "plug", "google.protobuf", "self.type", "A"];

const NAMES: [&str; 24] = [
    "M",
    "N",
    "KV",
    "Kv",
    "KVService",
    "KvProxy",
    "Self",
    "self",
    "type",
    "Option",
    "String",
    "Vec",
    "Result",
    "Send",
    "Error",
    "get",
    "Get",
    "GET",
    "value",
    "key",
    "_",
    "x1",
    "plug",
    "M { } fn evil",
];

const TYPES: [&str; 10] = [
    ".a.M",
    ".a.N",
    ".a.M.N",
    ".M",
    ".a.b.M",
    ".google.protobuf.Empty",
    ".google.protobuf.Timestamp",
    ".google.protobuf.Any",
    "M",
    "",
];

fn name(u: &mut Unstructured<'_>) -> Result<Option<String>> {
    Ok(match u.int_in_range(0..=31)? {
        31 => None,
        30 => Some(u.arbitrary::<&str>()?.to_owned()),
        index => Some(NAMES[index % NAMES.len()].to_owned()),
    })
}

fn type_name(u: &mut Unstructured<'_>) -> Result<Option<String>> {
    Ok(Some((*u.choose(&TYPES)?).to_owned()))
}

/// Up to so many of what `make` makes.
fn some<T>(
    u: &mut Unstructured<'_>,
    most: usize,
    mut make: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=most)?).map(|_| make(u)).collect()
}

fn request(u: &mut Unstructured<'_>) -> Result<CodeGeneratorRequest> {
    let parameter = (*u.choose(&PARAMETERS)?).to_owned();
    let mut files = vec![file(u, "a.proto")?];
    if u.arbitrary()? {
        files.insert(0, file(u, "b.proto")?);
        files[1].dependency.push("b.proto".into());
    }
    Ok(CodeGeneratorRequest {
        file_to_generate: files.iter().map(|file| file.name().to_owned()).collect(),
        proto_file: files,
        parameter: Some(parameter),
        ..CodeGeneratorRequest::default()
    })
}

fn file(u: &mut Unstructured<'_>, name: &str) -> Result<FileDescriptorProto> {
    let syntax = ["proto3", "proto2", "", "editions"];
    Ok(FileDescriptorProto {
        name: Some(name.into()),
        package: Some((*u.choose(&PACKAGES)?).into()),
        syntax: Some((*u.choose(&syntax)?).into()),
        message_type: some(u, 4, |u| message(u, 2))?,
        enum_type: some(u, 2, enumeration)?,
        service: some(u, 2, service)?,
        source_code_info: Some(SourceCodeInfo { location: some(u, 3, location)? }),
        ..FileDescriptorProto::default()
    })
}

fn message(u: &mut Unstructured<'_>, depth: usize) -> Result<DescriptorProto> {
    let is_map: bool = u.ratio(1, 8)?;
    Ok(DescriptorProto {
        name: name(u)?,
        field: some(u, 5, field)?,
        nested_type: if depth == 0 { Vec::new() } else { some(u, 2, |u| message(u, depth - 1))? },
        enum_type: some(u, 1, enumeration)?,
        oneof_decl: some(u, 2, |u| Ok(OneofDescriptorProto { name: name(u)?, options: None }))?,
        options: is_map
            .then(|| MessageOptions { map_entry: Some(true), ..MessageOptions::default() }),
        ..DescriptorProto::default()
    })
}

fn field(u: &mut Unstructured<'_>) -> Result<FieldDescriptorProto> {
    let is_number = u.ratio(15, 16)?;
    Ok(FieldDescriptorProto {
        name: name(u)?,
        number: Some(if is_number { u.int_in_range(1..=9)? } else { u.arbitrary()? }),
        label: Some(u.int_in_range(0..=4)?),
        r#type: Some(u.int_in_range(0..=19)?),
        type_name: if u.arbitrary()? { type_name(u)? } else { None },
        default_value: if u.ratio(1, 8)? { Some(u.arbitrary::<&str>()?.into()) } else { None },
        oneof_index: if u.ratio(1, 4)? { Some(u.int_in_range(-1..=2)?) } else { None },
        proto3_optional: if u.ratio(1, 4)? { Some(true) } else { None },
        ..FieldDescriptorProto::default()
    })
}

fn enumeration(u: &mut Unstructured<'_>) -> Result<EnumDescriptorProto> {
    let value = |u: &mut Unstructured<'_>| {
        let number = Some(u.int_in_range(-1..=3)?);
        Ok(EnumValueDescriptorProto { name: name(u)?, number, options: None })
    };
    Ok(EnumDescriptorProto {
        name: name(u)?,
        value: some(u, 3, value)?,
        ..EnumDescriptorProto::default()
    })
}

fn service(u: &mut Unstructured<'_>) -> Result<ServiceDescriptorProto> {
    let method = |u: &mut Unstructured<'_>| {
        Ok(MethodDescriptorProto {
            name: name(u)?,
            input_type: type_name(u)?,
            output_type: type_name(u)?,
            client_streaming: Some(u.arbitrary()?),
            server_streaming: Some(u.arbitrary()?),
            options: None,
        })
    };
    Ok(ServiceDescriptorProto { name: name(u)?, method: some(u, 4, method)?, options: None })
}

fn location(u: &mut Unstructured<'_>) -> Result<Location> {
    let text = |u: &mut Unstructured<'_>| u.arbitrary::<&str>().map(str::to_owned);
    Ok(Location {
        path: some(u, 5, |u| u.int_in_range(0..=8))?,
        span: some(u, 4, |u| u.int_in_range(-1..=9))?,
        leading_comments: Some(text(u)?),
        trailing_comments: Some(text(u)?),
        leading_detached_comments: some(u, 1, text)?,
    })
}
