//! The usual frames of short messages: one that starts a call with its whole request, one that ends it with its whole
//! response, and one with a whole message of a stream, all without anything that few have. They are the same bytes as those
//! of any other frame; only reading and writing them is quicker.

use super::{Varint, field, flag, kind, read_varint, varint_len, wire};

/// Such a frame, without its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::protocol) struct ShortHead {
    pub(in crate::protocol) kind: u32,
    pub(in crate::protocol) call: u64,
    /// 0 for none, as `timeout_us`.
    pub(in crate::protocol) method: u32,
    pub(in crate::protocol) timeout_us: u64,
    pub(in crate::protocol) flags: u32,
}

impl ShortHead {
    /// Appends the frame, but for the bytes of its payload: exactly `payload_len` of them come next, and less than
    /// 16,000. There is room for them then.
    ///
    /// It is put together where it stays: every `push` would ask whether there is room, and a copy of what was just written
    /// byte by byte has a processor wait until all these bytes have left it (5 ns).
    #[inline(always)]
    pub(in crate::protocol) fn encode(&self, payload_len: usize, out: &mut Vec<u8>) {
        let len = self.len(payload_len);
        let before = out.len();
        out.reserve(SCRATCH + payload_len);
        out.extend_from_slice(&[0; SCRATCH]);
        let Some(bytes) = out[before..].first_chunk_mut() else { unreachable!("just made") };
        let mut head = Scratch { bytes, len: 0 };
        head.varint(len as u64);
        head.number(field::KIND, u64::from(self.kind));
        head.number(field::CALL, self.call);
        if self.method != 0 {
            head.number(field::METHOD, u64::from(self.method));
        }
        if self.timeout_us != 0 {
            head.number(field::TIMEOUT_US, self.timeout_us);
        }
        head.number(field::FLAGS, u64::from(self.flags));
        if payload_len != 0 {
            head.byte(field::PAYLOAD << 3 | wire::BYTES);
            head.varint(payload_len as u64);
        }
        let head_len = head.len;
        debug_assert_eq!(
            head_len + payload_len,
            varint_len(len as u64) + len,
            "the length in front"
        );
        out.truncate(before + head_len);
    }

    /// How long the frame is, without the length in front of it.
    #[inline(always)]
    fn len(&self, payload_len: usize) -> usize {
        let number = |value| if value < 0x80 { 2 } else { 1 + varint_len(value) };
        let unless_0 = |value| if value == 0 { 0 } else { number(value) };
        number(u64::from(self.kind))
            + number(self.call)
            + unless_0(u64::from(self.method))
            + unless_0(self.timeout_us)
            + number(u64::from(self.flags))
            + unless_0(payload_len as u64)
            + payload_len
    }
}

/// Reads a frame that ends a call, without its length: the call and the response. `None` for any other frame, well-formed
/// or not.
#[inline]
pub(in crate::protocol) fn decode_short_end(frame: &[u8]) -> Option<(u64, &[u8])> {
    const BEGIN: [u8; 3] = [NUMBER | field::KIND << 3, kind::END as u8, NUMBER | field::CALL << 3];
    let mut rest = frame.strip_prefix(&BEGIN)?;
    let call = take_number(&mut rest)?;
    Some((call, payload(rest.strip_prefix(&FLAGS_LAST)?)?))
}

/// Reads a frame with a whole message of a stream, without its length: the call and the message. `None` for any other
/// frame, well-formed or not.
#[inline]
pub(in crate::protocol) fn decode_short_item(frame: &[u8]) -> Option<(u64, &[u8])> {
    const BEGIN: [u8; 3] =
        [NUMBER | field::KIND << 3, kind::MESSAGE as u8, NUMBER | field::CALL << 3];
    let mut rest = frame.strip_prefix(&BEGIN)?;
    let call = take_number(&mut rest)?;
    Some((call, payload(rest.strip_prefix(&FLAGS_LAST)?)?))
}

