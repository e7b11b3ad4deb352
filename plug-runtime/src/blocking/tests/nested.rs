//! Calls of the other side, within calls of this one.

use super::super::worker::Worker;
use super::super::workers::Task;
use super::*;
use crate::blocking::roles::Bulk;

const METHODS: &[Method] = &[Method::unary("Call"), Method::server_streaming("List")];

#[test]
fn m10_two_calls_within_one_that_come_together_run_at_the_same_time() {
    let (open, gate) = gate();
    let open = Mutex::new(open);
    let (link, mut other) = pair_serving(METHODS, move |call| {
        call.unary(|which: String| {
            match which.as_str() {
                "first" => pass(&gate),
                _ => open.lock().unwrap().send(()).unwrap(),
            }
            Ok(which)
        })
    });
    let caller = spawn_call(&link, text("outer"));
    let outer = other.next_request().call;
    wait_for(&link, "the caller to read", |state| state.leading == Some(outer));
    let first = other.open_within(1, outer, "first");
    let second = other.open_within(1, outer, "second");
    let begin = Instant::now();
    other.write_all();
    for _ in 0..2 {
        let (call, outcome) = other.next_outcome();
        assert!(call == first || call == second);
        outcome.unwrap();
    }
    assert!(begin.elapsed() < LONG, "the first waited for the second in vain");
    other.core.reply(outer, answer("done"));
    other.write_all();
    assert_eq!(caller.join().unwrap().unwrap(), "done");
}

#[test]
fn a_stream_that_is_returned_late_by_a_nested_handler_is_sent() {
    let (open, gate) = gate();
    let (link, mut other) = pair_serving(METHODS, move |call| {
        call.server_streaming(|_: String| {
            pass(&gate);
            Ok(crate::Stream::new([text("item")]))
        })
    });
    let caller = spawn_call(&link, text("outer"));
    let outer = other.next_request().call;
    wait_for(&link, "the caller to read", |state| state.leading == Some(outer));
    let opening =
        Opening { method: 2, within: outer, streams_responses: true, ..Opening::default() };
    let listed = other.core.open(&opening, Some(&text(""))).unwrap();
    other.write_all();
    wait_for(&link, "the handler to run", |state| state.workers.is_busy());
    wait_for(&link, "the watcher to rest", |state| state.ticking == Ticking::No);
    open.send(()).unwrap();
    other.read_until(|event| matches!(event, Event::Messages { call, .. } if *call == listed));
    other.core.reply(outer, answer("done"));
    other.write_all();
    assert_eq!(caller.join().unwrap().unwrap(), "done");
}

#[test]
fn a_reply_does_not_wait_for_the_handler_that_runs_on_the_thread_that_was_to_read_next() {
    let (open, gate) = gate();
    let (link, mut other) = pair_serving(METHODS, move |call| {
        call.unary(|which: String| {
            pass(&gate);
            Ok(which)
        })
    });
    let leader = spawn_call(&link, text("leader"));
    let leading = other.next_request();
    wait_for(&link, "somebody to read", |state| state.leading == Some(leading.call));
    let busy = spawn_call(&link, text("busy"));
    let outer = other.next_request().call;
    wait_for(&link, "the second caller", |state| state.waiters.len() == 1);
    let follower = spawn_call(&link, text("follower"));
    let following = other.next_request();
    wait_for(&link, "the third caller", |state| state.waiters.len() == 2);
    wait_for(&link, "the watcher to rest", |state| state.ticking == Ticking::No);

    other.open_within(1, outer, "nested");
    other.core.reply(leading.call, answer("led"));
    other.write_all();
    assert_eq!(leader.join().unwrap().unwrap(), "led");
    wait_for(&link, "the handler to run", |state| state.workers.is_busy());
    other.core.reply(following.call, answer("followed"));
    other.write_all();
    let followed = spawn(move || follower.join().unwrap());
    assert_eq!(in_time(&followed, "the follower's reply").unwrap(), "followed");
    open.send(()).unwrap();
    other.next_outcome().1.unwrap();
    other.core.reply(outer, answer("done"));
    other.write_all();
    assert_eq!(busy.join().unwrap().unwrap(), "done");
}

#[test]
fn a_call_that_was_cancelled_on_its_way_to_a_worker_does_not_run() {
    let (ran, has_run) = mpsc::channel();
    let (link, _other) = pair_serving(METHODS, move |call| {
        ran.send(()).unwrap();
        call.unary(|request: String| Ok(request))
    });
    let request = Request { call: 2, method: 1, ..Request::default() };
    let state = link.lock();
    let state = link.run_task(state, Task::Request(request), &mut Worker::default());
    drop(state);
    assert!(has_run.try_recv().is_err(), "its caller was told that it does not run");
}

#[test]
fn m6_a_reply_in_a_full_pipe_does_not_wait_for_the_next_handler() {
    let (open, gate) = gate();
    let (link, mut other) = pair_serving(METHODS, move |call| {
        call.unary(|which: String| {
            if which == "slow" {
                pass(&gate);
            }
            Ok("x".repeat(200 << 10))
        })
    });
    // The pipe goes on to hold little.
    link.lock().writer.as_mut().unwrap().bulk = Bulk::Over;
    let quick = other.open_within(1, 0, "quick");
    other.write_all();
    wait_until_stuck(&link);
    let slow = other.open_within(1, 0, "slow");
    other.write_all();
    wait_for(&link, "the slow handler to run", |state| state.workers.is_busy());
    let (call, outcome) = other.next_outcome();
    assert_eq!((call, outcome.is_ok()), (quick, true));
    open.send(()).unwrap();
    let (call, outcome) = other.next_outcome();
    assert_eq!((call, outcome.is_ok()), (slow, true));
}
