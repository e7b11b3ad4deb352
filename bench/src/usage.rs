//! Processor time and context switches of the processes of a candidate.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::ClockId;
use nix::unistd::Pid;

/// The two sides of a candidate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Processes {
    /// None: this process.
    pub host: Option<u32>,
    /// None: there is none, or none that lives from round to round.
    pub child: Option<u32>,
}

/// What processes have used since they began.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub cpu: Duration,
    /// Voluntary and involuntary ones, of all threads.
    pub switches: u64,
}

impl Usage {
    /// Of both sides: what a process clock says of each, and context switches from `getrusage` for this process, from
    /// `/proc/<pid>/task/*/status` for others. Threads that have ended are missing from the latter.
    pub fn of(processes: Processes) -> Result<Usage> {
        let mut sum = match processes.host {
            Some(pid) => of_other(pid)?,
            None => Usage { cpu: cpu(Pid::this())?, switches: switches(UsageWho::RUSAGE_SELF)? },
        };
        if let Some(pid) = processes.child {
            let child = of_other(pid)?;
            sum.cpu += child.cpu;
            sum.switches += child.switches;
        }
        Ok(sum)
    }

    /// Of this process and of its children that have ended and were reaped.
    pub fn with_ended_children() -> Result<Usage> {
        let mut sum = Usage::of(Processes::default())?;
        let ended = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        for time in [ended.user_time(), ended.system_time()] {
            sum.cpu += Duration::from_secs(time.tv_sec().try_into()?);
            sum.cpu += Duration::from_micros(time.tv_usec().try_into()?);
        }
        sum.switches += switches(UsageWho::RUSAGE_CHILDREN)?;
        Ok(sum)
    }

    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(before.cpu),
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

fn of_other(pid: u32) -> Result<Usage> {
    let id = Pid::from_raw(pid.try_into()?);
    Ok(Usage { cpu: cpu(id)?, switches: switches_of_threads(pid)? })
}

fn cpu(pid: Pid) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(pid).context("a process has no clock")?;
    Ok(clock.now().context("cannot read the clock of a process")?.into())
}

fn switches(who: UsageWho) -> Result<u64> {
    let usage = getrusage(who)?;
    let switches = usage.voluntary_context_switches() + usage.involuntary_context_switches();
    Ok(switches.try_into()?)
}

fn switches_of_threads(pid: u32) -> Result<u64> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in std::fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
        // A thread may end in between.
        let status = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        sum += switches_in(&status);
    }
    Ok(sum)
}

fn switches_in(status: &str) -> u64 {
    let count = |line: &str| match line.split_once(':') {
        Some(("voluntary_ctxt_switches" | "nonvoluntary_ctxt_switches", count)) => {
            count.trim().parse().unwrap_or(0)
        }
        _ => 0,
    };
    status.lines().map(count).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn both_kinds_of_switches_are_counted() {
        let status = "Name:\tsh\nThreads:\t1\nvoluntary_ctxt_switches:\t41\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switches_in(status), 43);
    }

    #[test]
    fn a_process_sees_its_own_time_pass_from_inside_and_from_outside() {
        let own = std::process::id();
        let both = Processes { host: None, child: Some(own) };
        let before = Usage::of(both).unwrap();
        let mut spent = Usage::of(both).unwrap().since(before);
        let begun = Instant::now();
        while spent.cpu < Duration::from_millis(2) {
            assert!(begun.elapsed() < Duration::from_secs(60), "no time has passed: {spent:?}");
            spent = Usage::of(both).unwrap().since(before);
        }
        let inside = Usage::of(Processes::default()).unwrap();
        let outside = Usage::of(Processes { host: Some(own), child: None }).unwrap();
        assert!(outside.cpu >= inside.cpu, "{outside:?} was asked for after {inside:?}");
    }
}
