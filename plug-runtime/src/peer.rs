//! The other side of a connection: for a host a plugin, for a plugin its host.

use std::borrow::Borrow;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, skip_field};
use prost::{DecodeError, Message};
use prost_types::FileDescriptorSet;

use crate::blocking::{Line, Link, Messages, Requests};
use crate::caller::{Caller, Proxy};
use crate::description::{self, Description, Descriptors};
use crate::error::{Code, Error, ErrorKind, Result};
use crate::options::{Options, Outbound};
use crate::plugin::Plugin;
use crate::process::{Command, StderrLines};
use crate::protocol::{Hello, Pair, ServiceInfo};
use crate::service::{MethodKind, Service};
use crate::stream::Outgoing;

/// The other side of a connection: for a host a loaded plugin, for a plugin its host.
///
/// Cheap to clone, free to share between threads. A plugin's process ends when the last clone of its peer, and of
/// the proxies made from it, is dropped, and the last stream that it sends.
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
    line: Line,
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
    /// Whether both are the same peer.
    pub(crate) fn is(&self, other: &WeakPeer) -> bool {
        self.shared.ptr_eq(&other.shared)
    }

    pub(crate) fn upgrade(&self) -> Option<Peer> {
        Some(Peer { shared: self.shared.upgrade()? })
    }
}

enum Role {
    /// A plugin, in a process of its own or in this one.
    Plugin {
        stop_grace: Duration,
    },
    Host,
}

impl Peer {
    pub(crate) fn of_plugin(
        line: Line,
        name: Arc<str>,
        hello: Hello,
        timeout: Option<Duration>,
        stop_grace: Duration,
    ) -> Peer {
        Peer::new(Shared { line, name, hello, timeout, role: Role::Plugin { stop_grace } })
    }

    pub(crate) fn of_host(link: Arc<Link>, hello: Hello) -> Peer {
        let name =
            if hello.name.is_empty() { "the host".into() } else { hello.name.as_str().into() };
        let line = Line::Fixed { link, remote: None };
        Peer::new(Shared { line, name, hello, timeout: None, role: Role::Host })
    }

