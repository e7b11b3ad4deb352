//! What a plugin says about itself.

use crate::error::Result;
use crate::peer::Peer;
use crate::service::Services;

/// A plugin: an object that implements the traits of its services, and the list of them.
///
/// ```
/// # use plug::{Incoming, Method, Reply, Serve, Service};
/// # trait Kv: Send + Sync + 'static {}
/// # enum KvService {}
/// # impl Service for KvService {
/// #     const NAME: &'static str = "example.KV";
/// #     const MAGIC: &'static str = "";
/// #     const VERSION: u32 = 0;
/// #     const METHODS: &'static [Method] = &[];
/// #     const DESCRIPTORS: &'static [u8] = b"";
/// # }
/// # impl<T: Kv + ?Sized> Serve<T> for KvService {
/// #     fn serve(_: &T, call: Incoming<'_>) -> Reply { call.unimplemented() }
/// # }
/// struct Store;
///
/// impl Kv for Store { /* … */ }
///
/// impl plug::Plugin for Store {
///     type Services = KvService; // or (KvService, SerializerService)
/// }
/// ```
pub trait Plugin: Sized + Send + Sync + 'static {
    /// The generated markers of the services that this object implements.
    type Services: Services<Self>;

    /// The name that hosts see. Empty: the name of the program, as it was started.
    const NAME: &'static str = "";

    /// The version that hosts see, for instance `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str = "";

    /// What else the plugin says about itself, as keys and values: `description`, `author`, `licence`, the permissions
    /// that it asks for. Hosts find it with [`Peer::attribute`] and
    /// [`Description::attributes`](crate::Description::attributes).
    const ATTRIBUTES: &'static [(&'static str, &'static str)] = &[];

    /// How many calls of its host, streams included, the plugin serves at once: more wait on the host's side. Each handler
    /// that runs at the same time takes a thread; a stream takes one only while its iterator makes the next item.
    const MAX_CALLS: u32 = 1024;

    /// Called once, before the first call. `host` has proxies for what the host offers, and its
    /// [configuration](Peer::config).
    ///
    /// # Errors
    ///
    /// An error fails the load, and the host gets its text.
    fn start(&self, host: &Peer) -> Result<()> {
        let _ = host;
        Ok(())
    }

    /// Called once, after the last call, when the host ends the connection or is gone. Then the plugin is dropped.
    fn stop(&self) {}
}
