//! The operating system, behind a few functions.
//!
//! What only Linux has (epoll, pidfd, timerfd, reopening a pipe through `/proc`) stands beside a path
//! that any Unix can take. `--cfg plug_portable` chooses that path on Linux too, so that the tests can
//! exercise it. Each system call passes the [`seam`], where tests have it fail. The only `unsafe` code of this
//! crate is here.

pub(crate) mod bell;
#[cfg(feature = "tracing")]
pub(crate) mod descriptors;
pub(crate) mod dormitory;
pub(crate) mod files;
pub(crate) mod interrupt;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod pages;
pub(crate) mod pipe;
pub(crate) mod poller;
pub(crate) mod process;
pub(crate) mod ring;
pub(crate) mod rope;
#[cfg(feature = "verify")]
pub(crate) mod sealed;
pub(crate) mod seam;
pub(crate) mod signals;
pub(crate) mod stdio;
pub(crate) mod thread;
