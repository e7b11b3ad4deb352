//! Streams that are sent: taking items from where they come from, as long as the other side takes them.
//!
//! A pump has no thread of its own. It runs when its stream begins, when there is room again, and when a source
//! that had nothing has something: on a worker for the first two, and for the last on the thread that brought it.
//! Only a source that blocks, an iterator of the user's, keeps a thread while it does.

use std::sync::{Arc, MutexGuard, Weak};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::lead::{Wakes, drop_each};
use super::link::{Link, State, cancelled};
use super::workers::Task;
use crate::encoding::Encoded;
use crate::error::{Delivery, Result};
use crate::stream::Outgoing;

/// A stream that is sent.
#[derive(Default)]
pub(super) struct Pump {
    /// `None` while a thread takes items from it.
    source: Option<Box<dyn Outgoing>>,
    /// Whether it waits for room.
    is_full: bool,
    /// Whether its source has got something since it was last asked.
    is_woken: bool,
    /// From when on its next item comes after a pause, and from when on items that wait are to be written.
    quiet_from: Option<Instant>,
    write_from: Option<Instant>,
    /// How many items that come before the next tick need no look at the clock, as those before came close together, and
    /// which tick was the last then.
    unclocked: u32,
    last_tick: u64,
    /// How many bytes the last write has left queued, as far as they are still there.
    left: usize,
}

impl Pump {
    /// Takes the source away, if no thread is at it: nothing is sent any more.
    pub(super) fn stop(&mut self) -> Option<Box<dyn Outgoing>> {
        self.source.take()
    }

    /// Notes that there is room. Says whether it was waited for.
    pub(super) fn take_room(&mut self) -> bool {
        std::mem::take(&mut self.is_full)
    }

    /// Whether the item that was just queued is to be written at once.
    ///
    /// The first after a pause is. In a burst they are written together, 32 KiB or what 2 ms bring: a write for
    /// each would cost more than the rest of it. What is left by a full pipe is not tried again with each item.
    ///
    /// `queued` is how much is queued with this item, of which `len` bytes are its own, and `tick` is the number of the
    /// last tick.
    fn wants_flush(
        &mut self,
        queued: usize,
        len: usize,
        tick: u64,
        now: impl FnOnce() -> Instant,
    ) -> bool {
        self.left = self.left.min(queued);
        // With another one of its kind it would be more.
        let is_much = queued - self.left + len > BURST;
        if self.unclocked > 0 && self.last_tick == tick && !is_much {
            self.unclocked -= 1;
            return false;
        }
        self.last_tick = tick;
        let now = now();
        let quiet_from = self.quiet_from.replace(now + QUIET);
        let is_first = quiet_from.is_none_or(|from| now >= from);
        let is_dense = quiet_from.is_some_and(|from| now + QUIET <= from + DENSE);
        self.unclocked = if is_dense { UNCLOCKED } else { 0 };
        let write_from = *self.write_from.get_or_insert_with(|| now + BURST_TIME);
        let flush = is_first || is_much || now >= write_from;
        if flush {
            self.write_from = None;
        }
        flush
    }
}

impl Link {
    /// Begins to send a stream in a call, as soon as a worker comes by.
    pub(super) fn begin_pump(
        self: &Arc<Self>,
        state: &mut State,
        call: u64,
        source: Box<dyn Outgoing>,
    ) {
        state.pumps.insert(call, Pump { source: Some(source), ..Pump::default() });
        self.enqueue(state, Task::Pump(call));
    }

