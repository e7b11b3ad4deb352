//! The contract with generated code, together with `incoming.rs` and `caller.rs`.
//!
//! A generated file implements [`Service`], [`Serve`] and [`Proxy`](crate::Proxy) and calls [`Caller`](crate::Caller)
//! and [`Incoming`]. It holds no policy: limits, time-outs and process care live behind these types.

use std::fmt;

use crate::incoming::{Incoming, Reply};

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

impl MethodKind {
    /// Whether a call has any number of requests.
    pub const fn streams_requests(self) -> bool {
        matches!(self, MethodKind::ClientStreaming | MethodKind::BidiStreaming)
    }

    /// Whether a call has any number of responses.
    pub const fn streams_responses(self) -> bool {
        matches!(self, MethodKind::ServerStreaming | MethodKind::BidiStreaming)
    }

    pub(crate) const fn of_streams(requests: bool, responses: bool) -> MethodKind {
        match (requests, responses) {
            (false, false) => MethodKind::Unary,
            (false, true) => MethodKind::ServerStreaming,
            (true, false) => MethodKind::ClientStreaming,
            (true, true) => MethodKind::BidiStreaming,
        }
    }
}

impl fmt::Display for MethodKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MethodKind::Unary => "unary",
            MethodKind::ServerStreaming => "server-streaming",
            MethodKind::ClientStreaming => "client-streaming",
            MethodKind::BidiStreaming => "bidirectionally streaming",
        })
    }
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
    pub(crate) descriptors: &'static [u8],
}

impl Offered {
    pub(crate) fn of<S: Service>() -> Offered {
        Offered {
            name: S::NAME,
            magic: S::MAGIC,
            version: S::VERSION,
            methods: S::METHODS,
            descriptors: S::DESCRIPTORS,
        }
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
