//! The other side of a connection: for a host a plugin, for a plugin its host.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::blocking::{Link, Messages, Remote, Requests};
use crate::caller::{Caller, Proxy};
use crate::error::{Code, Error, ErrorKind, Result};
use crate::exit::{Exit, ExitStatus};
use crate::options::{Options, Outbound};
use crate::plugin::Plugin;
use crate::process::{Command, Settings, StderrLines};
use crate::protocol::{Hello, Pair, ServiceInfo};
use crate::service::{MethodKind, Service};
use crate::stream::Outgoing;

/// The other side of a connection: for a host a loaded plugin, for a plugin its host.
///
/// Cheap to clone, free to share between threads. A plugin's process ends when the last clone of its peer,
/// and of the proxies made from it, is dropped.
///
/// ```no_run
/// # fn main() -> plug::Result<()> {
/// let plugin = plug::Command::new("path/to/plugin").load()?;
/// println!("{} {} offers {:?}", plugin.name(), plugin.version(), plugin.services());
/// plugin.stop(std::time::Duration::from_secs(1))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Peer {
    shared: Arc<Shared>,
}

struct Shared {
    link: Arc<Link>,
    name: Arc<str>,
    hello: Hello,
    /// For calls whose proxy sets no limit.
    timeout: Option<Duration>,
    role: Role,
}

/// A peer for those who must not keep it: nothing once the last [`Peer`] is dropped.
#[derive(Clone, Default)]
pub(crate) struct WeakPeer {
    shared: Weak<Shared>,
}

impl WeakPeer {
    pub(crate) fn upgrade(&self) -> Option<Peer> {
        Some(Peer { shared: self.shared.upgrade()? })
    }
}

enum Role {
    /// A plugin, in a process of its own or in this one.
    Plugin {
        remote: Option<Arc<Remote>>,
        stop_grace: Duration,
    },
    Host,
}

impl Peer {
    pub(crate) fn of_plugin(
        link: Arc<Link>,
        name: Arc<str>,
        hello: Hello,
        remote: Option<Arc<Remote>>,
        settings: &Settings,
    ) -> Peer {
        let role = Role::Plugin { remote, stop_grace: settings.stop_grace };
        Peer::new(Shared { link, name, hello, timeout: settings.timeout, role })
    }

    pub(crate) fn of_host(link: Arc<Link>, hello: Hello) -> Peer {
        let name =
            if hello.name.is_empty() { "the host".into() } else { hello.name.as_str().into() };
        Peer::new(Shared { link, name, hello, timeout: None, role: Role::Host })
    }

    fn new(shared: Shared) -> Peer {
        let peer = Peer { shared: Arc::new(shared) };
        peer.shared.link.set_peer(peer.downgrade());
        peer
    }

    pub(crate) fn downgrade(&self) -> WeakPeer {
        WeakPeer { shared: Arc::downgrade(&self.shared) }
    }

    /// A proxy for one of its services, such as `KvProxy`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Incompatible`] if the other side does not offer the service, or offers it with another magic or
    /// version, or a method of it with a stream where this side has none or the other way round. A method that it lacks fails when it is called, with [`ErrorKind::Unimplemented`].
    pub fn proxy<P: Proxy>(&self) -> Result<P> {
        self.check_service::<P::Service>()?;
        let number = |method: &crate::Method| {
            self.shared.hello.method_number(P::Service::NAME, method.name())
        };
        let methods = P::Service::METHODS.iter().map(number).collect();
        Ok(P::new(Caller::new(self.clone(), methods)))
    }

    /// Whether the other side offers a service, such that [`proxy`](Self::proxy) has one for it.
    pub fn has<S: Service>(&self) -> bool {
        self.check_service::<S>().is_ok()
    }

    /// What the other side calls itself: [`Plugin::NAME`], or the name of its program.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The version that the other side says it has: [`Plugin::VERSION`].
    pub fn version(&self) -> &str {
        &self.shared.hello.version
    }

