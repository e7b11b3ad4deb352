//! What a child of this process would inherit.

use std::fs;

/// The descriptors above 2 that are not close-on-exec, each with what it is. None where that cannot be seen.
pub(crate) fn inheritable() -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(number) = number.filter(|&number| number > 2) else { continue };
        // Other threads open and close while this looks: what has gone by now is none.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        if flags.is_some_and(|flags| flags & CLOSE_ON_EXEC == 0) {
            found.push((number, target.display().to_string()));
        }
    }
    found
}

const CLOSE_ON_EXEC: u32 = rustix::fs::OFlags::CLOEXEC.bits();
