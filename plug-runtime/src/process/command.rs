//! What to start as a plugin, and how.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use prost::Message;

use super::child::{Child, Started};
use crate::description::Description;
use crate::error::{Error, ErrorKind, Result};
use crate::offer::{Offer, Offers};

/// A plugin to be loaded: a program with arguments and environment, and the limits for talking to it.
///
/// A path is a `Command` where one is asked for: `load_kv("path/to/kv-plugin")`. A name without a slash
/// is looked up in `PATH`; a relative path is relative to the working directory of the host.
///
/// # Environment
///
/// The plugin gets `HOME`, `LANG`, `LANGUAGE`, `LC_*`, `LOGNAME`, `PATH`, `RUST_BACKTRACE`, `SHELL`,
/// `TERM`, `TMPDIR`, `TZ`, `USER` and `XDG_*` of its host, as far as they are set, and what
/// [`env`](Command::env) adds. So secrets of the host do not reach it by accident.
/// [`inherit_env`](Command::inherit_env) passes everything on.
///
/// ```no_run
/// # fn main() -> plug::Result<()> {
/// use std::time::Duration;
///
/// let plugin = plug::Command::new("path/to/kv-plugin")
///     .arg("--verbose")
///     .env("KV_DIRECTORY", "/var/lib/kv")
///     .start_timeout(Duration::from_secs(5))
///     .load()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Command {
    pub(crate) target: Target,
    pub(crate) settings: Settings,
}

#[derive(Debug)]
pub(crate) enum Target {
    Program(Program),
    InProcess(InProcess),
}

/// Serves a plugin over a pipe pair, on threads of its own.
pub(crate) struct InProcess {
    pub(crate) name: String,
    /// Given the plugin's input and output.
    pub(crate) start: Box<dyn FnOnce(OwnedFd, OwnedFd) -> Result<()> + Send>,
    pub(crate) describe: fn() -> Result<Description>,
}

/// What both kinds of plugin have in common.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) start_timeout: Duration,
    pub(crate) stop_grace: Duration,
    pub(crate) max_message: usize,
    /// For calls whose proxy sets no limit.
    pub(crate) timeout: Option<Duration>,
    /// An encoded message for the plugin to start with.
    pub(crate) config: Option<Vec<u8>>,
    /// What the host offers to the plugin.
    pub(crate) offers: Vec<Offers>,
    /// How many calls of the plugin the host serves at once.
    pub(crate) max_calls: u32,
    /// Whether what it prints becomes log events.
    pub(crate) trace_stderr: bool,
}

#[derive(Debug)]
pub(crate) struct Program {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    inherit_env: bool,
    current_dir: Option<PathBuf>,
}

