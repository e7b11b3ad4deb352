//! Adds up what decoding takes, without decoding.
//!
//! It reads what prost reads, in the same order, and stops where prost fails: what prost has taken until then is
//! counted. It is a loop and not recursive, whatever the depth of the message.

use prost::encoding::{WireType, decode_key, decode_varint};

use super::cost;
use super::shapes::{Content, Field, NOTHING, Shape, Shapes};

/// How much memory a message takes, decoded, or a number above `limit` if it is more than that. It is at least what prost
/// and the usual allocators take, and at most some times that.
pub(super) fn memory(shapes: &Shapes, root: usize, message: &[u8], limit: usize) -> usize {
    let shape = shapes.get(root);
    let base = shape.size.saturating_add(shape.birth).saturating_add(SHARED);
    let worst = message.len().saturating_mul(shape.worst).saturating_add(base);
    if worst <= limit {
        return worst;
    }
    let mut walk = Walk { shapes, rest: message, memory: base, is_merged: false, counts: vec![] };
    walk.run(shape, limit);
    walk.total()
}

struct Walk<'a> {
    shapes: &'a Shapes,
    rest: &'a [u8],
    memory: usize,
    /// Whether a message has come for a field that had one, which prost merges. What both have of a repeated field is one
    /// vector then, which may have grown more than two: up to twice what was counted. No encoder writes such a message.
    is_merged: bool,
    /// How often each field has come that has to be counted, of all messages that are open.
    counts: Vec<usize>,
}

/// A message that has begun.
struct Open<'a> {
    shape: &'a Shape,
    end: End,
    /// Where its fields are in `counts`.
    counts: usize,
}

#[derive(Clone, Copy)]
enum End {
    /// Where so many bytes are left. That may be behind the end of the message that it is in: prost finds that later.
    Left(usize),
    /// The end of a group with this number.
    Group(u32),
}

/// Where prost fails.
struct Stop;

impl<'a> Walk<'a> {
    fn total(&self) -> usize {
        if self.is_merged { self.memory.saturating_mul(2) } else { self.memory }
    }

    fn run(&mut self, root: &'a Shape, limit: usize) {
        let mut within = Vec::new();
        let mut open = self.open(root, End::Left(0));
        while self.total() <= limit {
            let step = match self.has_ended(&open) {
                Ok(true) => Ok(Step::End),
                Ok(false) => self.step(&open),
                Err(stop) => Err(stop),
            };
            match step {
                Ok(Step::Field) => {}
                Ok(Step::Begin(_)) if within.len() == DEPTH => return,
                Ok(Step::Begin(begun)) => within.push(std::mem::replace(&mut open, begun)),
                Ok(Step::End) => {
                    self.counts.truncate(open.counts);
                    match within.pop() {
                        Some(outer) => open = outer,
                        None => return,
                    }
                }
                Err(Stop) => return,
            }
        }
    }

    fn open(&mut self, shape: &'a Shape, end: End) -> Open<'a> {
        let counts = self.counts.len();
        self.counts.resize(counts + shape.counted, 0);
        Open { shape, end, counts }
    }

    fn has_ended(&self, open: &Open<'_>) -> Result<bool, Stop> {
        match open.end {
            End::Left(left) if self.rest.len() < left => Err(Stop),
            End::Left(left) => Ok(self.rest.len() == left),
            End::Group(_) => Ok(false),
        }
    }

    /// Takes a field, or the beginning or end of a message.
    fn step(&mut self, open: &Open<'a>) -> Result<Step<'a>, Stop> {
        let (number, wire_type) = decode_key(&mut self.rest).map_err(|_| Stop)?;
        if let (WireType::EndGroup, End::Group(begun)) = (wire_type, open.end) {
            return if begun == number { Ok(Step::End) } else { Err(Stop) };
        }
        let Some(field) = open.shape.field(number) else {
            return self.unknown(number, wire_type);
        };
        match (field.content, wire_type) {
            (Content::Number(expected), found) if expected == found => {
                self.number(found)?;
                self.count(open, field, 1);
            }
            (Content::Number(expected), WireType::LengthDelimited) if field.growth.is_some() => {
                let len = self.len()?;
                let packed = self.take(len)?;
                let numbers = match expected {
                    WireType::SixtyFourBit => len / 8,
                    WireType::ThirtyTwoBit => len / 4,
                    _ => packed.iter().filter(|byte| **byte < 0x80).count(),
                };
                self.count(open, field, numbers);
            }
            (Content::Bytes, WireType::LengthDelimited) => {
                let len = self.len()?;
                self.take(len)?;
                self.add(cost::block(len));
                self.count(open, field, 1);
            }
            // Prost does not look at the type of what it takes for an entry of a map.
            (Content::Message(shape), WireType::LengthDelimited) | (Content::Entry(shape), _) => {
                let len = self.len()?;
                self.count(open, field, 1);
                let shape = self.shapes.get(shape);
                if len > 0 && shape.worst > 0 {
                    let end = End::Left(self.rest.len() - len);
                    return Ok(Step::Begin(self.open(shape, end)));
                }
                self.take(len)?;
            }
            (Content::Group(shape), WireType::StartGroup) => {
                self.count(open, field, 1);
                let shape = self.shapes.get(shape);
                return Ok(Step::Begin(self.open(shape, End::Group(number))));
            }
            _ => return Err(Stop),
        }
        Ok(Step::Field)
    }

    /// Skips a field that the message does not have.
    fn unknown(&mut self, number: u32, wire_type: WireType) -> Result<Step<'a>, Stop> {
        match wire_type {
            WireType::LengthDelimited => {
                let len = self.len()?;
                self.take(len)?;
            }
            WireType::StartGroup => {
                return Ok(Step::Begin(self.open(&NOTHING, End::Group(number))));
            }
            number => self.number(number)?,
        }
        Ok(Step::Field)
    }

    fn number(&mut self, wire_type: WireType) -> Result<(), Stop> {
        match wire_type {
            WireType::Varint => decode_varint(&mut self.rest).map(drop).map_err(|_| Stop),
            WireType::SixtyFourBit => self.take(8).map(drop),
            WireType::ThirtyTwoBit => self.take(4).map(drop),
            _ => Err(Stop),
        }
    }

    /// The length of what comes next, all of which is there.
    fn len(&mut self) -> Result<usize, Stop> {
        let len = decode_varint(&mut self.rest).map_err(|_| Stop)?;
        usize::try_from(len).ok().filter(|len| *len <= self.rest.len()).ok_or(Stop)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Stop)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Adds what a field takes that comes, or so many elements of it.
    fn count(&mut self, open: &Open<'_>, field: &Field, more: usize) {
        self.add(field.each.saturating_mul(more));
        let Some(place) = field.counted else { return };
        let count = &mut self.counts[open.counts + place];
        let before = *count;
        *count = before.saturating_add(more);
        match &field.growth {
            Some(growth) => {
                let grown = growth.add(before, more);
                self.add(grown);
            }
            None => self.is_merged |= before > 0,
        }
    }

    fn add(&mut self, memory: usize) {
        self.memory = self.memory.saturating_add(memory);
    }
}

enum Step<'a> {
    /// A field is over.
    Field,
    /// A message has begun.
    Begin(Open<'a>),
    /// The message is over.
    End,
}

/// What it takes to share the bytes of the message with the fields that are `Bytes`.
const SHARED: usize = 48;

/// How many messages within each other are walked: prost fails at 100.
const DEPTH: usize = 128;
