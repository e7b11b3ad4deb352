//! Calls that are alone, and what comes beside them.

use std::collections::BTreeSet;

use super::*;

const METHODS: &[Method] = &[Method::unary("Call")];

fn echo(call: Incoming<'_>) -> Reply {
    call.unary(|request: String| Ok(request))
}

/// A thread of a plugin's own calls the host between two calls of the host's, after which nobody but who serves has had
/// the lock.
#[test]
fn a_thread_of_a_plugin_calls_while_the_plugin_waits_for_the_next_call() {
    let (link, served, mut other) = unwatched_plugin(METHODS, echo);
    for request in ["one", "two", "three"] {
        other.open_within(1, 0, request);
        other.write_all();
        other.next_outcome().1.unwrap();
    }
    let called = spawn_call_for(&link, "from a thread of the plugin's own");
    let request = other.next_request();
    other.core.reply(request.call, answer("yes"));
    other.write_all();
    in_time(&called, "the reply").unwrap();
    drop(other);
    in_time(&served, "the plugin to end");
}

/// What comes with a request, or before the rest of one, is not lost, and the next is alone again.
#[test]
fn requests_come_with_others_and_in_pieces() {
    let (_link, served, mut other) = unwatched_plugin(METHODS, echo);
    for round in 0..20 {
        for count in [1, 3] {
            let open = |n| other.open_within(1, 0, &format!("{round} {n}"));
            let made: BTreeSet<u64> = (0..count).map(open).collect();
            let bytes = other.output();
            let (first, rest) = bytes.split_at(if round % 2 == 0 { bytes.len() } else { 7 });
            other.write(first);
            other.write(rest);
            let answered = |_| {
                let (call, outcome) = other.next_outcome();
                outcome.unwrap();
                call
            };
            assert_eq!((0..count).map(answered).collect::<BTreeSet<u64>>(), made);
        }
    }
    drop(other);
    in_time(&served, "the plugin to end");
}

/// Nothing was looked at before the lock is first taken.
#[test]
fn a_connection_that_has_not_begun_is_not_at_rest() {
    let (input, _other_output) = pipe::pair().unwrap();
    let (other_input, output) = pipe::pair().unwrap();
    let hello = Hello::new(String::new(), String::new());
    let core = Connection::new(Side::Plugin, hello, None);
    let link = Link::new(core, input, output, false).unwrap();
    let caller = link.clone();
    let called = spawn(move || caller.call::<()>(&unary(&caller), ()));
    let error = in_time(&called, "an error").unwrap_err();
    assert_eq!(error.delivery(), Delivery::NotSent);
    assert_eq!(pipe::readable_bytes(&other_input), 0, "something was sent before the hello");
}

/// A plugin that has no memory for it says so once.
#[cfg(all(target_os = "linux", feature = "shm", not(plug_portable)))]
#[test]
fn a_connection_that_is_declined_memory_is_at_rest_after_that() {
    let (link, mut other) =
        greeted(Hello::new(text("host"), String::new()).with_features(&["shm"]), None);
    let wish = super::super::sharing::Wish { pid: std::process::id(), replies: 0, may_poll: false };
    {
        let mut state = link.lock();
        state.wish_for_memory(wish);
        drop(link.flush_or_leave(state));
    }
    other.read_until(|event| matches!(event, Event::MemoryWanted(_)));
    other.core.offer_memory(None);
    let called = spawn_call_for(&link, "hello");
    let request = other.next_request();
    other.core.reply(request.call, answer("yes"));
    other.write_all();
    in_time(&called, "the reply").unwrap();
    let mut state = link.lock();
    (state.ticking, state.armed) = (Ticking::Yes, false);
    assert!(state.is_at_rest());
}

/// A host's end on which nothing has gone on for a while.
fn asleep() -> (Arc<Link>, Other) {
    let (link, other) = pair_serving(METHODS, echo);
    wait_until_asleep(&link);
    (link, other)
}

fn wait_until_asleep(link: &Arc<Link>) {
    wait_for(link, "the watcher to wait for input", |state| {
        state.armed && state.ticking == Ticking::No
    });
}

