//! The code of services, from the model.

mod host;
mod plugin;

use crate::layout::{fits, function, indented, section};
use crate::model::{Field, Kind, Method, Payload, Service};
use crate::names::Names;
use crate::types::Type;

/// The code of a service: trait, marker, host's side, plugin's side.
pub(crate) fn service(service: &Service, names: &Names, descriptors: &str) -> String {
    let emit = Emit { service, names, plug: names.plug() };
    [
        emit.service_trait(),
        emit.marker(descriptors),
        section("Host"),
        emit.load(),
        emit.proxy(),
        emit.proxy_methods(),
        emit.proxy_trait(),
        emit.proxy_contract(),
        section("Plugin"),
        emit.serve(),
    ]
    .join("\n")
}

struct Emit<'a> {
    service: &'a Service,
    names: &'a Names,
    plug: &'a str,
}

impl Emit<'_> {
    fn service_trait(&self) -> String {
        let Service { name, snake, full_name, .. } = self.service;
        let mut out = match &self.service.docs[..] {
            [] => format!("/// The service `{full_name}`.\n"),
            docs => indented(0, docs),
        };
        out.push_str(&format!(
            "///\n\
             /// A plugin implements this trait. A host calls [`load_{snake}`] and gets it back, implemented by\n\
             /// [`{name}Proxy`]. Calls may overlap, so methods take `&self`.\n"
        ));
        out.push_str(self.deprecation());
        let methods = &self.service.methods;
        if methods.iter().any(|method| method.name == "len")
            && !methods.iter().any(|method| method.name == "is_empty")
        {
            out.push_str("#[allow(clippy::len_without_is_empty)]\n");
        }
        let (send, sync) = (self.names.std("Send"), self.names.std("Sync"));
        out.push_str(&format!("pub trait {name}: {send} + {sync} + 'static {{"));
        let methods: Vec<String> = methods
            .iter()
            .map(|method| {
                let head = self.head(4, "", method, &self.exact(method), ";");
                format!("\n{}{}{head}", self.docs(method), self.lints(method))
            })
            .collect();
        out.push_str(&methods.join(""));
        out.push_str("}\n");
        out
    }

    fn marker(&self, descriptors: &str) -> String {
        let Service { name, full_name, magic, version, .. } = self.service;
        let plug = self.plug;
        let mut out = format!(
            "/// The service `{full_name}`, by name: what a plugin lists in [`{plug}::Plugin::Services`].\n\
             pub enum {name}Service {{}}\n\
             \n\
             impl {plug}::Service for {name}Service {{\n    \
                 const NAME: &'static str = \"{full_name}\";\n    \
                 const MAGIC: &'static str = {magic:?};\n    \
                 const VERSION: u32 = {version};\n"
        );
        match &self.service.methods[..] {
            [] => out.push_str(&format!("    const METHODS: &'static [{plug}::Method] = &[];\n")),
            methods => {
                out.push_str(&format!("    const METHODS: &'static [{plug}::Method] = &[\n"));
                for method in methods {
                    let kind = method.kind.function();
                    let idempotent = if method.idempotent { ".idempotent()" } else { "" };
                    let one_way = if method.one_way { ".one_way()" } else { "" };
                    let proto_name = &method.proto_name;
                    out.push_str(&format!(
                        "        {plug}::Method::{kind}(\"{proto_name}\"){idempotent}{one_way},\n"
                    ));
                }
                out.push_str("    ];\n");
            }
        }
        out.push_str(&format!(
            "    const DESCRIPTORS: &'static [u8] = include!({descriptors:?});\n}}\n"
        ));
        out
    }

    /// The head of a method: `fn get(&self, key: String) -> plug::Result<Vec<u8>>` and `end`.
    fn head(
        &self,
        indent: usize,
        start: &str,
        method: &Method,
        arguments: &[(String, String)],
        end: &str,
    ) -> String {
        let mut parameters = vec!["&self".to_owned()];
        parameters.extend(arguments.iter().map(|(name, ty)| format!("{name}: {ty}")));
        let start = format!("{start}fn {}", method.name);
        let result = format!("{}::Result<{}>", self.plug, self.result(method));
        function(indent, &start, &parameters, &result, end)
    }

    /// The arguments of a method, with the types of the trait.
    fn exact(&self, method: &Method) -> Vec<(String, String)> {
        self.arguments(method)
            .into_iter()
            .map(|(name, ty)| {
                let ty = self.names.ty(&ty);
                if streams_requests(method) {
                    (name, format!("{}::Stream<{ty}>", self.plug))
                } else {
                    (name, ty)
                }
            })
            .collect()
    }

    fn arguments(&self, method: &Method) -> Vec<(String, Type)> {
        match &method.request {
            Payload::Whole(ty) if streams_requests(method) => {
                vec![("requests".into(), ty.clone())]
            }
            Payload::Whole(Type::Unit) => Vec::new(),
            Payload::Whole(ty) => vec![("request".into(), ty.clone())],
            Payload::Fields { fields, .. } => {
                fields.iter().map(|field| (field.name.clone(), field.ty.clone())).collect()
            }
        }
    }

    /// What the `Ok` of a method's result holds.
    fn result(&self, method: &Method) -> String {
        let ty = match &method.response {
            Payload::Whole(ty) => self.names.ty(ty),
            Payload::Fields { fields, .. } => match fields.first() {
                Some(field) => self.names.ty(&field.ty),
                None => "()".into(),
            },
        };
        match method.kind {
            Kind::ServerStreaming | Kind::BidiStreaming => format!("{}::Stream<{ty}>", self.plug),
            Kind::Unary | Kind::ClientStreaming => ty,
        }
    }

    /// A field in a struct expression, from the variable of its name.
    fn sent(&self, field: &Field) -> String {
        let Field { name, ty, .. } = field;
        if !ty.holds_enum() {
            return name.clone();
        }
        let value = match ty {
            Type::Option(_) => format!("{name}.map(i32::from)"),
            Type::Vec(_) => format!("{name}.into_iter().map(i32::from).collect()"),
            Type::Map { .. } => {
                format!("{name}.into_iter().map(|(key, value)| (key, value.into())).collect()")
            }
            _ => format!("{name}.into()"),
        };
        format!("{name}: {value}")
    }

    /// A `Result` of the value of the trait, from `value` in the message. `None` if no conversion is
    /// needed, and nothing can fail.
    fn checked(&self, field: &Field, value: &str) -> Option<Chain> {
        if !field.ty.holds_enum() {
            return None;
        }
        let known = |number: &str| {
            format!("{}::codegen::known_enum(\"{}\", {number})", self.plug, field.proto_name)
        };
        let (first, links) = match &field.ty {
            Type::Option(_) => (
                value.to_owned(),
                vec![format!(".map(|number| {})", known("number")), ".transpose()".to_owned()],
            ),
            Type::Vec(_) => (
                value.to_owned(),
                vec![
                    ".into_iter()".to_owned(),
                    format!(".map(|number| {})", known("number")),
                    ".collect()".to_owned(),
                ],
            ),
            Type::Map { .. } => (
                value.to_owned(),
                vec![
                    ".into_iter()".to_owned(),
                    format!(".map(|(key, number)| Ok((key, {}?)))", known("number")),
                    ".collect()".to_owned(),
                ],
            ),
            _ => (known(value), Vec::new()),
        };
        Some(Chain { first, links })
    }

    fn docs(&self, method: &Method) -> String {
        match &method.docs[..] {
            [] => {
                format!("    /// Calls `{}` of `{}`.\n", method.proto_name, self.service.full_name)
            }
            docs => indented(4, docs),
        }
    }

    /// Attributes for what clippy says of names and arguments, which are the `.proto`'s.
    fn lints(&self, method: &Method) -> String {
        let mut lints = Vec::new();
        // Besides `self`.
        if self.arguments(method).len() > 6 {
            lints.push("clippy::too_many_arguments");
        }
        if method.name.starts_with("from_") || method.name.starts_with("into_") {
            lints.push("clippy::wrong_self_convention");
        }
        if method.name == "new" {
            lints.push("clippy::new_ret_no_self");
            lints.push("clippy::wrong_self_convention");
        }
        let mut out = String::new();
        if !lints.is_empty() {
            out.push_str(&format!("    #[allow({})]\n", lints.join(", ")));
        }
        if method.deprecated {
            out.push_str("    #[deprecated]\n");
        }
        out
    }

    fn deprecation(&self) -> &'static str {
        if self.service.deprecated { "#[deprecated]\n" } else { "" }
    }

    fn allow_deprecated(&self) -> &'static str {
        if self.service.deprecated { "#[allow(deprecated)]\n" } else { "" }
    }
}

fn streams_requests(method: &Method) -> bool {
    matches!(method.kind, Kind::ClientStreaming | Kind::BidiStreaming)
}

/// An expression that is a chain of calls.
struct Chain {
    first: String,
    links: Vec<String>,
}

impl Chain {
    /// The same with `?`, which hides the type from the compiler, so that `collect` must tell it.
    fn question_mark(mut self, plug: &str) -> Chain {
        let last = self.links.last_mut().unwrap_or(&mut self.first);
        if last == ".collect()" {
            *last = format!(".collect::<{plug}::Result<_>>()");
        }
        last.push('?');
        self
    }

    /// On one line, or one line a link.
    fn statement(&self, indent: usize, before: &str, after: &str) -> String {
        let pad = " ".repeat(indent);
        let one = format!("{before}{}{}{after}", self.first, self.links.join(""));
        if fits(indent, &one) {
            return format!("{pad}{one}\n");
        }
        let mut out = format!("{pad}{before}{}", self.first);
        for link in &self.links {
            out.push_str(&format!("\n{pad}    {link}"));
        }
        format!("{out}{after}\n")
    }
}
