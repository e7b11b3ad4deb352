//! Connections whose bytes are in memory, against another end that a test plays by hand.

use std::os::fd::AsRawFd as _;

use super::super::sharing::Wish;
use super::*;
use crate::protocol::MemoryOffer;
use crate::sys::memory::SharedMemory;
use crate::sys::ring::{self, End, RingReader, RingWriter};

/// The plugin's end of the memory, and the descriptor by which the host finds it.
struct Rings {
    reader: RingReader,
    writer: RingWriter,
    descriptor: OwnedFd,
}

const CAPACITY: u32 = 4 << 10;
const MARK: u64 = 7;

fn rings() -> Rings {
    let (descriptor, memory) = SharedMemory::new(ring::memory_len(CAPACITY)).unwrap();
    ring::set_mark(&memory, MARK);
    let (reader, writer) = ring::ends(Arc::new(memory), CAPACITY, End::Plugin);
    Rings { reader, writer, descriptor }
}

/// A host's link and the plugin's end, which know of memory.
fn able() -> (Arc<Link>, Other) {
    greeted(Hello::new(text("host"), String::new()).with_features(&["shm"]), None)
}

/// The same, with both directions in the memory.
fn moved() -> (Arc<Link>, Other, Rings) {
    let (link, mut other) = able();
    let rings = rings();
    ask(&link);
    assert!(other.agree_on(&rings).is_empty(), "nothing was asked");
    wait_for(&link, "the switch", |state| state.core.has_switched());
    (link, other, rings)
}

fn ask(link: &Arc<Link>) {
    let mut state = link.lock();
    state.wish_for_memory(Wish { pid: std::process::id(), replies: 0, may_poll: false });
    drop(link.flush_or_leave(state));
}

