//! This project.

use std::time::Duration;

use crate::services::echo::{Echo, EchoProxy, EchoService, Payload};
use crate::services::plain::{Plain, PlainProxy, PlainService};
use anyhow::Result;
use plug::bytes::Bytes;
use plug::{Command, Plugin, Proxy as _, SharedMemory, Stream};

use super::{Candidate, Session};
use crate::cores::{self, Pinned};
use crate::program;
use crate::timing::{Items, by_threads, check, one_by_one};
use crate::usage::Processes;
use crate::work::{Job, Kind, Work, item};

pub const NAME: &str = "plug";

/// Above 64 MiB, which is the default: the message around the payload has some bytes, too.
const MAX_MESSAGE: usize = 80 << 20;

/// How plug is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Over pipes, with payloads that are `Bytes`.
    Pipes,
    /// With payloads that are `Vec<u8>`.
    Vec,
    /// Each call has a deadline, which is far away.
    Deadline,
    /// In shared memory, where who waits looks for a while before it sleeps.
    SharedMemory,
    /// The same with the two sides pinned to two cores.
    TwoCores,
    /// In shared memory, where who waits sleeps at once.
    Sleeping,
    /// Inside this process, as in tests.
    InProcess,
}

pub const FLAVOURS: [Flavour; 7] = [
    Flavour::Pipes,
    Flavour::Vec,
    Flavour::Deadline,
    Flavour::SharedMemory,
    Flavour::TwoCores,
    Flavour::Sleeping,
    Flavour::InProcess,
];

impl Candidate for Flavour {
    fn name(&self) -> &'static str {
        match self {
            Flavour::Pipes => NAME,
            Flavour::Vec => "plug-vec",
            Flavour::Deadline => "plug-deadline",
            Flavour::SharedMemory => "plug-shm",
            Flavour::TwoCores => "plug-shm-2core",
            Flavour::Sleeping => "plug-shm-sleep",
            Flavour::InProcess => "plug-inproc",
        }
    }

    fn lacks(&self, work: Work) -> Option<String> {
        match (self, work.kind()) {
            (Flavour::InProcess, Kind::Start | Kind::Memory) => Some("it has no child".to_owned()),
            (Flavour::TwoCores, Kind::Echo) => cores::lack_of_two(),
            (Flavour::TwoCores, _) => Some("it is for one caller".to_owned()),
            (Flavour::Vec, Kind::Echo | Kind::Callers(_)) => None,
            (Flavour::Vec | Flavour::Deadline | Flavour::Sleeping, Kind::Start | Kind::Memory)
            | (Flavour::Vec, Kind::Stream) => Some("the same as plug".to_owned()),
            _ => None,
        }
    }

    fn child(&self) -> Option<&'static str> {
        Some(NAME)
    }

    fn start(&self, _: Work) -> Result<Box<dyn Session>> {
        let (mut host_core, mut child_core) = (None, None);
        if let (Flavour::TwoCores, [first, second, ..]) = (self, &cores::allowed()?[..]) {
            host_core = Some(*first);
            child_core = Some(Pinned::to(*second)?); // the child inherits it
        }
        let command = match self {
            Flavour::InProcess => Command::in_process(EchoPlugin),
            Flavour::SharedMemory | Flavour::TwoCores => {
                in_child_of_ours()?.shared_memory(SharedMemory::AtOnce)
            }
            Flavour::Sleeping => {
                in_child_of_ours()?.shared_memory(SharedMemory::AtOnce).polling(false)
            }
            _ => in_child_of_ours()?.shared_memory(SharedMemory::Never),
        };
        let echo: EchoProxy = command.max_message(MAX_MESSAGE).load()?.proxy()?;
        drop(child_core);
        let plain = echo.peer().proxy()?;
        let echo = if *self == Flavour::Deadline {
            echo.with_timeout(Duration::from_secs(600)) // never passes
        } else {
            echo
        };
        Ok(Box::new(Loaded { echo, plain, vec: *self == Flavour::Vec, core: host_core }))
    }
}

fn in_child_of_ours() -> Result<Command> {
    Ok(Command::new(program::of_child(NAME)?))
}

/// The plugin in a child, for more than a measurement of times.
pub fn load() -> Result<EchoProxy> {
    Ok(in_child_of_ours()?.shared_memory(SharedMemory::Never).load()?.proxy()?)
}

struct Loaded {
    echo: EchoProxy,
    plain: PlainProxy,
    vec: bool,
    core: Option<usize>,
}

impl Session for Loaded {
    fn processes(&self) -> Processes {
        Processes { host: None, child: self.echo.peer().pid() }
    }

    fn run(&mut self, job: &Job) -> Result<Vec<f64>> {
        let _pinned = self.core.map(Pinned::to).transpose()?;
        let shared = Bytes::from(job.payload.clone());
        let echo = || {
            if self.vec {
                check(&self.plain.echo(job.payload.as_slice())?, &job.payload)
            } else {
                check(&self.echo.echo(shared.clone())?, &job.payload)
            }
        };
        match job.kind {
            Kind::Callers(callers) => by_threads(job, callers, echo),
            Kind::Stream => {
                let (wanted, size) = (job.calls.try_into()?, job.payload.len().try_into()?);
                let mut items = Items::new(job);
                for payload in self.echo.items(wanted, size)? {
                    items.item(&payload?.data)?;
                }
                items.end()
            }
            _ => one_by_one(job, echo),
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // A mere drop would not wait for the end.
        if let Err(error) = self.echo.peer().stop(Duration::from_secs(10)) {
            eprintln!("a plugin has not ended well: {error}");
        }
    }
}

struct EchoPlugin;

impl Echo for EchoPlugin {
    fn echo(&self, data: Bytes) -> plug::Result<Bytes> {
        Ok(data)
    }

    fn items(&self, items: u32, size: u32) -> plug::Result<Stream<Payload>> {
        let make = move |number| Payload { data: item(number, size as usize).into() };
        Ok(Stream::new((0..items as usize).map(make)))
    }
}

impl Plain for EchoPlugin {
    fn echo(&self, data: Vec<u8>) -> plug::Result<Vec<u8>> {
        Ok(data)
    }
}

impl Plugin for EchoPlugin {
    type Services = (EchoService, PlainService);
}

/// What the child does. Its name is how callgrind finds it.
#[inline(never)]
pub fn in_child() -> Result<()> {
    Ok(plug::run(EchoPlugin)?)
}
