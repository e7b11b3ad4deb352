//! Long frames of which a part was read by one thread, and the rest by another.

use super::*;

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
        state.active = true;
        let reader = lead.reader.as_mut().unwrap();
        reader.borrow(&mut state.core);
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
        calling.call(&Outbound { deadline, ..unary(&calling) }, &text("leader"))
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
