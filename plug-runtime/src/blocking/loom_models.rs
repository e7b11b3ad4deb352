//! Models of waiting and of the role of reading: loom tries every schedule, and fails where one waits for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::patience::Patience;
use super::waiter::{Waiter, Woken};
use super::yielding::Yielding;
use crate::sync::model;
use crate::sys::dormitory::{Bed, Rising};

fn new_waiter() -> Waiter {
    Waiter::new(Bed::several().next().unwrap())
}

/// As `Wakes::wake`.
fn wake(whom: impl FnOnce(&mut Rising)) {
    let mut rising = Rising::default();
    whom(&mut rising);
    rising.wake();
}

#[test]
fn c13_a_waiter_gets_its_outcome_whoever_else_wakes_it() {
    model(|| {
        let waiter = Arc::new(new_waiter());
        let looking = waiter.clone();
        let looks = thread::spawn(move || wake(|rising| looking.look(rising)));
        let doing = waiter.clone();
        let does =
            thread::spawn(move || wake(|rising| doing.done(Ok(Bytes::from_static(b"7")), rising)));
        let outcome = loop {
            if let Woken::Done(outcome) = waiter.wait(&Patience::endless(), &Yielding::never()) {
                break outcome;
            }
        };
        assert_eq!(outcome.unwrap(), "7");
        looks.join().unwrap();
        does.join().unwrap();
    });
}

/// What `Link` does with the role, without bytes and without the watcher, which would hide what is lost.
#[derive(Default)]
struct Roles {
    is_free: bool,
    waiters: BTreeMap<u64, Arc<Waiter>>,
}

impl Roles {
    /// As `Link::pass_on`: whom to tell once the lock is released.
    fn next(&self) -> Option<Arc<Waiter>> {
        self.is_free.then(|| self.waiters.values().next().cloned())?
    }
}

fn wait_for_turn(roles: &Mutex<Roles>, call: u64, waiter: &Waiter, patience: &Patience<'_>) {
    loop {
        match waiter.wait(patience, &Yielding::never()) {
            // Another has read the reply.
            Woken::Done(_) => return,
            // As in `Link::wait_for_reply`: reads its own reply, and leaves.
            Woken::Look => {
                let mut state = roles.lock().unwrap();
                if !state.waiters.contains_key(&call) || !state.is_free {
                    continue;
                }
                state.is_free = false;
                state.waiters.remove(&call);
                drop(state);
                let mut state = roles.lock().unwrap();
                state.is_free = true;
                let next = state.next();
                drop(state);
                next.inspect(|next| wake(|rising| next.look(rising)));
                return;
            }
            // As in `Link::give_up` and `Link::handle_reply`.
            Woken::Impatient => {
                let mut state = roles.lock().unwrap();
                let own = state.waiters.remove(&call);
                let next = own.as_ref().and_then(|_| state.next());
                drop(state);
                own.inspect(|own| wake(|rising| own.done(Ok(Bytes::new()), rising)));
                next.inspect(|next| wake(|rising| next.look(rising)));
                if let Woken::Done(_) = waiter.wait(&Patience::endless(), &Yielding::never()) {
                    return;
                }
            }
        }
    }
}

fn follow(roles: &Arc<Mutex<Roles>>, call: u64, is_patient: bool) -> thread::JoinHandle<()> {
    let roles = roles.clone();
    // It has to be told by the leader, so it is there before that leaves.
    let (ready, is_ready) = loom::sync::mpsc::channel();
    let following = thread::spawn(move || {
        let waiter = Arc::new(new_waiter());
        roles.lock().unwrap().waiters.insert(call, waiter.clone());
        ready.send(()).unwrap();
        let patience = Patience::until_then((!is_patient).then(Instant::now));
        wait_for_turn(&roles, call, &waiter, &patience);
    });
    is_ready.recv().unwrap();
    following
}

#[test]
fn c13_the_role_is_passed_on_when_who_is_told_gives_up_at_the_same_time() {
    model(|| {
        let roles = Arc::new(Mutex::new(Roles::default()));
        let patient = follow(&roles, 2, true);
        let impatient = follow(&roles, 1, false);
        let mut state = roles.lock().unwrap();
        state.is_free = true;
        let next = state.next();
        drop(state);
        next.inspect(|next| wake(|rising| next.look(rising)));
        impatient.join().unwrap();
        patient.join().unwrap();
    });
}