impl Command {
    /// The program at a path, or with a name to be found in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command {
            target: Target::Program(Program {
                program: program.as_ref().to_owned(),
                args: Vec::new(),
                env: Vec::new(),
                inherit_env: false,
                current_dir: None,
            }),
            settings: Settings {
                start_timeout: Duration::from_secs(10),
                stop_grace: Duration::from_secs(2),
                max_message: 64 << 20,
                timeout: None,
                config: None,
                offers: Vec::new(),
                max_calls: 1024,
                trace_stderr: false,
            },
        }
    }

    /// Adds an argument.
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Command {
        self.args([arg])
    }

    /// Adds arguments.
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        self.program(|program| {
            program.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        })
    }

    /// Sets an environment variable of the plugin.
    pub fn env(self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Command {
        let variable = (key.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self.program(|program| program.env.push(variable))
    }

    /// Keeps an environment variable from the plugin that it would inherit.
    pub fn env_remove(self, key: impl AsRef<OsStr>) -> Command {
        let variable = (key.as_ref().to_owned(), None);
        self.program(|program| program.env.push(variable))
    }

    /// Lets the plugin inherit all environment variables of the host, not only the harmless ones.
    pub fn inherit_env(self) -> Command {
        self.program(|program| program.inherit_env = true)
    }

    /// The working directory of the plugin. Default: the host's.
    pub fn current_dir(self, directory: impl AsRef<Path>) -> Command {
        let directory = directory.as_ref().to_owned();
        self.program(|program| program.current_dir = Some(directory))
    }

    /// How long the plugin may take from its start to its hello, [`Plugin::start`](crate::Plugin::start)
    /// included. Default: 10 seconds. A plugin that takes longer is killed, and the load fails.
    pub fn start_timeout(mut self, timeout: Duration) -> Command {
        self.settings.start_timeout = timeout;
        self
    }

    /// How long the plugin may take to end once its last peer, proxy or clone of them is dropped.
    /// Default: 2 seconds. It is asked to at once, gets SIGTERM after half of that time and SIGKILL
    /// after all of it. [`Peer::stop`](crate::Peer::stop) has a grace of its own.
    pub fn stop_grace(mut self, grace: Duration) -> Command {
        self.settings.stop_grace = grace;
        self
    }

    /// The largest request or response, in bytes of encoded protobuf. Default: 64 MiB.
    ///
    /// A larger request fails its call with [`ErrorKind::TooLarge`], and is not sent. A larger response fails it with
    /// [`Code::ResourceExhausted`](crate::Code::ResourceExhausted), as if the handler had. A plugin that sends one all
    /// the same breaks the protocol.
    pub fn max_message(mut self, bytes: usize) -> Command {
        self.settings.max_message = bytes.max(1);
        self
    }

    /// Makes a `tracing` event of each line that the plugin prints, on stderr or with `println!`: at level INFO, with the
    /// target `plug::stderr` and the field `plugin`. Default: no. [`Peer::stderr_lines`](crate::Peer::stderr_lines) has
    /// them in any case.
    #[cfg(feature = "tracing")]
    pub fn trace_stderr(mut self, trace: bool) -> Command {
        self.settings.trace_stderr = trace;
        self
    }

    /// How many calls of the plugin, streams included, the host serves at once: more wait on the plugin's side. Default:
    /// 1024. 0: as many as come.
    pub fn max_calls(mut self, calls: u32) -> Command {
        self.settings.max_calls = calls;
        self
    }

    /// How long each call to the plugin may take whose proxy does not say so itself, with
    /// [`Proxy::with_timeout`](crate::Proxy::with_timeout) or the like: streams too. Default: as long as it likes.
    pub fn timeout(mut self, timeout: Duration) -> Command {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Sends the plugin a message to start with: it finds it with [`Peer::config`](crate::Peer::config), before the
    /// first call. At most 512 KiB, encoded; the load fails with more.
    pub fn config(mut self, message: &impl Message) -> Command {
        self.settings.config = Some(message.encode_to_vec());
        self
    }

    /// Offers services of the host to the plugin, which calls them through a proxy of
    /// [its host](crate::Plugin::start): `.serve::<ClockService>(Arc::new(clock))`, or a tuple of services that one
    /// object implements. May be called several times; a service that is offered twice fails the load.
    ///
    /// The object lives as long as the connection. If it holds a proxy or a peer of the same plugin, neither is ever
    /// dropped: use [`Call::peer`](crate::Call::peer) in its methods.
    pub fn serve<S>(mut self, offer: impl Offer<S>) -> Command {
        self.settings.offers.push(offer.into_offers());
        self
    }

    pub(crate) fn for_in_process(plugin: InProcess) -> Command {
        Command { target: Target::InProcess(plugin), ..Command::new("") }
    }

    /// Changes how the program is started; a plugin in this process has none of that.
    fn program(mut self, change: impl FnOnce(&mut Program)) -> Command {
        if let Target::Program(program) = &mut self.target {
            change(program);
        }
        self
    }
}

impl<S: AsRef<OsStr>> From<S> for Command {
    fn from(program: S) -> Command {
        Command::new(program)
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Program {
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

    /// Starts the program, in a process group of its own, with a pipe for each of its standard streams.
    pub(crate) fn spawn(&self) -> Result<Started> {
        let path = resolve(&self.program)?;
        let mut command = std::process::Command::new(&path);
        command
            .arg0(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the host, which ends its plugins by itself.
            .process_group(0);
        if !self.inherit_env {
            command.env_clear();
            command.envs(env::vars_os().filter(|(key, _)| is_harmless(key)));
        }
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.env(HOST_VARIABLE, std::process::id().to_string());
        if let Some(directory) = &self.current_dir {
            command.current_dir(directory);
        }
        let give_up = Instant::now() + BUSY_FOR_AT_MOST;
        loop {
            match command.spawn() {
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

    fn spawn_error(&self, path: &Path, error: io::Error) -> Error {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(&error);
        let hint = match errno {
            Some(Errno::NOENT) if self.current_dir.as_ref().is_some_and(|dir| !dir.is_dir()) => {
                ": its working directory does not exist"
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

/// The variable that tells a plugin that it was started by a host: its process id.
pub(super) const HOST_VARIABLE: &str = "PLUG_HOST";

/// How long a file that is open for writing elsewhere is tried again.
const BUSY_FOR_AT_MOST: Duration = Duration::from_secs(1);

/// Makes the path absolute, so that it means the same in another working directory, and so that the standard
/// library need not fork to search for it.
fn resolve(program: &OsStr) -> Result<PathBuf> {
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

fn is_harmless(key: &OsStr) -> bool {
    const HARMLESS: [&str; 11] = [
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "PATH",
        "RUST_BACKTRACE",
        "SHELL",
        "TERM",
        "TMPDIR",
        "TZ",
        "USER",
    ];
    let Some(key) = key.to_str() else { return false };
    HARMLESS.contains(&key) || key.starts_with("LC_") || key.starts_with("XDG_")
}
