//! Every order of commands on both sides, with every way to cut, delay and lose bytes: the invariants of `model` hold
//! after each step, and in the end every call has ended and all credit is back.
//!
//! `PROPTEST_CASES=10000 cargo test --release -p plug-runtime --lib machine` runs ten thousand of each.

use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{Answered, LONGEST, Limits, Shape};
use super::properties::cases;
use super::world::{Step, World};
use super::*;
use crate::protocol::FRAGMENT;

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Host), Just(Side::Plugin)]
}

fn shape() -> impl Strategy<Value = Shape> {
    proptest::sample::select(Shape::ALL.to_vec())
}

/// Windows from the smallest ones to those of this runtime.
fn limits() -> impl Strategy<Value = Limits> {
    let window = prop_oneof![1 => Just(32u64), 4 => 32..3000u64, 1 => Just(512 << 10)];
    let budget = prop_oneof![1..3000u64, Just(300 << 10), Just(64 << 20)];
    (1..6u32, window, 1..5u64, budget).prop_map(|(max_calls, stream_window, times, budget)| {
        let connection_window = stream_window * times;
        Limits { max_calls, stream_window, connection_window, budget }
    })
}

fn message_len() -> impl Strategy<Value = usize> {
    prop_oneof![
        20 => 0..20usize,
        10 => 0..2000usize,
        1 => FRAGMENT - 20..FRAGMENT + 2,
        1 => 2 * FRAGMENT..LONGEST,
    ]
}

fn piece_len() -> impl Strategy<Value = usize> {
    prop_oneof![1..8usize, 8..200usize, Just(64 << 10), Just(usize::MAX)]
}

fn answer() -> impl Strategy<Value = Answered> {
    prop_oneof![
        3 => message_len().prop_map(|len| Answered::Response(blob(len, 7))),
        1 => Just(Answered::Failed),
        1 => Just(Answered::Refused),
        1 => any::<bool>().prop_map(Answered::Finished),
    ]
}

fn peaceful_step() -> impl Strategy<Value = Step> {
    let which = || any::<usize>();
    let timeout = proptest::option::weighted(0.2, 1..50u64);
    prop_oneof![
        6 => (side(), shape(), message_len(), timeout)
            .prop_map(|(side, shape, len, timeout)| Step::Open(side, shape, len, timeout)),
        6 => (side(), which(), message_len()).prop_map(|(a, b, c)| Step::Send(a, b, c)),
        6 => (side(), which(), message_len()).prop_map(|(a, b, c)| Step::Respond(a, b, c)),
        2 => (side(), which()).prop_map(|(a, b)| Step::EndRequests(a, b)),
        6 => (side(), which(), any::<bool>()).prop_map(|(a, b, c)| Step::Consume(a, b, c)),
        1 => (side(), which()).prop_map(|(a, b)| Step::Discard(a, b)),
        4 => (side(), which(), answer()).prop_map(|(a, b, c)| Step::Answer(a, b, c)),
        3 => (side(), which(), any::<bool>()).prop_map(|(a, b, c)| Step::Cancel(a, b, c)),
        1 => (0..30u64).prop_map(Step::Tick),
        14 => (side(), piece_len(), any::<bool>()).prop_map(|(a, b, c)| Step::Write(a, b, c)),
        14 => (side(), piece_len()).prop_map(|(a, b)| Step::Read(a, b)),
        1 => side().prop_map(Step::Ping),
        1 => Just(Step::Log),
        1 => Just(Step::Level),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        80 => peaceful_step(),
        1 => side().prop_map(Step::Goodbye),
        1 => side().prop_map(Step::Close),
        1 => side().prop_map(Step::Eof),
    ]
}

proptest! {
    #![proptest_config(cases(300))]

    /// Without trouble everything comes to an end by itself, and leaves nothing behind.
    #[test]
    fn every_call_and_stream_ends_and_all_credit_comes_back(
        limits in limits(),
        steps in vec(peaceful_step(), 0..150),
    ) {
        let mut world = World::new(limits);
        for step in &steps {
            world.step(step);
        }
        world.finish();
        prop_assert!(world.is_peaceful());
    }

    /// Whatever ends the connection and whenever: every call ends once, with the truth.
    #[test]
    fn every_call_ends_once_however_the_connection_ends(
        limits in limits(),
        steps in vec(step(), 0..150),
    ) {
        let mut world = World::new(limits);
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}
