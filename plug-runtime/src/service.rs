//! The contract with generated code, and nothing else.
//!
//! A generated file implements [`Service`], [`Serve`] and [`Proxy`] and calls [`Caller`] and
//! [`Incoming`]. It holds no policy: limits, time-outs and process care live behind these types.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::error::{Code, Delivery, Error, ErrorKind, Result};
use crate::peer::Peer;
use crate::protocol::Answer;
use crate::stream::Stream;

/// A service of a `.proto`, by name. Implemented by the generated marker, such as `KvService`.
pub trait Service: 'static {
    /// The full name, such as `example.KV`.
    const NAME: &'static str;
    /// What `(plugpb.magic)` says, or empty. Host and plugin must agree on it.
    const MAGIC: &'static str;
    /// What `(plugpb.version)` says, or 0. Host and plugin must agree on it.
    const VERSION: u32;
    /// The methods, in the order of the `.proto`.
    const METHODS: &'static [Method];
    /// The encoded `FileDescriptorSet` that describes the service and its messages.
    const DESCRIPTORS: &'static [u8];
}

/// A method of a [`Service`]: its name and how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    name: &'static str,
    kind: MethodKind,
    idempotent: bool,
    one_way: bool,
}

/// Which sides of a method are streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// One request, one response.
    Unary,
    /// One request, a stream of responses.
    ServerStreaming,
    /// A stream of requests, one response.
    ClientStreaming,
    /// A stream each way.
    BidiStreaming,
}

impl Method {
    /// A method with one request and one response.
    pub const fn unary(name: &'static str) -> Method {
        Method::new(name, MethodKind::Unary)
    }

    /// A method whose response is a stream.
    pub const fn server_streaming(name: &'static str) -> Method {
        Method::new(name, MethodKind::ServerStreaming)
    }

    /// A method whose request is a stream.
    pub const fn client_streaming(name: &'static str) -> Method {
        Method::new(name, MethodKind::ClientStreaming)
    }

    /// A method whose request and response are streams.
    pub const fn bidi_streaming(name: &'static str) -> Method {
        Method::new(name, MethodKind::BidiStreaming)
    }

    /// The same method, marked as one that may be repeated: `idempotency_level` in the `.proto`.
    pub const fn idempotent(mut self) -> Method {
        self.idempotent = true;
        self
    }

    /// The same method, marked as one that is sent without waiting for an answer.
    pub const fn one_way(mut self) -> Method {
        self.one_way = true;
        self
    }

    /// The name within its service, such as `Get`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Which sides are streams.
    pub const fn kind(&self) -> MethodKind {
        self.kind
    }

    /// Whether a call that may have run can be repeated without harm.
    pub const fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Whether the caller does not wait for an answer.
    pub const fn is_one_way(&self) -> bool {
        self.one_way
    }

    const fn new(name: &'static str, kind: MethodKind) -> Method {
        Method { name, kind, idempotent: false, one_way: false }
    }
}

/// Dispatches calls of a service to an implementation `T`. Implemented by generated code.
pub trait Serve<T: ?Sized>: Service {
    /// Runs the method that `call` names.
    fn serve(plugin: &T, call: Incoming<'_>) -> Reply;
}

/// The services that a plugin offers: one service, a tuple of up to eight, or `()`.
#[diagnostic::on_unimplemented(
    message = "`{T}` does not implement all the services in `{Self}`",
    label = "a service listed here has no implementation",
    note = "for `type Services = KvService`, write `impl Kv for {T}`; for several services, list them as a tuple"
)]
pub trait Services<T: ?Sized> {
    #[doc(hidden)]
    fn offer() -> Vec<Offered>;
    #[doc(hidden)]
    fn dispatch(plugin: &T, service: usize, call: Incoming<'_>) -> Reply;
}

/// What a [`Service`] is, as a value: for the hello.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Offered {
    pub(crate) name: &'static str,
    pub(crate) magic: &'static str,
    pub(crate) version: u32,
    pub(crate) methods: &'static [Method],
}

impl Offered {
    fn of<S: Service>() -> Offered {
        Offered { name: S::NAME, magic: S::MAGIC, version: S::VERSION, methods: S::METHODS }
    }
}

impl<T: ?Sized> Services<T> for () {
    fn offer() -> Vec<Offered> {
        Vec::new()
    }

    fn dispatch(_: &T, _: usize, call: Incoming<'_>) -> Reply {
        call.unimplemented()
    }
}

