//! What there is to generate: services and methods with Rust names and types, all questions answered.

use std::collections::BTreeMap;

use prost_types::method_options::IdempotencyLevel;
use prost_types::{FieldDescriptorProto, MethodDescriptorProto};

use crate::messages::{Messages, Shape, absolute_runtime};
use crate::options::Options;
use crate::plug_options::{MethodPlugOptions, PlugOptions};
use crate::source::{Source, Types};
use crate::types::{Leaf, Type};

/// All that one `.proto` package generates: one Rust file.
pub(crate) struct Package {
    /// The name, such as `example`, or nothing.
    pub(crate) name: String,
    /// The files of the package that code is generated for, sorted by name.
    pub(crate) files: Vec<usize>,
    pub(crate) services: Vec<Service>,
}

/// A service.
pub(crate) struct Service {
    /// The full name, such as `example.KV`.
    pub(crate) full_name: String,
    /// The name of the trait, such as `Kv`. Marker and proxy are named after it.
    pub(crate) name: String,
    /// The name in lower case, such as `kv`, for `load_kv`.
    pub(crate) snake: String,
    /// Doc lines, `///` included.
    pub(crate) docs: Vec<String>,
    pub(crate) magic: String,
    pub(crate) version: u32,
    pub(crate) deprecated: bool,
    pub(crate) methods: Vec<Method>,
    /// Where it is: the index of the file, and the path of the service in it.
    pub(crate) file: usize,
    pub(crate) path: Vec<i32>,
}

/// A method of a service.
pub(crate) struct Method {
    /// The name in the `.proto`, such as `GetAll`.
    pub(crate) proto_name: String,
    /// The name in Rust, such as `get_all`.
    pub(crate) name: String,
    pub(crate) docs: Vec<String>,
    pub(crate) kind: Kind,
    pub(crate) request: Payload,
    pub(crate) response: Payload,
    pub(crate) idempotent: bool,
    pub(crate) one_way: bool,
    pub(crate) deprecated: bool,
}

/// Which sides are streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    ServerStreaming,
    ClientStreaming,
    BidiStreaming,
}

impl Kind {
    /// The function of the runtime that makes, sends or takes a call of this kind.
    pub(crate) fn function(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStreaming => "server_streaming",
            Kind::ClientStreaming => "client_streaming",
            Kind::BidiStreaming => "bidi_streaming",
        }
    }
}

/// A request or a response.
pub(crate) enum Payload {
    /// As one value.
    Whole(Type),
    /// As its fields: any number in a request, at most one in a response.
    Fields {
        /// The Rust path of the message.
        message: String,
        fields: Vec<Field>,
    },
}

impl Payload {
    /// Whether it is `()`, or nothing at all where it is unwrapped; and not a message without fields that is kept whole.
    pub(crate) fn is_nothing(&self) -> bool {
        match self {
            Payload::Whole(ty) => *ty == Type::Unit,
            Payload::Fields { fields, .. } => fields.is_empty(),
        }
    }
}

/// A field of an unwrapped message.
pub(crate) struct Field {
    /// The name in the `.proto`.
    pub(crate) proto_name: String,
    /// The name in Rust, possibly raw.
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) deprecated: bool,
}

impl Method {
    /// Whether the method's code names a field that is deprecated.
    pub(crate) fn touches_deprecated(&self) -> bool {
        [&self.request, &self.response].into_iter().any(|payload| match payload {
            Payload::Whole(_) => false,
            Payload::Fields { fields, .. } => fields.iter().any(|field| field.deprecated),
        })
    }
}

/// The packages that code is generated for, sorted by name.
pub(crate) fn packages(source: &Source) -> Vec<Package> {
    let mut packages: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, file) in source.files.iter().enumerate() {
        if file.generate {
            packages.entry(file.proto.package()).or_default().push(index);
        }
    }
    packages
        .into_iter()
        .map(|(name, mut files)| {
            files.sort_by_key(|&index| source.files[index].name());
            Package { name: name.to_owned(), files, services: Vec::new() }
        })
        .collect()
}

/// The types of whose Rust paths the services of each file speak: one list a file.
pub(crate) fn wanted_types(source: &Source, types: &Types<'_>) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for file in &source.files {
        let mut wanted = Vec::new();
        if file.generate {
            for method in file.proto.service.iter().flat_map(|service| &service.method) {
                for name in [method.input_type(), method.output_type()] {
                    let Some(found) = types.messages.get(name) else { continue };
                    wanted.extend(found.proto.field.iter().filter_map(|field| {
                        let value = map_value(types, field).unwrap_or(field);
                        value.type_name.clone()
                    }));
                }
            }
        }
        wanted.sort();
        wanted.dedup();
        all.push(wanted);
    }
    all
}

/// Makes the services of a package.
pub(crate) fn services(
    source: &Source,
    types: &Types<'_>,
    messages: &Messages,
    plug_options: &PlugOptions,
    options: &Options,
    files: &[usize],
) -> Vec<Service> {
    let mut services = Vec::new();
    for &file_index in files {
        let file = &source.files[file_index];
        let generated = &messages.files[file_index];
        let reader = Reader {
            types,
            messages,
            options,
            paths: &generated.paths,
            runtime: absolute_runtime(options),
        };
        for (index, (proto, made)) in file.proto.service.iter().zip(&generated.services).enumerate()
        {
            let plug = plug_options.of_service(&file.mirror.service[index]);
            let methods = proto
                .method
                .iter()
                .zip(&made.methods)
                .enumerate()
                .map(|(method_index, (proto_method, made))| {
                    let mirror = &file.mirror.service[index].method[method_index];
                    let own = plug_options.of_method(mirror);
                    let unwrap = own.unwrap.or(plug.unwrap_methods).unwrap_or(options.unwrap);
                    reader.method(proto_method, made, &own, unwrap)
                })
                .collect();
            let full_name = match file.proto.package() {
                "" => proto.name().to_owned(),
                package => format!("{package}.{}", proto.name()),
            };
            services.push(Service {
                full_name,
                name: made.name.clone(),
                snake: snake(proto.name()),
                docs: crate::comments::doc_lines(&made.comments),
                magic: plug.magic.unwrap_or_default(),
                version: plug.version.unwrap_or_default(),
                deprecated: proto.options.as_ref().is_some_and(|options| options.deprecated()),
                methods,
                file: file_index,
                path: vec![6, index as i32],
            });
        }
    }
    services
}

