//! The protocol by hand, after `PROTOCOL.md`, so that either side can break it.
//!
//! The messages are coded by prost, not by the runtime: so these tests also hold the one against the other.

use std::io::{self, Read, Write};

use plug::prost::Message;

/// The first bytes that a host sends.
pub const HOST_PREAMBLE: &[u8; 8] = b"\x89plugh\r\n";

/// The first bytes that a plugin sends.
pub const PLUGIN_PREAMBLE: &[u8; 8] = b"\x89plugp\r\n";

/// The largest frame that a receiver accepts.
pub const MAX_FRAME: usize = 1 << 20;

/// A hello.
pub const HELLO: u32 = 1;
/// Starts a call.
pub const OPEN: u32 = 2;
/// A piece of a message that is not the last of a response.
pub const MESSAGE: u32 = 3;
/// Ends a call.
pub const END: u32 = 4;
/// Wants no more of a call.
pub const CANCEL: u32 = 5;
/// Lets the other side send more.
pub const CREDIT: u32 = 6;
/// Wants no more calls.
pub const GOODBYE: u32 = 9;
/// Asks for memory, offers it or declines it.
pub const MEMORY: u32 = 11;
/// The last frame in a pipe.
pub const SWITCH: u32 = 12;
/// A kind that receivers ignore.
pub const IGNORED: u32 = 77;

/// The fields of a frame that the tests use.
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "::plug::prost")]
pub struct Frame {
    /// What it is for.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// The call that it belongs to.
    #[prost(uint64, tag = "2")]
    pub call: u64,
    /// The number of the method.
    #[prost(uint32, tag = "3")]
    pub method: u32,
    /// 1: last fragment, 2: half-close.
    #[prost(uint32, tag = "6")]
    pub flags: u32,
    /// The length of a message that comes in several pieces, on the first.
    #[prost(uint64, tag = "7")]
    pub total: u64,
    /// How much may have been sent in all.
    #[prost(uint64, tag = "8")]
    pub credit: u64,
    /// 0, or a status code.
    #[prost(uint32, tag = "9")]
    pub code: u32,
    /// What went wrong.
    #[prost(string, tag = "10")]
    pub message: String,
    /// A hello or a message.
    #[prost(bytes = "vec", tag = "15")]
    pub payload: Vec<u8>,
}

/// The fields of a hello that the tests use.
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "::plug::prost")]
pub struct Hello {
    /// The lowest version of the protocol.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// The highest version of the protocol.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// The name of the sender.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The services that it offers.
    #[prost(message, repeated, tag = "6")]
    pub services: Vec<ServiceInfo>,
    /// How many calls it serves at once.
    #[prost(uint32, tag = "8")]
    pub max_calls: u32,
    /// What it can do beyond the base.
    #[prost(string, repeated, tag = "9")]
    pub features: Vec<String>,
    /// How much of a stream may be under way to it.
    #[prost(uint64, tag = "11")]
    pub stream_window: u64,
    /// How much of all streams together.
    #[prost(uint64, tag = "12")]
    pub connection_window: u64,
}

/// What a host asks for.
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "::plug::prost")]
pub struct MemoryRequest {
    /// How many bytes each direction should hold.
    #[prost(uint32, tag = "1")]
    pub capacity: u32,
    /// Whether the plugin may look for bytes before it sleeps.
    #[prost(bool, tag = "2")]
    pub may_poll: bool,
}

/// Where a plugin has memory.
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "::plug::prost")]
pub struct MemoryOffer {
    /// The number of its descriptor.
    #[prost(uint32, tag = "1")]
    pub descriptor: u32,
    /// How many bytes each direction holds.
    #[prost(uint32, tag = "2")]
    pub capacity: u32,
    /// What stands in it.
    #[prost(fixed64, tag = "3")]
    pub mark: u64,
}

/// A service in a hello.
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "::plug::prost")]
pub struct ServiceInfo {
    /// The full name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The methods, numbered from 1.
    #[prost(message, repeated, tag = "4")]
    pub methods: Vec<MethodInfo>,
}

