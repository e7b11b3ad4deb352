//! R10: a host whose memory runs out while a long message arrives. A binary of its own, for its allocator.

#![allow(unsafe_code, reason = "an allocator that fails can only be had so")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use plug::prost::Message as _;
use plug::{Code, Command, Delivery, Error, ErrorKind, Proxy as _};
use plug_faults::flow::{AskRequest, FlowProxy, HomeService, House};

// ---- an allocator that fails

struct Failing;

/// How many large allocations succeed yet.
static LEFT: AtomicIsize = AtomicIsize::new(isize::MAX);

/// Larger than what anything here takes but a long message and its frames.
const LARGE: usize = 32 << 10;

fn fails(size: usize) -> bool {
    size > LARGE && LEFT.fetch_sub(1, Ordering::Relaxed) <= 0
}

// SAFETY: it does what `System` does, with the same arguments, or gives nothing and leaves what there was as it was.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if fails(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

// ---- the tests

/// The length of the messages: some fragments.
const LONG: usize = 1 << 20;

fn load() -> FlowProxy {
    let command = Command::new(env!("CARGO_BIN_EXE_flowing"));
    command.serve::<HomeService>(Arc::new(House::default())).load().unwrap().proxy().unwrap()
}

/// Has the large allocations of a call fail from each on in turn: where one fails, another way may be tried. `is_expected`
/// is how the call may fail alone.
fn fail_each(call: impl Fn(&FlowProxy) -> plug::Result<()>, is_expected: impl Fn(&Error) -> bool) {
    // What is read once, and kept.
    call(&load()).unwrap();
    let (mut alone, mut ended, mut spared) = (0, 0, 0);
    for nth in 1.. {
        assert!(nth < 10_000, "there is no end of large allocations");
        // One that has carried a long message has memory for the next.
        let mut flow = load();
        LEFT.store(nth - 1, Ordering::Relaxed);
        let outcome = call(&flow);
        let is_through = LEFT.swap(isize::MAX, Ordering::Relaxed) >= 0;
        match outcome {
            Ok(()) if is_through => {}
            // The larger buffer for reading, which it can do without.
            Ok(()) => spared += 1,
            Err(error) => {
                assert!(error.message().contains("no memory left"), "{nth}: {error:?}");
                assert_eq!(error.code(), Code::ResourceExhausted, "{nth}: {error:?}");
                if error.kind() == ErrorKind::Shutdown {
                    ended += 1;
                    flow = load();
                } else {
                    assert!(is_expected(&error), "{nth}: {error:?}");
                    alone += 1;
                }
            }
        }
        call(&flow).unwrap_or_else(|error| panic!("the call after {nth}: {error:?}"));
        if is_through {
            println!(
                "{alone} calls have failed alone, {ended} with their connection, {spared} not"
            );
            assert!(alone > 0 && ended > 0, "{alone} alone, {ended} with their connection");
            assert!(spared <= 1, "{spared} allocations have failed, and the calls have not");
            return;
        }
    }
}

#[test]
fn r10_a_host_without_memory_for_a_message_fails_its_call() {
    let request = AskRequest { what: format!("sing {LONG}") }.encode_to_vec();
    fail_each(
        |flow| {
            // It is not decoded: that takes memory, too.
            let response = flow.peer().call("flow.Flow/Ask", &request)?;
            assert!(response.len() > LONG);
            Ok(())
        },
        |error| (error.kind(), error.delivery()) == (ErrorKind::TooLarge, Delivery::MayHaveRun),
    );

    fail_each(
        |flow| flow.ask(format!("shout {LONG}")).map(drop),
        // As the plugin's handler has learnt it.
        |error| error.kind() == ErrorKind::Status,
    );
}
