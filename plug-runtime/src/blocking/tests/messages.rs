//! Streams that arrive.

use bytes::Buf;

use super::super::Requests;
use super::*;

/// Of many messages that have come together, a reader takes all at once.
#[test]
fn what_has_come_with_the_last_message_that_is_read_is_given_back_when_its_reader_stops() {
    let mut hello = Hello::new(text("host"), String::new()).with_features(&[]);
    (hello.stream_window, hello.connection_window) = (4 << 10, 4 << 10);
    let (link, mut other) = greeted(hello, None);
    for round in 0..10 {
        let outbound = Outbound { kind: crate::MethodKind::ServerStreaming, ..unary(&link) };
        let requests = &mut Requests::One(&text("stream"));
        let mut stream = link.call_streaming(&outbound, requests).unwrap();
        let call = other.next_request().call;
        other.core.begin_responses(call);
        for message in 0..40 {
            let has_room = other.core.send(call, &[b'x'; 50]).unwrap();
            assert!(has_room, "message {message} of round {round} has no room in the window");
        }
        other.write_all();
        assert_eq!(stream.next().unwrap().unwrap().remaining(), 50);
        drop(stream);
        other.read_until(|event| matches!(event, Event::Cancelled { .. }));
        other.core.finish(call, Ok(()));
        other.write_all();
    }
}

/// It has its own clock as a rule, but not every side of every language does.
#[test]
fn the_other_side_learns_that_the_time_of_a_stream_is_over_that_nobody_reads() {
    let (link, mut other) = pair_with_features();
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let kind = crate::MethodKind::ServerStreaming;
    let outbound = Outbound { kind, deadline, ..unary(&link) };
    let _stream = link.call_streaming(&outbound, &mut Requests::One(&text("stream"))).unwrap();
    let call = other.next_request().call;
    other.core.begin_responses(call);
    other.read_until(|event| matches!(event, Event::Cancelled { .. }));
}
