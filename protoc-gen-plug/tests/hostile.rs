//! Descriptors that no compiler would write. None may panic, overflow the stack, take forever, or put
//! anything into the code that is not a name.

use std::fs;
use std::path::Path;

use prost::Message;
use prost_types::compiler::{CodeGeneratorRequest, CodeGeneratorResponse};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::source_code_info::Location;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto, ServiceDescriptorProto, SourceCodeInfo,
};

fn answer(files: Vec<FileDescriptorProto>, generate: &[&str]) -> CodeGeneratorResponse {
    let request = CodeGeneratorRequest {
        file_to_generate: generate.iter().map(|name| name.to_string()).collect(),
        proto_file: files,
        ..CodeGeneratorRequest::default()
    };
    answer_bytes(&request.encode_to_vec())
}

/// What every answer must be, whatever the question.
fn answer_bytes(request: &[u8]) -> CodeGeneratorResponse {
    let response = protoc_gen_plug::generate(request);
    let response = CodeGeneratorResponse::decode(&response[..]).unwrap();
    if let Some(error) = &response.error {
        assert!(!error.contains("panicked") && !error.contains("is a bug"), "{error}");
        assert!(response.file.is_empty());
    }
    response
}

fn file(messages: Vec<DescriptorProto>) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some("a.proto".into()),
        package: Some("a".into()),
        message_type: messages,
        syntax: Some("proto3".into()),
        ..FileDescriptorProto::default()
    }
}

fn message(name: &str, fields: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto { name: Some(name.into()), field: fields, ..DescriptorProto::default() }
}

fn field(name: &str, number: i32, ty: Type, type_name: Option<&str>) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        label: Some(Label::Optional as i32),
        r#type: Some(ty as i32),
        type_name: type_name.map(Into::into),
        ..FieldDescriptorProto::default()
    }
}

fn service(name: &str, method: &str, message: &str) -> ServiceDescriptorProto {
    ServiceDescriptorProto {
        name: Some(name.into()),
        method: vec![MethodDescriptorProto {
            name: Some(method.into()),
            input_type: Some(message.into()),
            output_type: Some(message.into()),
            ..MethodDescriptorProto::default()
        }],
        options: None,
    }
}

#[test]
fn a_long_chain_of_messages_is_refused_or_generated() {
    for length in [500, 50_000] {
        let messages = (0..length)
            .map(|n| {
                let next = format!(".a.M{}", n + 1);
                let last = n + 1 == length;
                let fields =
                    if last { vec![] } else { vec![field("f", 1, Type::Message, Some(&next))] };
                message(&format!("M{n}"), fields)
            })
            .collect();
        let response = answer(vec![file(messages)], &["a.proto"]);
        assert_eq!(response.error.is_some(), length > 2_000, "{:?}", response.error);
    }
}

#[test]
fn messages_that_double_are_refused() {
    let messages = (0..40)
        .map(|n| {
            let next = format!(".a.M{}", n + 1);
            let fields = match n {
                39 => vec![],
                _ => (1..=2)
                    .map(|i| field(&format!("f{i}"), i, Type::Message, Some(&next)))
                    .collect(),
            };
            message(&format!("M{n}"), fields)
        })
        .collect();
    let error = answer(vec![file(messages)], &["a.proto"]).error.unwrap();
    assert!(error.contains("contains others too deeply or too often"), "{error}");
}

#[test]
fn x15_deep_nesting_is_refused_or_generated() {
    for depth in [20, 60, 95, 5_000] {
        let mut inner = message("M", vec![]);
        for _ in 0..depth {
            inner = DescriptorProto { nested_type: vec![inner], ..message("M", vec![]) };
        }
        // Dropping and encoding this recurses as well, in this test.
        std::thread::Builder::new()
            .stack_size(256 << 20)
            .spawn(move || drop(answer(vec![file(vec![inner])], &["a.proto"])))
            .unwrap()
            .join()
            .unwrap();
    }
}

