//! Memory of users in messages that are sent: it is handed out to be dropped, and never dropped by the core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::model::{Shape, streams_hello};
use super::*;
use crate::protocol::FRAGMENT;

/// Memory that tells when it is dropped.
struct Owner(Bytes, Arc<AtomicBool>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

fn owned(bytes: Bytes) -> (Bytes, impl Fn() -> bool) {
    let is_dropped = Arc::new(AtomicBool::new(false));
    let owner = Owner(bytes, is_dropped.clone());
    (Bytes::from_owner(owner), move || is_dropped.load(Ordering::Relaxed))
}

/// A host that waits for a response, in its call 1.
fn waiting() -> Connection {
    let mut host = streaming(streams_hello(), streams_hello()).host;
    host.open(&Shape::Unary.opening(), Some(&text("k"))).unwrap();
    output(&mut host);
    host
}

/// Takes all that there is to be sent, and says that it was written.
fn send_all(connection: &mut Connection) {
    while connection.has_output() {
        let mut output = Output::default();
        connection.poll_output(&mut output);
        let len = output.len();
        connection.advance(&mut output, len);
    }
}

#[test]
fn the_end_of_a_users_memory_is_handed_out_however_short_it_is() {
    let mut host = waiting();
    let (request, is_dropped) = owned(vec![7; FRAGMENT + 100].into());
    let call = host.open(&Shape::Unary.opening(), Some(&request)).unwrap();
    drop(request);
    send_all(&mut host);
    drop(host.take_dropped());
    assert!(!is_dropped(), "the rest waits for a grant");
    host.handle_bytes(&bytes(&[credit(call, 1 << 20)]));
    send_all(&mut host);
    assert!(!is_dropped(), "it was dropped by the core");
    assert_eq!(host.take_dropped_of(1).len(), 0, "it is another call's");
    drop(host.take_dropped_of(call));
    assert!(is_dropped() && !host.has_dropped());
}

/// It lies in memory that is kept for the next message.
#[test]
fn what_a_user_has_made_of_a_message_is_handed_out() {
    let mut host = waiting();
    host.handle_bytes(&bytes(&[end(1, &[7; 128 << 10])]));
    let Some(Event::Reply { outcome: Ok(message), .. }) = host.poll_event() else {
        panic!("there is no reply")
    };
    let (request, is_dropped) = owned(message.slice(100..));
    drop(message);
    host.open(&Shape::Unary.opening(), Some(&request)).unwrap();
    drop(request);
    send_all(&mut host);
    assert!(!is_dropped(), "it was dropped by the core");
    drop(host.take_dropped());
    assert!(is_dropped());
}

#[test]
fn what_is_not_sent_after_all_is_handed_out() {
    for is_taken in [false, true] {
        let mut host = waiting();
        let (request, is_dropped) = owned(vec![7; 2 * FRAGMENT].into());
        host.open(&Shape::Unary.opening(), Some(&request)).unwrap();
        drop(request);
        let mut taken = Output::default();
        if is_taken {
            host.poll_output(&mut taken);
        }
        host.discard_unsent(&mut taken);
        assert!(!is_dropped(), "it was dropped by the core");
        drop(host.take_dropped());
        assert!(is_dropped(), "taken: {is_taken}");
    }
}
