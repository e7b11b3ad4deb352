//! What users' values do when they are dropped.

use std::task::{Poll, Waker};

use bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};

use super::*;
use crate::blocking::roles::Bulk;
use crate::encoding::Encoded;
use crate::stream::Outgoing;

/// A source that calls over its own connection when it is dropped.
struct Caller {
    link: Arc<Link>,
    called: mpsc::Sender<crate::Result<String>>,
}

impl Outgoing for Caller {
    fn poll_message(&mut self, _: &Waker, _: &mut Encoded) -> Poll<Option<crate::Result<()>>> {
        Poll::Pending
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let outcome = spawn_call(&self.link, text("last words")).join().unwrap();
        let _ = self.called.send(outcome);
    }
}

#[test]
fn who_reads_for_all_does_not_wait_for_what_it_drops() {
    let (link, mut other) = pair_with_features();
    let leader = spawn_call(&link, text("leader"));
    let leading = other.next_request();
    wait_for(&link, "somebody to read", |state| state.leading == Some(leading.call));
    let (called, is_called) = mpsc::channel();
    let source = Caller { link: link.clone(), called };
    let streaming = link.clone();
    let streamed = spawn(move || {
        let (method, kind) = (2, crate::MethodKind::ClientStreaming);
        streaming.call_with_stream(
            &Outbound { method, kind, ..unary(&streaming) },
            &mut Some(Box::new(source)),
        )
    });
    let stream = other.next_request();
    wait_for(&link, "the source to have nothing", |state| {
        !state.pumps.is_empty() && !state.workers.is_busy() && !state.workers.has_queue()
    });
    other.core.reply(stream.call, answer("enough"));
    other.write_all();
    in_time(&streamed, "the call to end").unwrap();
    let last = other.next_request();
    other.core.reply(last.call, answer("heard"));
    other.write_all();
    assert_eq!(in_time(&is_called, "the source to be dropped").unwrap(), "heard");
    other.core.reply(leading.call, answer("led"));
    other.write_all();
    assert_eq!(leader.join().unwrap().unwrap(), "led");
}

/// As when the process of a plugin has ended that nobody holds any more.
#[test]
fn what_is_served_is_not_dropped_on_the_watcher() {
    struct Service(mpsc::Sender<std::thread::ThreadId>);
    impl Drop for Service {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().id());
        }
    }
    const METHODS: &[Method] = &[Method::unary("Call")];
    let (dropped, is_dropped) = mpsc::channel();
    let service = Service(dropped);
    let (link, _other) = pair_serving(METHODS, move |call| {
        let _ = &service;
        call.unary(|request: String| Ok(request))
    });
    wait_for(&link, "the watcher to rest", |state| state.ticking == Ticking::No);
    watcher::IS_WATCHER.set(true);
    drop(link);
    watcher::IS_WATCHER.set(false);
    let id = in_time(&is_dropped, "the service to be dropped");
    assert_ne!(id, std::thread::current().id());
}

/// A request that says when it is dropped.
#[derive(Debug)]
struct Given {
    text: String,
    dropped: mpsc::Sender<()>,
}

impl Message for Given {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        self.text.encode_raw(buffer);
    }

    fn encoded_len(&self) -> usize {
        self.text.encoded_len()
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: WireType,
        _: &mut impl Buf,
        _: DecodeContext,
    ) -> std::result::Result<(), DecodeError> {
        unreachable!("it is only sent")
    }

    fn clear(&mut self) {}
}

impl Drop for Given {
    fn drop(&mut self) {
        let _ = self.dropped.send(());
    }
}

#[test]
fn a_long_request_that_is_given_away_is_dropped_before_its_response_comes() {
    let (link, mut other) = pair_with_features();
    let (dropped, is_dropped) = mpsc::channel();
    let request = Given { text: "x".repeat(crate::protocol::LONG), dropped };
    let calling = link.clone();
    let called = spawn(move || calling.call::<Given>(&unary(&calling), request));
    let arrived = other.next_request();
    assert!(arrived.message.len() > crate::protocol::LONG);
    in_time(&is_dropped, "the request to be dropped");
    other.core.reply(arrived.call, answer("late"));
    other.write_all();
    in_time(&called, "the response").unwrap();
}

