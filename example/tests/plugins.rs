//! The plugins as processes of their own.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use plug::prost_types::Any;
use plug::{Code, Delivery, ErrorKind, ExitStatus, Proxy as _};
use plug_example::{KvProxy, load_kv, load_serializer};

const KV_PLUGIN: &str = env!("CARGO_BIN_EXE_kv-plugin");
const SERIALIZER_PLUGIN: &str = env!("CARGO_BIN_EXE_serializer-plugin");

fn store(directory: &Path) -> KvProxy {
    load_kv(plug::Command::new(KV_PLUGIN).arg(directory)).unwrap()
}

#[test]
fn values_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let kv = store(directory.path());
    kv.put("plain", "value").unwrap();
    kv.put("../Odd key/\0\u{e9}", [0, 255, 10]).unwrap();
    kv.put("big", big.clone()).unwrap();
    kv.peer().stop(Duration::from_secs(5)).unwrap();

    let kv = store(directory.path());
    assert_eq!(kv.get("plain").unwrap(), b"value");
    assert_eq!(kv.get("../Odd key/\0\u{e9}").unwrap(), [0, 255, 10]);
    assert_eq!(kv.get("big").unwrap(), big);
}

#[test]
fn errors_have_the_code_that_fits() {
    let directory = tempfile::tempdir().unwrap();
    let kv = store(directory.path());
    for (key, code) in [
        ("nothing", Code::NotFound),
        ("", Code::InvalidArgument),
        (&*"x".repeat(1000), Code::InvalidArgument),
    ] {
        let error = kv.get(key).unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Status, code), "{error}");
        assert_eq!(error.plugin(), Some("kv-plugin"));
        assert_eq!(error.method(), Some("example.KV/Get"));
    }
    // A directory where the value's file should be: an I/O error, with what was tried.
    std::fs::create_dir(directory.path().join("dir")).unwrap();
    let error = kv.get("dir").unwrap_err();
    assert!(error.message().contains("cannot read"), "{error}");
}

#[test]
fn many_threads_share_one_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let kv = store(directory.path());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let kv = &kv;
            scope.spawn(move || {
                for round in 0..20 {
                    let key = format!("key-{thread}");
                    let value = format!("{thread}:{round}");
                    kv.put(&*key, &*value).unwrap();
                    kv.put("shared", &*value).unwrap();
                    assert_eq!(kv.get(&*key).unwrap(), value.as_bytes());
                    assert!(kv.get("shared").unwrap().contains(&b':'));
                }
            });
        }
    });
}

#[test]
fn a_plugin_that_cannot_start_says_why() {
    let error = load_kv(KV_PLUGIN).unwrap_err();
    assert!(error.to_string().contains("which directory?"), "{error:?}");

    let file = tempfile::NamedTempFile::new().unwrap();
    let error = load_kv(plug::Command::new(KV_PLUGIN).arg(file.path())).unwrap_err();
    assert!(error.to_string().contains("cannot make the directory"), "{error:?}");
}

#[test]
fn what_a_plugin_prints_arrives_as_text() {
    let directory = tempfile::tempdir().unwrap();
    let command = plug::Command::new(KV_PLUGIN).arg("--trace").arg(directory.path());
    let kv = load_kv(command).unwrap();
    let lines = kv.peer().stderr_lines().unwrap();
    kv.put("a", "1").unwrap();
    kv.get("a").unwrap();
    assert_eq!(lines.take(2).collect::<Vec<_>>(), [r#"put "a""#, r#"get "a""#]);
}

#[test]
fn a_crash_is_an_error_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let command = plug::Command::new(KV_PLUGIN).args(["--crash-on", "bomb"]).arg(directory.path());
    let kv = load_kv(command).unwrap();
    kv.put("safe", "here").unwrap();

    let error = kv.get("bomb").unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::MayHaveRun));
    // SIGABRT
    assert_eq!(error.exit().unwrap().status(), ExitStatus::Signal(6));
    assert!(error.stderr().unwrap().contains("crashing on"), "{error:?}");

    let error = kv.get("safe").unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::NotSent));
    assert_eq!(store(directory.path()).get("safe").unwrap(), b"here");
}

#[test]
fn the_serializer_writes_json() {
    let serializer = load_serializer(SERIALIZER_PLUGIN).unwrap();
    let values = HashMap::from([
        ("yes".to_owned(), Any::from_msg(&true).unwrap()),
        ("bytes".to_owned(), Any::from_msg(&b"hi".to_vec()).unwrap()),
    ]);
    assert_eq!(serializer.marshal(values).unwrap(), br#"{"bytes":"aGk=","yes":true}"#);
    let wrong = HashMap::from([("x".to_owned(), Any::from_msg(&f64::INFINITY).unwrap())]);
    let error = serializer.marshal(wrong).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(error.message(), r#"the value of "x": JSON has no number inf"#);
}

#[test]
fn the_wrong_plugin_is_named_and_so_is_what_it_offers() {
    let error = load_kv(SERIALIZER_PLUGIN).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    assert!(error.to_string().contains("example.KV"), "{error}");
    assert!(error.to_string().contains("example.Serializer"), "{error}");
}