#[test]
fn c13_the_role_is_passed_on_when_the_outcome_of_who_is_told_arrives_at_the_same_time() {
    model(|| {
        let roles = Arc::new(Mutex::new(Roles::default()));
        let second = follow(&roles, 2, true);
        let first = follow(&roles, 1, true);
        // The watcher ends the first call, as it does when its deadline has passed.
        let ending = roles.clone();
        let ends = thread::spawn(move || {
            let mut state = ending.lock().unwrap();
            let own = state.waiters.remove(&1);
            let next = own.as_ref().and_then(|_| state.next());
            drop(state);
            own.inspect(|own| wake(|rising| own.done(Ok(Bytes::new()), rising)));
            next.inspect(|next| wake(|rising| next.look(rising)));
        });
        let mut state = roles.lock().unwrap();
        state.is_free = true;
        let next = state.next();
        drop(state);
        next.inspect(|next| wake(|rising| next.look(rising)));
        ends.join().unwrap();
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// What `Link` does with what is to be sent: frames are queued under the lock and written without it.
#[derive(Default)]
struct Sending {
    queued: Vec<u8>,
    can_wait: bool,
    is_writing: bool,
    written: Vec<u8>,
}

/// As `Link::run_pump` does with an item that can wait.
fn add(sending: &Mutex<Sending>, frame: u8) {
    let mut state = sending.lock().unwrap();
    state.can_wait |= state.queued.is_empty();
    state.queued.push(frame);
}

/// As `Link::flush`: only one writes, and it looks for more before it lets the role go.
fn send(sending: &Mutex<Sending>, frame: u8) {
    let mut state = sending.lock().unwrap();
    state.queued.push(frame);
    state.can_wait = false;
    if std::mem::replace(&mut state.is_writing, true) {
        return;
    }
    while !state.queued.is_empty() && !state.can_wait {
        let taken = std::mem::take(&mut state.queued);
        drop(state);
        thread::yield_now();
        state = sending.lock().unwrap();
        state.written.extend(taken);
    }
    state.is_writing = false;
}

#[test]
fn f17_what_is_queued_while_another_writes_is_written_once_and_in_order() {
    model(|| {
        let sending = Arc::new(Mutex::new(Sending::default()));
        let others: Vec<_> = [10, 20]
            .map(|first| {
                let sending = sending.clone();
                thread::spawn(move || [first, first + 1].map(|frame| send(&sending, frame)))
            })
            .into();
        for other in others {
            other.join().unwrap();
        }
        let state = sending.lock().unwrap();
        assert!(state.queued.is_empty() && !state.is_writing);
        for first in [10, 20] {
            let own = state.written.iter().filter(|&&frame| frame / 10 == first / 10);
            assert_eq!(own.copied().collect::<Vec<_>>(), [first, first + 1]);
        }
    });
}

#[test]
fn f17_what_somebody_wants_written_is_although_what_was_queued_before_could_wait() {
    model(|| {
        let sending = Arc::new(Mutex::new(Sending::default()));
        let of_stream = sending.clone();
        let stream = thread::spawn(move || {
            add(&of_stream, 20);
            send(&of_stream, 21);
        });
        send(&sending, 10);
        send(&sending, 11);
        stream.join().unwrap();
        let state = sending.lock().unwrap();
        assert!(state.queued.is_empty() && !state.is_writing, "{:?}", state.queued);
        assert_eq!(state.written.len(), 4);
    });
}

/// What `Link` does at its end: who reads may wait for something that never comes, and is told by a byte in the pipe.
#[derive(Default)]
struct Ending {
    is_reading: bool,
    is_over: bool,
    has_failed: bool,
    waiters: Vec<Arc<Waiter>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Ending>,
    pipe: Mutex<bool>,
    readable: Condvar,
}

impl Shared {
    /// As `Link::settle`, and the handling of what comes of it.
    fn settle(state: &mut Ending) -> Vec<Arc<Waiter>> {
        if !std::mem::take(&mut state.is_over) {
            return Vec::new();
        }
        state.has_failed = true;
        std::mem::take(&mut state.waiters)
    }

    /// As `Link::call`: reads if nobody else does, and waits otherwise.
    fn call(&self) {
        let mut state = self.state.lock().unwrap();
        if state.has_failed {
            return;
        }
        if std::mem::replace(&mut state.is_reading, true) {
            let waiter = Arc::new(new_waiter());
            state.waiters.push(waiter.clone());
            drop(state);
            while !matches!(waiter.wait(&Patience::endless(), &Yielding::never()), Woken::Done(_)) {
            }
            return;
        }
        drop(state);
        let mut has_byte = self.pipe.lock().unwrap();
        while !*has_byte {
            has_byte = self.readable.wait(has_byte).unwrap();
        }
        drop(has_byte);
        let mut state = self.state.lock().unwrap();
        let waiters = Shared::settle(&mut state);
        state.is_reading = false;
        drop(state);
        wake(|rising| waiters.iter().for_each(|waiter| waiter.done(Ok(Bytes::new()), rising)));
    }

    /// As `Link::end`.
    fn end(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_over = true;
        let waiters = if state.is_reading {
            *self.pipe.lock().unwrap() = true;
            self.readable.notify_one();
            Vec::new()
        } else {
            Shared::settle(&mut state)
        };
        drop(state);
        wake(|rising| waiters.iter().for_each(|waiter| waiter.done(Ok(Bytes::new()), rising)));
    }
}

#[test]
fn c13_who_calls_while_the_connection_ends_is_told_of_that() {
    model(|| {
        let shared = Arc::new(Shared::default());
        let calls = [(); 2].map(|()| {
            let shared = shared.clone();
            thread::spawn(move || shared.call())
        });
        shared.end();
        for call in calls {
            call.join().unwrap();
        }
        assert!(shared.state.lock().unwrap().has_failed);
    });
}
