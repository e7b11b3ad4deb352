//! Out-of-process plugins for Rust, typed by a `.proto`.
//!
//! `protoc-gen-plug` turns a protobuf service, say `KV`, into a trait `Kv`, which a plugin implements, a proxy
//! `KvProxy`, with which a host calls it, a marker `KvService`, and `load_kv`. This crate does the rest: it starts
//! the plugin as a child process and carries the calls over its stdin and stdout.
//!
//! - **A plugin** implements [`Plugin`] beside its services, and calls [`run`] in `main`.
//! - **A host** calls `load_kv` with a path or a [`Command`], or [`Command::load`] for a [`Peer`], whose
//!   [`Peer::proxy`] has a proxy for each service.
//! - **A test** calls `KvProxy::in_process`, or [`in_process`]: the same frames without a child.
//! - **Errors** are one type, [`Error`]: see [`Error::kind`], [`Error::code`] and [`Error::delivery`].
//! - **Streams**, as requests, responses or both, are [`Stream`]s: iterators on the side that reads, and made of any
//!   iterator or of a [channel](Stream::channel) on the side that sends.
//! - **Each call** may have a deadline, a [`CancelToken`] and metadata: the provided methods of [`Proxy`], and
//!   [`Command::timeout`]. A handler finds them in [`Call::current`], and what it calls in turn inherits the first two.
//! - **A plugin calls its host** with a proxy for what [`Command::serve`] offers. It gets it from the [`Peer`] in
//!   [`Plugin::start`], [`run_with`] or [`Call::peer`], where it finds its [configuration](Peer::config), too.
//! - **When a plugin ends**, [`Command::on_exit`] tells how and why. [`Command::restart`] starts it again, and
//!   [`Command::heartbeat`] ends one that hangs as a whole.
//! - **What a plugin is** tells [`Command::describe`] without loading it, and [`Peer::description`] of one that runs;
//!   [`Peer::call`] calls a method by its name.
//! - **What a plugin prints** is in [`Peer::stderr_lines`] and in errors, and goes where [`Command::forward_stderr`] and
//!   [`Command::on_stderr_line`] say. With the feature `tracing`, its events become
//!   events of the host: see `LogSubscriber`.
//! - **What a plugin may take, and who may replace it**: [`Command::max_memory`] and the like, [`Command::strict`], and
//!   with the feature `verify` `Command::sha256`.
//!
//! ```no_run
//! # mod kv {
//! #     use plug::{Caller, Incoming, Method, Proxy, Reply, Serve, Service};
//! #     pub trait Kv: Send + Sync + 'static {
//! #         fn get(&self, key: String) -> plug::Result<Vec<u8>>;
//! #     }
//! #     pub enum KvService {}
//! #     impl Service for KvService {
//! #         const NAME: &'static str = "example.KV";
//! #         const MAGIC: &'static str = "";
//! #         const VERSION: u32 = 0;
//! #         const METHODS: &'static [Method] = &[Method::unary("Get")];
//! #         const DESCRIPTORS: &'static [u8] = b"";
//! #     }
//! #     impl<T: Kv + ?Sized> Serve<T> for KvService {
//! #         fn serve(_: &T, call: Incoming<'_>) -> Reply { call.unimplemented() }
//! #     }
//! #     #[derive(Clone)]
//! #     pub struct KvProxy(Caller<KvService>);
//! #     impl Proxy for KvProxy {
//! #         type Service = KvService;
//! #         fn new(caller: Caller<KvService>) -> Self { KvProxy(caller) }
//! #         fn caller(&self) -> &Caller<KvService> { &self.0 }
//! #     }
//! #     impl KvProxy {
//! #         pub fn get(&self, _: &str) -> plug::Result<Vec<u8>> { Ok(Vec::new()) }
//! #     }
//! #     pub fn load_kv(command: impl Into<plug::Command>) -> plug::Result<KvProxy> {
//! #         command.into().load()?.proxy()
//! #     }
//! # }
//! // The plugin.
//! struct Store;
//!
//! impl kv::Kv for Store {
//!     fn get(&self, key: String) -> plug::Result<Vec<u8>> {
//!         Ok(std::fs::read(key)?)
//!     }
//! }
//!
//! impl plug::Plugin for Store {
//!     type Services = kv::KvService;
//! }
//!
//! fn plugin_main() -> plug::Result<()> {
//!     plug::run(Store)
//! }
//!
//! // The host.
//! fn host_main() -> plug::Result<()> {
//!     let kv = kv::load_kv("path/to/kv-plugin")?;
//!     match kv.get("hello") {
//!         Ok(value) => println!("{} bytes", value.len()),
//!         Err(error) if error.code() == plug::Code::NotFound => println!("nothing there"),
//!         Err(error) => return Err(error),
//!     }
//!     Ok(())
//! }
//! ```
//!
//! More than calls:
//!
//! ```no_run
//! # use plug::{Caller, Incoming, Method, Proxy, Reply, Serve, Service};
//! # pub trait Clock: Send + Sync + 'static {
//! #     fn now(&self) -> plug::Result<u64>;
//! # }
//! # pub enum ClockService {}
//! # impl Service for ClockService {
//! #     const NAME: &'static str = "example.Clock";
//! #     const MAGIC: &'static str = "";
//! #     const VERSION: u32 = 0;
//! #     const METHODS: &'static [Method] = &[Method::unary("Now")];
//! #     const DESCRIPTORS: &'static [u8] = b"";
//! # }
//! # impl<T: Clock + ?Sized> Serve<T> for ClockService {
//! #     fn serve(_: &T, call: Incoming<'_>) -> Reply { call.unimplemented() }
//! # }
//! # #[derive(Clone)]
//! # pub struct FeedProxy(Caller<ClockService>);
//! # impl Proxy for FeedProxy {
//! #     type Service = ClockService;
//! #     fn new(caller: Caller<ClockService>) -> Self { FeedProxy(caller) }
//! #     fn caller(&self) -> &Caller<ClockService> { &self.0 }
//! # }
//! # impl FeedProxy {
//! #     pub fn follow(&self, _: &str) -> plug::Result<plug::Stream<String>> { Ok(plug::Stream::new([])) }
//! # }
//! use std::sync::Arc;
//! use std::time::{Duration, SystemTime};
//!
//! use plug::{CancelToken, Command, Proxy as _};
//!
//! /// What the host offers: `service Clock { rpc Now(Empty) returns (Time); }`.
//! struct SystemClock;
//!
//! impl Clock for SystemClock {
//!     fn now(&self) -> plug::Result<u64> {
//!         let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
//!         Ok(since.as_secs())
//!     }
//! }
//!
//! fn host_main() -> plug::Result<()> {
//!     let command = Command::new("path/to/feed-plugin")
//!         .serve::<ClockService>(Arc::new(SystemClock))
//!         .timeout(Duration::from_secs(10));
//!     let feed: FeedProxy = command.load()?.proxy()?;
//!     let token = CancelToken::new(); // a clone of it ends the loop from another thread
//!     let feed = feed.with_timeout(Duration::MAX).with_cancel(&token);
//!     for line in feed.follow("news")? {
//!         println!("{}", line?);
//!     }
//!     Ok(())
//! }
//! ```

