//! What to start as a plugin, and how.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use super::program::Program;
use super::settings::{Settings, SharedMemory};
use crate::description::Description;
use crate::error::Result;
use crate::exit::Exit;
use crate::notice::ExitNotice;
use crate::offer::Offer;
use crate::restart::Restart;

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

impl Command {
    /// The program at a path, or with a name to be found in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command {
            target: Target::Program(Program::new(program.as_ref())),
            settings: Settings::default(),
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
        self.program(|program| program.environment.changes.push(variable))
    }

    /// Keeps an environment variable from the plugin that it would inherit.
    pub fn env_remove(self, key: impl AsRef<OsStr>) -> Command {
        let variable = (key.as_ref().to_owned(), None);
        self.program(|program| program.environment.changes.push(variable))
    }

    /// Lets the plugin inherit all environment variables of the host, not only the harmless ones.
    pub fn inherit_env(self) -> Command {
        self.program(|program| program.environment.inherit_all = true)
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
    /// A larger request fails its call with [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge), and is not sent. A larger response fails it with
    /// [`Code::ResourceExhausted`](crate::Code::ResourceExhausted), as if the handler had. A plugin that sends one all
    /// the same breaks the protocol.
    pub fn max_message(mut self, bytes: usize) -> Command {
        self.settings.max_message = bytes.max(1);
        self
    }

    /// How much memory a message of the plugin may take once it is decoded, in bytes. Default: 128 MiB, or twice
    /// [`max_message`](Command::max_message) if that is more.
    ///
    /// A few bytes can become a large struct: 4 MiB of empty messages in a repeated field take 320 MiB if their type has
    /// 160 bytes. So what may take too much is measured before it is decoded, from the descriptors of the service, and
    /// rather too high than too low. A response that would take more fails its call with
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge), and a request of the plugin with
    /// [`Code::ResourceExhausted`](crate::Code::ResourceExhausted); so does an item of a stream, and ends it. The requests
    /// of the host have the default limit in the plugin.
    ///
    /// The descriptors of a plugin are measured as well: see [`Peer::descriptors`](crate::Peer::descriptors) and
    /// [`describe`](Command::describe).
    ///
    /// Not measured is what is not decoded by generated code: [`Peer::call`](crate::Peer::call) returns bytes. Nor are
    /// services whose [`DESCRIPTORS`](crate::Service::DESCRIPTORS) are empty, which somebody has written by hand. Messages
    /// for which the generator was given types of its user's (`extern_path`) are measured as if prost had made them.
    pub fn max_decoded(mut self, bytes: usize) -> Command {
        self.settings.max_decoded = Some(bytes);
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

    /// Whether messages go through memory that the host and the plugin share, instead of through pipes. Default:
    /// [`SharedMemory::WhenUsed`].
    ///
    /// It makes calls faster. It needs Linux, and the feature `shm`, which is on by default, on both sides. The plugin
    /// makes the memory, and the host takes it only if nobody can change its size. Where the host may not open it, since
    /// the plugin runs as another user, say, the pipes stay in use, and no call is lost to that. A plugin can do no more
    /// harm by it than by a pipe.
    pub fn shared_memory(mut self, when: SharedMemory) -> Command {
        self.settings.shared_memory = when;
        self
    }

    /// Whether who waits for [shared memory](Command::shared_memory) looks for what it waits for during some 20 µs before
    /// it sleeps, letting others run meanwhile. Default: yes.
    ///
    /// It makes calls that follow each other faster. It takes processor time, so it is left off by itself where calls are
    /// far apart, and where another process wants the processor.
    pub fn polling(mut self, poll: bool) -> Command {
        self.settings.polling = poll;
        self
    }

    /// Ends the plugin if it gives no sign of life: for one that hangs as a whole, or was stopped by a signal. Default: no.
    ///
    /// When nothing has come from it for `every`, it is asked for an answer, which its runtime gives, also while all
    /// handlers are busy. After `misses` unanswered in a row, which is `every * (misses + 1)` after its last sign, or up
    /// to `every` later, it is killed, its calls fail, and [`Exit::cause`] is
    /// [`Unresponsive`](crate::ExitCause::Unresponsive). Intervals in which this host itself was late do not count: it was
    /// stopped or suspended, or found no processor. `every` is at least 10 ms, `misses` at least 1.
    ///
    /// A handler that hangs alone is not found by this: use a [time-out](Command::timeout). A plugin whose
    /// language's library knows no pings has no heartbeat, nor has one inside this process.
    pub fn heartbeat(mut self, every: Duration, misses: u32) -> Command {
        self.settings.heartbeat = Some((every, misses));
        self
    }

    /// Starts the plugin again if it ends and this host has not asked for it. Default: [`Restart::never`]. For a plugin
    /// inside this process it has no effect.
    ///
    /// [`Peer`](crate::Peer) and proxies stay valid: they call the current process. It is started with the same
    /// configuration, the same services of the host and the same limits, and must offer the same services. What
    /// [`Peer::name`](crate::Peer::name), [`version`](crate::Peer::version) and
    /// [`attributes`](crate::Peer::attributes) say is of the first process. Whatever the plugin held in memory is lost:
    /// [`on_exit`](Command::on_exit) tells when.
    ///
    /// Calls that are made while it is down wait for the next process, as long as [`Restart::queue_for`] and their own
    /// deadline allow. A call that failed with its process is made again if its handler has not been started
    /// ([`Delivery::NotSent`](crate::Delivery::NotSent)). If it may have been, a unary call is made again only if its method has an
    /// `idempotency_level` in the `.proto`, and only once, since it may be what the plugin died of. Streams stay with the
    /// process with which they began.
    pub fn restart(mut self, restart: Restart) -> Command {
        self.settings.restart = restart;
        self
    }

    /// Has `callback` called with how the plugin's process has ended, once for each process that was loaded, also if this
    /// host has ended it. [`Exit::cause`] says why it ended.
    ///
    /// By then all that it had sent was delivered, and all its calls have failed. It may be called a little after
    /// [`Peer::stop`](crate::Peer::stop) has returned, and not at all if this program ends first. A load that fails has no such call: its
    /// error says everything. The callback runs on a thread of its own, so it may block, panic and load plugins; only the
    /// next call of the same callback waits for it. It replaces an earlier one. For a plugin inside this process it is never called.
    ///
    /// ```no_run
    /// # fn main() -> plug::Result<()> {
    /// let plugin = plug::Command::new("path/to/kv-plugin")
    ///     .on_exit(|exit| {
    ///         if !exit.is_graceful() {
    ///             eprintln!("kv-plugin ({}) {exit}: {:?}", exit.pid(), exit.cause());
    ///         }
    ///     })
    ///     .load()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_exit(mut self, callback: impl FnMut(&Exit) + Send + 'static) -> Command {
        self.settings.on_exit = Some(Arc::new(ExitNotice::new(callback)));
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
    pub(super) fn program(mut self, change: impl FnOnce(&mut Program)) -> Command {
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
