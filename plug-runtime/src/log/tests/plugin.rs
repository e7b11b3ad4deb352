//! A plugin's events, as records.

use tracing::{debug, error, info, info_span, trace, warn};

use super::super::record::LOST;
use super::super::uplink::{RECORD_LIMIT, Uplink};
use super::*;

/// A host that takes records.
struct Taken {
    uplink: &'static Uplink,
    records: Arc<Mutex<Vec<Record>>>,
    has_room: Arc<Mutex<bool>>,
}

impl Taken {
    fn at(level: Level) -> Taken {
        let uplink: &'static Uplink = Box::leak(Box::new(Uplink::new()));
        let (records, has_room) = (Arc::default(), Arc::new(Mutex::new(true)));
        let taken = Taken { uplink, records, has_room };
        let (records, has_room) = (taken.records.clone(), taken.has_room.clone());
        uplink.connect(Box::new(move |record| {
            let has_room = *has_room.lock().unwrap();
            if has_room {
                records.lock().unwrap().push(Record::decode(&record[..]).unwrap());
            }
            has_room
        }));
        uplink.set_level(level);
        taken
    }

    /// What the events of `make` become.
    fn during(&self, make: impl FnOnce()) -> Vec<Record> {
        with_default(LogSubscriber::of(self.uplink), make);
        std::mem::take(&mut *self.records.lock().unwrap())
    }
}

/// Makes this process a plugin, as far as records are concerned. Returns what its host gets.
fn started(level: Level) -> Arc<Mutex<Vec<Record>>> {
    let records: Arc<Mutex<Vec<Record>>> = Arc::default();
    let taken = records.clone();
    let send = move |record: Vec<u8>| {
        taken.lock().unwrap().push(Record::decode(&record[..]).unwrap());
        true
    };
    start(level as i32, Box::new(send));
    records
}

fn pairs(record: &Record) -> Vec<(&str, &str)> {
    let fields = record.fields.iter();
    fields.map(|pair| (&pair.key[..], std::str::from_utf8(&pair.value).unwrap())).collect()
}

fn texts(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| &record.text[..]).collect()
}

#[derive(Debug)]
struct Outer(std::num::ParseIntError);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bad port")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn an_event_becomes_a_record_with_level_target_text_and_fields() {
    let cause = Outer("x".parse::<u16>().unwrap_err());
    let records = Taken::at(Level::Trace).during(|| {
        warn!(
            target: "kv::store",
            count = 3,
            negative = -1,
            ratio = 0.5,
            done = true,
            name = "a b",
            list = ?["a", "b"],
            shown = %"text",
            cause = &cause as &(dyn std::error::Error + 'static),
            "opened {}",
            "it"
        );
    });
    let [record] = &records[..] else { panic!("not one record: {records:?}") };
    assert_eq!((record.level, &record.target[..]), (Level::Warn as i32, "kv::store"));
    assert_eq!(record.text, "opened it");
    let fields = [
        ("count", "3"),
        ("negative", "-1"),
        ("ratio", "0.5"),
        ("done", "true"),
        ("name", "a b"),
        ("list", r#"["a", "b"]"#),
        ("shown", "text"),
        ("cause", "bad port: invalid digit found in string"),
    ];
    assert_eq!(pairs(record), fields);
    let a_while_ago = 1_600_000_000_000_000_000;
    assert!(record.time_ns > a_while_ago, "{} is before 2020", record.time_ns);
}

#[test]
fn each_level_is_that_of_the_event() {
    let records = Taken::at(Level::Trace).during(|| {
        error!("");
        warn!("");
        info!("");
        debug!("");
        trace!("");
    });
    let levels: Vec<i32> = records.iter().map(|record| record.level).collect();
    assert_eq!(levels, [1, 2, 3, 4, 5]);
}

#[test]
fn fields_of_the_spans_around_an_event_come_behind_its_own() {
    let records = Taken::at(Level::Info).during(|| {
        let outer = info_span!("request", id = 7, user = tracing::field::Empty);
        let _in_outer = outer.enter();
        outer.record("user", "ann");
        let inner = info_span!("step", id = 8);
        inner.in_scope(|| info!(own = 1, "inside"));
        info!("outside");
        info!(parent: &inner, "parent");
        info!(parent: None, "root");
        let current = tracing::Span::current();
        std::thread::scope(|scope| {
            let elsewhere = tracing::dispatcher::get_default(Clone::clone);
            let there = move || {
                tracing::dispatcher::with_default(&elsewhere, || {
                    info!("thread");
                    current.in_scope(|| info!("carried"));
                });
            };
            scope.spawn(there).join().unwrap();
        });
    });
    let in_outer = [("request.id", "7"), ("request.user", "ann")];
    let in_inner = [&[("step.id", "8")][..], &in_outer].concat();
    let expected = [
        ("inside", [&[("own", "1")][..], &in_inner].concat()),
        ("outside", in_outer.to_vec()),
        ("parent", in_inner),
        ("root", vec![]),
        ("thread", vec![]),
        ("carried", in_outer.to_vec()),
    ];
    let seen: Vec<_> = records.iter().map(|record| (&record.text[..], pairs(record))).collect();
    assert_eq!(seen, expected);
}

#[test]
fn spans_that_were_left_or_closed_are_around_nothing() {
    let taken = Taken::at(Level::Info);
    let records = taken.during(|| {
        let first = info_span!("first", a = 1).entered();
        let second = info_span!("second", b = 2).entered();
        // Not in the order in which they were entered.
        drop(first);
        info!("in the second");
        drop(second);
        info!("in none");
    });
    // The first is closed, so that the second is in nothing.
    assert_eq!(pairs(&records[0]), [("second.b", "2")]);
    assert_eq!(pairs(&records[1]), []);
}

#[test]
fn nothing_is_sent_that_the_host_does_not_want() {
    let taken = Taken::at(Level::Warn);
    let records = taken.during(|| {
        for level in [Level::Warn, Level::Debug, Level::Off] {
            taken.uplink.set_level(level);
            tracing_core::callsite::rebuild_interest_cache();
            error!("error at {level:?}");
            warn!("warn at {level:?}");
            debug!("debug at {level:?}");
            trace!("trace at {level:?}");
        }
    });
    let expected =
        ["error at Warn", "warn at Warn", "error at Debug", "warn at Debug", "debug at Debug"];
    assert_eq!(texts(&records), expected);
}

#[test]
fn records_that_were_not_taken_are_counted_in_the_next_one_that_is() {
    let taken = Taken::at(Level::Info);
    let records = taken.during(|| {
        for has_room in [true, false, false, true, true] {
            *taken.has_room.lock().unwrap() = has_room;
            info!("with room: {has_room}");
        }
    });
    let lost: Vec<u64> = records.iter().map(Record::lost).collect();
    assert_eq!(lost, [0, 2, 0]);
    assert_eq!(pairs(&records[1]), [(LOST, "2")]);
}

#[test]
fn a_record_takes_no_more_than_its_limit() {
    let long = "ü".repeat(RECORD_LIMIT);
    let records = Taken::at(Level::Info).during(|| {
        let long = &long[..];
        info!("{long}");
        info!(field = long, next = 1, "short");
        let span = info_span!("span", field = long);
        span.in_scope(|| info!("in a span"));
        span.in_scope(|| info!(field = &long[..RECORD_LIMIT - 100], "in a span"));
    });
    for record in &records {
        let fields = record.fields.iter().map(|pair| pair.key.len() + pair.value.len());
        let len = record.target.len() + record.text.len() + fields.sum::<usize>();
        assert!(len <= RECORD_LIMIT, "{len} bytes: {record:?}");
    }
    assert!(records[0].text.ends_with("ü…"), "cut where a character ends");
    assert_eq!(records[1].text, "short");
    assert_eq!(records[1].fields.len(), 1, "there is no room for the next one");
    let in_span = pairs(&records[2])[0].1;
    assert!(in_span.ends_with('…') && in_span.len() <= spans::SPAN_LIMIT, "{}", in_span.len());
    assert_eq!(records[3].fields.len(), 1, "there is no room for the span's");
}

#[test]
fn an_event_made_while_another_is_formatted_is_dropped_and_counted() {
    struct Talkative;
    impl fmt::Debug for Talkative {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            info!(again = ?Talkative, "from within");
            f.write_str("talkative")
        }
    }
    // `tracing` itself drops it where the subscriber is not the global default.
    alone("plugin::an_event_made_while_another_is_formatted_is_dropped_and_counted", || {
        let records = started(Level::Info);
        info!(field = ?Talkative, "outer");
        info!("next");
        let records = records.lock().unwrap();
        assert_eq!(texts(&records), ["outer", "next"]);
        let lost: u64 = records.iter().map(Record::lost).sum();
        assert_eq!(lost, 1, "the one from within");
    });
}