    /// The full names of the services that the other side offers.
    pub fn services(&self) -> Vec<&str> {
        self.shared.hello.services.iter().map(|service| service.name.as_str()).collect()
    }

    /// What the plugin says about itself beside name and version: [`Plugin::ATTRIBUTES`]. Values that are not text are
    /// left out.
    pub fn attributes(&self) -> Vec<(&str, &str)> {
        text_pairs(&self.shared.hello.attributes)
    }

    /// The attribute with a key, if the plugin has it.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes().into_iter().find(|(of, _)| *of == key).map(|(_, value)| value)
    }

    /// What the host has sent for this plugin to start with: see [`Command::config`].
    ///
    /// # Errors
    ///
    /// [`Code::FailedPrecondition`] if it has sent nothing, [`ErrorKind::Decode`] if that is no `M`.
    pub fn config<M: Message + Default>(&self) -> Result<M> {
        let Some(config) = &self.shared.hello.config else {
            let message =
                "it sends no configuration, and this plugin asks for one: see Command::config";
            return Err(
                Error::new(Code::FailedPrecondition, message).with_plugin(&self.shared.name)
            );
        };
        M::decode(config.value.clone()).map_err(|error| {
            let message = format!("its configuration cannot be decoded: {error}. Were both sides built from the same .proto?");
            Error::of_kind(ErrorKind::Decode, message).with_plugin(&self.shared.name)
        })
    }

    /// The process id of a plugin that has a process of its own.
    pub fn pid(&self) -> Option<u32> {
        Some(self.remote()?.pid())
    }

    /// What the plugin prints, on stderr or with `println!`, as lines: those that are kept from before, and
    /// all that follow. `None` for a plugin inside this process, and for a host.
    ///
    /// Nothing has to be read: the plugin never waits for it, and 64 KiB are kept for the errors.
    pub fn stderr_lines(&self) -> Option<StderrLines> {
        Some(self.remote()?.stderr_lines())
    }

    /// Ends the plugin: no new calls; calls under way, and [`Plugin::stop`], may take until half of `grace` is over;
    /// then it gets SIGTERM, and after all of `grace` SIGKILL. Returns when its process has ended.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exited`] if the process had to be ended by a signal, or exited with a code other than 0. It
    /// has ended in any case. For a plugin inside this process, which cannot be ended by force,
    /// [`Code::DeadlineExceeded`] if it did not end in time. [`Code::FailedPrecondition`] for a host: a plugin does not
    /// end its host, it returns.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        let Role::Plugin { remote, .. } = &self.shared.role else {
            return Err(Error::new(Code::FailedPrecondition, "a plugin cannot stop its host"));
        };
        let Some(remote) = remote else {
            self.shared.link.goodbye(grace);
            if self.shared.link.wait_for_end(grace) {
                return Ok(());
            }
            let error =
                Error::new(Code::DeadlineExceeded, "its handlers have not returned in time");
            return Err(error.with_plugin(&self.shared.name));
        };
        remote.begin_to_stop(grace);
        let exit = remote.wait();
        if exit.status() == ExitStatus::Code(0) {
            return Ok(());
        }
        let error = self.shared.link.failure().filter(|error| error.exit().is_some());
        Err(error.unwrap_or_else(|| self.stopped_by(exit)))
    }

    fn stopped_by(&self, exit: Exit) -> Error {
        Error::of_kind(ErrorKind::Exited, format!("the plugin {exit}"))
            .with_exit(exit)
            .with_plugin(&self.shared.name)
    }

    // ---- for callers: errors are named there

    pub(crate) fn outbound<'a>(
        &self,
        method: u32,
        kind: MethodKind,
        options: Option<&'a Options>,
    ) -> Result<Outbound<'a>> {
        Outbound::new(method, kind, options, self.shared.timeout, &self.shared.link)
    }

    pub(crate) fn call_unary(
        &self,
        outbound: &Outbound<'_>,
        request: &impl Message,
    ) -> Result<Bytes> {
        self.shared.link.call(outbound.method, request)
    }

    pub(crate) fn call_one_way(
        &self,
        outbound: &Outbound<'_>,
        request: &impl Message,
    ) -> Result<()> {
        self.shared.link.call_one_way(outbound, request)
    }

    pub(crate) fn call_streaming(
        &self,
        outbound: &Outbound<'_>,
        requests: Requests,
    ) -> Result<Messages> {
        self.shared.link.call_streaming(outbound, requests)
    }

    pub(crate) fn call_with_stream(
        &self,
        outbound: &Outbound<'_>,
        requests: Box<dyn Outgoing>,
    ) -> Result<Bytes> {
        self.shared.link.call_with_stream(outbound, requests)
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.shared.name
    }

    fn remote(&self) -> Option<&Arc<Remote>> {
        match &self.shared.role {
            Role::Plugin { remote, .. } => remote.as_ref(),
            Role::Host => None,
        }
    }

    fn check_service<S: Service>(&self) -> Result<&ServiceInfo> {
        let incompatible = |message: String| {
            Err(Error::of_kind(ErrorKind::Incompatible, message).with_plugin(&self.shared.name))
        };
        let offered = &self.shared.hello.services;
        let Some(service) = offered.iter().find(|service| service.name == S::NAME) else {
            let offers = match offered.as_slice() {
                [] => "no services".to_owned(),
                _ => self.services().join(", "),
            };
            return incompatible(format!(
                "the service {} was asked for, but {} offers {offers}",
                S::NAME,
                self.name(),
            ));
        };
        if service.magic != S::MAGIC {
            return incompatible(format!(
                "the service {} has the magic {:?} here and {:?} in {}: these are different services with one name",
                S::NAME,
                S::MAGIC,
                service.magic,
                self.name(),
            ));
        }
        if service.version != S::VERSION {
            return incompatible(format!(
                "the service {} has version {} here and {} in {}: build both from the same .proto",
                S::NAME,
                S::VERSION,
                service.version,
                self.name(),
            ));
        }
        for method in S::METHODS {
            let Some(info) = service.methods.iter().find(|info| info.name == method.name()) else {
                continue;
            };
            let kind = MethodKind::of_streams(info.streams_requests, info.streams_responses);
            if kind != method.kind() {
                return incompatible(format!(
                    "{}/{} is {} here and {kind} in {}: build both from the same .proto",
                    S::NAME,
                    method.name(),
                    method.kind(),
                    self.name(),
                ));
            }
        }
        Ok(service)
    }
}

