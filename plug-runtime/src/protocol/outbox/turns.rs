//! Whose turn it is: long messages and streams, which are sent in pieces.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Outbox, Progress, READY_ENOUGH};
use crate::error::Result;
use crate::protocol::flow::Allowance;
use crate::protocol::frame::{Frame, flag, kind};
use crate::protocol::long::Long;
use crate::protocol::{FRAGMENT, FRAME_COST};

/// What a call has to send that is not `ready`.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) messages: VecDeque<Long>,
    /// Whether the first fragment of the first message has gone.
    has_begun: bool,
    /// Whether there is a frame of the call behind its first.
    is_followed: bool,
    /// What the stream may send; `None` for a message that is no stream.
    pub(super) allowance: Option<Allowance>,
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
    pub(super) place: Place,
    /// Whether its sender waits for room.
    is_awaited: bool,
}

impl Flow {
    /// Whether it is a stream whose end was not queued.
    fn takes_messages(&self) -> bool {
        self.allowance.is_some() && self.end.is_none()
    }

    /// What the next frame of a stream costs at least. A message that fits into one frame is sent in one.
    pub(super) fn next_cost(&self) -> u64 {
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
pub(super) enum Place {
    /// In none: it has nothing to send, or its own allowance is used up.
    Nowhere,
    Turns,
    Starved,
    Congested,
}

impl Outbox {
    // ---- long messages and streams

    /// Sets what all streams together may send at first.
    pub(in crate::protocol) fn set_allowance(&mut self, limit: u64) {
        self.allowance = Allowance::new(limit);
    }

    /// Queues a message that is not sent in one frame. `first` is the frame with its first fragment, of at most
    /// `first_len` bytes; `last` is the frame that carries its last. With `needs_grant`, the rest waits for the
    /// other side's leave.
    pub(in crate::protocol) fn push_long(
        &mut self,
        first: Frame<'_>,
        first_len: usize,
        last: Frame<'_>,
        mut message: Long,
        needs_grant: bool,
    ) {
        let total = message.len() as u64;
        self.push_part(&Frame { total, ..first }, &mut message, first_len);
        debug_assert!(!message.is_empty(), "one frame would do");
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
    pub(in crate::protocol) fn begin_stream(&mut self, call: u64, window: u64) {
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
    pub(in crate::protocol) fn send(&mut self, call: u64, message: &[u8]) -> bool {
        if let Some(goes_on) = self.pay_at_once(call, message.len()) {
            self.push_message(call, message);
            if goes_on && !self.is_congested() {
                return true;
            }
        } else if let Some(flow) = self.flows.get_mut(call).filter(|flow| flow.takes_messages()) {
            flow.messages.push_back(Bytes::copy_from_slice(message).into());
        } else {
            return true;
        }
        self.await_room(call)
    }

    /// The same with a long one, which is not copied.
    pub(in crate::protocol) fn send_long(&mut self, call: u64, mut message: Long) -> bool {
        let len = message.len();
        if self.pay_at_once(call, len).is_some() {
            self.push_part(&whole(call), &mut message, len);
        } else if let Some(flow) = self.flows.get_mut(call).filter(|flow| flow.takes_messages()) {
            flow.messages.push_back(message);
        } else {
            self.drop_later(call, message);
            return true;
        }
        self.await_room(call)
    }

    /// Pays for a message of a stream, if it can be sent now, in one frame. Returns whether what is left would pay for
    /// another one.
    #[inline]
    fn pay_at_once(&mut self, call: u64, len: usize) -> Option<bool> {
        let cost = len as u64 + FRAME_COST;
        if self.is_congested() || len > FRAGMENT || !self.allowance.covers(cost) {
            return None;
        }
        let flow = self.flows.get_mut(call)?;
        if !flow.messages.is_empty() || flow.end.is_some() {
            return None;
        }
        let allowance = flow.allowance.as_mut().filter(|allowance| allowance.covers(cost))?;
        allowance.spend(cost);
        self.allowance.spend(cost);
        flow.is_followed = true;
        Some(allowance.covers(FRAME_COST) && self.allowance.covers(FRAME_COST))
    }

    /// Notes that the sender of a stream has more. Says whether it can go on at once.
    #[inline]
    fn await_room(&mut self, call: u64) -> bool {
        if let Some(flow) = self.flows.get_mut(call) {
            flow.is_awaited = true;
        }
        let room = self.place(call);
        debug_assert!(matches!(room, None | Some(Progress::Room(_))));
        room.is_some()
    }

    /// Ends a stream with a frame, once its messages have gone; at once if they were dropped.
    pub(in crate::protocol) fn end_stream(&mut self, call: u64, end: &Frame<'_>) {
        let Some(flow) = self.flows.get_mut(call).filter(|flow| !flow.messages.is_empty()) else {
            self.forget(call);
            self.push(end);
            return;
        };
        let mut frame = Vec::new();
        end.encode_head(end.payload.len(), end.payload.len(), &mut frame);
        frame.extend_from_slice(end.payload);
        flow.end = Some(frame);
        flow.ends_call = end.kind == kind::END;
        flow.is_awaited = false;
    }

    /// Whether a call has something to send, or is a stream that has not ended.
    pub(in crate::protocol) fn has_flow(&self, call: u64) -> bool {
        self.flows.contains(call)
    }

    /// Whether a call is a stream that has not ended for the other side.
    pub(in crate::protocol) fn has_stream(&self, call: u64) -> bool {
        self.flows.get(call).is_some_and(|flow| flow.allowance.is_some())
    }

    /// Whether a call has something to send, and nothing of that was made into frames behind its first.
    pub(in crate::protocol) fn is_untouched(&self, call: u64) -> bool {
        self.flows.get(call).is_some_and(|flow| !flow.is_followed)
    }

    /// Drops what is left of a call's messages. Their receiver is told by another frame, or not there.
    pub(in crate::protocol) fn forget(&mut self, call: u64) {
        let Some(flow) = self.flows.remove(call) else { return };
        flow.messages.into_iter().for_each(|message| self.drop_later(call, message));
        let queue = match flow.place {
            Place::Nowhere => return,
            Place::Turns => &mut self.turns,
            Place::Starved => &mut self.starved,
            Place::Congested => &mut self.congested,
        };
        queue.retain(|&waiting| waiting != call);
    }

    /// Takes a grant for one call. Says whether its sender can go on.
    pub(in crate::protocol) fn grant(&mut self, call: u64, limit: u64) -> Result<Option<Progress>> {
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
    pub(in crate::protocol) fn grant_all(
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

    /// Sends the next fragment of a call that can.
    pub(super) fn take_turn(&mut self, call: u64, progress: &mut impl FnMut(Progress)) {
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
        let len = total.min(most);
        let is_last = len == total;
        let (kind, flags) =
            if is_last { (flow.last_kind, flow.last_flags) } else { (kind::MESSAGE, 0) };
        let total = if flow.has_begun || is_last { 0 } else { total };
        flow.has_begun = !is_last;
        let mut end = None;
        let is_stream = flow.allowance.is_some();
        if let Some(allowance) = &mut flow.allowance {
            let cost = len + FRAME_COST;
            allowance.spend(cost);
            self.allowance.spend(cost);
        }
        // Away while the frame is queued.
        let mut message = flow.messages.pop_front().unwrap_or_default();
        if is_last {
            end = flow.end.take_if(|_| flow.messages.is_empty());
        }
        let flow_ends_call = flow.ends_call;
        let frame = Frame { kind, call, flags, total, ..Frame::default() };
        let at = self.push_part(&frame, &mut message, len as usize);
        if let Some(flow) = self.flows.get_mut(call).filter(|_| !is_last) {
            flow.messages.push_front(message);
        }
        if let Some(end) = end {
            self.forget(call);
            self.push_raw(&end);
            if flow_ends_call {
                self.ends.push_back((self.queued, call));
            }
        } else if is_last && !is_stream {
            self.forget(call);
            progress(Progress::Finished(call, at));
        } else {
            self.place(call).map(progress);
        }
    }

    // ---- whose turn it is

    /// Whether so much is ready that streams and the rest of long messages wait.
    pub(in crate::protocol) fn is_congested(&self) -> bool {
        self.ready.len() >= READY_ENOUGH
    }

    /// Takes a flow out of a queue from which its call was popped. `false` if it is gone.
    pub(super) fn leave(&mut self, call: u64, from: Place) -> bool {
        let Some(flow) = self.flows.get_mut(call).filter(|flow| flow.place == from) else {
            return false;
        };
        flow.place = Place::Nowhere;
        true
    }

    /// Puts a flow into the queue for what it waits for. Returns the progress if that is nothing.
    pub(super) fn place(&mut self, call: u64) -> Option<Progress> {
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
}

/// The frame of a message of a stream that is sent in one.
pub(super) fn whole(call: u64) -> Frame<'static> {
    Frame { kind: kind::MESSAGE, call, flags: flag::LAST, ..Frame::default() }
}
