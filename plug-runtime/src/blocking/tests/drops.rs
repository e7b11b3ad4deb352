//! What users' values do when they are dropped.

use std::task::{Poll, Waker};

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
    wait_for(&link, "the watcher to rest", |state| !state.ticking);
    watcher::IS_WATCHER.set(true);
    drop(link);
    watcher::IS_WATCHER.set(false);
    let id = in_time(&is_dropped, "the service to be dropped");
    assert_ne!(id, std::thread::current().id());
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
    let outcome = link.call(&Outbound { deadline, ..unary(link) }, &request);
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
