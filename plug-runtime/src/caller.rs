//! Calls to the other side: what a proxy is made of.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use crate::blocking::Requests;
use crate::budget::{Budget, Side, decode_within};
use crate::cancel::CancelToken;
use crate::error::{Error, ErrorKind, Result};
use crate::options::{Options, Outbound};
use crate::peer::Peer;
use crate::service::Service;
use crate::stream::{Arriving, Origin, Stream};

/// Calls the methods of a service on the other side of a connection: what a proxy is made of.
pub struct Caller<S> {
    peer: Peer,
    /// The number by which the other side knows each method of `S`, in the order of
    /// [`Service::METHODS`]; `None` for those that it does not have.
    methods: Arc<[Option<u32>]>,
    /// What the calls are made with, where that is anything.
    options: Option<Arc<Options>>,
    service: PhantomData<fn() -> S>,
}

impl<S: Service> Caller<S> {
    pub(crate) fn new(peer: Peer, methods: Arc<[Option<u32>]>) -> Caller<S> {
        Caller { peer, methods, options: None, service: PhantomData }
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
        self.call::<Q, R>(method, request)
    }

    /// The same with a request that the caller does not need any more: a long one (16 KiB or more, encoded) is dropped as
    /// soon as it is encoded, and not only when the response is there. That to a plugin that is
    /// [restarted](crate::Command::restart) is kept until then, as it may have to be sent again.
    ///
    /// # Errors
    ///
    /// Those of [`unary`](Self::unary).
    ///
    /// # Panics
    ///
    /// Like [`unary`](Self::unary).
    pub fn unary_owned<Q, R>(&self, method: u32, request: Q) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        self.call::<Q, R>(method, request)
    }

    #[inline(always)]
    fn call<Q, R>(&self, method: u32, request: impl Borrow<Q>) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        let outbound = self.outbound(method, self.number(method)?);
        let response = self.peer.call_unary::<Q>(&outbound, request);
        self.decode(method, response)
    }

    /// Calls a method that is [one-way](crate::Method::one_way): returns when the call is on its way.
    ///
    /// # Errors
    ///
    /// Those of a call that cannot be sent. What becomes of it afterwards, nobody learns.
    ///
    /// # Panics
    ///
    /// Like [`unary`](Self::unary).
    pub fn one_way<Q: Message>(&self, method: u32, request: &Q) -> Result<()> {
        let outbound = self.outbound(method, self.number(method)?);
        let sent = self.peer.call_one_way(&outbound, request);
        sent.map_err(|error| self.name(method, error))
    }

    /// Calls a method whose response is a stream. Returns at once: what becomes of the call, the stream tells.
    ///
    /// # Errors
    ///
    /// Those of a call that cannot be sent.
    ///
    /// # Panics
    ///
    /// Like [`unary`](Self::unary).
    pub fn server_streaming<Q, R>(&self, method: u32, request: &Q) -> Result<Stream<R>>
    where
        Q: Message,
        R: Message + Default,
    {
        self.streaming(method, Requests::One(request))
    }

    /// Calls a method whose request is a stream: sends its items, and waits for the response.
    ///
    /// # Errors
    ///
    /// Those of [`unary`](Self::unary), and the error that `requests` end with.
    ///
    /// # Panics
    ///
    /// Like [`unary`](Self::unary).
    pub fn client_streaming<Q, R>(&self, method: u32, requests: Stream<Q>) -> Result<R>
    where
        Q: Message + 'static,
        R: Message + Default,
    {
        let outbound = self.outbound(method, self.number(method)?);
        let response = self.peer.call_with_stream(&outbound, Box::new(requests));
        self.decode(method, response)
    }

    /// Calls a method whose request and response are streams. Returns at once: the requests are sent while the
    /// responses are read.
    ///
    /// # Errors
    ///
    /// Those of a call that cannot be sent. An error that `requests` end with is the last item of the responses.
    ///
    /// # Panics
    ///
    /// Like [`unary`](Self::unary).
    pub fn bidi_streaming<Q, R>(&self, method: u32, requests: Stream<Q>) -> Result<Stream<R>>
    where
        Q: Message + 'static,
        R: Message + Default,
    {
        self.streaming(method, Requests::<Q>::Stream(Some(Box::new(requests))))
    }

    fn streaming<Q, R>(&self, method: u32, requests: Requests<'_, Q>) -> Result<Stream<R>>
    where
        Q: Message,
        R: Message + Default,
    {
        let outbound = self.outbound(method, self.number(method)?);
        let responses = self.peer.call_streaming(&outbound, requests);
        let messages = responses.map_err(|error| self.name(method, error))?;
        let origin =
            Origin::Responses { peer: self.peer.clone(), method: Self::method_name(method) };
        Ok(Stream::remote(Arriving::Linked(Box::new(messages)), origin, self.budget(method)))
    }

    /// By what number the other side knows a method, if it can be called with these options.
    #[inline(always)]
    fn number(&self, method: u32) -> Result<u32> {
        let number = self.methods[method as usize].ok_or_else(|| self.missing(method))?;
        if let Some(options) = &self.options {
            options.check().map_err(|error| self.name(method, error))?;
        }
        Ok(number)
    }

    #[inline(always)]
    fn outbound(&self, method: u32, number: u32) -> Outbound<'_> {
        let called = &S::METHODS[method as usize];
        let (kind, is_idempotent) = (called.kind(), called.is_idempotent());
        self.peer.outbound(number, kind, is_idempotent, self.options.as_deref())
    }

    fn decode<R: Message + Default>(&self, method: u32, response: Result<Bytes>) -> Result<R> {
        let limit = self.peer.decode_limit();
        response
            .and_then(|response| {
                let decoded = decode_within(limit, response, || self.budget(method));
                decoded.map_err(|error| error.of_response("the response"))
            })
            .map_err(|error| self.name(method, error))
    }

    /// What a response may take, decoded.
    fn budget(&self, method: u32) -> Budget {
        Budget::of::<S>(method as usize, Side::Response).with_limit(self.peer.decode_limit())
    }

    fn missing(&self, method: u32) -> Error {
        let message = format!(
            "{} does not have this method: it was built from an older .proto",
            self.peer.name()
        );
        self.name(method, Error::of_kind(ErrorKind::Unimplemented, message))
    }

    /// Adds to an error whose it is.
    fn name(&self, method: u32, error: Error) -> Error {
        error.with_plugin(self.peer.shared_name()).with_method(|| Self::method_name(method))
    }

    fn method_name(method: u32) -> String {
        format!("{}/{}", S::NAME, S::METHODS[method as usize].name())
    }
}