/// A method in a hello.
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "::plug::prost")]
pub struct MethodInfo {
    /// The name within the service.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// What a plugin that runs answers when it is asked for its descriptors.
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "::plug::prost")]
pub struct Descriptors {
    /// A `FileDescriptorSet`.
    #[prost(bytes = "vec", tag = "1")]
    pub descriptors: Vec<u8>,
}

/// What a plugin prints that is asked to describe itself.
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "::plug::prost")]
pub struct Description {
    /// What it would say first.
    #[prost(message, optional, tag = "1")]
    pub hello: Option<Hello>,
    /// A `FileDescriptorSet`.
    #[prost(bytes = "vec", tag = "2")]
    pub descriptors: Vec<u8>,
}

impl Hello {
    /// Of a side that speaks these versions and offers the service `probe.Probe`.
    pub fn of_probe(versions: (u32, u32)) -> Hello {
        let method = |name: &str| MethodInfo { name: name.to_owned() };
        Hello {
            version_min: versions.0,
            version_max: versions.1,
            name: "raw".to_owned(),
            services: vec![ServiceInfo {
                name: "probe.Probe".to_owned(),
                methods: vec![method("Echo"), method("Sleep"), method("Act")],
            }],
            ..Hello::default()
        }
    }

    /// The frame that carries it.
    pub fn frame(&self) -> Frame {
        Frame { kind: HELLO, payload: self.encode_to_vec(), ..Frame::default() }
    }
}

impl Frame {
    /// Offers memory, or asks for it.
    pub fn memory(what: &impl Message) -> Frame {
        Frame { kind: MEMORY, payload: what.encode_to_vec(), ..Frame::default() }
    }

    /// Of a kind, with nothing in it.
    pub fn of_kind(kind: u32) -> Frame {
        Frame { kind, ..Frame::default() }
    }

    /// A call with a request that is already encoded.
    pub fn open(call: u64, method: u32, request: &impl Message) -> Frame {
        let payload = request.encode_to_vec();
        Frame { kind: OPEN, call, method, flags: 3, payload, ..Frame::default() }
    }

    /// The answer to a call.
    pub fn end(call: u64, response: &impl Message) -> Frame {
        Frame { kind: END, call, flags: 1, payload: response.encode_to_vec(), ..Frame::default() }
    }

    /// A frame that means nothing, and has so many bytes behind its length.
    pub fn ignored_of(len: usize) -> Frame {
        let mut frame = Frame { kind: IGNORED, ..Frame::default() };
        let mut payload = len - frame.encoded_len();
        while frame.encoded_len() != len {
            frame.payload = vec![1; payload];
            payload -= 1;
        }
        frame
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        self.encode_length_delimited_to_vec()
    }
}

/// Reads exactly the preamble that is expected.
pub fn read_preamble(input: &mut impl Read, expected: &[u8; 8]) -> io::Result<()> {
    let mut preamble = [0; 8];
    input.read_exact(&mut preamble)?;
    if &preamble == expected { Ok(()) } else { Err(invalid("another preamble")) }
}

/// Reads the next frame. `None` at the end of the input.
pub fn read_frame(input: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut len = 0;
    for shift in (0..).step_by(7) {
        let mut byte = [0];
        if shift == 0 {
            if input.read(&mut byte)? == 0 {
                return Ok(None);
            }
        } else {
            input.read_exact(&mut byte)?;
        }
        len |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            break;
        }
    }
    if len > MAX_FRAME {
        return Err(invalid("a frame that is too large"));
    }
    let mut bytes = vec![0; len];
    input.read_exact(&mut bytes)?;
    Frame::decode(&bytes[..]).map(Some).map_err(io::Error::other)
}

/// Writes all of several pieces at once.
pub fn write(output: &mut impl Write, pieces: &[&[u8]]) -> io::Result<()> {
    output.write_all(&pieces.concat())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
