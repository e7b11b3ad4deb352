//! Whose files are, and who may change them.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What stands at a path.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    /// The id of its owner.
    pub(crate) owner: u32,
    /// The permissions, with the bits for set-user-ID, set-group-ID and sticky.
    pub(crate) mode: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum EntryKind {
    Folder,
    /// A symbolic link, and where it leads.
    Link(PathBuf),
    Other,
}

/// Looks at a path, and follows no link at its end.
pub(crate) fn look(path: &Path) -> io::Result<Entry> {
    let metadata = std::fs::symlink_metadata(path)?;
    let kind = if metadata.is_symlink() {
        EntryKind::Link(std::fs::read_link(path)?)
    } else if metadata.is_dir() {
        EntryKind::Folder
    } else {
        EntryKind::Other
    };
    Ok(Entry { kind, owner: metadata.uid(), mode: metadata.mode() & 0o7777 })
}

/// The user in whose name this process acts.
pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}
