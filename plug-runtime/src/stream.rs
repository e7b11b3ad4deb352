//! Streams of messages: the response or request of a streaming method.

mod channel;
#[cfg(all(loom, test))]
mod loom_models;
mod remote;

use std::fmt;
use std::task::{Poll, Waker, ready};

use prost::Message;

use crate::budget::Budget;
use crate::encoding::Encoded;
use crate::error::Result;
use crate::panics;
use channel::Receiver;
pub use channel::{Sender, TrySendError};
use remote::Remote;
pub(crate) use remote::{Arriving, Origin, Received};

/// A sequence of messages that arrives over time: an iterator of [`Result<T>`](crate::Result).
///
/// A streaming method takes and returns these. Make one of an iterator ([`new`](Stream::new)), of an iterator that may
/// fail ([`from_results`](Stream::from_results)), or of a [`channel`](Stream::channel), which another thread fills.
///
/// Items go over as they are made, and no further ahead of their reader than a window of some hundred KiB: a
/// producer's `next` is not called before there is room for what it returns. So an iterator may read a file, or go on for
/// ever.
///
/// After an error nothing follows. Dropping a stream that came from the other side tells its producer to stop, whose
/// iterator is dropped then; a plugin's process runs as long as a stream from it is not dropped.
///
/// ```
/// let stream = plug::Stream::new([1, 2, 3]);
/// let items: plug::Result<Vec<i32>> = stream.collect();
/// assert_eq!(items.unwrap(), [1, 2, 3]);
/// ```
pub struct Stream<T> {
    /// `None` once the stream has ended: what the source holds is given back at once.
    source: Option<Source<T>>,
}

enum Source<T> {
    Iterator(Box<dyn Iterator<Item = Result<T>> + Send>),
    Channel(Receiver<T>),
    Remote(Remote<T>),
}

/// What can be sent as a stream: a [`Stream`] itself, or anything that iterates over items.
pub trait IntoStream<T> {
    /// Turns `self` into a stream.
    fn into_stream(self) -> Stream<T>;
}

/// A stream on its way to the other side.
pub(crate) trait Outgoing: Send {
    /// Encodes the next item into `out`. `None` is the end of the stream, and so is an error.
    ///
    /// If there is no item yet, `waker` is woken once there may be; where the source is an iterator, this waits. A panic of
    /// the source's is an error.
    fn poll_message(&mut self, waker: &Waker, out: &mut Encoded) -> Poll<Option<Result<()>>>;
}

impl<T: Send + 'static> Stream<T> {
    /// A stream of the items of an iterator.
    pub fn new<I>(items: I) -> Stream<T>
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        Stream::from_results(items.into_iter().map(Ok))
    }

    /// A stream of items that may end in an error: nothing is taken from `items` after the first.
    pub fn from_results<I>(items: I) -> Stream<T>
    where
        I: IntoIterator<Item = Result<T>>,
        I::IntoIter: Send + 'static,
    {
        Stream { source: Some(Source::Iterator(Box::new(items.into_iter()))) }
    }

    /// A stream fed by a [`Sender`] from another thread, which waits while `capacity` items are unread. With a capacity
    /// of 0, it waits until its item is taken.
    ///
    /// The stream ends when the last clone of the sender is dropped. A stream that waits for its sender keeps no thread
    /// busy, as an iterator does that waits.
    ///
    /// ```
    /// let (sender, stream) = plug::Stream::channel(16);
    /// std::thread::spawn(move || {
    ///     for number in 0..100 {
    ///         if sender.send(number).is_err() {
    ///             break; // nobody reads it any more
    ///         }
    ///     }
    /// });
    /// let numbers: plug::Result<Vec<i32>> = stream.collect();
    /// assert_eq!(numbers.unwrap().len(), 100);
    /// ```
    pub fn channel(capacity: usize) -> (Sender<T>, Stream<T>) {
        let (sender, receiver) = channel::channel(capacity);
        (sender, Stream { source: Some(Source::Channel(receiver)) })
    }
}

impl<T: Message + Default> Stream<T> {
    /// A stream of what arrives from the other side.
    pub(crate) fn remote(messages: Arriving, origin: Origin, budget: Budget) -> Stream<T> {
        Stream { source: Some(Source::Remote(Remote::new(messages, origin, budget))) }
    }
}

impl<T> Iterator for Stream<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let item = match self.source.as_mut()? {
            Source::Iterator(items) => items.next(),
            Source::Channel(items) => items.next(),
            Source::Remote(items) => items.next(),
        };
        if !matches!(item, Some(Ok(_))) {
            self.source = None;
        }
        item
    }
}

