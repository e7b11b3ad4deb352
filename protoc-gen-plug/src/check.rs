//! What descriptors must be for code to be generated from them.
//!
//! A compiler has checked most of it already, but not whoever hands over descriptors without one; and
//! prost-build panics on what it does not expect. Only names and references that were checked here are
//! looked at later.

use std::collections::{HashMap, HashSet};

use heck::ToUpperCamelCase as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, MethodDescriptorProto,
    ServiceDescriptorProto,
};

use crate::defaults;
use crate::messages::is_map_entry;
use crate::mistakes::Mistakes;
use crate::options::is_ident;
use crate::plug_options::PlugOptions;
use crate::source::{File, Source, Types};

/// Checks all files, those that are imported included: prost-build looks at them too.
pub(crate) fn files(
    source: &Source,
    types: &Types<'_>,
    plug_options: &PlugOptions,
    mistakes: &mut Mistakes,
) {
    let mut defined = HashMap::new();
    for file in &source.files {
        let mut check = Check { file, types, plug_options, mistakes, defined: &mut defined };
        check.file();
    }
}

struct Check<'a, 'm> {
    file: &'a File,
    types: &'a Types<'a>,
    plug_options: &'a PlugOptions,
    mistakes: &'m mut Mistakes,
    /// The types that were seen, and the files that define them.
    defined: &'m mut HashMap<String, &'a str>,
}

impl Check<'_, '_> {
    fn add(&mut self, path: &[i32], message: impl Into<String>) {
        self.mistakes.add(self.file.name(), self.file.position(path), message);
    }

    fn file(&mut self) {
        let proto = &self.file.proto;
        match proto.syntax() {
            "" | "proto2" | "proto3" => {}
            "editions" => self.add(
                &[12],
                "editions are not supported. Use `syntax = \"proto3\"` instead of `edition`",
            ),
            other => {
                self.add(&[12], format!("there is no syntax `{other}`. Use `syntax = \"proto3\"`"))
            }
        }
        let package = proto.package();
        let scope = if package.is_empty() { String::new() } else { format!(".{package}") };
        for name in package.split('.').filter(|_| !package.is_empty()) {
            self.name(name, "package", &[2]);
        }
        for (index, message) in proto.message_type.iter().enumerate() {
            self.message(&scope, message, &mut vec![4, index as i32]);
        }
        for (index, item) in proto.enum_type.iter().enumerate() {
            self.enum_type(&scope, item, &[5, index as i32]);
        }
        for (index, service) in proto.service.iter().enumerate() {
            self.service(index, service);
        }
    }

    /// A name goes into the code as it is, or nearly so.
    fn name(&mut self, name: &str, what: &str, path: &[i32]) {
        if !is_ident(name) {
            self.add(path, format!("`{name}` is not a name for a {what}"));
        } else if !name.bytes().any(|b| b.is_ascii_alphanumeric()) {
            self.add(
                path,
                format!("the {what} `{name}` has no name in Rust. Use letters in its name"),
            );
        }
    }

    fn define(&mut self, full_name: String, path: &[i32]) {
        if let Some(other) = self.defined.get(&full_name) {
            let message = format!("`{}` is defined twice, also in {other}", &full_name[1..]);
            self.add(path, message);
        }
        self.defined.insert(full_name, self.file.proto.name.as_deref().unwrap_or_default());
    }

    fn message(&mut self, scope: &str, message: &DescriptorProto, path: &mut Vec<i32>) {
        let full_name = format!("{scope}.{}", message.name());
        self.name(message.name(), "message", path);
        self.define(full_name.clone(), path);
        let within = |path: &[i32], tag, index: usize| [path, &[tag, index as i32]].concat();
        let mut numbers = HashSet::new();
        for (index, field) in message.field.iter().enumerate() {
            let path = within(path, 2, index);
            self.field(&full_name, message, field, &path);
            if !numbers.insert(field.number()) {
                self.add(&path, format!("the field number {} is used twice", field.number()));
            }
        }
        for (index, oneof) in message.oneof_decl.iter().enumerate() {
            self.name(oneof.name(), "oneof", &within(path, 8, index));
        }
        for (index, nested) in message.nested_type.iter().enumerate() {
            path.extend([3, index as i32]);
            self.message(&full_name, nested, path);
            path.truncate(path.len() - 2);
        }
        for (index, item) in message.enum_type.iter().enumerate() {
            self.enum_type(&full_name, item, &within(path, 4, index));
        }
        if is_map_entry(message) && !is_proper_map_entry(message, scope) {
            self.add(path, format!("`{}` is not the entry of a map", message.name()));
        }
    }

