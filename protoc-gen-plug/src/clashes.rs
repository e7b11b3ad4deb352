//! Names that are different in the `.proto` and the same in Rust.
//!
//! They are told, and never resolved by renaming something: a name that depends on its neighbours
//! would change when a neighbour comes.

use std::collections::BTreeMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto};

use crate::messages::{Shape, Shapes, is_extern, is_map_entry};
use crate::mistakes::Mistakes;
use crate::model::Package;
use crate::modules;
use crate::options::Options;
use crate::source::Source;

/// Types that a module of the same name would hide.
const PRIMITIVES: [&str; 17] = [
    "bool", "char", "f32", "f64", "i128", "i16", "i32", "i64", "i8", "isize", "str", "u128", "u16",
    "u32", "u64", "u8", "usize",
];

/// Looks for clashes in what is generated.
pub(crate) fn check(
    source: &Source,
    shapes: &Shapes,
    packages: &[Package],
    options: &Options,
    mistakes: &mut Mistakes,
) {
    for package in packages {
        let mut scope = Scope::default();
        for &file in &package.files {
            let proto = &source.files[file].proto;
            let mut check = Check { source, shapes, options, file, mistakes: &mut *mistakes };
            let name =
                if package.name.is_empty() { String::new() } else { format!(".{}", package.name) };
            check.types(
                &name,
                &mut scope,
                &mut Vec::new(),
                (4, &proto.message_type),
                (5, &proto.enum_type),
            );
        }
        for service in &package.services {
            let what = format!("the service `{}`", proto_name(&service.full_name));
            let name = &service.name;
            scope.add(name.clone(), what.clone(), service.file, &service.path);
            // That two services with one name for the trait have one name for these, and for the
            // function that loads them, goes without saying.
            for (name, role) in [("Service", "marker"), ("Proxy", "proxy")]
                .map(|(suffix, role)| (format!("{name}{suffix}"), role))
            {
                scope.add(name, format!("the {role} of {what}"), service.file, &service.path);
                scope.last(|entry| entry.is_derived = true);
            }
            methods(source, service, mistakes);
        }
        for other in packages {
            if let Some(module) = modules::child(&package.name, &other.name) {
                let what = format!("the package `{}`", other.name);
                let (file, path) = (other.files[0], [2]);
                if !scope.entries.get(&module).is_some_and(|found| found[0].is_package) {
                    scope.add(module, what, file, &path);
                    scope.last(|entry| entry.is_package = true);
                }
            }
        }
        scope.report(source, mistakes);
    }
}

fn proto_name(full_name: &str) -> &str {
    full_name.rsplit('.').next().unwrap_or(full_name)
}

fn methods(source: &Source, service: &crate::model::Service, mistakes: &mut Mistakes) {
    let mut scope = Scope::default();
    for (index, method) in service.methods.iter().enumerate() {
        let what = format!("the method `{}`", method.proto_name);
        let path = [&service.path[..], &[2, index as i32]].concat();
        scope.add(method.name.clone(), what, service.file, &path);
    }
    scope.report(source, mistakes);
}

struct Check<'a> {
    source: &'a Source,
    shapes: &'a Shapes,
    options: &'a Options,
    file: usize,
    mistakes: &'a mut Mistakes,
}

