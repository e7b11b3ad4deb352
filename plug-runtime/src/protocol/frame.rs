//! One frame: the protobuf message `Frame` of `frame.proto`, coded by hand.
//!
//! A message of a hand-written codec costs 46 ns a round trip over a fixed header, one made by a
//! derive 190 ns. `tests` hold it against the schema.

mod short;

use bytes::Bytes;

use super::varint::{MAX_VARINT, Varint, put_varint, read_varint, varint_len};
use crate::error::{Error, ErrorKind, Result};
#[cfg(any(test, fuzzing))]
pub(super) use short::is_read_alike;
pub(super) use short::{ShortHead, decode_short_end, decode_short_item, decode_short_open};

/// What a frame is for. Numbers of 64 and above may be ignored by those who do not know them.
pub(crate) mod kind {
    /// The first frame of each side. Its payload is a [`Hello`](super::super::Hello).
    pub(crate) const HELLO: u32 = 1;
    /// Starts a call. Carries the first fragment of the request.
    pub(crate) const OPEN: u32 = 2;
    /// The next fragment of a message.
    pub(crate) const MESSAGE: u32 = 3;
    /// Ends a call, from the side that serves it. Carries the last fragment of the response, or an error.
    pub(crate) const END: u32 = 4;
    /// The caller no longer wants the outcome of a call.
    pub(crate) const CANCEL: u32 = 5;
    /// Says how much of a stream, or of all streams, the other side may have sent.
    pub(crate) const CREDIT: u32 = 6;
    /// Asks for a pong.
    pub(crate) const PING: u32 = 7;
    /// Answers a ping.
    pub(crate) const PONG: u32 = 8;
    /// Wants no more calls; the connection ends when those under way have ended.
    pub(crate) const GOODBYE: u32 = 9;
    /// The plugin can be called.
    pub(crate) const READY: u32 = 10;
    /// Asks for memory to share, offers it or declines it.
    pub(crate) const MEMORY: u32 = 11;
    /// What its sender sends from now on is in the memory.
    pub(crate) const SWITCH: u32 = 12;
    /// The first kind that a receiver may ignore.
    pub(crate) const IGNORABLE: u32 = 64;
    /// A record of the plugin's log.
    pub(crate) const LOG: u32 = 64;
    /// Which records the host wants.
    pub(crate) const LEVEL: u32 = 65;
    /// What a frame becomes that is not to be sent after all. Nobody knows it, so everybody ignores it.
    pub(crate) const VOID: u32 = 127;
}

/// Bits of [`Frame::flags`].
pub(crate) mod flag {
    /// This frame has the last (or only) fragment of a message.
    pub(crate) const LAST: u32 = 1;
    /// The sender sends no more messages in this call.
    pub(crate) const HALF_CLOSE: u32 = 2;
    /// On an [`END`](super::kind::END) with an error: the handler was not started.
    pub(crate) const NOT_STARTED: u32 = 4;
    /// All that have a meaning.
    pub(crate) const ALL: u32 = LAST | HALF_CLOSE | NOT_STARTED;
}

/// A frame, with its payload and text borrowed from where it was read or is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u32,
    pub(crate) call: u64,
    pub(crate) method: u32,
    pub(crate) timeout_us: u64,
    pub(crate) within: u64,
    pub(crate) flags: u32,
    pub(crate) total: u64,
    pub(crate) credit: u64,
    pub(crate) code: u32,
    pub(crate) message: &'a str,
    pub(crate) metadata: Metadata<'a>,
    pub(crate) payload: &'a [u8],
}

