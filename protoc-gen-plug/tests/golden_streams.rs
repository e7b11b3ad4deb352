//! The golden `streams`, compiled and run: each kind of call, with each kind of message.

use std::sync::mpsc;
use std::time::Duration;

use plug::{Plugin, Result, Stream};

/// The case, with the code as it is checked in.
pub mod streams {
    include!("golden/streams/streams.rs");
}

use streams::{
    Item, Level, Nothing, Range, Rated, Streams, StreamsProxy, StreamsService, Summary, Total,
};

/// Does what each method says, and passes on what it is told one-way.
struct Recorder {
    told: mpsc::SyncSender<String>,
}

impl Recorder {
    fn tell(&self, text: String) -> Result<()> {
        self.told.send(text).map_err(|_| "the test has ended".into())
    }
}

impl Streams for Recorder {
    fn count(&self, from: u32, to: u32) -> Result<Stream<Total>> {
        Ok(Stream::new((from..to).map(|total| Total { total: total.into() })))
    }

    fn select(&self, level: Level, items: Vec<Item>) -> Result<Stream<Item>> {
        Ok(Stream::new(if level == Level::High { items } else { Vec::new() }))
    }

    fn all(&self) -> Result<Stream<Item>> {
        Ok(Stream::new([item("all")]))
    }

    fn fresh(&self) -> Result<Stream<String>> {
        Ok(Stream::new(["fresh".to_owned()]))
    }

    fn whole(&self, request: Range) -> Result<Stream<Total>> {
        self.count(request.from, request.to)
    }

    fn add(&self, requests: Stream<Total>) -> Result<u64> {
        requests.map(|request| Ok(request?.total)).sum()
    }

    fn highest(&self, requests: Stream<Rated>) -> Result<Level> {
        let levels: Vec<i32> = requests.map(|request| Ok(request?.level)).collect::<Result<_>>()?;
        Ok(levels.into_iter().max().and_then(|level| level.try_into().ok()).unwrap_or_default())
    }

    fn summarize(&self, requests: Stream<Item>) -> Result<Summary> {
        let texts: Vec<_> = requests.map(|request| Ok(request?.text)).collect::<Result<_>>()?;
        let count = texts.len() as u64;
        let longest = texts.into_iter().max_by_key(String::len).unwrap_or_default();
        Ok(Summary { count, longest })
    }

    fn drain(&self, mut requests: Stream<Nothing>) -> Result<()> {
        requests.try_for_each(|request| request.map(|Nothing {}| ()))
    }

    fn echo(&self, requests: Stream<Item>) -> Result<Stream<Item>> {
        Ok(requests)
    }

    fn texts(&self, requests: Stream<String>) -> Result<Stream<String>> {
        Ok(requests)
    }

    fn note(&self, text: String) -> Result<()> {
        self.tell(text)
    }

    fn mark(&self, level: Level, items: Vec<Item>) -> Result<()> {
        self.tell(format!("{} {}", level.as_str_name(), items.len()))
    }

    fn keep(&self, request: Item) -> Result<Nothing> {
        self.tell(request.text)?;
        Ok(Nothing {})
    }
}

impl Plugin for Recorder {
    type Services = StreamsService;
}

fn item(text: &str) -> Item {
    Item { text: text.to_owned() }
}

fn all<T>(stream: Result<Stream<T>>) -> Vec<T> {
    stream.unwrap().collect::<Result<_>>().unwrap()
}

/// The proxy, and what the plugin is told one-way.
fn streams() -> (StreamsProxy, mpsc::Receiver<String>) {
    let (told, receiver) = mpsc::sync_channel(10);
    (StreamsProxy::in_process(Recorder { told }).unwrap(), receiver)
}

#[test]
fn the_service_says_which_sides_of_a_method_are_streams() {
    use plug::{MethodKind, Service};

    let methods = |kind: MethodKind| -> Vec<&str> {
        let methods = StreamsService::METHODS.iter().filter(|method| method.kind() == kind);
        methods.map(|method| method.name()).collect()
    };
    assert_eq!(methods(MethodKind::ServerStreaming), ["Count", "Select", "All", "Fresh", "Whole"]);
    assert_eq!(methods(MethodKind::ClientStreaming), ["Add", "Highest", "Summarize", "Drain"]);
    assert_eq!(methods(MethodKind::BidiStreaming), ["Echo", "Texts"]);
    let one_way = StreamsService::METHODS.iter().filter(|method| method.is_one_way());
    let one_way: Vec<_> = one_way.map(|method| method.name()).collect();
    assert_eq!(one_way, ["Note", "Mark", "Keep"]);
}

#[test]
fn one_way_calls_arrive_whatever_their_result_is() {
    let (streams, told) = streams();
    streams.note("note").unwrap();
    streams.mark(Level::High, vec![item("a"), item("b")]).unwrap();
    assert_eq!(streams.keep(item("keep")).unwrap(), Nothing {});
    // They may overtake each other.
    let mut arrived: Vec<String> = (0..3)
        .map(|_| told.recv_timeout(Duration::from_secs(30)).expect("three calls arrive in 30 s"))
        .collect();
    arrived.sort();
    assert_eq!(arrived, ["LEVEL_HIGH 2", "keep", "note"]);
}

#[test]
fn a_stream_of_responses_arrives_whole_and_in_order() {
    let (streams, _told) = streams();
    let totals: Vec<u64> =
        streams.count(0, 1000).unwrap().map(|total| total.unwrap().total).collect();
    assert_eq!(totals, (0..1000).collect::<Vec<u64>>());
    assert_eq!(streams.count(5, 5).unwrap().count(), 0);
    assert_eq!(streams.whole(Range { from: 1, to: 4 }).unwrap().count(), 3);
    let items = vec![item("a"), item("b")];
    assert_eq!(all(streams.select(Level::High, items.clone())), items);
    assert_eq!(all(streams.select(Level::Low, items)), []);
    assert_eq!(all(streams.all()), [item("all")]);
    assert_eq!(all(streams.fresh()), ["fresh"]);
}

#[test]
fn a_stream_of_requests_is_made_of_anything_that_iterates() {
    let (streams, _told) = streams();
    assert_eq!(streams.add((1..=100).map(|total| Total { total })).unwrap(), 5050);
    let rated = [Level::Low, Level::High, Level::Low].map(|level| Rated { level: level.into() });
    assert_eq!(streams.highest(rated).unwrap(), Level::High);
    assert_eq!(streams.highest([]).unwrap(), Level::Unspecified);
    let summary = streams.summarize(vec![item("one"), item("three")]).unwrap();
    assert_eq!(summary, Summary { count: 2, longest: "three".to_owned() });
    streams.drain([Nothing {}; 3]).unwrap();
    // A stream that fails fails the call, with its error.
    let failing = Stream::from_results([Ok(item("one")), Err("no more".into())]);
    let error = streams.summarize(failing).unwrap_err();
    assert!(error.to_string().contains("no more"), "{error}");
}

#[test]
fn streams_go_both_ways_at_once() {
    let (streams, _told) = streams();
    let (sender, requests) = Stream::channel(1);
    let mut echo = streams.echo(requests).unwrap();
    for text in ["one", "two", "three"] {
        sender.send(item(text)).unwrap();
        assert_eq!(echo.next().unwrap().unwrap(), item(text));
    }
    drop(sender);
    assert!(echo.next().is_none());
    let texts = all(streams.texts(["a".to_owned(), String::new()]));
    assert_eq!(texts, ["a", ""], "an empty message is one");
}
