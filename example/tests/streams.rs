//! The streaming methods of the store: called as they are, through a connection, and in a process of its own.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use plug::{CancelToken, Code, Command, Error, Proxy as _, Stream};
use plug_example::{Event, Kv, KvProxy, Pair, Store, load_kv};

/// Runs a test with the store itself, and behind a proxy in either place.
fn everywhere(test: impl Fn(&dyn Kv)) {
    for place in [here, in_process, child] {
        let directory = tempfile::tempdir().unwrap();
        test(&*place(directory.path()));
    }
}

fn here(directory: &Path) -> Box<dyn Kv> {
    Box::new(Store::open(directory).unwrap())
}

fn in_process(directory: &Path) -> Box<dyn Kv> {
    Box::new(KvProxy::in_process(Store::open(directory).unwrap()).unwrap())
}

fn child(directory: &Path) -> Box<dyn Kv> {
    Box::new(load_kv(Command::new(env!("CARGO_BIN_EXE_kv-plugin")).arg(directory)).unwrap())
}

fn put(kv: &dyn Kv, key: &str, value: &str) {
    kv.put(key.to_owned(), value.as_bytes().to_vec()).unwrap();
}

fn get(kv: &dyn Kv, key: &str) -> plug::Result<String> {
    Ok(String::from_utf8(kv.get(key.to_owned())?)?)
}

fn watch(kv: &dyn Kv, prefix: &str) -> Stream<Event> {
    kv.watch(prefix.to_owned()).unwrap()
}

fn pair(key: &str, value: &str) -> Pair {
    Pair { key: key.to_owned(), value: value.as_bytes().to_vec() }
}

fn event(key: &str, value: &str, existing: bool) -> Event {
    Event { key: key.to_owned(), value: value.as_bytes().to_vec(), existing }
}

/// The next item, within a time that says that something hangs.
fn next<T: Send + 'static>(stream: Stream<T>, what: &str) -> (Option<plug::Result<T>>, Stream<T>) {
    let (sender, receiver) = mpsc::channel();
    let mut stream = stream;
    std::thread::spawn(move || {
        let item = stream.next();
        // Nobody listens any more if it came too late.
        let _ = sender.send((item, stream));
    });
    let arrived = receiver.recv_timeout(Duration::from_secs(30));
    arrived.unwrap_or_else(|_| panic!("{what} has not arrived in 30 s"))
}

#[test]
fn a_watch_begins_with_what_is_stored_and_goes_on_with_changes() {
    everywhere(|kv| {
        for (key, value) in [("a/2", "two"), ("a/1", "one"), ("b", "other")] {
            put(kv, key, value);
        }
        let mut events = watch(kv, "a/");
        for expected in [event("a/1", "one", true), event("a/2", "two", true)] {
            let (item, stream) = next(events, "what is stored");
            assert_eq!(item.unwrap().unwrap(), expected);
            events = stream;
        }
        for (key, value) in [("a/3", "three"), ("b", "unseen"), ("a/1", "once more")] {
            put(kv, key, value);
        }
        for expected in [event("a/3", "three", false), event("a/1", "once more", false)] {
            let (item, stream) = next(events, "a change");
            assert_eq!(item.unwrap().unwrap(), expected);
            events = stream;
        }
    });
}

#[test]
fn every_watcher_sees_the_changes_in_one_order() {
    everywhere(|kv| {
        put(kv, "start", "");
        let watchers: Vec<Stream<Event>> = (0..3)
            .map(|_| next(watch(kv, ""), "the first event"))
            .map(|(first, stream)| {
                assert_eq!(first.unwrap().unwrap().key, "start");
                stream
            })
            .collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for round in 0..10 {
                        put(kv, "same", &format!("{thread}:{round}"));
                    }
                });
            }
        });
        let last = get(kv, "same").unwrap();
        let seen: Vec<Vec<Event>> = watchers
            .into_iter()
            .map(|mut stream| {
                let mut seen = Vec::new();
                for number in 0..40 {
                    let (item, rest) = next(stream, &format!("change {number} of 40"));
                    seen.push(item.unwrap().unwrap());
                    stream = rest;
                }
                seen
            })
            .collect();
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0], seen[2]);
        assert_eq!(seen[0].last().unwrap().value, last.as_bytes());
    });
}

#[test]
fn a_watcher_that_reads_nothing_stalls_no_put() {
    everywhere(|kv| {
        put(kv, "start", "");
        let (first, slow) = next(watch(kv, ""), "the first event");
        assert_eq!(first.unwrap().unwrap().key, "start");
        // More than fits into windows and pipes.
        let value = "x".repeat(64 << 10);
        for _ in 0..200 {
            put(kv, "key", &value);
        }
        drop(slow);
    });
}

#[test]
fn an_import_stores_all_and_counts() {
    everywhere(|kv| {
        let count =
            kv.import(Stream::new((0..200).map(|n| pair(&format!("key {n}"), &n.to_string()))));
        assert_eq!(count.unwrap(), 200);
        assert_eq!(get(kv, "key 199").unwrap(), "199");
        assert_eq!(kv.import(Stream::new([])).unwrap(), 0);
    });
}

#[test]
fn an_import_that_fails_keeps_what_came_before() {
    everywhere(|kv| {
        let error = kv
            .import(Stream::new([pair("good", "1"), pair("", "2"), pair("late", "3")]))
            .unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert_eq!(get(kv, "good").unwrap(), "1");
        assert_eq!(get(kv, "late").unwrap_err().code(), Code::NotFound);

        let pairs = [Ok(pair("sent", "4")), Err(Error::new(Code::DataLoss, "the file is cut off"))];
        let error = kv.import(Stream::from_results(pairs)).unwrap_err();
        assert!(error.to_string().contains("the file is cut off"), "{error}");
    });
}

#[test]
fn a_sync_answers_each_pair_and_then_tells_the_rest() {
    everywhere(|kv| {
        put(kv, "both", "theirs");
        put(kv, "only theirs", "2");
        let (pairs, requests) = Stream::channel(1);
        let mut answers = kv.sync(requests).unwrap();
        for (sent, expected) in [
            (pair("both", "mine"), event("both", "theirs", true)),
            (pair("only mine", "1"), event("only mine", "1", false)),
        ] {
            pairs.send(sent).unwrap();
            let (item, stream) = next(answers, "the answer to a pair");
            assert_eq!(item.unwrap().unwrap(), expected);
            answers = stream;
        }
        drop(pairs);
        let (item, answers) = next(answers, "what was not sent");
        assert_eq!(item.unwrap().unwrap(), event("only theirs", "2", true));
        assert!(next(answers, "the end").0.is_none());
        assert_eq!(get(kv, "only mine").unwrap(), "1");
        assert_eq!(get(kv, "both").unwrap(), "theirs");
    });
}

#[test]
fn a_watch_ends_when_it_is_cancelled_and_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let command = Command::new(env!("CARGO_BIN_EXE_kv-plugin")).arg(directory.path());
    let kv = &load_kv(command).unwrap();
    put(kv, "start", "");
    let token = CancelToken::new();
    let cancelled = watch(&kv.with_cancel(&token), "");
    let (_, cancelled) = next(cancelled, "the first event");
    let (_, other) = next(watch(kv, ""), "the first event");
    token.cancel();
    let (item, cancelled) = next(cancelled, "the cancellation");
    assert_eq!(item.unwrap().unwrap_err().code(), Code::Cancelled);
    assert!(next(cancelled, "the end").0.is_none());
    put(kv, "more", "");
    let (item, _) = next(other, "a change");
    assert_eq!(item.unwrap().unwrap(), event("more", "", false));
}