    fn field(
        &mut self,
        full_name: &str,
        message: &DescriptorProto,
        field: &FieldDescriptorProto,
        path: &[i32],
    ) {
        let name = field.name();
        self.name(name, "field", path);
        if !(1..1 << 29).contains(&field.number()) {
            self.add(path, format!("{} is not a field number", field.number()));
        }
        let known = field.r#type.is_some_and(|ty| Type::try_from(ty).is_ok())
            && field.label.is_some_and(|label| Label::try_from(label).is_ok());
        if !known {
            return self.add(path, format!("the field `{name}` has no type or no label"));
        }
        if let Some(index) = field.oneof_index {
            let exists = usize::try_from(index).is_ok_and(|index| index < message.oneof_decl.len());
            if !exists || field.label() == Label::Repeated {
                self.add(path, format!("the field `{name}` cannot be part of a oneof"));
            }
        }
        let type_name = field.type_name();
        let exists = match field.r#type() {
            Type::Message => self.types.messages.get(type_name).is_some_and(|found| {
                // The entry of a map is no type of its own.
                !is_map_entry(found.proto)
                    || field.label() == Label::Repeated
                        && type_name.rsplit_once('.').is_some_and(|(scope, _)| scope == full_name)
            }),
            // A group is declared together with its field, right here.
            Type::Group => {
                self.types.messages.contains_key(type_name)
                    && type_name.rsplit_once('.').is_some_and(|(scope, _)| scope == full_name)
            }
            Type::Enum => self.types.enums.contains_key(type_name),
            _ => field.type_name.is_none(),
        };
        if !exists {
            self.add(path, format!("the type `{type_name}` of the field `{name}` does not exist"));
        }
        if let Some(default) = &field.default_value {
            if !defaults::is_valid(field, default, self.types) {
                self.add(
                    path,
                    format!("`{default}` is not a default value for the field `{name}`"),
                );
            }
        }
    }

    fn enum_type(&mut self, scope: &str, item: &EnumDescriptorProto, path: &[i32]) {
        self.name(item.name(), "enum", path);
        self.define(format!("{scope}.{}", item.name()), path);
        if item.value.is_empty() {
            self.add(path, format!("the enum `{}` has no values", item.name()));
        }
        // prost-build panics if two values get one name. A second name for the same number it leaves
        // out.
        let prefix = item.name().to_upper_camel_case();
        let mut variants: HashMap<String, &str> = HashMap::new();
        let mut numbers = HashSet::new();
        for (index, value) in item.value.iter().enumerate() {
            let path = [path, &[2, index as i32]].concat();
            self.name(value.name(), "enum value", &path);
            if !numbers.insert(value.number()) {
                continue;
            }
            let variant = variant(&prefix, value.name());
            if let Some(other) = variants.get(&variant) {
                let message = format!(
                    "the enum values `{other}` and `{}` both become `{variant}` in Rust. Rename one",
                    value.name()
                );
                self.add(&path, message);
            }
            variants.insert(variant, value.name());
        }
    }

    fn service(&mut self, index: usize, service: &ServiceDescriptorProto) {
        let path = [6, index as i32];
        self.name(service.name(), "service", &path);
        for (method_index, method) in service.method.iter().enumerate() {
            let path = [6, index as i32, 2, method_index as i32];
            self.name(method.name(), "method", &path);
            for name in [method.input_type(), method.output_type()] {
                match self.types.messages.get(name) {
                    Some(found) if !is_map_entry(found.proto) => {}
                    _ => self.add(
                        &path,
                        format!(
                            "the message `{name}` of the method `{}` does not exist",
                            method.name()
                        ),
                    ),
                }
            }
            let mirror = &self.file.mirror.service[index].method[method_index];
            if self.plug_options.of_method(mirror).one_way && !self.can_be_one_way(method) {
                self.add(
                    &path,
                    format!(
                        "the method `{}` is `(plugpb.one_way)`, so nobody waits for an answer. Return \
                         `google.protobuf.Empty` or another message without fields, without \
                         `stream`, or remove the option",
                        method.name()
                    ),
                );
            }
        }
    }

    fn can_be_one_way(&self, method: &MethodDescriptorProto) -> bool {
        let response = self.types.messages.get(method.output_type());
        // A response that does not exist is a mistake of its own.
        response.is_none_or(|response| response.proto.field.is_empty())
            && !method.client_streaming()
            && !method.server_streaming()
    }
}

fn is_proper_map_entry(message: &DescriptorProto, scope: &str) -> bool {
    let fields: Vec<_> = message
        .field
        .iter()
        .map(|field| (field.name(), field.number(), field.label(), field.oneof_index))
        .collect();
    let key = message.field.first().map(|field| field.r#type());
    let value = message.field.get(1).map(|field| field.r#type());
    // It lies in the message that has the map.
    !scope.is_empty()
        && fields == [("key", 1, Label::Optional, None), ("value", 2, Label::Optional, None)]
        && !matches!(
            key,
            Some(
                Type::Double | Type::Float | Type::Bytes | Type::Message | Type::Group | Type::Enum
            )
        )
        && value != Some(Type::Group)
        && message.nested_type.is_empty()
        && message.enum_type.is_empty()
        && message.oneof_decl.is_empty()
}

/// The name that prost-build gives an enum value. It is derived again here, against the rule of the
/// house, because prost-build panics where two are the same.
fn variant(prefix: &str, value: &str) -> String {
    let name = value.to_upper_camel_case();
    match name.strip_prefix(prefix) {
        Some(rest) if rest.starts_with(char::is_uppercase) => rest.to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enum_values_lose_the_name_of_their_enum() {
        assert_eq!(variant("Kind", "KIND_A"), "A");
        assert_eq!(variant("Kind", "KINDNESS"), "Kindness");
        assert_eq!(variant("Kind", "KIND_1"), "Kind1");
    }
}