#[test]
fn files_and_messages_in_circles_end() {
    let mut a = file(vec![message("A", vec![field("b", 1, Type::Message, Some(".b.B"))])]);
    a.dependency = vec!["b.proto".into()];
    a.service = vec![service("S", "R", ".b.B")];
    let mut b = file(vec![message("B", vec![field("a", 1, Type::Message, Some(".a.A"))])]);
    b.name = Some("b.proto".into());
    b.package = Some("b".into());
    b.dependency = vec!["a.proto".into(), "b.proto".into()];
    let response = answer(vec![a, b], &["a.proto", "b.proto"]);
    assert_eq!(response.error, None);
    assert_eq!(response.file.len(), 3);
}

#[test]
fn x15_names_that_are_code_are_refused() {
    let evil = "M { } impl Drop for X { fn drop(&mut self) { evil() } } struct Y";
    for file in [
        file(vec![message(evil, vec![])]),
        file(vec![message("M", vec![field(evil, 1, Type::String, None)])]),
        FileDescriptorProto { package: Some(evil.into()), ..file(vec![]) },
        FileDescriptorProto {
            service: vec![service(evil, "R", ".a.M")],
            ..file(vec![message("M", vec![])])
        },
        FileDescriptorProto {
            service: vec![service("S", evil, ".a.M")],
            ..file(vec![message("M", vec![])])
        },
        FileDescriptorProto { syntax: Some(evil.into()), ..file(vec![]) },
    ] {
        let error = answer(vec![file], &["a.proto"]).error.unwrap();
        assert!(error.starts_with("a.proto: "), "{error}");
    }
}

#[test]
fn x15_a_file_name_stays_in_its_comment() {
    let mut file = file(vec![message("M", vec![])]);
    file.name = Some("a.proto\nfn evil() {}\r\u{2028}fn evil() {}".into());
    let name = file.name().to_owned();
    let response = answer(vec![file], &[&name]);
    let code = response.file[0].content();
    assert!(!code.lines().any(|line| line.trim_start().starts_with("fn evil")), "{code}");
    assert!(
        syn::parse_file(code).unwrap().items.iter().all(|item| !matches!(item, syn::Item::Fn(_)))
    );
}

