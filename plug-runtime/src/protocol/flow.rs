//! How much may be under way: windows for streams, and a budget for messages that are larger.
//!
//! What a frame of a stream costs is the length of its payload and [`FRAME_COST`] more, so that a
//! flood of empty messages is bounded as well. Both sides count from the beginning, and a grant says
//! up to where: so a grant that is repeated or overtaken does no harm.

use std::collections::{BTreeMap, VecDeque};
use std::ops::AddAssign;

use super::call::{Added, Assembly, Fragment, broken};
use super::{FRAGMENT, FRAME_COST};
use crate::error::Result;

/// What the other side may send, seen by the side that receives: in one call, or in all together.
#[derive(Debug)]
pub(super) struct Window {
    size: u64,
    /// What the other side was told it may have sent.
    granted: u64,
    received: u64,
    consumed: u64,
}

impl Window {
    pub(super) fn new(size: u64) -> Window {
        Window { size, granted: size, received: 0, consumed: 0 }
    }

    /// Whether a frame that costs so much may arrive.
    pub(super) fn covers(&self, cost: u64) -> bool {
        self.granted - self.received >= cost
    }

    /// Counts a frame that arrived.
    pub(super) fn receive(&mut self, cost: u64) -> Result<()> {
        self.received += cost;
        if self.received > self.granted {
            return Err(broken(&format!(
                "{} bytes of a stream were sent where {} were granted",
                self.received, self.granted
            )));
        }
        Ok(())
    }

    /// The same of one that is [covered](Self::covers).
    #[inline]
    pub(super) fn receive_covered(&mut self, cost: u64) {
        self.received += cost;
        debug_assert!(self.received <= self.granted, "a frame that is not covered");
    }

    /// Counts what was consumed. Returns the next grant if it is time for one: half of what is not held at a time,
    /// since a grant for each message would double the frames. `least` is the least that is granted.
    pub(super) fn consume(&mut self, cost: u64, least: u64) -> Option<u64> {
        self.consumed += cost;
        let grant = self.consumed + self.size;
        let free = self.size.saturating_sub(self.received - self.consumed);
        if grant < self.granted + free.div_ceil(2).max(least).max(1) {
            return None;
        }
        self.granted = grant;
        Some(grant)
    }

    /// The least that is granted of the window of one stream, whose reader has all of what is held before it, ...
    pub(super) fn half(&self) -> u64 {
        self.size.div_ceil(2)
    }

    /// ... and of that of all streams together, of which some may have no reader for a long time.
    pub(super) fn shred(&self) -> u64 {
        self.size / 64
    }

    /// Allows for a whole message of which `rest` bytes have not arrived. Returns the grant if one is needed.
    fn admit(&mut self, rest: u64) -> Option<u64> {
        if self.granted - self.received >= rest + FRAME_COST {
            return None;
        }
        let frames = rest / FRAGMENT as u64 + 2;
        self.granted = self.received + rest + frames * FRAME_COST;
        Some(self.granted)
    }

    /// Its size, and what was granted, received and consumed.
    #[cfg(any(test, fuzzing))]
    pub(super) fn numbers(&self) -> (u64, u64, u64, u64) {
        (self.size, self.granted, self.received, self.consumed)
    }
}

/// What this side may send: in one call, or in all together.
#[derive(Debug)]
pub(super) struct Allowance {
    limit: u64,
    spent: u64,
}

impl Allowance {
    pub(super) fn new(limit: u64) -> Allowance {
        Allowance { limit, spent: 0 }
    }

    /// How long a payload one frame may have now.
    pub(super) fn payload(&self) -> u64 {
        (self.limit - self.spent).saturating_sub(FRAME_COST)
    }

    /// Whether so much may be sent.
    pub(super) fn covers(&self, cost: u64) -> bool {
        self.limit - self.spent >= cost
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.limit, self.spent)
    }

    pub(super) fn spend(&mut self, cost: u64) {
        self.spent += cost;
        debug_assert!(self.spent <= self.limit, "more was sent than granted");
    }

    /// Takes a grant of the other side. Says whether it grants more than before.
    pub(super) fn raise(&mut self, limit: u64) -> Result<bool> {
        check_grant(limit)?;
        if limit < self.limit {
            return Err(broken(&format!("a credit of {limit} after one of {}", self.limit)));
        }
        let more = limit > self.limit;
        self.limit = limit;
        Ok(more)
    }
}

