//! A plugin in another language: `python/kv_plugin.py`, written from PROTOCOL.md.
//!
//! Needs `python3` (or what `PYTHON` names) with the package `protobuf`, 4.22 or later. Without them
//! the tests are skipped, and say so.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use plug::{Code, Delivery, ErrorKind};
use plug_example::{KvProxy, load_kv};

const PLUGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/kv_plugin.py");

/// The interpreter, if it is there and has the package.
fn python() -> Option<OsString> {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let check = "from google.protobuf.message_factory import GetMessageClass";
    let output = std::process::Command::new(&python).args(["-c", check]).output();
    let problem = match output {
        Ok(output) if output.status.success() => return Some(python),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let problem = problem.lines().last().unwrap_or_default();
    let python = python.to_string_lossy();
    eprintln!("skipped: {python} with the package protobuf is needed: {problem}");
    None
}

fn load() -> Option<KvProxy> {
    let command = plug::Command::new(python()?).arg(PLUGIN).start_timeout(Duration::from_secs(30));
    Some(load_kv(command).expect("the plugin loads"))
}

#[test]
fn it_answers_put_and_get() {
    let Some(kv) = load() else { return };
    kv.put("hello", "world").unwrap();
    assert_eq!(kv.get("hello").unwrap(), b"world");
    kv.put("hello", "again").unwrap();
    assert_eq!(kv.get("hello").unwrap(), b"again");
    kv.put("empty", "").unwrap();
    assert_eq!(kv.get("empty").unwrap(), b"");
}

#[test]
fn its_errors_arrive_with_code_and_text() {
    let Some(kv) = load() else { return };
    let error = kv.get("nobody").unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Status, Code::NotFound));
    assert_eq!(error.delivery(), Delivery::MayHaveRun);
    assert_eq!(error.message(), "no such key: nobody");
    kv.put("nobody", "is here").unwrap();
    assert_eq!(kv.get("nobody").unwrap(), b"is here", "a failed call harms no other");
}

#[test]
fn long_messages_arrive_in_both_directions() {
    let Some(kv) = load() else { return };
    for len in [256 << 10, (256 << 10) + 1, 3 << 20] {
        let value: Vec<u8> = (0..len).map(|at: u32| (at ^ (at >> 8)) as u8).collect();
        kv.put("long", value.clone()).unwrap();
        assert!(kv.get("long").unwrap() == value, "{len} bytes came back changed");
    }
}

#[test]
fn many_threads_call_it_at_once() {
    let Some(kv) = load() else { return };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let kv = &kv;
            scope.spawn(move || {
                for round in 0..50 {
                    let (key, value) = (format!("key {thread}"), format!("{thread}: {round}"));
                    kv.put(key.clone(), value.clone()).unwrap();
                    assert_eq!(kv.get(key).unwrap(), value.as_bytes());
                }
            });
        }
    });
}

#[test]
fn h10_started_by_hand_it_says_what_it_is() {
    let Some(python) = python() else { return };
    let output = std::process::Command::new(python)
        .arg(PLUGIN)
        .env_remove("PLUG_HOST")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(output.stdout.is_empty(), "stdout is for frames");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("plugin") && text.contains("example.KV"), "{text}");
}
