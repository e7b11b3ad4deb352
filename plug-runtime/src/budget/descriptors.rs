//! What descriptors look like that other processes send: the one message whose type no service of this program describes.
//!
//! The fields are those of `prost_types`, which are fewer than those of a later `descriptor.proto`. It matters that there are
//! no more: decoding skips a field that it does not know, whatever its type, where walking it as a known one would end.

use std::sync::OnceLock;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

use super::shapes::{self, Shapes};

/// The shapes of all messages in a `FileDescriptorSet`, and the index of that.
pub(super) fn shapes() -> &'static (Shapes, usize) {
    static SHAPES: OnceLock<(Shapes, usize)> = OnceLock::new();
    SHAPES.get_or_init(|| match shapes::read_message(".FileDescriptorSet", &described()) {
        Some(shapes) => shapes,
        None => unreachable!("it is the first below"),
    })
}

/// A field: its number, its label, its type.
struct Field(i32, Label, Of);

#[derive(Clone, Copy)]
enum Of {
    Text,
    Bytes,
    /// An `int32`, or an enum.
    Int,
    Bool,
    Uint64,
    Int64,
    Double,
    Message(&'static str),
}

use Of::{Bool, Bytes, Double, Int, Int64, Message, Text, Uint64};

const fn one(number: i32, of: Of) -> Field {
    Field(number, Label::Optional, of)
}

const fn required(number: i32, of: Of) -> Field {
    Field(number, Label::Required, of)
}

const fn many(number: i32, of: Of) -> Field {
    Field(number, Label::Repeated, of)
}

const MESSAGES: &[(&str, &[Field])] = &[
    ("FileDescriptorSet", &[many(1, Message("FileDescriptorProto"))]),
    (
        "FileDescriptorProto",
        &[
            one(1, Text),
            one(2, Text),
            many(3, Text),
            many(4, Message("DescriptorProto")),
            many(5, Message("EnumDescriptorProto")),
            many(6, Message("ServiceDescriptorProto")),
            many(7, Message("FieldDescriptorProto")),
            one(8, Message("FileOptions")),
            one(9, Message("SourceCodeInfo")),
            many(10, Int),
            many(11, Int),
            one(12, Text),
        ],
    ),
    (
        "DescriptorProto",
        &[
            one(1, Text),
            many(2, Message("FieldDescriptorProto")),
            many(3, Message("DescriptorProto")),
            many(4, Message("EnumDescriptorProto")),
            many(5, Message("ExtensionRange")),
            many(6, Message("FieldDescriptorProto")),
            one(7, Message("MessageOptions")),
            many(8, Message("OneofDescriptorProto")),
            many(9, Message("Range")),
            many(10, Text),
        ],
    ),
    ("ExtensionRange", &[one(1, Int), one(2, Int), one(3, Message("OtherOptions"))]),
    // Reserved numbers, of a message or of an enum.
    ("Range", &[one(1, Int), one(2, Int)]),
    (
        "FieldDescriptorProto",
        &[
            one(1, Text),
            one(2, Text),
            one(3, Int),
            one(4, Int),
            one(5, Int),
            one(6, Text),
            one(7, Text),
            one(8, Message("FieldOptions")),
            one(9, Int),
            one(10, Text),
            one(17, Bool),
        ],
    ),
    ("OneofDescriptorProto", &[one(1, Text), one(2, Message("OtherOptions"))]),
    (
        "EnumDescriptorProto",
        &[
            one(1, Text),
            many(2, Message("EnumValueDescriptorProto")),
            one(3, Message("EnumOptions")),
            many(4, Message("Range")),
            many(5, Text),
        ],
    ),
    ("EnumValueDescriptorProto", &[one(1, Text), one(2, Int), one(3, Message("EnumValueOptions"))]),
    (
        "ServiceDescriptorProto",
        &[
            one(1, Text),
            many(2, Message("MethodDescriptorProto")),
            one(3, Message("ServiceOptions")),
        ],
    ),
    (
        "MethodDescriptorProto",
        &[
            one(1, Text),
            one(2, Text),
            one(3, Text),
            one(4, Message("MethodOptions")),
            one(5, Bool),
            one(6, Bool),
        ],
    ),
    (
        "FileOptions",
        &[
            one(1, Text),
            one(8, Text),
            one(9, Int),
            one(10, Bool),
            one(11, Text),
            one(16, Bool),
            one(17, Bool),
            one(18, Bool),
            one(20, Bool),
            one(23, Bool),
            one(27, Bool),
            one(31, Bool),
            one(36, Text),
            one(37, Text),
            one(39, Text),
            one(40, Text),
            one(41, Text),
            one(42, Bool),
            one(44, Text),
            one(45, Text),
            many(999, Message("UninterpretedOption")),
        ],
    ),
    (
        "MessageOptions",
        &[
            one(1, Bool),
            one(2, Bool),
            one(3, Bool),
            one(7, Bool),
            many(999, Message("UninterpretedOption")),
        ],
    ),
    (
        "FieldOptions",
        &[
            one(1, Int),
            one(2, Bool),
            one(3, Bool),
            one(5, Bool),
            one(6, Int),
            one(10, Bool),
            many(999, Message("UninterpretedOption")),
        ],
    ),
    ("EnumOptions", &[one(2, Bool), one(3, Bool), many(999, Message("UninterpretedOption"))]),
    ("EnumValueOptions", &[one(1, Bool), many(999, Message("UninterpretedOption"))]),
    ("ServiceOptions", &[one(33, Bool), many(999, Message("UninterpretedOption"))]),
    ("MethodOptions", &[one(33, Bool), one(34, Int), many(999, Message("UninterpretedOption"))]),
    // Of ranges and of oneofs.
    ("OtherOptions", &[many(999, Message("UninterpretedOption"))]),
    (
        "UninterpretedOption",
        &[
            many(2, Message("NamePart")),
            one(3, Text),
            one(4, Uint64),
            one(5, Int64),
            one(6, Double),
            one(7, Bytes),
            one(8, Text),
        ],
    ),
    ("NamePart", &[required(1, Text), required(2, Bool)]),
    ("SourceCodeInfo", &[many(1, Message("Location"))]),
    ("Location", &[many(1, Int), many(2, Int), one(3, Text), one(4, Text), many(6, Text)]),
];

fn described() -> FileDescriptorSet {
    let messages = MESSAGES.iter().map(|&(name, fields)| DescriptorProto {
        name: Some(name.to_owned()),
        field: fields.iter().map(Field::described).collect(),
        ..DescriptorProto::default()
    });
    let file = FileDescriptorProto {
        syntax: Some("proto2".to_owned()),
        message_type: messages.collect(),
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet { file: vec![file] }
}

impl Field {
    fn described(&self) -> FieldDescriptorProto {
        let Field(number, label, of) = *self;
        let (of, name) = match of {
            Text => (Type::String, None),
            Bytes => (Type::Bytes, None),
            Int => (Type::Int32, None),
            Bool => (Type::Bool, None),
            Uint64 => (Type::Uint64, None),
            Int64 => (Type::Int64, None),
            Double => (Type::Double, None),
            Message(name) => (Type::Message, Some(format!(".{name}"))),
        };
        FieldDescriptorProto {
            number: Some(number),
            label: Some(label.into()),
            r#type: Some(of.into()),
            type_name: name,
            ..FieldDescriptorProto::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use prost::Message as _;
    use prost::encoding::{WireType, encode_key, encode_varint};
    use prost_types::{
        EnumDescriptorProto, EnumOptions, EnumValueDescriptorProto, EnumValueOptions,
        ExtensionRangeOptions, FieldOptions, FileOptions, MessageOptions, MethodDescriptorProto,
        MethodOptions, OneofDescriptorProto, OneofOptions, ServiceDescriptorProto, ServiceOptions,
        SourceCodeInfo, UninterpretedOption, descriptor_proto, enum_descriptor_proto,
        source_code_info, uninterpreted_option,
    };

    use super::*;

    fn key(number: i32, wire_type: WireType, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_key(number as u32, wire_type, &mut out);
        if wire_type == WireType::LengthDelimited {
            encode_varint(content.len() as u64, &mut out);
        }
        out.extend_from_slice(content);
        out
    }

    /// By which fields a message of each type comes to be in a set.
    fn paths() -> BTreeMap<&'static str, Vec<i32>> {
        let fields: BTreeMap<_, _> = MESSAGES.iter().copied().collect();
        let mut paths = BTreeMap::from([("FileDescriptorSet", Vec::new())]);
        let mut left = VecDeque::from(["FileDescriptorSet"]);
        while let Some(name) = left.pop_front() {
            for &Field(number, _, of) in fields[name] {
                let Message(inner) = of else { continue };
                if !paths.contains_key(inner) {
                    paths.insert(inner, [&paths[name][..], &[number]].concat());
                    left.push_back(inner);
                }
            }
        }
        paths
    }

    /// Where the two differ, what is decoded is not what was measured.
    #[test]
    fn the_fields_are_those_that_are_decoded() {
        let paths = paths();
        assert_eq!(paths.len(), MESSAGES.len(), "each is used");
        for (name, fields) in MESSAGES {
            let decode = |content: &[u8]| {
                let within = |content: Vec<u8>, number: &i32| {
                    key(*number, WireType::LengthDelimited, &content)
                };
                let set = paths[name].iter().rev().fold(content.to_vec(), within);
                FileDescriptorSet::decode(&set[..])
            };
            for number in 1..=1200 {
                let field = fields.iter().find(|field| field.0 == number);
                let takes =
                    |wire_type, content: &[u8]| decode(&key(number, wire_type, content)).is_ok();
                // Nothing has this type, so that what takes it is skipped.
                let is_skipped = takes(WireType::ThirtyTwoBit, &[0; 4]);
                assert_eq!(is_skipped, field.is_none(), "{name}, field {number}");
                let Some(&Field(_, label, of)) = field else { continue };
                let is_repeated = label == Label::Repeated;
                // What is good text or bytes, and packed numbers, and no message; and what is good bytes only.
                let found = [
                    takes(WireType::Varint, &[1]),
                    takes(WireType::SixtyFourBit, &[0; 8]),
                    takes(WireType::LengthDelimited, &[7]),
                    takes(WireType::LengthDelimited, &[0xff, 0xff]),
                    takes(WireType::LengthDelimited, &[]),
                ];
                let expected = match of {
                    Text => [false, false, true, false, true],
                    Bytes => [false, false, true, true, true],
                    Int if is_repeated => [true, false, true, false, true],
                    Int | Bool | Uint64 | Int64 => [true, false, false, false, false],
                    Double => [false, true, false, false, false],
                    Message(_) => [false, false, false, false, true],
                };
                assert_eq!(found, expected, "{name}, field {number}");
                let content: (WireType, &[u8]) = match of {
                    Text | Bytes | Message(_) => (WireType::LengthDelimited, &[]),
                    Double => (WireType::SixtyFourBit, &[0; 8]),
                    Int | Bool | Uint64 | Int64 => (WireType::Varint, &[1]),
                };
                let once = key(number, content.0, content.1);
                let twice = decode(&once.repeat(2)).unwrap().encoded_len();
                let once = decode(&once).unwrap().encoded_len();
                assert_eq!(twice > once, is_repeated, "{name}, field {number}: {once}, {twice}");
            }
        }
    }

    #[test]
    fn the_structs_are_no_larger_than_reckoned() {
        let check = |name: &str, size: usize| {
            let (shapes, root) =
                shapes::read_message(&format!(".{name}"), &described()).expect(name);
            let reckoned = shapes.get(root).size;
            assert!(reckoned >= size, "{name} has {size} bytes, and {reckoned} are reckoned");
            assert!(reckoned < size * 2, "{name} has {size} bytes, and {reckoned} are reckoned");
        };
        macro_rules! check {
            ($($name:literal: $($of:ty),*;)*) => {$($(check($name, size_of::<$of>());)*)*};
        }
        check! {
            "FileDescriptorSet": FileDescriptorSet;
            "FileDescriptorProto": FileDescriptorProto;
            "DescriptorProto": DescriptorProto;
            "ExtensionRange": descriptor_proto::ExtensionRange;
            "Range": descriptor_proto::ReservedRange, enum_descriptor_proto::EnumReservedRange;
            "FieldDescriptorProto": FieldDescriptorProto;
            "OneofDescriptorProto": OneofDescriptorProto;
            "EnumDescriptorProto": EnumDescriptorProto;
            "EnumValueDescriptorProto": EnumValueDescriptorProto;
            "ServiceDescriptorProto": ServiceDescriptorProto;
            "MethodDescriptorProto": MethodDescriptorProto;
            "FileOptions": FileOptions;
            "MessageOptions": MessageOptions;
            "FieldOptions": FieldOptions;
            "EnumOptions": EnumOptions;
            "EnumValueOptions": EnumValueOptions;
            "ServiceOptions": ServiceOptions;
            "MethodOptions": MethodOptions;
            "OtherOptions": ExtensionRangeOptions, OneofOptions;
            "UninterpretedOption": UninterpretedOption;
            "NamePart": uninterpreted_option::NamePart;
            "SourceCodeInfo": SourceCodeInfo;
            "Location": source_code_info::Location;
        }
    }
}
