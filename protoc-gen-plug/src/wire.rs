//! The protobuf wire format, without a schema: for options, whose extensions only descriptors know.

/// One field of an encoded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) number: u32,
    pub(crate) value: Value<'a>,
}

/// The value of a field, as far as the wire tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

/// The fields of an encoded message in their order, or `None` if the bytes are not one. Groups,
/// which no option is made of, count as not well-formed.
pub(crate) fn records(mut bytes: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).ok().filter(|&number| number != 0)?;
        let value = match key & 7 {
            0 => Value::Varint(take_varint(&mut bytes)?),
            1 => Value::Fixed64(take(&mut bytes, 8)?.try_into().ok()?),
            2 => {
                let len = usize::try_from(take_varint(&mut bytes)?).ok()?;
                Value::Bytes(take(&mut bytes, len)?)
            }
            5 => Value::Fixed32(take(&mut bytes, 4)?.try_into().ok()?),
            _ => return None,
        };
        records.push(Record { number, value });
    }
    Some(records)
}

/// The varints of a packed field, or `None` if the bytes are not that.
pub(crate) fn varints(mut bytes: &[u8]) -> Option<Vec<u64>> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(take_varint(&mut bytes)?);
    }
    Some(values)
}

/// Appends a field to an encoded message.
pub(crate) fn put(out: &mut Vec<u8>, record: Record<'_>) {
    let key = |wire_type: u64| (u64::from(record.number) << 3) | wire_type;
    match record.value {
        Value::Varint(value) => {
            put_varint(out, key(0));
            put_varint(out, value);
        }
        Value::Fixed64(bytes) => {
            put_varint(out, key(1));
            out.extend(bytes);
        }
        Value::Bytes(bytes) => {
            put_varint(out, key(2));
            put_varint(out, bytes.len() as u64);
            out.extend(bytes);
        }
        Value::Fixed32(bytes) => {
            put_varint(out, key(5));
            out.extend(bytes);
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_again() {
        let all = [
            Record { number: 1, value: Value::Varint(300) },
            Record { number: 50_001, value: Value::Bytes(b"magic") },
            Record { number: 3, value: Value::Fixed32([1, 2, 3, 4]) },
            Record { number: 536_870_911, value: Value::Fixed64([9; 8]) },
        ];
        let mut bytes = Vec::new();
        for record in all {
            put(&mut bytes, record);
        }
        assert_eq!(records(&bytes).unwrap(), all);
    }

    #[test]
    fn what_is_cut_short_or_not_a_message_is_refused() {
        for bytes in [&b"\x0a\x05abc"[..], b"\x0d\x01", b"\x00\x01", b"\x0b", b"\x80"] {
            assert_eq!(records(bytes), None, "{bytes:?}");
        }
    }
}
