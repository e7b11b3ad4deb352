//! What a process has: descriptors, threads, children, memory, and what of it is shared; and which processes carry a marker.

use std::collections::{BTreeMap, BTreeSet};
use std::{fs, io};

/// What may be left of a plugin in its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All descriptors of the process, and what they refer to.
    pub fds: BTreeMap<u32, String>,
    /// The names of the threads that the runtime has made, in order.
    pub threads: Vec<String>,
    /// All processes whose parent is this one, zombies included, and what they are: `name (state)`.
    pub children: BTreeMap<u32, String>,
    /// Memory that is shared with a plugin, by its inode.
    pub shared: BTreeSet<String>,
}

impl Census {
    /// What this process has now.
    ///
    /// # Errors
    ///
    /// Without `/proc`.
    pub fn now() -> io::Result<Census> {
        let open = crate::evil::fds()?;
        let open = open.lines().filter_map(|line| line.split_once(' '));
        let fds = open.filter_map(|(fd, target)| Some((fd.parse().ok()?, target.to_owned())));
        let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
        let mut threads: Vec<_> = fs::read_dir("/proc/self/task")?
            .filter_map(|task| Some(name(task.ok()?)?.trim().to_owned()))
            .filter(|name| name.starts_with("plug-"))
            .collect();
        threads.sort();
        Ok(Census { fds: fds.collect(), threads, children: children()?, shared: shared()? })
    }

    /// What is here beyond what was there before. Of a descriptor, the number counts: what it refers to may be another
    /// pipe by now.
    pub fn beyond(&self, before: &Census) -> Census {
        let fds = self.fds.iter().filter(|(fd, _)| !before.fds.contains_key(fd));
        let children = self.children.iter().filter(|(pid, _)| !before.children.contains_key(pid));
        let mut threads = self.threads.clone();
        for name in &before.threads {
            if let Some(place) = threads.iter().position(|thread| thread == name) {
                threads.remove(place);
            }
        }
        let own = |(&number, what): (&u32, &String)| (number, what.clone());
        Census {
            fds: fds.map(own).collect(),
            threads,
            children: children.map(own).collect(),
            shared: self.shared.difference(&before.shared).cloned().collect(),
        }
    }

    /// How many of the children are zombies.
    pub fn zombies(&self) -> usize {
        self.children.values().filter(|child| child.ends_with("(Z)")).count()
    }
}

/// The memory that this process shares with plugins, by its inode.
///
/// # Errors
///
/// Without `/proc`.
pub fn shared() -> io::Result<BTreeSet<String>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let shared = maps.lines().filter(|line| line.contains("/memfd:plug "));
    Ok(shared.filter_map(|line| line.split_whitespace().nth(4).map(str::to_owned)).collect())
}

/// The children of this process, zombies included, and what they are.
fn children() -> io::Result<BTreeMap<u32, String>> {
    let own = std::process::id();
    let stats = processes()?.into_iter().filter_map(|pid| Some((pid, Stat::of(pid)?)));
    let children = stats.filter(|(_, stat)| stat.parent == own);
    Ok(children.map(|(pid, stat)| (pid, format!("{} ({})", stat.name, stat.state))).collect())
}

/// The processes whose environment has this variable with this value, and that run.
///
/// # Errors
///
/// Without `/proc`.
pub fn marked(variable: &str, value: &str) -> io::Result<BTreeMap<u32, Stat>> {
    let wanted = format!("{variable}={value}");
    let is_marked = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    let marked = processes()?.into_iter().filter(|&pid| is_marked(pid));
    Ok(marked
        .filter_map(|pid| Some((pid, Stat::of(pid)?)))
        .filter(|(_, stat)| stat.runs())
        .collect())
}

fn processes() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}

/// What the system says about a process.
#[derive(Clone, Debug)]
pub struct Stat {
    /// The name of its program, cut off after 15 bytes.
    pub name: String,
    /// What it does: `R`, `S`, `Z` and so on.
    pub state: char,
    /// Who has started or adopted it.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
}

impl Stat {
    /// That of a process, if there is one.
    pub fn of(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = text.rsplit_once(')')?;
        let mut fields = tail.split_whitespace();
        let name = head.split_once('(')?.1.to_owned();
        let state = fields.next()?.chars().next()?;
        let mut number = || fields.next()?.parse().ok();
        Some(Stat { name, state, parent: number()?, group: number()? })
    }

    /// Whether it runs. A zombie does not: who adopts orphans may be slow to reap them.
    pub fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// Whether a process runs.
pub fn is_alive(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.runs())
}

/// How much memory a process has, in KiB. `None` if it has ended.
pub fn rss(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

/// The most memory that a process has had, in KiB. `None` if it has ended.
pub fn most_rss(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, which: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(which))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
