//! Streams that are sent.

use std::sync::OnceLock;
use std::task::{Poll, Waker};

use super::*;
use crate::encoding::Encoded;
use crate::stream::Outgoing;

/// A source without items, which says when it is asked for one, and waits to answer.
struct Slow {
    asked: mpsc::Sender<()>,
    go: mpsc::Receiver<()>,
}

impl Outgoing for Slow {
    fn poll_message(&mut self, _: &Waker, _: &mut Encoded) -> Poll<Option<crate::Result<()>>> {
        let _ = self.asked.send(());
        let _ = self.go.recv_timeout(3 * LONG);
        Poll::Pending
    }
}

fn spawn_stream(link: &Arc<Link>, source: Slow) -> mpsc::Receiver<crate::Result<bytes::Bytes>> {
    let link = link.clone();
    spawn(move || {
        let (method, kind) = (2, crate::MethodKind::ClientStreaming);
        link.call_with_stream(
            &Outbound { method, kind, ..unary(&link) },
            &mut Some(Box::new(source)),
        )
    })
}

#[test]
fn a_source_that_is_asked_while_its_call_ends_and_has_nothing_is_dropped() {
    let (link, mut other) = pair_with_features();
    let (asked, is_asked) = mpsc::channel();
    let (go, goes) = mpsc::channel();
    let called = spawn_stream(&link, Slow { asked, go: goes });
    in_time(&is_asked, "the source to be asked");
    let request = other.next_request();
    other.core.reply(request.call, answer("enough"));
    other.write_all();
    in_time(&called, "the call to end").unwrap();
    go.send(()).unwrap();
    wait_for(&link, "the stream to be forgotten", |state| state.pumps.is_empty());
    let end = is_asked.recv_timeout(LONG).unwrap_err();
    assert_eq!(end, mpsc::RecvTimeoutError::Disconnected, "it is kept");
}

#[test]
fn streams_that_wait_keep_no_thread_from_another_stream_however_few_calls_are_served() {
    let mut hello = Hello::new(text("host"), String::new()).with_features(&[]);
    hello.max_calls = 1;
    let (link, _other) = greeted(hello, None);
    let (asked, is_asked) = mpsc::channel();
    let mut held = Vec::new();
    for _ in 0..4 {
        let (go, goes) = mpsc::channel();
        let called = spawn_stream(&link, Slow { asked: asked.clone(), go: goes });
        held.push((go, called));
    }
    for stream in 0..4 {
        in_time(&is_asked, &format!("the stream {stream} to begin"));
    }
    link.end(&crate::Error::of_kind(ErrorKind::Exited, "the test is over"));
    for (go, called) in held {
        go.send(()).unwrap();
        assert!(in_time(&called, "the call to end").is_err());
    }
}

/// A worker that has written so much that a stream may go on does so, and does not sleep before. Nobody would wake it.
#[test]
fn a_stream_goes_on_once_there_is_room() {
    const METHODS: &[Method] = &[Method::server_streaming("Watch")];
    let items = || crate::Stream::new((0..5000).map(|_| vec![7; 1000]));
    let (link, served, mut other) =
        unwatched_plugin(METHODS, move |call| call.server_streaming(|()| Ok(items())));
    let opening = Opening { method: 1, streams_responses: true, ..Opening::default() };
    other.core.open(&opening, Some(&())).unwrap();
    other.write_all();
    wait_for(&link, "the pipe to be full", |state| {
        state.reader.is_none() && state.writer.is_none()
    });
    let mut arrived = 0;
    loop {
        match other
            .read_until(|event| matches!(event, Event::Messages { .. } | Event::Reply { .. }))
        {
            Event::Messages { call, messages, cost } => {
                arrived += messages.split(cost).len();
                other.core.consume(call, cost);
                if other.core.has_output() {
                    other.write_all();
                }
            }
            Event::Reply { outcome, .. } => {
                outcome.unwrap();
                break;
            }
            other => unreachable!("{other:?}"),
        }
    }
    assert_eq!(arrived, 5000);
    drop(other);
    in_time(&served, "the plugin to end");
}

/// It would write for the stream as long as that goes on, a few items at a time, and do nothing of its own.
#[test]
fn who_writes_leaves_to_a_stream_what_that_has_queued_since() {
    const METHODS: &[Method] = &[Method::server_streaming("Watch")];
    let (is_queued, queued) = mpsc::channel();
    let (go_on, gate) = gate();
    let known: Arc<OnceLock<Arc<Link>>> = Arc::default();
    let source = (is_queued, gate, known.clone());
    let source = Mutex::new(Some(source));
    let (link, served, mut other) = unwatched_plugin(METHODS, move |call| {
        let (is_queued, gate, known) = source.lock().unwrap().take().expect("it is called once");
        // The first is written at once, and so are others that do not come close behind.
        let items = std::iter::from_fn(move || {
            if !known.get()?.lock().can_wait {
                return Some(vec![7; 10]);
            }
            is_queued.send(()).unwrap();
            pass(&gate);
            None
        });
        call.server_streaming(|()| Ok(crate::Stream::new(items)))
    });
    assert!(known.set(link.clone()).is_ok());
    let opening = Opening { method: 1, streams_responses: true, ..Opening::default() };
    other.core.open(&opening, Some(&())).unwrap();
    other.write_all();
    in_time(&queued, "an item that came close behind another");

    let mut state = link.lock();
    let before = state.core.sent();
    let writer = state.writer.take().expect("nobody writes");
    let (mut state, _) = link.write_all(state, writer, usize::MAX);
    assert_eq!(state.core.sent(), before, "it was written by a thread that wrote something else");
    // What another thread wants written while this one writes is for this one.
    let writer = state.writer.take().expect("it was given back");
    state.core.ping(&[]).unwrap();
    let state = link.flush_or_leave(state);
    let (state, _) = link.write_all(state, writer, usize::MAX);
    assert!(!state.core.has_output(), "it was left, and nobody comes for it");
    drop(state);
    go_on.send(()).unwrap();
    other.read_until(|event| matches!(event, Event::Reply { .. }));
    drop((known, other));
    in_time(&served, "the plugin to end");
}
