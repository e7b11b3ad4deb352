//! The other sides of the candidates. Each is a program of its own, with nothing of the others in it, as a plugin is: what
//! it takes to start and to keep in memory is measured, too.

use anyhow::Result;

use crate::candidates::{self, child};

pub fn pipe() -> Result<()> {
    child::end_with_parent()?;
    candidates::pipe::serve(&child::arguments())
}

pub fn shm() -> Result<()> {
    child::end_with_parent()?;
    candidates::shm::serve(&child::arguments())
}

pub fn plug() -> Result<()> {
    candidates::plug::in_child()
}

#[cfg(feature = "peers")]
pub fn tonic() -> Result<()> {
    child::end_with_parent()?;
    candidates::peer::serve(&child::arguments(), candidates::tonic::serve)
}

#[cfg(feature = "peers")]
pub fn tarpc() -> Result<()> {
    child::end_with_parent()?;
    candidates::peer::serve(&child::arguments(), candidates::tarpc::serve)
}

#[cfg(feature = "peers")]
pub fn ttrpc() -> Result<()> {
    child::end_with_parent()?;
    candidates::peer::serve(&child::arguments(), candidates::ttrpc::serve)
}

#[cfg(feature = "peers")]
pub fn capnp() -> Result<()> {
    child::end_with_parent()?;
    candidates::peer::serve(&child::arguments(), candidates::capnp::serve)
}

#[cfg(feature = "peers")]
pub fn lsp() -> Result<()> {
    child::end_with_parent()?;
    candidates::lsp::serve()
}
