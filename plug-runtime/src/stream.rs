//! Streams of messages: the response or request of a streaming method.

use std::fmt;
use std::sync::mpsc;

use crate::error::Result;

/// A sequence of messages that arrives over time: an iterator of [`Result<T>`](crate::Result).
///
/// This version of the runtime has the type, so that generated code and the traits that plugins
/// implement are final, but carries unary calls only: a streaming method fails with
/// [`ErrorKind::Unimplemented`](crate::ErrorKind::Unimplemented).
///
/// ```
/// let stream = plug::Stream::new([1, 2, 3]);
/// let items: plug::Result<Vec<i32>> = stream.collect();
/// assert_eq!(items.unwrap(), [1, 2, 3]);
/// ```
pub struct Stream<T> {
    items: Box<dyn Iterator<Item = Result<T>> + Send>,
}

/// The sending half of [`Stream::channel`].
#[derive(Debug)]
pub struct Sender<T> {
    items: mpsc::SyncSender<Result<T>>,
}

/// What can be sent as a stream: a [`Stream`] itself, or anything that iterates over items.
pub trait IntoStream<T> {
    /// Turns `self` into a stream.
    fn into_stream(self) -> Stream<T>;
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
        let mut items = items.into_iter();
        let mut failed = false;
        let until_error = std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let item = items.next();
            failed = matches!(item, Some(Err(_)));
            item
        });
        Stream { items: Box::new(until_error) }
    }

    /// A stream fed by a [`Sender`] from another thread, which waits while `capacity` items are unread.
    pub fn channel(capacity: usize) -> (Sender<T>, Stream<T>) {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        (Sender { items: sender }, Stream::from_results(receiver))
    }
}

impl<T> Iterator for Stream<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        self.items.next()
    }
}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl<T> Sender<T> {
    /// Sends an item, waiting while the stream is full. Returns the item if the stream was dropped.
    pub fn send(&self, item: T) -> std::result::Result<(), T> {
        self.items.send(Ok(item)).map_err(|mpsc::SendError(item)| match item {
            Ok(item) => item,
            Err(_) => unreachable!("an item was sent, and it comes back as it was"),
        })
    }

    /// Ends the stream with an error.
    pub fn fail(self, error: crate::Error) {
        // If the stream was dropped, nobody is left to hear of the error.
        let _ = self.items.send(Err(error));
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { items: self.items.clone() }
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

    #[test]
    fn nothing_follows_an_error() {
        let mut stream = Stream::from_results([Ok(1), Err("bad".into()), Ok(2)]);
        assert_eq!(stream.next().unwrap().unwrap(), 1);
        assert_eq!(stream.next().unwrap().unwrap_err().message(), "bad");
        assert!(stream.next().is_none());
    }

    #[test]
    fn a_sender_whose_stream_is_gone_gets_its_item_back() {
        let (sender, stream) = Stream::channel(1);
        drop(stream);
        assert_eq!(sender.send(7), Err(7));
    }
}
