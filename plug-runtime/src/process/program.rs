//! The program of a plugin, and its start.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::child::{Child, Started};
use super::environment::Environment;
use super::limits::Limits;
use super::path;
use super::strict::{self, Unsafe};
#[cfg(feature = "verify")]
use super::verify::Verified;
use crate::error::{Error, ErrorKind, Result};
use crate::log;
use crate::sys::process;

/// A program, and how to start it.
#[derive(Debug)]
pub(crate) struct Program {
    program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) environment: Environment,
    pub(super) current_dir: Option<PathBuf>,
    pub(super) limits: Limits,
    /// Whether it may be something that others could replace.
    pub(super) strict: bool,
    #[cfg(feature = "verify")]
    pub(super) verified: Option<Verified>,
}

impl Program {
    pub(super) fn new(program: &OsStr) -> Program {
        Program {
            program: program.to_owned(),
            args: Vec::new(),
            environment: Environment::default(),
            current_dir: None,
            limits: Limits::default(),
            strict: false,
            #[cfg(feature = "verify")]
            verified: None,
        }
    }

    /// The name for messages: the last part of the path.
    pub(crate) fn name(&self) -> String {
        let name = Path::new(&self.program).file_name().unwrap_or(&self.program);
        name.to_string_lossy().into_owned()
    }

    /// The same program, with one more argument before all others.
    pub(crate) fn with_first_arg(mut self, arg: &str) -> Program {
        self.args.insert(0, arg.into());
        self
    }

    /// Whether there is a limit on its memory.
    pub(crate) fn limits_memory(&self) -> bool {
        self.limits.has_memory()
    }

    /// Starts the program, in a process group of its own, with a pipe for each of its standard streams and within its
    /// limits.
    pub(crate) fn spawn(&self) -> Result<Started> {
        let started = self.spawn_unlimited()?;
        self.limits.apply(started.child.pid())?;
        Ok(started)
    }

    fn spawn_unlimited(&self) -> Result<Started> {
        #[cfg(feature = "tracing")]
        super::audit::warn_of_leaks();
        let path = self.executable()?;
        let mut command = std::process::Command::new(&path);
        command
            .arg0(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the host, which ends its plugins by itself.
            .process_group(0);
        self.environment.apply(&mut command);
        if let Some(directory) = &self.current_dir {
            command.current_dir(directory);
        }
        let give_up = Instant::now() + BUSY_FOR_AT_MOST;
        loop {
            match process::spawn(&mut command) {
                Ok(child) => return Ok(Child::started(child)),
                // Another thread of this process has forked while the file was open for writing, and its
                // child has not come to its exec yet.
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && Instant::now() < give_up =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(self.spawn_error(&path, error)),
            }
        }
    }

    /// The path of what is executed: the program, or a verified copy of it.
    fn executable(&self) -> Result<PathBuf> {
        #[cfg(feature = "verify")]
        if let Some(verified) = &self.verified {
            return verified.path(|| self.find());
        }
        self.find()
    }

    /// The path of the program, which others cannot replace where that matters.
    fn find(&self) -> Result<PathBuf> {
        let path = path::resolve(&self.program)?;
        if self.strict && path::is_bare(&self.program) {
            let message = format!(
                "cannot start {0} in strict mode: it is a name to be looked up in PATH; give its path, which is {1} now",
                Path::new(&self.program).display(),
                path.display()
            );
            return Err(Error::of_kind(ErrorKind::Spawn, message));
        }
        // Who is not strict and cannot be warned need not look.
        if self.strict || cfg!(feature = "tracing") {
            match strict::check(&path) {
                Ok(()) => {}
                Err(Unsafe::Flaw(flaw)) if self.strict => {
                    let message = format!("cannot start {} in strict mode: {flaw}", path.display());
                    return Err(Error::of_kind(ErrorKind::Spawn, message));
                }
                Err(Unsafe::Flaw(flaw)) => log::warn(&format!(
                    "another user could have another program started in place of {}: {flaw}",
                    path.display()
                )),
                Err(Unsafe::Unknown(error)) if self.strict => {
                    return Err(self.spawn_error(&path, error));
                }
                // The start fails for the same reason, or there is nothing to say.
                Err(Unsafe::Unknown(_)) => {}
            }
        }
        Ok(path)
    }

    #[cfg(feature = "verify")]
    fn is_verified(&self) -> bool {
        self.verified.is_some()
    }

    #[cfg(not(feature = "verify"))]
    fn is_verified(&self) -> bool {
        false
    }

    fn spawn_error(&self, path: &Path, error: io::Error) -> Error {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(&error);
        let hint = match errno {
            Some(Errno::NOENT) if self.current_dir.as_ref().is_some_and(|dir| !dir.is_dir()) => {
                ": its working directory does not exist"
            }
            Some(Errno::NOENT) if self.is_verified() && !path.exists() => {
                ": a verified program is started through /proc, which is not there"
            }
            Some(Errno::ACCESS) if self.is_verified() && path.exists() => {
                ": this system allows no programs in memory"
            }
            Some(Errno::NOENT) if path.exists() => {
                ": the file is there, but not the interpreter or loader that it asks for"
            }
            Some(Errno::NOENT) => ": is it built, and is the path right?",
            Some(Errno::ACCESS) if path.is_dir() => ": it is a directory",
            Some(Errno::ACCESS) => ": is it executable?",
            Some(Errno::NOEXEC) => {
                ": it is not a program for this machine; a script needs a #! line"
            }
            Some(Errno::MFILE | Errno::NFILE) => {
                ": too many files are open; each plugin takes five"
            }
            _ => "",
        };
        Error::of_kind(ErrorKind::Spawn, format!("cannot start {}{hint}", path.display()))
            .with_source(error)
    }
}

/// How long a file that is open for writing elsewhere is tried again.
const BUSY_FOR_AT_MOST: Duration = Duration::from_secs(1);
