//! On which cores threads, and the processes that they start, run.

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Those on which this process may run, in order.
pub fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("cannot ask for the cores")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// Why two sides cannot have a core each, if so.
pub fn lack_of_two() -> Option<String> {
    let has_two = allowed().is_ok_and(|cores| cores.len() > 1);
    (!has_two).then(|| "there is one core only".to_owned())
}

/// Pins this thread to a core until this is dropped.
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    pub fn to(core: usize) -> Result<Pinned> {
        let before = sched_getaffinity(None).context("cannot ask for the cores")?;
        pin(core)?;
        Ok(Pinned { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// Pins this thread to a core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin to core {core}"))
}
