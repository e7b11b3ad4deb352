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
    if !is_bare(program) {
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

/// Whether this is a name to be looked up, and no path.
pub(super) fn is_bare(program: &OsStr) -> bool {
    !program.as_encoded_bytes().contains(&b'/')
}

fn is_executable_file(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These tests run in the folder of this package, which has a `Cargo.toml`.
    fn resolved(program: &str) -> Result<PathBuf> {
        resolve(OsStr::new(program))
    }

    #[test]
    fn x3_a_path_is_made_absolute() {
        let here = env::current_dir().unwrap();
        assert_eq!(resolved("./plugin").unwrap(), here.join("plugin"));
        assert_eq!(resolved("some/plugin").unwrap(), here.join("some/plugin"));
        assert_eq!(resolved("../plugin").unwrap(), here.join("../plugin"));
        assert_eq!(resolved("/opt/plugin").unwrap(), Path::new("/opt/plugin"));
    }

    #[test]
    fn x3_a_bare_name_is_never_looked_up_in_the_working_directory() {
        let error = resolved("Cargo.toml").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn);
        assert!(error.message().contains("if you mean that, write ./Cargo.toml"), "{error}");
        let found = resolved("sh").unwrap();
        assert!(found.is_absolute() && found.ends_with("sh"), "{found:?}");
    }

    #[test]
    fn x3_an_empty_path_is_refused() {
        assert!(resolved("").unwrap_err().message().contains("its path is empty"));
    }
}
