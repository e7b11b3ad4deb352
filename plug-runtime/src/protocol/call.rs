//! The calls of one connection, in both directions, and the messages that arrive in pieces.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use bytes::Bytes;

use super::FRAGMENT;
use super::event::Request;
use super::flow::Inflow;
use super::landing::Place;
use super::memory::{self, Kept};
use super::outbox::SentAt;
use crate::error::{Error, ErrorKind, Result};

/// Something for each call, by its id.
///
/// A connection that carries one call at a time, as most do most of the time, does not come to the
/// map: that is worth 5 % of the instructions of a call. Nor does it come by the code for that, which is apart.
#[derive(Debug)]
pub(crate) struct ById<T> {
    one: Option<(u64, T)>,
    others: Others<T>,
}

type Others<T> = HashMap<u64, T, BuildHasherDefault<IdHasher>>;

impl<T> Default for ById<T> {
    fn default() -> Self {
        ById { one: None, others: HashMap::default() }
    }
}

impl<T> ById<T> {
    pub(crate) fn len(&self) -> usize {
        usize::from(self.one.is_some()) + self.others.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.one.is_none() && self.others.is_empty()
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.get(id).is_some()
    }

    #[inline]
    pub(crate) fn get(&self, id: u64) -> Option<&T> {
        match &self.one {
            Some((one, value)) if *one == id => Some(value),
            _ if self.others.is_empty() => None,
            _ => self.get_other(id),
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        match &mut self.one {
            Some((one, value)) if *one == id => Some(value),
            _ if self.others.is_empty() => None,
            _ => get_other_mut(&mut self.others, id),
        }
    }

    /// Adds a call that is not there.
    #[inline]
    pub(crate) fn insert(&mut self, id: u64, value: T) {
        debug_assert!(!self.contains(id), "ids are never reused");
        if self.one.is_none() {
            self.one = Some((id, value));
        } else {
            self.insert_other(id, value);
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        match self.one.take_if(|(one, _)| *one == id) {
            Some((_, value)) => Some(value),
            None if self.others.is_empty() => None,
            None => self.remove_other(id),
        }
    }

    /// The same without moving it.
    #[inline]
    pub(crate) fn drop_one(&mut self, id: u64) {
        if self.one.as_ref().is_some_and(|(one, _)| *one == id) {
            self.one = None;
        } else if !self.others.is_empty() {
            self.remove_other(id);
        }
    }

    #[inline(never)]
    fn get_other(&self, id: u64) -> Option<&T> {
        self.others.get(&id)
    }

    #[inline(never)]
    fn insert_other(&mut self, id: u64, value: T) {
        self.others.insert(id, value);
    }

    #[inline(never)]
    fn remove_other(&mut self, id: u64) -> Option<T> {
        self.others.remove(&id)
    }

    /// The ids of the calls for which something holds, in their order.
    pub(crate) fn ids_where(&self, mut holds: impl FnMut(&T) -> bool) -> Vec<u64> {
        let one = self.one.iter().map(|(id, value)| (id, value));
        let all = one.chain(&self.others);
        let mut ids: Vec<u64> = all.filter(|(_, value)| holds(value)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Takes everything, in the order of the ids.
    pub(crate) fn drain(&mut self) -> Vec<(u64, T)> {
        let ids = self.ids_where(|_| true);
        ids.into_iter().filter_map(|id| Some((id, self.remove(id)?))).collect()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = u64> {
        self.one.iter().map(|(id, _)| *id).chain(self.others.keys().copied())
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.one.iter().map(|(_, value)| value).chain(self.others.values())
    }
}

#[inline(never)]
fn get_other_mut<T>(others: &mut Others<T>, id: u64) -> Option<&mut T> {
    others.get_mut(&id)
}

/// The hash function of [`ById`]: a tenth of the work of the standard one.
///
/// A peer that chooses ids which collide gains nothing: it has at most `max_calls` of them at a time.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio. The table uses the upper and the lower bits, so both are mixed.
        let spread = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

/// A call that this side made and that has not ended.
///
/// ```text
/// open ──▶ Waiting ──message──▶ Waiting ──end──▶ gone, one Event::Reply
///             ├──────── connection over ───────▶ gone, one Event::Reply
///             └── cancel or deadline: one Event::Reply ──▶ Abandoned ──end──▶ gone
/// ```
#[derive(Debug)]
pub(super) struct Made {
    /// Where its first frame begins in what this side sends.
    pub(super) begins_at: u64,
    /// Where its request ends there.
    pub(super) sent_at: SentAt,
    /// Whether its caller has its outcome and wants no other. It counts until the other side has ended it.
    pub(super) is_abandoned: bool,
    pub(super) deadline: Option<Instant>,
    /// What has arrived of a response that is no stream.
    pub(super) response: Assembly,
    pub(super) responses: Option<Box<Inflow>>,
    /// Whether its first frame is its only one.
    pub(super) is_one_frame: bool,
}

/// A call that the other side made, from its first frame to our `end`.
///
/// ```text
/// open ──last fragment──▶ Running (one Event::Request) ──reply──▶ gone
///   └──▶ Arriving ──message …──▲                          └──▶ Draining ──half-close──▶ gone
/// ```
///
/// A call with a stream of requests is Running from the start, and Draining where it is answered before that stream
/// has ended: what is still on its way must be counted.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) phase: Phase,
    pub(super) requests: Option<Box<Inflow>>,
    /// Whether its caller has cancelled it, and its handler has not answered yet.
    pub(super) is_cancelled: bool,
}

/// A request of which a part has arrived.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) request: Request,
    pub(super) message: Assembly,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// The request is not complete.
    Arriving(Box<Arriving>),
    Running,
    Draining,
}

/// A message of which the first fragments have arrived.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    total: u64,
    arrived: Arrived,
}

/// What has arrived of it.
#[derive(Debug)]
enum Arrived {
    Bytes(Vec<u8>),
    /// So many bytes, in memory that is lent for more.
    Lent(u64),
    /// There was no memory for it: its bytes are counted and dropped.
    Lost(u64),
}

/// A fragment of a message, as it arrives.
pub(super) trait Fragment {
    fn len(&self) -> usize;

    /// The message, of which this is all. `None` if there is no memory for it.
    fn into_message(self) -> Option<Bytes>;

    /// Adds it to those before it, of a message of `total` bytes. Says whether there was memory for it.
    fn add_to(self, bytes: &mut Vec<u8>, total: u64) -> bool;
}

/// One that lies in what was read.
impl Fragment for &[u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn into_message(self) -> Option<Bytes> {
        memory::copy(self)
    }

    fn add_to(self, bytes: &mut Vec<u8>, total: u64) -> bool {
        let has_room = memory::grow(bytes, self.len(), total);
        if has_room {
            bytes.extend_from_slice(self);
        }
        has_room
    }
}

/// What a fragment has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// More must follow.
    Part,
    /// It was the last one of this message.
    Whole(Bytes),
    /// It was the last one of a message of this length, for which there was no memory.
    Lost(u64),
}

impl Assembly {
    /// Adds a fragment.
    ///
    /// `limit` is the largest message that this side told the other it receives. Memory is taken as
    /// bytes arrive, never because a number announces them.
    #[inline]
    pub(super) fn add(
        &mut self,
        fragment: impl Fragment,
        total: u64,
        is_last: bool,
        limit: u64,
    ) -> Result<Added> {
        if is_last && total == 0 && self.total == 0 && fragment.len() <= FRAGMENT {
            // The usual case, which is held against nothing but the limit.
            if fragment.len() as u64 <= limit {
                return Ok(Added::alone(fragment));
            }
        }
        self.add_to_others(fragment, total, is_last, limit)
    }

