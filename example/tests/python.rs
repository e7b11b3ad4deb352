//! A plugin in another language: `python/kv_plugin.py`, written from PROTOCOL.md.
//!
//! Needs `python3` (or what `PYTHON` names) with the package `protobuf`, 4.22 or later. Without them
//! the tests are skipped, and say so.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use plug::{Call, CancelToken, Code, Delivery, ErrorKind, Proxy as _, Stream};
use plug_example::{Audit, AuditService, Decision, Event, KvProxy, load_kv};

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

fn command() -> Option<plug::Command> {
    Some(plug::Command::new(python()?).arg(PLUGIN).start_timeout(PATIENCE))
}

fn load() -> Option<KvProxy> {
    Some(load_kv(command()?).expect("the plugin loads"))
}

/// How long a test waits for what should be there at once.
const PATIENCE: Duration = Duration::from_secs(30);

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

fn event(key: &str, value: &str, existing: bool) -> Event {
    Event { key: key.to_owned(), value: value.as_bytes().to_vec(), existing }
}

/// The next item of a stream, read on a thread of its own so that the test can give up.
fn next(mut events: Stream<Event>) -> (Option<plug::Result<Event>>, Stream<Event>) {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let item = events.next();
        // If it came too late, the test has given up.
        let _ = sender.send((item, events));
    });
    receiver.recv_timeout(PATIENCE).expect("the next item, or the end, in time")
}

#[test]
fn a_watch_begins_with_what_is_stored_and_goes_on_with_changes() {
    let Some(kv) = load() else { return };
    for (key, value) in [("a/2", "two"), ("a/1", "one"), ("b", "other")] {
        kv.put(key, value).unwrap();
    }
    let mut events = kv.watch("a/").unwrap();
    for expected in [event("a/1", "one", true), event("a/2", "two", true)] {
        let (item, stream) = next(events);
        assert_eq!(item.unwrap().unwrap(), expected);
        events = stream;
    }
    kv.put("a/3", "three").unwrap();
    kv.put("b", "unseen").unwrap();
    kv.put("a/1", "once more").unwrap();
    for expected in [event("a/3", "three", false), event("a/1", "once more", false)] {
        let (item, stream) = next(events);
        assert_eq!(item.unwrap().unwrap(), expected);
        events = stream;
    }
    drop(events);
    kv.put("a/4", "nobody watches").unwrap();
    assert_eq!(kv.get("a/4").unwrap(), b"nobody watches");
}

#[test]
fn a_watch_delivers_more_than_fits_into_its_windows() {
    let Some(kv) = load() else { return };
    let value = |n: u32| (0..400 << 10).map(|at: u32| (at ^ n) as u8).collect::<Vec<u8>>();
    kv.put("key", value(0)).unwrap();
    let mut events = kv.watch("").unwrap();
    for n in 0..20 {
        kv.put("key", value(n + 1)).unwrap();
        let (item, stream) = next(events);
        assert!(item.unwrap().unwrap().value == value(n), "event {n} came changed");
        events = stream;
    }
}

#[test]
fn a_watcher_that_reads_nothing_stalls_no_put_and_is_told_in_the_end() {
    let Some(kv) = load() else { return };
    kv.put("key", "").unwrap();
    let (first, slow) = next(kv.watch("").unwrap());
    assert_eq!(first.unwrap().unwrap(), event("key", "", true));
    // More than fits into the windows, and then more than the plugin keeps.
    for _ in 0..1024 + 512 {
        kv.put("key", vec![b'x'; 16 << 10]).unwrap();
    }
    let (mut slow, mut last) = (slow, None);
    loop {
        let (item, stream) = next(slow);
        match item {
            Some(item) => last = Some(item),
            None => break,
        }
        slow = stream;
    }
    let error = last.expect("some events, and an error").unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
}

#[test]
fn a_method_that_it_lacks_fails_alone() {
    let Some(kv) = load() else { return };
    let error = kv.import([]).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Unimplemented, Delivery::NotSent));
    kv.put("k", "v").unwrap();
}

/// A host's audit that asks the plugin in turn, and can be told to hang.
struct Auditor {
    recorded: mpsc::SyncSender<(String, u64)>,
}

fn audited() -> Option<(KvProxy, mpsc::Receiver<(String, u64)>)> {
    let (recorded, records) = mpsc::sync_channel(100);
    let command = command()?.serve::<AuditService>(Arc::new(Auditor { recorded }));
    Some((load_kv(command).expect("the plugin loads"), records))
}

impl Audit for Auditor {
    fn allow(&self, key: String, size: u64) -> plug::Result<Decision> {
        let call = Call::current();
        if key == "hang" {
            self.record("asked".to_owned(), 0)?;
            let cancelled = call.wait_cancelled(PATIENCE);
            self.record(format!("cancelled: {cancelled}"), 0)?;
            return Err(plug::Error::new(Code::Cancelled, "nobody waits any more"));
        }
        // While the plugin waits for this answer, it answers this.
        let store: KvProxy = call.peer().ok_or("a handler has a peer")?.proxy()?;
        let allowed = store.get(key).is_err_and(|error| error.code() == Code::NotFound);
        Ok(Decision { allowed, reason: format!("{size} bytes over a value") })
    }

    fn record(&self, key: String, size: u64) -> plug::Result<()> {
        self.recorded.try_send((key, size)).map_err(|_| "nobody takes records".into())
    }
}

#[track_caller]
fn recorded(records: &mpsc::Receiver<(String, u64)>, key: &str, size: u64) {
    let record = records.recv_timeout(PATIENCE).expect("a record in time");
    assert_eq!(record, (key.to_owned(), size));
}

#[test]
fn it_asks_the_host_and_answers_what_the_host_asks_meanwhile() {
    let Some((kv, records)) = audited() else { return };
    kv.put("once", "value").unwrap();
    recorded(&records, "once", 5);
    let error = kv.put("once", "again").unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    assert_eq!(error.message(), "5 bytes over a value");
    assert_eq!(kv.get("once").unwrap(), b"value");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let kv = &kv;
            scope.spawn(move || kv.put(format!("key {thread}"), "value").unwrap());
        }
    });
}

#[test]
fn a_cancelled_call_cancels_what_it_asked_the_host() {
    let Some((kv, records)) = audited() else { return };
    let token = CancelToken::new();
    let cancellable = kv.with_cancel(&token);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| cancellable.put("hang", "value"));
        recorded(&records, "asked", 0);
        token.cancel();
        assert_eq!(call.join().unwrap().unwrap_err().code(), Code::Cancelled);
    });
    recorded(&records, "cancelled: true", 0);
    assert_eq!(kv.get("hang").unwrap_err().code(), Code::NotFound);
}
