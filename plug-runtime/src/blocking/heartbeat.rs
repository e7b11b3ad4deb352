//! Whether a plugin gives signs of life.

use std::time::{Duration, Instant};

/// Counts the intervals in which nothing came from a plugin that was asked for a sign of life. It is told the time, and
/// does nothing by itself.
///
/// Only ticks that come in time count: late ones mean that this host was stopped, suspended or starved, and the plugin
/// may have been so too, or its answer lies in the pipe.
#[derive(Debug)]
pub(super) struct Heartbeat {
    every: Duration,
    /// How many pings may go unanswered for an interval each.
    misses: u32,
    due: Instant,
    unanswered: u32,
    /// Since when nothing has come, or since when that was counted.
    silent_since: Instant,
}

/// What a tick asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Nothing,
    /// The plugin is to be asked for a sign of life.
    Ping,
    /// It gives none, for at least so long.
    Dead(Duration),
}

impl Heartbeat {
    pub(super) fn new(every: Duration, misses: u32, now: Instant) -> Heartbeat {
        let every = every.max(SHORTEST);
        // A time that the clock cannot say never comes.
        let due = now.checked_add(every).unwrap_or(now + NEVER);
        Heartbeat { every, misses: misses.max(1), due, unanswered: 0, silent_since: now }
    }

    /// When the next tick is to come.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// How many pings may go unanswered.
    pub(super) fn misses(&self) -> u32 {
        self.misses
    }

    /// At `due` or later. `heard`: whether anything has come since the last tick.
    pub(super) fn tick(&mut self, now: Instant, heard: bool) -> Beat {
        let is_late = now.saturating_duration_since(self.due) > self.every / 2;
        self.due = now.checked_add(self.every).unwrap_or(now + NEVER);
        if heard || is_late {
            self.unanswered = 0;
            self.silent_since = now;
            return Beat::Nothing;
        }
        if self.unanswered == self.misses {
            return Beat::Dead(now.saturating_duration_since(self.silent_since));
        }
        self.unanswered += 1;
        Beat::Ping
    }
}

/// The shortest interval: more often would keep the watcher busy, and find too many plugins dead that only wait for a
/// processor.
const SHORTEST: Duration = Duration::from_millis(10);

/// A hundred years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERY: Duration = Duration::from_secs(1);

    fn new(misses: u32) -> (Heartbeat, Instant) {
        let now = Instant::now();
        (Heartbeat::new(EVERY, misses, now), now)
    }

    #[test]
    fn p15_a_plugin_that_says_nothing_is_pinged_and_given_up_after_so_many_misses() {
        for misses in [1, 2, 5] {
            let (mut heartbeat, begin) = new(misses);
            for _ in 0..misses {
                assert_eq!(heartbeat.tick(heartbeat.due(), false), Beat::Ping);
            }
            let now = heartbeat.due();
            assert_eq!(now - begin, EVERY * (misses + 1));
            assert_eq!(heartbeat.tick(now, false), Beat::Dead(EVERY * (misses + 1)));
        }
    }

    #[test]
    fn what_comes_counts_as_life_and_starts_the_count_anew() {
        let (mut heartbeat, _) = new(2);
        for _ in 0..10 {
            for beat in [Beat::Ping, Beat::Ping] {
                assert_eq!(heartbeat.tick(heartbeat.due(), false), beat);
            }
            assert_eq!(heartbeat.tick(heartbeat.due(), true), Beat::Nothing);
        }
    }

    #[test]
    fn p18_a_late_tick_starts_the_count_anew() {
        let (mut heartbeat, _) = new(2);
        for late in [EVERY * 3 / 5, EVERY, EVERY * 3600] {
            for beat in [Beat::Ping, Beat::Ping] {
                assert_eq!(heartbeat.tick(heartbeat.due(), false), beat);
            }
            assert_eq!(heartbeat.tick(heartbeat.due() + late, false), Beat::Nothing);
        }
        // A little late is in time.
        for beat in [Beat::Ping, Beat::Ping] {
            assert_eq!(heartbeat.tick(heartbeat.due() + EVERY / 10, false), beat);
        }
        let Beat::Dead(silence) = heartbeat.tick(heartbeat.due(), false) else {
            panic!("it lives")
        };
        assert_eq!(silence, EVERY * 32 / 10, "since the count began");
    }

    #[test]
    fn intervals_without_sense_are_taken_as_what_they_come_close_to() {
        let now = Instant::now();
        let mut none = Heartbeat::new(Duration::ZERO, 0, now);
        assert_eq!(none.due() - now, SHORTEST);
        assert_eq!(none.tick(none.due(), false), Beat::Ping, "0 misses are 1");
        let mut forever = Heartbeat::new(Duration::MAX, u32::MAX, now);
        assert!(forever.due() - now >= NEVER);
        assert_eq!(forever.tick(forever.due(), false), Beat::Ping);
    }

    proptest! {
        /// Whatever comes when: nothing is found dead that had no chance of `misses` whole intervals to answer a ping.
        #[test]
        fn nothing_is_found_dead_before_its_time(
            misses in 1_u32..5,
            ticks in proptest::collection::vec((0_u32..2000, proptest::bool::weighted(0.2)), 1..60),
        ) {
            let (mut heartbeat, begin) = new(misses);
            let (mut sign, mut pinged, mut last_tick) = (begin, None, begin);
            for (late_ms, heard) in ticks {
                let late = Duration::from_millis(late_ms.into());
                let now = heartbeat.due() + late;
                if heard || late > EVERY / 2 {
                    (sign, pinged) = (now, None);
                }
                prop_assert!(now >= last_tick + EVERY, "ticks are an interval apart");
                last_tick = now;
                match heartbeat.tick(now, heard) {
                    Beat::Nothing => prop_assert_eq!(sign, now),
                    Beat::Ping => pinged = pinged.or(Some(now)),
                    Beat::Dead(silence) => {
                        prop_assert_eq!(silence, now - sign);
                        let waited = now - pinged.expect("it was asked");
                        prop_assert!(waited >= EVERY * misses, "it had {:?}", waited);
                        return Ok(());
                    }
                }
            }
        }
    }
}
