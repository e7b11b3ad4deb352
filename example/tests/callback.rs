//! A store that asks its host, and calls that do not end by themselves.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use plug::{Call, CancelToken, Code, Command, Error, Peer, Plugin, Proxy as _, Stream};
use plug_example::{
    Audit, AuditProxy, AuditService, Decision, Event, Kv, KvProxy, KvService, Pair, Store, load_kv,
};

const KV_PLUGIN: &str = env!("CARGO_BIN_EXE_kv-plugin");

/// Allows all keys but one, and passes on what is recorded.
struct Auditor {
    recorded: mpsc::SyncSender<(String, u64)>,
}

fn auditor() -> (Arc<Auditor>, mpsc::Receiver<(String, u64)>) {
    let (recorded, records) = mpsc::sync_channel(100);
    (Arc::new(Auditor { recorded }), records)
}

impl Audit for Auditor {
    fn allow(&self, key: String, size: u64) -> plug::Result<Decision> {
        let allowed = key != "forbidden";
        Ok(Decision { allowed, reason: format!("{size} bytes too many") })
    }

    fn record(&self, key: String, size: u64) -> plug::Result<()> {
        self.recorded.try_send((key, size)).map_err(|_| "nobody takes records".into())
    }
}

/// A plugin that takes its host from the call that it serves.
struct AsksTheCaller(Store);

impl AsksTheCaller {
    fn store(&self) -> plug::Result<Store> {
        let host: Peer = Call::current().peer().ok_or("a handler has a peer")?;
        Ok(self.0.clone().audited(host.proxy::<AuditProxy>()?))
    }
}

impl Kv for AsksTheCaller {
    fn get(&self, key: String) -> plug::Result<Vec<u8>> {
        self.0.get(key)
    }

    fn put(&self, key: String, value: Vec<u8>) -> plug::Result<()> {
        self.store()?.put(key, value)
    }

    fn watch(&self, prefix: String) -> plug::Result<Stream<Event>> {
        self.0.watch(prefix)
    }

    fn import(&self, requests: Stream<Pair>) -> plug::Result<u64> {
        self.store()?.import(requests)
    }

    fn sync(&self, requests: Stream<Pair>) -> plug::Result<Stream<Event>> {
        self.store()?.sync(requests)
    }
}

impl Plugin for AsksTheCaller {
    type Services = KvService;
}

fn in_process(directory: &Path) -> Command {
    Command::in_process(AsksTheCaller(Store::open(directory).unwrap()))
}

fn child(directory: &Path) -> Command {
    Command::new(KV_PLUGIN).arg(directory)
}

/// Runs a test with the store in either place and a host that audits it.
fn everywhere(test: impl Fn(&KvProxy, &mpsc::Receiver<(String, u64)>)) {
    for place in [in_process, child] {
        let directory = tempfile::tempdir().unwrap();
        let (auditor, records) = auditor();
        let kv = load_kv(place(directory.path()).serve::<AuditService>(auditor)).unwrap();
        test(&kv, &records);
    }
}

fn record(records: &mpsc::Receiver<(String, u64)>) -> (String, u64) {
    records.recv_timeout(Duration::from_secs(30)).expect("the record of a change in 30 s")
}

fn pair(key: &str, value: &str) -> Pair {
    Pair { key: key.to_owned(), value: value.as_bytes().to_vec() }
}

#[test]
fn the_host_is_asked_before_and_told_after() {
    everywhere(|kv, records| {
        kv.put("allowed", "value").unwrap();
        assert_eq!(record(records), ("allowed".to_owned(), 5));
        let error = kv.put("forbidden", "value").unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
        assert!(error.to_string().contains("5 bytes too many"), "{error}");
        assert_eq!(kv.get("forbidden").unwrap_err().code(), Code::NotFound);
    });
}

#[test]
fn the_host_is_asked_for_each_item_of_a_stream() {
    everywhere(|kv, records| {
        let error = kv.import([pair("a", "1"), pair("forbidden", "2"), pair("b", "3")]);
        assert_eq!(error.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(record(records), ("a".to_owned(), 1));
        let answers: Vec<plug::Result<Event>> =
            kv.sync([pair("c", "22"), pair("forbidden", "2"), pair("d", "4")]).unwrap().collect();
        assert_eq!(answers.len(), 2, "nothing follows an error");
        assert_eq!(answers[0].as_ref().unwrap().key, "c");
        assert_eq!(answers[1].as_ref().unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(record(records), ("c".to_owned(), 2));
    });
}

#[test]
fn a_host_without_the_service_is_not_asked() {
    let directory = tempfile::tempdir().unwrap();
    let kv = load_kv(child(directory.path())).unwrap();
    kv.put("forbidden", "value").unwrap();
    assert_eq!(kv.get("forbidden").unwrap(), b"value");
}

#[test]
fn an_audit_that_fails_fails_the_put_with_its_error() {
    struct Broken;

    impl Audit for Broken {
        fn allow(&self, _: String, _: u64) -> plug::Result<Decision> {
            Err(Error::new(Code::DataLoss, "the rules are unreadable"))
        }

        fn record(&self, _: String, _: u64) -> plug::Result<()> {
            Ok(())
        }
    }

    for place in [in_process, child] {
        let directory = tempfile::tempdir().unwrap();
        let command = place(directory.path()).serve::<AuditService>(Arc::new(Broken));
        let error = load_kv(command).unwrap().put("k", "v").unwrap_err();
        assert_eq!(error.code(), Code::DataLoss, "{error}");
        assert!(error.to_string().contains("the rules are unreadable"), "{error}");
    }
}

/// The handler prints a line when it begins, and one when it has seen that nobody waits for it any more.
fn hangs(directory: &Path) -> KvProxy {
    load_kv(child(directory).arg("--trace").args(["--hang-on", "tar"])).unwrap()
}

#[track_caller]
fn printed(lines: &mpsc::Receiver<String>, expected: &str) {
    let line = lines.recv_timeout(Duration::from_secs(30));
    assert_eq!(line.as_deref(), Ok(expected), "what the plugin prints within 30 s");
}

fn lines(kv: &KvProxy) -> mpsc::Receiver<String> {
    let lines = kv.peer().stderr_lines().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || lines.take_while(|line| sender.send(line.clone()).is_ok()).count());
    receiver
}

#[test]
fn a_call_is_cancelled_from_another_thread_and_its_handler_sees_it() {
    let directory = tempfile::tempdir().unwrap();
    let kv = hangs(directory.path());
    let lines = lines(&kv);
    let token = CancelToken::new();
    let cancellable = kv.with_cancel(&token);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| cancellable.get("tar"));
        printed(&lines, r#"get "tar""#);
        token.cancel();
        let error = call.join().unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Cancelled, "{error}");
    });
    printed(&lines, r#"nobody waits any more for get "tar""#);
    let error = cancellable.get("anything").unwrap_err();
    assert_eq!(error.code(), Code::Cancelled, "a token stays cancelled: {error}");
    assert_eq!(kv.get("anything").unwrap_err().code(), Code::NotFound);
}

#[test]
fn a_call_ends_when_its_time_is_over_though_its_handler_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let kv = hangs(directory.path());
    let error = kv.with_timeout(Duration::from_millis(50)).get("tar").unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    kv.put("k", "v").unwrap();
    assert_eq!(kv.get("k").unwrap(), b"v", "the plugin goes on");
}
