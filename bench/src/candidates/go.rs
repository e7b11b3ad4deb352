//! Candidates in Go. Both of their sides are in Go: the host is a program that does what this one tells it, and measures.
//!
//! They are built when they are first asked for, with the system's `go`, into the folder of this program.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};

use super::child::Kept;
use super::{Candidate, Session};
use crate::program;
use crate::usage::Processes;
use crate::work::{Job, Kind, Work};

pub struct Go {
    name: &'static str,
    /// Builds it into a folder, and gives the path of the program.
    build: fn(&Path) -> Result<PathBuf>,
    built: OnceLock<Result<PathBuf, String>>,
}

impl Go {
    /// HashiCorp's go-plugin, over gRPC.
    pub fn plugin() -> Go {
        Go { name: "go-plugin", build: build_plugin, built: OnceLock::new() }
    }

    /// The original plug.
    pub fn plug() -> Go {
        Go { name: "go-plug", build: build_plug, built: OnceLock::new() }
    }

    fn program(&self) -> &Result<PathBuf, String> {
        let build = || {
            eprintln!("building {}", self.name);
            (self.build)(&folder()?)
        };
        self.built.get_or_init(|| build().map_err(|error| format!("{error:#}")))
    }
}

impl Candidate for Go {
    fn name(&self) -> &'static str {
        self.name
    }

    fn lacks(&self, work: Work) -> Option<String> {
        if let Err(error) = self.program() {
            return Some(error.clone());
        }
        let lacks = match (self.name, work) {
            ("go-plug", Work::Stream64 | Work::Stream64K) => "it has no streams",
            ("go-plug", Work::Echo1M | Work::Echo64M) => "it fails above what a pipe takes at once",
            _ => return None,
        };
        Some(lacks.to_owned())
    }

    fn child(&self) -> Option<&'static str> {
        None
    }

    fn start(&self, _: Work) -> Result<Box<dyn Session>> {
        let program = self.program().as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
        let mut host =
            Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (host.stdin.take(), host.stdout.take()) else {
            bail!("the host has no pipes");
        };
        let mut connected = Connected {
            input: Some(input),
            output: BufReader::new(output),
            host: Kept(host),
            child: 0,
        };
        connected.child = connected.answer()?.parse().context("a process id is no number")?;
        Ok(Box::new(connected))
    }

    fn is_foreign(&self) -> bool {
        true
    }
}

struct Connected {
    /// Its end has the host end its plugin, and itself.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    host: Kept,
    child: u32,
}

impl Session for Connected {
    fn processes(&self) -> Processes {
        Processes { host: Some(self.host.0.id()), child: Some(self.child) }
    }

    fn run(&mut self, job: &Job) -> Result<Vec<f64>> {
        let (command, callers) = match job.kind {
            Kind::Callers(callers) => ("callers", callers),
            Kind::Stream => ("stream", 1),
            Kind::Start => ("start", 1),
            Kind::Echo | Kind::Memory => ("echo", 1),
        };
        let (calls, size, pause) = (job.calls, job.payload.len(), job.pause.as_micros());
        let input = self.input.as_mut().context("the host is over")?;
        writeln!(input, "{command} {calls} {callers} {size} {pause}")?;
        let times = self.answer()?;
        times.split(' ').map(|time| Ok(time.parse()?)).collect()
    }
}

impl Connected {
    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let line = line.trim_end();
        ensure!(!line.is_empty(), "the host has ended");
        ensure!(!line.starts_with("error"), "the host says: {line}");
        Ok(line.to_owned())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.host.0.wait();
    }
}

/// Where Go's programs are built.
fn folder() -> Result<PathBuf> {
    let folder = program::own()?.with_file_name("go");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// In GOPATH mode, with the libraries that Debian has as packages.
fn build_plugin(folder: &Path) -> Result<PathBuf> {
    const LIBRARIES: &str = "/usr/share/gocode";
    let program = folder.join("go-plugin");
    let mut go = go()?;
    go.env("GO111MODULE", "off").env("GOPATH", LIBRARIES).args(["build", "-o"]).arg(&program);
    run(go.args(["harness.go", "go_plugin.go"]).current_dir(sources()))
        .context("apt install golang-github-hashicorp-go-plugin-dev golang-google-grpc-dev")?;
    Ok(program)
}

/// The sources that [`build_plug`] needs and that nobody has as a package: where they are, which commit, and what Go calls
/// them.
const CLONED: [[&str; 3]; 3] = [
    [
        "https://github.com/elliotmr/plug",
        "c690632ec37f2e94513eb22c7d9d889497426c31",
        "github.com/elliotmr/plug",
    ],
    [
        "https://github.com/golang/protobuf",
        "ae97035608a719c7a1c1c41bed0ae0744bdb0c6f",
        "github.com/golang/protobuf",
    ],
    [
        "https://github.com/protocolbuffers/protobuf-go",
        "6875c3d7242d1a3db910ce8a504f124cb840c23a",
        "google.golang.org/protobuf",
    ],
];

/// In GOPATH mode, with clones: no modules, so that only these three are asked for.
fn build_plug(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("go-plug");
    let libraries = folder.join("libraries");
    let mut go = go()?;
    for [url, commit, name] in CLONED {
        clone(url, commit, &libraries.join("src").join(name))?;
    }
    go.env("GO111MODULE", "off").env("GOPATH", &libraries).args(["build", "-o"]).arg(&program);
    run(go.args(["harness.go", "go_plug.go"]).current_dir(sources()))?;
    let plugin = folder.join("go-plug-plugin");
    if fs::symlink_metadata(&plugin).is_err() {
        std::os::unix::fs::symlink("go-plug", &plugin)?;
    }
    Ok(program)
}

/// Has one commit of a repository in a folder. Asks nobody if it is there.
fn clone(url: &str, commit: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder).args(arguments).env("GIT_TERMINAL_PROMPT", "0");
        git.output().is_ok_and(|output| output.status.success())
    };
    let checkout = ["checkout", "--quiet", "--detach", commit];
    let there = folder.join(".git").exists() && git(&checkout);
    let fetched = there
        || (git(&["init", "--quiet"])
            && git(&["fetch", "--quiet", "--depth=1", url, commit])
            && git(&checkout));
    ensure!(fetched, "git cannot fetch {commit} of {url}");
    Ok(())
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("go")
}

fn go() -> Result<Command> {
    let version = Command::new("go").arg("version").stdout(Stdio::null()).status();
    ensure!(version.is_ok_and(|status| status.success()), "Go is not installed");
    Ok(Command::new("go"))
}

fn run(go: &mut Command) -> Result<()> {
    let output = go.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors.lines().find(|line| !line.starts_with('#')).unwrap_or("").trim();
    ensure!(output.status.success(), "go build: {first}");
    Ok(())
}
