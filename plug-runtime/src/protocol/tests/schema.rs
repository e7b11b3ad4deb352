//! The code, the tables of PROTOCOL.md and `frame.proto` say the same.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};

use super::super::frame::Metadata;
use super::*;
use crate::protocol::{Config, Pair};

pub(super) const FRAME_PROTO: &str = include_str!("../../../proto/frame.proto");

pub(super) fn pool(sources: &[(&str, &str)]) -> DescriptorPool {
    let mut pool = DescriptorPool::new();
    for (name, source) in sources {
        let file = protox::file::File::from_source(name, source).unwrap();
        pool.add_file_descriptor_proto(file.file_descriptor_proto().clone()).unwrap();
    }
    pool
}

fn message(name: &str) -> MessageDescriptor {
    thread_local! {
        static POOL: DescriptorPool = pool(&[("frame.proto", FRAME_PROTO)]);
    }
    POOL.with(|pool| pool.get_message_by_name(&format!("plug.wire.{name}"))).expect(name)
}

/// Reads a message by the schema. Nothing in it may be unknown there.
fn by_schema(name: &str, bytes: &[u8]) -> DynamicMessage {
    let decoded = DynamicMessage::decode(message(name), bytes).unwrap();
    let unknown: Vec<_> = decoded.unknown_fields().collect();
    assert!(unknown.is_empty(), "fields that the schema does not know: {unknown:?}");
    decoded
}

/// Makes a message by the schema, of the fields that are given and not empty.
fn made(name: &str, fields: Vec<(&str, Value)>) -> DynamicMessage {
    let mut made = DynamicMessage::new(message(name));
    for (field, value) in fields {
        let descriptor = message(name).get_field_by_name(field).expect(field);
        if value != Value::default_value_for_field(&descriptor) {
            made.set_field(&descriptor, value);
        }
    }
    made
}

/// The fields of a message by name: its own `Debug` is mostly its schema.
fn shown(message: &DynamicMessage) -> String {
    let fields = message.fields().map(|(field, value)| match value {
        Value::Message(inner) => format!("{}: {}", field.name(), shown(inner)),
        value if field.is_list() => {
            let items = value.as_list().unwrap().iter();
            let items = items.map(|item| item.as_message().map_or(format!("{item:?}"), shown));
            format!("{}: [{}]", field.name(), items.collect::<Vec<_>>().join(", "))
        }
        value => format!("{}: {value:?}", field.name()),
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}

fn by_hand(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let Varint::Value(len, prefix) = read_varint(&bytes) else { panic!("no length") };
    assert_eq!(len as usize, bytes.len() - prefix, "the length says how long it is");
    bytes.split_off(prefix)
}

fn frame_fields(frame: &Frame<'_>) -> Vec<(&'static str, Value)> {
    let pairs = frame.metadata.read().unwrap().into_iter().map(|(key, value)| {
        // Both fields are always there, also when they are empty.
        let mut pair = DynamicMessage::new(message("Pair"));
        pair.set_field_by_name("key", Value::String(key));
        pair.set_field_by_name("value", Value::Bytes(value));
        Value::Message(pair)
    });
    vec![
        ("kind", Value::U32(frame.kind)),
        ("call", Value::U64(frame.call)),
        ("method", Value::U32(frame.method)),
        ("timeout_us", Value::U64(frame.timeout_us)),
        ("within", Value::U64(frame.within)),
        ("flags", Value::U32(frame.flags)),
        ("total", Value::U64(frame.total)),
        ("credit", Value::U64(frame.credit)),
        ("code", Value::U32(frame.code)),
        ("message", Value::String(frame.message.to_owned())),
        ("metadata", Value::List(pairs.collect())),
        ("payload", Value::Bytes(frame.payload.to_vec().into())),
    ]
}

/// All fields of a hello but its services.
fn hello_fields(hello: &Hello) -> Vec<(&'static str, Value)> {
    let texts = |texts: &[String]| Value::List(texts.iter().cloned().map(Value::String).collect());
    let messages =
        |list: Vec<DynamicMessage>| Value::List(list.into_iter().map(Value::Message).collect());
    let service = |service: &ServiceInfo| {
        let method = |method: &MethodInfo| {
            made(
                "Method",
                vec![
                    ("name", Value::String(method.name.clone())),
                    ("streams_requests", Value::Bool(method.streams_requests)),
                    ("streams_responses", Value::Bool(method.streams_responses)),
                    ("one_way", Value::Bool(method.one_way)),
                ],
            )
        };
        made(
            "Service",
            vec![
                ("name", Value::String(service.name.clone())),
                ("magic", Value::String(service.magic.clone())),
                ("version", Value::U32(service.version)),
                ("methods", messages(service.methods.iter().map(method).collect())),
            ],
        )
    };
    let pair = |pair: &Pair| {
        let value = Value::Bytes(pair.value.clone());
        made("Pair", vec![("key", Value::String(pair.key.clone())), ("value", value)])
    };
    let config = hello.config.iter().map(|config| {
        let value = Value::Bytes(config.value.clone());
        let config = made(
            "Config",
            vec![("type", Value::String(config.type_name.clone())), ("value", value)],
        );
        ("config", Value::Message(config))
    });
    let mut fields = vec![
        ("version_min", Value::U32(hello.version_min)),
        ("version_max", Value::U32(hello.version_max)),
        ("name", Value::String(hello.name.clone())),
        ("version", Value::String(hello.version.clone())),
        ("runtime", Value::String(hello.runtime.clone())),
        ("services", messages(hello.services.iter().map(service).collect())),
        ("max_message", Value::U64(hello.max_message)),
        ("max_calls", Value::U32(hello.max_calls)),
        ("features", texts(&hello.features)),
        ("required", texts(&hello.required)),
        ("stream_window", Value::U64(hello.stream_window)),
        ("connection_window", Value::U64(hello.connection_window)),
        ("level", Value::EnumNumber(hello.level)),
        ("attributes", messages(hello.attributes.iter().map(pair).collect())),
    ];
    fields.extend(config);
    fields
}

/// Numbers of every length.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64u32).prop_map(|(number, shift)| number >> shift)
}

fn number_32() -> impl Strategy<Value = u32> {
    number().prop_map(|number| number as u32)
}

fn some_text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), vec(any::<char>(), 0..200).prop_map(String::from_iter)]
}

