//! What users' values do when they are dropped.

use std::task::{Poll, Waker};

use super::*;
use crate::stream::Outgoing;

/// A source that calls over its own connection when it is dropped.
struct Caller {
    link: Arc<Link>,
    called: mpsc::Sender<crate::Result<String>>,
}

impl Outgoing for Caller {
    fn poll_message(&mut self, _: &Waker, _: &mut Vec<u8>) -> Poll<Option<crate::Result<()>>> {
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
