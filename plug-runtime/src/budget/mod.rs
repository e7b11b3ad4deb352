//! How much memory a message may take once it is decoded, which its length does not tell.
//!
//! Two bytes are an empty message in a repeated field, and become a struct of some hundred bytes. Prost has no limit for
//! that, so the bytes are walked before they are decoded, with what the descriptors of the service say of them, and the
//! memory is added up. Messages that cannot pass the limit whatever is in them, by the worst that two bytes can become
//! in a message of their type, are not walked: those are nearly all.
//!
//! `protoc-gen-plug/tests/budget` holds the reckoning against an allocator that counts. What is walked costs, of a million
//! elements, each and of the time of decoding: packed numbers 2 ns and 13 %, texts 22 ns and 21 %, messages with a text
//! 55 ns and 17 %, messages with two numbers 28 ns and 70 %; a payload of 1 MiB 50 ns, if it were walked. (Two cores, busy
//! with other things: `cargo test --release -p protoc-gen-plug --test budget -- --ignored --nocapture`.)

mod cost;
mod descriptors;
mod layout;
mod shapes;
mod walk;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Buf;
use prost::{DecodeError, Message};
use prost_types::FileDescriptorSet;

use crate::error::{Code, Delivery, Error, ErrorKind};
use crate::service::Service;
use crate::stream::Received;
use shapes::{Shapes, Sides};

/// What the messages of one side of a method may take.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    /// In bytes of memory.
    limit: usize,
    service: &'static str,
    /// An encoded `FileDescriptorSet`; empty if the service has none, and then there is no limit.
    descriptors: &'static [u8],
    method: &'static str,
    side: Side,
}

/// Which messages of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

/// Why a message was not decoded.
#[derive(Debug)]
pub(crate) enum Undecodable {
    TooLarge(Excess),
    Broken(DecodeError),
}

/// A message that would take more memory than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    /// How many bytes it has, encoded.
    len: usize,
    /// How many it would take at least: counting has stopped there.
    at_least: usize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(
        service: &'static str,
        descriptors: &'static [u8],
        method: &'static str,
        side: Side,
    ) -> Budget {
        Budget { limit: DEFAULT, service, descriptors, method, side }
    }

    /// That of a method of `S`, by its index.
    pub(crate) fn of<S: Service>(method: usize, side: Side) -> Budget {
        Budget::new(S::NAME, S::DESCRIPTORS, S::METHODS[method].name(), side)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The same, with another limit.
    pub(crate) fn with_limit(self, limit: usize) -> Budget {
        Budget { limit, ..self }
    }

    /// Decodes a message, if it does not take more than it may.
    pub(crate) fn decode<M: Message + Default>(
        &self,
        message: Received<'_>,
    ) -> Result<M, Undecodable> {
        decode_within(self.limit, message, || *self)
    }

    #[cfg(test)]
    fn check(self, message: &[u8]) -> Result<(), Excess> {
        check_within(self.limit, message, || self)
    }

    #[cold]
    fn check_long(self, message: &[u8]) -> Result<(), Excess> {
        let Some(schema) = Schema::of(self.service, self.descriptors) else { return Ok(()) };
        let Some(root) = schema.root(self.method, self.side) else { return Ok(()) };
        measure(&schema.shapes, root, message, self.limit)
    }
}

/// Decodes a message, which is in one piece, if it does not take more than `limit`. What it is made of is asked for only if
/// it is long.
#[inline]
pub(crate) fn decode_within<M: Message + Default>(
    limit: usize,
    message: impl Buf,
    budget: impl FnOnce() -> Budget,
) -> Result<M, Undecodable> {
    check_within(limit, message.chunk(), budget).map_err(Undecodable::TooLarge)?;
    M::decode(message).map_err(Undecodable::Broken)
}

#[inline]
fn check_within(
    limit: usize,
    message: &[u8],
    budget: impl FnOnce() -> Budget,
) -> Result<(), Excess> {
    if message.len() <= limit / NO_TYPE_IS_WORSE {
        return Ok(());
    }
    budget().with_limit(limit).check_long(message)
}