/// Refuses a grant that no honest side reaches.
pub(super) fn check_grant(limit: u64) -> Result<()> {
    if limit > MAX_GRANT {
        return Err(broken(&format!("a credit of {limit}, over 2^62")));
    }
    Ok(())
}

/// A stream that arrives: the requests of a call of the other side, or the responses to one of this.
#[derive(Debug)]
pub(super) struct Inflow {
    window: Window,
    message: Assembly,
    /// What the frames of `message` have cost so far.
    cost: u64,
    /// Whether `message` was admitted, from the budget.
    is_admitted: bool,
    /// Whether nobody wants what arrives.
    pub(super) is_discarded: bool,
    pub(super) has_ended: bool,
}

/// What a message of a stream has taken up until it is consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    call: u64,
    /// 0 for a message of several frames: all calls together do not pay for it.
    connection: u64,
    /// What it has of the budget: its length if it has several frames.
    budget: u64,
}

/// What a fragment that arrived came to.
pub(super) struct Arrived {
    /// What all calls together have used and consumed in the same moment.
    pub(super) passed: u64,
    /// A whole message, and what it cost.
    pub(super) message: Option<(bytes::Bytes, Cost)>,
    /// A message of so many bytes is whole, and there was no memory for it.
    pub(super) lost: Option<u64>,
    /// A message of several frames has begun, with so many bytes: it needs the budget.
    pub(super) wants: Option<u64>,
    /// The call's next grant.
    pub(super) grant: Option<u64>,
}

impl Inflow {
    pub(super) fn new(window: u64) -> Inflow {
        Inflow {
            window: Window::new(window),
            message: Assembly::default(),
            cost: 0,
            is_admitted: false,
            is_discarded: false,
            has_ended: false,
        }
    }

    /// Counts a message that is whole in its only fragment, as short ones are, without what [`add`](Self::add) prepares for
    /// others. `None`, and nothing is counted, where that is to say what comes of it.
    #[inline]
    pub(super) fn receive_whole(&mut self, len: usize, total: u64, limit: u64) -> Option<Cost> {
        let cost = len as u64 + FRAME_COST;
        let is_usual = total == 0 && len <= FRAGMENT && len as u64 <= limit;
        if !is_usual || self.message(cost)?.has_begun() {
            return None;
        }
        self.window.receive_covered(cost);
        // Its memory may have been lent from here.
        self.message = Assembly::default();
        Some(Cost::of_whole(len))
    }

    /// Takes a fragment of a message of the stream.
    pub(super) fn add(
        &mut self,
        payload: impl Fragment,
        total: u64,
        is_last: bool,
        limit: u64,
    ) -> Result<Arrived> {
        if self.has_ended {
            return Err(broken("a message after the end of its stream"));
        }
        let cost = payload.len() as u64 + FRAME_COST;
        self.window.receive(cost)?;
        let mut arrived =
            Arrived { passed: 0, message: None, lost: None, wants: None, grant: None };
        if self.is_discarded {
            // The call pays, so that its sender comes to a halt; all calls together do not.
            arrived.passed = cost;
            return Ok(arrived);
        }
        let begins = !self.message.has_begun();
        self.cost += cost;
        let added = self.message.add(payload, total, is_last, limit)?;
        let is_alone = begins && matches!(added, Added::Whole(_));
        if !is_alone {
            // Nothing of it can be consumed before it is whole. If it were held against what all calls together may
            // use, messages that wait for each other's rest would wait for ever.
            arrived.passed = cost;
        }
        if let Added::Whole(message) = added {
            let (connection, budget) =
                if is_alone { (self.cost, 0) } else { (0, message.len() as u64) };
            let cost = Cost { call: self.cost, connection, budget };
            arrived.message = Some((message, cost));
            self.message = Assembly::default();
            self.cost = 0;
            self.is_admitted = false;
        } else if let Added::Lost(len) = added {
            arrived.lost = Some(len);
        } else if begins {
            arrived.wants = Some(total);
        } else if self.is_admitted {
            arrived.grant = self.window.admit(self.message.rest());
        }
        Ok(arrived)
    }