/// Reads a frame that starts a call, without its length: its head and the request. `None` for any other frame, well-formed
/// or not.
#[inline]
pub(in crate::protocol) fn decode_short_open(frame: &[u8]) -> Option<(ShortHead, &[u8])> {
    const BEGIN: [u8; 3] = [NUMBER | field::KIND << 3, kind::OPEN as u8, NUMBER | field::CALL << 3];
    const METHOD: [u8; 1] = [NUMBER | field::METHOD << 3];
    const TIMEOUT: [u8; 1] = [NUMBER | field::TIMEOUT_US << 3];
    const FLAGS: [u8; 2] = [NUMBER | field::FLAGS << 3, flag::LAST as u8 | flag::HALF_CLOSE as u8];
    let mut rest = frame.strip_prefix(&BEGIN)?;
    let call = take_number(&mut rest)?;
    rest = rest.strip_prefix(&METHOD)?;
    let method = take_number(&mut rest)? as u32;
    let mut timeout_us = 0;
    if let Some(behind) = rest.strip_prefix(&TIMEOUT) {
        rest = behind;
        timeout_us = take_number(&mut rest)?;
    }
    let payload = payload(rest.strip_prefix(&FLAGS)?)?;
    let flags = flag::LAST | flag::HALF_CLOSE;
    Some((ShortHead { kind: kind::OPEN, call, method, timeout_us, flags }, payload))
}

/// What comes last in a frame, if that is a payload or nothing.
#[inline(always)]
fn payload(mut rest: &[u8]) -> Option<&[u8]> {
    if rest.is_empty() {
        return Some(rest);
    }
    rest = rest.strip_prefix(&[field::PAYLOAD << 3 | wire::BYTES])?;
    let len = take_number(&mut rest)?;
    (len == rest.len() as u64).then_some(rest)
}

#[inline(always)]
fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let (value, len) = match **rest {
        [first, ..] if first < 0x80 => (u64::from(first), 1),
        [low, high, ..] if high < 0x80 => (u64::from(low & 0x7f) | u64::from(high) << 7, 2),
        _ => match read_varint(rest) {
            Varint::Value(value, len) => (value, len),
            Varint::Incomplete | Varint::TooLong => return None,
        },
    };
    *rest = &rest[len..];
    Some(value)
}

/// Where a head is put together.
struct Scratch<'a> {
    bytes: &'a mut [u8; SCRATCH],
    len: usize,
}

impl Scratch<'_> {
    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        // It is never so long. Without the remainder there is a branch to a panic for each byte.
        self.bytes[self.len % SCRATCH] = byte;
        self.len += 1;
    }

    #[inline(always)]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    #[inline(always)]
    fn number(&mut self, field: u8, value: u64) {
        self.byte(field << 3 | NUMBER);
        self.varint(value);
    }
}

const NUMBER: u8 = wire::VARINT;

const FLAGS_LAST: [u8; 2] = [NUMBER | field::FLAGS << 3, flag::LAST as u8];

/// More than a head takes: a length of two bytes, five fields of a tag and at most ten bytes, and the head of a payload.
const SCRATCH: usize = 64;

/// Whatever bytes are read as a short frame, the general way reads the same from them.
#[cfg(any(test, fuzzing))]
pub(in crate::protocol) fn is_read_alike(bytes: &[u8]) -> bool {
    use super::Frame;
    let general = Frame::decode(bytes).ok();
    let end = decode_short_end(bytes).map(|(call, payload)| Frame {
        kind: kind::END,
        call,
        flags: flag::LAST,
        payload,
        ..Frame::default()
    });
    let open = decode_short_open(bytes).map(|(head, payload)| {
        let ShortHead { kind, call, method, timeout_us, flags } = head;
        Frame { kind, call, method, timeout_us, flags, payload, ..Frame::default() }
    });
    let item = decode_short_item(bytes).map(|(call, payload)| Frame {
        kind: kind::MESSAGE,
        call,
        flags: flag::LAST,
        payload,
        ..Frame::default()
    });
    [end, open, item].into_iter().flatten().all(|short| Some(short) == general)
}

