//! How large the structs are that prost makes of messages.

use prost_types::FieldDescriptorProto;
use prost_types::field_descriptor_proto::{Label, Type};

use super::cost;
use super::shapes::Messages;

/// Size and alignment of a type, and whether an `Option` of it is no larger. The compiler may do better.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) size: usize,
    align: usize,
    has_niche: bool,
}

impl Layout {
    const fn new(size: usize, align: usize) -> Layout {
        Layout { size, align, has_niche: false }
    }

    const fn with_niche(size: usize) -> Layout {
        Layout { size, align: 8, has_niche: true }
    }

    pub(super) fn of_scalar(of: Type) -> Layout {
        match of {
            Type::String => STRING,
            Type::Bytes => BYTES,
            Type::Double
            | Type::Int64
            | Type::Uint64
            | Type::Sint64
            | Type::Fixed64
            | Type::Sfixed64 => Layout::new(8, 8),
            Type::Bool => Layout { size: 1, align: 1, has_niche: true },
            _ => Layout::new(4, 4),
        }
    }

    /// An `Option` of it.
    fn optional(self) -> Layout {
        if self.has_niche {
            return self;
        }
        let size = self.size.saturating_add(self.align);
        Layout { size, align: self.align, has_niche: true }
    }

    /// A struct of these: the compiler puts them in the order that has the fewest gaps.
    fn of_struct(fields: impl IntoIterator<Item = Layout>) -> Layout {
        let mut all = Layout::new(0, 1);
        for field in fields {
            all.size = all.size.saturating_add(field.size);
            all.align = all.align.max(field.align);
            all.has_niche |= field.has_niche;
        }
        all.round_up()
    }

    /// An `Option` of an enum with a variant for each of these.
    fn of_oneof(variants: impl IntoIterator<Item = Layout>) -> Layout {
        let mut all = Layout::new(0, 1);
        for variant in variants {
            all.size = all.size.max(variant.size);
            all.align = all.align.max(variant.align);
        }
        all.size = all.size.saturating_add(all.align);
        all.round_up()
    }

    fn round_up(self) -> Layout {
        let size = self.size.checked_next_multiple_of(self.align).unwrap_or(usize::MAX);
        Layout { size, ..self }
    }
}

const STRING: Layout = Layout::with_niche(24);

/// `Vec<u8>` or `bytes::Bytes`: the larger of both.
const BYTES: Layout = Layout::new(32, 8);

const VEC: Layout = Layout::with_niche(24);

/// `HashMap` or `BTreeMap`: the larger of both.
const MAP: Layout = Layout::new(48, 8);

const BOX: Layout = Layout::new(8, 8);

/// The structs of all messages.
pub(super) struct Structs {
    structs: Vec<Struct>,
}

#[derive(Clone, Copy, Debug)]
struct Struct {
    layout: Layout,
    birth: usize,
}

impl Structs {
    pub(super) fn of(messages: &Messages<'_>) -> Structs {
        let nothing = Struct { layout: Layout::new(0, 1), birth: 0 };
        let mut structs = Structs { structs: vec![nothing; messages.all.len()] };
        // A struct comes after those that it contains. If one contained itself, it would have no size, nor would there be
        // a program: whatever is left then of its size is as good as anything.
        let mut seen = vec![Seen::No; messages.all.len()];
        for first in 0..messages.all.len() {
            let mut left = vec![first];
            while let Some(index) = left.last().copied() {
                match seen[index] {
                    Seen::No => {
                        seen[index] = Seen::Begun;
                        let inner = messages.inner(index).into_iter();
                        left.extend(inner.filter(|inner| seen[*inner] == Seen::No));
                    }
                    Seen::Begun => {
                        seen[index] = Seen::Done;
                        structs.structs[index] = structs.layout_of(messages, index);
                        left.pop();
                    }
                    Seen::Done => {
                        left.pop();
                    }
                }
            }
        }
        structs
    }

    pub(super) fn layout(&self, index: usize) -> Layout {
        self.structs[index].layout
    }

    /// What is on the heap of one that is as `Default` makes it.
    pub(super) fn birth(&self, index: usize) -> usize {
        self.structs[index].birth
    }

    fn layout_of(&self, messages: &Messages<'_>, index: usize) -> Struct {
        let described = &messages.all[index];
        let mut fields = Vec::new();
        let mut oneofs = vec![Vec::new(); described.message.oneof_decl.len()];
        let mut birth: usize = 0;
        for field in &described.message.field {
            let of = messages.find(field.type_name());
            let is_boxed = field.label() != Label::Repeated
                && is_message(field)
                && messages.is_boxed(index, field);
            let layout = match (field.label(), of) {
                (Label::Repeated, Some(of)) if messages.is_map_entry(of) => MAP,
                (Label::Repeated, _) => VEC,
                _ if is_boxed => BOX,
                (_, Some(of)) if is_message(field) => self.layout(of),
                _ => Layout::of_scalar(field.r#type()),
            };
            if field.label() == Label::Required {
                let inner = of.filter(|_| is_message(field));
                birth = birth.saturating_add(inner.map_or(0, |of| self.birth(of)));
                // More than the bytes of bytes have: they are escaped.
                birth = birth.saturating_add(cost::block(field.default_value().len()));
            }
            let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
            let oneof = oneof.and_then(|oneof| oneofs.get_mut(usize::try_from(oneof).ok()?));
            let is_optional = field.label() == Label::Optional
                && (described.is_proto2 || field.proto3_optional() || is_message(field))
                && !messages.is_map_entry(index);
            match oneof {
                Some(variants) => variants.push(layout),
                // A box is no larger in an `Option`, which takes its only niche.
                None if is_boxed || !is_optional => fields.push(layout),
                None => fields.push(layout.optional()),
            }
        }
        let oneofs = oneofs.into_iter().filter(|variants| !variants.is_empty());
        fields.extend(oneofs.map(Layout::of_oneof));
        Struct { layout: Layout::of_struct(fields), birth }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    No,
    Begun,
    Done,
}

fn is_message(field: &FieldDescriptorProto) -> bool {
    matches!(field.r#type(), Type::Message | Type::Group)
}

impl Messages<'_> {
    /// The messages that are part of the struct of another.
    fn inner(&self, index: usize) -> Vec<usize> {
        let fields = self.all[index].message.field.iter();
        let single = fields.filter(|field| field.label() != Label::Repeated && is_message(field));
        let inner = single.filter(|field| !self.is_boxed(index, field));
        inner.filter_map(|field| self.find(field.type_name())).collect()
    }
}
