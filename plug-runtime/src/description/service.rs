//! The service by which a plugin that runs gives its descriptors.

use std::sync::Arc;

use super::encoded::{Descriptors, merged};
use crate::incoming::Incoming;
use crate::offer::Offers;
use crate::service::{Method, Offered};

/// Its name.
pub(crate) const SERVICE: &str = "plug.Description";

/// Its only method.
pub(crate) const GET: &str = "Get";

/// That service, for the descriptors of `services`.
///
/// Each plugin comes by here as it starts, and by nothing that is near here: 64 KiB of its program that it would hold in
/// memory for this alone.
#[inline(always)]
pub(crate) fn offer(services: &[Offered]) -> Offers {
    const METHODS: &[Method] = &[Method::unary(GET).idempotent()];
    let sets: Vec<_> = services.iter().map(|service| service.descriptors).collect();
    let serve = move |_, call: Incoming<'_>| {
        call.unary(|()| Ok(Descriptors { descriptors: merged(&sets)? }))
    };
    let offered =
        Offered { name: SERVICE, magic: "", version: 0, methods: METHODS, descriptors: b"" };
    Offers { services: vec![offered], serve: Arc::new(serve) }
}

/// Whether a service is the runtime's own, and not shown.
pub(crate) fn is_built_in(service: &str) -> bool {
    service.starts_with("plug.")
}