/// A name in snake case, as prost-build makes it, as part of another name.
fn snake(name: &str) -> String {
    let module = prost_build::Module::from_protobuf_package_name(name);
    let snake = module.parts().collect::<String>();
    snake.strip_prefix("r#").unwrap_or(&snake).to_owned()
}

struct Reader<'a> {
    types: &'a Types<'a>,
    messages: &'a Messages,
    options: &'a Options,
    paths: &'a std::collections::HashMap<String, String>,
    runtime: String,
}

impl Reader<'_> {
    fn method(
        &self,
        proto: &MethodDescriptorProto,
        made: &prost_build::Method,
        plug: &MethodPlugOptions,
        unwrap: bool,
    ) -> Method {
        let kind = match (proto.client_streaming(), proto.server_streaming()) {
            (false, false) => Kind::Unary,
            (false, true) => Kind::ServerStreaming,
            (true, false) => Kind::ClientStreaming,
            (true, true) => Kind::BidiStreaming,
        };
        let idempotency = proto.options.as_ref().map(|options| options.idempotency_level());
        // A streamed message is never unwrapped.
        let request = unwrap && !proto.client_streaming();
        let response = unwrap && !proto.server_streaming();
        Method {
            proto_name: proto.name().to_owned(),
            name: made.name.clone(),
            docs: crate::comments::doc_lines(&made.comments),
            kind,
            request: self.payload(proto.input_type(), &made.input_type, request, usize::MAX),
            response: self.payload(proto.output_type(), &made.output_type, response, 1),
            idempotent: matches!(
                idempotency,
                Some(IdempotencyLevel::Idempotent | IdempotencyLevel::NoSideEffects)
            ),
            one_way: plug.one_way,
            deprecated: proto.options.as_ref().is_some_and(|options| options.deprecated()),
        }
    }

    /// The message `name`, which is `path` in Rust, as fields if it may be and has at most `most`.
    fn payload(&self, name: &str, path: &str, unwrap: bool, most: usize) -> Payload {
        let whole = || Payload::Whole(Type::read_path(path, &self.runtime));
        if !unwrap || name.starts_with(".google.protobuf.") {
            return whole();
        }
        // A message with an extern path of its own can be any type: nothing is known of its fields.
        if self.options.extern_paths.iter().any(|(path, _)| path == name) {
            return whole();
        }
        let (Some(shape), Some(found)) =
            (self.messages.shapes.messages.get(name), self.types.messages.get(name))
        else {
            return whole();
        };
        if shape.fields.len() > most {
            return whole();
        }
        let fields = self.fields(shape, &found.proto.field, path);
        Payload::Fields { message: path.to_owned(), fields }
    }

    fn fields(&self, shape: &Shape, protos: &[FieldDescriptorProto], path: &str) -> Vec<Field> {
        let mut fields: Vec<_> = shape
            .fields
            .iter()
            .filter_map(|field| {
                let number = *field.tags.iter().min()?;
                let proto = protos.iter().find(|proto| proto.number() == number)?;
                let leaf = match &field.oneof {
                    Some(oneof) => Leaf::Message(beside(path, oneof)),
                    None => self.leaf(map_value(self.types, proto).unwrap_or(proto)),
                };
                let deprecated = field.oneof.is_none()
                    && proto.options.as_ref().is_some_and(|options| options.deprecated());
                let field = Field {
                    proto_name: proto.name().to_owned(),
                    name: field.ident.clone(),
                    ty: Type::read(&field.ty, &leaf, &self.runtime),
                    deprecated,
                };
                Some((number, field))
            })
            .collect();
        fields.sort_by_key(|&(number, _)| number);
        fields.into_iter().map(|(_, field)| field).collect()
    }

    fn leaf(&self, proto: &FieldDescriptorProto) -> Leaf {
        let Some(path) = proto.type_name.as_ref().and_then(|name| self.paths.get(name)) else {
            return Leaf::AsWritten;
        };
        match proto.r#type() {
            prost_types::field_descriptor_proto::Type::Enum => Leaf::Enum(path.clone()),
            _ => Leaf::Message(path.clone()),
        }
    }
}

/// The path of an item that `relative` names in the module of the message at `path`.
fn beside(path: &str, relative: &str) -> String {
    match path.rsplit_once("::") {
        Some((module, _)) => format!("{module}::{relative}"),
        None => relative.to_owned(),
    }
}

/// The field `value` of the entries of a map field.
fn map_value<'a>(
    types: &Types<'a>,
    field: &FieldDescriptorProto,
) -> Option<&'a FieldDescriptorProto> {
    let entry = types.messages.get(field.type_name())?.proto;
    crate::messages::is_map_entry(entry).then(|| entry.field.iter().find(|f| f.number() == 2))?
}