impl<T: ?Sized, S: Serve<T>> Services<T> for S {
    fn offer() -> Vec<Offered> {
        vec![Offered::of::<S>()]
    }

    fn dispatch(plugin: &T, _: usize, call: Incoming<'_>) -> Reply {
        S::serve(plugin, call)
    }
}

macro_rules! services_of_tuples {
    ($(($($index:tt $service:ident),*))*) => {$(
        impl<T: ?Sized, $($service: Serve<T>),*> Services<T> for ($($service,)*) {
            fn offer() -> Vec<Offered> {
                vec![$(Offered::of::<$service>()),*]
            }

            fn dispatch(plugin: &T, service: usize, call: Incoming<'_>) -> Reply {
                match service {
                    $($index => $service::serve(plugin, call),)*
                    _ => call.unimplemented(),
                }
            }
        }
    )*};
}

services_of_tuples! {
    (0 A)
    (0 A, 1 B)
    (0 A, 1 B, 2 C)
    (0 A, 1 B, 2 C, 3 D)
    (0 A, 1 B, 2 C, 3 D, 4 E)
    (0 A, 1 B, 2 C, 3 D, 4 E, 5 F)
    (0 A, 1 B, 2 C, 3 D, 4 E, 5 F, 6 G)
    (0 A, 1 B, 2 C, 3 D, 4 E, 5 F, 6 G, 7 H)
}

/// A call on its way to its handler: what generated code dispatches.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub(crate) method: u32,
    pub(crate) name: &'a str,
    pub(crate) request: Bytes,
    /// Where the response goes: empty, with the capacity that one before it needed.
    pub(crate) buffer: Vec<u8>,
}

/// What became of an [`Incoming`] call: a response or an error, to be sent back.
#[derive(Debug)]
#[must_use = "a call is answered by returning its reply"]
pub struct Reply {
    pub(crate) answer: Answer,
}

impl Incoming<'_> {
    /// The index of the method in [`Service::METHODS`].
    pub fn method(&self) -> u32 {
        self.method
    }

    /// Decodes the request, runs `handler`, encodes its response.
    pub fn unary<Q, R>(self, handler: impl FnOnce(Q) -> Result<R>) -> Reply
    where
        Q: Message + Default,
        R: Message,
    {
        let answer = match Q::decode(self.request) {
            Ok(request) => match handler(request) {
                Ok(response) => {
                    let mut encoded = self.buffer;
                    encoded.reserve(response.encoded_len());
                    response.encode_raw(&mut encoded);
                    Answer::Response(encoded)
                }
                Err(error) => Answer::Failed(error),
            },
            Err(error) => Answer::Refused(Error::status(
                Code::InvalidArgument,
                format!("the request of {} cannot be decoded: {error}", self.name),
                Delivery::NotSent,
            )),
        };
        Reply { answer }
    }

    /// Decodes the request, runs `handler`, sends the items of its stream.
    pub fn server_streaming<Q, R>(self, _handler: impl FnOnce(Q) -> Result<Stream<R>>) -> Reply {
        self.streams_are_not_carried()
    }

    /// Runs `handler` with the stream of requests, encodes its response.
    pub fn client_streaming<Q, R>(self, _handler: impl FnOnce(Stream<Q>) -> Result<R>) -> Reply {
        self.streams_are_not_carried()
    }

    /// Runs `handler` with the stream of requests, sends the items of its stream.
    pub fn bidi_streaming<Q, R>(
        self,
        _handler: impl FnOnce(Stream<Q>) -> Result<Stream<R>>,
    ) -> Reply {
        self.streams_are_not_carried()
    }

    /// The answer to a method that this side does not know.
    pub fn unimplemented(self) -> Reply {
        Reply {
            answer: Answer::Refused(Error::status(
                Code::Unimplemented,
                format!("there is no method {}", self.name),
                Delivery::NotSent,
            )),
        }
    }

    fn streams_are_not_carried(self) -> Reply {
        Reply { answer: Answer::Refused(streams_are_not_carried(self.name)) }
    }
}

fn streams_are_not_carried(method: &str) -> Error {
    Error::status(
        Code::Unimplemented,
        format!(
            "{method} is a streaming method, and this version of plug-runtime carries unary calls only"
        ),
        Delivery::NotSent,
    )
}

