//! The other ends: a plugin, and a program that sends raw bytes back.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use plug_bench::{Echo, EchoService};
use rustix::thread::CpuSet;

/// The argument with which this program is the raw pipe's other end.
pub const RAW_PIPE: &str = "--child-raw-pipe";
/// The argument with which this program is a plugin.
pub const PLUGIN: &str = "--child-plugin";

/// On which cores a process runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// Those that the parent has.
    Any,
    First,
    Second,
    All,
}

/// Pins this thread, and the processes that it starts.
pub fn pin(cores: Cores) -> Result<()> {
    let mut set = CpuSet::new();
    let all = std::thread::available_parallelism()?.get().max(2);
    match cores {
        Cores::Any => return Ok(()),
        Cores::First => set.set(0),
        Cores::Second => set.set(1),
        Cores::All => (0..all).for_each(|core| set.set(core)),
    }
    rustix::thread::sched_setaffinity(None, &set).context("cannot pin to a core")
}

struct EchoPlugin;

impl Echo for EchoPlugin {
    fn echo(&self, data: Vec<u8>) -> plug::Result<Vec<u8>> {
        Ok(data)
    }
}

impl plug::Plugin for EchoPlugin {
    type Services = EchoService;
}

pub fn serve_plugin() -> plug::Result<()> {
    plug::run(EchoPlugin)
}

/// Sends back messages of the length that the environment says, until the input ends.
pub fn serve_raw_pipe() -> Result<()> {
    let size = std::env::var("RAW_PIPE_SIZE")?.parse()?;
    if std::env::var_os("RAW_PIPE_SECOND_CORE").is_some() {
        pin(Cores::Second)?;
    }
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let (mut input, mut output) = (unbuffered_in(&mut input), unbuffered_out(&mut output));
    let mut message = vec![0; size];
    while input.read_exact(&mut message).is_ok() {
        output.write_all(&message)?;
    }
    Ok(())
}

/// The descriptors themselves: the standard library's handles buffer.
fn unbuffered_in(_: &mut std::io::StdinLock<'_>) -> std::fs::File {
    reopen(&std::io::stdin())
}

fn unbuffered_out(_: &mut std::io::StdoutLock<'_>) -> std::fs::File {
    reopen(&std::io::stdout())
}

fn reopen(fd: &impl std::os::fd::AsFd) -> std::fs::File {
    fd.as_fd().try_clone_to_owned().expect("a standard stream can be cloned").into()
}

/// A child that sends raw bytes back, and the buffer for them.
pub struct RawPipe {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    reply: Vec<u8>,
}

impl RawPipe {
    pub fn start(size: usize, cores: Cores) -> Result<RawPipe> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(RAW_PIPE)
            .env("RAW_PIPE_SIZE", size.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if cores == Cores::Second {
            command.env("RAW_PIPE_SECOND_CORE", "1");
        }
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the child has no pipes");
        };
        Ok(RawPipe { child, input: Some(input), output, reply: vec![0; size] })
    }

    pub fn echo(&mut self, message: &[u8]) -> Result<()> {
        let input = self.input.as_mut().context("the pipe is closed")?;
        input.write_all(message)?;
        self.output.read_exact(&mut self.reply)?;
        if self.reply != message {
            bail!("the reply differs from the request");
        }
        Ok(())
    }
}

impl Drop for RawPipe {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}
