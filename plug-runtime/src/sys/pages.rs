//! Large pages, for what is long.
#![allow(unsafe_code)]

/// Has memory come in large pages where it holds so much that this pays, if the system lets programs ask for that.
///
/// Long messages come to fresh memory, each page of which takes the system as long to give as it takes to fill it: as this was
/// added, an echo of 64 MiB over pipes took 84 ms with pages of 2 MiB, and 110 with pages of 4 KiB.
#[cfg(all(target_os = "linux", not(any(plug_portable, miri))))]
pub(crate) fn prefer_large(memory: &mut Vec<u8>) {
    use rustix::mm::{Advice, madvise};

    use super::seam::{self, Call};

    if memory.capacity() < WORTH_IT || seam::step(Call::Advise).is_err() {
        return;
    }
    // SAFETY: it is asked for a number.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return };
    // From the beginning of the first page on: a part of a mapping that is treated differently cannot be moved with the rest
    // of it, as the allocator does when a vector grows.
    let before = memory.as_ptr().addr() % page;
    let len = (before + memory.capacity()).next_multiple_of(page);
    // SAFETY: the advice changes nothing of what is in memory, be it this vector's or, in the first page and the last,
    // somebody else's.
    let _ = unsafe {
        madvise(memory.as_mut_ptr().wrapping_sub(before).cast(), len, Advice::LinuxHugepage)
    };
}

#[cfg(not(all(target_os = "linux", not(any(plug_portable, miri)))))]
pub(crate) fn prefer_large(_: &mut Vec<u8>) {}

/// Two large pages of most processors. Shorter messages come to the memory of those before, anyway.
#[cfg(all(target_os = "linux", not(any(plug_portable, miri))))]
const WORTH_IT: usize = 4 << 20;

#[cfg(all(test, target_os = "linux", not(any(plug_portable, miri))))]
mod tests {
    use super::*;

    /// Whether the system was asked for large pages where a vector is.
    fn is_asked_for(memory: &[u8]) -> bool {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let address = memory.as_ptr().addr() as u64;
        let range = |line: &str| {
            let (from, to) = line.split_once(' ')?.0.split_once('-')?;
            Some(u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?)
        };
        let is_here = |line: &&str| range(line).is_some_and(|range| range.contains(&address));
        let mut lines = maps.lines().skip_while(|line| !is_here(line));
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        flags.split_whitespace().any(|flag| flag == "hg")
    }

    #[test]
    fn long_memory_comes_in_large_pages_and_still_does_once_it_has_grown() {
        if !std::fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
            return;
        }
        let mut memory = vec![7; 10 * WORTH_IT];
        assert!(!is_asked_for(&memory));
        prefer_large(&mut memory);
        assert!(is_asked_for(&memory));
        memory.reserve_exact(10 * WORTH_IT);
        assert!(is_asked_for(&memory), "it was copied to memory of another kind");
        assert!(memory.iter().all(|byte| *byte == 7));
    }
}
