//! Memory and threads of processes, as `/proc` tells of them.

use anyhow::{Context as _, Result};

/// What a process takes, in KiB: its own pages, and its part of those that it shares.
pub fn pss(pid: u32) -> Result<f64> {
    field(&rollup(pid)?, "Pss").with_context(|| format!("there is no Pss of process {pid}"))
}

/// As [`pss`], without what is mapped from files: a program's own file is shared with its children that run the same one,
/// so a host's part of it shrinks with each.
pub fn pss_without_files(pid: u32) -> Result<f64> {
    let rollup = rollup(pid)?;
    let parts = [field(&rollup, "Pss_Anon"), field(&rollup, "Pss_Shmem")];
    parts.into_iter().sum::<Option<f64>>().context("this kernel does not tell Pss_Anon")
}

pub fn threads(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/task"))?.count())
}

fn rollup(pid: u32) -> Result<String> {
    let path = format!("/proc/{pid}/smaps_rollup");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

fn field(rollup: &str, name: &str) -> Option<f64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let rollup = "00400000-7fff [rollup]\nRss:  900 kB\nPss_Dirty:  5 kB\nPss:   712 kB\nPss_Anon:  80 kB\n";
        assert_eq!(field(rollup, "Pss"), Some(712.0));
        assert_eq!(field(rollup, "Pss_Anon"), Some(80.0));
        assert_eq!(field(rollup, "Pss_File"), None);
    }

    #[test]
    fn this_process_takes_memory_and_has_a_thread() {
        let own = std::process::id();
        assert!(pss(own).unwrap() > 0.0);
        assert!(pss_without_files(own).unwrap() <= pss(own).unwrap());
        assert!(threads(own).unwrap() >= 1);
    }
}
