//! The plugin's side of a service: calls on their way to an implementation.

use std::collections::BTreeSet;

use super::{Emit, streams_requests};
use crate::layout::{braced, call, fits};
use crate::model::{Method, Payload, Service};
use crate::types::Type;

impl Emit<'_> {
    pub(super) fn serve(&self) -> String {
        let Service { name, methods, .. } = self.service;
        let plug = self.plug;
        let fields: BTreeSet<&str> = methods
            .iter()
            .flat_map(|method| match &method.request {
                Payload::Fields { fields, .. } => &fields[..],
                Payload::Whole(_) => &[],
            })
            .map(|field| field.name.as_str())
            .collect();
        let t = self.names.binder("T", &BTreeSet::new());
        let plugin = self.names.binder("plugin", &fields);
        let incoming = self.names.binder("call", &fields);
        let sized = self.names.std("Sized");
        let deprecated =
            methods.iter().any(|method| method.deprecated || method.touches_deprecated());
        let allow = match deprecated || self.service.deprecated {
            true => "#[allow(deprecated)]\n",
            false => "",
        };
        let parameter = if methods.is_empty() { "_" } else { &plugin };
        let mut out = format!(
            "{allow}impl<{t}: {name} + ?{sized}> {plug}::Serve<{t}> for {name}Service {{\n    \
                 fn serve({parameter}: &{t}, {incoming}: {plug}::Incoming<'_>) -> {plug}::Reply {{\n"
        );
        if methods.is_empty() {
            out.push_str(&format!("        {incoming}.unimplemented()\n"));
        } else {
            out.push_str(&format!("        match {incoming}.method() {{\n"));
            for (index, method) in methods.iter().enumerate() {
                out.push_str(&self.arm(index, method, &plugin, &incoming));
            }
            out.push_str(&format!("            _ => {incoming}.unimplemented(),\n        }}\n"));
        }
        out.push_str("    }\n}\n");
        out
    }

    /// The arm of a method in `serve`.
    fn arm(&self, index: usize, method: &Method, plugin: &str, incoming: &str) -> String {
        let kind = method.kind.function();
        let start = format!("{index} => {incoming}.{kind}(");
        let arguments: Vec<String> =
            self.arguments(method).into_iter().map(|(argument, _)| argument).collect();
        let handler = format!("{plugin}.{}", method.name);
        let (mut binding, mut unpack, mut checks) = (String::new(), String::new(), String::new());
        match &method.request {
            Payload::Whole(Type::Unit) if !streams_requests(method) => binding.push_str("()"),
            Payload::Whole(_) if streams_requests(method) => binding.push_str("requests"),
            Payload::Whole(_) => binding.push_str("request"),
            Payload::Fields { message, fields } => {
                let message = self.names.path(message);
                let names: Vec<String> = fields.iter().map(|field| field.name.clone()).collect();
                binding = match &names[..] {
                    [] => format!("{message} {{}}"),
                    names => format!("{message} {{ {} }}", names.join(", ")),
                };
                if !fits(12, &format!("{start}|{binding}| {{")) {
                    unpack = braced(16, "let ", &message, &names, " = request;");
                    binding = format!("request: {message}");
                }
                for field in fields {
                    if let Some(value) = self.checked(field, &field.name) {
                        let before = format!("let {} = ", field.name);
                        checks
                            .push_str(&value.question_mark(self.plug).statement(16, &before, ";"));
                    }
                }
            }
        }
        let mut body = format!("{unpack}{checks}");
        match &method.response {
            Payload::Whole(_) => {
                let one = format!("{start}|{binding}| {handler}({})),", arguments.join(", "));
                if body.is_empty() && fits(12, &one) {
                    return format!("            {one}\n");
                }
                body.push_str(&call(16, "", &handler, &arguments, ""));
            }
            Payload::Fields { message, fields } => {
                let message = self.names.path(message);
                match &fields[..] {
                    [] => {
                        body.push_str(&call(16, "", &handler, &arguments, "?;"));
                        body.push_str(&format!("                Ok({message} {{}})\n"));
                    }
                    [field, ..] => {
                        let before = format!("let {} = ", field.name);
                        body.push_str(&call(16, &before, &handler, &arguments, "?;"));
                        let value = self.sent(field);
                        body.push_str(&braced(16, "Ok(", &message, &[value], ")"));
                    }
                }
            }
        }
        format!("            {start}|{binding}| {{\n{body}            }}),\n")
    }
}