/// Memory of a user's, which calls over a connection when nobody refers to it any more.
struct Memory {
    bytes: Vec<u8>,
    link: Arc<Link>,
    called: mpsc::Sender<(Option<String>, crate::Result<String>)>,
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let outcome = spawn_call(&self.link, text("last words")).join().unwrap();
        let thread = std::thread::current().name().map(str::to_owned);
        let _ = self.called.send((thread, outcome));
    }
}

/// A call whose caller does not wait until its request is sent, which the connection refers to then.
fn impatient(link: &Arc<Link>) -> mpsc::Receiver<(Option<String>, crate::Result<String>)> {
    // The pipe goes on to hold little.
    link.lock().writer.as_mut().unwrap().bulk = Bulk::Over;
    let (called, is_called) = mpsc::channel();
    let bytes = vec![7; 200 << 10];
    let request = bytes::Bytes::from_owner(Memory { bytes, link: link.clone(), called });
    let deadline = Some(Instant::now() + Duration::from_millis(10));
    let outcome = link.call::<bytes::Bytes>(&Outbound { deadline, ..unary(link) }, &request);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Deadline);
    drop(request);
    assert!(is_called.try_recv().is_err(), "the rest of it is to be sent");
    is_called
}

#[test]
fn memory_of_a_user_is_given_back_once_it_was_sent_where_it_may_call() {
    let (link, mut other) = pair_with_features();
    let is_called = impatient(&link);
    // Nobody but the watcher is there to write the rest.
    let sent = other.next_request();
    assert!(sent.message.len() > 200 << 10);
    let last = other.next_request();
    other.core.reply(last.call, answer("heard"));
    other.write_all();
    let (thread, outcome) = in_time(&is_called, "the memory to be given back");
    assert_eq!(outcome.unwrap(), "heard");
    assert_eq!(thread.as_deref(), Some("plug-worker"));
}

#[test]
fn memory_of_a_user_is_given_back_when_the_connection_ends() {
    let (link, other) = pair_with_features();
    let is_called = impatient(&link);
    drop(other);
    let (thread, outcome) = in_time(&is_called, "the memory to be given back");
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Shutdown);
    assert_eq!(thread.as_deref(), Some("plug-worker"));
}

/// Memory of a user's that says by whom it is dropped.
struct Told {
    bytes: Vec<u8>,
    link: std::sync::Weak<Link>,
    told: mpsc::Sender<Dropped>,
}

/// Whether the connection's lock was held, and by which thread.
struct Dropped {
    is_locked: bool,
    is_watcher: bool,
    thread: std::thread::ThreadId,
}

impl AsRef<[u8]> for Told {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        // Another thread may have it for a moment. This one would not let it go.
        let has_lock = |link: Arc<Link>| {
            (0..1000).all(|_| {
                std::thread::yield_now();
                link.state.try_lock().is_err()
            })
        };
        let is_locked = self.link.upgrade().is_some_and(has_lock);
        let thread = std::thread::current().id();
        let _ = self.told.send(Dropped { is_locked, is_watcher: watcher::is_current(), thread });
    }
}

fn telling(link: &Arc<Link>, len: usize) -> (bytes::Bytes, mpsc::Receiver<Dropped>) {
    let (told, is_told) = mpsc::channel();
    let memory = Told { bytes: vec![7; len], link: Arc::downgrade(link), told };
    (bytes::Bytes::from_owner(memory), is_told)
}

/// What is left of it after its last whole fragment is short, and no copy of ours.
#[test]
fn the_end_of_a_users_memory_is_not_dropped_under_the_lock() {
    let (link, mut other) = pair_with_features();
    let (request, is_told) = telling(&link, (256 << 10) + 100);
    link.call_one_way(&unary(&link), &request).unwrap();
    drop(request);
    let granting = spawn(move || {
        while !matches!(other.core.poll_event(), Some(Event::Request(_))) {
            other.read_some();
            other.write_all();
        }
        other
    });
    let _other = in_time(&granting, "the request to arrive");
    let Dropped { is_locked, is_watcher, .. } = in_time(&is_told, "the memory to be given back");
    assert!(!is_locked && !is_watcher, "locked: {is_locked}, by the watcher: {is_watcher}");
}

