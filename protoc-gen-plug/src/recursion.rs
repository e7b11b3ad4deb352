//! Messages that contain messages: what prost-build would get lost in.

use std::collections::HashMap;

use prost_types::FieldDescriptorProto;
use prost_types::field_descriptor_proto::{Label, Type};

use crate::messages::is_map_entry;
use crate::mistakes::Mistakes;
use crate::source::{Source, Types};

/// How deep prost-build may descend from a message through its fields. Far more than anybody writes,
/// and far less than the generator's stack holds.
const MAX_DEPTH: u32 = 2_000;

/// How many messages prost-build may visit to find out whether one message can be `Copy` or `Eq`. It
/// remembers nothing, so that thirty messages with two fields of the next cost a billion visits.
const MAX_VISITS: u64 = 1_000_000;

/// Refuses messages that prost-build would take forever for, or would overflow the stack with.
pub(crate) fn check(source: &Source, types: &Types<'_>, mistakes: &mut Mistakes) {
    let cycles = Cycles::find(types);
    let mut costs = Costs { types, cycles: &cycles, known: HashMap::new() };
    let mut names: Vec<&String> = types.messages.keys().collect();
    names.sort();
    for name in names {
        let cost = costs.of(name, 0);
        if cost.depth > MAX_DEPTH || cost.visits > MAX_VISITS {
            let found = &types.messages[name];
            let file = &source.files[found.file];
            mistakes.add(
                file.name(),
                file.position(&found.path),
                format!(
                    "the message `{}` contains others too deeply or too often. Make a field of it \
                     `repeated`, or split it",
                    found.proto.name()
                ),
            );
            // One is enough: all that contain it have the same problem.
            return;
        }
    }
}

/// The group fields that contain themselves, as paths for prost-build: it boxes the recursive fields
/// that it sees, but does not see through groups.
pub(crate) fn groups_to_box(types: &Types<'_>) -> Vec<String> {
    let cycles = Cycles::find(types);
    let mut paths = Vec::new();
    for (name, found) in &types.messages {
        for field in &found.proto.field {
            if field.r#type() == Type::Group
                && field.label() != Label::Repeated
                && cycles.same(name, field.type_name())
            {
                paths.push(format!("{name}.{}", field.name()));
            }
        }
    }
    paths.sort();
    paths
}

/// Which messages contain each other, directly or not.
struct Cycles<'a> {
    component: HashMap<&'a str, usize>,
}

impl<'a> Cycles<'a> {
    /// Finds the strongly connected components of the graph of messages: Tarjan's algorithm, with a
    /// stack of its own, because a chain of messages can be as long as it likes.
    fn find(types: &'a Types<'a>) -> Cycles<'a> {
        struct Visit<'a> {
            name: &'a str,
            next: usize,
        }
        let mut names: Vec<&str> = types.messages.keys().map(String::as_str).collect();
        names.sort_unstable();
        let edges = |name: &str| -> Vec<&'a str> {
            types.messages.get(name).map_or(Vec::new(), |found| {
                found
                    .proto
                    .field
                    .iter()
                    .filter(|field| holds_message(field))
                    .map(|field| field.type_name())
                    .collect()
            })
        };
        let (mut order, mut low) = (HashMap::new(), HashMap::new());
        let mut component: HashMap<&str, usize> = HashMap::new();
        let mut open = Vec::new();
        for root in names {
            if order.contains_key(root) {
                continue;
            }
            let mut visits = vec![Visit { name: root, next: 0 }];
            order.insert(root, order.len());
            low.insert(root, order[root]);
            open.push(root);
            while let Some(visit) = visits.last_mut() {
                let name = visit.name;
                if let Some(&next) = edges(name).get(visit.next) {
                    visit.next += 1;
                    if !order.contains_key(next) {
                        order.insert(next, order.len());
                        low.insert(next, order[next]);
                        open.push(next);
                        visits.push(Visit { name: next, next: 0 });
                    } else if !component.contains_key(next) {
                        low.insert(name, low[name].min(order[next]));
                    }
                    continue;
                }
                visits.pop();
                if let Some(parent) = visits.last() {
                    low.insert(parent.name, low[parent.name].min(low[name]));
                }
                if low[name] == order[name] {
                    let index = order[name];
                    while let Some(member) = open.pop() {
                        component.insert(member, index);
                        if member == name {
                            break;
                        }
                    }
                }
            }
        }
        Cycles { component }
    }

    fn same(&self, a: &str, b: &str) -> bool {
        self.component.get(a).is_some_and(|index| self.component.get(b) == Some(index))
    }
}

/// What it costs prost-build to look at a message.
#[derive(Clone, Copy)]
struct Cost {
    depth: u32,
    visits: u64,
}

struct Costs<'a> {
    types: &'a Types<'a>,
    cycles: &'a Cycles<'a>,
    known: HashMap<&'a str, Cost>,
}

impl<'a> Costs<'a> {
    fn of(&mut self, name: &'a str, depth: u32) -> Cost {
        if let Some(&cost) = self.known.get(name) {
            return cost;
        }
        if depth > MAX_DEPTH {
            return Cost { depth, visits: 1 };
        }
        let mut cost = Cost { depth: 1, visits: 1 };
        if let Some(found) = self.types.messages.get(name) {
            for field in &found.proto.field {
                if field.r#type() == Type::Message
                    && field.label() != Label::Repeated
                    && !self.cycles.same(name, field.type_name())
                {
                    let inner = self.of(field.type_name(), depth + 1);
                    cost.depth = cost.depth.max(inner.depth.saturating_add(1));
                    cost.visits = cost.visits.saturating_add(inner.visits);
                }
                // prost-build stops at the first field that decides, for `Copy` and for `Eq`.
                if decides(self.types, field) {
                    break;
                }
            }
        }
        self.known.insert(name, cost);
        cost
    }
}

/// Whether a message with this field is certainly neither `Copy` nor `Eq`.
fn decides(types: &Types<'_>, field: &FieldDescriptorProto) -> bool {
    let repeated_message = field.label() == Label::Repeated
        && (field.r#type() == Type::Message || is_map(types, field));
    repeated_message || field.r#type() == Type::Group
}

fn is_map(types: &Types<'_>, field: &FieldDescriptorProto) -> bool {
    types.messages.get(field.type_name()).is_some_and(|found| is_map_entry(found.proto))
}

fn holds_message(field: &FieldDescriptorProto) -> bool {
    matches!(field.r#type(), Type::Message | Type::Group) && field.label() != Label::Repeated
}
