//! How a plugin serves: as a process, or inside the process of its host.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::describe;
use super::dispatch::service_infos;
use super::link::Link;
use super::load::{no_room, own_name};
use super::watcher::{self, Care, Inside, Key, Report, Source};
use crate::budget;
use crate::description;
use crate::error::{Code, Error, ErrorKind, Result};
use crate::log;
use crate::offer::Offers;
use crate::panics;
use crate::peer::Peer;
use crate::plugin::Plugin;
use crate::process::{self, Claimed, Command, InProcess};
use crate::protocol::{Connection, Hello, Pair, Side};
use crate::service::Services as _;
use crate::sys::memory;
use crate::sys::process::{self as os, ExitFd};
use crate::sys::thread;

/// Serves a plugin until its host ends the connection: the `main` of a plugin.
///
/// Call it first. It takes stdin and stdout for the protocol; from then on what the program and its children
/// print goes to stderr, which the host reads, and stdin is empty. Calls run on this thread and, where handlers
/// take long, on more.
///
/// Started by hand, it prints what the program is and exits with code 64. With `--plug-describe` as its first
/// argument, it describes the plugin on stdout, and exits with code 0: see
/// [`Command::describe`](crate::Command::describe).
///
/// When the host is done, this returns, and the program may clean up: it has what is left of the grace that the host
/// gives, see [`Command::stop_grace`](crate::Command::stop_grace). When the host is gone, handlers that do not return
/// are given two seconds, and what the plugin has started, in its process group, gets SIGTERM before this returns.
///
/// # Errors
///
/// If the handshake fails, [`Plugin::start`] does, or the host breaks the protocol. Return it from `main`: the host
/// finds the text among the plugin's last output.
pub fn run(plugin: impl Plugin) -> Result<()> {
    run_with(|_| Ok(plugin))
}

/// Like [`run`], for a plugin that is made from what its host says about itself.
///
/// # Errors
///
/// Like [`run`]; an error of `make` fails the load, and the host gets its text.
pub fn run_with<P: Plugin>(make: impl FnOnce(&Peer) -> Result<P>) -> Result<()> {
    if describe::is_asked() {
        if let Err(error) = describe::print::<P>() {
            eprintln!("cannot describe this plugin: {error}");
            std::process::exit(1);
        }
        std::process::exit(0);
    }
    static CALLED: AtomicBool = AtomicBool::new(false);
    if CALLED.swap(true, Ordering::Relaxed) {
        let why = "plug::run was called before: a process is a plugin once";
        return Err(Error::new(Code::FailedPrecondition, why));
    }
    if !hosted() {
        eprintln!("{}", explanation::<P>());
        std::process::exit(USAGE);
    }
    let Claimed { input, output } = process::claim()?;
    let greet_by = Instant::now() + HOST_GREETS_WITHIN;
    let features = [log::FEATURES, memory::FEATURES].concat();
    let link = Link::new(connection::<P>(Some(greet_by), &features), input, output, false)?;
    let served = serve(&link, HostWatch::register, make);
    if !link.lock().core.is_leaving() {
        // The host is gone, which would have ended what this process has started.
        os::end_others_of_group();
    }
    served
}

/// Whether a host has started this process, or somebody to have it describe itself as a plugin, so that a program can be
/// both a plugin and an ordinary command.
///
/// ```no_run
/// # fn main() -> plug::Result<()> {
/// # struct Store;
/// # impl plug::Plugin for Store { type Services = (); }
/// if plug::hosted() {
///     return plug::run(Store);
/// }
/// println!("an ordinary command");
/// # Ok(())
/// # }
/// ```
pub fn hosted() -> bool {
    process::is_hosted() || describe::is_asked()
}

/// Loads a plugin inside this process: the same frames through the same driver, but no child. Meant for tests.
///
/// The plugin runs on threads of its own, and ends when the last clone of the peer, and of the proxies made from
/// it, is dropped. What only a process has (arguments, environment, stderr, an exit) it does not have.
///
/// # Errors
///
/// If [`Plugin::start`] fails, or the process is out of threads or file descriptors.
pub fn in_process<P: Plugin>(plugin: P) -> Result<Peer> {
    Command::in_process(plugin).load()
}

