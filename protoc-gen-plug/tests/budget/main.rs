//! What decoding takes, against what the runtime reckons that it takes: by an allocator that counts, over messages of the
//! goldens' types.

#![allow(unsafe_code, reason = "an allocator that counts can only be had so")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use plug::Service;
use plug::prost::{DecodeError, Message};
use plug::prost_types::field_descriptor_proto::{Label, Type};
use plug::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

#[allow(dead_code, unreachable_pub)]
mod reckon;

use reckon::Requests;

macro_rules! goldens {
    ($($case:ident: $file:literal,)*) => {$(
        #[doc = "The case."]
        #[allow(dead_code)]
        pub mod $case {
            include!(concat!("../golden/", stringify!($case), "/", $file));
        }
    )*};
}

/// Where a crate that re-exports the runtime has it: `runtime=crate::sdk::plug`.
mod sdk {
    pub(crate) use ::plug;
}

goldens! {
    enums: "enums.rs",
    names: "names.rs",
    options: "options.rs",
    proto2: "old.rs",
    scalars: "scalars.rs",
    shapes: "shapes.rs",
}

// ---- an allocator that counts

struct Counting;

thread_local! {
    /// How many bytes this thread has allocated and not freed, and the most of it.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// What a block takes with glibc's allocator.
fn block(size: usize) -> isize {
    (size + 8).next_multiple_of(16).max(32) as isize
}

fn count(bytes: isize) {
    let live = LIVE.get() + bytes;
    LIVE.set(live);
    MOST.set(MOST.get().max(live));
}

// SAFETY: it does what `System` does, with the same arguments. The cells have no destructor and need no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(block(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-block(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(block(size) - block(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was allocated at a time to decode a message, its struct included.
fn taken<M: Message + Default>(message: &[u8]) -> (usize, Result<M, DecodeError>) {
    let bytes = plug::bytes::Bytes::copy_from_slice(message);
    let before = LIVE.get();
    MOST.set(before);
    let decoded = M::decode(bytes);
    ((MOST.get() - before) as usize + size_of::<M>(), decoded)
}

// ---- random messages

/// Numbers that look random, and are the same each time.
struct Random {
    state: u64,
    /// How many fields are still to be written: messages within messages would have no end.
    fields: usize,
}

impl Random {
    fn below(&mut self, end: usize) -> usize {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}

/// The messages of some files, by their full names.
struct Described {
    messages: BTreeMap<String, DescriptorProto>,
    requests: BTreeMap<String, String>,
}

impl Described {
    fn of<S: Service>() -> Described {
        let files = FileDescriptorSet::decode(S::DESCRIPTORS).unwrap().file;
        let mut described = Described { messages: BTreeMap::new(), requests: BTreeMap::new() };
        for file in files {
            let package = format!(".{}", file.package());
            let mut left: Vec<_> =
                file.message_type.into_iter().map(|message| (package.clone(), message)).collect();
            while let Some((scope, message)) = left.pop() {
                let name = format!("{scope}.{}", message.name());
                let nested = message.nested_type.iter().cloned();
                left.extend(nested.map(|nested| (name.clone(), nested)));
                described.messages.insert(name, message);
            }
            for service in file.service {
                let methods = service.method.into_iter();
                described
                    .requests
                    .extend(methods.filter_map(|method| Some((method.name?, method.input_type?))));
            }
        }
        described
    }

    /// A message of a type, good, with some field that nobody knows, or with fields of the wrong type.
    fn message(&self, name: &str, depth: usize, random: &mut Random) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(message) = self.messages.get(name).filter(|message| !message.field.is_empty())
        else {
            return out;
        };
        let style = random.below(4);
        let most = [1, 3, 8, 40][random.below(4)];
        for _ in 0..random.below(most + 1) {
            let field = &message.field[random.below(message.field.len())];
            // Some fields come once, and some by the dozen.
            for _ in 0..[1, 2, 5, 30][style.min(random.below(4))] {
                self.field(field, depth, random, &mut out);
            }
        }
        if random.below(12) == 0 {
            key(1000, 2, &mut out);
            out.extend([3, 1, 2, 3]);
            key(1001, 3, &mut out);
            out.extend([8, 1]);
            key(1001, 4, &mut out);
        }
        out
    }

    fn field(
        &self,
        field: &FieldDescriptorProto,
        depth: usize,
        random: &mut Random,
        out: &mut Vec<u8>,
    ) {
        let number = field.number() as u32;
        let wrong = random.below(2000) == 0;
        let Some(left) = random.fields.checked_sub(1) else { return };
        random.fields = left;
        match field.r#type() {
            Type::Message if depth > 0 => {
                let message = self.message(field.type_name(), depth - 1, random);
                key(number, if wrong { 5 } else { 2 }, out);
                varint(message.len() as u64, out);
                out.extend(message);
            }
            Type::Group if depth > 0 => {
                let message = self.message(field.type_name(), depth - 1, random);
                key(number, 3, out);
                out.extend(message);
                key(number, 4, out);
            }
            Type::Message => {
                key(number, 2, out);
                out.push(0);
            }
            Type::Group => {}
            Type::String | Type::Bytes => {
                let most = [1, 4, 30, 300][random.below(4)];
                let len = random.below(most);
                key(number, if wrong { 0 } else { 2 }, out);
                varint(len as u64, out);
                out.extend(std::iter::repeat_n(b'a' + (random.below(26) as u8), len));
            }
            of => {
                let (wire_type, size) = match of {
                    Type::Double | Type::Fixed64 | Type::Sfixed64 => (1, 8),
                    Type::Float | Type::Fixed32 | Type::Sfixed32 => (5, 4),
                    _ => (0, 1),
                };
                if field.label() == Label::Repeated && random.below(3) == 0 {
                    let numbers = random.below(50);
                    key(number, 2, out);
                    varint((numbers * size) as u64, out);
                    out.extend(std::iter::repeat_n(1, numbers * size));
                } else {
                    key(number, if wrong { 1 } else { wire_type }, out);
                    // Different ones: they are keys of maps, too.
                    out.extend(std::iter::repeat_n(random.below(128) as u8, size));
                }
            }
        }
    }
}

