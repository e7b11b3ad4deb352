//! What the structs look like that prost makes of messages.

use std::collections::HashMap;

use prost::Message as _;
use prost::encoding::WireType;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::cost::{self, Growth, OVERHEAD};
use super::layout::{Layout, Structs};

/// The shapes of messages, by index.
pub(super) struct Shapes {
    shapes: Vec<Shape>,
}

/// What decoding a message takes.
pub(super) struct Shape {
    /// By number.
    fields: Vec<Field>,
    /// Of the struct, without what it has on the heap.
    pub(super) size: usize,
    /// What the struct has on the heap before anything is decoded: the defaults of required fields.
    pub(super) birth: usize,
    /// How many of the fields are counted.
    pub(super) counted: usize,
    /// The most memory that a byte of such a message becomes. 0: nothing of it is on the heap.
    pub(super) worst: usize,
}

#[derive(Debug)]
pub(super) struct Field {
    number: u32,
    pub(super) content: Content,
    /// How a field grows that is repeated.
    pub(super) growth: Option<Growth>,
    /// What it takes on the heap each time that it comes, beside its content.
    pub(super) each: usize,
    /// Its place among those that are counted.
    pub(super) counted: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Scalars and enums: part of the struct.
    Number(WireType),
    /// Strings and bytes.
    Bytes,
    /// A message with this index.
    Message(usize),
    Group(usize),
    /// An entry of a map, which is a message, too.
    Entry(usize),
}

impl Content {
    fn message(self) -> Option<usize> {
        match self {
            Content::Message(of) | Content::Group(of) | Content::Entry(of) => Some(of),
            Content::Number(_) | Content::Bytes => None,
        }
    }
}

/// The shapes of what a method takes and returns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides {
    pub(super) request: Option<usize>,
    pub(super) response: Option<usize>,
}

impl Shapes {
    pub(super) fn get(&self, index: usize) -> &Shape {
        &self.shapes[index]
    }
}

/// The shape of a group that nobody knows.
pub(super) static NOTHING: Shape =
    Shape { fields: Vec::new(), size: 0, birth: 0, counted: 0, worst: 0 };

impl Shape {
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        // Most messages count their fields from 1, without a gap.
        let guess = self.fields.get((number as usize).wrapping_sub(1));
        guess.filter(|field| field.number == number).or_else(|| {
            let place = self.fields.binary_search_by_key(&number, |field| field.number);
            place.ok().map(|place| &self.fields[place])
        })
    }
}

/// Reads the descriptors of a service. `None` if it is not in them.
pub(super) fn read(service: &str, descriptors: &[u8]) -> Option<(Shapes, HashMap<String, Sides>)> {
    let files = FileDescriptorSet::decode(descriptors).ok()?;
    let messages = Messages::of(&files);
    let described = files.file.iter().find_map(|file| {
        let mut services = file.service.iter();
        services.find(|described| within(file.package(), described.name()) == format!(".{service}"))
    })?;
    let methods = described.method.iter().map(|method| {
        let request = messages.find(method.input_type());
        let response = messages.find(method.output_type());
        (method.name().to_owned(), Sides { request, response })
    });
    Some((messages.shapes(), methods.collect()))
}

/// The shapes of all messages in some files, and the index of one, by its full name. `None` if it is not in them.
pub(super) fn read_message(name: &str, files: &FileDescriptorSet) -> Option<(Shapes, usize)> {
    let messages = Messages::of(files);
    Some((messages.shapes(), messages.find(name)?))
}

/// A full name as descriptors have it, which begins with a dot.
fn within(scope: &str, name: &str) -> String {
    match scope.strip_prefix('.').unwrap_or(scope) {
        "" => format!(".{name}"),
        scope => format!(".{scope}.{name}"),
    }
}

/// All messages of some files.
pub(super) struct Messages<'a> {
    pub(super) all: Vec<Described<'a>>,
    by_name: HashMap<String, usize>,
}

pub(super) struct Described<'a> {
    pub(super) message: &'a DescriptorProto,
    pub(super) is_proto2: bool,
}

impl<'a> Messages<'a> {
    fn of(files: &'a FileDescriptorSet) -> Messages<'a> {
        let mut messages = Messages { all: Vec::new(), by_name: HashMap::new() };
        for file in &files.file {
            let is_proto2 = matches!(file.syntax(), "" | "proto2");
            let scope = |message| (file.package().to_owned(), message);
            let mut left: Vec<_> = file.message_type.iter().map(scope).collect();
            while let Some((scope, message)) = left.pop() {
                let name = within(&scope, message.name());
                left.extend(message.nested_type.iter().map(|nested| (name.clone(), nested)));
                messages.by_name.insert(name, messages.all.len());
                messages.all.push(Described { message, is_proto2 });
            }
        }
        messages
    }

    /// The index of a message, by its full name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    fn shapes(&self) -> Shapes {
        let structs = Structs::of(self);
        let mut shapes: Vec<_> =
            (0..self.all.len()).map(|index| self.shape(index, &structs)).collect();
        // What a message has within it may be worse than itself.
        let mut changes = true;
        while changes {
            changes = false;
            for index in 0..shapes.len() {
                let within =
                    shapes[index].fields.iter().filter_map(|field| field.content.message());
                let worst = within.map(|of| shapes[of].worst).max().unwrap_or(0);
                if worst > shapes[index].worst {
                    shapes[index].worst = worst;
                    changes = true;
                }
            }
        }
        Shapes { shapes }
    }

