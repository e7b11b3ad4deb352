//! Whether others could put another program in the place of a plugin's.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::command::Command;
use crate::sys::files::{Entry, EntryKind, look, own_user};

impl Command {
    /// Refuses a program that another user could replace. Default: no; with the feature `tracing`, the load warns.
    ///
    /// Looks at the file, at each folder on its path, and at the links on it and the folders that they lead through. Each
    /// must belong to root or to the user of the host, and none may be writable by its group or by others. (In a folder
    /// with the sticky bit, such as `/tmp`, others may create files, but not replace or rename those of its owner, which
    /// is enough.) The file must not be set-user-ID or set-group-ID, and it must be named by a path, not by a name that
    /// is looked up in `PATH`. If that does not hold, the load fails with [`ErrorKind::Spawn`](crate::ErrorKind::Spawn)
    /// and the error says what to do.
    ///
    /// The look comes before the start: those who may write there, root and the host's own user, can still change
    /// the program in between. `Command::sha256` (feature `verify`) leaves no such gap. Neither looks at the interpreter
    /// of a script nor at shared libraries.
    pub fn strict(self, strict: bool) -> Command {
        self.program(|program| program.strict = strict)
    }
}

/// Why a program is not safe from others.
#[derive(Debug)]
pub(super) enum Unsafe {
    /// This is wrong with it.
    Flaw(String),
    /// It cannot be seen whether it is.
    Unknown(io::Error),
}

/// Looks at everything that decides which file an absolute path leads to.
pub(super) fn check(path: &Path) -> Result<(), Unsafe> {
    walk(path, own_user(), look)
}

/// Goes the way of the kernel, link by link, and looks at each entry on it.
fn walk(path: &Path, own: u32, look: impl Fn(&Path) -> io::Result<Entry>) -> Result<(), Unsafe> {
    let mut here = PathBuf::from("/");
    let mut ahead = parts(path);
    let mut links = 0;
    let look = |path: &Path| {
        let entry = look(path).map_err(Unsafe::Unknown)?;
        flaw(path, &entry, own).map_or(Ok(entry), |flaw| Err(Unsafe::Flaw(flaw)))
    };
    look(&here)?;
    while let Some(part) = ahead.pop() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        match look(&next)?.kind {
            EntryKind::Link(target) => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Unsafe::Unknown(rustix::io::Errno::LOOP.into()));
                }
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                ahead.extend(parts(&target));
            }
            // If more comes behind a file, the start fails.
            EntryKind::Folder | EntryKind::Other => here = next,
        }
    }
    Ok(())
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    parts.collect()
}

/// What is wrong with one entry, and what to do about it.
fn flaw(path: &Path, entry: &Entry, own: u32) -> Option<String> {
    let Entry { kind, owner, mode } = entry;
    let path = path.display();
    if *owner != 0 && *owner != own {
        return Some(format!(
            "{path} belongs to user {owner}, and not to root or to user {own}, who runs this: chown it, or have the \
             plugin elsewhere"
        ));
    }
    let is_folder = matches!(kind, EntryKind::Folder);
    let is_link = matches!(kind, EntryKind::Link(_));
    let protects_entries = is_folder && mode & STICKY != 0;
    if mode & OTHERS_WRITE != 0 && !is_link && !protects_entries {
        return Some(format!(
            "others than its owner may write {path} (mode {mode:04o}): chmod go-w {path}"
        ));
    }
    if mode & SET_ID != 0 && !is_link && !is_folder {
        return Some(format!(
            "{path} runs as another user or group (mode {mode:04o}): chmod ug-s {path}"
        ));
    }
    None
}

/// As many as Linux follows.
const MOST_LINKS: u32 = 40;

