//! What one side of a connection serves: services, and the object behind them.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::incoming::{Incoming, Reply};
use crate::service::{Offered, Services};

/// An object that can be offered as the services `S`: an [`Arc`] of what implements their traits, or of a trait object.
/// See [`Command::serve`](crate::Command::serve).
pub trait Offer<S> {
    #[doc(hidden)]
    fn into_offers(self) -> Offers;
}

impl<S, T> Offer<S> for Arc<T>
where
    S: Services<T> + 'static,
    T: ?Sized + Send + Sync + 'static,
{
    fn into_offers(self) -> Offers {
        Offers::new::<S, T>(self)
    }
}

/// Services, and how their methods are run.
#[doc(hidden)]
#[derive(Clone)]
pub struct Offers {
    pub(crate) services: Vec<Offered>,
    /// Runs a method of the service with that place in `services`.
    pub(crate) serve: Arc<Handler>,
}

pub(crate) type Handler = dyn Fn(usize, Incoming<'_>) -> Reply + Send + Sync;

impl Offers {
    pub(crate) fn new<S, T>(object: Arc<T>) -> Offers
    where
        S: Services<T> + 'static,
        T: ?Sized + Send + Sync + 'static,
    {
        let serve = move |service: usize, call: Incoming<'_>| S::dispatch(&object, service, call);
        Offers { services: S::offer(), serve: Arc::new(serve) }
    }

    /// The same, of an object that its owner keeps while there are calls. It may hold the connection that holds these:
    /// neither would ever be dropped.
    pub(crate) fn of_kept<S, T>(object: Weak<T>) -> Offers
    where
        S: Services<T> + 'static,
        T: Send + Sync + 'static,
    {
        let serve = move |service: usize, call: Incoming<'_>| match object.upgrade() {
            Some(object) => S::dispatch(&object, service, call),
            None => call.unimplemented(),
        };
        Offers { services: S::offer(), serve: Arc::new(serve) }
    }
}

impl fmt::Debug for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.services.iter().map(|service| service.name)).finish()
    }
}
