//! What is measured: each candidate starts a child, and calls it.

mod child;
mod go;
mod pipe;
mod plug;
mod shm;

#[cfg(feature = "peers")]
mod capnp;
#[cfg(feature = "peers")]
mod lsp;
#[cfg(feature = "peers")]
mod peer;
#[cfg(feature = "peers")]
mod tarpc;
#[cfg(feature = "peers")]
mod tonic;
#[cfg(feature = "peers")]
mod ttrpc;

use anyhow::{Result, bail};

use crate::usage::Processes;
use crate::work::{Job, Work};

pub use child::{CHILD, own_program};
pub use plug::load as load_plug;

/// One way to have a child answer.
pub trait Candidate {
    fn name(&self) -> &'static str;

    /// Why this candidate cannot do a work, or cannot do any here.
    fn lacks(&self, work: Work) -> Option<String>;

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
    }
    all.push(Box::new(go::Go::plugin()));
    all.push(Box::new(go::Go::plug()));
    all
}

/// Those that this program was built without.
pub fn built_without() -> &'static [&'static str] {
    if cfg!(feature = "peers") { &[] } else { &["tonic", "tarpc", "ttrpc", "capnp", "lsp-server"] }
}

/// The other side: what this program is when it is started with [`CHILD`].
pub fn serve(name: &str, arguments: &[String]) -> Result<()> {
    if name != plug::NAME {
        child::end_with_parent()?;
    }
    match name {
        pipe::NAME => pipe::serve(arguments),
        shm::NAME => shm::serve(arguments),
        plug::NAME => plug::in_child(),
        #[cfg(feature = "peers")]
        tonic::NAME => peer::serve(arguments, tonic::serve),
        #[cfg(feature = "peers")]
        tarpc::NAME => peer::serve(arguments, tarpc::serve),
        #[cfg(feature = "peers")]
        ttrpc::NAME => peer::serve(arguments, ttrpc::serve),
        #[cfg(feature = "peers")]
        capnp::NAME => peer::serve(arguments, capnp::serve),
        #[cfg(feature = "peers")]
        lsp::NAME => lsp::serve(),
        other => bail!("there is no child {other}"),
    }
}