fn key(number: u32, wire_type: u32, out: &mut Vec<u8>) {
    varint((number << 3 | wire_type).into(), out);
}

fn varint(number: u64, out: &mut Vec<u8>) {
    plug::prost::encoding::encode_varint(number, out);
}

// ---- the tests

/// Compares for a number of messages, and returns how many times too high the estimates are on average.
fn compare<S: Service, M: Message + Default>(method: &str, seeds: u64) -> f64 {
    let requests = Requests::of(S::NAME, S::DESCRIPTORS, method);
    let described = Described::of::<S>();
    // A message holds many of them where one of it is repeated.
    let (size, reckoned) = (size_of::<M>(), requests.size());
    assert!(
        reckoned >= size,
        "{}/{method}: its struct has {size} bytes, {reckoned} reckoned",
        S::NAME
    );
    let (mut reckoned_of_all, mut taken_of_all) = (0, 0);
    for seed in 0..seeds {
        let mut random = Random { state: seed, fields: 300 };
        let mut message = described.message(&described.requests[method], 6, &mut random);
        if random.below(10) == 0 && !message.is_empty() {
            // Broken somewhere.
            let place = random.below(message.len());
            message[place] = random.below(256) as u8;
        }
        let (mut taken, decoded) = taken::<M>(&message);
        if decoded.is_err() {
            // The error takes some, too.
            taken = taken.saturating_sub(ERROR);
        }
        let reckoned = requests.memory(&message);
        assert!(
            reckoned >= taken,
            "{}/{method}, seed {seed}: {reckoned} reckoned, {taken} taken of {} bytes, decoded: {}, {:?}",
            S::NAME,
            message.len(),
            decoded.is_ok(),
            &message[..message.len().min(200)],
        );
        if let Ok(decoded) = decoded {
            // As an encoder writes it.
            let message = decoded.encode_to_vec();
            reckoned_of_all += requests.memory(&message);
            // What every message takes is no part of the comparison.
            taken_of_all += self::taken::<M>(&message).0 + 48;
        }
    }
    reckoned_of_all as f64 / f64::max(taken_of_all as f64, 1.0)
}