/// Calls the methods of a service on the other side of a connection: what a proxy is made of.
pub struct Caller<S> {
    peer: Peer,
    /// The number by which the other side knows each method of `S`, in the order of
    /// [`Service::METHODS`]; `None` for those that it does not have.
    methods: Arc<[Option<u32>]>,
    service: PhantomData<fn() -> S>,
}

impl<S: Service> Caller<S> {
    pub(crate) fn new(peer: Peer, methods: Arc<[Option<u32>]>) -> Caller<S> {
        Caller { peer, methods, service: PhantomData }
    }

    /// Calls a method with one request and one response. `method` is its index in
    /// [`Service::METHODS`].
    ///
    /// # Errors
    ///
    /// Those of the handler, and those of the connection: see [`ErrorKind`].
    ///
    /// # Panics
    ///
    /// If `method` is not an index into [`Service::METHODS`].
    pub fn unary<Q, R>(&self, method: u32, request: &Q) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        let name = || format!("{}/{}", S::NAME, S::METHODS[method as usize].name());
        let Some(number) = self.methods[method as usize] else {
            return Err(self.missing(name()));
        };
        let response = self.peer.call(number, request).map_err(|error| error.with_method(name))?;
        R::decode(response).map_err(|error| {
            Error::of_kind(
                ErrorKind::Decode,
                format!("the response cannot be decoded: {error}. Were both sides built from the same .proto?"),
            )
            .with_delivery(Delivery::MayHaveRun)
            .with_plugin(self.peer.shared_name())
            .with_method(name)
        })
    }

    /// Calls a method that is [one-way](Method::one_way). This version waits for its end all the same.
    ///
    /// # Errors
    ///
    /// Those of [`unary`](Self::unary).
    pub fn one_way<Q: Message>(&self, method: u32, request: &Q) -> Result<()> {
        self.unary(method, request)
    }

    /// Calls a method whose response is a stream.
    ///
    /// # Errors
    ///
    /// Always, in this version: see [`Stream`].
    pub fn server_streaming<Q, R>(&self, method: u32, _request: &Q) -> Result<Stream<R>> {
        Err(self.not_carried(method))
    }

    /// Calls a method whose request is a stream.
    ///
    /// # Errors
    ///
    /// Always, in this version: see [`Stream`].
    pub fn client_streaming<Q, R>(&self, method: u32, _requests: Stream<Q>) -> Result<R> {
        Err(self.not_carried(method))
    }

    /// Calls a method whose request and response are streams.
    ///
    /// # Errors
    ///
    /// Always, in this version: see [`Stream`].
    pub fn bidi_streaming<Q, R>(&self, method: u32, _requests: Stream<Q>) -> Result<Stream<R>> {
        Err(self.not_carried(method))
    }

    fn not_carried(&self, method: u32) -> Error {
        let name = format!("{}/{}", S::NAME, S::METHODS[method as usize].name());
        streams_are_not_carried(&name).with_plugin(self.peer.shared_name())
    }

    fn missing(&self, name: String) -> Error {
        let message = format!(
            "{} does not have this method: it was built from an older .proto",
            self.peer.name()
        );
        Error::of_kind(ErrorKind::Unimplemented, message)
            .with_plugin(self.peer.shared_name())
            .with_method(|| name)
    }
}

impl<S> Clone for Caller<S> {
    fn clone(&self) -> Self {
        Caller { peer: self.peer.clone(), methods: self.methods.clone(), service: PhantomData }
    }
}

impl<S> fmt::Debug for Caller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<S> Caller<S> {
    /// The other side.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// A service of the other side, ready to be called. Implemented by generated code.
pub trait Proxy: Clone + Send + Sync + 'static {
    /// The service that this calls.
    type Service: Service;

    /// Makes a proxy of a caller.
    fn new(caller: Caller<Self::Service>) -> Self;

    /// The caller that this proxy was made of.
    fn caller(&self) -> &Caller<Self::Service>;

    /// The other side of the connection.
    fn peer(&self) -> &Peer {
        self.caller().peer()
    }
}

/// What only generated code may touch.
#[doc(hidden)]
pub mod codegen {
    use crate::error::{Code, Error};

    /// The version of the contract between generated code and this crate.
    pub const V1: () = ();

    /// The value of an unwrapped enum field.
    pub fn known_enum<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, Error> {
        E::try_from(number).map_err(|_| {
            Error::new(
                Code::InvalidArgument,
                format!(
                    "the enum field `{field}` has the value {number}, which this side's .proto does not name"
                ),
            )
        })
    }
}
