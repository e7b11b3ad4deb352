//! The way to the other side: one connection, or, for a plugin that is restarted, that to its current process.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::caller::Requests;
use super::link::Link;
use super::messages::Messages;
use super::remote::Remote;
use super::supervisor::{Supervisor, Unmade};
use crate::error::{Code, Delivery, Error, ErrorKind, Result};
use crate::exit::{Exit, ExitStatus};
use crate::log;
use crate::options::Outbound;
use crate::peer::WeakPeer;
use crate::process::StderrLines;
use crate::stream::Outgoing;

/// See the module's documentation.
pub(crate) enum Line {
    /// To a host, or to a plugin that has no process of its own or is not restarted.
    Fixed {
        link: Arc<Link>,
        remote: Option<Arc<Remote>>,
    },
    Supervised(Arc<Supervisor>),
}

impl Line {
    /// Makes the other side known to handlers.
    pub(crate) fn set_peer(&self, peer: WeakPeer) {
        match self {
            Line::Fixed { link, .. } => link.set_peer(peer),
            Line::Supervised(supervisor) => supervisor.set_peer(peer),
        }
    }

    /// Does something with the connection there is now, which may be over.
    #[inline(always)]
    pub(crate) fn with_link<R>(&self, act: impl FnOnce(&Arc<Link>) -> R) -> R {
        match self {
            Line::Fixed { link, .. } => act(link),
            Line::Supervised(supervisor) => act(supervisor.current().link()),
        }
    }

    // ---- calls

    /// The request is lent or given, `&M` or `M`: if it is given, it is dropped as soon as it is not needed any more.
    pub(crate) fn call<M: Message>(
        &self,
        outbound: &Outbound<'_>,
        request: impl Borrow<M>,
    ) -> Result<Bytes> {
        match self {
            Line::Fixed { link, .. } => link.call::<M>(outbound, request),
            Line::Supervised(supervisor) => {
                supervisor.call(outbound, outbound.is_idempotent, |link, outbound| {
                    // It may have to be sent again.
                    Ok(link.call::<M>(outbound, request.borrow())?)
                })
            }
        }
    }

    pub(crate) fn call_one_way(
        &self,
        outbound: &Outbound<'_>,
        request: &impl Message,
    ) -> Result<()> {
        match self {
            Line::Fixed { link, .. } => link.call_one_way(outbound, request),
            Line::Supervised(supervisor) => supervisor
                .call(outbound, false, |link, outbound| Ok(link.call_one_way(outbound, request)?)),
        }
    }

    pub(crate) fn call_streaming<M: Message>(
        &self,
        outbound: &Outbound<'_>,
        mut requests: Requests<'_, M>,
    ) -> Result<Messages> {
        match self {
            Line::Fixed { link, .. } => link.call_streaming(outbound, &mut requests),
            Line::Supervised(supervisor) => supervisor.call(outbound, false, |link, outbound| {
                let made = link.call_streaming(outbound, &mut requests);
                made.map_err(|error| Unmade { error, is_spent: requests.is_spent() })
            }),
        }
    }

    pub(crate) fn call_with_stream(
        &self,
        outbound: &Outbound<'_>,
        requests: Box<dyn Outgoing>,
    ) -> Result<Bytes> {
        let mut requests = Some(requests);
        match self {
            Line::Fixed { link, .. } => link.call_with_stream(outbound, &mut requests),
            Line::Supervised(supervisor) => supervisor.call(outbound, false, |link, outbound| {
                let made = link.call_with_stream(outbound, &mut requests);
                made.map_err(|error| Unmade { error, is_spent: requests.is_none() })
            }),
        }
    }

    // ---- processes

    /// The process id of the other side, if this one has started it.
    pub(crate) fn pid(&self) -> Option<u32> {
        Some(self.remote()?.pid())
    }

    pub(crate) fn stderr_lines(&self) -> Option<StderrLines> {
        Some(self.remote()?.stderr_lines())
    }

    /// Asks the plugin to end, and sees to it that it does within `grace`.
    pub(crate) fn begin_to_stop(&self, grace: Duration) {
        match self {
            Line::Fixed { remote: Some(remote), .. } => remote.begin_to_stop(grace),
            Line::Fixed { link, remote: None } => link.goodbye(grace),
            Line::Supervised(supervisor) => supervisor.begin_to_stop(grace),
        }
    }

    /// The same, and waits until it has ended.
    pub(crate) fn stop(&self, grace: Duration) -> Result<()> {
        self.begin_to_stop(grace);
        let remote = match self {
            Line::Fixed { remote: Some(remote), .. } => remote.clone(),
            Line::Fixed { link, remote: None } => {
                if link.wait_for_end(grace) {
                    return Ok(());
                }
                let why = "its handlers have not returned in time";
                return Err(Error::new(Code::DeadlineExceeded, why));
            }
            Line::Supervised(supervisor) => supervisor.wait_until_idle(),
        };
        let exit = remote.wait();
        // What it has logged to its end is there when this returns.
        log::flush(LOGS_TAKE_AT_MOST);
        if exit.status() == ExitStatus::Code(0) {
            return Ok(());
        }
        let error = remote.link().failure().filter(|error| error.exit().is_some());
        let error = error.unwrap_or_else(|| stopped_by(exit));
        Err(error.with_delivery(Delivery::NotSent))
    }

    fn remote(&self) -> Option<Arc<Remote>> {
        match self {
            Line::Fixed { remote, .. } => remote.clone(),
            Line::Supervised(supervisor) => Some(supervisor.current()),
        }
    }
}

fn stopped_by(exit: Exit) -> Error {
    Error::of_kind(ErrorKind::Exited, format!("the plugin {exit}")).with_exit(exit)
}

/// How long the events of a plugin that has ended are waited for.
const LOGS_TAKE_AT_MOST: Duration = Duration::from_secs(1);
