//! What is measured: each candidate starts a child, and calls it.

pub mod child;
pub mod pipe;
pub mod plug;
pub mod shm;

#[cfg(feature = "peers")]
pub mod capnp;
#[cfg(feature = "peers")]
mod go;
#[cfg(feature = "peers")]
pub mod lsp;
#[cfg(feature = "peers")]
pub mod peer;
#[cfg(feature = "peers")]
pub mod tarpc;
#[cfg(feature = "peers")]
pub mod tonic;
#[cfg(feature = "peers")]
pub mod ttrpc;

use anyhow::Result;

use crate::usage::Processes;
use crate::work::{Job, Work};

pub use plug::{NAME as PLUG, load as load_plug};

/// One way to have a child answer.
pub trait Candidate {
    fn name(&self) -> &'static str;

    /// Why this candidate cannot do a work, or cannot do any here.
    fn lacks(&self, work: Work) -> Option<String>;

    /// The name of the program that is the other side, where this benchmark has it.
    fn child(&self) -> Option<&'static str>;

    /// Starts the other side, made for a kind of work.
    fn start(&self, work: Work) -> Result<Box<dyn Session>>;

    /// Whether to start it takes another process than this one, so that this one cannot measure that.
    fn is_foreign(&self) -> bool {
        false
    }
}

/// A child that was started. Dropping it ends the child, and waits for that.
pub trait Session {
    fn processes(&self) -> Processes;

    /// Does the work, and checks every reply.
    ///
    /// Gives times in microseconds: one for each call, or where calls overlap or are items of streams the time of many over
    /// their number.
    fn run(&mut self, job: &Job) -> Result<Vec<f64>>;
}

/// All candidates, in the order in which they are shown.
pub fn all() -> Vec<Box<dyn Candidate>> {
    let mut all: Vec<Box<dyn Candidate>> = Vec::new();
    all.push(Box::new(pipe::Pipe { two_cores: false }));
    all.push(Box::new(pipe::Pipe { two_cores: true }));
    all.push(Box::new(shm::Shm));
    all.extend(plug::FLAVOURS.map(|flavour| Box::new(flavour) as Box<dyn Candidate>));
    #[cfg(feature = "peers")]
    {
        all.push(Box::new(tonic::Tonic));
        all.push(Box::new(tarpc::Tarpc));
        all.push(Box::new(ttrpc::Ttrpc));
        all.push(Box::new(capnp::Capnp));
        all.push(Box::new(lsp::Lsp));
        all.push(Box::new(go::Go::plugin()));
        all.push(Box::new(go::Go::plug()));
    }
    all
}

/// Those that this program was built without.
pub fn built_without() -> &'static [&'static str] {
    if cfg!(feature = "peers") {
        return &[];
    }
    &["tonic", "tarpc", "ttrpc", "capnp", "lsp-server", "go-plugin", "go-plug"]
}