    /// The message that arrives, if a frame of it that costs so much may come, and is kept.
    pub(super) fn message(&mut self, cost: u64) -> Option<&mut Assembly> {
        let is_usual = !self.has_ended && !self.is_discarded && self.window.covers(cost);
        is_usual.then_some(&mut self.message)
    }

    /// Allows for the rest of the message that has begun. Returns the grant if one is needed.
    pub(super) fn admit(&mut self) -> Option<u64> {
        self.is_admitted = true;
        self.window.admit(self.message.rest())
    }

    pub(super) fn consume(&mut self, cost: Cost) -> Option<u64> {
        let grant = self.window.consume(cost.call, self.window.half());
        grant.filter(|_| !self.has_ended && !self.is_discarded)
    }

    /// Drops what has arrived of a message, and all that follows.
    pub(super) fn discard(&mut self) {
        self.is_discarded = true;
        self.message = Assembly::default();
    }

    /// Notes that no message follows.
    pub(super) fn end(&mut self) -> Result<()> {
        if self.message.has_begun() && !self.is_discarded {
            return Err(broken("a stream that ends in the middle of a message"));
        }
        self.has_ended = true;
        Ok(())
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.message.held()
    }
}

impl Cost {
    /// What a message of so many bytes has taken up that came in one frame.
    #[inline]
    pub(super) fn of_whole(len: usize) -> Cost {
        let cost = len as u64 + FRAME_COST;
        Cost { call: cost, connection: cost, budget: 0 }
    }

    /// What the call has paid.
    pub(crate) fn call(self) -> u64 {
        self.call
    }

    pub(super) fn connection(self) -> u64 {
        self.connection
    }

    pub(crate) fn budget(self) -> u64 {
        self.budget
    }
}

/// Of several messages of one stream.
impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.call += other.call;
        self.connection += other.connection;
        self.budget += other.budget;
    }
}

/// Memory for long messages, which are admitted whole, first come first served.
///
/// Long messages cannot be paid for by consumption: nothing of one can be consumed before it is whole, and two
/// that wait for each other's rest wait for ever.
#[derive(Debug)]
pub(super) struct Budget {
    size: u64,
    used: u64,
    /// The lengths of admitted messages that have not arrived whole, by their calls.
    arriving: BTreeMap<u64, u64>,
    waiting: VecDeque<(u64, u64)>,
}

