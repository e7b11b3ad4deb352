//! Records and lines of plugins, as events of a host.

use std::sync::mpsc;

use tracing::info_span;

use super::super::queue::Queue;
use super::super::record::{LOST, Pair};
use super::*;

/// A host with a subscriber and a plugin.
struct Host {
    recorder: Recorder,
    /// The plugin does not keep its host's subscriber.
    _dispatch: Dispatch,
    queue: &'static Queue,
    plugin: Source,
}

impl Host {
    fn new(recorder: Recorder) -> Host {
        let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
        let dispatch = Dispatch::new(recorder.clone());
        let plugin = tracing::dispatcher::with_default(&dispatch, || Source::to("kv", queue));
        Host { recorder, _dispatch: dispatch, queue, plugin }
    }

    fn seen(&self) -> Vec<Seen> {
        assert!(self.queue.flush(SOON), "the queue was not emptied");
        self.recorder.seen()
    }
}

fn all_levels() -> Host {
    Host::new(Recorder::new(LevelFilter::TRACE))
}

fn record(text: &str) -> Record {
    Record {
        level: Level::Info as i32,
        target: "kv::store".to_owned(),
        text: text.to_owned(),
        ..Record::default()
    }
}

fn pair(key: &str, value: impl AsRef<[u8]>) -> Pair {
    Pair { key: key.to_owned(), value: value.as_ref().to_vec() }
}

fn no_span() -> CallSpan {
    CallSpan::default()
}

