//! What the peers on tokio have in common: a child that listens on a Unix socket, and one runtime for all clients.
//!
//! Both sides run on a current-thread runtime. With several threads all of them are slower, with one caller and with 32.

use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, LocalSet};

use super::child::{self, Kept};
use crate::timing::shares;
use crate::usage::Processes;

/// What a child says when it listens.
const LISTENING: &str = "listening";

/// The largest message, above 64 MiB as the default of none of them is.
pub const MAX_MESSAGE: usize = 80 << 20;

thread_local! {
    static CLIENTS: (Runtime, LocalSet) = (runtime(), LocalSet::new());
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

/// Runs a client's future on the runtime of all clients.
pub fn block_on<F: Future>(future: F) -> F::Output {
    CLIENTS.with(|(runtime, _)| runtime.block_on(future))
}

/// As [`block_on`], where tasks may be local.
pub fn block_on_local<F: Future>(future: F) -> F::Output {
    CLIENTS.with(|(runtime, local)| local.block_on(runtime, future))
}

/// A child that listens.
pub struct Listening {
    child: Kept,
    directory: TempDir,
}

impl Listening {
    pub fn start(name: &str) -> Result<Listening> {
        let directory = tempfile::tempdir()?;
        let mut command = child::command(name)?;
        command.arg(socket(&directory)).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("the child has no stdout")?;
        let child = Kept(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim_end() == LISTENING, "the child does not listen, but says {line:?}");
        Ok(Listening { child, directory })
    }

    pub fn path(&self) -> PathBuf {
        socket(&self.directory)
    }

    pub fn processes(&self) -> Processes {
        Processes { host: None, child: Some(self.child.0.id()) }
    }
}

fn socket(directory: &TempDir) -> PathBuf {
    directory.path().join("socket")
}

/// The child: runs a server on the socket that the arguments name.
pub fn serve<F>(arguments: &[String], server: impl FnOnce(PathBuf) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let path = arguments.first().context("a server needs a path")?;
    LocalSet::new().block_on(&runtime(), server(Path::new(path).to_owned()))
}

/// What a server says when it can be connected to.
pub fn listening() {
    println!("{LISTENING}");
}

/// The shares of calls that many tasks make, from when they all began.
pub async fn shares_of(
    begin: Instant,
    tasks: Vec<JoinHandle<Result<Vec<Instant>>>>,
) -> Result<Vec<f64>> {
    let mut ends = Vec::new();
    for task in tasks {
        ends.extend(task.await??);
    }
    Ok(shares(begin, ends))
}
