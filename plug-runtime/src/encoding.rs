//! Encoding messages, of which the long ones are not copied where that can be helped.

use bytes::Bytes;
use prost::Message;

use crate::error::Result;
use crate::protocol::{LONG, Long, copy, no_memory_for, reserve};
use crate::sys::pages;
use crate::sys::rope::Rope;

/// A message that is encoded, and memory for the next one.
#[derive(Default)]
pub(crate) struct Encoded {
    /// A short one.
    pub(crate) bytes: Vec<u8>,
    /// A long one.
    pub(crate) long: Option<Box<Long>>,
}

impl Encoded {
    /// Encodes a message in the place of the one before.
    pub(crate) fn encode(&mut self, message: &impl Message) -> Result<()> {
        self.bytes.clear();
        let len = message.encoded_len();
        if len < LONG {
            self.bytes.reserve(len);
            message.encode_raw(&mut self.bytes);
            return Ok(());
        }
        let memory = std::mem::take(&mut self.bytes);
        self.long = Some(encode_long(message, len, memory, "a message")?.into());
        Ok(())
    }
}

/// Encodes a long message of so many bytes, into memory with nothing in it as far as it must be copied.
pub(crate) fn encode_long(
    message: &impl Message,
    len: usize,
    memory: Vec<u8>,
    what: &str,
) -> Result<Long> {
    let mut rope = Rope::new(memory, |buffer, more| {
        let has_room = reserve(buffer, more);
        pages::prefer_large(buffer);
        has_room
    });
    message.encode_raw(&mut rope);
    let (bytes, pieces) = rope.finish().ok_or_else(|| no_memory_for(what, len as u64))?;
    // Much memory with little in it could be held for long.
    let is_full = bytes.len() >= bytes.capacity() / 2;
    let copied = if is_full { None } else { copy(&bytes) };
    let bytes = copied.unwrap_or_else(|| Bytes::from(bytes));
    Ok(Long::new(bytes, pieces))
}
