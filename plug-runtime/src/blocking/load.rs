//! How a host starts a plugin and hears its hello.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::dispatch::service_infos;
use super::line::Line;
use super::link::Link;
use super::logs;
use super::remote::{Remote, exit_error};
use super::sharing::{WORTH_IT, Wish};
use super::supervisor::{Abort, Supervisor};
use super::watcher::{self, Inside};
use crate::error::{Code, Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::log::{self, Lines, Source};
use crate::peer::Peer;
use crate::process::{Command, Fill, InProcess, Program, Settings, SharedMemory, Tail, Target};
use crate::protocol::{Config, Connection, Hello, Side};
use crate::sys::memory;
use crate::sys::pipe::{self, Wait};

/// Starts the plugin of a command.
pub(crate) fn load(command: Command) -> Result<Peer> {
    let settings = command.settings;
    match command.target {
        Target::Program(program) => {
            let name: Arc<str> = program.name().into();
            load_program(program, settings, &name).map_err(|error| error.with_plugin(&name))
        }
        Target::InProcess(plugin) => {
            let name: Arc<str> = plugin.name.as_str().into();
            load_inside(plugin, settings, &name).map_err(|error| error.with_plugin(&name))
        }
    }
}

fn load_program(program: Program, settings: Settings, name: &Arc<str>) -> Result<Peer> {
    let launched = Launched::start(&program, &settings, name, None)?;
    let Launched { link, remote, name, hello, .. } = &launched;
    let (timeout, stop_grace) = (settings.timeout, settings.stop_grace);
    let of_peer = |line| Peer::of_plugin(line, name.clone(), hello.clone(), timeout, stop_grace);
    if !settings.restart.is_on() {
        let peer = of_peer(Line::Fixed { link: link.clone(), remote: Some(remote.clone()) });
        launched.wait_until_ready()?;
        remote.set_loaded(&settings, None);
        return Ok(peer);
    }
    let supervisor = Supervisor::new(program, settings, &launched);
    let peer = of_peer(Line::Supervised(supervisor.clone()));
    launched.wait_until_ready()?;
    supervisor.adopt(remote, 1);
    Ok(peer)
}

/// A program that was started and has said hello.
pub(super) struct Launched {
    pub(super) link: Arc<Link>,
    pub(super) remote: Arc<Remote>,
    pub(super) name: Arc<str>,
    pub(super) hello: Hello,
    tail: Arc<Tail>,
    ready_by: Option<Instant>,
}

impl Launched {
    /// Starts a program and hears its hello. `name` is for a plugin that does not say its own. `abort` breaks it off.
    pub(super) fn start(
        program: &Program,
        settings: &Settings,
        name: &Arc<str>,
        abort: Option<&Abort>,
    ) -> Result<Launched> {
        let greet_by = Instant::now().checked_add(settings.start_timeout);
        logs::follow_level();
        let level = log::wanted_level();
        let shares = settings.shared_memory != SharedMemory::Never;
        let shares = if shares { memory::FEATURES } else { &[] };
        let mut own = hello(settings)?.with_features(&[log::FEATURES, shares].concat());
        own.level = level;
        let core = Connection::new(Side::Host, own, greet_by);
        let started = program.spawn()?;
        pipe::set_nonblocking(&started.stderr).map_err(no_room)?;
        let link = Link::new(core, started.stdout, started.stdin, true).map_err(no_room)?;
        let source = Source::new(name);
        let lines = settings.trace_stderr.then(|| Lines::new(source.clone()));
        let _ = link.log.set(source);
        link.lock().log_level = Some(level);
        link.limit_decoding(settings.decode_limit());
        link.offer(settings.offers.clone());
        let tail = Arc::new(Tail::new(lines));
        let printed = settings.sinks.follow(&tail)?;

        let stderr_ended = Cell::new(false);
        let beside = || {
            // A stderr that has ended is ready for ever.
            let stderr = (!stderr_ended.get()).then(|| Wait::readable(&started.stderr));
            let stderr = stderr.into_iter().chain(abort.map(Abort::wait));
            stderr.chain(started.child.exit_fd().map(Wait::readable)).collect()
        };
        let greeted = link.greet(beside, || {
            if let Some(abort) = abort {
                abort.look()?;
            }
            if tail.fill(&started.stderr) == Fill::Ended {
                stderr_ended.set(true);
            }
            match started.child.try_end() {
                None => Ok(()),
                Some(status) => {
                    tail.fill(&started.stderr);
                    let exit = Exit::by_itself(started.child.pid(), status);
                    let when = match program.limits_memory() {
                        false => " before its hello: is it a plugin?",
                        true => " before its hello: is it a plugin, and does Command::max_memory let it start?",
                    };
                    Err(exit_error(&exit, "", when, &tail))
                }
            }
        });
        if let Err(error) = greeted {
            // What it printed often says more than what is wrong with its hello.
            let pid = started.child.pid();
            let by_itself = started.child.ends_within(END_AFTER_FAILURE);
            let status = if by_itself { started.child.try_end() } else { None };
            drop(started.child);
            tail.fill(&started.stderr);
            let error = match (status, error.exit()) {
                (Some(status), None) => error.with_exit(Exit::by_itself(pid, status)),
                _ => error,
            };
            return Err(error.with_stderr(tail.text()));
        }

        let hello = hello_of(&link);
        let replies = if settings.shared_memory == SharedMemory::AtOnce { 0 } else { WORTH_IT };
        let wish = Wish { pid: started.child.pid(), replies, may_poll: settings.polling };
        link.lock().wish_for_memory(wish);
        let name = if hello.name.is_empty() { name.clone() } else { hello.name.as_str().into() };
        let remote =
            Remote::watch(link.clone(), name.clone(), started.child, started.stderr, tail.clone())?;
        printed.leave();
        // What was wanted may have changed before the watcher knew of this plugin.
        link.send_level(log::wanted_level());
        Ok(Launched { link, remote, name, hello, tail, ready_by: greet_by })
    }

    /// Waits until it can be called. If it does not come to that, it has ended when this returns. The link must know its
    /// peer by now: the start of a plugin may call its host.
    pub(super) fn wait_until_ready(&self) -> Result<()> {
        let Launched { link, remote, tail, .. } = self;
        if let Err(error) = link.wait_for_ready(self.ready_by) {
            remote.begin_to_end(END_AFTER_FAILURE);
            let exit = remote.wait();
            let error = match error.kind() {
                ErrorKind::Exited => exit_error(&exit, "", " while it started", tail),
                _ if error.exit().is_none() && !exit.by_host() => error.with_exit(exit),
                _ => error,
            };
            return Err(error.with_stderr(tail.text()));
        }
        Ok(())
    }
}

fn load_inside(plugin: InProcess, settings: Settings, name: &Arc<str>) -> Result<Peer> {
    let (plugin_input, host_output) = pipe::pair().map_err(no_room)?;
    let (host_input, plugin_output) = pipe::pair().map_err(no_room)?;
    let greet_by = Instant::now().checked_add(settings.start_timeout);
    // Without log records, which are in this process already, and without memory to share, as all of it is.
    let core = Connection::new(Side::Host, hello(&settings)?.with_features(&[]), greet_by);
    let link = Link::new(core, host_input, host_output, false).map_err(no_room)?;
    link.limit_decoding(settings.decode_limit());
    link.offer(settings.offers.clone());
    (plugin.start)(plugin_input, plugin_output)?;
    link.greet(Vec::new, || Ok(()))?;
    let hello = hello_of(&link);
    let name = if hello.name.is_empty() { name.clone() } else { hello.name.as_str().into() };
    let key = watcher::register(|_| Arc::new(Inside(Arc::downgrade(&link))))?;
    link.watch(key);
    let peer = Peer::of_plugin(
        Line::Fixed { link: link.clone(), remote: None },
        name,
        hello,
        settings.timeout,
        settings.stop_grace,
    );
    link.wait_for_ready(greet_by)?;
    Ok(peer)
}

fn hello(settings: &Settings) -> Result<Hello> {
    let mut own = Hello::new(own_name(), String::new());
    let offered = || settings.offers.iter().flat_map(|offers| &offers.services);
    own.services = service_infos(offered());
    for (place, service) in offered().enumerate() {
        if offered().take(place).any(|before| before.name == service.name) {
            let message = format!("the service {} is offered to it twice", service.name);
            return Err(Error::new(Code::InvalidArgument, message));
        }
    }
    if let Some(config) = &settings.config {
        if config.len() > MAX_CONFIG {
            let len = config.len();
            let message = format!("its configuration has {len} bytes, of at most {MAX_CONFIG}");
            return Err(Error::of_kind(ErrorKind::TooLarge, message));
        }
        own.config = Some(Config { type_name: String::new(), value: config.clone().into() });
    }
    own.max_message = settings.max_message as u64;
    own.max_calls = settings.max_calls;
    Ok(own)
}

fn hello_of(link: &Link) -> Hello {
    link.lock().core.peer().cloned().unwrap_or_default()
}

/// The name of this program.
pub(super) fn own_name() -> String {
    static NAME: OnceLock<String> = OnceLock::new();
    let find = || {
        let path = std::env::current_exe().ok();
        let name = path.as_deref().and_then(std::path::Path::file_name);
        let name = name.map(OsStr::to_string_lossy).unwrap_or_default();
        // What Linux says of a program that has been replaced since its start, or runs from a verified copy.
        let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
        name.strip_prefix("memfd:").unwrap_or(name).to_owned()
    };
    NAME.get_or_init(find).clone()
}

/// The error of a load for which the system lacks something.
pub(super) fn no_room(error: io::Error) -> Error {
    let hint = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => ": too many files are open; each plugin takes five",
        _ => "",
    };
    let message = format!("the system has no room for one more plugin{hint}");
    Error::of_kind(ErrorKind::Spawn, message).with_source(error)
}

/// The longest configuration of a plugin, in bytes: it is in the hello, which is one frame.
const MAX_CONFIG: usize = 512 << 10;

/// How long a plugin that has failed to say hello is waited for, so that the error can say how it ended.
const END_AFTER_FAILURE: Duration = Duration::from_millis(50);