/// The metadata of a frame, which few frames have: they are not read before they are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Metadata<'a> {
    #[default]
    None,
    /// To be sent.
    Pairs(&'a [(String, Bytes)]),
    /// Somewhere in this frame.
    Encoded(&'a [u8]),
}

impl Metadata<'_> {
    /// The pairs, in their order.
    pub(crate) fn read(&self) -> Result<Vec<(String, Bytes)>> {
        let mut pairs = Vec::new();
        match self {
            Metadata::None => {}
            Metadata::Pairs(given) => pairs.extend_from_slice(given),
            Metadata::Encoded(frame) => fields(frame, |number, value| {
                if let (field::METADATA, Value::Bytes(pair)) = (number, value) {
                    pairs.push(read_pair(pair)?);
                }
                Ok(())
            })?,
        }
        Ok(pairs)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let Metadata::Pairs(pairs) = self else { return };
        for (key, value) in *pairs {
            let value_len = |bytes: usize| 1 + varint_len(bytes as u64) + bytes;
            out.push(field::METADATA << 3 | wire::BYTES);
            put_varint(out, (value_len(key.len()) + value_len(value.len())) as u64);
            for (number, bytes) in [(field::KEY, key.as_bytes()), (field::VALUE, value.as_ref())] {
                out.push(number << 3 | wire::BYTES);
                put_varint(out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
    }
}

fn read_pair(bytes: &[u8]) -> Result<(String, Bytes)> {
    let (mut key, mut pair_value) = (String::new(), Bytes::new());
    fields(bytes, |number, value| {
        match (number, value) {
            (field::KEY, Value::Bytes(bytes)) => key = text(bytes)?.to_owned(),
            (field::VALUE, Value::Bytes(bytes)) => pair_value = Bytes::copy_from_slice(bytes),
            _ => {}
        }
        Ok(())
    })?;
    Ok((key, pair_value))
}

impl Frame<'_> {
    /// Appends the frame, but for the bytes of its payload: exactly `payload_len` of them come next. There is room then for
    /// the `room` of them that the caller appends. [`Frame::payload`] is not looked at.
    pub(crate) fn encode_head(&self, payload_len: usize, room: usize, out: &mut Vec<u8>) {
        // One pass, with the length put in front afterwards. Counting it first, or assembling the head
        // elsewhere, costs 80 to 150 instructions more.
        let begin = out.len();
        out.reserve(HEAD_AT_MOST + self.message.len() + room);
        out.push(0);
        put_number(out, field::KIND, u64::from(self.kind));
        put_number(out, field::CALL, self.call);
        put_number(out, field::METHOD, u64::from(self.method));
        put_number(out, field::TIMEOUT_US, self.timeout_us);
        put_number(out, field::WITHIN, self.within);
        put_number(out, field::FLAGS, u64::from(self.flags));
        if self.total | self.credit | u64::from(self.code) != 0
            || !self.message.is_empty()
            || !matches!(self.metadata, Metadata::None)
        {
            self.encode_rare(out);
        }
        if payload_len != 0 {
            out.push(field::PAYLOAD << 3 | wire::BYTES);
            put_varint(out, payload_len as u64);
        }
        let len = (out.len() - begin - 1 + payload_len) as u64;
        if len < 0x80 {
            out[begin] = len as u8;
        } else {
            insert_long_len(out, begin, len);
        }
    }

    /// Appends what few frames have. Apart, so that the others do not come by its code.
    #[cold]
    fn encode_rare(&self, out: &mut Vec<u8>) {
        put_number(out, field::TOTAL, self.total);
        put_number(out, field::CREDIT, self.credit);
        put_number(out, field::CODE, u64::from(self.code));
        if !self.message.is_empty() {
            out.push(field::MESSAGE << 3 | wire::BYTES);
            put_varint(out, self.message.len() as u64);
            out.extend_from_slice(self.message.as_bytes());
        }
        self.metadata.encode(out);
    }

    /// Appends the frame.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(self.payload.len(), self.payload.len(), out);
        out.extend_from_slice(self.payload);
    }
}

impl<'a> Frame<'a> {
    /// Reads a frame from its bytes, without the length. Fields may come in any order; the last of
    /// several with the same number counts; unknown ones are skipped.
    #[inline]
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Frame<'a>> {
        match Frame::decode_usual(bytes) {
            Some(frame) => Ok(frame),
            None => Frame::decode_any(bytes),
        }
    }

    /// Reads a frame as `encode` writes those of calls: a few numbers in their order, then the payload to
    /// the end. `None` for any other, well-formed or not. It takes a quarter of the instructions.
    #[inline]
    fn decode_usual(bytes: &'a [u8]) -> Option<Frame<'a>> {
        const NUMBER: u8 = wire::VARINT;
        let mut rest = bytes;
        let mut frame = Frame {
            kind: take_usual(&mut rest, field::KIND << 3 | NUMBER)? as u32,
            call: take_usual(&mut rest, field::CALL << 3 | NUMBER)?,
            method: take_usual(&mut rest, field::METHOD << 3 | NUMBER)? as u32,
            timeout_us: take_usual(&mut rest, field::TIMEOUT_US << 3 | NUMBER)?,
            within: take_usual(&mut rest, field::WITHIN << 3 | NUMBER)?,
            flags: take_usual(&mut rest, field::FLAGS << 3 | NUMBER)? as u32,
            ..Frame::default()
        };
        if rest.is_empty() {
            return Some(frame);
        }
        let len = take_usual(&mut rest, field::PAYLOAD << 3 | wire::BYTES)?;
        frame.payload = rest;
        (len == rest.len() as u64 && len != 0).then_some(frame)
    }

    /// Reads the head of a frame of `len` bytes, of which the first have arrived, but for the length. `None` unless all but
    /// the payload has, which must come last, and the head is not longer than any that is sent. Returns where the payload
    /// begins as well.
    pub(crate) fn decode_head(bytes: &'a [u8], len: usize) -> Option<(Frame<'a>, usize)> {
        let mut rest = bytes;
        while bytes.len() - rest.len() < LONGEST_HEAD {
            let before = rest.len();
            let tag = take_varint(&mut rest).ok()?;
            let value = take_varint(&mut rest).ok()?;
            if tag == u64::from(field::PAYLOAD << 3 | wire::BYTES) {
                let head = bytes.len() - rest.len();
                let is_last = len.checked_sub(head).is_some_and(|rest| rest as u64 == value);
                let frame = Frame::decode_any(&bytes[..bytes.len() - before]).ok()?;
                return is_last.then_some((frame, head));
            }
            match (tag & 7) as u8 {
                wire::VARINT => {}
                wire::BYTES => drop(take(&mut rest, value).ok()?),
                _ => return None,
            }
        }
        None
    }

    fn decode_any(bytes: &'a [u8]) -> Result<Frame<'a>> {
        let mut frame = Frame::default();
        fields(bytes, |number, value| {
            match (number, value) {
                (field::KIND, Value::Number(value)) => frame.kind = value as u32,
                (field::CALL, Value::Number(value)) => frame.call = value,
                (field::METHOD, Value::Number(value)) => frame.method = value as u32,
                (field::TIMEOUT_US, Value::Number(value)) => frame.timeout_us = value,
                (field::WITHIN, Value::Number(value)) => frame.within = value,
                (field::FLAGS, Value::Number(value)) => frame.flags = value as u32,
                (field::TOTAL, Value::Number(value)) => frame.total = value,
                (field::CREDIT, Value::Number(value)) => frame.credit = value,
                (field::CODE, Value::Number(value)) => frame.code = value as u32,
                (field::MESSAGE, Value::Bytes(value)) => frame.message = text(value)?,
                (field::METADATA, Value::Bytes(_)) => frame.metadata = Metadata::Encoded(bytes),
                (field::PAYLOAD, Value::Bytes(value)) => frame.payload = value,
                _ => {}
            }
            Ok(())
        })?;
        Ok(frame)
    }
}

/// The value of a field of a kind that is used here.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Goes through the fields of a message. Numbers over 255 come as 255, which no field has.
fn fields<'a>(
    mut bytes: &'a [u8],
    mut field: impl FnMut(u8, Value<'a>) -> Result<()>,
) -> Result<()> {
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes)?;
        let (number, wire_type) = (tag >> 3, (tag & 7) as u8);
        if number == 0 || tag > u64::from(u32::MAX) {
            return Err(malformed("a field has an invalid number"));
        }
        let number = u8::try_from(number).unwrap_or(u8::MAX);
        match wire_type {
            wire::VARINT => field(number, Value::Number(take_varint(&mut bytes)?))?,
            wire::BYTES => {
                let len = take_varint(&mut bytes)?;
                field(number, Value::Bytes(take(&mut bytes, len)?))?;
            }
            wire::FIXED64 => drop(take(&mut bytes, 8)?),
            wire::FIXED32 => drop(take(&mut bytes, 4)?),
            _ => return Err(malformed("a field has an invalid wire type")),
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| malformed("a text in it is not UTF-8"))
}

/// From where on nobody looks for a payload: a head that comes byte by byte is looked at with each of them.
const LONGEST_HEAD: usize = 4 << 10;

/// The longest error text that is sent, in bytes.
const MAX_TEXT: usize = 64 << 10;

/// Field numbers of `Frame`, but for the last two.
mod field {
    pub(super) const KIND: u8 = 1;
    pub(super) const CALL: u8 = 2;
    pub(super) const METHOD: u8 = 3;
    pub(super) const TIMEOUT_US: u8 = 4;
    pub(super) const WITHIN: u8 = 5;
    pub(super) const FLAGS: u8 = 6;
    pub(super) const TOTAL: u8 = 7;
    pub(super) const CREDIT: u8 = 8;
    pub(super) const CODE: u8 = 9;
    pub(super) const MESSAGE: u8 = 10;
    pub(super) const METADATA: u8 = 11;
    pub(super) const PAYLOAD: u8 = 15;
    /// Of a `Pair`.
    pub(super) const KEY: u8 = 1;
    pub(super) const VALUE: u8 = 2;
}

/// Protobuf's wire types.
mod wire {
    pub(super) const VARINT: u8 = 0;
    pub(super) const FIXED64: u8 = 1;
    pub(super) const BYTES: u8 = 2;
    pub(super) const FIXED32: u8 = 5;
}

/// The text of an error, cut to what fits into one frame beside everything else.
pub(super) fn within_frame(text: &str) -> std::borrow::Cow<'_, str> {
    if text.len() <= MAX_TEXT {
        return text.into();
    }
    let end = (0..=MAX_TEXT).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}… ({} bytes in all)", &text[..end], text.len()).into()
}