const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;
const SET_ID: u32 = 0o6000;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const OWN: u32 = 1000;

    /// Checks a path in a tree of which only what is unusual is given.
    fn checked(path: &str, unusual: &[(&str, EntryKind, u32, u32)]) -> Result<(), String> {
        let mut tree: BTreeMap<PathBuf, Entry> = BTreeMap::new();
        for (path, kind, owner, mode) in unusual {
            let entry = Entry { kind: kind.clone(), owner: *owner, mode: *mode };
            tree.insert(path.into(), entry);
        }
        let look = |path: &Path| {
            let usual = match path.file_name() {
                Some(name) if name == "plugin" => EntryKind::Other,
                _ => EntryKind::Folder,
            };
            let usual = Entry { kind: usual, owner: 0, mode: 0o755 };
            Ok(tree.get(path).cloned().unwrap_or(usual))
        };
        walk(Path::new(path), OWN, look).map_err(|why| match why {
            Unsafe::Flaw(flaw) => flaw,
            Unsafe::Unknown(error) => error.to_string(),
        })
    }

    fn link(target: &str) -> EntryKind {
        EntryKind::Link(target.into())
    }

    #[test]
    fn x4_what_belongs_to_root_or_the_own_user_is_accepted() {
        use EntryKind::{Folder, Other};
        checked("/opt/plugin", &[]).unwrap();
        checked("/opt/plugin", &[("/opt", Folder, OWN, 0o700), ("/opt/plugin", Other, OWN, 0o500)])
            .unwrap();
        checked("/tmp/plugin", &[("/tmp", Folder, 0, 0o1777), ("/tmp/plugin", Other, OWN, 0o755)])
            .unwrap();
        // The permissions of a link mean nothing.
        checked("/opt/link", &[("/opt/link", link("plugin"), 0, 0o777)]).unwrap();
    }

    #[test]
    fn x4_what_others_may_change_is_refused() {
        use EntryKind::{Folder, Other};
        let cases = [
            ("/opt/plugin", ("/opt/plugin", Other, 0, 0o757), "chmod go-w /opt/plugin"),
            ("/opt/plugin", ("/opt/plugin", Other, 0, 0o775), "(mode 0775)"),
            ("/opt/plugin", ("/opt/plugin", Other, 7, 0o755), "/opt/plugin belongs to user 7"),
            ("/opt/plugin", ("/opt", Folder, 0, 0o777), "may write /opt (mode 0777)"),
            ("/opt/a/plugin", ("/opt", Folder, 7, 0o755), "/opt belongs to user 7"),
            ("/opt/plugin", ("/", Folder, 0, 0o775), "may write / "),
            ("/tmp/plugin", ("/tmp", Folder, 7, 0o1777), "/tmp belongs to user 7"),
            // Sticky protects what is in a folder, not a file.
            ("/opt/plugin", ("/opt/plugin", Other, 0, 0o1777), "(mode 1777)"),
            ("/opt/../var/plugin", ("/opt", Folder, 0, 0o777), "may write /opt "),
        ];
        for (path, unusual, text) in cases {
            let error = checked(path, &[unusual]).unwrap_err();
            assert!(error.contains(text), "{path}: {error}");
        }
    }

    #[test]
    fn x4_the_way_of_a_link_is_looked_at_too() {
        use EntryKind::Folder;
        let open = ("/open", Folder, 0, 0o777);
        for target in ["/open/plugin", "../open/plugin", "/open/../opt/plugin"] {
            let error =
                checked("/opt/link", &[("/opt/link", link(target), 0, 0o777), open.clone()])
                    .unwrap_err();
            assert!(error.contains("may write /open "), "{target}: {error}");
        }
        // The place of the link itself.
        let error = checked("/open/link", &[("/open/link", link("/opt/plugin"), 0, 0o777), open]);
        assert!(error.unwrap_err().contains("may write /open "));
        // In a folder with the sticky bit, a link of somebody else.
        let error = checked("/tmp/link", &[("/tmp/link", link("/opt/plugin"), 7, 0o777)]);
        assert!(error.unwrap_err().contains("/tmp/link belongs to user 7"));
        // One in the middle, and one that leads to itself.
        checked("/opt/link/plugin", &[("/opt/link", link("/usr"), 0, 0o777)]).unwrap();
        let error = checked("/opt/link", &[("/opt/link", link("link"), 0, 0o777)]).unwrap_err();
        assert!(error.contains("symbolic links"), "{error}");
    }

    #[test]
    fn x14_a_program_that_runs_as_somebody_else_is_refused() {
        for mode in [0o4755, 0o2755, 0o6755] {
            let error = checked("/opt/plugin", &[("/opt/plugin", EntryKind::Other, 0, mode)]);
            assert!(error.unwrap_err().contains("chmod ug-s /opt/plugin"), "{mode:o}");
        }
        // Of a folder it says something else.
        checked("/opt/plugin", &[("/opt", EntryKind::Folder, 0, 0o2755)]).unwrap();
    }
}