    /// Sends what a stream has, until there is no room or nothing more at the moment.
    pub(super) fn run_pump<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        call: u64,
    ) -> MutexGuard<'a, State> {
        let Some(pump) = state.pumps.get_mut(call) else { return state };
        let Some(mut source) = pump.source.take() else {
            // Another thread is at it, and looks again.
            pump.is_woken = true;
            return state;
        };
        let waker = Waker::from(Arc::new(PumpWaker { link: Arc::downgrade(self), call }));
        let mut item = Encoded::default();
        let mut is_wanted = state.core.can_send(call);
        state.workers.begin_running();
        let outcome = loop {
            if !is_wanted {
                break Some(Err(cancelled(Delivery::MayHaveRun)));
            }
            if state.core.has_dropped() {
                let sent = state.take_sent_of(call);
                drop(state);
                drop_each(sent);
            } else {
                drop(state);
            }
            let polled = source.poll_message(&waker, &mut item);
            state = self.lock();
            let State { core, pumps, workers, .. } = &mut *state;
            is_wanted = core.can_send(call);
            let Some(pump) = pumps.get_mut(call) else { break None };
            match polled {
                // Wanted or not: a long one is not to be dropped here.
                Poll::Ready(Some(Ok(()))) => {}
                Poll::Ready(Some(Err(error))) => break Some(Err(error)),
                Poll::Ready(None) => break Some(Ok(())),
                Poll::Pending if std::mem::take(&mut pump.is_woken) || !is_wanted => continue,
                Poll::Pending => {
                    pump.write_from = None;
                    pump.source = Some(source);
                    state.workers.end_running();
                    self.note_served(&mut state);
                    return self.flush_or_leave(state);
                }
            }
            let (queued, is_first_queued) = (core.queued(), !core.has_output());
            let sent = match item.long.take() {
                None => core.send(call, &item.bytes),
                Some(long) => {
                    let sent = core.send_long(call, *long);
                    item.bytes = core.take_spare();
                    sent
                }
            };
            let has_room = match sent {
                Ok(has_room) => has_room,
                Err(error) => break Some(Err(error)),
            };
            if !has_room {
                pump.is_full = true;
                pump.write_from = None;
                pump.source = Some(source);
                state.workers.end_running();
                self.note_served(&mut state);
                return self.flush_or_leave(state);
            }
            let len = core.queued() - queued;
            if pump.wants_flush(core.queued(), len, workers.tick(), Instant::now) {
                state = self.flush_or_leave(state);
                let State { core, pumps, .. } = &mut *state;
                is_wanted = core.can_send(call);
                if let Some(pump) = pumps.get_mut(call) {
                    pump.left = core.queued();
                }
            } else {
                state.can_wait |= is_first_queued;
                state.workers.note_unsent();
                self.keep_ticking(&mut state);
            }
        };
        state.workers.end_running();
        let mut wakes = Wakes::default();
        wakes.errand().dropped.push(source);
        state.pumps.remove(call);
        if let Some(result) = outcome {
            self.end_pump(&mut state, call, result);
        }
        self.handle_events(&mut state, None, &mut wakes);
        state = self.flush_or_leave(state);
        drop(state);
        wakes.wake();
        self.lock()
    }

    /// Ends a stream: of responses with their call, of requests with the leave to answer, or with a cancel.
    pub(super) fn end_pump(&self, state: &mut State, call: u64, result: Result<()>) {
        state.running.remove(call);
        if state.core.is_wanted(call) {
            match result {
                Ok(()) => state.core.end_requests(call),
                Err(error) => state.with_taken(|core, taken| core.cancel(call, &error, taken)),
            }
        } else {
            state.core.finish(call, result);
        }
        self.note_served(state);
    }
}

/// Runs a pump whose source has something, on the thread that brought it.
struct PumpWaker {
    link: Weak<Link>,
    call: u64,
}

impl Wake for PumpWaker {
    fn wake(self: Arc<Self>) {
        if let Some(link) = self.link.upgrade() {
            let state = link.run_pump(link.lock(), self.call);
            drop(link.hire(state));
        }
    }
}

/// An item that comes so long after the one before is sent at once.
const QUIET: Duration = Duration::from_micros(100);

