//! The descriptors that generated code carries, in a form that does not depend on who parsed the file.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};

use crate::mirror;
use crate::source::Source;
use crate::wire::{self, Record, Value, put, records};

/// The well-known files, as protoc writes them without comments.
const GOOGLE: &[u8] = include_bytes!("../proto/google.descriptors");

/// The encoded `FileDescriptorSet` of some files and all that they import.
///
/// Parsers differ in what they leave out and in how they order options. Here what can be left out is
/// left out, and options are ordered by number. Of the source positions only comments stay. Of
/// `google/protobuf` each parser brings its own version: one takes the place of all.
pub(crate) fn encode(source: &Source, names: &[&str]) -> Vec<u8> {
    let schema = Schema::of(source);
    let google = mirror::FileSet::decode(GOOGLE).expect("the file is part of this crate").file;
    let file = source
        .with_imports(names)
        .into_iter()
        .map(|file| {
            let known = google.iter().find(|known| known.name() == file.name());
            canonical_file(known.unwrap_or(&file.mirror), &schema)
        })
        .collect();
    mirror::FileSet { file }.encode_to_vec()
}

/// The bytes as the text of a Rust byte string, for `include!`.
pub(crate) fn literal(bytes: &[u8]) -> String {
    const WIDTH: usize = 99;

    let mut out = String::with_capacity(bytes.len() * 2);
    out.push_str("b\"");
    let mut column = 2;
    for &byte in bytes {
        // A line of the literal may not begin with a space, which the compiler would skip.
        let begins_line = column == 0;
        let escaped = match byte {
            b' ' if begins_line => "\\x20".to_owned(),
            _ => byte.escape_ascii().to_string(),
        };
        if column + escaped.len() > WIDTH - 1 {
            out.push_str("\\\n");
            column = 0;
            let escaped = if byte == b' ' { "\\x20".to_owned() } else { escaped };
            column += escaped.len();
            out.push_str(&escaped);
        } else {
            column += escaped.len();
            out.push_str(&escaped);
        }
    }
    out.push_str("\"\n");
    out
}

/// The fields of messages, as far as options need them.
struct Schema<'a> {
    fields: HashMap<String, HashMap<u32, &'a FieldDescriptorProto>>,
}

impl<'a> Schema<'a> {
    fn of(source: &'a Source) -> Schema<'a> {
        let mut schema = Schema { fields: HashMap::new() };
        for file in &source.files {
            let scope = match file.proto.package() {
                "" => String::new(),
                package => format!(".{package}"),
            };
            schema.extensions(&file.proto.extension);
            for message in &file.proto.message_type {
                schema.message(&scope, message);
            }
        }
        schema
    }

    fn message(&mut self, scope: &str, message: &'a DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        self.extensions(&message.extension);
        for nested in &message.nested_type {
            self.message(&name, nested);
        }
        let fields = self.fields.entry(name).or_default();
        for field in &message.field {
            fields.insert(field.number() as u32, field);
        }
    }

    fn extensions(&mut self, extensions: &'a [FieldDescriptorProto]) {
        for extension in extensions {
            let fields = self.fields.entry(extension.extendee().to_owned()).or_default();
            fields.insert(extension.number() as u32, extension);
        }
    }

    fn field(&self, message: &str, number: u32) -> Option<&'a FieldDescriptorProto> {
        self.fields.get(message)?.get(&number).copied()
    }
}

fn canonical_file(file: &mirror::File, schema: &Schema<'_>) -> mirror::File {
    let mut file = file.clone();
    if matches!(file.syntax.as_deref(), Some("proto2" | "")) {
        file.syntax = None;
    }
    if file.package.as_deref() == Some("") {
        file.package = None;
    }
    canonical_options(&mut file.options, "File", schema);
    file.message_type.iter_mut().for_each(|message| canonical_message(message, schema));
    file.enum_type.iter_mut().for_each(|item| canonical_enum(item, schema));
    file.extension.iter_mut().for_each(|field| canonical_field(field, schema));
    for service in &mut file.service {
        canonical_options(&mut service.options, "Service", schema);
        for method in &mut service.method {
            canonical_options(&mut method.options, "Method", schema);
            method.client_streaming = method.client_streaming.filter(|&streaming| streaming);
            method.server_streaming = method.server_streaming.filter(|&streaming| streaming);
        }
    }
    if let Some(info) = &mut file.source_code_info {
        let absent = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        info.location.retain(|location| {
            !absent(&location.leading_comments)
                || !absent(&location.trailing_comments)
                || !location.leading_detached_comments.is_empty()
        });
        for location in &mut info.location {
            // A reader wants three numbers or four.
            location.span = vec![0, 0, 0];
        }
        // The blocks of extensions all have one path, and parsers differ in their order.
        let key = |location: &mirror::Location| {
            (
                location.path.clone(),
                location.leading_detached_comments.clone(),
                location.leading_comments.clone(),
                location.trailing_comments.clone(),
            )
        };
        info.location.sort_by_cached_key(key);
        if info.location.is_empty() {
            file.source_code_info = None;
        }
    }
    file
}

