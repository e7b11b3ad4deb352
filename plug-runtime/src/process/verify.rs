//! Programs that run only if they are what was approved.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use super::command::Command;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::sealed::Sealed;

/// The digest that a program must have, and the copy that has it.
#[derive(Debug)]
pub(super) struct Verified {
    wanted: String,
    /// Made for the first start, and used for all.
    copy: OnceLock<Sealed>,
}

impl Command {
    /// Runs the program only if its SHA-256 digest is this one: 64 hexadecimal digits, as `sha256sum` prints them.
    /// Needs the feature `verify`.
    ///
    /// The file is copied to memory that nobody can change afterwards, the copy is hashed, and the copy is executed, at
    /// a restart too. So it does not matter who may write the file, its folder or a link to it, or when: what runs has
    /// that digest. It is the digest of the program alone: shared libraries and whatever else it reads, its environment
    /// and its arguments are not covered.
    ///
    /// The load fails with [`ErrorKind::Spawn`], and nothing is executed, if the digest is another; if the program is a
    /// script, since its interpreter would read the file again; and where there are no such copies: on other systems
    /// than Linux, without `/proc`, or where the sysctl `vm.memfd_noexec` forbids them.
    ///
    /// # What is different for the plugin
    ///
    /// [`current_exe`](std::env::current_exe) is `/memfd:kv-plugin (deleted)`, so it finds nothing beside itself, nor
    /// does its loader by an `$ORIGIN` in its `RUNPATH`; it can still start itself as `/proc/self/exe`. `ps -o comm` and
    /// `top` show a number as its name. Set-user-ID bits and capabilities of the file do not apply. The copy takes
    /// memory, as much as the file is long, until the plugin has ended. Making it delays the first start in proportion
    /// to that length; a restart uses it again.
    pub fn sha256(self, digest: impl AsRef<str>) -> Command {
        let wanted = digest.as_ref().to_owned();
        self.program(|program| program.verified = Some(Verified { wanted, copy: OnceLock::new() }))
    }
}

impl Verified {
    /// The path by which the copy is executed. It is made now, of the file that is found, unless it is there already.
    pub(super) fn path(&self, find: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
        if let Some(copy) = self.copy.get() {
            return Ok(copy.path());
        }
        let wanted = self.wanted.to_ascii_lowercase();
        if wanted.len() != 64 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let message = format!(
                "cannot verify it: {:?} is not a SHA-256 digest, which has 64 hexadecimal digits",
                self.wanted
            );
            return Err(Error::of_kind(ErrorKind::Spawn, message));
        }
        let file = find()?;
        let copy = copy(&file)?;
        let mut hasher = Sha256::new();
        let read = copy.read(|piece| hasher.update(piece));
        read.map_err(|error| cannot(&file, "").with_source(error))?;
        let found = hasher.finalize().iter().fold(String::new(), |mut digits, byte| {
            let _ = write!(digits, "{byte:02x}");
            digits
        });
        if found != wanted {
            let why =
                format!(": its SHA-256 digest is {found}, and what was approved has {wanted}");
            return Err(cannot(&file, &why));
        }
        Ok(self.copy.get_or_init(|| copy).path())
    }
}

/// Copies a program, unless it is something that would not run from a copy.
fn copy(path: &Path) -> Result<Sealed> {
    // Without waiting for the other end of what may be a pipe.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => ": is it built, and is the path right?",
            _ => ": it must be readable to be verified",
        };
        cannot(path, hint).with_source(error)
    })?;
    let metadata = file.metadata().map_err(|error| cannot(path, "").with_source(error))?;
    if !metadata.is_file() {
        return Err(cannot(path, ": it is no regular file"));
    }
    if metadata.mode() & 0o111 == 0 {
        return Err(cannot(path, ": is it executable?"));
    }
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == *b"\x7fELF" => {}
        Ok(()) if magic.starts_with(b"#!") => {
            let why = ": a script cannot be verified, since its interpreter would read the file again, which may be \
                       another by then";
            return Err(cannot(path, why));
        }
        _ => return Err(cannot(path, ": it is not a program for this machine (ELF)")),
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Sealed::copy(&file, &name).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::Unsupported => ": this system has no memory that can be sealed",
            io::ErrorKind::PermissionDenied => {
                ": this system allows no programs in memory (is the sysctl vm.memfd_noexec 2?)"
            }
            io::ErrorKind::FileTooLarge => ": it is longer than this process may write (ulimit -f)",
            _ => "",
        };
        cannot(path, hint).with_source(error)
    })
}

fn cannot(path: &Path, why: &str) -> Error {
    let path = path.display();
    Error::of_kind(ErrorKind::Spawn, format!("cannot start {path} as a verified program{why}"))
}

#[cfg(all(test, target_os = "linux", not(plug_portable)))]
mod tests {
    use std::fs;

    use super::super::command::Target;
    use super::super::program::Program;
    use super::*;
    use crate::exit::ExitStatus;

    fn digest(path: &Path) -> String {
        let digest = Sha256::digest(fs::read(path).unwrap());
        digest.iter().map(|byte| format!("{byte:02X}")).collect()
    }

    fn run(program: &Program) -> Result<ExitStatus> {
        let started = program.spawn()?;
        let begin = std::time::Instant::now();
        loop {
            match started.child.try_end() {
                Some(status) => return Ok(status),
                None => assert!(begin.elapsed().as_secs() < 30, "waited in vain for its end"),
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    #[test]
    fn x1_a_second_start_runs_the_copy_whatever_has_become_of_the_file() {
        let folder = std::env::temp_dir().join(format!("plug-verify-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("program");
        fs::copy("/bin/true", &path).unwrap();
        let command = Command::new(&path).sha256(digest(&path)).strict(false);
        let Target::Program(program) = command.target else { unreachable!("it is one") };
        assert_eq!(run(&program).unwrap(), ExitStatus::Code(0));
        fs::copy("/bin/false", &path).unwrap();
        assert_eq!(run(&program).unwrap(), ExitStatus::Code(0), "not the new one");
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(run(&program).unwrap(), ExitStatus::Code(0), "nor is the file needed");
    }
}