/// What [`Command::in_process`] needs.
pub(crate) fn command_for<P: Plugin>(plugin: P) -> Command {
    let start = move |input: OwnedFd, output: OwnedFd| {
        let link = Link::new(connection::<P>(None, &[]), input, output, false).map_err(no_room)?;
        let key = watcher::register(|_| Arc::new(Inside(Arc::downgrade(&link))))?;
        let serve = move || {
            // The host gets the error of a plugin that does not start, and knows when it stops.
            let _ = serve(&link, |_| Ok(key), |_| Ok(plugin));
            if link.key.get().is_none() {
                // It has not come to that, and so the link does not see to it.
                watcher::forget(key);
            }
        };
        thread::spawn("plug-in-process", serve).map_err(|error| {
            watcher::forget(key);
            no_room(error)
        })?;
        Ok(())
    };
    let (name, describe) = (plugin_name::<P>(), describe::describe_inside::<P>);
    Command::for_in_process(InProcess { name, start: Box::new(start), describe })
}

fn serve<P: Plugin>(
    link: &Arc<Link>,
    register: impl FnOnce(&Arc<Link>) -> Result<Key>,
    make: impl FnOnce(&Peer) -> Result<P>,
) -> Result<()> {
    link.greet(Vec::new, || Ok(())).inspect_err(|_| link.flush_to_the_end())?;
    let hello = link.lock().core.peer().cloned().unwrap_or_default();
    link.limit_decoding(budget::default_limit(usize::try_from(hello.max_message).unwrap_or(0)));
    let host = Peer::of_host(link.clone(), hello);
    // A host that waits for ready can be called while this plugin starts.
    let starts_openly = link.lock().core.features().ready;
    if starts_openly {
        link.lock().core.accept();
        link.flush_to_the_end();
    }
    // Not before: the watcher would take the hello, and nobody would learn that it is there. Nor before the answer to it,
    // which the host is busy with meanwhile. But code of users must not run unwatched: not even as the plugin starts.
    link.watch(register(link)?);
    link.send_records();
    let started = panics::catch("the plugin, as it started,", || {
        let plugin = make(&host)?;
        plugin.start(&host)?;
        Ok(plugin)
    });
    let plugin = match started.and_then(|started| started) {
        Ok(plugin) => Arc::new(plugin),
        Err(error) => {
            link.lock().core.refuse(&error);
            link.flush_to_the_end();
            return Err(error);
        }
    };
    let built_in = description::offer(&P::Services::offer());
    link.offer(vec![Offers::of_kept::<P::Services, P>(Arc::downgrade(&plugin)), built_in]);
    let mut state = link.lock();
    if starts_openly {
        state.core.ready();
    } else {
        state.core.accept();
    }
    drop(state);
    link.serve();
    plugin.stop();
    // The other side sees the end now, also where the plugin keeps a proxy of it, and with that this connection.
    link.unwatch();
    match link.failure() {
        Some(error) if error.kind() == ErrorKind::Protocol && !link.input_has_ended() => Err(error),
        _ => Ok(()),
    }
}

fn connection<P: Plugin>(greet_by: Option<Instant>, features: &[&str]) -> Connection {
    Connection::new(Side::Plugin, hello::<P>().with_features(features), greet_by)
}

/// What a plugin says about itself.
pub(super) fn hello<P: Plugin>() -> Hello {
    let mut own = Hello::new(plugin_name::<P>(), P::VERSION.to_owned());
    let services = P::Services::offer();
    let built_in = description::offer(&services);
    own.services = service_infos(services.iter().chain(&built_in.services));
    own.attributes = P::ATTRIBUTES
        .iter()
        .map(|&(key, value)| Pair { key: key.to_owned(), value: value.into() })
        .collect();
    own.max_calls = P::MAX_CALLS;
    own
}

