//! Numbers as protobuf writes them: seven bits a byte, the low ones first.

/// What a varint at the start of some bytes says.
pub(crate) enum Varint {
    /// The value, and how many bytes it took.
    Value(u64, usize),
    /// All bytes belong to it, and more must follow.
    Incomplete,
    /// More than 64 bits.
    TooLong,
}

pub(crate) fn read_varint(bytes: &[u8]) -> Varint {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        if index == 9 && byte > 1 {
            return Varint::TooLong;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Varint::Value(value, index + 1);
        }
    }
    Varint::Incomplete
}

/// How many bytes a number of 64 bits takes at most.
pub(super) const MAX_VARINT: usize = 10;

pub(super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a number.
#[inline(always)]
pub(super) fn put_varint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
    } else {
        put_long_varint(out, value);
    }
}

#[inline(never)]
fn put_long_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_survive_and_are_incomplete_when_cut() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                put_varint(&mut bytes, value);
                assert!(
                    matches!(read_varint(&bytes), Varint::Value(v, n) if (v, n) == (value, bytes.len()))
                );
                assert!(matches!(read_varint(&bytes[..bytes.len() - 1]), Varint::Incomplete));
            }
        }
        assert!(matches!(read_varint(&[0xff; 10]), Varint::TooLong));
    }
}