impl Other {
    /// Reads the pipe up to the switch of the host, offers memory on the way, and switches as well. Returns what was asked
    /// meanwhile.
    fn agree_on(&mut self, rings: &Rings) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut buffer = [0; 1 << 10];
        while !self.core.has_switched() {
            let until = Some(Instant::now() + LONG);
            assert!(pipe::wait(&[Wait::readable(&self.input)], until)[0], "waited for the switch");
            let len = pipe::read(&self.input, &mut buffer).unwrap();
            self.core.handle_bytes(&buffer[..len]);
            assert!(self.core.failure().is_none(), "{:?}", self.core.failure());
            while let Some(event) = self.core.poll_event() {
                match event {
                    Event::Request(request) => requests.push(request),
                    Event::MemoryWanted(_) => {
                        let descriptor = rings.descriptor.as_raw_fd().unsigned_abs();
                        let offer = MemoryOffer { descriptor, capacity: CAPACITY, mark: MARK };
                        self.core.offer_memory(Some(&offer));
                        self.write_all();
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        self.core.switch();
        self.write_all();
        requests
    }

    /// Takes what is in the memory, as a plugin does, until a request is whole.
    fn next_request_in(&mut self, rings: &mut Rings) -> Request {
        let mut buffer = [0; 1 << 10];
        let mut bytes = Vec::new();
        loop {
            while let Some(event) = self.core.poll_event() {
                if let Event::Request(request) = event {
                    return request;
                }
            }
            // It lets the host send the rest of a long one.
            self.write_in(rings, &mut bytes);
            let len = rings.reader.read(&mut buffer).unwrap();
            self.core.handle_bytes(&buffer[..len]);
            assert!(self.core.failure().is_none(), "{:?}", self.core.failure());
            if rings.reader.must_wake() {
                pipe::ring(&self.output);
            }
            if len == 0 && rings.reader.begin_to_wait() {
                let until = Some(Instant::now() + LONG);
                let ready = pipe::wait(&[Wait::readable(&self.input)], until);
                assert!(ready[0], "waited {LONG:?} for a bell");
                pipe::read(&self.input, &mut buffer).unwrap();
                rings.reader.end_waiting();
            }
        }
    }

    /// Writes what there is to say into the memory, as far as there is room, and rings.
    fn write_in(&mut self, rings: &mut Rings, bytes: &mut Vec<u8>) {
        bytes.append(&mut self.output());
        let written = rings.writer.write(bytes).unwrap();
        bytes.drain(..written);
        if rings.writer.must_wake() {
            pipe::ring(&self.output);
        }
    }
}

#[test]
fn a_call_and_its_reply_pass_through_the_memory() {
    let (link, mut other, mut rings) = moved();
    let called = spawn_call_for(&link, "one");
    let request = other.next_request_in(&mut rings);
    other.core.reply(request.call, answer("ONE"));
    other.write_in(&mut rings, &mut Vec::new());
    in_time(&called, "the call").unwrap();
}

/// What a thread that reads is never told by the other side: another thread has found out, and the watcher is asleep.
#[test]
fn x11_who_writes_and_finds_an_impossible_mark_wakes_who_reads() {
    let (link, mut other, mut rings) = moved();
    let reading = spawn_call_for(&link, "one");
    other.next_request_in(&mut rings);
    wait_for(&link, "somebody to read, and nobody to tick", |state| {
        state.leading.is_some() && state.ticking == Ticking::No
    });
    rings.reader.claim_to_have_read(1 << 31);
    // More than there is room for as far as is known, so that it looks.
    let waiting = spawn_call_for(&link, &"x".repeat(2 * CAPACITY as usize));
    for (called, who) in [(reading, "who reads"), (waiting, "who writes")] {
        let error = in_time(&called, who).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{who}: {error:?}");
    }
    drop(other);
}

#[test]
fn a_long_message_waits_for_room_also_where_nobody_reads_here() {
    let (link, mut other, mut rings) = moved();
    let long = "x".repeat(100 * CAPACITY as usize);
    link.call_one_way(&unary(&link), &long).unwrap();
    assert!(other.next_request_in(&mut rings).message.len() > long.len());
    // Nor does it keep the watcher awake.
    wait_for(&link, "nobody to tick", |state| state.ticking == Ticking::No);
}

/// Both sides have more to say than there is room for, and the other one says all before it listens.
#[test]
fn c1_two_full_rings_do_not_wait_for_each_other() {
    let (link, mut other, mut rings) = moved();
    let long = "x".repeat(20 * CAPACITY as usize);
    let first = spawn_call_for(&link, "short");
    let request = other.next_request_in(&mut rings);
    let second = spawn_call_for(&link, &long);
    other.core.reply(request.call, answer(&long));
    let until = Instant::now() + LONG;
    let mut bytes = Vec::new();
    other.write_in(&mut rings, &mut bytes);
    while !bytes.is_empty() {
        assert!(Instant::now() < until, "waited {LONG:?} for room");
        other.write_in(&mut rings, &mut bytes);
        std::thread::yield_now();
    }
    assert!(in_time(&first, "the first").unwrap().len() > long.len());
    let request = other.next_request_in(&mut rings);
    assert!(request.message.len() > long.len());
    other.core.reply(request.call, answer("done"));
    other.write_in(&mut rings, &mut bytes);
    in_time(&second, "the second").unwrap();
}

/// Part of a message is in the pipe, which is full, and part of it was taken to be written, when the memory is agreed on.
#[test]
fn v9_what_was_begun_in_the_pipe_goes_on_in_the_memory() {
    let (link, mut other) = able();
    let long = "x".repeat(100 << 10);
    let mut called = vec![spawn_call_for(&link, &long)];
    let until = Some(Instant::now() + LONG);
    assert!(pipe::wait(&[Wait::readable(&other.input)], until)[0], "waited for the first bytes");
    ask(&link);
    called.extend((0..4).map(|_| spawn_call_for(&link, &long)));
    let mut rings = rings();
    let mut requests = other.agree_on(&rings);
    while requests.len() < called.len() {
        requests.push(other.next_request_in(&mut rings));
    }
    let mut bytes = Vec::new();
    for request in requests {
        assert!(request.message.len() > long.len());
        other.core.reply(request.call, answer("done"));
        other.write_in(&mut rings, &mut bytes);
        assert!(bytes.is_empty(), "there is room for a few words");
    }
    for call in called {
        in_time(&call, "a call").unwrap();
    }
}

/// A process that ends waits for room, but not for somebody who is gone: memory does not break, as a pipe does.
#[test]
fn v9_the_end_does_not_wait_for_room_that_nobody_will_make() {
    let (link, other, rings) = moved();
    link.call_one_way(&unary(&link), &"x".repeat(10 * CAPACITY as usize)).unwrap();
    let same = link.clone();
    let ended = spawn(move || same.flush_to_the_end());
    assert!(ended.recv_timeout(Duration::from_millis(50)).is_err(), "there is no room");
    drop(other);
    in_time(&ended, "the end of the flush");
    drop(rings);
}

/// Nobody can have taken what was written for somebody who is gone.
#[test]
fn v9_a_call_to_who_waited_and_is_gone_was_not_sent() {
    let (link, mut other, mut rings) = moved();
    let called = spawn_call_for(&link, "one");
    other.next_request_in(&mut rings);
    assert!(rings.reader.begin_to_wait());
    let Other { input, output, .. } = other;
    drop(input);
    let late = spawn_call_for(&link, "two");
    wait_for(&link, "the output to be closed", |state| {
        state.writer.as_ref().is_some_and(|writer| writer.output.is_none())
    });
    drop(output);
    let error = in_time(&called, "the call that was taken").unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Shutdown, Delivery::MayHaveRun));
    let error = in_time(&late, "the call that was not").unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Shutdown, Delivery::NotSent));
}
