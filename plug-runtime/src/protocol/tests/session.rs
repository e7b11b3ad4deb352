//! The session in PROTOCOL.md, which is what two connections really say to each other.
//!
//! `UPDATE_DUMP=1 cargo test -p plug-runtime session` writes it anew.

use std::fmt::Write as _;

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

use super::schema::{FRAME_PROTO, pool};
use super::*;

pub(super) const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../PROTOCOL.md");

const KV_PROTO: &str = r#"
    syntax = "proto3";
    package example;
    message GetRequest { string key = 1; }
    message GetResponse { bytes value = 1; }
"#;

/// The lines around the session in the document.
const BEGIN: &str = "```text session\n";
const END: &str = "```\n";

/// How many columns the bytes have, and how many of them are in one line.
const COLUMNS: usize = 46;
const BYTES: usize = 14;

#[test]
fn the_session_in_the_specification_is_a_real_one() {
    let written = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = written.split_once(BEGIN).expect("the session begins");
    let (session, after) = rest.split_once(END).expect("the session ends");
    let real = dump(&real_session());
    if std::env::var_os("UPDATE_DUMP").is_some() {
        std::fs::write(DOCUMENT, [before, BEGIN, &real, END, after].concat()).unwrap();
    } else {
        assert!(
            session == real,
            "PROTOCOL.md differs from what is sent:\n{}",
            diff(session, &real)
        );
    }
}

#[test]
fn the_bytes_in_the_specification_are_understood() {
    let written = std::fs::read_to_string(DOCUMENT).unwrap();
    let (_, rest) = written.split_once(BEGIN).unwrap();
    let (session, _) = rest.split_once(END).unwrap();
    let mut pair = Pair::new(host_hello(), kv_hello());
    let mut seen = Vec::new();
    for (side, bytes) in parse(session) {
        match side {
            Side::Host => {
                seen.extend(feed(&mut pair.plugin, &bytes));
                if seen == [Seen::Greeted] {
                    pair.plugin.accept();
                }
            }
            Side::Plugin => {
                // The calls that it answers.
                if pair.host.peer().is_some() {
                    pair.host.open(&unary(GET), Some(&text("k"))).unwrap();
                }
                seen.extend(feed(&mut pair.host, &bytes));
            }
        }
    }
    assert_eq!(
        seen,
        [
            Seen::Greeted,
            Seen::Greeted,
            Seen::request(1, GET, b"\x0a\x05hello"),
            Seen::response(1, b"\x0a\x05world"),
            Seen::request(3, GET, b"\x0a\x06nobody"),
            Seen::status(3, Code::NotFound, Delivery::MayHaveRun, "no such key: nobody"),
            Seen::Goodbye { grace: Some(Duration::from_secs(2)) },
        ]
    );
    assert!(pair.host.failure().is_none() && pair.plugin.failure().is_none());
}

/// Everything that is sent in a session, in turns.
fn real_session() -> Vec<(Side, Vec<u8>)> {
    let named = |hello: Hello, name: &str| Hello {
        name: name.into(),
        version: "1.0.0".into(),
        runtime: "plug-runtime".into(),
        ..hello
    };
    let mut host = Connection::new(Side::Host, named(host_hello(), "kv-host"), None);
    let plugin_hello = Hello { max_calls: 64, ..named(kv_hello(), "kv-plugin") };
    let mut plugin = Connection::new(Side::Plugin, plugin_hello, None);
    let mut turns = Vec::new();
    let mut deliver = |from: Side, sender: &mut Connection, to: &mut Connection| {
        let said = output(sender);
        to.handle_bytes(&said);
        assert!(to.failure().is_none(), "{:?}", to.failure());
        turns.push((from, said));
    };

    deliver(Side::Host, &mut host, &mut plugin);
    plugin.accept();
    deliver(Side::Plugin, &mut plugin, &mut host);
    let get = host.open(&unary(GET), Some(&Blob(b"\x0a\x05hello".to_vec()))).unwrap();
    deliver(Side::Host, &mut host, &mut plugin);
    plugin.reply(get, Answer::Response(b"\x0a\x05world".to_vec()));
    deliver(Side::Plugin, &mut plugin, &mut host);
    let get = host.open(&unary(GET), Some(&Blob(b"\x0a\x06nobody".to_vec()))).unwrap();
    deliver(Side::Host, &mut host, &mut plugin);
    plugin.reply(get, failed(Code::NotFound, "no such key: nobody"));
    deliver(Side::Plugin, &mut plugin, &mut host);
    host.goodbye(Duration::from_secs(2));
    deliver(Side::Host, &mut host, &mut plugin);
    turns
}

/// The bytes, with what each is.
fn dump(turns: &[(Side, Vec<u8>)]) -> String {
    let pool = pool(&[("frame.proto", FRAME_PROTO), ("kv.proto", KV_PROTO)]);
    let mut text = String::new();
    for (turn, (side, bytes)) in turns.iter().enumerate() {
        if turn > 0 {
            text.push('\n');
        }
        writeln!(text, "{}:", heading(*side)).unwrap();
        let mut bytes = &bytes[..];
        if turn < 2 {
            let (preamble, rest) = bytes.split_at(side.preamble().len());
            line(&mut text, 1, preamble, "the preamble");
            bytes = rest;
        }
        while !bytes.is_empty() {
            let Varint::Value(len, prefix) = read_varint(bytes) else { panic!("no length") };
            let len = len as usize;
            line(&mut text, 1, &bytes[..prefix], &format!("a frame of {len} bytes"));
            let (frame, rest) = bytes[prefix..].split_at(len);
            let payload = payload_type(&pool, *side, &Frame::decode(frame).unwrap());
            let schema = pool.get_message_by_name("plug.wire.Frame").unwrap();
            fields(&mut text, 2, frame, &schema, payload.as_ref());
            bytes = rest;
        }
    }
    text
}

