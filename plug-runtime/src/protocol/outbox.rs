//! What waits to be sent: small frames at once, long messages and streams in turns.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Buf as _, Bytes};

use super::call::ById;
use super::flow::Allowance;
use super::frame::{Frame, Varint, flag, kind, read_varint};
use super::memory::reclaim;
use super::{FRAGMENT, FRAME_COST, is_large};
use crate::error::Result;

/// The queue between the state machine and the writer.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Whole frames, in the order in which they go out.
    ready: Vec<u8>,
    /// Calls with messages that are not `ready`: long ones, and streams.
    flows: ById<Flow>,
    /// Those that can send. They take turns: behind all that is `ready`, one fragment of one of them goes out, or
    /// of more while they are small. So a small frame waits for one fragment at most, and no amount of small
    /// frames keeps a long message from arriving.
    turns: VecDeque<u64>,
    /// Those that wait until all calls together may send more.
    starved: VecDeque<u64>,
    /// Those whose sender waits until less is `ready`.
    congested: VecDeque<u64>,
    /// What all streams together may send.
    allowance: Allowance,
    /// How many bytes have entered `ready` since the beginning: a position in the stream.
    queued: u64,
    /// How many of them the operating system has taken.
    written: u64,
    /// How many more it may be taking at this moment.
    writing: u64,
    /// Where the ends of calls of the other side are that have not been taken, and of which calls they are.
    ends: VecDeque<(u64, u64)>,
    /// The memory of the last long message that was no stream's, for the next one.
    pub(super) spare: Vec<u8>,
    /// Where the frames are that were made void and have not been taken.
    voids: BTreeSet<u64>,
}

/// What a call has to send that is not `ready`.
#[derive(Debug)]
struct Flow {
    messages: VecDeque<Bytes>,
    /// Whether the first fragment of the first message has gone.
    has_begun: bool,
    /// Whether there is a frame of the call behind its first.
    is_followed: bool,
    /// What the stream may send; `None` for a message that is no stream.
    allowance: Option<Allowance>,
    /// The longest message of a stream that is sent in one frame.
    in_one: u64,
    /// How much must be granted before the rest of a message goes that is no stream: its length, or 0.
    needs: u64,
    /// The kind and flags of the frame with the last fragment of a message.
    last_kind: u32,
    last_flags: u32,
    /// The frame that ends the stream, once all messages have gone, and whether it ends the call as well.
    end: Option<Vec<u8>>,
    ends_call: bool,
    place: Place,
    /// Whether its sender waits for room.
    is_awaited: bool,
}

impl Flow {
    /// What the next frame of a stream costs at least. A message that fits into one frame is sent in one.
    fn next_cost(&self) -> u64 {
        match self.messages.front() {
            Some(message) if !self.has_begun && message.len() as u64 <= self.in_one => {
                message.len() as u64 + FRAME_COST
            }
            _ => FRAME_COST,
        }
    }
}

/// In which queue a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In none: it has nothing to send, or its own allowance is used up.
    Nowhere,
    Turns,
    Starved,
    Congested,
}

/// The end of a request in the stream of bytes that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SentAt {
    /// It ends at this position.
    Position(u64),
    /// Some of its fragments have not been made into frames.
    Unfinished,
}

/// What happened while something was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The last fragment of a message that is no stream was queued, up to this position.
    Finished(u64, SentAt),
    /// A stream takes messages again.
    Room(u64),
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox {
            ready: Vec::new(),
            flows: ById::default(),
            turns: VecDeque::new(),
            starved: VecDeque::new(),
            congested: VecDeque::new(),
            allowance: Allowance::new(0),
            queued: 0,
            written: 0,
            writing: 0,
            ends: VecDeque::new(),
            spare: Vec::new(),
            voids: BTreeSet::new(),
        }
    }
}

