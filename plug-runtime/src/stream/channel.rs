//! A bounded queue from threads that send to one stream: both of its ends can wait, and the stream can also be asked
//! to wake somebody instead.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};

use crate::error::{Error, Result};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The sending half of [`Stream::channel`](crate::Stream::channel). Clones feed the same stream, which ends when the
/// last of them is dropped.
pub struct Sender<T> {
    channel: Arc<Channel<T>>,
}

/// Why [`Sender::try_send`] did not send an item, which it gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The stream is full.
    Full(T),
    /// The stream was dropped, or has ended with an error.
    Closed(T),
}

/// The receiving half, which is the source of a stream.
pub(super) struct Receiver<T> {
    channel: Arc<Channel<T>>,
}

struct Channel<T> {
    state: Mutex<State<T>>,
    /// Signalled when an item is there, or the last sender is gone.
    filled: Condvar,
    /// Signalled when an item was taken, or the receiver is gone.
    taken: Condvar,
}

struct State<T> {
    queue: VecDeque<Result<T>>,
    /// 0: a sender waits until its item is taken.
    capacity: usize,
    /// How many items were taken since the beginning.
    taken: u64,
    senders: usize,
    has_receiver: bool,
    /// Whom to wake in place of signalling `filled`.
    waker: Option<Waker>,
}

pub(super) fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let channel = Arc::new(Channel {
        state: Mutex::new(State {
            queue: VecDeque::new(),
            capacity,
            taken: 0,
            senders: 1,
            has_receiver: true,
            waker: None,
        }),
        filled: Condvar::new(),
        taken: Condvar::new(),
    });
    (Sender { channel: channel.clone() }, Receiver { channel })
}

impl<T> Sender<T> {
    /// Sends an item, waiting while the stream is full. Returns the item if the stream was dropped, or has ended with
    /// an error.
    ///
    /// # Errors
    ///
    /// The item, if nobody will ever take it.
    pub fn send(&self, item: T) -> std::result::Result<(), T> {
        self.channel.send(Ok(item)).map_err(|item| match item {
            Ok(item) => item,
            Err(_) => unreachable!("an item was sent, and it comes back as it was"),
        })
    }

    /// Sends an item if the stream has room for it, and never waits. Into a stream with a capacity of 0 nothing can
    /// be sent like this.
    ///
    /// # Errors
    ///
    /// The item, and why it was not sent.
    ///
    /// ```
    /// use plug::TrySendError;
    ///
    /// let (sender, mut stream) = plug::Stream::channel(1);
    /// sender.try_send("first").unwrap();
    /// assert_eq!(sender.try_send("second"), Err(TrySendError::Full("second")));
    /// assert_eq!(stream.next().unwrap().unwrap(), "first");
    /// drop(stream);
    /// assert_eq!(sender.try_send("third"), Err(TrySendError::Closed("third")));
    /// ```
    pub fn try_send(&self, item: T) -> std::result::Result<(), TrySendError<T>> {
        let state = self.channel.lock();
        if !state.has_receiver {
            return Err(TrySendError::Closed(item));
        }
        if state.queue.len() >= state.capacity {
            return Err(TrySendError::Full(item));
        }
        self.channel.push(state, Ok(item));
        Ok(())
    }

    /// Whether nothing more is taken: the stream was dropped, or has ended with an error.
    pub fn is_closed(&self) -> bool {
        !self.channel.lock().has_receiver
    }

    /// Ends the stream with an error, which comes after what was sent before. Never waits: there is always room for it.
    pub fn fail(self, error: Error) {
        let state = self.channel.lock();
        // If the stream was dropped, nobody is left to hear of the error.
        if state.has_receiver {
            self.channel.push(state, Err(error));
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.channel.lock().senders += 1;
        Sender { channel: self.channel.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        state.senders -= 1;
        if state.senders == 0 {
            self.channel.wake(state);
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> Receiver<T> {
    /// The next item, waited for.
    pub(super) fn next(&mut self) -> Option<Result<T>> {
        let mut state = self.channel.lock();
        loop {
            match self.channel.take(&mut state) {
                Poll::Ready(item) => return item,
                Poll::Pending => {
                    state = self.channel.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The next item if there is one; otherwise `waker` is woken once there may be.
    pub(super) fn poll_next(&mut self, waker: &Waker) -> Poll<Option<Result<T>>> {
        let mut state = self.channel.lock();
        let taken = self.channel.take(&mut state);
        let mut replaced = None;
        if taken.is_pending() && !state.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            replaced = state.waker.replace(waker.clone());
        }
        drop(state);
        drop(replaced);
        taken
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        state.has_receiver = false;
        let waker = state.waker.take();
        // Of a rendezvous, the item goes back to its sender.
        let unread =
            if state.capacity == 0 { VecDeque::new() } else { std::mem::take(&mut state.queue) };
        drop(state);
        self.channel.taken.notify_all();
        // Not under the lock: an item may own a sender.
        drop((waker, unread));
    }
}

impl<T> Channel<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, item: Result<T>) -> std::result::Result<(), Result<T>> {
        let mut state = self.lock();
        while state.has_receiver && state.queue.len() >= state.capacity.max(1) {
            state = self.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.has_receiver {
            return Err(item);
        }
        let number = state.taken + state.queue.len() as u64 + 1;
        let is_rendezvous = state.capacity == 0;
        self.push(state, item);
        if !is_rendezvous {
            return Ok(());
        }
        let mut state = self.lock();
        while state.has_receiver && state.taken < number {
            state = self.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.taken >= number {
            return Ok(());
        }
        // The only item in a queue of one is this sender's.
        state.queue.pop_front().map_or(Ok(()), Err)
    }

    /// The next item, or the end.
    fn take(&self, state: &mut State<T>) -> Poll<Option<Result<T>>> {
        match state.queue.pop_front() {
            Some(item) => {
                state.taken += 1;
                // All of them: who waits for room and who waits for its item to be taken are not told apart.
                self.taken.notify_all();
                Poll::Ready(Some(item))
            }
            None if state.senders == 0 => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn push(&self, mut state: MutexGuard<'_, State<T>>, item: Result<T>) {
        state.queue.push_back(item);
        self.wake(state);
    }

    /// Tells the receiver that there is something to be taken.
    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        let waker = state.waker.take();
        drop(state);
        self.filled.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