/// The number behind a tag, if that comes next; 0 if not; `None` if it is cut.
#[inline(always)]
fn take_usual(rest: &mut &[u8], tag: u8) -> Option<u64> {
    match **rest {
        [first, value, ref behind @ ..] if first == tag && value < 0x80 => {
            *rest = behind;
            Some(u64::from(value))
        }
        [first, ref behind @ ..] if first == tag => match read_varint(behind) {
            Varint::Value(value, len) => {
                *rest = &behind[len..];
                Some(value)
            }
            Varint::Incomplete | Varint::TooLong => None,
        },
        _ => Some(0),
    }
}

#[inline(always)]
fn take_varint(bytes: &mut &[u8]) -> Result<u64> {
    match **bytes {
        [first, ref rest @ ..] if first < 0x80 => {
            *bytes = rest;
            Ok(u64::from(first))
        }
        _ => take_long_varint(bytes),
    }
}

#[cold]
fn take_long_varint(bytes: &mut &[u8]) -> Result<u64> {
    match read_varint(bytes) {
        Varint::Value(value, len) => {
            *bytes = &bytes[len..];
            Ok(value)
        }
        Varint::Incomplete => Err(malformed("it ends inside a number")),
        Varint::TooLong => Err(malformed("a number has more than 64 bits")),
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Result<&'a [u8]> {
    let len = usize::try_from(len).ok().filter(|&len| len <= bytes.len());
    let (value, rest) = bytes.split_at(len.ok_or_else(|| malformed("it ends inside a field"))?);
    *bytes = rest;
    Ok(value)
}

fn malformed(what: &str) -> Error {
    Error::of_kind(ErrorKind::Protocol, format!("a frame is malformed: {what}"))
}

/// The most that a frame adds to its text and payload: a length, and eleven fields, each with a tag of one
/// byte and a number.
const HEAD_AT_MOST: usize = MAX_VARINT + 11 * (1 + MAX_VARINT);

/// Appends a field, unless it has its default.
#[inline(always)]
fn put_number(out: &mut Vec<u8>, number: u8, value: u64) {
    if value != 0 {
        out.push(number << 3 | wire::VARINT);
        put_varint(out, value);
    }
}

/// Puts the length of a frame in front of it, in place of the one byte there: the head moves back by what the length
/// takes beyond that.
#[inline(never)]
fn insert_long_len(out: &mut Vec<u8>, begin: usize, len: u64) {
    let end = out.len();
    put_varint(out, len);
    let width = out.len() - end;
    let mut prefix = [0; MAX_VARINT];
    prefix[..width].copy_from_slice(&out[end..]);
    out.truncate(end + width - 1);
    out.copy_within(begin + 1..end, begin + width);
    out[begin..begin + width].copy_from_slice(&prefix[..width]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(frame: &Frame<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    }

    fn full() -> Frame<'static> {
        Frame {
            kind: kind::OPEN,
            call: u64::MAX,
            method: 300,
            timeout_us: 1,
            within: 2,
            flags: 3,
            total: 1 << 40,
            credit: 5,
            code: 6,
            message: "text",
            metadata: Metadata::None,
            payload: b"payload",
        }
    }

    #[test]
    fn a_frame_survives_encoding() {
        for frame in [full(), Frame::default(), Frame { kind: kind::END, ..Frame::default() }] {
            let bytes = encoded(&frame);
            let Varint::Value(len, prefix) = read_varint(&bytes) else { panic!("no length") };
            assert_eq!(len as usize, bytes.len() - prefix);
            assert_eq!(Frame::decode(&bytes[prefix..]).unwrap(), frame);
        }
    }

    #[test]
    fn the_longest_head_fits() {
        let frame = Frame {
            kind: u32::MAX,
            call: u64::MAX,
            method: u32::MAX,
            timeout_us: u64::MAX,
            within: u64::MAX,
            flags: u32::MAX,
            total: u64::MAX,
            credit: u64::MAX,
            code: u32::MAX,
            message: "text",
            metadata: Metadata::None,
            payload: &[],
        };
        let mut bytes = Vec::new();
        frame.encode_head(1 << 20, 0, &mut bytes);
        assert!(bytes.len() <= HEAD_AT_MOST + frame.message.len());
    }

    #[test]
    fn fields_come_in_any_order_and_unknown_ones_are_skipped() {
        // payload, an unknown varint 99, an unknown fixed64 20, an unknown fixed32 21, kind.
        let bytes = [
            &[0x7a, 2, b'h', b'i'][..],
            &[0x98, 0x06, 0x07],
            &[0xa1, 0x01, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xad, 0x01, 0, 0, 0, 0],
            &[0x08, 0x04],
        ]
        .concat();
        let expected = Frame { kind: kind::END, payload: b"hi", ..Frame::default() };
        assert_eq!(Frame::decode(&bytes).unwrap(), expected);
    }

    #[test]
    fn a_cut_frame_is_an_error_or_shorter_never_a_panic() {
        let bytes = encoded(&full());
        for end in 1..bytes.len() {
            // The first byte is the length. A cut between fields leaves a frame with fewer fields.
            let _ = Frame::decode(&bytes[1..end]);
        }
    }

    #[test]
    fn the_usual_way_and_the_general_one_read_the_same() {
        let usual = [
            Frame {
                kind: kind::OPEN,
                call: 7,
                method: 2,
                flags: 3,
                payload: b"x",
                ..Frame::default()
            },
            Frame {
                kind: kind::END,
                call: 1 << 40,
                flags: 1,
                payload: &[9; 300],
                ..Frame::default()
            },
            Frame { kind: kind::END, call: 9, flags: 1, ..Frame::default() },
        ];
        for frame in usual {
            let bytes = encoded(&frame);
            let Varint::Value(_, prefix) = read_varint(&bytes) else { panic!("no length") };
            let bytes = &bytes[prefix..];
            assert_eq!(Frame::decode_usual(bytes), Some(frame));
            assert_eq!(Frame::decode_any(bytes).unwrap(), frame);
            for end in 0..bytes.len() {
                let cut = &bytes[..end];
                if let Some(frame) = Frame::decode_usual(cut) {
                    assert_eq!(Frame::decode_any(cut).unwrap(), frame, "{cut:02x?}");
                }
            }
        }
        let bytes = encoded(&full());
        assert_eq!(Frame::decode_usual(&bytes[1..]), None, "not a usual frame");
    }

    /// What is looked for with each piece that arrives is not looked for far behind.
    #[test]
    fn f16_no_payload_is_looked_for_behind_a_long_head() {
        for (fields, is_found) in [(10, true), (LONGEST_HEAD, false)] {
            let mut bytes = [0x98, 0x06, 0x07].repeat(fields);
            bytes.extend([0x7a, 5, 1, 2]);
            let found = Frame::decode_head(&bytes, bytes.len() + 3);
            assert_eq!(found.is_some(), is_found, "{fields} unknown fields");
        }
    }

    #[test]
    fn groups_and_field_zero_are_refused() {
        for bytes in [&[0x0b][..], &[0x00, 0x00], &[0x0e]] {
            assert_eq!(Frame::decode(bytes).unwrap_err().kind(), ErrorKind::Protocol);
        }
    }
}