#[cfg(test)]
mod tests {
    use super::super::Frame;
    use super::*;

    #[test]
    fn short_frames_are_the_bytes_of_any_frame_and_are_read_alike() {
        let calls = [1, 2, 0x7f, 0x80, 0x3fff, 0x4000, 1 << 21, u64::MAX];
        let timeouts = [0, 1, 0x80, 1 << 40, u64::MAX];
        let lens = [0, 1, 0x60, 0x70, 0x7f, 0x80, 4096];
        let all = calls.iter().flat_map(|&call| {
            timeouts.iter().flat_map(move |&timeout| lens.map(|len| (call, timeout, len)))
        });
        // All of them take Miri minutes.
        for (call, timeout_us, len) in all.step_by(if cfg!(miri) { 11 } else { 1 }) {
            let payload = vec![7; len];
            let flags = flag::LAST | flag::HALF_CLOSE;
            for method in [1, 0x80, u32::MAX] {
                let head = ShortHead { kind: kind::OPEN, call, method, timeout_us, flags };
                let frame =
                    Frame { kind: kind::OPEN, call, method, timeout_us, flags, ..Frame::default() };
                let bytes = encoded_alike(&head, &Frame { payload: &payload, ..frame });
                assert_eq!(decode_short_open(&bytes), Some((head, &payload[..])));
                assert!(is_read_alike(&bytes));
            }
            let flags = flag::LAST;
            let head = ShortHead { kind: kind::END, call, method: 0, timeout_us: 0, flags };
            let frame =
                Frame { kind: kind::END, call, flags, payload: &payload, ..Frame::default() };
            let bytes = encoded_alike(&head, &frame);
            assert_eq!(decode_short_end(&bytes), Some((call, &payload[..])));
            assert!(is_read_alike(&bytes));
            let head = ShortHead { kind: kind::MESSAGE, ..head };
            let bytes = encoded_alike(&head, &Frame { kind: kind::MESSAGE, ..frame });
            assert_eq!(decode_short_item(&bytes), Some((call, &payload[..])));
            assert!(is_read_alike(&bytes));
        }
    }

    /// The frame without its length, which both write.
    fn encoded_alike(head: &ShortHead, frame: &Frame<'_>) -> Vec<u8> {
        let (mut short, mut general) = (vec![9; 3], vec![9; 3]);
        head.encode(frame.payload.len(), &mut short);
        short.extend_from_slice(frame.payload);
        frame.encode(&mut general);
        assert_eq!(short, general, "{frame:?}");
        let Varint::Value(len, prefix) = read_varint(&general[3..]) else { panic!("no length") };
        assert_eq!(len as usize, general.len() - 3 - prefix);
        general.split_off(3 + prefix)
    }

    /// Each byte in turn is another one, is missing, or is the last.
    #[test]
    fn what_is_nearly_a_short_frame_is_read_alike_or_not_at_all() {
        let open = [8, 2, 16, 0x81, 1, 24, 3, 32, 0x80, 8, 48, 3, 0x7a, 2, 1, 2];
        let end = [8, 4, 16, 0x81, 1, 48, 1, 0x7a, 2, 1, 2];
        let item = [8, 3, 16, 0x81, 1, 48, 1, 0x7a, 2, 1, 2];
        assert!(decode_short_open(&open).is_some() && decode_short_end(&end).is_some());
        assert!(decode_short_item(&item).is_some());
        for bytes in [&open[..], &end, &item] {
            for at in 0..bytes.len() {
                assert!(is_read_alike(&bytes[..at]));
                assert!(is_read_alike(&[&bytes[..at], &bytes[at + 1..]].concat()));
                for byte in (0..=255).step_by(if cfg!(miri) { 17 } else { 1 }) {
                    let mut other = bytes.to_vec();
                    other[at] = byte;
                    assert!(is_read_alike(&other), "{other:02x?}");
                }
            }
        }
    }
}