/// Where an item comes so soon after the last look at the clock, so many more go without one: it takes a sixth of the
/// time of an item of 64 bytes. Should there be a pause among those, they go with the watcher, which comes every 2 ms and
/// writes what was there when it last came.
const UNCLOCKED: u32 = 7;
const DENSE: Duration = Duration::from_micros(20);

/// How much of a burst is written together at most, if its items are short, and how long the first waits for the others.
/// It is half of what fits into a pipe as it is made: the other side reads one half while this one writes the other. With a
/// byte more it would take a page more, and the second half would not fit.
const BURST: usize = 32 << 10;
const BURST_TIME: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// The items of a burst, a microsecond apart, after which a write is tried. `after` is how much that leaves.
    fn writes(pump: &mut Pump, items: usize, after: impl Fn(usize) -> usize) -> Vec<usize> {
        let begin = Instant::now();
        let mut queued = 0;
        let mut writes = Vec::new();
        for item in 0..items {
            queued += ITEM;
            let now = begin + Duration::from_micros(item as u64);
            if pump.wants_flush(queued, ITEM, 0, || now) {
                writes.push(item);
                queued = after(queued);
                pump.left = queued;
            }
        }
        writes
    }

    const ITEM: usize = 1 << 10;

    #[test]
    fn the_first_item_of_a_burst_goes_at_once_and_the_others_together() {
        assert_eq!(writes(&mut Pump::default(), 100, |_| 0), [0, 32, 64, 96]);
    }

    #[test]
    fn what_a_full_pipe_leaves_is_not_tried_again_with_each_item() {
        assert_eq!(writes(&mut Pump::default(), 100, |queued| queued), [0, 32, 64, 96]);
    }

    #[test]
    fn an_item_that_comes_after_a_pause_goes_at_once() {
        let mut pump = Pump::default();
        let begin = Instant::now();
        assert!(pump.wants_flush(ITEM, ITEM, 0, || begin));
        assert!(!pump.wants_flush(ITEM, ITEM, 0, || begin + QUIET / 2));
        assert!(pump.wants_flush(ITEM, ITEM, 0, || begin + 2 * QUIET));
    }

    #[test]
    fn among_items_that_come_close_together_few_look_at_the_clock() {
        let mut pump = Pump::default();
        let begin = Instant::now();
        let mut looks = 0;
        for item in 0..100 {
            let now = || {
                looks += 1;
                begin + DENSE / 10 * item
            };
            assert_eq!(pump.wants_flush(0, 0, 0, now), item == 0);
        }
        assert_eq!(looks, 2 + 98 / (1 + UNCLOCKED));
        let mut looks = 0;
        for item in 0..100 {
            let now = || {
                looks += 1;
                begin + 10 * QUIET + 2 * DENSE * item
            };
            pump.wants_flush(0, 0, 0, now);
        }
        assert!(looks >= 100 - UNCLOCKED, "{looks}");
    }

    #[test]
    fn the_first_look_at_the_clock_after_such_a_burst_is_after_the_next_tick_at_the_latest() {
        let mut pump = Pump::default();
        let begin = Instant::now();
        for item in 0..UNCLOCKED {
            pump.wants_flush(0, 0, 0, || begin + DENSE / 10 * item);
        }
        let slow = begin + Duration::from_secs(1);
        assert!(!pump.wants_flush(ITEM, ITEM, 0, || slow), "it is one of those that do not look");
        assert!(pump.wants_flush(ITEM, ITEM, 1, || slow + QUIET), "there was a tick");
    }

    #[test]
    fn no_item_of_a_burst_waits_for_long() {
        let mut pump = Pump::default();
        let begin = Instant::now();
        let times = (0..100_u32).map(|item| begin + item * QUIET / 2);
        let written: Vec<_> =
            times.filter(|now| pump.wants_flush(ITEM, ITEM, 0, || *now)).collect();
        assert!(written.windows(2).all(|pair| pair[1] - pair[0] <= BURST_TIME + QUIET));
        assert_eq!(written.len(), 1 + 2);
    }
}
