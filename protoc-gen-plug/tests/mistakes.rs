//! Mistakes in a `.proto`: each is told with its place, all at once, through each door.

use std::fs;

mod doors;

/// Writes the files to a folder and generates the first. Returns what is told, without protoc's prefix.
fn told(files: &[(&str, &str)], options: &[(&str, &str)]) -> [Result<(), String>; 2] {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let protos = [files[0].0];
    [
        doors::build(None, &protos, folder.path(), options).map(drop),
        doors::protoc(&doors::vendored(), &protos, folder.path(), options)
            .map(drop)
            .map_err(|error| error.trim_start_matches("--plug_out: ").trim_end().to_owned()),
    ]
}

fn assert_told(proto: &str, expected: &[&str]) {
    for told in told(&[("a.proto", proto)], &[]) {
        assert_eq!(told.unwrap_err().lines().collect::<Vec<_>>(), expected, "{proto}");
    }
}

#[test]
fn names_that_become_one_in_rust() {
    assert_told(
        "syntax = \"proto3\";\nmessage Kv {}\nservice KV {}\n",
        &[
            "a.proto:3:1: the message `Kv` and the service `KV` both become `Kv` in Rust. Rename one",
        ],
    );
    assert_told(
        "syntax = \"proto3\";\nservice Foo {}\nservice FooService {}\nservice foo {}\n",
        &[
            "a.proto:3:1: the marker of the service `Foo` and the service `FooService` both become \
             `FooService` in Rust. Rename one",
            "a.proto:4:1: the service `Foo` and the service `foo` both become `Foo` in Rust. Rename one",
        ],
    );
    assert_told(
        "syntax = \"proto3\";\nmessage M {}\nservice S {\n  rpc GetAll(M) returns (M);\n  rpc get_all(M) returns (M);\n}\n",
        &[
            "a.proto:5:3: the method `GetAll` and the method `get_all` both become `get_all` in Rust. \
             Rename one",
        ],
    );
    assert_told(
        "syntax = \"proto3\";\nmessage Foo { message A {} }\nmessage FOO { enum A { X = 0; } }\n",
        &[
            "a.proto:3:1: the message `Foo` and the message `FOO` both become `Foo` in Rust. Rename one",
            "a.proto:3:1: the module of the message `Foo` and the module of the message `FOO` both \
             become `foo` in Rust. Rename one",
        ],
    );
    assert_told(
        "syntax = \"proto3\";\nmessage M {\n  string a_b = 1;\n  oneof aB {\n    string c = 2;\n  }\n}\n",
        &["a.proto:4:3: the field `a_b` and the oneof `aB` both become `a_b` in Rust. Rename one"],
    );
    assert_told(
        "syntax = \"proto3\";\nenum E { Z = 0; }\nmessage M {\n  E kind = 1;\n  optional string set_kind = 2;\n}\n",
        &["a.proto:5:3: an accessor of the field `kind` and an accessor of the field `set_kind` \
             both become `set_kind` in Rust. Rename one"],
    );
    assert_told(
        "syntax = \"proto3\";\nmessage Bool {\n  message Inner {}\n}\n",
        &[
            "a.proto:2:1: the module of the message `Bool` becomes `bool`, which hides a type of Rust. \
             Rename it",
        ],
    );
}

/// protoc has an opinion of its own on these.
#[test]
fn enum_values_that_become_one_in_rust() {
    let proto = "syntax = \"proto3\";\nenum Level {\n  LEVEL_LOW = 0;\n  LOW = 1;\n}\n";
    let [in_process, by_protoc] = told(&[("a.proto", proto)], &[]);
    assert_eq!(
        in_process.unwrap_err(),
        "a.proto:4:3: the enum values `LEVEL_LOW` and `LOW` both become `Low` in Rust. Rename one"
    );
    assert!(by_protoc.unwrap_err().contains("a.proto:4:3: "));
}

