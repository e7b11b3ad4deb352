//! The names that generated code introduces, kept apart from those that the `.proto` brings along.

use std::collections::BTreeSet;

use crate::types::Type;

/// How a module's code names what is not in it.
pub(crate) struct Names {
    /// The types and modules of the module.
    taken: BTreeSet<String>,
    /// The runtime crate, absolute and as it is written here.
    absolute_runtime: String,
    runtime: String,
}

impl Names {
    pub(crate) fn new(
        taken: BTreeSet<String>,
        absolute_runtime: &str,
        runtime_option: Option<&str>,
    ) -> Names {
        let wish = runtime_option.unwrap_or("plug");
        let first = wish.split("::").next().unwrap_or_default();
        let runtime = if taken.contains(first) { absolute_runtime } else { wish };
        Names { runtime: runtime.to_owned(), absolute_runtime: absolute_runtime.to_owned(), taken }
    }

    /// The path of the runtime crate.
    pub(crate) fn plug(&self) -> &str {
        &self.runtime
    }

    /// A name of the prelude: itself, or its full path if the module has a type of this name.
    pub(crate) fn std(&self, name: &'static str) -> String {
        if !self.taken.contains(name) {
            return name.to_owned();
        }
        let module = match name {
            "Box" => "boxed",
            "Default" => "default",
            "Into" => "convert",
            "Option" => "option",
            "String" => "string",
            "Vec" => "vec",
            // Send, Sync, Sized
            _ => "marker",
        };
        format!("::std::{module}::{name}")
    }

    /// A name for something that generated code introduces: `wish`, with as many `_` as it takes to
    /// be unlike the types of the module and unlike `others`.
    pub(crate) fn binder(&self, wish: &str, others: &BTreeSet<&str>) -> String {
        let mut name = wish.to_owned();
        while self.taken.contains(&name) || others.contains(&name[..]) {
            name.push('_');
        }
        name
    }

    /// A path that prost-build wrote, as short as it can be.
    pub(crate) fn path(&self, path: &str) -> String {
        match path.strip_prefix(&self.absolute_runtime) {
            Some(rest) if rest.starts_with("::") => format!("{}{rest}", self.runtime),
            _ => path.to_owned(),
        }
    }

    /// A type, as code.
    pub(crate) fn ty(&self, ty: &Type) -> String {
        match ty {
            Type::Unit => "()".into(),
            Type::Scalar(name) => name.clone(),
            Type::String => self.std("String"),
            Type::Bytes => format!("{}<u8>", self.std("Vec")),
            Type::SharedBytes => format!("{}::bytes::Bytes", self.runtime),
            Type::Message(path) | Type::Enum(path) => self.path(path),
            Type::Option(inner) => format!("{}<{}>", self.std("Option"), self.ty(inner)),
            Type::Boxed(inner) => format!("{}<{}>", self.std("Box"), self.ty(inner)),
            Type::Vec(inner) => format!("{}<{}>", self.std("Vec"), self.ty(inner)),
            Type::Map { ordered, key, value } => {
                let root = if self.taken.contains("std") { "::std" } else { "std" };
                let map = if *ordered { "BTreeMap" } else { "HashMap" };
                format!("{root}::collections::{map}<{}, {}>", self.ty(key), self.ty(value))
            }
        }
    }
}