    fn new(shared: Shared) -> Peer {
        let peer = Peer { shared: Arc::new(shared) };
        peer.shared.line.set_peer(peer.downgrade());
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
    /// version, or a method of it with a stream where this side has none or the other way round. A method that it
    /// lacks fails when it is called, with [`ErrorKind::Unimplemented`].
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
        let names = self.shared.hello.services.iter().map(|service| service.name.as_str());
        names.filter(|name| !description::is_built_in(name)).collect()
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

    /// Calls a unary method by its full name, such as `example.KV/Get`, with an encoded request, and returns the encoded
    /// response: for programs that learn of services when they run, from [`descriptors`](Self::descriptors).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unimplemented`] if the other side has no such method, or it is none with one request and one
    /// response; else those of any call.
    pub fn call(&self, method: &str, request: &[u8]) -> Result<Bytes> {
        let named =
            |error: Error| error.with_plugin(&self.shared.name).with_method(|| method.to_owned());
        let number = self
            .find_unary(method)
            .map_err(|message| named(Error::of_kind(ErrorKind::Unimplemented, message)))?;
        let outbound = self.outbound(number, MethodKind::Unary, false, None);
        self.call_unary::<Encoded<'_>>(&outbound, &Encoded(request)).map_err(named)
    }

    /// The files that describe the services of the plugin and their messages, with all that they import, each once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unimplemented`] if it does not carry them, as a host does not, [`ErrorKind::TooLarge`] if they would
    /// take more memory than [`Command::max_decoded`] allows for; else those of any call.
    pub fn descriptors(&self) -> Result<FileDescriptorSet> {
        description::decode_descriptors(&self.encoded_descriptors()?, self.decode_limit())
            .map_err(|error| error.with_plugin(&self.shared.name))
    }

    /// What the plugin is: its services with their methods, types and comments.
    ///
    /// # Errors
    ///
    /// Those of [`descriptors`](Self::descriptors).
    pub fn description(&self) -> Result<Description> {
        let mut hello = self.shared.hello.clone();
        hello.name = self.name().to_owned();
        Description::new(hello, &self.encoded_descriptors()?, self.decode_limit())
            .map_err(|error| error.with_plugin(&self.shared.name))
    }

    /// The process id of a plugin that has a process of its own. Of one that is [restarted](Command::restart) that of the
    /// last process that was ready.
    pub fn pid(&self) -> Option<u32> {
        self.shared.line.pid()
    }

    /// What the plugin prints, on stderr or with `println!`, as lines: those that are kept from before, and
    /// all that follow. `None` for a plugin inside this process, and for a host.
    ///
    /// Nothing has to be read: the plugin never waits for it, and 64 KiB are kept for the errors. Of a plugin that is
    /// [restarted](Command::restart) they are those of the current process, and end with it.
    pub fn stderr_lines(&self) -> Option<StderrLines> {
        self.shared.line.stderr_lines()
    }

    /// Asks the other side for a sign of life, and says how long that took. It shows that the runtime there lives, not
    /// that its handlers do.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Deadline`] if there is no answer within `at_most`, [`ErrorKind::Unimplemented`] if the other side
    /// knows no pings, and why the connection is over if it is.
    pub fn ping(&self, at_most: Duration) -> Result<Duration> {
        let pong = self.shared.line.with_link(|link| link.ping(at_most));
        pong.map_err(|error| error.with_plugin(&self.shared.name))
    }

    /// Ends the plugin: no new calls; calls under way, streams included, and [`Plugin::stop`], may take until half of
    /// `grace` is over; then it gets SIGTERM, and after all of `grace` SIGKILL. Returns when its process has ended.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exited`] if the process had to be ended by a signal, or exited with a code other than 0. It
    /// has ended in any case. For a plugin inside this process, which cannot be ended by force,
    /// [`Code::DeadlineExceeded`] if it did not end in time. [`Code::FailedPrecondition`] for a host: a plugin does not
    /// end its host, it returns.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        match self.shared.role {
            Role::Host => {
                Err(Error::new(Code::FailedPrecondition, "a plugin cannot stop its host"))
            }
            Role::Plugin { .. } => {
                let stopped = self.shared.line.stop(grace);
                stopped.map_err(|error| error.with_plugin(&self.shared.name))
            }
        }
    }

    // ---- for callers: errors are named there

    #[inline(always)]
    pub(crate) fn outbound<'a>(
        &self,
        method: u32,
        kind: MethodKind,
        is_idempotent: bool,
        options: Option<&'a Options>,
    ) -> Outbound<'a> {
        let timeout = self.shared.timeout;
        self.shared
            .line
            .with_link(|link| Outbound::new(method, kind, is_idempotent, options, timeout, link))
    }

    pub(crate) fn call_unary<M: Message>(
        &self,
        outbound: &Outbound<'_>,
        request: impl Borrow<M>,
    ) -> Result<Bytes> {
        self.shared.line.call::<M>(outbound, request)
    }

    pub(crate) fn call_one_way(
        &self,
        outbound: &Outbound<'_>,
        request: &impl Message,
    ) -> Result<()> {
        self.shared.line.call_one_way(outbound, request)
    }

    pub(crate) fn call_streaming<M: Message>(
        &self,
        outbound: &Outbound<'_>,
        requests: Requests<'_, M>,
    ) -> Result<Messages> {
        self.shared.line.call_streaming(outbound, requests)
    }

    pub(crate) fn call_with_stream(
        &self,
        outbound: &Outbound<'_>,
        requests: Box<dyn Outgoing>,
    ) -> Result<Bytes> {
        self.shared.line.call_with_stream(outbound, requests)
    }

    pub(crate) fn decode_limit(&self) -> usize {
        self.shared.line.with_link(|link| link.decode_limit())
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.shared.name
    }

    fn encoded_descriptors(&self) -> Result<Bytes> {
        if self.find_service(description::SERVICE).is_none() {
            let message = "it does not carry the descriptors of its services";
            let error = Error::of_kind(ErrorKind::Unimplemented, message);
            return Err(error.with_plugin(&self.shared.name));
        }
        let method = format!("{}/{}", description::SERVICE, description::GET);
        let response = self.call(&method, &[])?;
        let decoded = Descriptors::decode(response).map_err(|error| {
            let message = format!("the response cannot be decoded: {error}");
            Error::of_kind(ErrorKind::Decode, message).with_plugin(&self.shared.name)
        })?;
        Ok(decoded.descriptors)
    }

    fn find_service(&self, name: &str) -> Option<&ServiceInfo> {
        self.shared.hello.services.iter().find(|service| service.name == name)
    }

    fn lacks_service(&self, name: &str) -> String {
        let offers = match self.services().as_slice() {
            [] => "no services".to_owned(),
            services => services.join(", "),
        };
        let text = format!("the service {name} was asked for, but {} offers {offers}", self.name());
        match self.shared.role {
            Role::Plugin { .. } => text,
            Role::Host => format!("{text}: a host offers what it gives to Command::serve"),
        }
    }

    /// The number of a unary method, or what is wrong with its name.
    fn find_unary(&self, full_name: &str) -> std::result::Result<u32, String> {
        let Some((service_name, name)) = full_name.split_once('/') else {
            return Err(format!(
                "{full_name:?} is no full name of a method, such as example.KV/Get"
            ));
        };
        let service =
            self.find_service(service_name).ok_or_else(|| self.lacks_service(service_name))?;
        let method = service.methods.iter().find(|method| method.name == name);
        let number = self.shared.hello.method_number(service_name, name);
        let (Some(method), Some(number)) = (method, number) else {
            let names: Vec<_> = service.methods.iter().map(|method| &method.name[..]).collect();
            return Err(format!(
                "{service_name} has no method {name} in {}: it has {}",
                self.name(),
                names.join(", ")
            ));
        };
        match MethodKind::of_streams(method.streams_requests, method.streams_responses) {
            MethodKind::Unary => Ok(number),
            kind => {
                Err(format!("the method is {kind}: without a proxy, only unary ones are called"))
            }
        }
    }

    fn check_service<S: Service>(&self) -> Result<&ServiceInfo> {
        let incompatible = |message: String| {
            Err(Error::of_kind(ErrorKind::Incompatible, message).with_plugin(&self.shared.name))
        };
        let Some(service) = self.find_service(S::NAME) else {
            return incompatible(self.lacks_service(S::NAME));
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

/// A message that is encoded already.
#[derive(Debug)]
struct Encoded<'a>(&'a [u8]);

impl Message for Encoded<'_> {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    /// There is nowhere to put a field, and nobody decodes into one.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> std::result::Result<(), DecodeError> {
        skip_field(wire_type, tag, buffer, context)
    }

    fn clear(&mut self) {
        self.0 = &[];
    }
}