fn plugin_name<P: Plugin>() -> String {
    if P::NAME.is_empty() { name_at_start().unwrap_or_else(own_name) } else { P::NAME.to_owned() }
}

/// The name by which this program was started. A plugin says hello sooner with it than after a look into `/proc`, which
/// takes 1 % of a start.
fn name_at_start() -> Option<String> {
    let program = std::env::args_os().next()?;
    let name = program.as_bytes().rsplit(|&byte| byte == b'/').next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// What a plugin prints that somebody has started by hand.
fn explanation<P: Plugin>() -> String {
    let name = plugin_name::<P>();
    let services: Vec<_> = P::Services::offer().iter().map(|offer| offer.name).collect();
    let offers = if services.is_empty() {
        "It offers no services".to_owned()
    } else {
        format!("It offers {}", services.join(", "))
    };
    let path = std::env::current_exe().map_or(name.clone(), |path| path.display().to_string());
    format!(
        "{name} is a plugin: a program that another one, its host, starts and talks to over stdin and stdout. {offers}. \
         A host written in Rust loads it with plug::Command::new({path:?}).load()."
    )
}

/// The watcher's view of the host that has started this process.
struct HostWatch {
    link: Weak<Link>,
    /// The process of the host, if that is the parent: its end may not end the pipe, if a fork of it holds that.
    host: Option<u32>,
    exit: OnceLock<ExitFd>,
    /// When this process ends by force, because its host is gone and its handlers do not return.
    end_at: Mutex<Option<Instant>>,
}

impl HostWatch {
    /// Has the watcher look after the host. The key is the one for the connection.
    fn register(link: &Arc<Link>) -> Result<Key> {
        // In another pid namespace, or behind a wrapper, the parent is not the host.
        let host = process::host_pid().filter(|&host| os::parent() == Some(host));
        let (link, exit) = (Arc::downgrade(link), OnceLock::new());
        let watch = HostWatch { link, host, exit, end_at: Mutex::new(None) };
        watcher::register_soon(Arc::new(watch))
    }

    /// Ends this process after `grace` and what is allowed beyond that, if it has not ended before.
    fn end_after(&self, grace: Duration) {
        let at = Instant::now().checked_add(grace + OUTLIVES_HOST_BY);
        let mut end_at = self.end_at.lock().unwrap_or_else(PoisonError::into_inner);
        *end_at = [*end_at, at].into_iter().flatten().min();
    }
}

impl Care for HostWatch {
    fn link(&self) -> Option<Arc<Link>> {
        self.link.upgrade()
    }

    fn arm(&self, key: Key) {
        let Some(host) = self.host else { return };
        if let Some(exit) = ExitFd::open(host) {
            // Where it cannot be waited for, the end of the pipe has to do.
            let _ = watcher::arm(key, Source::Exit, self.exit.get_or_init(|| exit));
        }
        // It may have ended before, and its number may be that of another process by now.
        if os::parent() != Some(host) {
            self.handle_exit();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        *self.end_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle_exit(&self) {
        if let Some(link) = self.link() {
            link.end(&Error::of_kind(ErrorKind::Shutdown, "the host has ended"));
        }
        self.end_after(Duration::ZERO);
    }

    fn handle_report(&self, report: Report) {
        match report {
            Report::Unwound => {
                self.link().inspect(Link::take_over);
            }
            Report::Failed | Report::OutputEnded => self.end_after(Duration::ZERO),
            // The host ends what takes longer, but it may end itself first.
            Report::Goodbye(grace) => self.end_after(grace.unwrap_or_default()),
        }
    }

    fn handle_deadline(&self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            // Nobody is left who could be told, and running exit handlers beside handlers that run is how
            // processes hang.
            os::kill_self();
        }
    }
}

/// The exit code of a program that was used wrongly, after sysexits.h.
const USAGE: i32 = 64;

/// How long the host may take to say hello.
const HOST_GREETS_WITHIN: Duration = Duration::from_secs(30);

/// How long handlers may go on after the connection is over.
const OUTLIVES_HOST_BY: Duration = Duration::from_secs(2);