    fn add_to_others(
        &mut self,
        fragment: impl Fragment,
        total: u64,
        is_last: bool,
        limit: u64,
    ) -> Result<Added> {
        let so_far = self.check(fragment.len(), total, is_last, limit)?;
        if is_last && so_far == fragment.len() as u64 {
            return Ok(Added::alone(fragment));
        }
        let mut bytes = match std::mem::take(&mut self.arrived) {
            Arrived::Bytes(bytes) => Some(bytes),
            Arrived::Lent(_) => Some(Vec::new()),
            Arrived::Lost(_) => None,
        };
        bytes =
            bytes.and_then(|mut bytes| fragment.add_to(&mut bytes, self.total).then_some(bytes));
        Ok(match bytes {
            Some(bytes) if is_last => Added::Whole(Bytes::from(bytes)),
            None if is_last => Added::Lost(so_far),
            bytes => {
                self.arrived = bytes.map_or(Arrived::Lost(so_far), Arrived::Bytes);
                Added::Part
            }
        })
    }

    /// Holds a fragment against those before it. Returns how many bytes have arrived with it.
    fn check(&mut self, len: usize, total: u64, is_last: bool, limit: u64) -> Result<u64> {
        if len > FRAGMENT {
            return Err(broken(&format!("a fragment has {len} bytes")));
        }
        let so_far = self.arrived.len() + len as u64;
        if self.total == 0 {
            // The total is on the first of several fragments; alone, a fragment is the whole.
            self.total = if total == 0 && is_last { so_far } else { total };
        } else if total != 0 {
            return Err(broken("a later fragment has a total"));
        }
        if self.total == 0 && !is_last {
            return Err(broken("the first of several fragments has no total"));
        }
        if self.total > limit {
            return Err(broken(&format!(
                "a message of {} bytes was sent to a side that receives at most {limit}",
                self.total
            )));
        }
        if so_far > self.total || (is_last && so_far != self.total) {
            return Err(broken(&format!(
                "the fragments of a message of {} bytes have {so_far}",
                self.total
            )));
        }
        Ok(so_far)
    }