fn call_through(link: &Arc<Link>, other: &mut Other) {
    let called = spawn_call_for(link, "hello");
    let request = other.next_request();
    other.core.reply(request.call, answer("yes"));
    other.write_all();
    in_time(&called, "the reply").unwrap();
}

fn assert_heard(other: &mut Other) {
    let call = other.open_within(1, 0, "unasked");
    other.write_all();
    let (answered, outcome) = other.next_outcome();
    outcome.unwrap();
    assert_eq!(answered, call);
}

#[test]
fn what_comes_unasked_is_heard_after_a_call_that_came_by_itself() {
    let (link, mut other) = asleep();
    for _ in 0..3 {
        call_through(&link, &mut other);
        assert_heard(&mut other);
        wait_until_asleep(&link);
    }
}

/// Where the watcher looks at all connections meanwhile, as it does for those of other tests, the call goes the general way.
#[cfg(all(target_os = "linux", not(plug_portable)))]
#[test]
fn after_a_call_that_came_by_itself_the_watcher_waits_at_once() {
    let (link, mut other) = asleep();
    let until = Instant::now() + LONG;
    loop {
        link.lock().armed_since = None;
        call_through(&link, &mut other);
        let state = link.lock();
        if state.armed_since.is_some() {
            assert!(state.armed && state.ticking == Ticking::No);
            break;
        }
        drop(state);
        assert!(Instant::now() < until, "it has ticked after each call");
        wait_until_asleep(&link);
    }
    assert_heard(&mut other);
}

#[test]
fn calls_that_come_close_together_do_not_have_the_watcher_wait_in_between() {
    let (link, mut other) = asleep();
    // As if another call had just ended, however busy the machine is.
    link.lock().armed_since = Some(Instant::now() + LONG);
    call_through(&link, &mut other);
    assert_eq!(
        link.lock().armed_since,
        None,
        "it waits again once it has found that they have stopped"
    );
    assert_heard(&mut other);
}

#[test]
fn what_comes_unasked_is_heard_after_a_call_after_a_pause_that_has_not_begun() {
    let (link, mut other) = asleep();
    let late = Outbound { deadline: Some(Instant::now()), ..unary(&link) };
    assert_eq!(link.call::<String>(&late, &text("late")).unwrap_err().kind(), ErrorKind::Deadline);
    assert_heard(&mut other);
}

#[cfg(all(target_os = "linux", feature = "shm", not(plug_portable)))]
#[test]
fn calls_that_are_alone_count_for_the_wish_for_memory() {
    // Who looks at the connection has its lock, and then the next call looks at all of it.
    for looks in [false, true] {
        let (link, mut other) =
            greeted(Hello::new(text("host"), String::new()).with_features(&["shm"]), None);
        let pid = std::process::id();
        let wish = super::super::sharing::Wish { pid, replies: 5, may_poll: false };
        link.lock().wish_for_memory(wish);
        (0..4).for_each(|_| call_through(&link, &mut other));
        if looks {
            assert!(link.lock().core.can_share(), "nothing was asked for");
        }
        call_through(&link, &mut other);
        other.read_until(|event| matches!(event, Event::MemoryWanted(_)));
    }
}

#[test]
fn a_slow_handler_after_a_pause_delays_no_other_call() {
    let (open, gate) = gate();
    let (link, served, mut other) = watched_plugin(METHODS, move |call| {
        call.unary(|request: String| {
            if request == "slow" {
                pass(&gate);
            }
            Ok(request)
        })
    });
    other.open_within(1, 0, "first");
    other.write_all();
    other.next_outcome().1.unwrap();
    wait_for(&link, "the plugin to wait for the next", |state| state.reader.is_none());
    wait_for(&link, "the watcher to rest", |state| state.ticking == Ticking::No);
    other.open_within(1, 0, "slow");
    other.write_all();
    wait_for(&link, "its handler to run", |state| state.workers.is_busy());
    let quick = other.open_within(1, 0, "quick");
    other.write_all();
    assert_eq!(other.next_outcome().0, quick);
    open.send(()).unwrap();
    other.next_outcome().1.unwrap();
    drop(other);
    in_time(&served, "the plugin to end");
}
