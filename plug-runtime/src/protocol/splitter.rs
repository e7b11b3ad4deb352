//! Cuts what arrives into the preamble and frames, however it was cut on the way.

use std::ops::ControlFlow;

use super::varint::{Varint, read_varint};
use super::{MAX_FRAME, Side, is_large, memory};
use crate::error::{Code, Error, ErrorKind, Result};

/// Finds frames in a sequence of reads, and keeps what is incomplete until the rest arrives.
#[derive(Debug)]
pub(super) struct Splitter {
    /// Whose preamble is expected first; `None` once it was there.
    preamble_of: Option<Side>,
    /// The beginning of a frame (or of the preamble) whose end has not arrived.
    partial: Vec<u8>,
    /// How many bytes came before `partial`: where in the stream an error is.
    offset: u64,
}

/// What is found in the bytes that arrive.
pub(super) enum Found<'a> {
    /// A frame, without its length.
    Frame(&'a [u8]),
    /// The beginning of a frame of `len` bytes whose end has not arrived. Its length took `prefix` bytes.
    Part { bytes: &'a [u8], len: usize, prefix: usize },
}

impl Splitter {
    pub(super) fn new(preamble_of: Side) -> Splitter {
        Splitter { preamble_of: Some(preamble_of), partial: Vec::new(), offset: 0 }
    }

    /// Whether what has arrived so far ends between two frames.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.partial.is_empty()
    }

    /// How many bytes were cut into frames.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.partial.capacity()
    }

    /// Takes the next bytes of the stream, and calls `handle` for every frame that is now complete, and for the one that is
    /// not. Stops at the first error; what is behind a frame that breaks off is dropped, and so is one that is not complete if
    /// it does: it has been taken over.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut handle: impl FnMut(Found<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if self.partial.is_empty() {
            let used = self.split(bytes, &mut handle)?;
            if used == bytes.len() {
                return Ok(());
            }
            return append(&mut self.partial, &bytes[used..]);
        }
        let mut whole = std::mem::take(&mut self.partial);
        append(&mut whole, bytes)?;
        let used = self.split(&whole, &mut handle)?;
        whole.drain(..used);
        self.partial = whole;
        Ok(())
    }

    /// The first frame of `bytes`, and what is behind it, if it is there as a whole and nothing is left from before. It
    /// is for [`pass`](Self::pass) to note that it was handled. What [`feed`](Self::feed) does for the usual read, without
    /// the splitter having to be taken away from who handles the frame.
    #[inline]
    pub(super) fn first<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        if self.preamble_of.is_some() || !self.partial.is_empty() {
            return None;
        }
        let (len, behind) = match *bytes {
            [len, ref behind @ ..] if len < 0x80 => (usize::from(len), behind),
            [low, high, ref behind @ ..] if high < 0x80 => {
                (usize::from(low & 0x7f) | usize::from(high) << 7, behind)
            }
            _ => return None,
        };
        behind.split_at_checked(len)
    }

    /// The only frame of `bytes`, if they are that and nothing is left from before.
    #[inline]
    pub(super) fn only<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (frame, behind) = self.first(bytes)?;
        behind.is_empty().then_some(frame)
    }

    /// Notes that so many bytes were handled.
    #[inline]
    pub(super) fn pass(&mut self, bytes: usize) {
        self.offset += bytes as u64;
    }

    /// Gives back the memory that a large frame has taken, if there is none at the moment.
    pub(super) fn release(&mut self) {
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
    }

    pub(super) fn keeps_memory(&self) -> bool {
        is_large(self.partial.capacity())
    }

    /// Returns how many bytes were used.
    fn split(
        &mut self,
        bytes: &[u8],
        handle: &mut impl FnMut(Found<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<usize> {
        let mut used = 0;
        if let Some(side) = self.preamble_of {
            if !check_preamble(side, bytes)? {
                return Ok(0);
            }
            used = side.preamble().len();
            self.offset += used as u64;
            self.preamble_of = None;
        }
        loop {
            let rest = &bytes[used..];
            let (len, prefix) = match read_varint(rest) {
                Varint::Value(len, prefix) => (len, prefix),
                Varint::Incomplete => return Ok(used),
                Varint::TooLong => return Err(self.too_large("over 2^64")),
            };
            let len = match usize::try_from(len) {
                Ok(len) if len <= MAX_FRAME => len,
                _ => return Err(self.too_large(&len.to_string())),
            };
            let Some(frame) = rest.get(prefix..prefix + len) else {
                let part = Found::Part { bytes: &rest[prefix..], len, prefix };
                return Ok(if handle(part)?.is_break() { bytes.len() } else { used });
            };
            let flow = handle(Found::Frame(frame))?;
            used += prefix + len;
            self.offset += (prefix + len) as u64;
            if flow.is_break() {
                return Ok(bytes.len());
            }
        }
    }

    fn too_large(&self, len: &str) -> Error {
        Error::of_kind(
            ErrorKind::Protocol,
            format!("a frame of {len} bytes was announced; the limit is {MAX_FRAME}"),
        )
    }
}

/// Without memory for one frame, the connection is at its end: what comes next cannot be found.
fn append(buffer: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    if !memory::reserve(buffer, bytes.len()) {
        let len = buffer.len() + bytes.len();
        let message =
            format!("there is no memory left here for a frame, of which {len} bytes have arrived");
        let error = Error::of_kind(ErrorKind::Shutdown, message);
        return Err(error.with_code(Code::ResourceExhausted));
    }
    buffer.extend_from_slice(bytes);
    Ok(())
}

/// Whether the preamble is complete. What arrived instead of it is quoted in the error.
fn check_preamble(side: Side, bytes: &[u8]) -> Result<bool> {
    let expected = side.preamble();
    let arrived = &bytes[..bytes.len().min(expected.len())];
    if arrived == &expected[..arrived.len()] {
        return Ok(arrived.len() == expected.len());
    }
    let own = side.other().preamble();
    let message = if bytes.starts_with(&own[..arrived.len()]) {
        "it sends back what it is sent: a program that echoes its input is not a plugin".to_owned()
    } else {
        let shown = &bytes[..bytes.len().min(QUOTED)];
        format!(
            "it wrote {}{} where its hello should be: is it a plugin, and did something print to stdout before plug::run?",
            quoted(shown),
            if bytes.len() > QUOTED { "…" } else { "" },
        )
    };
    Err(Error::of_kind(ErrorKind::Handshake, message))
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

/// How much of what is not a preamble is quoted.
const QUOTED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(splitter: &mut Splitter, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        splitter.feed(bytes, |found| {
            if let Found::Frame(frame) = found {
                frames.push(frame.to_vec());
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(frames)
    }

    fn session() -> Vec<u8> {
        let mut bytes = Side::Plugin.preamble().to_vec();
        bytes.extend([3, 1, 2, 3, 0, 1, 9]);
        bytes.extend([0x80, 0x02]);
        bytes.extend([7; 256]);
        bytes
    }

    #[test]
    fn f3_every_way_to_split_gives_the_same_frames() {
        let bytes = session();
        let whole = frames(&mut Splitter::new(Side::Plugin), &bytes).unwrap();
        assert_eq!(whole.len(), 4);
        for at in 0..=bytes.len() {
            let mut splitter = Splitter::new(Side::Plugin);
            let mut found = frames(&mut splitter, &bytes[..at]).unwrap();
            found.extend(frames(&mut splitter, &bytes[at..]).unwrap());
            assert_eq!(found, whole, "split at {at}");
            assert!(splitter.is_at_boundary());
        }
        let mut splitter = Splitter::new(Side::Plugin);
        let found: Vec<_> =
            bytes.iter().flat_map(|&byte| frames(&mut splitter, &[byte]).unwrap()).collect();
        assert_eq!(found, whole, "byte by byte");
    }

    #[test]
    fn f2_the_limit_is_accepted_and_one_more_is_refused() {
        let frame = |len: usize| {
            let mut bytes = Side::Plugin.preamble().to_vec();
            bytes.extend([len as u8 | 0x80, (len >> 7) as u8 | 0x80, (len >> 14) as u8]);
            bytes.resize(bytes.len() + len, 0);
            bytes
        };
        let found = frames(&mut Splitter::new(Side::Plugin), &frame(MAX_FRAME)).unwrap();
        assert_eq!(found[0].len(), MAX_FRAME);
        let error = frames(&mut Splitter::new(Side::Plugin), &frame(MAX_FRAME + 1)).unwrap_err();
        assert!(error.message().contains("1048577"), "{error}");
        let short = [&Side::Plugin.preamble()[..], &[0, 1, 5]].concat();
        assert_eq!(
            frames(&mut Splitter::new(Side::Plugin), &short).unwrap(),
            [vec![], vec![5]],
            "lengths 0 and 1"
        );
    }

    #[test]
    fn f1_a_bogus_length_is_refused_on_the_prefix_alone() {
        for prefix in [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0xff; 10]] {
            let bytes = [&Side::Plugin.preamble()[..], prefix].concat();
            let mut splitter = Splitter::new(Side::Plugin);
            let error = frames(&mut splitter, &bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(splitter.partial.capacity() < 1024);
        }
    }

    #[test]
    fn f10_stray_text_is_quoted() {
        let error = frames(&mut Splitter::new(Side::Plugin), b"Hello\n\x1b[1m").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Handshake);
        assert!(error.message().contains(r#""Hello\n\x1b[1m""#), "{error}");
        let echo = Side::Host.preamble();
        let error = frames(&mut Splitter::new(Side::Plugin), echo).unwrap_err();
        assert!(error.message().contains("echoes"), "{error}");
    }
}