#[test]
fn a_field_that_panics_does_not_silence_its_thread() {
    struct Broken;
    impl fmt::Debug for Broken {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("as a test wants it")
        }
    }
    let records = Taken::at(Level::Info).during(|| {
        std::panic::catch_unwind(|| info!(field = ?Broken)).unwrap_err();
        info!("after it");
    });
    assert_eq!(texts(&records), ["after it"]);
}

#[test]
fn a_plugin_without_a_subscriber_gets_one_and_follows_the_level_of_its_host() {
    alone(
        "plugin::a_plugin_without_a_subscriber_gets_one_and_follows_the_level_of_its_host",
        || {
            info!("before it has a host");
            let records = started(Level::Info);
            assert_eq!(LogSubscriber::level(), LevelFilter::INFO);
            info!("wanted");
            debug!("not wanted");
            set_level(&level_payload(Level::Debug as i32));
            assert!(flush(SOON), "the subscriber was not told of the level");
            debug!("wanted now");
            set_level(b"\xff\xff");
            assert_eq!(LogSubscriber::level(), LevelFilter::DEBUG, "that was no record");
            set_level(&level_payload(0));
            assert!(flush(SOON), "the subscriber was not told of the level");
            assert_eq!(LevelFilter::current(), LevelFilter::OFF, "an event costs nothing any more");
            error!("not wanted any more");
            assert_eq!(texts(&records.lock().unwrap()), ["wanted", "wanted now"]);
        },
    );
}

#[test]
fn a_plugin_with_a_subscriber_keeps_it_and_can_forward() {
    alone("plugin::a_plugin_with_a_subscriber_keeps_it_and_can_forward", || {
        let recorder = Recorder::new(LevelFilter::TRACE);
        tracing::subscriber::set_global_default(recorder.clone()).unwrap();
        let records = started(Level::Info);
        info!("theirs alone");
        assert_eq!(recorder.messages(), ["theirs alone"]);
        with_default(Forwarding, || {
            info!("for both");
            debug!("not for the host");
        });
        assert_eq!(texts(&records.lock().unwrap()), ["for both"]);
    });
}

/// A subscriber of a user.
struct Forwarding;

impl Subscriber for Forwarding {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        LogSubscriber::forward(event);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