impl Outbox {
    /// Whether there is nothing that could be sent now.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && !self.turns.iter().any(|&call| self.can_go(call))
    }

    /// Whether a flow in turns can send a fragment: others may have used up what all may send together.
    fn can_go(&self, call: u64) -> bool {
        self.flows
            .get(call)
            .is_some_and(|flow| flow.allowance.is_none() || self.allowance.covers(flow.next_cost()))
    }

    pub(super) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// The position up to which everything is queued.
    pub(super) fn position(&self) -> u64 {
        self.queued
    }

    /// How many bytes the operating system has taken since the beginning.
    pub(super) fn sent(&self) -> u64 {
        self.written
    }

    // ---- whole frames

    /// Queues bytes that are not a frame: the preamble.
    pub(super) fn push_raw(&mut self, bytes: &[u8]) {
        self.ready.extend_from_slice(bytes);
        self.queued += bytes.len() as u64;
    }

    /// Queues a whole frame.
    pub(super) fn push(&mut self, frame: &Frame<'_>) -> SentAt {
        self.push_with(frame, frame.payload.len(), |out| out.extend_from_slice(frame.payload))
    }

    /// Queues a whole frame whose payload, of exactly `payload_len` bytes, `payload` appends.
    pub(super) fn push_with(
        &mut self,
        frame: &Frame<'_>,
        payload_len: usize,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> SentAt {
        let before = self.ready.len();
        frame.encode_head(payload_len, &mut self.ready);
        let head_end = self.ready.len();
        payload(&mut self.ready);
        debug_assert_eq!(self.ready.len() - head_end, payload_len, "the announced length");
        self.queued += (self.ready.len() - before) as u64;
        if frame.kind == kind::END {
            self.ends.push_back((self.queued, frame.call));
        }
        SentAt::Position(self.queued)
    }

    /// Makes the frame that begins at a position one that everybody ignores, if none of it was taken by the
    /// operating system. `taken` is what [`take`](Self::take) gave and was not written: empty if it is out of
    /// reach. Says whether that was possible.
    pub(super) fn void(&mut self, begins_at: u64, taken: &mut [u8]) -> bool {
        let ready_from = self.queued - self.ready.len() as u64;
        let frame = if begins_at >= ready_from {
            &mut self.ready[(begins_at - ready_from) as usize..]
        } else if self.writing == 0 && begins_at >= self.written {
            match taken.get_mut((begins_at - self.written) as usize..) {
                Some(frame) => frame,
                None => return false,
            }
        } else {
            return false;
        };
        // The length, the tag of the kind, the kind: they are the first of every frame of ours.
        let Varint::Value(_, prefix) = read_varint(frame) else { return false };
        match frame.get_mut(prefix + 1) {
            Some(kind) => *kind = kind::VOID as u8,
            None => return false,
        }
        self.voids.insert(begins_at);
        true
    }

    /// How many frames are void and still take up memory here.
    pub(super) fn voids(&self) -> usize {
        self.voids.len()
    }

    // ---- long messages and streams

    /// Sets what all streams together may send at first.
    pub(super) fn set_allowance(&mut self, limit: u64) {
        self.allowance = Allowance::new(limit);
    }

    /// Queues a message that is not sent in one frame. `first` is the frame with its first fragment, of at most
    /// `first_len` bytes; `last` is the frame that carries its last. With `needs_grant`, the rest waits for the
    /// other side's leave.
    pub(super) fn push_long(
        &mut self,
        first: Frame<'_>,
        first_len: usize,
        last: Frame<'_>,
        mut message: Bytes,
        needs_grant: bool,
    ) {
        let total = message.len() as u64;
        let fragment = message.split_to(first_len);
        debug_assert!(!message.is_empty(), "one frame would do");
        self.push(&Frame { total, payload: &fragment, ..first });
        let flow = Flow {
            messages: VecDeque::from([message]),
            has_begun: true,
            is_followed: false,
            allowance: None,
            in_one: 0,
            needs: if needs_grant { total } else { 0 },
            last_kind: last.kind,
            last_flags: last.flags | flag::LAST,
            end: None,
            ends_call: false,
            place: Place::Nowhere,
            is_awaited: false,
        };
        self.flows.insert(last.call, flow);
        self.place(last.call);
    }

    /// Begins a stream with a window.
    pub(super) fn begin_stream(&mut self, call: u64, window: u64) {
        let flow = Flow {
            messages: VecDeque::new(),
            has_begun: false,
            is_followed: false,
            allowance: Some(Allowance::new(window)),
            in_one: (window / 2).saturating_sub(FRAME_COST).min(FRAGMENT as u64),
            needs: 0,
            last_kind: kind::MESSAGE,
            last_flags: flag::LAST,
            end: None,
            ends_call: false,
            place: Place::Nowhere,
            is_awaited: false,
        };
        self.flows.insert(call, flow);
    }

    /// Queues a message of a stream. Says whether the stream takes another one now; if not, a
    /// [`Progress::Room`] follows.
    pub(super) fn send(&mut self, call: u64, message: &[u8]) -> bool {
        let is_congested = self.is_congested();
        let Some(flow) = self.flows.get_mut(call).filter(|flow| flow.end.is_none()) else {
            return true;
        };
        let Some(allowance) = &mut flow.allowance else { return true };
        let cost = message.len() as u64 + FRAME_COST;
        if flow.messages.is_empty()
            && !is_congested
            && message.len() <= FRAGMENT
            && allowance.covers(cost)
            && self.allowance.covers(cost)
        {
            allowance.spend(cost);
            self.allowance.spend(cost);
            flow.is_followed = true;
            self.push(&Frame {
                kind: kind::MESSAGE,
                call,
                flags: flag::LAST,
                payload: message,
                ..Frame::default()
            });
        } else {
            flow.messages.push_back(Bytes::copy_from_slice(message));
        }
        if let Some(flow) = self.flows.get_mut(call) {
            flow.is_awaited = true;
        }
        let room = self.place(call);
        debug_assert!(matches!(room, None | Some(Progress::Room(_))));
        room.is_some()
    }

    /// Ends a stream with a frame, once its messages have gone; at once if they were dropped.
    pub(super) fn end_stream(&mut self, call: u64, end: &Frame<'_>) {
        let Some(flow) = self.flows.get_mut(call).filter(|flow| !flow.messages.is_empty()) else {
            self.forget(call);
            self.push(end);
            return;
        };
        let mut frame = Vec::new();
        end.encode_head(end.payload.len(), &mut frame);
        frame.extend_from_slice(end.payload);
        flow.end = Some(frame);
        flow.ends_call = end.kind == kind::END;
        flow.is_awaited = false;
    }

    /// Whether a call has something to send, or is a stream that has not ended.
    pub(super) fn has_flow(&self, call: u64) -> bool {
        self.flows.contains(call)
    }

    /// Whether a call is a stream that has not ended for the other side.
    pub(super) fn has_stream(&self, call: u64) -> bool {
        self.flows.get(call).is_some_and(|flow| flow.allowance.is_some())
    }

    /// Whether a call has something to send, and nothing of that was made into frames behind its first.
    pub(super) fn is_untouched(&self, call: u64) -> bool {
        self.flows.get(call).is_some_and(|flow| !flow.is_followed)
    }

    /// Drops what is left of a call's messages. Their receiver is told by another frame, or not there.
    pub(super) fn forget(&mut self, call: u64) {
        let Some(flow) = self.flows.remove(call) else { return };
        let queue = match flow.place {
            Place::Nowhere => return,
            Place::Turns => &mut self.turns,
            Place::Starved => &mut self.starved,
            Place::Congested => &mut self.congested,
        };
        queue.retain(|&waiting| waiting != call);
    }

    /// Takes a grant for one call. Says whether its sender can go on.
    pub(super) fn grant(&mut self, call: u64, limit: u64) -> Result<Option<Progress>> {
        let Some(flow) = self.flows.get_mut(call) else { return Ok(None) };
        match &mut flow.allowance {
            Some(allowance) => {
                if !allowance.raise(limit)? {
                    return Ok(None);
                }
            }
            None if limit >= flow.needs => flow.needs = 0,
            None => return Ok(None),
        }
        Ok(self.place(call))
    }

    /// Takes a grant for all calls together. Calls `progress` for each whose sender can go on.
    pub(super) fn grant_all(
        &mut self,
        limit: u64,
        mut progress: impl FnMut(Progress),
    ) -> Result<()> {
        if !self.allowance.raise(limit)? {
            return Ok(());
        }
        for call in std::mem::take(&mut self.starved) {
            if self.leave(call, Place::Starved) {
                self.place(call).map(&mut progress);
            }
        }
        Ok(())
    }

    // ---- output

    /// Gives back the memory that large frames have taken, if there are none at the moment.
    pub(super) fn release(&mut self) {
        self.spare = Vec::new();
        if self.ready.is_empty() {
            self.ready = Vec::new();
        }
    }

    pub(super) fn keeps_memory(&self) -> bool {
        is_large(&self.ready) || is_large(&self.spare)
    }

    /// Drops all that was not taken yet.
    pub(super) fn discard(&mut self) {
        self.ready.clear();
        self.voids.clear();
        self.ends.clear();
        self.flows = ById::default();
        self.turns.clear();
        self.starved.clear();
        self.congested.clear();
    }

    /// Moves the next bytes to send into `out`, which must be empty.
    pub(super) fn take(&mut self, out: &mut Vec<u8>, mut progress: impl FnMut(Progress)) {
        debug_assert!(out.is_empty(), "what was taken before is sent first");
        // One in any case, or small frames could keep all others waiting.
        while let Some(call) = self.turns.pop_front() {
            if self.leave(call, Place::Turns) {
                self.take_turn(call, &mut progress);
            }
            if self.is_congested() {
                break;
            }
        }
        std::mem::swap(&mut self.ready, out);
        if !self.congested.is_empty() {
            for call in std::mem::take(&mut self.congested) {
                if self.leave(call, Place::Congested) {
                    self.place(call).map(&mut progress);
                }
            }
        }
    }

    /// Sends the next fragment of a call that can.
    fn take_turn(&mut self, call: u64, progress: &mut impl FnMut(Progress)) {
        if !self.can_go(call) {
            // Others have used it up.
            self.place(call);
            return;
        }
        let Some(flow) = self.flows.get_mut(call) else { return };
        let Some(message) = flow.messages.front_mut() else { return };
        flow.is_followed = true;
        let mut most = FRAGMENT as u64;
        if let Some(allowance) = &flow.allowance {
            most = most.min(allowance.payload()).min(self.allowance.payload());
        }
        let total = message.len() as u64;
        let fragment = message.split_to(total.min(most) as usize);
        let is_last = !message.has_remaining();
        let (kind, flags) =
            if is_last { (flow.last_kind, flow.last_flags) } else { (kind::MESSAGE, 0) };
        let total = if flow.has_begun || is_last { 0 } else { total };
        flow.has_begun = !is_last;
        let mut end = None;
        let is_stream = flow.allowance.is_some();
        if let Some(allowance) = &mut flow.allowance {
            let cost = fragment.len() as u64 + FRAME_COST;
            allowance.spend(cost);
            self.allowance.spend(cost);
        }
        if is_last {
            flow.messages.pop_front();
            end = flow.end.take_if(|_| flow.messages.is_empty());
        }
        let flow_ends_call = flow.ends_call;
        let at =
            self.push(&Frame { kind, call, flags, total, payload: &fragment, ..Frame::default() });
        if let Some(end) = end {
            self.forget(call);
            self.push_raw(&end);
            if flow_ends_call {
                self.ends.push_back((self.queued, call));
            }
        } else if is_last && !is_stream {
            self.forget(call);
            self.spare = reclaim(fragment);
            progress(Progress::Finished(call, at));
        } else {
            self.place(call).map(progress);
        }
    }

    // ---- whose turn it is

    /// Whether so much is ready that streams and the rest of long messages wait.
    pub(super) fn is_congested(&self) -> bool {
        self.ready.len() >= READY_ENOUGH
    }

    /// Takes a flow out of a queue from which its call was popped. `false` if it is gone.
    fn leave(&mut self, call: u64, from: Place) -> bool {
        let Some(flow) = self.flows.get_mut(call).filter(|flow| flow.place == from) else {
            return false;
        };
        flow.place = Place::Nowhere;
        true
    }

    /// Puts a flow into the queue for what it waits for. Returns the progress if that is nothing.
    fn place(&mut self, call: u64) -> Option<Progress> {
        let is_congested = self.is_congested();
        let flow = self.flows.get_mut(call)?;
        if flow.place != Place::Nowhere {
            return None;
        }
        let cost = flow.next_cost();
        let may_send = match &flow.allowance {
            Some(allowance) => allowance.covers(cost),
            None => flow.needs == 0,
        };
        let has_messages = !flow.messages.is_empty();
        if !may_send || !(has_messages || flow.is_awaited) {
            return None;
        }
        let (place, queue) = if flow.allowance.is_some() && !self.allowance.covers(cost) {
            (Place::Starved, &mut self.starved)
        } else if has_messages {
            (Place::Turns, &mut self.turns)
        } else if is_congested {
            (Place::Congested, &mut self.congested)
        } else {
            flow.is_awaited = false;
            return Some(Progress::Room(call));
        };
        flow.place = place;
        queue.push_back(call);
        None
    }

    // ---- what was sent

    /// Notes that the operating system took `bytes` more of what was taken from here. Returns how many frames were
    /// among them that are void.
    pub(super) fn written(&mut self, bytes: usize) -> usize {
        self.written += bytes as u64;
        while self.ends.front().is_some_and(|&(end, _)| end <= self.written) {
            self.ends.pop_front();
        }
        let mut voids = 0;
        while self.voids.first().is_some_and(|&begin| begin < self.written) {
            self.voids.pop_first();
            voids += 1;
        }
        voids
    }

    /// How many calls, of those that `counts`, have something to send or an end that the other side cannot have.
    pub(super) fn unsent_ends(&self, counts: impl Fn(u64) -> bool) -> usize {
        let sent = self.written + self.writing;
        let queued = self.ends.iter().filter(|&&(end, call)| end > sent && counts(call));
        queued.count() + self.flows.keys().filter(|&call| counts(call)).count()
    }

    /// At least as many, and quicker to tell.
    pub(super) fn unsent_ends_at_most(&self) -> usize {
        self.ends.len() + self.flows.len()
    }

    /// Notes that the operating system may be taking that many bytes more.
    pub(super) fn writing(&mut self, bytes: usize) {
        self.writing = bytes as u64;
    }

    /// Whether all bytes up to a position were, or may have been, handed to the operating system.
    pub(super) fn was_sent(&self, at: SentAt) -> bool {
        match at {
            SentAt::Position(position) => position <= self.written + self.writing,
            SentAt::Unfinished => false,
        }
    }

    /// Whether nothing is left of any call.
    #[cfg(any(test, fuzzing))]
    pub(super) fn is_bare(&self) -> bool {
        let queues = [&self.turns, &self.starved, &self.congested];
        self.ready.is_empty()
            && self.flows.len() == 0
            && self.voids.is_empty()
            && self.ends.is_empty()
            && queues.iter().all(|queue| queue.is_empty())
    }

    /// What all streams together may send, and have sent.
    #[cfg(any(test, fuzzing))]
    pub(super) fn allowance(&self) -> (u64, u64) {
        self.allowance.numbers()
    }

    /// How many bytes wait here.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let waiting = self.flows.values().flat_map(|flow| &flow.messages).map(Bytes::len);
        self.ready.len() + waiting.sum::<usize>()
    }
}

/// How much may be ready before streams wait: what a pipe holds. So a cancel, a ping or a small call is behind that and
/// one fragment, however much there is to be sent.
pub(super) const READY_ENOUGH: usize = 64 << 10;
