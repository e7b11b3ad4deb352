//! What the layout of the sources promises, held by looking at them.

use std::path::{Path, PathBuf};

/// A source file: its path below `src`, and its lines up to its unit tests.
struct Source {
    path: String,
    lines: Vec<String>,
    /// Where the unit tests begin; the number of lines if there are none.
    tests_at: usize,
}

impl Source {
    fn is_below(&self, folder: &str) -> bool {
        self.path.starts_with(&format!("{folder}/"))
    }

    /// The lines that are compiled into the library and are no comments, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = (1..).zip(self.lines[..self.tests_at].iter().map(|line| line.trim()));
        lines.filter(|(_, line)| !line.starts_with("//"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All sources, but for files that hold nothing but tests.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(read(path));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.iter().any(|source| source.path == "lib.rs"), "this looks at nothing");
    sources
}

fn read(path: PathBuf) -> Source {
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let path = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_owned();
    let is_test = path.contains("/tests/") || path.ends_with("/tests.rs");
    let begins = || lines.windows(2).position(|two| two == ["#[cfg(test)]", "mod tests {"]);
    let tests_at = if is_test { 0 } else { begins().unwrap_or(lines.len()) };
    Source { path, lines, tests_at }
}

/// The lines of code in which one of `words` occurs.
fn found(sources: &[Source], folder: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let below: Vec<&Source> = sources.iter().filter(|source| source.is_below(folder)).collect();
    assert!(!below.is_empty(), "there is no src/{folder}");
    for source in below {
        for (number, line) in source.code() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("src/{}:{number}: {line}", source.path));
            }
        }
    }
    found
}

/// A `use crate::…` or a path that begins like one, and where it leads.
fn crate_paths(source: &Source) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (number, line) in source.code() {
        for after in line.split("crate::").skip(1) {
            let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
            paths.push((number, after[..end].to_owned()));
        }
    }
    paths
}

#[track_caller]
fn nothing(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn the_protocol_does_no_io_starts_no_thread_and_does_not_ask_for_the_time() {
    let words = [
        "std::io",
        "std::fs",
        "std::net",
        "std::os",
        "std::process",
        "std::thread",
        "std::env",
        "std::sync",
        "rustix",
        "Instant::now",
        "SystemTime",
        "unsafe",
        "println!",
    ];
    nothing("src/protocol is without I/O", &found(&sources(), "protocol", &words));
}

#[test]
fn the_protocol_knows_nothing_of_ours_but_the_error() {
    let foreign: Vec<String> = sources()
        .iter()
        .filter(|source| source.is_below("protocol"))
        .flat_map(|source| {
            let path = source.path.clone();
            crate_paths(source).into_iter().map(move |(number, to)| (path.clone(), number, to))
        })
        .filter(|(.., to)| to != "error" && to != "protocol")
        .map(|(path, number, to)| format!("src/{path}:{number}: crate::{to}"))
        .collect();
    nothing("src/protocol imports nothing of ours but error", &foreign);
}

#[test]
fn processes_and_shared_memory_know_nothing_of_the_protocol() {
    let sources = sources();
    for folder in ["process", "shm", "sys"] {
        let below = sources.iter().filter(|source| source.is_below(folder));
        let found: Vec<String> = below
            .flat_map(|source| {
                let path = source.path.clone();
                crate_paths(source).into_iter().map(move |(number, to)| (path.clone(), number, to))
            })
            .filter(|(.., to)| to == "protocol")
            .map(|(path, number, _)| format!("src/{path}:{number}"))
            .collect();
        nothing(&format!("src/{folder} does not import protocol"), &found);
    }
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    let mut found = Vec::new();
    for source in sources() {
        for (number, line) in source.code() {
            let is_unsafe =
                line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            let may = source.is_below("sys") || source.is_below("shm");
            if is_unsafe && !may {
                found.push(format!("src/{}:{number}: {line}", source.path));
            }
        }
    }
    nothing("unsafe is in src/sys (and src/shm)", &found);
}

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|source| source.lines.len() > 600)
        .map(|source| format!("src/{}: {} lines", source.path, source.lines.len()))
        .collect();
    nothing("a file has at most 600 lines", &long);
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|source| !source.lines.first().is_some_and(|line| line.starts_with("//! ")))
        .map(|source| format!("src/{}", source.path))
        .collect();
    nothing("a file begins with what it is", &silent);
}

#[test]
fn what_is_not_finished_is_not_left_in_the_code() {
    let sources = sources();
    let mut found = Vec::new();
    for source in &sources {
        for (number, line) in (1..).zip(&source.lines) {
            // Written apart, so that this file may be looked at too.
            let words = [
                concat!("TO", "DO"),
                concat!("FIX", "ME"),
                concat!("XX", "X"),
                concat!("dbg", "!("),
            ];
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("src/{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    nothing("open ends", &found);
}

#[test]
fn what_the_documents_promise_is_there() {
    for file in ["../PROTOCOL.md", "proto/frame.proto"] {
        assert!(root().join(file).is_file(), "{file} is missing");
    }
    let protocol = std::fs::read_to_string(root().join("../PROTOCOL.md")).unwrap();
    let mut broken = Vec::new();
    for target in protocol.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !target.starts_with('#') && !root().join("..").join(target).exists() {
            broken.push(target.to_owned());
        }
    }
    nothing("links of PROTOCOL.md that lead nowhere", &broken);
}
