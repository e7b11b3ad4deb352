//! The loops in which calls are timed. All give microseconds.

use std::sync::RwLock;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::work::{self, Job};

/// The time of each call, one after the other.
pub fn one_by_one(job: &Job, mut call: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(job.calls);
    for _ in 0..job.calls {
        if !job.pause.is_zero() {
            std::thread::sleep(job.pause);
        }
        let begin = Instant::now();
        call()?;
        times.push(micros(begin, Instant::now()));
    }
    Ok(times)
}

/// As [`one_by_one`], for one task on a runtime. The pause blocks the thread: tokio's own sleeps for whole milliseconds.
#[cfg(feature = "peers")]
pub async fn one_by_one_async(
    job: &Job,
    mut call: impl AsyncFnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(job.calls);
    for _ in 0..job.calls {
        if !job.pause.is_zero() {
            std::thread::sleep(job.pause);
        }
        let begin = Instant::now();
        call().await?;
        times.push(micros(begin, Instant::now()));
    }
    Ok(times)
}

/// Calls by many threads at once, each with a share of them. They begin together, when all threads are there.
pub fn by_threads(
    job: &Job,
    callers: usize,
    call: impl Fn() -> Result<()> + Sync,
) -> Result<Vec<f64>> {
    let gate = RwLock::new(());
    let run = || -> Result<Vec<Instant>> {
        let mut ends = Vec::with_capacity(job.calls / callers);
        drop(gate.read());
        for _ in 0..job.calls / callers {
            call()?;
            ends.push(Instant::now());
        }
        Ok(ends)
    };
    std::thread::scope(|scope| {
        // Opens also if a thread cannot be made.
        let closed = gate.write();
        let threads: Vec<_> = (0..callers).map(|_| scope.spawn(run)).collect();
        let begin = Instant::now();
        drop(closed);
        let mut ends = Vec::with_capacity(job.calls);
        for thread in threads {
            let Ok(of_one) = thread.join() else { bail!("a caller has panicked") };
            ends.extend(of_one?);
        }
        Ok(shares(begin, ends))
    })
}

/// Calls that overlap have no time of their own that compares with that of a single one. So what counts is how long it
/// took for each so many calls to end, over their number, whoever made them.
pub fn shares(begin: Instant, mut ends: Vec<Instant>) -> Vec<f64> {
    ends.sort_unstable();
    let batch = (ends.len() / 20).max(1);
    let mut before = begin;
    let share = |ends: &[Instant]| {
        let end = ends[ends.len() - 1];
        micros(std::mem::replace(&mut before, end), end) / batch as f64
    };
    ends.chunks_exact(batch).map(share).collect()
}

/// Receives the items of a stream and checks each: that it is the next one, and whole.
pub struct Items {
    begin: Instant,
    wanted: usize,
    received: usize,
    expected: Vec<u8>,
}

impl Items {
    /// The time runs from here.
    pub fn new(job: &Job) -> Items {
        let expected = job.payload.clone();
        Items { begin: Instant::now(), wanted: job.calls, received: 0, expected }
    }

    /// How many more are to come.
    pub fn missing(&self) -> usize {
        self.wanted - self.received
    }

    pub fn item(&mut self, item: &[u8]) -> Result<()> {
        ensure!(self.missing() > 0, "a stream goes on after its end");
        work::label(&mut self.expected, self.received);
        ensure!(item == self.expected, "item {} of a stream is not what was sent", self.received);
        self.received += 1;
        Ok(())
    }

    /// The time of an item. One figure for all of a stream: items come in bursts.
    pub fn end(&self) -> Result<Vec<f64>> {
        ensure!(self.missing() == 0, "a stream has ended with {} items missing", self.missing());
        Ok(vec![micros(self.begin, Instant::now()) / self.wanted as f64])
    }
}

/// Fails if a reply is not the request.
pub fn check(reply: &[u8], payload: &[u8]) -> Result<()> {
    ensure!(reply == payload, "a reply differs from its request");
    Ok(())
}

fn micros(begin: Instant, end: Instant) -> f64 {
    end.duration_since(begin).as_nanos() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::work::{Kind, item, payload};

    fn job(calls: usize) -> Job {
        Job { kind: Kind::Stream, calls, pause: Duration::ZERO, payload: payload(64) }
    }

    #[test]
    fn each_call_has_a_time() {
        assert_eq!(one_by_one(&job(7), || Ok(())).unwrap().len(), 7);
    }

    #[test]
    fn overlapping_calls_share_the_time_whoever_made_them() {
        let begin = Instant::now();
        // 40 calls in 40 µs, as two callers tell of them.
        let at = |micros: &u64| begin + Duration::from_micros(*micros);
        let ends: Vec<_> = (1..=40)
            .step_by(2)
            .chain((2..=40).step_by(2))
            .collect::<Vec<u64>>()
            .iter()
            .map(at)
            .collect();
        let shares = shares(begin, ends);
        assert_eq!(shares, vec![1.0; 20]);
    }

    #[test]
    fn threads_make_all_the_calls_together() {
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let call = || {
            calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        };
        let times = by_threads(&job(320), 32, call).unwrap();
        assert_eq!((times.len(), calls.into_inner()), (20, 320));
    }

    #[test]
    fn a_stream_with_a_wrong_or_missing_item_fails() {
        let job = job(3);
        let mut items = Items::new(&job);
        items.item(&item(0, 64)).unwrap();
        assert!(items.item(&item(2, 64)).is_err());
        assert!(items.end().is_err());

        let mut items = Items::new(&job);
        (0..3).for_each(|number| items.item(&item(number, 64)).unwrap());
        assert_eq!(items.end().unwrap().len(), 1);
        assert!(items.item(&item(3, 64)).is_err(), "one too many");
    }

    #[test]
    fn a_reply_that_differs_fails() {
        assert!(check(b"a", b"b").is_err());
        assert!(check(b"a", b"a").is_ok());
    }
}
