//! The default values of proto2: text, which prost-build puts into code.

use prost_types::FieldDescriptorProto;
use prost_types::field_descriptor_proto::{Label, Type};

use crate::source::Types;

/// Whether `default` is a value for the field, in the form in which descriptors hold it.
pub(crate) fn is_valid(field: &FieldDescriptorProto, default: &str, types: &Types<'_>) -> bool {
    if field.label() == Label::Repeated {
        return false;
    }
    match field.r#type() {
        Type::Double | Type::Float => {
            // `inf` and `nan` included, `infinity` not.
            default.parse::<f64>().is_ok() && !default.to_ascii_lowercase().contains("infinity")
        }
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => default.parse::<i32>().is_ok(),
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => default.parse::<i64>().is_ok(),
        Type::Uint32 | Type::Fixed32 => default.parse::<u32>().is_ok(),
        Type::Uint64 | Type::Fixed64 => default.parse::<u64>().is_ok(),
        Type::Bool => default == "true" || default == "false",
        Type::String => true,
        Type::Bytes => is_c_escaped(default),
        Type::Enum => types
            .enums
            .get(field.type_name())
            .is_some_and(|found| found.value.iter().any(|value| value.name() == default)),
        Type::Message | Type::Group => false,
    }
}

/// Whether all escapes are ones that prost-build understands: it panics on others.
fn is_c_escaped(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            continue;
        }
        let Some((&kind, after)) = rest.split_first() else { return false };
        let digits = |most: usize, fits: fn(&u8) -> bool| {
            rest.iter().take(most).take_while(|digit| fits(digit)).count()
        };
        match kind {
            b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'\\' | b'?' | b'\'' | b'"' => {
                rest = after;
            }
            b'0'..=b'7' => {
                let count = digits(3, |digit| matches!(digit, b'0'..=b'7'));
                if count == 3 && kind > b'3' {
                    return false;
                }
                rest = &rest[count..];
            }
            b'x' | b'X' => match after {
                [a, b, after @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                    rest = after;
                }
                _ => return false,
            },
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_that_would_make_prost_build_panic_are_refused() {
        for fine in ["", "abc", r"\001\377\x7f\n\\", r"\0", r"a\'b"] {
            assert!(is_c_escaped(fine), "{fine}");
        }
        for wrong in [r"\", r"\400", r"\x1", r"\xzz", r"\q"] {
            assert!(!is_c_escaped(wrong), "{wrong}");
        }
    }
}