fn canonical_message(message: &mut mirror::Descriptor, schema: &Schema<'_>) {
    canonical_options(&mut message.options, "Message", schema);
    message.field.iter_mut().for_each(|field| canonical_field(field, schema));
    message.extension.iter_mut().for_each(|field| canonical_field(field, schema));
    message.nested_type.iter_mut().for_each(|nested| canonical_message(nested, schema));
    message.enum_type.iter_mut().for_each(|item| canonical_enum(item, schema));
    for range in &mut message.extension_range {
        canonical_options(&mut range.options, "ExtensionRange", schema);
    }
    for oneof in &mut message.oneof_decl {
        canonical_options(&mut oneof.options, "Oneof", schema);
    }
}

fn canonical_enum(item: &mut mirror::Enum, schema: &Schema<'_>) {
    canonical_options(&mut item.options, "Enum", schema);
    for value in &mut item.value {
        canonical_options(&mut value.options, "EnumValue", schema);
    }
}

fn canonical_field(field: &mut mirror::Field, schema: &Schema<'_>) {
    canonical_options(&mut field.options, "Field", schema);
    if field.json_name == field.name.as_deref().map(json_name) {
        field.json_name = None;
    }
    field.proto3_optional = field.proto3_optional.filter(|&optional| optional);
}

/// The name that a field has in JSON unless its options say otherwise.
fn json_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

/// Options are a message: given in several pieces they are one.
fn canonical_options(options: &mut Vec<Vec<u8>>, kind: &str, schema: &Schema<'_>) {
    let bytes = options.concat();
    options.clear();
    let bytes = canonical(&bytes, &format!(".google.protobuf.{kind}Options"), schema, 0);
    if !bytes.is_empty() {
        options.push(bytes);
    }
}

/// An encoded message with its fields in the order of their numbers, and each in one form.
fn canonical(bytes: &[u8], message: &str, schema: &Schema<'_>, depth: usize) -> Vec<u8> {
    const MAX_DEPTH: usize = 64;

    let Some(records) = records(bytes).filter(|_| depth < MAX_DEPTH) else {
        return bytes.to_vec();
    };
    let mut by_number: BTreeMap<u32, Vec<Value<'_>>> = BTreeMap::new();
    for Record { number, value } in records {
        by_number.entry(number).or_default().push(value);
    }
    let mut out = Vec::with_capacity(bytes.len());
    for (number, values) in by_number {
        match schema.field(message, number) {
            Some(field) => canonical_values(&mut out, field, number, &values, schema, depth),
            None => values.iter().for_each(|&value| put(&mut out, Record { number, value })),
        }
    }
    out
}

fn canonical_values(
    out: &mut Vec<u8>,
    field: &FieldDescriptorProto,
    number: u32,
    values: &[Value<'_>],
    schema: &Schema<'_>,
    depth: usize,
) {
    let repeated = field.label() == Label::Repeated;
    let mut put = |value: Value<'_>| put(out, Record { number, value });
    if field.r#type() == Type::Message {
        let messages = values.iter().map(|value| match value {
            Value::Bytes(bytes) => *bytes,
            _ => &[],
        });
        let inner = |bytes: &[u8]| canonical(bytes, field.type_name(), schema, depth + 1);
        if repeated {
            messages.for_each(|bytes| put(Value::Bytes(&inner(bytes))));
        } else {
            put(Value::Bytes(&inner(&messages.collect::<Vec<_>>().concat())));
        }
    } else if !repeated {
        values.last().into_iter().for_each(|&value| put(value));
    } else {
        for &value in values {
            match (value, field.r#type()) {
                (Value::Bytes(_), Type::String | Type::Bytes) => put(value),
                (Value::Bytes(packed), ty) => unpack(packed, ty).into_iter().for_each(&mut put),
                _ => put(value),
            }
        }
    }
}

/// The values of a packed field.
fn unpack(packed: &[u8], ty: Type) -> Vec<Value<'_>> {
    match ty {
        Type::Double | Type::Fixed64 | Type::Sfixed64 => packed
            .chunks_exact(8)
            .map(|chunk| Value::Fixed64(chunk.try_into().expect("a chunk has eight bytes")))
            .collect(),
        Type::Float | Type::Fixed32 | Type::Sfixed32 => packed
            .chunks_exact(4)
            .map(|chunk| Value::Fixed32(chunk.try_into().expect("a chunk has four bytes")))
            .collect(),
        _ => match wire::varints(packed) {
            Some(values) => values.into_iter().map(Value::Varint).collect(),
            None => vec![Value::Bytes(packed)],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_the_bytes_again() {
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes.extend([b' '; 300]);
        bytes.extend(b"quote \" and backslash \\");
        let text = literal(&bytes);
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        let parsed: syn::LitByteStr = syn::parse_str(&text).unwrap();
        assert_eq!(parsed.value(), bytes);
    }

    #[test]
    fn names_in_json() {
        assert_eq!(json_name("foo_bar__baz_1"), "fooBarBaz1");
        assert_eq!(json_name("_Foo"), "Foo");
    }
}