/// Decodes descriptors of another process, if they do not take more than `limit`.
pub(crate) fn decode_descriptors(
    encoded: &[u8],
    limit: usize,
) -> Result<FileDescriptorSet, Undecodable> {
    if encoded.len() > limit / NO_TYPE_IS_WORSE {
        let (shapes, root) = descriptors::shapes();
        measure(shapes, *root, encoded, limit).map_err(Undecodable::TooLarge)?;
    }
    FileDescriptorSet::decode(encoded).map_err(Undecodable::Broken)
}

fn measure(shapes: &Shapes, root: usize, message: &[u8], limit: usize) -> Result<(), Excess> {
    let at_least = walk::memory(shapes, root, message, limit);
    if at_least <= limit { Ok(()) } else { Err(Excess { len: message.len(), at_least, limit }) }
}

impl Undecodable {
    /// The error of a call of this side.
    pub(crate) fn of_response(&self, what: &str) -> Error {
        let error = match self {
            Undecodable::TooLarge(excess) => Error::of_kind(
                ErrorKind::TooLarge,
                format!("{what} is not decoded: {excess}. Command::max_decoded sets the limit"),
            ),
            Undecodable::Broken(error) => Error::of_kind(
                ErrorKind::Decode,
                format!(
                    "{what} cannot be decoded: {error}. Were both sides built from the same .proto?"
                ),
            ),
        };
        error.with_delivery(Delivery::MayHaveRun)
    }

    /// What the caller of a request is told.
    pub(crate) fn of_request(&self) -> (Code, String) {
        match self {
            Undecodable::TooLarge(excess) => (
                Code::ResourceExhausted,
                format!(
                    "is not decoded: {excess}. Send less at a time, in several calls or a stream"
                ),
            ),
            Undecodable::Broken(error) => (
                Code::InvalidArgument,
                format!("cannot be decoded: {error}. Were both sides built from the same .proto?"),
            ),
        }
    }
}

/// What the descriptors say of the messages of one service.
struct Schema {
    shapes: Shapes,
    methods: HashMap<String, Sides>,
}

impl Schema {
    /// Reads the descriptors, when the first long message of the service comes, and keeps what it has read: there are as
    /// many services as the program has code for. `None` without descriptors.
    fn of(service: &'static str, descriptors: &'static [u8]) -> Option<Arc<Schema>> {
        static KNOWN: RwLock<BTreeMap<Key, Option<Arc<Schema>>>> = RwLock::new(BTreeMap::new());
        /// Where the descriptors lie, and the service.
        type Key = (usize, usize, &'static str);

        if descriptors.is_empty() {
            return None;
        }
        let key = (descriptors.as_ptr().addr(), descriptors.len(), service);
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        known.unwrap_or_else(|| {
            let schema = Schema::read(service, descriptors).map(Arc::new);
            let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have read it meanwhile.
            known.entry(key).or_insert(schema).clone()
        })
    }

    fn read(service: &str, descriptors: &[u8]) -> Option<Schema> {
        let (shapes, methods) = shapes::read(service, descriptors)?;
        Some(Schema { shapes, methods })
    }

    /// Which shape the messages of a method have.
    fn root(&self, method: &str, side: Side) -> Option<usize> {
        let sides = self.methods.get(method)?;
        match side {
            Side::Request => sides.request,
            Side::Response => sides.response,
        }
    }
}

/// How much memory a decoded message may take where nobody has said: 128 MiB, or twice the longest message if that is
/// more, so that a message of nothing but text always may.
pub(crate) fn default_limit(max_message: usize) -> usize {
    DEFAULT.max(max_message.saturating_mul(2))
}

const DEFAULT: usize = 128 << 20;

/// A byte of a message becomes at most so many of memory, as long as no struct has more than so many: messages that are
/// short enough for that need no look at their type. With the default limit, those are up to 4 KiB.
const NO_TYPE_IS_WORSE: usize = 32 << 10;

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its {} bytes would become {} or more of memory when decoded, of at most {}",
            self.len, self.at_least, self.limit
        )
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:?} of {}/{}", self.limit, self.side, self.service, self.method)
    }
}

#[cfg(test)]
mod tests;
