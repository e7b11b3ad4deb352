//! The types of arguments and results.

use quote::ToTokens as _;

/// A type as the traits and proxies use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Unit,
    /// A number or `bool`.
    Scalar(String),
    String,
    Bytes,
    /// `plug::bytes::Bytes`.
    SharedBytes,
    /// A message or oneof, by its Rust path.
    Message(String),
    /// An enum, by its Rust path. The message holds its number.
    Enum(String),
    Option(Box<Type>),
    Boxed(Box<Type>),
    Vec(Box<Type>),
    Map {
        ordered: bool,
        key: Box<Type>,
        value: Box<Type>,
    },
}

/// What the innermost part of a field's type stands for.
#[derive(Clone, Debug)]
pub(crate) enum Leaf {
    /// What the type says.
    AsWritten,
    /// The enum at this Rust path.
    Enum(String),
    /// The message or oneof at this Rust path: the type in the struct names it from elsewhere.
    Message(String),
}

impl Type {
    /// Reads a type that prost-build wrote. `runtime` is the absolute path of the runtime crate.
    pub(crate) fn read(ty: &syn::Type, leaf: &Leaf, runtime: &str) -> Type {
        let text: String =
            ty.to_token_stream().to_string().chars().filter(|c| !c.is_whitespace()).collect();
        read(&text, leaf, runtime)
    }

    /// Reads a path that prost-build wrote where the type of a request or response is named.
    pub(crate) fn read_path(path: &str, runtime: &str) -> Type {
        read(path, &Leaf::Message(path.to_owned()), runtime)
    }

    /// Whether values of this type must be converted between the message and the trait.
    pub(crate) fn holds_enum(&self) -> bool {
        match self {
            Type::Enum(_) => true,
            Type::Option(inner) | Type::Boxed(inner) | Type::Vec(inner) => inner.holds_enum(),
            Type::Map { value, .. } => value.holds_enum(),
            _ => false,
        }
    }
}

fn read(text: &str, leaf: &Leaf, runtime: &str) -> Type {
    let alloc = format!("{runtime}::prost::alloc");
    let inner = |prefix: &str| {
        text.strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix('<'))
            .and_then(|rest| rest.strip_suffix('>'))
    };
    if let Some(inner) = inner("::core::option::Option") {
        return Type::Option(Box::new(read(inner, leaf, runtime)));
    }
    if let Some(inner) = inner(&format!("{alloc}::boxed::Box")) {
        return Type::Boxed(Box::new(read(inner, leaf, runtime)));
    }
    match inner(&format!("{alloc}::vec::Vec")) {
        Some("u8") => return Type::Bytes,
        Some(inner) => return Type::Vec(Box::new(read(inner, leaf, runtime))),
        None => {}
    }
    let maps = [
        (false, "::std::collections::HashMap".to_owned()),
        (true, format!("{alloc}::collections::BTreeMap")),
    ];
    for (ordered, path) in maps {
        // The key of a map has no commas in its type.
        if let Some((key, value)) = inner(&path).and_then(|inner| inner.split_once(',')) {
            return Type::Map {
                ordered,
                key: Box::new(read(key, &Leaf::AsWritten, runtime)),
                value: Box::new(read(value, leaf, runtime)),
            };
        }
    }
    if text == "()" {
        return Type::Unit;
    }
    if text == format!("{alloc}::string::String") {
        return Type::String;
    }
    if text == format!("{runtime}::prost::bytes::Bytes") {
        return Type::SharedBytes;
    }
    if let ("i32", Leaf::Enum(path)) = (text, leaf) {
        return Type::Enum(path.clone());
    }
    const SCALARS: [&str; 7] = ["i32", "i64", "u32", "u64", "f32", "f64", "bool"];
    if SCALARS.contains(&text) {
        return Type::Scalar(text.to_owned());
    }
    match leaf {
        Leaf::Message(path) => Type::Message(path.clone()),
        Leaf::AsWritten | Leaf::Enum(_) => Type::Message(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, leaf: &Leaf) -> Type {
        Type::read(&syn::parse_str(text).unwrap(), leaf, "::plug")
    }

    #[test]
    fn what_prost_writes_is_understood() {
        let message = Leaf::Message("super::other::Tree".into());
        assert_eq!(
            read_text("::core::option::Option<::plug::prost::alloc::boxed::Box<Tree>>", &message),
            Type::Option(Box::new(Type::Boxed(Box::new(Type::Message(
                "super::other::Tree".into()
            )))))
        );
        assert_eq!(
            read_text(
                "::std::collections::HashMap<::plug::prost::alloc::string::String, i32>",
                &Leaf::Enum("Kind".into())
            ),
            Type::Map {
                ordered: false,
                key: Box::new(Type::String),
                value: Box::new(Type::Enum("Kind".into())),
            }
        );
        let vec = "::plug::prost::alloc::vec::Vec";
        assert_eq!(read_text(&format!("{vec}<u8>"), &Leaf::AsWritten), Type::Bytes);
        assert_eq!(
            read_text(&format!("{vec}<{vec}<u8>>"), &Leaf::AsWritten),
            Type::Vec(Box::new(Type::Bytes))
        );
        assert_eq!(read_text("()", &message), Type::Unit);
    }
}
