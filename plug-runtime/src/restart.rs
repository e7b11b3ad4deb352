//! Whether and when a plugin that has ended is started again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a host does when a plugin ends that it has not asked to: see [`Command::restart`](crate::Command::restart).
///
/// ```
/// use std::time::Duration;
///
/// use plug::{Command, Restart};
///
/// let restart = Restart::on_crash()
///     .backoff(Duration::from_millis(50), Duration::from_secs(5))
///     .at_most(10, Duration::from_secs(60))
///     .queue_for(Duration::from_secs(2));
/// let command = Command::new("path/to/kv-plugin").restart(restart);
/// ```
#[derive(Clone, Debug)]
pub struct Restart {
    is_on: bool,
    min: Duration,
    max: Duration,
    crashes: u32,
    within: Duration,
    healthy_after: Duration,
    queue_for: Duration,
}

impl Restart {
    /// Leaves the plugin ended: what a command does by default.
    pub fn never() -> Restart {
        Restart { is_on: false, ..Restart::on_crash() }
    }

    /// Starts the plugin again whenever its process has ended and this host had not asked for it: whatever its exit code,
    /// and also if the host has ended it because it broke the protocol or gave no
    /// [sign of life](crate::Command::heartbeat).
    pub fn on_crash() -> Restart {
        Restart {
            is_on: true,
            min: Duration::from_millis(100),
            max: Duration::from_secs(30),
            crashes: 5,
            within: Duration::from_secs(60),
            healthy_after: Duration::from_secs(60),
            queue_for: Duration::from_secs(10),
        }
    }

    /// How long to wait before a start: `min` after the first crash, and twice as long after each that follows, up to
    /// `max`. Each wait is up to a quarter longer or shorter, at random, so that plugins that crashed together do not
    /// start together. Default: 100 ms and 30 s.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Restart {
        self.min = min;
        self.max = max.max(min);
        self
    }

    /// Gives up with the crash that is the `crashes`th in such a time; a start that fails counts as one. From then on all
    /// calls fail at once, with an error that says so. Default: 5 in 60 s. 0 is the same as 1: no start at all.
    pub fn at_most(mut self, crashes: u32, within: Duration) -> Restart {
        self.crashes = crashes.max(1);
        self.within = within;
        self
    }

    /// How long a process must have run for the crashes before to be forgotten: that it has started says little.
    /// Default: 60 s.
    pub fn healthy_after(mut self, time: Duration) -> Restart {
        self.healthy_after = time;
        self
    }

    /// How long a call waits for the next process at most, if its deadline or its token does not end it before. Then it
    /// fails, with [`ErrorKind::Exited`](crate::ErrorKind::Exited). Default: 10 s.
    pub fn queue_for(mut self, time: Duration) -> Restart {
        self.queue_for = time;
        self
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(crate) fn queues_for(&self) -> Duration {
        self.queue_for
    }
}

/// What has happened so far, as far as the policy wants to know. It is told the time, and does nothing by itself.
#[derive(Debug)]
pub(crate) struct Record {
    restart: Restart,
    /// When the last crashes were, as many as count.
    crashes: VecDeque<Instant>,
    /// How many there were since the last process that was healthy.
    streak: u32,
    /// Since when the process runs, if one does.
    runs_since: Option<Instant>,
}

/// What follows on a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A start, after a wait.
    StartAfter(Duration),
    /// Nothing.
    GiveUp,
}

impl Record {
    /// Of a process that has just started.
    pub(crate) fn new(restart: Restart, now: Instant) -> Record {
        Record { restart, crashes: VecDeque::new(), streak: 0, runs_since: Some(now) }
    }

    /// Notes that a process has become ready.
    pub(crate) fn started(&mut self, now: Instant) {
        self.runs_since = Some(now);
    }

    /// Notes that the process has ended, or that its start has failed. `random` is any number, for the jitter.
    pub(crate) fn crashed(&mut self, now: Instant, random: u64) -> Next {
        let ran = self.runs_since.take().map(|since| now.saturating_duration_since(since));
        if ran.is_some_and(|ran| ran >= self.restart.healthy_after) {
            self.crashes.clear();
            self.streak = 0;
        }
        let within = self.restart.within;
        self.crashes.retain(|at| now.saturating_duration_since(*at) < within);
        self.crashes.push_back(now);
        if self.crashes.len() >= self.restart.crashes as usize {
            return Next::GiveUp;
        }
        let wait = self.backoff();
        self.streak = self.streak.saturating_add(1);
        Next::StartAfter(jitter(wait, random))
    }

    /// `5 crashes within 60s`, of one that was given up.
    pub(crate) fn limit(&self) -> String {
        let crashes = self.restart.crashes;
        let plural = if crashes == 1 { "" } else { "es" };
        format!("{crashes} crash{plural} within {:?}", self.restart.within)
    }

    fn backoff(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.streak).unwrap_or(u32::MAX);
        self.restart.min.saturating_mul(factor).min(self.restart.max)
    }
}