impl<T: Message> Outgoing for Stream<T> {
    fn poll_message(&mut self, waker: &Waker, out: &mut Encoded) -> Poll<Option<Result<()>>> {
        // Iterators and drops of items are code of users, on a thread that may read for others.
        let polled = panics::catch("the stream", || {
            // An item stays where it was made: to move what was just written costs 5 ns, a twentieth of all of a short one.
            let item = match &mut self.source {
                None => None,
                Some(Source::Iterator(items)) => items.next(),
                Some(Source::Channel(items)) => ready!(items.poll_next(waker)),
                Some(Source::Remote(items)) => ready!(items.poll_next(waker)),
            };
            if let Some(Ok(item)) = &item {
                return Poll::Ready(Some(out.encode(item)));
            }
            self.source = None;
            Poll::Ready(item.map(|end| end.map(drop)))
        });
        polled.unwrap_or_else(|error| {
            let source = self.source.take();
            // Its drop may panic as well. The error tells of what came first.
            let _ = panics::catch("the stream", || drop(source));
            Poll::Ready(Some(Err(error)))
        })
    }
}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl<T> IntoStream<T> for Stream<T> {
    fn into_stream(self) -> Stream<T> {
        self
    }
}

impl<T, I> IntoStream<T> for I
where
    T: Send + 'static,
    I: IntoIterator<Item = T>,
    I::IntoIter: Send + 'static,
{
    fn into_stream(self) -> Stream<T> {
        Stream::new(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};
    use std::task::Wake;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    /// Passes on that it was woken.
    struct Bell(mpsc::Sender<()>);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(());
        }
    }

    fn bell() -> (Waker, mpsc::Receiver<()>) {
        let (sender, rung) = mpsc::channel();
        (Arc::new(Bell(sender)).into(), rung)
    }

    fn polled(stream: &mut Stream<u64>, waker: &Waker) -> Poll<Option<Result<u64>>> {
        let mut out = Encoded::default();
        stream
            .poll_message(waker, &mut out)
            .map(|item| item.map(|item| item.map(|()| u64::decode(&out.bytes[..]).unwrap())))
    }

    fn ready(stream: &mut Stream<u64>) -> Option<Result<u64>> {
        match polled(stream, Waker::noop()) {
            Poll::Ready(item) => item,
            Poll::Pending => panic!("there is no item"),
        }
    }

    #[test]
    fn nothing_follows_an_error() {
        let items = || [Ok(1), Err("bad".into()), Ok(2)];
        let mut stream = Stream::from_results(items());
        assert_eq!(stream.next().unwrap().unwrap(), 1);
        assert_eq!(stream.next().unwrap().unwrap_err().message(), "bad");
        assert!(stream.next().is_none());

        let mut stream = Stream::from_results(items());
        assert_eq!(ready(&mut stream).unwrap().unwrap(), 1);
        assert_eq!(ready(&mut stream).unwrap().unwrap_err().message(), "bad");
        assert!(ready(&mut stream).is_none());
    }

    #[test]
    fn a_sender_whose_stream_is_gone_gets_its_item_back() {
        let (sender, stream) = Stream::channel(1);
        drop(stream);
        assert_eq!(sender.send(7), Err(7));
    }

    #[test]
    fn a_sender_that_waits_gets_its_item_back_when_the_stream_goes() {
        for capacity in [0, 1] {
            let (sender, stream) = Stream::channel(capacity);
            (0..capacity).for_each(|_| sender.send(1).unwrap());
            let waiting = std::thread::spawn(move || sender.send(7));
            drop(stream);
            assert_eq!(waiting.join().unwrap(), Err(7), "capacity {capacity}");
        }
    }

    #[test]
    fn items_come_in_order_until_the_last_sender_is_dropped() {
        for capacity in [0, 1, 3, 100] {
            let (sender, stream) = Stream::channel(capacity);
            let other = sender.clone();
            let sending = std::thread::spawn(move || {
                (0..50).for_each(|item| sender.send(item).unwrap());
                drop(sender);
                (50..60).for_each(|item| other.send(item).unwrap());
            });
            let items: Vec<u64> = stream.collect::<Result<_>>().unwrap();
            assert_eq!(items, (0..60).collect::<Vec<_>>(), "capacity {capacity}");
            sending.join().unwrap();
        }
    }

    #[test]
    fn a_full_stream_holds_its_sender_back() {
        let (sender, mut stream) = Stream::channel(2);
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let (tell, told) = mpsc::channel();
        let sending = std::thread::spawn(move || {
            for item in 0..10 {
                sender.send(item).unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                tell.send(()).unwrap();
            }
        });
        for _ in 0..2 {
            told.recv_timeout(LONG).expect("two items fit");
        }
        for taken in 0..10 {
            assert!(sent.load(Ordering::SeqCst) <= taken + 2, "no more than fit are sent");
            assert_eq!(stream.next().unwrap().unwrap(), taken as u64);
        }
        assert!(stream.next().is_none());
        sending.join().unwrap();
    }

    #[test]
    fn a_failed_sender_ends_the_stream_for_all_of_them() {
        let (sender, mut stream) = Stream::channel(2);
        let other = sender.clone();
        sender.send(1).unwrap();
        sender.fail("bad".into());
        assert_eq!(stream.next().unwrap().unwrap(), 1);
        assert_eq!(stream.next().unwrap().unwrap_err().message(), "bad");
        assert!(stream.next().is_none());
        assert_eq!(other.send(2), Err(2));
    }

    #[test]
    fn what_never_waits_returns_the_item_or_ends_a_full_stream() {
        for capacity in 0..3 {
            let (sender, mut stream) = Stream::channel(capacity);
            for item in 0..capacity as u64 {
                sender.try_send(item).unwrap();
            }
            assert_eq!(sender.try_send(7), Err(TrySendError::Full(7)), "capacity {capacity}");
            let other = sender.clone();
            sender.fail("too slow".into());
            for item in 0..capacity as u64 {
                assert_eq!(stream.next().unwrap().unwrap(), item);
            }
            assert!(!other.is_closed());
            assert_eq!(stream.next().unwrap().unwrap_err().message(), "too slow");
            assert!(other.is_closed(), "an error is the end");
            assert_eq!(other.try_send(7), Err(TrySendError::Closed(7)), "capacity {capacity}");
        }
    }

    #[test]
    fn an_empty_channel_wakes_who_polls_it() {
        for capacity in [0, 1] {
            let (sender, mut stream) = Stream::channel(capacity);
            let (waker, rung) = bell();
            assert!(polled(&mut stream, &waker).is_pending());
            assert!(rung.try_recv().is_err());
            let sending = std::thread::spawn(move || {
                sender.send(7).unwrap();
                sender
            });
            rung.recv_timeout(LONG).expect("an item wakes");
            assert_eq!(ready(&mut stream).unwrap().unwrap(), 7);
            let sender = sending.join().unwrap();
            assert!(polled(&mut stream, &waker).is_pending());
            drop(sender);
            rung.recv_timeout(LONG).expect("the end wakes");
            assert!(ready(&mut stream).is_none());
        }
    }

    #[test]
    fn an_item_that_owns_its_sender_can_be_dropped_with_the_stream() {
        struct Item(#[expect(dead_code, reason = "only its drop counts")] Option<Sender<Item>>);
        let (sender, stream) = Stream::channel(1);
        let own = sender.clone();
        sender.send(Item(Some(own))).unwrap_or_else(|_| panic!("there is room"));
        drop(stream);
        assert!(sender.send(Item(None)).is_err());
    }

    #[test]
    fn a_source_is_dropped_as_soon_as_it_has_ended() {
        let held = Arc::new(());
        let holding = held.clone();
        let mut items = 0..1;
        let mut stream = Stream::new(std::iter::from_fn(move || {
            let _ = &holding;
            items.next()
        }));
        assert!(stream.next().is_some());
        assert!(stream.next().is_none());
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn an_iterator_that_panics_and_whose_drop_does_is_an_error_and_no_more() {
        struct Bad;
        impl Iterator for Bad {
            type Item = u64;
            fn next(&mut self) -> Option<u64> {
                panic!("as a test")
            }
        }
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("and once more")
            }
        }
        let mut stream = Stream::new(Bad);
        let error = ready(&mut stream).unwrap().unwrap_err();
        assert!(error.message().ends_with(": as a test"), "{error}");
        assert!(ready(&mut stream).is_none());
    }

    #[test]
    fn a_panic_in_an_iterator_is_an_error_of_the_stream() {
        let mut items = [1, 2].into_iter();
        let mut stream = Stream::new(std::iter::from_fn(move || match items.next() {
            Some(2) => panic!("as a test"),
            item => item,
        }));
        assert_eq!(ready(&mut stream).unwrap().unwrap(), 1);
        let error = ready(&mut stream).unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(error.message().starts_with("the stream panicked at "), "{error}");
        assert!(error.message().ends_with(": as a test"), "{error}");
        assert!(ready(&mut stream).is_none());
    }
}
