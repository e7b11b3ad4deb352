//! Models of waiting and of the role of reading: loom tries every schedule, and fails where one waits for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use loom::sync::Mutex;
use loom::thread;

use super::patience::Patience;
use super::waiter::{Waiter, Woken};
use crate::sync::model;

#[test]
fn c13_a_waiter_gets_its_outcome_whoever_else_wakes_it() {
    model(|| {
        let waiter = Arc::new(Waiter::new());
        let looking = waiter.clone();
        let looks = thread::spawn(move || looking.look());
        let doing = waiter.clone();
        let does = thread::spawn(move || doing.done(Ok(Bytes::from_static(b"7"))));
        let outcome = loop {
            if let Woken::Done(outcome) = waiter.wait(&Patience::endless()) {
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
        match waiter.wait(patience) {
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
                next.inspect(|next| next.look());
                return;
            }
            // As in `Link::give_up` and `Link::handle_reply`.
            Woken::Impatient => {
                let mut state = roles.lock().unwrap();
                let own = state.waiters.remove(&call);
                let next = own.as_ref().and_then(|_| state.next());
                drop(state);
                own.inspect(|own| own.done(Ok(Bytes::new())));
                next.inspect(|next| next.look());
                if let Woken::Done(_) = waiter.wait(&Patience::endless()) {
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
        let waiter = Arc::new(Waiter::new());
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
        next.inspect(|next| next.look());
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
            own.inspect(|own| own.done(Ok(Bytes::new())));
            next.inspect(|next| next.look());
        });
        let mut state = roles.lock().unwrap();
        state.is_free = true;
        let next = state.next();
        drop(state);
        next.inspect(|next| next.look());
        ends.join().unwrap();
        first.join().unwrap();
        second.join().unwrap();
    });
}
