//! The ways from `.proto` files to code, for tests to compare.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use protoc_gen_plug::Builder;

/// The files of an output, by name.
pub(crate) type Files = BTreeMap<String, String>;

/// The files in `folder`, and in folders in it, that a generator writes.
pub(crate) fn read(folder: &Path) -> Files {
    let mut files = Files::new();
    read_below(folder, "", &mut files);
    files
}

fn read_below(folder: &Path, prefix: &str, files: &mut Files) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            read_below(&path, &format!("{name}/"), files);
            continue;
        }
        let generated = ["rs", "descriptors"].iter().any(|&e| path.extension() == Some(e.as_ref()));
        if generated {
            files.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

/// Runs protoc with the plugin that this crate is. An error is what protoc printed.
pub(crate) fn protoc(
    protoc: &Path,
    protos: &[&str],
    include: &Path,
    options: &[(&str, &str)],
) -> Result<Files, String> {
    let out = tempfile::tempdir().unwrap();
    let plug = tempfile::tempdir().unwrap();
    let plugin = env!("CARGO_BIN_EXE_protoc-gen-plug");
    let status = Command::new(plugin).arg("--include").arg(plug.path()).status().unwrap();
    assert!(status.success());
    let mut command = Command::new(protoc);
    command.arg(format!("--plugin=protoc-gen-plug={plugin}"));
    command.arg(format!("--plug_out={}", out.path().display()));
    for (key, value) in options {
        command.arg(format!("--plug_opt={key}={value}"));
    }
    command.arg("-I").arg(include).arg("-I").arg(plug.path());
    command.arg("-I").arg(protoc_bin_vendored::include_path().unwrap());
    let output = command.args(protos).output().unwrap();
    if output.status.success() {
        Ok(read(out.path()))
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

/// Runs the library as a `build.rs` would, without protoc or with one.
pub(crate) fn build(
    protoc: Option<&Path>,
    protos: &[&str],
    include: &Path,
    options: &[(&str, &str)],
) -> Result<Files, String> {
    let out = tempfile::tempdir().unwrap();
    let mut builder = options
        .iter()
        .fold(Builder::new(), |builder, (key, value)| set(builder, key, value))
        .out_dir(out.path());
    let mut includes = vec![include.to_path_buf()];
    if let Some(protoc) = protoc {
        builder = builder.protoc(protoc);
        includes.push(protoc_bin_vendored::include_path().unwrap());
    }
    let protos: Vec<PathBuf> = protos.iter().map(|proto| include.join(proto)).collect();
    builder.compile(&protos, &includes).map_err(|error| error.to_string())?;
    Ok(read(out.path()))
}

/// The protoc that comes with the tests.
pub(crate) fn vendored() -> PathBuf {
    protoc_bin_vendored::protoc_bin_path().unwrap()
}

/// The protoc of the system, if there is one.
pub(crate) fn of_the_system() -> io::Result<PathBuf> {
    let output = Command::new("protoc").arg("--version").output()?;
    println!("protoc on PATH: {}", String::from_utf8_lossy(&output.stdout).trim());
    Ok("protoc".into())
}

fn set(builder: Builder, key: &str, value: &str) -> Builder {
    let pair = || value.split_once('=').unwrap();
    match key {
        "messages" => builder.messages(value == "emit"),
        "extern_path" => builder.extern_path(pair().0, pair().1),
        "unwrap" => builder.unwrap(value.parse().unwrap()),
        "bytes" => builder.bytes(value),
        "btree_map" => builder.btree_map(value),
        "include_file" => builder.include_file(value),
        "runtime" => builder.runtime(value),
        "type_attribute" => builder.type_attribute(pair().0, pair().1),
        "field_attribute" => builder.field_attribute(pair().0, pair().1),
        "fuzz" => builder.fuzz(pair().0, pair().1),
        "compile_well_known_types" => builder.compile_well_known_types(value.parse().unwrap()),
        _ => panic!("there is no option {key}"),
    }
}