    fn shape(&self, index: usize, structs: &Structs) -> Shape {
        let described = &self.all[index];
        let mut fields: Vec<_> = described
            .message
            .field
            .iter()
            .filter_map(|field| self.field(index, field, structs))
            .collect();
        fields.sort_unstable_by_key(|field| field.number);
        let mut counted = 0;
        for field in &mut fields {
            if field.growth.is_some() || field.content.message().is_some() {
                field.counted = Some(counted);
                counted += 1;
            }
        }
        let worst = fields.iter().map(Field::worst).max().unwrap_or(0);
        let (size, birth) = (structs.layout(index).size, structs.birth(index));
        Shape { fields, size, birth, counted, worst }
    }

    fn field(
        &self,
        index: usize,
        field: &FieldDescriptorProto,
        structs: &Structs,
    ) -> Option<Field> {
        let number = u32::try_from(field.number()).ok()?;
        let content = self.content(field)?;
        let of = content.message();
        let mut each = of.map_or(0, |of| structs.birth(of));
        let growth = match field.label() {
            Label::Repeated => Some(match content {
                Content::Entry(of) => Growth::of_map(structs.layout(of).size),
                Content::Message(of) | Content::Group(of) => {
                    Growth::of_vec(structs.layout(of).size)
                }
                Content::Number(_) | Content::Bytes => {
                    Growth::of_vec(Layout::of_scalar(field.r#type()).size)
                }
            }),
            Label::Optional | Label::Required => {
                if let Some(of) = of.filter(|_| self.is_boxed(index, field)) {
                    let block = structs.layout(of).size.saturating_add(OVERHEAD);
                    each = each.saturating_add(block);
                }
                None
            }
        };
        Some(Field { number, content, growth, each, counted: None })
    }

    fn content(&self, field: &FieldDescriptorProto) -> Option<Content> {
        Some(match field.r#type() {
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                Content::Number(WireType::SixtyFourBit)
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => Content::Number(WireType::ThirtyTwoBit),
            Type::String | Type::Bytes => Content::Bytes,
            Type::Message => match self.find(field.type_name())? {
                of if self.is_map_entry(of) => Content::Entry(of),
                of => Content::Message(of),
            },
            Type::Group => Content::Group(self.find(field.type_name())?),
            _ => Content::Number(WireType::Varint),
        })
    }

    pub(super) fn is_map_entry(&self, index: usize) -> bool {
        self.all[index].message.options.as_ref().is_some_and(|options| options.map_entry())
    }

    /// Whether the field of a message is a `Box`: prost makes it one if the message can be reached from it again, by
    /// fields that are neither repeated nor groups.
    pub(super) fn is_boxed(&self, index: usize, field: &FieldDescriptorProto) -> bool {
        let Some(from) = self.find(field.type_name()) else { return false };
        let mut seen = vec![false; self.all.len()];
        let mut left = vec![from];
        while let Some(at) = left.pop() {
            if at == index {
                return true;
            }
            if !std::mem::replace(&mut seen[at], true) {
                let fields = self.all[at].message.field.iter();
                let single = fields.filter(|field| {
                    field.label() != Label::Repeated && field.r#type() == Type::Message
                });
                left.extend(single.filter_map(|field| self.find(field.type_name())));
            }
        }
        false
    }
}

impl Field {
    /// The most memory that a byte of the field becomes, but for what is within a message.
    fn worst(&self) -> usize {
        let once = self.each.saturating_add(self.growth.map_or(0, |growth| growth.worst()));
        // Its number and type, and then a length or a number. That of a field up to 15 is one byte.
        let tag = if self.number < 16 { 1 } else { 2 };
        let of_each = once.div_ceil(tag + 1);
        let of_content = match self.content {
            // One byte of text, in a block of its own, with its length; and more in the same block.
            Content::Bytes => cost::block(1).div_ceil(tag + 2).saturating_add(1),
            Content::Number(wire_type) => {
                let many = self.growth.map_or(0, |growth| growth.many());
                many.div_ceil(match wire_type {
                    WireType::SixtyFourBit => 8,
                    WireType::ThirtyTwoBit => 4,
                    _ => 1,
                })
            }
            Content::Message(_) | Content::Group(_) | Content::Entry(_) => 0,
        };
        of_each.saturating_add(of_content)
    }
}
