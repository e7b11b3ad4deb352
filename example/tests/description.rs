//! What a host learns of a plugin without calling its services.

use std::time::Duration;

use plug::prost::Message as _;
use plug::{Command, Description, ErrorKind, ExitStatus, MethodKind};

const KV_PLUGIN: &str = env!("CARGO_BIN_EXE_kv-plugin");

/// What the sources say of `example.KV`.
fn assert_describes_kv(description: &Description) {
    assert_eq!(description.name(), "kv-plugin");
    assert_eq!(description.version(), env!("CARGO_PKG_VERSION"));
    let services = description.services().iter();
    let kv = services.into_iter().find(|service| service.name() == "example.KV");
    let kv = kv.unwrap_or_else(|| panic!("there is no example.KV in {description}"));
    assert_eq!(kv.comments(), "A small key-value store.");
    let get = &kv.methods()[0];
    assert_eq!((get.name(), get.kind()), ("Get", MethodKind::Unary));
    assert_eq!((get.request(), get.response()), ("example.GetRequest", "example.GetResponse"));
    assert_eq!(get.comments(), "Returns the value stored under a key.");
    assert!(description.to_string().contains("Get(example.GetRequest)"), "{description}");
}

#[test]
fn a_plugin_describes_itself_without_being_loaded() {
    // Loaded, it would refuse to start without a directory.
    assert_describes_kv(&Command::new(KV_PLUGIN).describe().unwrap());
    let with_arguments = Command::new(KV_PLUGIN).args(["--no-such-option", "a", "b"]);
    assert_describes_kv(&with_arguments.describe().unwrap());
}

#[test]
fn a_plugin_describes_itself_to_who_is_no_host() {
    let output = std::process::Command::new(KV_PLUGIN)
        .arg("--plug-describe")
        .env_remove("PLUG_HOST")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_loaded_plugin_gives_its_descriptors_and_takes_calls_in_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Command::new(KV_PLUGIN).arg(directory.path()).load().unwrap();
    assert_describes_kv(&peer.description().unwrap());
    let files = peer.descriptors().unwrap().file;
    let kv = files.iter().find(|file| file.name() == "kv.proto").expect("the file of example.KV");
    assert!(kv.message_type.iter().any(|message| message.name() == "GetRequest"), "{kv:?}");

    let put = plug_example::PutRequest { key: "k".to_owned(), value: b"v".to_vec() };
    peer.call("example.KV/Put", &put.encode_to_vec()).unwrap();
    let get = plug_example::GetRequest { key: "k".to_owned() };
    let response = peer.call("example.KV/Get", &get.encode_to_vec()).unwrap();
    assert_eq!(plug_example::GetResponse::decode(response).unwrap().value, b"v");
}

#[test]
fn a_program_that_does_not_describe_itself_is_refused_and_ended() {
    let command = |script: &str| Command::new("sh").args(["-c", script]);
    // `sh` takes the argument that asks for a description for one of its own.
    let error = command("exit 0").describe().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
    assert!(
        matches!(error.exit().map(|exit| exit.status()), Some(ExitStatus::Code(code)) if code != 0)
    );
    assert_eq!(error.plugin(), Some("sh"));

    let directory = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, executable).unwrap();
        Command::new(path)
    };
    for (name, text, says) in [
        ("silent", "exit 0", "no description"),
        ("chatty", "echo hello", "no description"),
        ("endless", "exec cat /dev/zero", "more than"),
    ] {
        let error = script(name, text).describe().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
        assert!(error.message().contains(says), "{error}");
    }

    let pid_file = directory.path().join("pid");
    let text = format!("echo $$ > {}; exec sleep 600", pid_file.display());
    // The first time-out in which the machine gets as far as to run the script.
    for seconds in [1, 4, 16, 64] {
        let hangs = script("hangs", &text).start_timeout(Duration::from_secs(seconds));
        let error = hangs.describe().unwrap_err();
        assert!(error.message().contains("in time"), "{error}");
        if pid_file.exists() {
            break;
        }
    }
    let pid = std::fs::read_to_string(&pid_file).expect("the script has run, in 64 s");
    let running = std::path::Path::new("/proc").join(pid.trim());
    assert!(!running.exists(), "the program is still there, or its zombie");
}
