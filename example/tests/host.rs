//! The host's commands and its tour, run as a user does.

use std::path::Path;
use std::process::{Command, Output, Stdio};

const HOST: &str = env!("CARGO_BIN_EXE_host");

fn host(args: &[&str]) -> Output {
    Command::new(HOST).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn succeeds(args: &[&str]) -> Vec<u8> {
    let output = host(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{args:?}");
    output.stdout
}

#[track_caller]
fn fails(args: &[&str], code: i32, with: &str) {
    let output = host(args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    assert!(stderr.starts_with("host: ") && stderr.contains(with), "{args:?}: {stderr}");
    assert!(!stderr.contains('\x1b'), "{stderr:?}");
}

#[test]
fn put_and_get_keep_values_from_run_to_run() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("made/on/demand");
    let dir = dir.to_str().unwrap();
    let said = succeeds(&["--dir", dir, "put", "hello", "world"]);
    assert_eq!(text(&said), "stored 5 bytes under \"hello\"\n");
    assert_eq!(succeeds(&["--dir", dir, "get", "hello"]), b"world", "to a pipe, as it is");
    succeeds(&["--dir", dir, "put", "hello", ""]);
    assert_eq!(succeeds(&["--dir", dir, "get", "hello"]), b"");
    fails(&["--dir", dir, "get", "nothing"], 1, "nothing is stored under \"nothing\" [NotFound]");
    fails(&["--dir", dir, "get", ""], 1, "[InvalidArgument]");
}

#[test]
fn marshal_prints_json() {
    let json =
        succeeds(&["marshal", "s=a b", "n:int64=-5", "b:bool=true", "d:double=0.5", "x:bytes=hi"]);
    assert_eq!(text(&json), "{\"b\":true,\"d\":0.5,\"n\":-5,\"s\":\"a b\",\"x\":\"aGk=\"}\n");
    assert_eq!(succeeds(&["marshal"]), b"{}\n");
    fails(&["marshal", "x:double=inf"], 1, "JSON has no number inf");
}

#[test]
fn wrong_use_is_explained_with_exit_code_2() {
    for args in [
        &["fetch"][..],
        &["--wrong"],
        &["put", "key"],
        &["get"],
        &["get", "a", "b"],
        &["--dir"],
        &["--dir", "somewhere"],
        &["marshal", "no equals sign"],
        &["marshal", "x:int=1"],
        &["marshal", "x:int64=one"],
    ] {
        fails(args, 2, "usage: host");
    }
    assert!(text(&succeeds(&["--help"])).starts_with("usage: host"));
}

#[test]
fn missing_plugins_are_named_with_the_command_that_builds_them() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let alone = directory.path().join("host");
    // A link: a copy cannot be started while a child of another test, not yet at its exec, holds it open.
    std::fs::hard_link(HOST, &alone).unwrap();
    let output = Command::new(&alone).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("kv-plugin") && stderr.contains("cargo build -p plug-example"),
        "{stderr}"
    );
}

#[test]
fn the_tour_shows_calls_errors_and_a_crash_and_is_plain_in_a_pipe() {
    let tour = succeeds(&[]);
    let tour = text(&tour);
    assert!(!tour.contains('\x1b'), "{tour}");
    assert!(tour.lines().all(|line| line.chars().count() <= 80), "{tour}");
    // Lines are broken at 80 characters, wherever that is.
    let flat = tour.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut rest = &*flat;
    for expected in [
        r#"kv.put("greeting", "hello") ()"#,
        r#"kv.get("greeting") "hello""#,
        r#"example.KV/Get: nothing is stored under "nothing" kind: Status, code: NotFound"#,
        r#"| put "greeting" | get "greeting" | get "nothing""#,
        r#"events.next() "greeting": "hello", existing"#,
        r#"events.next() "greeting in French": "bonjour""#,
        r#"pairs.send("greeting", "hi") "greeting": "hello", existing"#,
        r#"pairs.send("farewell", "goodbye") "farewell": "goodbye""#,
        r#"drop(pairs) "greeting in French": "bonjour", existing"#,
        "kv.import(a hundred pairs) 100",
        r#"one-way: 10 bytes under "small""#,
        r#"1000 bytes under "large" are more than 100 kind: Status, code: PermissionDenied"#,
        "code: Cancelled",
        r#"| nobody waits any more for get "a tar pit""#,
        "code: DeadlineExceeded",
        "offers example.Serializer",
        r#"{"answer":42,"pi":3.25,"question":"unknown"}"#,
        "the plugin was killed by signal 6 (SIGABRT) (the call may have run)",
        "kind: Exited, code: Unavailable, delivery: MayHaveRun",
        "| crashing on \"a bomb\"",
        "(the call was not sent)",
        r#"kv.get("greeting") "hello""#,
        "has ended",
    ] {
        let at = rest.find(expected).unwrap_or_else(|| panic!("no {expected:?} in {tour}"));
        rest = &rest[at + expected.len()..];
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child =
        Command::new(HOST).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn a_plugin_started_by_hand_says_what_it_is() {
    for (plugin, service) in [
        (env!("CARGO_BIN_EXE_kv-plugin"), "example.KV"),
        (env!("CARGO_BIN_EXE_serializer-plugin"), "example.Serializer"),
    ] {
        let output = Command::new(plugin).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        assert_eq!(text(&output.stdout), "");
        let stderr = text(&output.stderr);
        let name = Path::new(plugin).file_name().unwrap().to_str().unwrap();
        assert!(stderr.contains(name) && stderr.contains(service), "{stderr}");
    }
}
