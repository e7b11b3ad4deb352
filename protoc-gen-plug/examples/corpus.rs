//! Generates the code of every file with a service in folders of `.proto` files, and compiles it.
//!
//! ```sh
//! cargo run -p protoc-gen-plug --example corpus -- --check FOLDER…
//! ```
//!
//! Each folder is an include path. The files with services that lie side by side are one run, with all
//! that they import; if that is refused, each is a run of its own. With `--check`, all that was
//! generated is compiled, some runs at a time. With `--compare PROTOC`, the code must be the same
//! through that protoc.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use protoc_gen_plug::Builder;

#[derive(Default)]
struct Figures {
    files: usize,
    services: usize,
    methods: usize,
    generated: usize,
    compared: usize,
    refused: BTreeMap<String, Vec<String>>,
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let mut check = false;
    let mut protoc = None;
    let mut folders = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--check" => check = true,
            "--compare" => protoc = arguments.next().map(PathBuf::from),
            _ => folders.push(PathBuf::from(argument)),
        }
    }
    let work = tempfile::tempdir().expect("a temporary folder can be made");
    let mut figures = Figures::default();
    let mut crates = Vec::new();
    for folder in &folders {
        let mut protos = Vec::new();
        find(folder, &mut protos);
        let mut groups: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for proto in protos.into_iter().filter(|proto| declared(proto, "service ") > 0) {
            groups.entry(proto.parent().unwrap_or(folder).to_owned()).or_default().push(proto);
        }
        for mut group in groups.into_values() {
            group.sort();
            figures.files += group.len();
            let together = run(&group, folder, &work.path().join("trial"), None).is_ok();
            let runs = match together {
                true => vec![group],
                false => group.into_iter().map(|proto| vec![proto]).collect(),
            };
            for protos in runs {
                let name = format!("m{}", crates.len());
                let out = work.path().join("src").join(&name);
                if let Err(error) = run(&protos, folder, &out, None) {
                    let shown = protos[0].display().to_string();
                    figures.refused.entry(reason(&error)).or_default().push(shown);
                    continue;
                }
                figures.generated += protos.len();
                for proto in &protos {
                    figures.services += declared(proto, "service ");
                    figures.methods += declared(proto, "rpc ");
                }
                crates.push(name);
                if let Some(protoc) = &protoc {
                    let other = work.path().join("other");
                    match run(&protos, folder, &other, Some(protoc)) {
                        Ok(()) if same(&out, &other) => figures.compared += protos.len(),
                        Ok(()) => println!("differs: {}", protos[0].display()),
                        Err(error) => println!("{}: protoc: {error}", protos[0].display()),
                    }
                }
            }
        }
    }
    println!(
        "{} files with services, {} generated: {} services, {} methods",
        figures.files, figures.generated, figures.services, figures.methods
    );
    if protoc.is_some() {
        println!("{} of {} the same through protoc", figures.compared, figures.generated);
    }
    for (why, files) in &figures.refused {
        println!("refused {}: {why}", files.len());
        for file in files.iter().take(3) {
            println!("    {file}");
        }
    }
    if check && !compile(work.path(), &crates) {
        println!("kept: {}", work.keep().display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(
    protos: &[PathBuf],
    include: &Path,
    out: &Path,
    protoc: Option<&Path>,
) -> Result<(), String> {
    let _ = fs::remove_dir_all(out);
    fs::create_dir_all(out).map_err(|error| error.to_string())?;
    let mut builder = Builder::new().out_dir(out);
    if let Some(protoc) = protoc {
        builder = builder.protoc(protoc);
    }
    builder.compile(protos, &[include]).map_err(|error| error.to_string())
}

fn same(a: &Path, b: &Path) -> bool {
    let files = |folder: &Path| -> BTreeMap<_, _> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap_or_default()))
            .collect()
    };
    files(a) == files(b)
}

/// How many lines of a file declare something.
fn declared(proto: &Path, keyword: &str) -> usize {
    let bytes = fs::read(proto).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().filter(|line| line.trim_start().starts_with(keyword)).count()
}

/// The first mistake, without its place and without what is in backquotes.
fn reason(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    let message = line.splitn(2, ": ").last().unwrap_or(line);
    message.split('`').step_by(2).collect::<Vec<_>>().join("`…`")
}

fn find(folder: &Path, protos: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, protos);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            protos.push(path);
        }
    }
}

/// Compiles what was generated, some at a time: the compiler needs memory for all of a crate.
fn compile(work: &Path, modules: &[String]) -> bool {
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plug-runtime");
    let manifest = format!(
        "[package]\nname = \"corpus\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         plug-runtime = {{ path = {runtime:?} }}\n\n[workspace]\n"
    );
    fs::write(work.join("Cargo.toml"), manifest).expect("the manifest can be written");
    let mut failed = 0;
    for (index, chunk) in modules.chunks(20).enumerate() {
        let lib: String = chunk
            .iter()
            .map(|name| format!("pub mod {name} {{ include!(\"{name}/plug_modules.rs\"); }}\n"))
            .collect();
        fs::write(work.join("src/lib.rs"), lib).expect("the crate can be written");
        let target = env::temp_dir().join("plug-corpus-target");
        let output = Command::new("cargo")
            .args(["check", "--quiet"])
            .current_dir(work)
            .env("CARGO_TARGET_DIR", target)
            .output()
            .expect("cargo can be started");
        let text = String::from_utf8_lossy(&output.stderr);
        // The warnings of the runtime are its own business.
        let own: Vec<&str> = text.lines().filter(|line| line.starts_with("error")).collect();
        println!("compiled {} of {}", (index * 20 + chunk.len()), modules.len());
        if !output.status.success() {
            failed += 1;
            println!("{}", own.join("\n"));
            fs::write(work.join(format!("errors-{index}.txt")), text.as_bytes())
                .expect("the errors can be written");
        }
    }
    failed == 0
}