#[test]
fn a_record_becomes_an_event_with_all_that_it_says() {
    let host = all_levels();
    let fields = vec![pair("path", "/tmp"), pair("name", "a b"), pair("n", "1"), pair(LOST, "3")];
    let sent = Record { level: Level::Warn as i32, fields, ..record("opened") };
    host.plugin.record(&sent.encode_to_vec(), &no_span());
    host.plugin.record(&record("closed").encode_to_vec(), &no_span());
    let expected = [
        Seen {
            level: "WARN".to_owned(),
            target: "plug".to_owned(),
            fields: BTreeMap::from([
                ("message", "opened".to_owned()),
                ("plugin", "kv".to_owned()),
                ("plugin_target", "kv::store".to_owned()),
                ("fields", r#"path=/tmp name="a b" n=1"#.to_owned()),
                ("lost", "3".to_owned()),
            ]),
            parent: None,
            is_contextual: false,
        },
        Seen {
            level: "INFO".to_owned(),
            target: "plug".to_owned(),
            fields: BTreeMap::from([
                ("message", "closed".to_owned()),
                ("plugin", "kv".to_owned()),
                ("plugin_target", "kv::store".to_owned()),
            ]),
            parent: None,
            is_contextual: false,
        },
    ];
    assert_eq!(host.seen(), expected);
}

#[test]
fn the_level_of_an_event_is_that_of_the_record() {
    let host = all_levels();
    for level in [0, 1, 2, 3, 4, 5, 6] {
        host.plugin.record(&Record { level, ..record("") }.encode_to_vec(), &no_span());
    }
    let seen = host.seen();
    let levels: Vec<_> = seen.iter().map(|seen| &seen.level[..]).collect();
    assert_eq!(levels, ["INFO", "ERROR", "WARN", "INFO", "DEBUG", "TRACE", "TRACE"]);
}

#[test]
fn a_record_is_under_the_span_of_its_call_in_the_subscriber_of_that_span() {
    let (host, callers) = (all_levels(), Recorder::new(LevelFilter::TRACE));
    let dispatch = Dispatch::new(callers.clone());
    let span = tracing::dispatcher::with_default(&dispatch, || info_span!("of the caller"));
    let call = CallSpan::of(span.clone());
    host.plugin.record(&record("in the call").encode_to_vec(), &call);
    host.plugin.record(&record("in none").encode_to_vec(), &no_span());
    let seen = host.seen();
    assert_eq!(host.recorder.messages(), ["in none"]);
    assert_eq!((seen[0].parent, seen[0].is_contextual), (None, false));
    let seen = callers.seen();
    assert_eq!(callers.messages(), ["in the call"]);
    assert_eq!(seen[0].parent, span.id().map(|id| id.into_u64()));
    assert!(seen[0].parent.is_some(), "the caller's span is enabled");
}

#[test]
fn text_of_a_plugin_is_one_line_without_control_characters_and_no_longer_than_allowed() {
    let host = all_levels();
    let evil = "\x1b[2Ja\nb\u{202e}c\0";
    let sent = Record {
        target: evil.to_owned(),
        text: evil.to_owned(),
        fields: vec![pair(evil, evil), pair("bytes", b"\xff\n"), pair("", "a=b c=\"d")],
        ..record("")
    };
    host.plugin.record(&sent.encode_to_vec(), &no_span());
    let long = "x".repeat(1 << 20);
    let fields = vec![pair("long", &long)];
    let sent = Record { text: long.clone(), target: long.clone(), fields, ..record("") };
    host.plugin.record(&sent.encode_to_vec(), &no_span());
    Lines::new(host.plugin.clone()).push(b"\x1b[2Ja\n");
    let seen = host.seen();
    let escaped = r"\u{1b}[2Ja\nb\u{202e}c\u{0}";
    assert_eq!(seen[0].message(), escaped);
    assert_eq!(seen[0].field("plugin_target"), Some(escaped));
    let quoted = format!("{evil:?}");
    let fields = format!("{quoted}={quoted} bytes=\"\u{fffd}\\n\" \"\"=\"a=b c=\\\"d\"");
    assert_eq!(seen[0].field("fields"), Some(&fields[..]));
    for value in seen.iter().flat_map(|seen| seen.fields.values()) {
        assert!(value.len() <= uplink::RECORD_LIMIT, "{} bytes", value.len());
        assert!(!value.contains(|c: char| c.is_control() || c == '\u{202e}'), "{value:?}");
    }
    assert_eq!(seen[2].message(), r"\u{1b}[2Ja");
}

#[test]
fn what_is_no_record_counts_as_lost() {
    let host = all_levels();
    host.plugin.record(b"\xff\xff", &no_span());
    host.plugin.record(&record("good").encode_to_vec(), &no_span());
    let seen = host.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!((seen[0].message(), seen[0].field("lost")), ("good", Some("1")));
}

#[test]
fn each_line_of_stderr_becomes_an_event() {
    let host = all_levels();
    let mut lines = Lines::new(host.plugin.clone());
    let long = "x".repeat((8 << 10) + 3);
    let printed = format!("one\n\ntwo\r\n{long}\nlast");
    for bytes in printed.as_bytes().chunks(5) {
        lines.push(bytes);
    }
    lines.end();
    lines.end();
    let seen = host.seen();
    let texts: Vec<_> = seen.iter().map(Seen::message).collect();
    assert_eq!(texts, ["one", "two\\r", &long[..8 << 10], "xxx", "last"]);
    for seen in &seen {
        assert_eq!((&seen.level[..], &seen.target[..]), ("INFO", "plug::stderr"));
        assert_eq!(seen.field("plugin"), Some("kv"));
        assert_eq!((seen.parent, seen.is_contextual), (None, false));
    }
}

#[test]
fn a_slow_subscriber_makes_nobody_wait_and_what_is_dropped_is_counted() {
    let (let_go, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let mut recorder = Recorder::new(LevelFilter::TRACE);
    recorder.hook = Arc::new(move |text| {
        if text == "slow" {
            held.lock().unwrap().recv_timeout(SOON).expect("nobody let go");
        }
    });
    let host = Host::new(recorder);
    host.plugin.record(&record("slow").encode_to_vec(), &no_span());
    let large = record(&"x".repeat(1 << 20)).encode_to_vec();
    for _ in 0..10 {
        host.plugin.record(&large, &no_span());
    }
    assert!(!host.queue.flush(Duration::from_millis(1)), "it is still held");
    let_go.send(()).unwrap();
    let seen = host.seen();
    let lost: Vec<_> = seen.iter().filter_map(|seen| seen.field("lost")).collect();
    let lost: usize = lost.into_iter().map(|lost| lost.parse::<usize>().unwrap()).sum();
    assert_eq!(seen.len() + lost, 11, "each is there or counted");
    assert_eq!(seen.len() - 1, 3, "a fourth one does not fit into 4 MiB");
    for sent in 1..=5 {
        host.plugin.record(&large, &no_span());
        assert_eq!(host.seen().len(), seen.len() + sent, "there is room again");
    }
}

#[test]
fn a_subscriber_that_panics_does_not_stop_the_next_record() {
    let mut recorder = Recorder::new(LevelFilter::TRACE);
    recorder.hook = Arc::new(|text| assert_ne!(text, "bad", "as a test wants it"));
    let host = Host::new(recorder);
    for text in ["bad", "good"] {
        host.plugin.record(&record(text).encode_to_vec(), &no_span());
    }
    host.seen();
    assert_eq!(host.recorder.messages(), ["good"]);
}

#[test]
fn a_subscriber_that_waits_for_the_queue_does_not_wait_for_itself() {
    let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
    let mut recorder = Recorder::new(LevelFilter::TRACE);
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    recorder.hook = Arc::new(move |_| {
        let begun = std::time::Instant::now();
        assert!(!queue.flush(SOON), "this record is not done");
        tell.lock().unwrap().send(begun.elapsed() < SOON).unwrap();
    });
    let dispatch = Dispatch::new(recorder);
    let plugin = tracing::dispatcher::with_default(&dispatch, || Source::to("kv", queue));
    plugin.record(&record("").encode_to_vec(), &no_span());
    assert!(told.recv_timeout(SOON * 2).expect("the record did not come"), "it waited");
}

#[test]
fn a_host_without_a_subscriber_gets_no_events_and_one_that_gets_a_default_later_does() {
    alone(
        "host::a_host_without_a_subscriber_gets_no_events_and_one_that_gets_a_default_later_does",
        || {
            let plugin = Source::new("kv");
            plugin.record(&record("too early").encode_to_vec(), &no_span());
            assert!(flush(SOON), "the queue was not emptied");
            let recorder = Recorder::new(LevelFilter::TRACE);
            tracing::subscriber::set_global_default(recorder.clone()).unwrap();
            plugin.record(&record("in time").encode_to_vec(), &no_span());
            assert!(flush(SOON), "the queue was not emptied");
            assert_eq!(recorder.messages(), ["in time"]);
        },
    );
}

#[test]
fn a_record_that_meets_no_subscriber_does_not_hide_later_ones_from_the_subscriber_of_a_thread() {
    alone(
        "host::a_record_that_meets_no_subscriber_does_not_hide_later_ones_from_the_subscriber_of_a_thread",
        || {
            let recorder = Recorder::new(LevelFilter::TRACE);
            let nobodys = Source::new("kv");
            with_default(recorder.clone(), || {
                nobodys.record(&record("for nobody").encode_to_vec(), &no_span());
                Source::new("kv").record(&record("for the thread").encode_to_vec(), &no_span());
                assert!(flush(SOON), "the queue was not emptied");
            });
            assert_eq!(recorder.messages(), ["for the thread"]);
        },
    );
}

#[test]
fn the_wanted_level_is_that_of_the_subscribers_and_changes_are_told() {
    alone("host::the_wanted_level_is_that_of_the_subscribers_and_changes_are_told", || {
        static TOLD: Mutex<Vec<i32>> = Mutex::new(Vec::new());
        on_level_change(|| TOLD.lock().unwrap().push(wanted_level()));
        assert_eq!(wanted_level(), 0, "there is no subscriber");
        assert!(CallSpan::current().get().is_none(), "nobody wants records");
        let first = Dispatch::new(Recorder::new(LevelFilter::WARN));
        assert_eq!(wanted_level(), Level::Warn as i32);
        let second = Dispatch::new(Recorder::new(LevelFilter::DEBUG));
        assert_eq!(wanted_level(), Level::Debug as i32, "one of two is enough");
        drop(second);
        tracing_core::callsite::rebuild_interest_cache();
        assert_eq!(wanted_level(), Level::Warn as i32);
        assert!(flush(SOON), "nobody was told");
        assert_eq!(TOLD.lock().unwrap().last(), Some(&(Level::Warn as i32)));
        drop(first);
    });
}

#[test]
fn a_filter_for_the_target_of_records_decides_what_is_wanted() {
    alone("host::a_filter_for_the_target_of_records_decides_what_is_wanted", || {
        use tracing_subscriber::filter::Targets;
        use tracing_subscriber::layer::SubscriberExt as _;
        for (filter, wanted) in [
            ("info", Level::Info),
            ("info,plug=debug", Level::Debug),
            ("debug,plug=error", Level::Error),
            ("trace,plug=off", Level::Off),
        ] {
            let filter: Targets = filter.parse().unwrap();
            let shown = filter.to_string();
            with_default(tracing_subscriber::registry().with(filter), || {
                assert_eq!(wanted_level(), wanted as i32, "{shown}");
            });
        }
    });
}

#[test]
fn a_call_knows_the_span_of_its_caller() {
    alone("host::a_call_knows_the_span_of_its_caller", || {
        // It tells which span is the current one.
        start(Level::Info as i32, Box::new(|_| true));
        assert_eq!(wanted_level(), Level::Info as i32);
        assert!(CallSpan::current().get().is_none(), "no span");
        let span = info_span!("of the caller");
        let call = span.in_scope(CallSpan::current);
        assert_eq!(call.get().and_then(tracing::Span::id), span.id());
        assert!(span.id().is_some(), "the span is enabled");
    });
}