/// From three to five quarters of `wait`.
fn jitter(wait: Duration, random: u64) -> Duration {
    let (wait, parts) = (wait.min(LONGEST), 1_u32 << 16);
    let part = u32::try_from(random % u64::from(parts)).unwrap_or_default();
    wait * 3 / 4 + wait * part / parts / 2
}

/// The longest wait that can be computed with: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// The number for which there is no jitter.
    const MIDDLE: u64 = 1 << 15;

    fn record(restart: Restart) -> (Record, Instant) {
        let now = Instant::now();
        (Record::new(restart, now), now)
    }

    #[test]
    fn r4_the_wait_doubles_from_the_least_to_the_most_with_some_jitter() {
        let restart = Restart::on_crash().at_most(100, SECOND);
        let (mut record, now) = record(restart);
        let mut waits = Vec::new();
        for _ in 0..40 {
            let Next::StartAfter(wait) = record.crashed(now, MIDDLE) else { panic!("too early") };
            waits.push(wait.as_millis());
        }
        let first = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000];
        assert_eq!(waits[..11], first);
        assert!(waits[11..].iter().all(|&wait| wait == 30_000));
        assert_eq!(jitter(SECOND, 0), SECOND * 3 / 4);
        let most = jitter(SECOND, u64::MAX);
        assert!(SECOND * 6 / 5 < most && most < SECOND * 5 / 4, "{most:?}");
    }

    #[test]
    fn r4_a_crash_loop_is_given_up_also_if_every_start_succeeds() {
        let (mut record, mut now) = record(Restart::on_crash());
        for crash in 1..=5 {
            record.started(now);
            now += SECOND;
            let next = record.crashed(now, MIDDLE);
            assert_eq!(next == Next::GiveUp, crash == 5, "crash {crash}: {next:?}");
        }
        assert_eq!(record.limit(), "5 crashes within 60s");
    }

    #[test]
    fn r4_time_spent_healthy_makes_up_for_crashes_and_a_start_does_not() {
        let restart = Restart::on_crash().healthy_after(10 * SECOND);
        for (runs_for, first_waits) in [(9, false), (10, true)] {
            let (mut record, mut now) = record(restart.clone());
            for _ in 0..3 {
                assert_ne!(record.crashed(now, MIDDLE), Next::GiveUp);
            }
            record.started(now);
            now += runs_for * SECOND;
            let next = record.crashed(now, MIDDLE);
            assert_eq!(next == Next::StartAfter(SECOND / 10), first_waits, "{next:?}");
            // The fourth of five, or the first.
            assert_eq!(record.crashed(now, MIDDLE) == Next::GiveUp, !first_waits);
        }
    }

    #[test]
    fn crashes_that_are_long_ago_do_not_count() {
        let (mut record, mut now) = record(Restart::on_crash().at_most(2, 10 * SECOND));
        for _ in 0..10 {
            assert_ne!(record.crashed(now, MIDDLE), Next::GiveUp);
            now += 10 * SECOND;
        }
        let Next::StartAfter(wait) = record.crashed(now, MIDDLE) else { panic!("one in 10 s") };
        assert_eq!(wait, 30 * SECOND, "none of them was healthy");
        assert_eq!(record.crashed(now + 9 * SECOND, MIDDLE), Next::GiveUp);
    }

    #[test]
    fn limits_without_sense_are_taken_as_what_they_come_close_to() {
        let (mut record, now) = record(Restart::on_crash().at_most(0, SECOND));
        assert_eq!(record.crashed(now, 0), Next::GiveUp);
        assert_eq!(record.limit(), "1 crash within 1s");
        let endless = Restart::on_crash().backoff(Duration::MAX, Duration::ZERO);
        let mut record = Record::new(endless, now);
        let Next::StartAfter(wait) = record.crashed(now, u64::MAX) else { panic!("the first") };
        assert!(wait >= LONGEST);
    }

    proptest! {
        /// Whatever happens when: waits are between their limits, and it is given up just if so many crashes were in
        /// the time, none of them before a process that was healthy.
        #[test]
        fn the_limits_hold(
            most in 1_u32..6,
            steps in proptest::collection::vec((0_u32..100, 0_u32..100, any::<u64>()), 1..40),
        ) {
            let restart = Restart::on_crash().at_most(most, 60 * SECOND);
            let (min, max) = (restart.min, restart.max);
            let (mut record, mut now) = record(restart);
            let mut counted: Vec<Instant> = Vec::new();
            for (down, up, random) in steps {
                now += down * SECOND / 10;
                record.started(now);
                now += up * SECOND;
                if up >= 60 {
                    counted.clear();
                }
                counted.push(now);
                let recent = counted.iter().filter(|at| now - **at < 60 * SECOND).count();
                match record.crashed(now, random) {
                    Next::GiveUp => {
                        prop_assert!(recent >= most as usize);
                        return Ok(());
                    }
                    Next::StartAfter(wait) => {
                        prop_assert!(recent < most as usize);
                        prop_assert!(min * 3 / 4 <= wait && wait <= max * 5 / 4, "{:?}", wait);
                    }
                }
            }
        }
    }
}
