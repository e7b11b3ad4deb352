//! What a thread leaves behind that panics, with the connection's lock or with the role of reading.

use std::sync::atomic::{AtomicBool, Ordering};

use prost::DecodeError;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType};

use super::*;

/// A message whose encoding panics halfway.
#[derive(Debug)]
struct Unwritable;

impl prost::Message for Unwritable {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_u8(8);
        panic!("as a test");
    }

    fn encoded_len(&self) -> usize {
        2
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: WireType,
        _: &mut impl Buf,
        _: DecodeContext,
    ) -> Result<(), DecodeError> {
        unreachable!("nobody decodes it")
    }

    fn clear(&mut self) {}
}

#[test]
fn a_panic_under_the_lock_ends_the_connection_for_who_reads_and_who_waits() {
    let (link, mut other) = pair_with_features();
    let reading = spawn_call_for(&link, "one");
    other.next_request();
    wait_for(&link, "somebody to read", |state| state.leading.is_some());
    let waiting = spawn_call_for(&link, "two");
    other.next_request();
    wait_for(&link, "somebody to wait", |state| !state.waiters.is_empty());

    let unwound = panic::catch_unwind(AssertUnwindSafe(|| {
        link.call::<Unwritable>(&unary(&link), &Unwritable)
    }));
    assert!(unwound.is_err());

    for (called, who) in [(reading, "who reads"), (waiting, "who waits")] {
        let error = in_time(&called, who).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{who}: {error:?}");
        assert_eq!(error.delivery(), Delivery::MayHaveRun, "{who}: {error:?}");
        assert!(error.to_string().contains("panicked"), "{who}: {error}");
    }
    let error = link.call::<String>(&unary(&link), &text("late")).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Protocol, Delivery::NotSent));
}

#[test]
fn a_panic_under_the_lock_of_who_reads_ends_the_connection_too() {
    let (link, mut other) = pair_with_features();
    let (reading, armed) = (link.clone(), Arc::new(AtomicBool::new(false)));
    let panics = armed.clone();
    let panicked = spawn(move || {
        let unwound = panic::catch_unwind(AssertUnwindSafe(|| {
            let _ = reading.wait_until(reading.lock(), u64::MAX, &Patience::endless(), |_| {
                assert!(!panics.load(Ordering::Acquire), "as a test");
                None::<()>
            });
        }));
        unwound.is_err()
    });
    wait_for(&link, "it to read", |state| state.leading == Some(u64::MAX));
    let waiting = spawn_call_for(&link, "two");
    other.next_request();
    armed.store(true, Ordering::Release);
    // The reader looks again when this has come.
    other.core.open(&Opening { method: 1, ..Opening::default() }, Some(&text("news"))).unwrap();
    other.write_all();
    assert!(in_time(&panicked, "the reader to unwind"), "it has panicked");
    let error = in_time(&waiting, "who waits").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert_eq!(
        link.call::<String>(&unary(&link), &text("late")).unwrap_err().kind(),
        ErrorKind::Protocol
    );
}
