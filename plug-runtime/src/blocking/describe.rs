//! Descriptions of plugins that are not loaded: a plugin prints its own, and a host has it do so.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;

use super::load::no_room;
use super::remote::exit_error;
use super::serve::hello;
use crate::description::{Description, EncodedDescription, NO_LIMIT, merged};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::{Exit, ExitStatus};
use crate::plugin::Plugin;
use crate::process::{Command, Fill, Program, Settings, Tail, Target};
use crate::service::Services as _;
use crate::sys::pipe::{self, Wait};

/// Has the plugin of a command describe itself.
pub(crate) fn describe(command: Command) -> Result<Description> {
    match command.target {
        Target::Program(program) => {
            let name: Arc<str> = program.name().into();
            let program = program.with_first_arg(DESCRIBE);
            describe_program(&program, &command.settings).map_err(|error| error.with_plugin(&name))
        }
        Target::InProcess(plugin) => (plugin.describe)(),
    }
}

/// Whether this process was started to describe itself.
pub(super) fn is_asked() -> bool {
    std::env::args_os().nth(1).is_some_and(|arg| arg == DESCRIBE)
}

/// Writes what the plugin is to stdout: encoded, or as text on a terminal.
pub(super) fn print<P: Plugin>() -> Result<()> {
    let encoded = encoded::<P>()?;
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        write!(stdout, "{}", Description::decode(encoded.into(), NO_LIMIT)?)?;
    } else {
        stdout.write_all(&encoded)?;
    }
    Ok(stdout.flush()?)
}

/// What a plugin inside this process is.
pub(super) fn describe_inside<P: Plugin>() -> Result<Description> {
    Description::decode(encoded::<P>()?.into(), NO_LIMIT)
}

fn encoded<P: Plugin>() -> Result<Vec<u8>> {
    let services = P::Services::offer();
    let sets: Vec<_> = services.iter().map(|offered| offered.descriptors).collect();
    let descriptors = merged(&sets)?;
    let hello = hello::<P>().to_bytes().into();
    Ok(EncodedDescription { hello: Some(hello), descriptors }.encode_to_vec())
}

fn describe_program(program: &Program, settings: &Settings) -> Result<Description> {
    let until = Instant::now().checked_add(settings.start_timeout);
    // Killed and reaped with everything that it has started when this returns.
    let started = program.spawn()?;
    drop(started.stdin);
    pipe::set_nonblocking(&started.stdout).map_err(no_room)?;
    pipe::set_nonblocking(&started.stderr).map_err(no_room)?;
    let tail = Tail::default();
    let mut output = Vec::new();
    let (mut stdout_ended, mut stderr_ended) = (false, false);
    let status = loop {
        // Before the output is read: what it wrote before its end counts.
        let status = started.child.try_end();
        stdout_ended = stdout_ended || read_all(&started.stdout, &mut output)?;
        stderr_ended = stderr_ended || tail.fill(&started.stderr) == Fill::Ended;
        if let Some(status) = status {
            break status;
        }
        let now = Instant::now();
        if until.is_some_and(|until| until <= now) {
            let message = "it did not describe itself in time: is it a plugin, and does it call plug::run first? If it is slow to start, raise Command::start_timeout";
            return Err(Error::of_kind(ErrorKind::Handshake, message).with_stderr(tail.text()));
        }
        let stdout = (!stdout_ended).then(|| Wait::readable(&started.stdout));
        let stderr = (!stderr_ended).then(|| Wait::readable(&started.stderr));
        let exit = started.child.exit_fd().map(Wait::readable);
        let look_at = if exit.is_some() { until } else { now.checked_add(LOOK_EVERY) };
        let waits: Vec<_> = [stdout, stderr, exit].into_iter().flatten().collect();
        pipe::wait(&waits, look_at);
    };
    if status != ExitStatus::Code(0) {
        let exit = Exit::by_itself(started.child.pid(), status);
        return Err(exit_error(
            &exit,
            "",
            " when it was asked to describe itself: is it a plugin?",
            &tail,
        ));
    }
    Description::decode(output.into(), settings.decode_limit())
        .map_err(|error| error.with_stderr(tail.text()))
}

/// Reads what is there. Returns whether that was the end.
fn read_all(stdout: &OwnedFd, output: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 16 << 10];
    loop {
        match pipe::read(stdout, &mut buffer) {
            Ok(0) => return Ok(true),
            Ok(len) if output.len() + len > LONGEST => {
                let message =
                    format!("its description has more than {LONGEST} bytes: is it a plugin?");
                return Err(Error::of_kind(ErrorKind::Handshake, message));
            }
            Ok(len) => output.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                let message = "its description cannot be read";
                return Err(Error::of_kind(ErrorKind::Handshake, message).with_source(error));
            }
        }
    }
}

/// The argument that asks a plugin to describe itself.
const DESCRIBE: &str = "--plug-describe";

/// The longest description, in bytes.
const LONGEST: usize = 16 << 20;

/// How often to look after a process whose end the system does not announce.
const LOOK_EVERY: Duration = Duration::from_millis(5);
