//! Models of the channel: loom tries every schedule, and fails where one waits for ever.

use std::sync::Arc;
use std::task::{Poll, Wake, Waker};

use loom::thread;

use super::channel::{self, Receiver};
use crate::sync::{self, Thread, model};

#[test]
fn c13_all_items_of_two_senders_arrive_and_then_the_end() {
    for capacity in [0, 1] {
        model(move || {
            let (sender, mut receiver) = channel::channel(capacity);
            let other = sender.clone();
            let sends = [(sender, 1), (other, 2)]
                .map(|(sender, item)| thread::spawn(move || sender.send(item).unwrap()));
            let mut items = Vec::new();
            while let Some(item) = receiver.next() {
                items.push(item.unwrap());
            }
            items.sort_unstable();
            assert_eq!(items, [1, 2]);
            for sending in sends {
                sending.join().unwrap();
            }
        });
    }
}

#[test]
fn c13_a_sender_that_waits_gets_its_item_back_when_the_stream_goes() {
    for capacity in [0, 1] {
        model(move || {
            let (sender, receiver) = channel::channel(capacity);
            for item in 0..capacity {
                sender.send(item).unwrap();
            }
            let sends = thread::spawn(move || sender.send(7));
            drop(receiver);
            assert_eq!(sends.join().unwrap(), Err(7));
        });
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn next(receiver: &mut Receiver<u8>) -> Option<u8> {
    let waker = Waker::from(Arc::new(Unpark(sync::current())));
    loop {
        match receiver.poll_next(&waker) {
            Poll::Ready(item) => return item.map(Result::unwrap),
            Poll::Pending => sync::park(),
        }
    }
}

#[test]
fn c13_who_polls_is_woken_for_each_item_and_for_the_end() {
    for capacity in [0, 1] {
        model(move || {
            let (sender, mut receiver) = channel::channel(capacity);
            let sends = thread::spawn(move || sender.send(1).unwrap());
            assert_eq!(next(&mut receiver), Some(1));
            assert_eq!(next(&mut receiver), None);
            sends.join().unwrap();
        });
    }
}
