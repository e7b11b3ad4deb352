//! The host's side of a service: `load_…` and the proxy.

use super::{Emit, streams_requests};
use crate::layout::{braced, call, fits, function};
use crate::model::{Kind, Method, Payload, Service};
use crate::types::Type;

/// What a proxy can do already, so that an rpc of this name has no inherent twin: it would hide the
/// method, or be hidden by it.
const PROXY_METHODS: [&str; 19] = [
    "as_ref",
    "borrow",
    "caller",
    "clone",
    "clone_from",
    "clone_into",
    "deref",
    "eq",
    "fmt",
    "in_process",
    "into",
    "new",
    "peer",
    "to_owned",
    "try_into",
    "with_cancel",
    "with_deadline",
    "with_metadata",
    "with_timeout",
];

impl Emit<'_> {
    pub(super) fn load(&self) -> String {
        let Service { name, snake, .. } = self.service;
        let plug = self.plug;
        let head = function(
            0,
            &format!("pub fn load_{snake}"),
            &[format!("command: impl {}<{plug}::Command>", self.names.std("Into"))],
            &format!("{plug}::Result<{name}Proxy>"),
            " {",
        );
        format!(
            "/// Starts the plugin `command` and returns its [`{name}`].\n\
             ///\n\
             /// A path will do; [`{plug}::Command`] sets arguments, environment, limits and time-outs. The process\n\
             /// ends when the last clone of the proxy is dropped.\n\
             {}{head}    command.into().load()?.proxy()\n}}\n",
            self.deprecation(),
        )
    }

    pub(super) fn proxy(&self) -> String {
        let Service { name, .. } = self.service;
        let plug = self.plug;
        format!(
            "/// A [`{name}`] that lives behind a connection. Cheap to clone, free to share between threads.\n\
             #[derive(Clone, Debug)]\n\
             pub struct {name}Proxy {{\n    caller: {plug}::Caller<{name}Service>,\n}}\n"
        )
    }

    pub(super) fn proxy_methods(&self) -> String {
        let Service { name, .. } = self.service;
        let plug = self.plug;
        let mut out = format!(
            "{}impl {name}Proxy {{\n    \
                 /// Connects to `plugin` inside this process: the same frames, no child. Meant for tests.\n    \
                 pub fn in_process(plugin: impl {plug}::Plugin) -> {plug}::Result<{name}Proxy> {{\n        \
                     {plug}::in_process(plugin)?.proxy()\n    \
                 }}\n",
            self.allow_deprecated(),
        );
        for method in &self.service.methods {
            if PROXY_METHODS.contains(&method.name.as_str()) {
                continue;
            }
            let mut parameters = Vec::new();
            let mut arguments = vec!["self".to_owned()];
            for (argument, ty) in self.arguments(method) {
                let (ty, converted) = self.twin(method, &argument, &ty);
                arguments.push(converted);
                parameters.push((argument, ty));
            }
            out.push('\n');
            out.push_str(&self.docs(method));
            out.push_str(&self.lints(method));
            if method.deprecated {
                out.push_str("    #[allow(deprecated)]\n");
            }
            out.push_str(&self.head(4, "pub ", method, &parameters, " {"));
            out.push_str(&call(8, "", &format!("{name}::{}", method.name), &arguments, ""));
            out.push_str("    }\n");
        }
        out.push_str("}\n");
        out
    }

    pub(super) fn proxy_trait(&self) -> String {
        let Service { name, methods, .. } = self.service;
        if methods.is_empty() {
            return format!("{}impl {name} for {name}Proxy {{}}\n", self.allow_deprecated());
        }
        let methods: Vec<String> = methods
            .iter()
            .enumerate()
            .map(|(index, method)| {
                let allow = if method.touches_deprecated() && !self.service.deprecated {
                    "    #[allow(deprecated)]\n"
                } else {
                    ""
                };
                format!(
                    "{allow}{}{}    }}\n",
                    self.head(4, "", method, &self.exact(method), " {"),
                    self.proxy_body(index, method)
                )
            })
            .collect();
        format!(
            "{}impl {name} for {name}Proxy {{\n{}}}\n",
            self.allow_deprecated(),
            methods.join("\n")
        )
    }

    fn proxy_body(&self, index: usize, method: &Method) -> String {
        let (kind, by) = calling(method);
        let streamed = streams_requests(method);
        let mut out = String::new();
        let (before, after) = match &method.response {
            _ if method.one_way => {
                (String::new(), if method.response.is_nothing() { "" } else { "?;" })
            }
            Payload::Whole(_) => (String::new(), ""),
            Payload::Fields { message, fields } if fields.is_empty() => {
                (format!("let {} {{}} = ", self.names.path(message)), "?;")
            }
            Payload::Fields { message, .. } => {
                (format!("let response: {} = ", self.names.path(message)), "?;")
            }
        };
        let request = match &method.request {
            _ if streamed => "requests".to_owned(),
            Payload::Whole(Type::Unit) => "&()".to_owned(),
            Payload::Whole(_) => format!("{by}request"),
            Payload::Fields { message, fields } => {
                let message = self.names.path(message);
                let values: Vec<String> = fields.iter().map(|field| self.sent(field)).collect();
                let one = match &values[..] {
                    [] => format!("{by}{message} {{}}"),
                    values => format!("{by}{message} {{ {} }}", values.join(", ")),
                };
                if fits(8, &format!("{before}self.caller.{kind}({index}, {one}){after}")) {
                    one
                } else {
                    out.push_str(&braced(8, "let request = ", &message, &values, ";"));
                    format!("{by}request")
                }
            }
        };
        let arguments = [index.to_string(), request];
        out.push_str(&call(8, &before, &format!("self.caller.{kind}"), &arguments, after));
        if method.one_way {
            if !method.response.is_nothing() {
                out.push_str(&format!("        Ok({}::default())\n", self.names.std("Default")));
            }
        } else if let Payload::Fields { fields, .. } = &method.response {
            out.push_str(&match fields.first() {
                None => "        Ok(())\n".to_owned(),
                Some(field) => {
                    let value = format!("response.{}", field.name);
                    match self.checked(field, &value) {
                        Some(checked) => checked.statement(8, "", ""),
                        None => format!("        Ok({value})\n"),
                    }
                }
            });
        }
        out
    }

    pub(super) fn proxy_contract(&self) -> String {
        let Service { name, .. } = self.service;
        let plug = self.plug;
        format!(
            "impl {plug}::Proxy for {name}Proxy {{\n    \
                 type Service = {name}Service;\n\
                 \n    \
                 fn new(caller: {plug}::Caller<{name}Service>) -> Self {{\n        \
                     {name}Proxy {{ caller }}\n    \
                 }}\n\
                 \n    \
                 fn caller(&self) -> &{plug}::Caller<{name}Service> {{\n        \
                     &self.caller\n    \
                 }}\n\
             }}\n"
        )
    }

    /// An argument of the inherent twin: its type, and how it becomes the trait's.
    fn twin(&self, method: &Method, name: &str, ty: &Type) -> (String, String) {
        let exact = self.names.ty(ty);
        let plug = self.plug;
        if streams_requests(method) {
            return (
                format!("impl {plug}::IntoStream<{exact}>"),
                format!("{plug}::IntoStream::into_stream({name})"),
            );
        }
        match ty {
            Type::String | Type::Bytes | Type::SharedBytes | Type::Option(_) => {
                (format!("impl {}<{exact}>", self.names.std("Into")), format!("{name}.into()"))
            }
            // A plain number stays exact, or `5` would be ambiguous; so does a list, or `collect()`
            // would be.
            _ => (exact, name.to_owned()),
        }
    }
}

/// The function of the caller that calls a method, and how it takes a request that is no stream.
fn calling(method: &Method) -> (&'static str, &'static str) {
    match method.kind {
        _ if method.one_way => ("one_way", "&"),
        // Its memory is free again before the response comes.
        Kind::Unary if !method.request.is_nothing() => ("unary_owned", ""),
        kind => (kind.function(), "&"),
    }
}
