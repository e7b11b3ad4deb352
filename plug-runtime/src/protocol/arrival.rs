//! What has arrived of a stream. Short messages lie one behind the other: memory for each of them would take longer than
//! all else that is done for them.

use std::ops::Range;

use bytes::Bytes;

#[cfg(any(test, fuzzing))]
use super::flow::Cost;

/// Messages of one stream, whole and in their order.
#[derive(Debug)]
pub(crate) enum Arrival {
    Short(Run),
    /// One that has memory of its own, which its user may keep.
    Long(Bytes),
}

/// Short messages.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Each with its length in front.
    bytes: Vec<u8>,
    /// How much of that was read.
    read: usize,
}

impl Run {
    /// With a first message.
    pub(super) fn new(message: &[u8]) -> Run {
        let mut run = Run { bytes: Vec::with_capacity(LEN + message.len()), read: 0 };
        run.push(message);
        run
    }

    /// Whether a message is short.
    pub(super) fn takes(message: &[u8]) -> bool {
        message.len() <= LONGEST
    }

    #[inline]
    pub(super) fn push(&mut self, message: &[u8]) {
        debug_assert!(Run::takes(message), "it has memory of its own");
        let len = message.len() as u16;
        self.bytes.reserve(LEN + message.len());
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(message);
    }

    /// Goes on to the next message, and says where it is.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        let [low, high, ..] = self.bytes[self.read..] else { return None };
        let begin = self.read + LEN;
        self.read = begin + usize::from(u16::from_le_bytes([low, high]));
        Some(begin..self.read)
    }

    /// Whether all messages were read.
    pub(crate) fn is_read(&self) -> bool {
        self.read == self.bytes.len()
    }

    #[inline]
    pub(crate) fn message(&self, place: Range<usize>) -> &[u8] {
        &self.bytes[place]
    }
}

#[cfg(any(test, fuzzing))]
impl Arrival {
    /// The messages by themselves, each with its part of what all of them cost.
    pub(crate) fn split(self, cost: Cost) -> Vec<(Bytes, Cost)> {
        let mut run = match self {
            Arrival::Short(run) => run,
            Arrival::Long(message) => return vec![(message, cost)],
        };
        let (mut messages, mut sum) = (Vec::new(), Cost::default());
        while let Some(place) = run.next() {
            let cost = Cost::of_whole(place.len());
            sum += cost;
            messages.push((Bytes::copy_from_slice(run.message(place)), cost));
        }
        assert_eq!(sum, cost, "what a reader gives back message by message");
        messages
    }
}

/// How long a short message is at most, in bytes: of longer ones, the bytes fields are not copied again.
const LONGEST: usize = 1 << 10;

/// How long a length is.
const LEN: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_of_a_run_as_they_were_put_in() {
        let messages: Vec<Vec<u8>> =
            [0, 1, 0, 255, 256, LONGEST].iter().map(|&len| vec![len as u8; len]).collect();
        let mut run = Run::new(&messages[0]);
        messages[1..].iter().for_each(|message| run.push(message));
        for message in &messages {
            assert!(Run::takes(message) && !run.is_read());
            let place = run.next().expect("it was put in");
            assert_eq!(run.message(place), message);
        }
        assert!(run.is_read());
        assert_eq!(run.next(), None);
        assert!(!Run::takes(&[0; LONGEST + 1]));
    }
}