/// The pairs whose values are text.
pub(crate) fn text_pairs(pairs: &[Pair]) -> Vec<(&str, &str)> {
    let text = pairs.iter().map(|pair| (pair.key.as_str(), std::str::from_utf8(&pair.value)));
    text.filter_map(|(key, value)| Some((key, value.ok()?))).collect()
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Role::Plugin { stop_grace } = self.role {
            self.line.begin_to_stop(stop_grace);
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

    /// Starts the program with `--plug-describe` as its first argument, and returns what it says about itself. It is not
    /// loaded: neither [`Plugin::start`] nor any method runs, though what its `main` does before
    /// [`run`](crate::run) does.
    ///
    /// Environment and arguments are those of the command. The description has at most 16 MiB, and comes within
    /// [`start_timeout`](Command::start_timeout). Nothing of the process is left behind.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Spawn`] if the program cannot be started, [`ErrorKind::Handshake`] if it does not describe itself,
    /// [`ErrorKind::TooLarge`] if its descriptors would take more memory than [`max_decoded`](Command::max_decoded) allows
    /// for.
    pub fn describe(self) -> Result<Description> {
        crate::blocking::describe(self)
    }

    /// A plugin inside this process, to be loaded like any other: see [`in_process`](crate::in_process). Arguments,
    /// environment and working directory do not apply to it.
    pub fn in_process(plugin: impl Plugin) -> Command {
        crate::blocking::command_for(plugin)
    }
}
