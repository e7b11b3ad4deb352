//! The measure of all: a program that reads from a pipe and writes to another, with nothing but the bytes.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::os::fd::AsFd;
use std::process::{ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::child::{self, Kept};
use super::{Candidate, Session};
use crate::cores::{self, Pinned};
use crate::timing::{Items, check, one_by_one};
use crate::usage::Processes;
use crate::work::{Job, Kind, Work, item, label};

pub const NAME: &str = "pipe";

pub struct Pipe {
    /// The two sides are pinned to two cores.
    pub two_cores: bool,
}

impl Candidate for Pipe {
    fn name(&self) -> &'static str {
        if self.two_cores { "pipe-2core" } else { NAME }
    }

    fn lacks(&self, work: Work) -> Option<String> {
        if !self.two_cores {
            return None;
        }
        match work.kind() {
            Kind::Start | Kind::Memory => Some("the same as pipe".to_owned()),
            _ => cores::lack_of_two(),
        }
    }

    fn child(&self) -> Option<&'static str> {
        Some(NAME)
    }

    fn start(&self, work: Work) -> Result<Box<dyn Session>> {
        let mut command = child::command(NAME)?;
        match work.kind() {
            Kind::Stream => command.arg("items"),
            _ => command.args(["echo", &work.size().to_string()]),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let cores = cores::allowed()?;
        let mut child = if self.two_cores {
            let _pinned = Pinned::to(cores[1])?; // the child inherits it
            command.spawn()?
        } else {
            command.spawn()?
        };
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the child has no pipes");
        };
        let core = self.two_cores.then_some(cores[0]);
        let reply = vec![0; work.size()];
        Ok(Box::new(Connected { child: Kept(child), core, input, output, reply }))
    }
}

struct Connected {
    child: Kept,
    core: Option<usize>,
    input: ChildStdin,
    output: ChildStdout,
    reply: Vec<u8>,
}

impl Session for Connected {
    fn processes(&self) -> Processes {
        Processes { host: None, child: Some(self.child.0.id()) }
    }

    fn run(&mut self, job: &Job) -> Result<Vec<f64>> {
        let _pinned = self.core.map(Pinned::to).transpose()?;
        if job.kind == Kind::Stream {
            return self.items(job);
        }
        // However many callers there are to be: what one reaches is the measure.
        one_by_one(job, || {
            self.input.write_all(&job.payload)?;
            self.output.read_exact(&mut self.reply)?;
            check(&self.reply, &job.payload)
        })
    }
}

impl Connected {
    /// Buffered on both sides, as anybody would.
    fn items(&mut self, job: &Job) -> Result<Vec<f64>> {
        let mut wanted = [0; 8];
        wanted[..4].copy_from_slice(&u32::try_from(job.calls)?.to_le_bytes());
        wanted[4..].copy_from_slice(&u32::try_from(job.payload.len())?.to_le_bytes());
        self.input.write_all(&wanted)?;
        let mut items = Items::new(job);
        let mut output = BufReader::new(&mut self.output);
        while items.missing() > 0 {
            output.read_exact(&mut self.reply)?;
            items.item(&self.reply)?;
        }
        ensure!(output.buffer().is_empty(), "a stream goes on after its end");
        items.end()
    }
}

pub fn serve(arguments: &[String]) -> Result<()> {
    // The descriptors themselves: the standard library's handles buffer.
    let (mut input, mut output) = (reopen(&std::io::stdin())?, reopen(&std::io::stdout())?);
    match arguments {
        [what, size] if what == "echo" => {
            let mut message = vec![0; size.parse()?];
            while input.read_exact(&mut message).is_ok() {
                output.write_all(&message)?;
            }
        }
        [what] if what == "items" => {
            let mut wanted = [0; 8];
            while input.read_exact(&mut wanted).is_ok() {
                let number = |bytes: &[u8]| {
                    bytes
                        .try_into()
                        .map(u32::from_le_bytes)
                        .context("four bytes")
                        .map(|n| n as usize)
                };
                let (items, size) = (number(&wanted[..4])?, number(&wanted[4..])?);
                let mut buffered = BufWriter::new(&mut output);
                let mut message = item(0, size);
                for number in 0..items {
                    label(&mut message, number);
                    buffered.write_all(&message)?;
                }
                buffered.flush()?;
            }
        }
        other => bail!("a raw pipe cannot {other:?}"),
    }
    Ok(())
}

fn reopen(fd: &impl AsFd) -> Result<File> {
    Ok(fd.as_fd().try_clone_to_owned()?.into())
}
