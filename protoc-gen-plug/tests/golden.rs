//! The goldens: for each case in `tests/golden` the code that is generated, through each door.
//!
//! `UPDATE_GOLDENS=1` writes what protoc makes of them. `golden_run.rs` compiles and runs the same files.

use std::path::{Path, PathBuf};
use std::{env, fs};

mod doors;

use doors::Files;

struct Case {
    name: &'static str,
    protos: &'static [&'static str],
    options: &'static [(&'static str, &'static str)],
}

const CASES: &[Case] = &[
    Case { name: "kv", protos: &["kv.proto"], options: &[] },
    Case { name: "scalars", protos: &["scalars.proto"], options: &[] },
    Case { name: "enums", protos: &["enums.proto"], options: &[] },
    Case { name: "shapes", protos: &["shapes.proto"], options: &[] },
    Case { name: "names", protos: &["names.proto"], options: &[] },
    Case { name: "hidden_runtime", protos: &["hidden.proto"], options: &[] },
    Case {
        name: "packages",
        protos: &[
            "root.proto",
            "a.proto",
            "b.proto",
            "common.proto",
            "second.proto",
            "plug_package.proto",
        ],
        options: &[("include_file", "tree.rs")],
    },
    Case {
        name: "fuzz",
        protos: &["fuzz.proto"],
        options: &[("fuzz", ".example.KV=plug_fuzz::store")],
    },
    Case { name: "proto2", protos: &["old.proto"], options: &[] },
    Case { name: "comments", protos: &["comments.proto"], options: &[] },
    Case { name: "deprecated", protos: &["deprecated.proto"], options: &[] },
    Case {
        name: "options",
        protos: &["options.proto"],
        options: &[
            ("bytes", ".options.Data.data"),
            ("bytes", ".options.Shared"),
            ("btree_map", ".options.Data.sorted"),
            ("btree_map", ".options.Sorted"),
            ("runtime", "crate::sdk::plug"),
            ("type_attribute", ".options.Sorted=#[derive(Eq, Hash)]"),
            ("field_attribute", ".options.Shared.data=#[doc = \"The data, shared.\"]"),
        ],
    },
    Case {
        name: "elsewhere",
        protos: &["elsewhere.proto"],
        options: &[
            ("messages", "none"),
            ("extern_path", ".messages=crate::prebuilt::messages"),
            ("extern_path", ".messages.Opaque=crate::prebuilt::Handmade"),
        ],
    },
    Case { name: "streams", protos: &["streams.proto"], options: &[] },
    Case { name: "whole", protos: &["whole.proto"], options: &[("unwrap", "false")] },
];

fn folder(case: &Case) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case.name)
}

/// Both name every file that differs, and show the first line that does.
fn assert_same(case: &Case, door: &str, expected: &Files, found: &Files) {
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(expected), names(found), "{}, through {door}", case.name);
    for (name, expected) in expected {
        let found = &found[name];
        if let Some((number, (expected, found))) =
            (1..).zip(expected.lines().zip(found.lines())).find(|(_, (a, b))| a != b)
        {
            panic!(
                "{}/{name}:{number}, through {door}\nexpected: {expected}\nfound:    {found}\n\
                 If the change is meant: ./gen.sh",
                case.name
            );
        }
        assert_eq!(expected.len(), found.len(), "{}/{name}, through {door}", case.name);
    }
}

/// What `build.rs` gets besides: the tree of modules.
fn without_modules(mut files: Files) -> Files {
    files.remove("plug_modules.rs").expect("build.rs always gets the tree of modules");
    files
}

#[test]
fn protoc_generates_the_goldens() {
    for case in CASES {
        let found = doors::protoc(&doors::vendored(), case.protos, &folder(case), case.options)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        if env::var_os("UPDATE_GOLDENS").is_some() {
            for name in doors::read(&folder(case)).keys() {
                fs::remove_file(folder(case).join(name)).unwrap();
            }
            for (name, content) in &found {
                let path = folder(case).join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
        }
        assert_same(case, "protoc --plug_out", &doors::read(&folder(case)), &found);
    }
}

#[test]
fn build_rs_without_protoc_generates_the_goldens() {
    for case in CASES {
        let found = doors::build(None, case.protos, &folder(case), case.options)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_same(case, "build.rs", &doors::read(&folder(case)), &without_modules(found));
    }
}

#[test]
fn build_rs_with_protoc_generates_the_goldens() {
    for case in CASES {
        let protoc = doors::vendored();
        let found = doors::build(Some(&protoc), case.protos, &folder(case), case.options)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_same(
            case,
            "build.rs with protoc",
            &doors::read(&folder(case)),
            &without_modules(found),
        );
    }
}

/// Debian's protoc is years older than the vendored one.
#[test]
fn the_protoc_of_the_system_generates_the_goldens() {
    let Ok(protoc) = doors::of_the_system() else {
        println!("skipped: there is no protoc on PATH");
        return;
    };
    for case in CASES {
        let found = doors::protoc(&protoc, case.protos, &folder(case), case.options)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_same(case, "the system's protoc", &doors::read(&folder(case)), &found);
    }
}

#[test]
fn the_tree_of_modules_is_the_same_under_both_names() {
    let case = CASES.iter().find(|case| case.name == "packages").unwrap();
    let found = doors::build(None, case.protos, &folder(case), case.options).unwrap();
    assert_eq!(found["plug_modules.rs"], found["tree.rs"]);
}

#[test]
fn every_golden_has_a_case() {
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap();
    let mut names: Vec<String> =
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut cases: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    cases.sort();
    assert_eq!(names, cases);
}

/// That parser drops comments and says nothing of bytes, but what it makes must be the same services.
#[cfg(feature = "protobuf-parse")]
#[test]
fn protobuf_parse_generates_the_same_services() {
    let case = CASES.iter().find(|case| case.name == "kv").unwrap();
    let out = tempfile::tempdir().unwrap();
    protoc_gen_plug::Builder::new()
        .protobuf_parse()
        .out_dir(out.path())
        .compile(&[folder(case).join("kv.proto")], &[folder(case)])
        .unwrap();
    let without_docs = |files: &Files| -> Vec<String> {
        let lines = files["example.rs"].lines().map(str::trim);
        lines.filter(|line| !line.starts_with("///")).map(str::to_owned).collect()
    };
    assert_eq!(without_docs(&doors::read(out.path())), without_docs(&doors::read(&folder(case))));
}