    /// Lends the memory for a message to who reads the next fragment of it, with room for that, if it can be added. It comes
    /// back as that fragment. `kept` is memory to begin with: for all of the message if it is admitted, and for the fragment
    /// if not, or a number would take what no bytes need.
    pub(super) fn lend(
        &mut self,
        len: usize,
        total: u64,
        is_last: bool,
        limit: u64,
        kept: &mut Kept,
        is_admitted: bool,
    ) -> Option<Place> {
        let before = self.total;
        let is_fit = self.check(len, total, is_last, limit).is_ok();
        let whole = std::mem::replace(&mut self.total, before);
        let Arrived::Bytes(bytes) = &mut self.arrived else { return None };
        let mut memory = std::mem::take(bytes);
        if memory.capacity() == 0 && is_fit {
            memory = kept.take(if is_admitted { whole } else { len as u64 });
        }
        let capacity = memory.capacity();
        if is_fit && memory::grow(&mut memory, len, whole) {
            self.arrived = Arrived::Lent(memory.len() as u64);
            let is_new = memory.capacity() != capacity;
            return Some(Place { memory, missing: len, is_new });
        }
        self.arrived = Arrived::Bytes(memory);
        None
    }

    /// Whether a first fragment has arrived, and more must follow.
    pub(super) fn has_begun(&self) -> bool {
        self.total != 0
    }

    /// How many bytes have not arrived of the message that has begun.
    pub(super) fn rest(&self) -> u64 {
        self.total - self.arrived.len()
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        match &self.arrived {
            Arrived::Bytes(bytes) => bytes.capacity(),
            Arrived::Lent(_) | Arrived::Lost(_) => 0,
        }
    }
}

impl Arrived {
    fn len(&self) -> u64 {
        match self {
            Arrived::Bytes(bytes) => bytes.len() as u64,
            Arrived::Lent(len) | Arrived::Lost(len) => *len,
        }
    }
}

impl Default for Arrived {
    fn default() -> Self {
        Arrived::Bytes(Vec::new())
    }
}

impl Added {
    /// What the only fragment of a message comes to.
    #[inline]
    fn alone(fragment: impl Fragment) -> Added {
        let len = fragment.len() as u64;
        fragment.into_message().map_or(Added::Lost(len), Added::Whole)
    }
}

#[cold]
pub(super) fn broken(what: &str) -> Error {
    Error::of_kind(ErrorKind::Protocol, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_make_a_message() {
        let mut assembly = Assembly::default();
        let whole = |text: &'static str| Added::Whole(text.into());
        assert_eq!(assembly.add(&b"ab"[..], 5, false, 10).unwrap(), Added::Part);
        assert!(assembly.has_begun());
        assert_eq!(assembly.add(&b"c"[..], 0, false, 10).unwrap(), Added::Part);
        assert_eq!(assembly.add(&b"de"[..], 0, true, 10).unwrap(), whole("abcde"));
        assert_eq!(Assembly::default().add(&b""[..], 0, true, 10).unwrap(), whole(""));
        assert_eq!(Assembly::default().add(&b"x"[..], 1, true, 10).unwrap(), whole("x"));
    }

    #[test]
    fn totals_are_kept() {
        assert!(Assembly::default().add(&b"ab"[..], 1, false, 10).is_err(), "more than the total");
        assert!(Assembly::default().add(&b"a"[..], 2, true, 10).is_err(), "less than the total");
        assert!(Assembly::default().add(&b"a"[..], 0, false, 10).is_err(), "no total");
        assert!(Assembly::default().add(&b""[..], 0, false, 10).is_err(), "no total and no bytes");
        assert!(Assembly::default().add(&b"a"[..], 11, false, 10).is_err(), "over the limit");
        assert!(
            Assembly::default().add(&b"abc"[..], 0, true, 2).is_err(),
            "over the limit at once"
        );
        let mut assembly = Assembly::default();
        assembly.add(&b"a"[..], 3, false, 10).unwrap();
        assert!(assembly.add(&b"b"[..], 3, false, 10).is_err(), "a second total");
    }
}