impl<S> Caller<S> {
    /// The other side.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The same, with other options for its calls.
    fn with(&self, change: impl FnOnce(&mut Options)) -> Caller<S> {
        let mut options = self.options.as_deref().cloned().unwrap_or_default();
        change(&mut options);
        Caller { options: Some(Arc::new(options)), ..self.clone() }
    }
}

impl<S> Clone for Caller<S> {
    fn clone(&self) -> Self {
        Caller {
            peer: self.peer.clone(),
            methods: self.methods.clone(),
            options: self.options.clone(),
            service: PhantomData,
        }
    }
}

impl<S> fmt::Debug for Caller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A service of the other side, ready to be called. Implemented by generated code.
///
/// The methods that begin with `with_` return a proxy for the same service whose calls have that option besides. It is
/// cheap to make, for a single call too, and leaves the one that it was made of as it is.
///
/// ```
/// # use plug::Proxy;
/// # fn get(_: &impl Proxy) -> plug::Result<()> { Ok(()) }
/// # fn calls(kv: &impl Proxy) -> plug::Result<()> {
/// use plug::Proxy as _;
/// use std::time::Duration;
///
/// let patient = kv.with_timeout(Duration::from_secs(60));
/// let traced = patient.with_metadata("trace-id", "4bf92f35");
/// # get(&traced)
/// # }
/// ```
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

    /// Gives each call that long, from its start to its end: that of a stream is when its last item has arrived. A call
    /// that takes longer fails with [`Code::DeadlineExceeded`](crate::Code::DeadlineExceeded), whatever its handler
    /// does; [`Call::deadline`](crate::Call::deadline) tells the handler. The items of a stream that have arrived in time
    /// can be read afterwards, and then comes the error.
    ///
    /// It replaces an earlier time-out or deadline of the proxy, and that of
    /// [`Command::timeout`](crate::Command::timeout). `Duration::MAX` is no limit. A handler's calls end with its own
    /// deadline in any case.
    fn with_timeout(&self, timeout: Duration) -> Self {
        Self::new(self.caller().with(|options| options.set_timeout(timeout)))
    }

    /// Like [`with_timeout`](Self::with_timeout), but all calls end at the same time.
    fn with_deadline(&self, deadline: Instant) -> Self {
        Self::new(self.caller().with(|options| options.set_deadline(deadline)))
    }

    /// Sends a value along with each call: a handler finds it with [`Call::metadata`](crate::Call::metadata). A key may
    /// be given more than once.
    ///
    /// A key is made of the letters `a` to `z`, digits, `-`, `_` and `.`, and does not begin with `plug.`. All keys and
    /// values of a call have at most 64 KiB. Otherwise the calls fail with
    /// [`Code::InvalidArgument`](crate::Code::InvalidArgument).
    fn with_metadata(&self, key: &str, value: impl Into<Bytes>) -> Self {
        Self::new(self.caller().with(|options| options.add_metadata(key, value.into())))
    }

    /// Has `token` cancel the calls: those under way, and all that are made later. It replaces an earlier one.
    fn with_cancel(&self, token: &CancelToken) -> Self {
        Self::new(self.caller().with(|options| options.set_cancel(token)))
    }
}
