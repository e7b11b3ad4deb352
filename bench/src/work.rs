//! What is measured, and how much of it.

use std::time::Duration;

/// What all candidates that can do it are measured at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Echo64,
    Echo64Paused,
    Echo64Rare,
    Echo64X32,
    Echo1M,
    Echo64M,
    Stream64,
    Stream64K,
    Start,
    Memory,
}

/// How a candidate is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One caller, one call after the other.
    Echo,
    /// Many callers at once.
    Callers(usize),
    /// One call, whose response is a stream.
    Stream,
    /// A child is started and called once.
    Start,
    /// A child that has answered a call, and does nothing.
    Memory,
}

/// What a candidate does in one round.
#[derive(Clone, Debug)]
pub struct Job {
    pub kind: Kind,
    /// Calls, items or starts, of all callers together.
    pub calls: usize,
    /// Before each call.
    pub pause: Duration,
    pub payload: Vec<u8>,
}

impl Work {
    pub const ALL: [Work; 10] = [
        Work::Echo64,
        Work::Echo64Paused,
        Work::Echo64Rare,
        Work::Echo64X32,
        Work::Echo1M,
        Work::Echo64M,
        Work::Stream64,
        Work::Stream64K,
        Work::Start,
        Work::Memory,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Work::Echo64 => "echo64",
            Work::Echo64Paused => "echo64-paused",
            Work::Echo64Rare => "echo64-rare",
            Work::Echo64X32 => "echo64-x32",
            Work::Echo1M => "echo1m",
            Work::Echo64M => "echo64m",
            Work::Stream64 => "stream64",
            Work::Stream64K => "stream64k",
            Work::Start => "start",
            Work::Memory => "memory",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Work::Echo64 => "64 B echo, one caller, back to back",
            Work::Echo64Paused => "64 B echo, one caller, each call after a pause of 300 µs",
            Work::Echo64Rare => "64 B echo, one caller, each call after a pause of 10 ms",
            Work::Echo64X32 => {
                "64 B echo, 32 callers at once (raw ones: one); µs are the time of all over the calls"
            }
            Work::Echo1M => "1 MiB echo, one caller, back to back",
            Work::Echo64M => "64 MiB echo, one caller, back to back",
            Work::Stream64 => "stream of 64 B items to the caller; a call is an item",
            Work::Stream64K => "stream of 64 KiB items to the caller; a call is an item",
            Work::Start => "from the start of the child to its first reply",
            Work::Memory => "an idle child; KiB (PSS) in place of µs",
        }
    }

    /// The bytes of a message, of one call or item.
    pub fn size(self) -> usize {
        match self {
            Work::Echo1M => 1 << 20,
            Work::Echo64M => 64 << 20,
            Work::Stream64K => 64 << 10,
            _ => 64,
        }
    }

    pub fn kind(self) -> Kind {
        match self {
            Work::Echo64 | Work::Echo64Paused | Work::Echo64Rare => Kind::Echo,
            Work::Echo1M | Work::Echo64M => Kind::Echo,
            Work::Echo64X32 => Kind::Callers(32),
            Work::Stream64 | Work::Stream64K => Kind::Stream,
            Work::Start => Kind::Start,
            Work::Memory => Kind::Memory,
        }
    }

    pub fn job(self, quick: bool) -> Job {
        let calls = match (self, quick) {
            (Work::Echo64, false) => 2_000,
            (Work::Echo64, true) => 400,
            (Work::Echo64Paused, false) => 200,
            (Work::Echo64Paused, true) => 50,
            (Work::Echo64Rare, false) => 20,
            (Work::Echo64Rare, true) => 5,
            (Work::Echo64X32, false) => 16_000,
            (Work::Echo64X32, true) => 3_200,
            (Work::Echo1M, false) => 20,
            (Work::Echo1M, true) => 5,
            (Work::Echo64M, false) => 3,
            (Work::Stream64, false) => 50_000,
            (Work::Stream64, true) => 5_000,
            (Work::Stream64K, false) => 500,
            (Work::Stream64K, true) => 50,
            (Work::Start, false) => 10,
            (Work::Start, true) => 2,
            (Work::Echo64M, true) | (Work::Memory, _) => 1,
        };
        let pause = Duration::from_micros(match self {
            Work::Echo64Paused => 300,
            Work::Echo64Rare => 10_000,
            _ => 0,
        });
        Job { kind: self.kind(), calls, pause, payload: payload(self.size()) }
    }

    /// The rounds that count; one more before them warms up.
    pub fn rounds(self, quick: bool) -> usize {
        match (self, quick) {
            (Work::Echo64 | Work::Echo64Paused, false) => 40,
            (Work::Echo1M, false) => 20,
            (Work::Echo64X32 | Work::Stream64 | Work::Stream64K, false) => 15,
            (Work::Echo64Rare | Work::Start, false) => 10,
            (Work::Echo64M | Work::Memory, false) => 5,
            (Work::Echo64M | Work::Memory, true) => 1,
            (_, true) => 3,
        }
    }
}

/// A message of that many bytes, which is text, so that JSON can carry it as it is.
///
/// Byte by byte it would take as long to make as a small item takes to be sent.
pub fn payload(size: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(size);
    while payload.len() < size {
        payload.extend_from_slice(&ALPHABET[..ALPHABET.len().min(size - payload.len())]);
    }
    payload
}

const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// The item of a stream with that number: a payload that begins with the number.
pub fn item(number: usize, size: usize) -> Vec<u8> {
    let mut item = payload(size);
    label(&mut item, number);
    item
}

/// Writes the number into the first eight bytes of an item, as text.
pub fn label(item: &mut [u8], number: usize) {
    for (digit, byte) in item.iter_mut().take(8).enumerate() {
        *byte = b'a' + ((number >> (4 * digit)) & 15) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_have_the_names_that_the_csv_promises() {
        let names: Vec<_> = Work::ALL.iter().map(|work| work.name()).collect();
        let promised = "echo64 echo64-paused echo64-rare echo64-x32 echo1m echo64m stream64 stream64k start memory";
        assert_eq!(names.join(" "), promised);
    }

    #[test]
    fn an_item_is_text_and_tells_its_number() {
        assert_eq!(payload(30), b"abcdefghijklmnopqrstuvwxyzabcd");
        assert_eq!(item(0x321, 10), b"bcdaaaaaij");
        assert_ne!(item(16, 64), item(17, 64));
    }

    #[test]
    fn a_quick_run_does_less_of_each_work() {
        for work in Work::ALL {
            assert!(work.rounds(true) <= work.rounds(false), "{work:?}");
            assert!(work.job(true).calls <= work.job(false).calls, "{work:?}");
        }
    }
}