#[cfg(not(unix))]
compile_error!("plug-runtime starts plugins on Unix only, so far");

mod blocking;
mod budget;
mod call;
mod caller;
mod cancel;
mod choices;
mod description;
mod encoding;
mod error;
mod exit;
mod fuzz;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod incoming;
#[cfg(feature = "tracing")]
mod log;
#[cfg(not(feature = "tracing"))]
#[path = "log/off.rs"]
mod log;
mod notice;
mod offer;
mod options;
mod panics;
mod peer;
mod plugin;
mod process;
mod protocol;
mod restart;
mod service;
mod stream;
mod sync;
mod sys;

pub use blocking::{hosted, in_process, run, run_with};
pub use call::Call;
pub use caller::{Caller, Proxy};
pub use cancel::CancelToken;
pub use description::{Description, MethodDescription, ServiceDescription};
pub use error::{Code, Delivery, Error, ErrorKind, Result, ResultExt};
pub use exit::{Exit, ExitCause, ExitStatus};
pub use fuzz::fuzz;
pub use incoming::{Incoming, Reply};
#[cfg(feature = "tracing")]
pub use log::LogSubscriber;
pub use offer::Offer;
pub use peer::Peer;
pub use plugin::Plugin;
pub use process::{Command, SharedMemory, StderrLines};
pub use restart::Restart;
#[doc(hidden)]
pub use service::codegen;
pub use service::{Method, MethodKind, Serve, Service, Services};
pub use stream::{IntoStream, Sender, Stream, TrySendError};
#[cfg(plug_seam)]
#[doc(hidden)]
pub use sys::seam::{arm as arm_seam, disarm as disarm_seam};

/// What generated messages are made of: `plug::prost::Message` encodes them, `plug::prost_types::Any` is one of the
/// well-known types, `plug::bytes::Bytes` a `bytes` field where the generator was asked for that.
pub use {bytes, prost, prost_types};

/// Includes what `protoc_gen_plug::compile` generated in `build.rs`.
///
/// `plug::include_proto!("example")` includes the code of the package `example` right here.
/// `plug::include_proto!()` includes the code of all packages, as modules nested like the packages.
#[macro_export]
macro_rules! include_proto {
    () => {
        ::core::include!(::core::concat!(::core::env!("OUT_DIR"), "/plug_modules.rs"));
    };
    ($package:tt) => {
        ::core::include!(::core::concat!(::core::env!("OUT_DIR"), "/", $package, ".rs"));
    };
}