#[test]
fn all_mistakes_are_told_at_once_in_their_order() {
    assert_told(
        "syntax = \"proto3\";\nimport \"plug.proto\";\nmessage ___ {}\nmessage M { string __ = 1; }\n\
         service S {\n  rpc R(M) returns (M) { option (plugpb.one_way) = true; }\n}\n",
        &[
            "a.proto:3:1: the message `___` has no name in Rust. Use letters in its name",
            "a.proto:4:13: the field `__` has no name in Rust. Use letters in its name",
            "a.proto:6:3: the method `R` is `(plugpb.one_way)`, so nobody waits for an answer. Return \
             `google.protobuf.Empty` or another message without fields, without `stream`, or remove the \
             option",
        ],
    );
}

#[test]
fn editions_are_refused_also_where_they_are_imported() {
    let edition = "edition = \"2023\";\nmessage Imported {}\n";
    let importing = "syntax = \"proto3\";\nimport \"b.proto\";\nmessage M { Imported i = 1; }\n";
    let [_, by_protoc] = told(&[("a.proto", importing), ("b.proto", edition)], &[]);
    assert_eq!(
        by_protoc.unwrap_err(),
        "b.proto:1:1: editions are not supported. Use `syntax = \"proto3\"` instead of `edition`"
    );
    // The parser without protoc does not know them at all.
    let [in_process, _] = told(&[("a.proto", importing), ("b.proto", edition)], &[]);
    let error = in_process.unwrap_err();
    assert!(error.starts_with("b.proto:1:1: "), "{error}");
}

#[test]
fn mistakes_of_the_language_have_places_too() {
    let proto = "syntax = \"proto3\";\n\nmessage M {\n  Missing field = 1;\n  string = 2;\n}\n";
    let [in_process, _] = told(&[("a.proto", proto)], &[]);
    let error = in_process.unwrap_err();
    assert!(error.starts_with("a.proto:5:10: "), "{error}");
    let proto = "syntax = \"proto3\";\nmessage M {\n  Missing field = 1;\n}\n";
    let [in_process, _] = told(&[("a.proto", proto)], &[]);
    let error = in_process.unwrap_err();
    assert!(error.starts_with("a.proto:3:3: "), "{error}");
    let proto = "syntax = \"proto3\";\nimport \"not_there.proto\";\n";
    let [in_process, _] = told(&[("a.proto", proto)], &[]);
    let error = in_process.unwrap_err();
    assert!(error.starts_with("a.proto:2:1: "), "{error}");
}

#[test]
fn mistakes_that_many_make_at_first_are_told_with_a_remedy() {
    let options = "syntax = \"proto3\";\nmessage M {}\nservice S {\n  rpc R(M) returns (M) {\n    option (plugpb.one_way) = true;\n  }\n}\n";
    let no_syntax = "message M {\n  string text = 1;\n}\n";
    for (proto, remedy) in [(options, "import \"plug.proto\""), (no_syntax, "syntax = \"proto3\"")]
    {
        let [in_process, _] = told(&[("a.proto", proto)], &[]);
        let error = in_process.unwrap_err();
        assert!(error.contains(remedy), "{error}");
    }
}

#[test]
fn wrong_options_are_told_with_the_valid_ones() {
    let proto = "syntax = \"proto3\";\n";
    let [in_process, by_protoc] =
        told(&[("a.proto", proto)], &[("runtime", "a b"), ("bytes", "a..b")]);
    let expected = [
        "option `bytes=a..b`: the path must be `.` for everything, or like `.package.Message.field`",
        "option `runtime=a b`: it must be a Rust path such as `::plug` or `crate::api`",
        "valid options:",
    ];
    for told in [in_process, by_protoc] {
        let told = told.unwrap_err();
        assert_eq!(told.lines().take(3).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn packages_that_become_one_module_with_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("a.proto", "syntax = \"proto3\";\npackage a;\nmessage B {\n  message Inner {}\n}\n");
    write("b.proto", "syntax = \"proto3\";\npackage a.b;\nmessage M {}\n");
    let error = doors::build(None, &["a.proto", "b.proto"], folder.path(), &[]).unwrap_err();
    assert_eq!(
        error,
        "b.proto:2:1: the module of the message `B` and the package `a.b` both become `b` in Rust. \
         Rename one"
    );
}
