//! Where the program of a plugin is.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Makes the path absolute, so that it means the same in another working directory, and so that the standard
/// library need not fork to search for it.
pub(super) fn resolve(program: &OsStr) -> Result<PathBuf> {
    let path = Path::new(program);
    if program.is_empty() {
        return Err(Error::of_kind(ErrorKind::Spawn, "cannot start a plugin: its path is empty"));
    }
    if path.components().count() > 1 || program.as_encoded_bytes().contains(&b'/') {
        return std::path::absolute(path).map_err(|error| {
            Error::of_kind(ErrorKind::Spawn, format!("cannot start {}", path.display()))
                .with_source(error)
        });
    }
    let search = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&search)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(path))
        .find(|candidate| is_executable_file(candidate));
    found.ok_or_else(|| {
        let hint = if path.exists() {
            format!(
                "; there is one in the working directory: if you mean that, write ./{}",
                path.display()
            )
        } else {
            String::new()
        };
        Error::of_kind(
            ErrorKind::Spawn,
            format!("cannot start {}: there is no such program in PATH{hint}", path.display()),
        )
    })
}

fn is_executable_file(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