#[test]
fn x15_a_comment_stays_a_comment() {
    for text in [
        " */ fn evil() {} /*\n",
        "\"#] fn evil() {} #[doc = r#\"\n",
        "a\rfn evil() {}\r\nfn evil() {}\n",
        "\u{202E}fn evil() {}\u{2066}\u{0}\u{1}\n\u{2028}fn evil() {}\n",
        "```\nfn evil() {}\n",
        "!\nfn evil() {}",
        "/\n//\n///\n",
        "<script>\n[a]: b\n[^1]: fn evil() {}\n",
        "> > > > > > > > > >\n- - - - - -\n1) 2) 3)\n",
        "\\\n\\\\\n&#0;&NewLine;fn evil() {}",
    ] {
        let location = |path: &[i32]| Location {
            path: path.to_vec(),
            span: vec![0, 0, 1],
            leading_comments: Some(text.into()),
            trailing_comments: Some(text.into()),
            leading_detached_comments: vec![text.into()],
        };
        let mut file = file(vec![message("M", vec![field("f", 1, Type::String, None)])]);
        file.service = vec![service("S", "R", ".a.M")];
        file.source_code_info = Some(SourceCodeInfo {
            location: [&[4, 0][..], &[4, 0, 2, 0], &[6, 0], &[6, 0, 2, 0]].map(location).to_vec(),
        });
        let response = answer(vec![file], &["a.proto"]);
        assert_eq!(response.error, None, "{text:?}");
        let code = response.file[0].content();
        let items = syn::parse_file(code).unwrap().items;
        let functions: Vec<_> = items
            .iter()
            .filter_map(|item| match item {
                syn::Item::Fn(function) => Some(function.sig.ident.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(functions, ["load_s"], "{text:?}");
        assert!(!code.contains(['\r', '\u{202E}', '\u{2066}', '\u{0}', '\u{1}']), "{code}");
    }
}

#[test]
fn x15_a_default_value_stays_a_value() {
    let with_default = |ty: Type, default: &str| {
        let mut field = field("f", 1, ty, None);
        field.default_value = Some(default.into());
        let mut file = file(vec![message("M", vec![field])]);
        file.syntax = None;
        answer(vec![file], &["a.proto"])
    };
    let evil = "\")] f: u8, #[prost(x = \"";
    for ty in [Type::Int32, Type::Bool, Type::Double, Type::Enum, Type::Message] {
        assert!(with_default(ty, evil).error.is_some());
    }
    for bytes in ["\\", "\\400", "\\xq", "\\u1234"] {
        assert!(with_default(Type::Bytes, bytes).error.is_some());
    }
    for ty in [Type::String, Type::Bytes] {
        let response = with_default(ty, evil);
        assert_eq!(response.error, None);
        let items = syn::parse_file(response.file[0].content()).unwrap().items;
        let syn::Item::Struct(item) = &items[0] else { panic!("a struct comes first") };
        assert_eq!(item.fields.len(), 1);
    }
}

/// Changes, removes and repeats bytes of what a compiler wrote, with a seed, and asks for code.
#[test]
fn x15_mutated_descriptors_are_refused_or_generated() {
    let cases = std::env::var("PLUG_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_500);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut seeds = Vec::new();
    for case in ["kv/example", "names/names", "proto2/old", "shapes/shapes", "packages/tree.a"] {
        let literal = fs::read_to_string(golden.join(format!("{case}.descriptors"))).unwrap();
        let bytes = syn::parse_str::<syn::LitByteStr>(&literal).unwrap().value();
        let set = FileDescriptorSet::decode(&bytes[..]).unwrap();
        let own = set.file.iter().filter(|file| !file.name().starts_with("google/"));
        let names = own.map(|file| file.name().to_owned()).collect::<Vec<_>>();
        // The big one would be most of what is changed.
        let files = set.file.into_iter().filter(|file| !file.name().ends_with("descriptor.proto"));
        let mut files: Vec<_> = files.collect();
        files.iter_mut().for_each(|file| {
            file.dependency.retain(|name| !name.ends_with("descriptor.proto"));
        });
        let request = CodeGeneratorRequest {
            file_to_generate: names,
            proto_file: files,
            ..CodeGeneratorRequest::default()
        };
        assert_eq!(answer_bytes(&request.encode_to_vec()).error, None, "{case}");
        seeds.push(request.encode_to_vec());
    }
    let (mut generated, mut refused) = (0, 0);
    for case in 0..cases {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (case as u64 + 1));
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut bytes, &mut random);
        }
        let response = answer_bytes(&bytes);
        for file in &response.file {
            if file.name().ends_with(".rs") {
                syn::parse_file(file.content())
                    .unwrap_or_else(|error| panic!("case {case}: {error}"));
            }
        }
        if response.error.is_some() { refused += 1 } else { generated += 1 }
    }
    println!("{generated} generated, {refused} refused");
    // Both happen often, or the mutations are not worth much.
    assert!(generated * 20 > cases && refused * 20 > cases, "{generated} {refused}");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(5) {
        0 => bytes[at] = random.below(256) as u8,
        1 => bytes[at] ^= 1 << random.below(8),
        2 => drop(bytes.remove(at)),
        3 => {
            let end = (at + random.below(40)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        // A letter for a letter keeps the lengths, and so reaches furthest.
        _ => {
            if let Some(letter) = bytes[at..].iter_mut().find(|byte| byte.is_ascii_alphanumeric()) {
                *letter = b"_aA0. \"\n{"[random.below(9)];
            }
        }
    }
}

/// Xorshift: as random as this needs, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}
