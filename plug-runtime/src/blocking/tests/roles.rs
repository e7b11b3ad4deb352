//! Who reads next.

use super::*;
use crate::protocol::Output;

/// The watcher ends calls whose time is over, also that of the thread which reads.
#[test]
fn who_reads_returns_when_the_watcher_has_ended_its_call() {
    // On a busy machine its time may be over before it is seen to read.
    let mut time = Duration::from_millis(100);
    while !is_ended_while_it_reads(time) {
        time *= 2;
        assert!(time < LONG, "the caller was never seen to read");
    }
}

/// Has the watcher end a call with a deadline while its thread reads. `false`: it has ended by itself before.
fn is_ended_while_it_reads(time: Duration) -> bool {
    let (link, _other) = pair();
    let caller = link.clone();
    let called = spawn(move || {
        let late = Instant::now() + time;
        let outbound = Outbound { deadline: Some(late), ..unary(&caller) };
        caller.call::<String>(&outbound, &text("never answered"))
    });
    let mut by_itself = None;
    wait_for(&link, "the caller to read", |state| {
        by_itself = called.try_recv().ok();
        by_itself.is_some() || state.leading.is_some()
    });
    // As the watcher does, a little early.
    let mut wakes = Wakes::default();
    let mut state = link.lock();
    let reads = state.leading.is_some();
    state.core.handle_timeout(Instant::now() + LONG, &mut Output::default());
    link.handle_events(&mut state, None, &mut wakes);
    drop(state);
    wakes.wake();
    let outcome = by_itself.unwrap_or_else(|| in_time(&called, "the call to end"));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Deadline);
    reads
}

/// Starting the sender takes a while without the lock.
#[test]
fn a_call_with_a_stream_learns_of_an_end_that_comes_while_its_sender_is_started() {
    for round in 0..20 {
        let (link, _other) = pair_with_features();
        let caller = link.clone();
        let (_sender, requests) = crate::Stream::<String>::channel(1);
        let called = spawn(move || {
            let (method, kind) = (2, crate::MethodKind::ClientStreaming);
            let outbound = Outbound { method, kind, ..unary(&caller) };
            caller.call_with_stream(&outbound, &mut Some(Box::new(requests)))
        });
        wait_for(&link, "the call to be made", |state| state.core.calls_made() == 1);
        link.end(&crate::Error::of_kind(ErrorKind::Exited, "the plugin is gone"));
        assert!(in_time(&called, &format!("the call to end in round {round}")).is_err());
    }
}

#[test]
fn who_is_told_to_read_and_has_what_it_waits_for_tells_the_next() {
    let (link, mut other) = pair_with_features();
    let leader = spawn_call(&link, text("leader"));
    let leading = other.next_request();
    wait_for(&link, "somebody to read", |state| state.reader.is_none());
    let kind = crate::MethodKind::ServerStreaming;
    let outbound = Outbound { kind, ..unary(&link) };
    let streamed = text("stream");
    let mut stream =
        link.call_streaming(&outbound, &mut super::super::Requests::One(&streamed)).unwrap();
    let streaming = other.next_request();
    // The lower the call, the sooner it is told.
    let (go, goes) = mpsc::channel::<()>();
    let _first = spawn(move || {
        let first = stream.next().is_some_and(|item| item.is_ok());
        // It does not come back for the next.
        let _ = goes.recv();
        drop(stream);
        first
    });
    wait_for(&link, "the reader of the stream", |state| state.waiters.len() == 1);
    let follower = spawn_call(&link, text("follower"));
    let following = other.next_request();
    wait_for(&link, "the follower", |state| state.waiters.len() == 2);
    wait_for(&link, "the watcher to rest", |state| state.ticking == Ticking::No);

    other.core.begin_responses(streaming.call);
    other.core.send(streaming.call, &prost::Message::encode_to_vec(&text("item"))).unwrap();
    other.core.reply(leading.call, answer("led"));
    other.write_all();
    assert_eq!(leader.join().unwrap().unwrap(), "led");
    wait_for(&link, "the item to be taken", |state| state.waiters.len() <= 1);
    other.core.reply(following.call, answer("followed"));
    other.write_all();
    let (sender, joined) = mpsc::channel();
    std::thread::spawn(move || sender.send(follower.join().unwrap()));
    assert_eq!(in_time(&joined, "the follower's reply").unwrap(), "followed");
    drop(go);
}

#[test]
fn an_end_beside_the_pipe_wakes_who_reads_with_a_deadline() {
    let (link, mut other) = pair();
    let caller = link.clone();
    let called = spawn(move || {
        let deadline = Some(Instant::now() + 3 * LONG);
        caller.call::<String>(&Outbound { deadline, ..unary(&caller) }, &text("never answered"))
    });
    other.next_request();
    wait_for(&link, "the caller to read", |state| state.leading.is_some());
    link.end(&crate::Error::of_kind(ErrorKind::Exited, "the plugin is gone"));
    assert_eq!(in_time(&called, "the call to end").unwrap_err().kind(), ErrorKind::Exited);
}

#[test]
fn who_begins_to_read_after_its_cancellation_was_heard_by_another_does_not_wait() {
    let (link, _other) = pair();
    let returned = spawn(move || {
        let token = crate::CancelToken::new();
        let tokens = [Some(token.clone()), None];
        let patience = Patience::new(&link, None, &tokens);
        token.cancel();
        link.bell().unwrap().silence();
        wait_for(&link, "the role", |state| state.reader.is_some());
        let mut state = link.lock();
        let mut lead = Lead::take(&link, &mut state, None).unwrap();
        drop(link.flush_and_read(state, &mut lead, &patience));
    });
    in_time(&returned, "the read to return");
}

#[test]
fn c4_a_cancelled_stream_tells_the_other_side_also_while_nobody_reads_it() {
    let (link, mut other) = pair_with_features();
    let token = crate::CancelToken::new();
    let kind = crate::MethodKind::ServerStreaming;
    let outbound = Outbound { kind, cancel: [Some(token.clone()), None], ..unary(&link) };
    let streamed = text("stream");
    let mut stream =
        link.call_streaming(&outbound, &mut super::super::Requests::One(&streamed)).unwrap();
    let request = other.next_request();
    token.cancel();
    other.read_until(|event| matches!(event, Event::Cancelled { call } if *call == request.call));
    let error = stream.next().expect("it ends with an error").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(stream.next().is_none());
}

/// A worker of the host reads, as it has just served a call, and what it reads lets the rest of a request go. It has
/// nothing more to do then, and the host has no other thread.
#[test]
fn what_a_worker_has_let_go_as_its_side_leaves_is_sent() {
    const METHODS: &[Method] = &[Method::unary("Call")];
    for round in 0..20 {
        let (link, mut other) =
            pair_serving(METHODS, |call| call.unary(|request: String| Ok(request)));
        let long = "x".repeat(300 << 10);
        link.call_one_way(&unary(&link), &long).unwrap();
        other.open_within(1, 0, "served");
        other.write_all();
        let (_, outcome) = other.next_outcome();
        outcome.unwrap();
        link.goodbye(Duration::from_secs(60));
        // With the leave to send the rest of it.
        let waiting = spawn(move || {
            while !matches!(other.core.poll_event(), Some(Event::Request(_))) {
                other.read_some();
                other.write_all();
            }
        });
        in_time(&waiting, &format!("the request of round {round}"));
    }
}
