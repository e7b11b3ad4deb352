//! From the number of a method to the handler, and from what the handler does to an answer.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};

use crate::error::{Code, Delivery, Error};
use crate::plugin::Plugin;
use crate::protocol::{Answer, MethodInfo, Request, ServiceInfo};
use crate::service::{Incoming, MethodKind, Offered, Reply, Services};

/// Everything that one side of a connection serves.
pub(crate) struct Dispatch {
    /// By number, which counts from 1: service, method in the service, full name.
    methods: Vec<(usize, u32, String)>,
    serve: Box<dyn Fn(usize, Incoming<'_>) -> Reply + Send + Sync>,
}

impl Dispatch {
    pub(super) fn new<P: Plugin>(plugin: Arc<P>) -> Dispatch {
        record_panics();
        let offered = P::Services::offer();
        let mut methods = Vec::new();
        for (service, offer) in offered.iter().enumerate() {
            for (index, method) in (0..).zip(offer.methods) {
                methods.push((service, index, format!("{}/{}", offer.name, method.name())));
            }
        }
        let serve =
            move |service: usize, call: Incoming<'_>| P::Services::dispatch(&plugin, service, call);
        Dispatch { methods, serve: Box::new(serve) }
    }

    /// Runs the handler on this thread. A panic fails the call, and nothing else. `buffer` is for the response.
    pub(super) fn run(&self, request: Request, buffer: Vec<u8>) -> Answer {
        let index = (request.method as usize).checked_sub(1);
        let Some((service, method, name)) = index.and_then(|index| self.methods.get(index)) else {
            return Answer::Refused(Error::status(
                Code::Unimplemented,
                format!("there is no method with the number {}", request.method),
                Delivery::NotSent,
            ));
        };
        let call = Incoming { method: *method, name, request: request.message, buffer };
        PANIC_PLACE.take();
        // What a handler left half-done when it panicked, it left to itself: the runtime shares nothing with it.
        match panic::catch_unwind(AssertUnwindSafe(|| (self.serve)(*service, call))) {
            Ok(reply) => reply.answer,
            Err(payload) => {
                let place = PANIC_PLACE.take().unwrap_or_default();
                let text = format!("the handler panicked{place}: {}", panic_text(&*payload));
                // The payload's own drop may panic too.
                let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(payload)));
                Answer::Failed(Error::new(Code::Internal, text))
            }
        }
    }
}

/// What the hello says of the services of a plugin.
pub(super) fn service_infos(offered: Vec<Offered>) -> Vec<ServiceInfo> {
    let info = |offer: Offered| ServiceInfo {
        name: offer.name.to_owned(),
        magic: offer.magic.to_owned(),
        version: offer.version,
        methods: offer
            .methods
            .iter()
            .map(|method| {
                let kind = method.kind();
                let streams_both = kind == MethodKind::BidiStreaming;
                MethodInfo {
                    name: method.name().to_owned(),
                    streams_requests: streams_both || kind == MethodKind::ClientStreaming,
                    streams_responses: streams_both || kind == MethodKind::ServerStreaming,
                }
            })
            .collect(),
    };
    offered.into_iter().map(info).collect()
}

pub(super) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}

thread_local! {
    /// Where this thread panicked last, as ` at file:line:column`.
    static PANIC_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Adds the place of a panic, which only a hook is told, to what the hook so far does.
fn record_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(location) = info.location() {
                // Not if the thread is ending, and its locals are gone.
                let _ =
                    PANIC_PLACE.try_with(|place| place.replace(Some(format!(" at {location}"))));
            }
            before(info);
        }));
    });
}