impl Budget {
    pub(super) fn new(size: u64) -> Budget {
        Budget { size, used: 0, arriving: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// Notes that a call has a message of so many bytes, of which none is larger than what this side receives.
    pub(super) fn ask(&mut self, call: u64, total: u64) {
        self.waiting.push_back((call, total));
    }

    /// Whether a message that asked now would be admitted at once.
    pub(super) fn admits(&self, total: u64) -> bool {
        self.waiting.is_empty() && (self.used == 0 || total <= self.size.saturating_sub(self.used))
    }

    /// The next call whose message is admitted now, and its length. One is, however large, where nothing else is.
    pub(super) fn admit(&mut self) -> Option<(u64, u64)> {
        let &(call, total) = self.waiting.front()?;
        if self.used > 0 && total > self.size.saturating_sub(self.used) {
            return None;
        }
        self.waiting.pop_front();
        self.used += total;
        self.arriving.insert(call, total);
        Some((call, total))
    }

    /// Whether a call has a message that was not admitted.
    pub(super) fn is_waiting(&self, call: u64) -> bool {
        self.waiting.iter().any(|&(waiting, _)| waiting == call)
    }

    /// Notes that a message of a call has arrived whole, and is kept until it is given back.
    pub(super) fn keep(&mut self, call: u64, total: u64) {
        if self.arriving.remove(&call).is_none() {
            // The window was enough for it.
            self.waiting.retain(|&(waiting, _)| waiting != call);
            self.used += total;
        }
    }

    /// Notes that a message that was kept does not take up memory any more.
    pub(super) fn give_back(&mut self, total: u64) {
        self.used -= total;
    }

    /// Notes that the rest of a call's message does not come, or is not kept.
    pub(super) fn forget(&mut self, call: u64) {
        if let Some(total) = self.arriving.remove(&call) {
            self.used -= total;
        }
        self.waiting.retain(|&(waiting, _)| waiting != call);
    }

    /// Whether no message has begun and not arrived whole.
    pub(super) fn is_quiet(&self) -> bool {
        self.arriving.is_empty() && self.waiting.is_empty()
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn is_unused(&self) -> bool {
        self.used == 0 && self.is_quiet()
    }
}

/// The highest grant: what no connection ever carries.
const MAX_GRANT: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_granted_again_by_halves() {
        let mut window = Window::new(100);
        window.receive(60).unwrap();
        assert_eq!(window.consume(49, window.half()), None);
        assert_eq!(window.consume(1, window.half()), Some(150));
        window.receive(90).unwrap();
        assert!(window.receive(1).is_err(), "151 of 150");
    }

    #[test]
    fn what_is_held_for_long_does_not_keep_the_rest_of_a_window_from_being_granted_again() {
        let mut window = Window::new(1000);
        // So much is read by nobody.
        window.receive(900).unwrap();
        let mut left = 100;
        for round in 0..100 {
            assert!(left >= 10, "nothing more can be sent after {round} rounds");
            window.receive(10).unwrap();
            let before = window.granted;
            window.consume(10, window.shred());
            left = left - 10 + (window.granted - before);
        }
    }

    #[test]
    fn c16_a_grant_must_not_shrink_nor_be_absurd() {
        let mut allowance = Allowance::new(100);
        assert!(!allowance.raise(100).unwrap());
        assert!(allowance.raise(101).unwrap());
        assert!(allowance.raise(100).is_err());
        assert!(allowance.raise(u64::MAX).is_err());
        assert_eq!(allowance.payload(), 101 - FRAME_COST);
        allowance.spend(101);
        assert_eq!(allowance.payload(), 0);
        assert!(!allowance.covers(FRAME_COST));
    }

    #[test]
    fn a_budget_admits_in_the_order_of_asking_and_always_somebody() {
        let mut budget = Budget::new(10);
        for (call, total) in [(1, 50), (3, 6), (5, 6), (7, 1)] {
            budget.ask(call, total);
        }
        assert_eq!(budget.admit(), Some((1, 50)), "however large");
        assert_eq!(budget.admit(), None);
        budget.forget(1);
        assert_eq!(budget.admit(), Some((3, 6)));
        assert_eq!(budget.admit(), None, "5 is next, although 7 would fit");
        budget.forget(5);
        assert_eq!(budget.admit(), Some((7, 1)));
        budget.keep(3, 6);
        budget.forget(3);
        assert!(!budget.is_unused(), "what has arrived is kept, whatever becomes of the call");
        budget.give_back(6);
        budget.forget(7);
        assert!(budget.is_unused());
    }

    #[test]
    fn a_message_of_several_frames_is_admitted_whole() {
        let mut inflow = Inflow::new(100);
        let arrived = inflow.add(&[0; 20][..], 300, false, 1000).unwrap();
        assert_eq!((arrived.wants, arrived.passed), (Some(300), 20 + FRAME_COST));
        let granted = inflow.admit().unwrap();
        assert!(granted >= 20 + 280 + 2 * FRAME_COST);
        let arrived = inflow.add(&[0; 280][..], 0, true, 1000).unwrap();
        assert_eq!(arrived.passed, 280 + FRAME_COST);
        let (message, cost) = arrived.message.unwrap();
        assert_eq!((message.len(), cost.connection, cost.budget), (300, 0, 300));
        assert!(inflow.consume(cost).is_some());
    }
}