impl Check<'_> {
    /// The types of a package or message, and what is in them.
    fn types(
        &mut self,
        name: &str,
        scope: &mut Scope,
        path: &mut Vec<i32>,
        (message_tag, messages): (i32, &[DescriptorProto]),
        (enum_tag, enums): (i32, &[EnumDescriptorProto]),
    ) {
        for (index, message) in messages.iter().enumerate() {
            let full_name = format!("{name}.{}", message.name());
            let Some(shape) = self.shapes.messages.get(&full_name) else { continue };
            if is_extern(self.options, &full_name) {
                continue;
            }
            path.extend([message_tag, index as i32]);
            let what = format!("the message `{}`", message.name());
            scope.add(shape.ident.clone(), what.clone(), self.file, path);
            if let Some(module) = &shape.module {
                let what = format!("the module of {what}");
                scope.add(module.clone(), what, self.file, path);
            }
            self.fields(message, shape, path);
            let mut inner = Scope::default();
            self.types(
                &full_name,
                &mut inner,
                path,
                (3, &message.nested_type),
                (4, &message.enum_type),
            );
            for field in &shape.fields {
                if let Some((_, oneof)) = field.oneof.as_ref().and_then(|o| o.rsplit_once("::")) {
                    let what = format!("the oneof `{}`", field.ident);
                    inner.add(oneof.to_owned(), what, self.file, path);
                }
            }
            inner.report(self.source, self.mistakes);
            path.truncate(path.len() - 2);
        }
        for (index, item) in enums.iter().enumerate() {
            let full_name = format!("{name}.{}", item.name());
            let Some(ident) = self.shapes.enums.get(&full_name) else { continue };
            if is_extern(self.options, &full_name) {
                continue;
            }
            path.extend([enum_tag, index as i32]);
            scope.add(ident.clone(), format!("the enum `{}`", item.name()), self.file, path);
            path.truncate(path.len() - 2);
        }
    }

    /// The fields of a message, the variants of its oneofs, and the methods that prost adds.
    fn fields(&mut self, message: &DescriptorProto, shape: &Shape, path: &[i32]) {
        let mut fields = Scope::default();
        let mut methods = Scope::default();
        for field in &shape.fields {
            let mut variants = Scope::default();
            for (position, &tag) in field.tags.iter().enumerate() {
                let found = message.field.iter().enumerate().find(|(_, f)| f.number() == tag);
                let Some((index, proto)) = found else { continue };
                let path = [path, &[2, index as i32]].concat();
                let what = format!("the field `{}`", proto.name());
                if field.oneof.is_none() {
                    fields.add(field.ident.clone(), what.clone(), self.file, &path);
                    for name in self.accessors(message, proto, field.ident.trim_start_matches("r#"))
                    {
                        let what = format!("an accessor of {what}");
                        methods.add(name, what, self.file, &path);
                    }
                    self.map_of_enums(message, proto, &field.ident, &path);
                } else if let Some(variant) = field.variants.get(position) {
                    variants.add(variant.clone(), what, self.file, &path);
                }
            }
            if field.oneof.is_some() {
                let index = message
                    .field
                    .iter()
                    .find(|proto| field.tags.contains(&proto.number()))
                    .map_or(0, |proto| proto.oneof_index());
                let name = message.oneof_decl.get(index as usize).map_or("", |o| o.name());
                let path = [path, &[8, index]].concat();
                fields.add(field.ident.clone(), format!("the oneof `{name}`"), self.file, &path);
            }
            variants.report(self.source, self.mistakes);
        }
        fields.report(self.source, self.mistakes);
        methods.report(self.source, self.mistakes);
    }

    /// The methods that prost's derive adds to a message for a field.
    fn accessors(
        &self,
        message: &DescriptorProto,
        field: &FieldDescriptorProto,
        name: &str,
    ) -> Vec<String> {
        if let Some(value) = map_value(message, field) {
            return match value.r#type() {
                Type::Enum => vec![format!("get_{name}"), format!("insert_{name}")],
                _ => Vec::new(),
            };
        }
        let proto2 = matches!(self.source.files[self.file].proto.syntax(), "" | "proto2");
        let optional = field.proto3_optional() || proto2 && field.label() == Label::Optional;
        match (field.r#type(), field.label()) {
            (Type::Enum, Label::Repeated) => vec![name.to_owned(), format!("push_{name}")],
            (Type::Enum, _) => vec![name.to_owned(), format!("set_{name}")],
            (Type::Message | Type::Group, _) => Vec::new(),
            _ if optional => vec![name.to_owned()],
            _ => Vec::new(),
        }
    }

    /// prost's derive cannot make the name of an accessor from a keyword here.
    fn map_of_enums(
        &mut self,
        message: &DescriptorProto,
        field: &FieldDescriptorProto,
        ident: &str,
        path: &[i32],
    ) {
        let of_enums = map_value(message, field).is_some_and(|value| value.r#type() == Type::Enum);
        if of_enums && ident.starts_with("r#") {
            let file = &self.source.files[self.file];
            self.mistakes.add(
                file.name(),
                file.position(path),
                format!(
                    "the field `{}` is a map of enums whose name is a keyword in Rust, which prost \
                     does not support. Rename it",
                    field.name()
                ),
            );
        }
    }
}

/// The field `value` of the entries of a map field.
fn map_value<'a>(
    message: &'a DescriptorProto,
    field: &FieldDescriptorProto,
) -> Option<&'a FieldDescriptorProto> {
    let (_, entry) = field.type_name().rsplit_once('.')?;
    let entry = message.nested_type.iter().find(|nested| nested.name() == entry)?;
    if is_map_entry(entry) && field.r#type() == Type::Message { entry.field.get(1) } else { None }
}

/// The names in one place of the Rust code.
#[derive(Default)]
struct Scope {
    entries: BTreeMap<String, Vec<Entry>>,
    last: String,
}

/// Something that has a name.
struct Entry {
    what: String,
    file: usize,
    path: Vec<i32>,
    is_package: bool,
    /// Whether another name clashes whenever this one does.
    is_derived: bool,
}

impl Scope {
    fn add(&mut self, name: String, what: String, file: usize, path: &[i32]) {
        let entry = Entry { what, file, path: path.to_vec(), is_package: false, is_derived: false };
        self.entries.entry(name.clone()).or_default().push(entry);
        self.last = name;
    }

    /// Changes the entry that was added last.
    fn last(&mut self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&self.last).and_then(|found| found.last_mut()) {
            change(entry);
        }
    }

    fn report(self, source: &Source, mistakes: &mut Mistakes) {
        for (name, mut entries) in self.entries {
            // In the order of the source, so that the second is the one to be told.
            entries.sort_by_key(|entry| {
                let file = &source.files[entry.file];
                (file.name(), file.position(&entry.path))
            });
            let first = &entries[0];
            let worth_telling = |entry: &&Entry| !(first.is_derived && entry.is_derived);
            for entry in entries[1..].iter().filter(worth_telling) {
                let file = &source.files[entry.file];
                mistakes.add(
                    file.name(),
                    file.position(&entry.path),
                    format!(
                        "{} and {} both become `{name}` in Rust. Rename one",
                        first.what, entry.what
                    ),
                );
            }
            let hides = PRIMITIVES.contains(&name.as_str())
                && (first.is_package || first.what.starts_with("the module"));
            if hides {
                let file = &source.files[first.file];
                mistakes.add(
                    file.name(),
                    file.position(&first.path),
                    format!(
                        "{} becomes `{name}`, which hides a type of Rust. Rename it",
                        first.what
                    ),
                );
            }
        }
    }
}