fn hellos() -> impl Strategy<Value = Hello> {
    let method =
        (some_text(), any::<[bool; 3]>()).prop_map(|(name, [requests, responses, one_way])| {
            MethodInfo { name, streams_requests: requests, streams_responses: responses, one_way }
        });
    let service = (some_text(), some_text(), number_32(), vec(method, 0..3))
        .prop_map(|(name, magic, version, methods)| ServiceInfo { name, magic, version, methods });
    let texts = || vec(some_text(), 0..3);
    let numbers = (number_32(), number_32(), number(), number_32(), number(), number(), 0..6);
    let names = (some_text(), some_text(), some_text());
    let pair = || (some_text(), some_text());
    let extras = (option::of(pair()), vec(pair(), 0..3));
    (numbers, names, vec(service, 0..3), texts(), texts(), extras).prop_map(
        |(numbers, (name, version, runtime), services, features, required, extras)| {
            let (
                version_min,
                version_max,
                max_message,
                max_calls,
                stream_window,
                connection_window,
                level,
            ) = numbers;
            Hello {
                version_min,
                version_max,
                name,
                version,
                runtime,
                services,
                max_message,
                max_calls,
                features,
                required,
                // `made` leaves a message out that is empty.
                config: extras
                    .0
                    .map(|(type_name, value)| Config { type_name, value: value.into() })
                    .filter(|config| *config != Config::default()),
                attributes: extras
                    .1
                    .into_iter()
                    .map(|(key, value)| Pair { key, value: value.into() })
                    .collect(),
                stream_window,
                connection_window,
                level,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_codec_of_frames_is_that_of_the_schema(
        (kind, method, flags, code) in (number_32(), number_32(), number_32(), number_32()),
        (call, timeout_us, within) in (number(), number(), number()),
        (total, credit) in (number(), number()),
        message in some_text(),
        pairs in vec((some_text(), vec(any::<u8>(), 0..200)), 0..3),
        payload in vec(any::<u8>(), 0..300),
    ) {
        let (message, payload) = (&message[..], &payload[..]);
        let pairs: Vec<(String, Bytes)> =
            pairs.into_iter().map(|(key, value)| (key, value.into())).collect();
        let frame = Frame {
            kind, call, method, timeout_us, within, flags, total, credit, code, message, payload,
            metadata: Metadata::Pairs(&pairs),
        };
        let expected = made("Frame", frame_fields(&frame));
        let decoded = by_schema("Frame", &by_hand(&frame));
        prop_assert!(decoded == expected, "by the schema it is {}", shown(&decoded));
        // And back, with what this code has no use for.
        let mut extended = expected;
        extended.set_field_by_name("pad", Value::Bytes(vec![7; 9].into()));
        let extended = extended.encode_to_vec();
        let decoded = Frame::decode(&extended).unwrap();
        prop_assert_eq!(decoded.metadata.read().unwrap(), &pairs[..]);
        let metadata = frame.metadata;
        prop_assert_eq!(Frame { metadata, ..decoded }, frame);
    }

    #[test]
    fn the_codec_of_hellos_is_that_of_the_schema(hello in hellos()) {
        let expected = made("Hello", hello_fields(&hello));
        let decoded = by_schema("Hello", &hello.encode_to_vec());
        prop_assert!(decoded == expected, "by the schema it is {}", shown(&decoded));
        prop_assert_eq!(Hello::decode(&expected.encode_to_vec()[..]).unwrap(), hello);
    }
}

#[test]
fn kinds_and_flags_are_those_of_the_schema() {
    let pool = pool(&[("frame.proto", FRAME_PROTO)]);
    let number = |of: &str, name: &str| {
        let of = pool.get_enum_by_name(&format!("plug.wire.{of}")).unwrap();
        of.get_value_by_name(name).expect(name).number() as u32
    };
    for (name, kind) in [
        ("HELLO", kind::HELLO),
        ("OPEN", kind::OPEN),
        ("MESSAGE", kind::MESSAGE),
        ("END", kind::END),
        ("CANCEL", kind::CANCEL),
        ("CREDIT", kind::CREDIT),
        ("PING", kind::PING),
        ("PONG", kind::PONG),
        ("GOODBYE", kind::GOODBYE),
        ("READY", kind::READY),
        ("MEMORY", kind::MEMORY),
        ("SWITCH", kind::SWITCH),
        ("LOG", kind::LOG),
        ("LEVEL", kind::LEVEL),
    ] {
        assert_eq!(number("Kind", name), kind, "{name}");
    }
    for (name, flag) in
        [("LAST", flag::LAST), ("HALF_CLOSE", flag::HALF_CLOSE), ("NOT_STARTED", flag::NOT_STARTED)]
    {
        assert_eq!(number("Flag", name), flag, "{name}");
    }
}

#[test]
fn the_tables_of_the_specification_are_those_of_the_schema() {
    let document = std::fs::read_to_string(super::session::DOCUMENT).unwrap();
    let rows: Vec<Vec<&str>> = document
        .lines()
        .filter(|line| line.starts_with("| ") && line.ends_with(" |"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();

    let in_schema: Vec<(String, String)> = message("Frame")
        .fields()
        .map(|field| {
            let list = if field.is_list() { "repeated " } else { "" };
            let kind = match field.kind() {
                prost_reflect::Kind::Message(message) => message.name().to_owned(),
                kind => format!("{kind:?}"),
            };
            (format!("{} `{}`", field.number(), field.name()), format!("{list}{kind}"))
        })
        .collect();
    let in_document: Vec<(String, String)> = rows
        .iter()
        .filter(|row| row[0].ends_with('`'))
        .map(|row| (row[0].to_owned(), row[1].to_owned()))
        .collect();
    assert_eq!(in_document, in_schema);

    let kinds = pool(&[("frame.proto", FRAME_PROTO)]).get_enum_by_name("plug.wire.Kind").unwrap();
    let in_schema: Vec<(String, String)> = kinds
        .values()
        .filter(|kind| kind.number() != 0)
        .map(|kind| (kind.number().to_string(), kind.name().to_lowercase()))
        .collect();
    let heading = rows.iter().position(|row| row[0] == "kind").expect("the table of kinds");
    let in_document: Vec<(String, String)> = rows[heading + 1..]
        .iter()
        .take(in_schema.len())
        .map(|row| (row[0].to_owned(), row[1].to_owned()))
        .collect();
    assert_eq!(in_document, in_schema);
}
