//! Long frames of which a part was read by one thread, and the rest by another.

use super::*;
use crate::blocking::roles::Bulk;
use crate::error::Error;

/// A reply that is one long frame, in two halves. A reader comes to where it lands after the first few KiB.
fn halves(other: &mut Other, request: &Request, text: &str) -> [Vec<u8>; 2] {
    other.core.reply(request.call, answer(text));
    let mut first = other.output();
    let second = first.split_off(first.len() / 2);
    [first, second]
}

#[test]
fn m2_who_panics_while_a_long_frame_lands_leaves_it_to_the_next() {
    let (link, mut other) = pair();
    let long = "long".repeat(40 << 10);
    let mut state = link.lock();
    let mut lead = Lead::take(&link, &mut state, None).unwrap();
    drop(state);
    let caller = spawn_call(&link, text("one"));
    let request = other.next_request();
    let [first, second] = halves(&mut other, &request, &long);
    // The pipe holds little.
    let writing = spawn(move || {
        other.write(&first);
        other
    });
    let unwound = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut state = link.lock();
        while !state.core.has_place() {
            state = link.flush_and_read(state, &mut lead, &Patience::endless());
        }
        state.note_activity();
        let reader = lead.reader.as_mut().unwrap();
        reader.borrow(&mut state.core, &link.input);
        assert!(reader.place.is_some(), "it is lent");
        drop(state);
        let _held = lead;
        panic!("as a test");
    }));
    assert!(unwound.is_err());
    let other = in_time(&writing, "the first half to be read");
    other.write(&second);
    assert_eq!(caller.join().unwrap().unwrap(), long);
}

#[test]
fn m2_whose_time_is_over_while_a_long_frame_lands_leaves_it_to_the_next() {
    let (link, mut other) = pair_with_features();
    let long = "long".repeat(40 << 10);
    let calling = link.clone();
    let leader = spawn(move || {
        let deadline = Some(Instant::now() + Duration::from_millis(100));
        calling.call::<String>(&Outbound { deadline, ..unary(&calling) }, &text("leader"))
    });
    let leading = other.next_request();
    wait_for(&link, "somebody to read", |state| state.leading == Some(leading.call));
    let caller = spawn_call(&link, text("one"));
    let request = other.next_request();
    let [first, second] = halves(&mut other, &request, &long);
    other.write(&first);
    let outcome = in_time(&leader, "the time to be over");
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Deadline);
    assert!(link.lock().core.is_truncated());
    other.write(&second);
    assert_eq!(caller.join().unwrap().unwrap(), long);
}

#[test]
fn the_byte_that_wakes_a_reader_completes_no_frame_that_lands() {
    let (link, mut other) = pair();
    let caller = spawn_call(&link, text("one"));
    let request = other.next_request();
    other.core.reply(request.call, answer(&"long".repeat(40 << 10)));
    let mut reply = other.output();
    reply.pop();
    other.write(&reply);
    wait_for(&link, "all but the last byte to land", |state| {
        let has_all = pipe::readable_bytes(&link.input) == 0;
        state.reader.is_none() && state.core.has_place() && has_all
    });
    link.end(&Error::of_kind(ErrorKind::Shutdown, "as a test"));
    assert_eq!(caller.join().unwrap().unwrap_err().kind(), ErrorKind::Shutdown);
}

/// A pipe is made to hold more by who sees that it carries much, which no short call shows.
#[cfg(target_os = "linux")]
#[test]
fn pipes_that_carry_much_hold_more() {
    let (link, mut other) = pair();
    let holds = |fd: &OwnedFd| rustix::pipe::fcntl_getpipe_size(fd).unwrap();
    let before = [holds(&other.input), holds(&other.output)];
    let is_grown = |bulk: &Bulk| match bulk {
        Bulk::Unseen => None,
        Bulk::Seen { grown } => Some(grown.is_some()),
        Bulk::Over => panic!("nothing is closed"),
    };
    let mut call = |request: String| {
        let caller = spawn_call(&link, request);
        let request = other.next_request();
        let length = request.message.len();
        let text = "x".repeat(length);
        other.core.reply(request.call, answer(&text));
        let bytes = other.output();
        let writing = std::thread::scope(|scope| {
            scope.spawn(|| other.write(&bytes));
            caller.join().unwrap().unwrap()
        });
        assert_eq!(writing.len(), length);
        let state = link.lock();
        let roles = (state.reader.as_ref().unwrap(), state.writer.as_ref().unwrap());
        [is_grown(&roles.1.bulk), is_grown(&roles.0.bulk)]
    };
    assert_eq!(call(text("short")), [None, None]);
    let grown = call("long".repeat(50 << 10));
    let after = [holds(&other.input), holds(&other.output)];
    for (pipe, grown) in grown.into_iter().enumerate() {
        // Other tests may have as many as may be.
        let grown = grown.expect("it carried much");
        assert_eq!(after[pipe] > before[pipe], grown, "{pipe}");
    }
}