/// The pairs whose values are text.
pub(crate) fn text_pairs(pairs: &[Pair]) -> Vec<(&str, &str)> {
    let text = pairs.iter().map(|pair| (pair.key.as_str(), std::str::from_utf8(&pair.value)));
    text.filter_map(|(key, value)| Some((key, value.ok()?))).collect()
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Role::Plugin { remote, stop_grace } = &self.role {
            match remote {
                Some(remote) => remote.begin_to_stop(*stop_grace),
                None => self.link.goodbye(*stop_grace),
            }
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("name", &self.name())
            .field("services", &self.services())
            .finish_non_exhaustive()
    }
}

impl Command {
    /// Starts the plugin and returns it once it has said hello.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Spawn`] if there is no such program or it cannot be started, [`ErrorKind::Handshake`] if
    /// what was started does not say hello in time or is no plugin, [`ErrorKind::Incompatible`] if it speaks no
    /// version of the protocol that this host speaks. Nothing of the process is left behind.
    pub fn load(self) -> Result<Peer> {
        crate::blocking::load(self)
    }

    /// A plugin inside this process, to be loaded like any other: see [`in_process`](crate::in_process). Arguments,
    /// environment and working directory do not apply to it.
    pub fn in_process(plugin: impl Plugin) -> Command {
        crate::blocking::command_for(plugin)
    }
}