/// The bytes in a dump.
fn parse(dump: &str) -> Vec<(Side, Vec<u8>)> {
    let mut turns: Vec<(Side, Vec<u8>)> = Vec::new();
    for line in dump.lines().filter(|line| !line.is_empty()) {
        if let Some(title) = line.strip_suffix(':') {
            let sides = [Side::Host, Side::Plugin];
            let side = sides.into_iter().find(|side| heading(*side) == title).expect(title);
            turns.push((side, Vec::new()));
            continue;
        }
        let bytes = line.get(..COLUMNS.min(line.len())).unwrap().split_whitespace();
        let (_, said) = turns.last_mut().expect("a heading");
        said.extend(bytes.map(|byte| u8::from_str_radix(byte, 16).expect(line)));
    }
    turns
}

fn heading(side: Side) -> &'static str {
    match side {
        Side::Host => "host to plugin",
        Side::Plugin => "plugin to host",
    }
}

fn payload_type(pool: &DescriptorPool, side: Side, frame: &Frame<'_>) -> Option<MessageDescriptor> {
    let name = match (frame.kind, side) {
        (kind::HELLO, _) => "plug.wire.Hello",
        (kind::OPEN, Side::Host) => "example.GetRequest",
        (kind::END, Side::Plugin) => "example.GetResponse",
        _ => return None,
    };
    pool.get_message_by_name(name)
}

/// The fields of a message, one a line, those inside messages indented.
fn fields(
    text: &mut String,
    depth: usize,
    mut bytes: &[u8],
    schema: &MessageDescriptor,
    payload: Option<&MessageDescriptor>,
) {
    while !bytes.is_empty() {
        let (tag, tag_len) = varint(bytes);
        let (value, value_len) = varint(&bytes[tag_len..]);
        let head = tag_len + value_len;
        let field = schema.get_field((tag >> 3) as u32).expect("a field of the schema");
        let name = field.name();
        if tag & 7 == 0 {
            line(text, depth, &bytes[..head], &format!("{name}: {value}{}", meaning(name, value)));
            bytes = &bytes[head..];
            continue;
        }
        assert_eq!(tag & 7, 2, "a field with a length");
        let (whole, rest) = bytes.split_at(head + value as usize);
        let content = &whole[head..];
        let inner = match field.kind() {
            Kind::Message(message) => Some(message),
            Kind::Bytes if name == "payload" => payload.cloned(),
            _ => None,
        };
        match inner {
            Some(inner) => {
                let what = format!("{name}: {value} bytes, a {}", inner.name());
                line(text, depth, &whole[..head], &what);
                fields(text, depth + 1, content, &inner, None);
            }
            None => line(text, depth, whole, &format!("{name}: \"{}\"", content.escape_ascii())),
        }
        bytes = rest;
    }
}

fn meaning(field: &str, value: u64) -> String {
    let pool = pool(&[("frame.proto", FRAME_PROTO)]);
    let names = |of: &str, fits: &dyn Fn(i32) -> bool| {
        let of = pool.get_enum_by_name(of).unwrap();
        let names = of.values().filter(|value| fits(value.number()));
        names.map(|value| value.name().to_lowercase().replace('_', " ")).collect::<Vec<_>>()
    };
    let value = value as i32;
    let names = match field {
        "kind" => names("plug.wire.Kind", &|number| number == value),
        "flags" => names("plug.wire.Flag", &|number| number & value != 0),
        "code" => vec![format!("{:?}", Code::from_wire(value as u32))],
        _ => return String::new(),
    };
    format!(" ({})", names.join(", "))
}

fn line(text: &mut String, depth: usize, bytes: &[u8], what: &str) {
    for (index, bytes) in bytes.chunks(BYTES).enumerate() {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let what =
            if index == 0 { format!("{}{what}", "  ".repeat(depth - 1)) } else { String::new() };
        let line = format!("  {:<width$}{what}", hex.join(" "), width = COLUMNS - 2);
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn varint(bytes: &[u8]) -> (u64, usize) {
    match read_varint(bytes) {
        Varint::Value(value, len) => (value, len),
        _ => panic!("no varint"),
    }
}

/// The lines that differ, with a little of what is around them.
fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| {
        pairs.take_while(|(old, new)| old == new).count()
    };
    let head = same(&mut old.iter().zip(&new));
    let most = old.len().min(new.len()) - head;
    let tail = same(&mut old.iter().rev().zip(new.iter().rev())).min(most);
    let mut text = String::new();
    let around = 3;
    let mut push = |sign: char, lines: &[&str]| {
        lines.iter().for_each(|line| writeln!(text, "{sign} {line}").unwrap());
    };
    push(' ', &old[head.saturating_sub(around)..head]);
    push('-', &old[head..old.len() - tail]);
    push('+', &new[head..new.len() - tail]);
    push(' ', &old[old.len() - tail..(old.len() - tail + around).min(old.len())]);
    text + "Set UPDATE_DUMP=1 to write it anew."
}