/// A call that nobody waits for, of which most is still to be written.
fn half_sent(link: &Arc<Link>) -> mpsc::Receiver<Dropped> {
    link.lock().writer.as_mut().unwrap().bulk = Bulk::Over;
    let (request, is_told) = telling(link, 200 << 10);
    link.call_one_way(&unary(link), &request).unwrap();
    drop(request);
    assert!(is_told.try_recv().is_err(), "the rest of it is to be sent");
    wait_for(link, "the watcher to rest", |state| state.ticking == Ticking::No);
    is_told
}

#[test]
fn memory_that_was_to_be_sent_is_not_dropped_on_the_watcher() {
    let (link, _other) = pair_with_features();
    let is_told = half_sent(&link);
    let dropping = spawn(move || {
        watcher::IS_WATCHER.set(true);
        drop(link);
    });
    in_time(&dropping, "it to be dropped");
    assert!(!in_time(&is_told, "the memory to be given back").is_watcher);
}

/// Somebody else holds the pipes, so that they have not ended, and the connection is still known.
#[test]
fn memory_that_was_to_be_sent_is_given_back_when_the_process_has_ended() {
    let (link, _other) = pair_with_features();
    let is_told = half_sent(&link);
    link.end(&crate::Error::of_kind(ErrorKind::Exited, "gone"));
    link.unwatch();
    assert!(!in_time(&is_told, "the memory to be given back").is_watcher);
}

#[test]
fn the_memory_of_one_caller_is_not_dropped_in_the_call_of_another() {
    let (link, mut other) = pair_with_features();
    let leader = spawn_call(&link, text("leader"));
    let id = leader.thread().id();
    let leading = other.next_request();
    wait_for(&link, "somebody to read", |state| state.leading == Some(leading.call));
    let (request, is_told) = telling(&link, 100 << 10);
    let calling = link.clone();
    let called = spawn(move || calling.call_one_way(&unary(&calling), &request));
    other.next_request();
    in_time(&called, "the call to be made").unwrap();
    other.core.reply(leading.call, answer("led"));
    other.write_all();
    leader.join().unwrap().unwrap();
    assert_ne!(in_time(&is_told, "the memory to be given back").thread, id);
}

/// Nobody gives the role of reading back meanwhile.
#[test]
fn memory_is_given_back_while_somebody_waits_for_a_reply() {
    let (link, mut other) = pair_with_features();
    let leader = spawn_call(&link, text("leader"));
    let leading = other.next_request();
    wait_for(&link, "somebody to read", |state| state.leading == Some(leading.call));
    wait_for(&link, "the watcher to rest", |state| state.ticking == Ticking::No);
    for one_way in [false, true] {
        let (request, is_told) = telling(&link, 100 << 10);
        let calling = link.clone();
        let called = spawn(move || match one_way {
            true => calling.call_one_way(&unary(&calling), &request),
            false => calling.call::<bytes::Bytes>(&unary(&calling), &request).map(drop),
        });
        let request = other.next_request();
        other.core.reply(request.call, answer("done"));
        other.write_all();
        in_time(&called, "the call to end").unwrap();
        let dropped = in_time(&is_told, "the memory to be given back");
        assert!(!dropped.is_locked && !dropped.is_watcher, "one-way: {one_way}");
    }
    other.core.reply(leading.call, answer("led"));
    other.write_all();
    leader.join().unwrap().unwrap();
}

#[test]
fn two_drops_that_panic_at_once_end_nothing() {
    struct Panics(Vec<u8>);
    impl AsRef<[u8]> for Panics {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("as a test");
        }
    }
    let mut wakes = Wakes::default();
    for _ in 0..2 {
        wakes.errand().parts.push(bytes::Bytes::from_owner(Panics(vec![7; 10])));
    }
    wakes.wake();
}