/// More than a `DecodeError` takes, with the names of all that it is within.
const ERROR: usize = 1 << 10;

macro_rules! compare {
    ($($service:path { $($method:literal: $message:path,)* })*) => {$($(
        let times = compare::<$service, $message>($method, 400);
        println!("{:>16} of {:<18} {times:.2} times what it takes", $method, <$service>::NAME);
        assert!(times < 4.0, "the estimate of {} is of no use: {times}", $method);
    )*)*};
}

#[test]
fn decoding_never_takes_more_than_was_reckoned() {
    compare! {
        scalars::ScalarsService {
            "All": scalars::All,
            "Optional": scalars::Optional,
            "Repeated": scalars::Repeated,
            "Map": scalars::Map,
            "Wide": scalars::Wide,
        }
        enums::EnumsService {
            "Many": enums::Many,
            "Named": enums::Named,
            "Inside": enums::Inside,
        }
        shapes::ShapesService {
            "Tree": shapes::Tree,
            "Loop": shapes::Loop,
            "Choice": shapes::Choice,
            "Nested": shapes::Outer,
            "Known": shapes::Known,
            "Many": shapes::Many,
        }
        options::OptionsService {
            "Data": options::Data,
            "Shared": options::Shared,
            "Sorted": options::Sorted,
        }
        proto2::OldService {
            "Defaults": proto2::Defaults,
            "Grouped": proto2::Grouped,
            "Required": proto2::Required,
            "Optional": proto2::Scope,
        }
    }
}

/// What the walk costs, against decoding:
/// `cargo test --release -p protoc-gen-plug --test budget -- --ignored --nocapture`.
#[test]
#[ignore = "it measures time"]
fn what_the_walk_costs() {
    let time = plug::prost_types::Duration { seconds: 1000, nanos: 5 };
    let tree = |name: &str| shapes::Tree { name: name.to_owned(), ..Default::default() };
    let trees =
        shapes::Tree { children: vec![tree("a name of some length"); 1_000_000], ..tree("") };
    let texts =
        scalars::Repeated { texts: vec!["hello".to_owned(); 1_000_000], ..Default::default() };
    let numbers = scalars::Repeated { numbers: vec![300; 1_000_000], ..Default::default() };
    let times = shapes::Known { pauses: vec![time; 1_000_000], ..Default::default() };
    let map = (0..1_000_000).map(|key| (key.to_string(), vec![1; 8])).collect();
    let map = scalars::Map { map };
    let payload = options::Shared { data: vec![7; 1 << 20].into() };
    cost::<shapes::ShapesService, _>("1e6 messages with a text", "Tree", &trees);
    cost::<scalars::ScalarsService, _>("1e6 texts", "Repeated", &texts);
    cost::<scalars::ScalarsService, _>("1e6 packed numbers", "Repeated", &numbers);
    cost::<shapes::ShapesService, _>("1e6 messages with two numbers", "Known", &times);
    cost::<scalars::ScalarsService, _>("1e6 entries of a map", "Map", &map);
    cost::<options::OptionsService, _>("1 MiB of bytes", "Shared", &payload);
}

fn cost<S: Service, M: Message + Default>(what: &str, method: &str, message: &M) {
    let requests = Requests::of(S::NAME, S::DESCRIPTORS, method);
    let bytes = plug::bytes::Bytes::from(message.encode_to_vec());
    let best = |run: &dyn Fn()| {
        let times = (0..5).map(|_| {
            let begin = std::time::Instant::now();
            run();
            begin.elapsed()
        });
        times.min().unwrap_or_default()
    };
    let walk = best(&|| {
        std::hint::black_box(requests.memory(&bytes));
    });
    let decode = best(&|| drop(std::hint::black_box(M::decode(bytes.clone()))));
    println!(
        "{what}: {} bytes, walk {walk:?}, decode {decode:?}, {:.1} %",
        bytes.len(),
        100.0 * walk.as_secs_f64() / decode.as_secs_f64()
    );
}
