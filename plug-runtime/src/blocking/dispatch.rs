//! From the number of a method to the handler, and from what the handler does to an outcome.

use std::sync::Arc;
use std::task::{Poll, Waker};

use super::messages::Messages;
use crate::budget::{Budget, Side};
use crate::call::{self, CallState, Start};
use crate::encoding::Encoded;
use crate::error::{Code, Delivery, Error, Result};
use crate::incoming::{Incoming, Outcome};
use crate::offer::{Handler, Offers};
use crate::panics;
use crate::peer::WeakPeer;
use crate::protocol::{Answer, MethodInfo, Request, ServiceInfo};
use crate::service::Offered;
use crate::stream::{Arriving, Outgoing};

/// Everything that one side of a connection serves.
pub(crate) struct Dispatch {
    /// By number, which counts from 1.
    methods: Vec<Method>,
    handlers: Vec<Arc<Handler>>,
}

struct Method {
    handler: usize,
    /// The place of the service among those of its handler, and of the method in the service.
    service: usize,
    index: u32,
    name: Arc<str>,
    /// What a request may take, but for the limit.
    budget: Budget,
}

impl Dispatch {
    pub(super) fn new(offers: Vec<Offers>) -> Dispatch {
        let mut methods = Vec::new();
        let mut handlers = Vec::new();
        for (handler, offers) in offers.into_iter().enumerate() {
            for (service, offered) in offers.services.iter().enumerate() {
                for (index, method) in (0..).zip(offered.methods) {
                    let name = format!("{}/{}", offered.name, method.name()).into();
                    let descriptors = offered.descriptors;
                    let budget =
                        Budget::new(offered.name, descriptors, method.name(), Side::Request);
                    methods.push(Method { handler, service, index, name, budget });
                }
            }
            handlers.push(offers.serve);
        }
        Dispatch { methods, handlers }
    }

    /// What the handler of a call will see of it. `spare` is that of a call before, if the worker has one.
    pub(super) fn begin(
        &self,
        spare: Option<Arc<CallState>>,
        method: u32,
        start: Start<'_>,
        peer: &WeakPeer,
    ) -> Arc<CallState> {
        match self.method(method) {
            Some(method) => CallState::new(spare, start, &method.name, peer),
            None => CallState::new(spare, start, &"".into(), peer),
        }
    }

    /// Runs the handler on this thread. A panic fails the call, and nothing else. `messages` is the stream of requests
    /// of a method that takes one, `buffer` is for the response, and a request takes at most `decode_limit`.
    ///
    /// A stream that is returned need not be told which call it belongs to: that is the current one while its items
    /// are made, and ends when the stream is dropped.
    pub(super) fn run(
        &self,
        request: Request,
        messages: Option<Box<Messages>>,
        call: Arc<CallState>,
        buffer: Vec<u8>,
        decode_limit: usize,
    ) -> Outcome {
        let Some(method) = self.method(request.method) else {
            return Outcome::Answer(Answer::Refused(Error::status(
                Code::Unimplemented,
                format!("there is no method with the number {}", request.method),
                Delivery::NotSent,
            )));
        };
        let handler = &self.handlers[method.handler];
        let messages = messages.map(Arriving::Linked);
        let run = || {
            let incoming = Incoming {
                method: method.index,
                name: &method.name,
                request: request.message,
                budget: &method.budget,
                decode_limit,
                messages,
                buffer,
            };
            handler(method.service, incoming)
        };
        let (ran, call) = call::run_within(call, || panics::catch("the handler", run));
        let outcome = match ran {
            Ok(reply) => reply.outcome,
            Err(error) => Outcome::Answer(Answer::Failed(error)),
        };
        match outcome {
            Outcome::Stream(stream) => Outcome::Stream(Box::new(Responses(Some((call, stream))))),
            Outcome::Answer(answer) => {
                call.end();
                Outcome::Answer(answer)
            }
        }
    }

    fn method(&self, number: u32) -> Option<&Method> {
        self.methods.get((number as usize).checked_sub(1)?)
    }
}

/// The stream that a handler has returned, and its call. `None` once it has ended: what it holds is given back at once.
struct Responses(Option<(Arc<CallState>, Box<dyn Outgoing>)>);

impl Responses {
    /// Takes the next item while the call is the current one. (Another hold on the call for each item would be two
    /// atomic operations.)
    fn take(
        &mut self,
        next: impl FnOnce(&mut dyn Outgoing) -> Poll<Option<Result<()>>>,
    ) -> Poll<Option<Result<()>>> {
        let Some((call, mut stream)) = self.0.take() else { return Poll::Ready(None) };
        let ((item, rest), call) = call::run_within(call, || {
            let item = next(&mut *stream);
            if !matches!(item, Poll::Ready(None | Some(Err(_)))) {
                return (item, Some(stream));
            }
            // A panic in a drop of the user's was printed, and changes nothing: the stream is over.
            let _ = panics::catch("the stream", || drop(stream));
            (item, None)
        });
        match rest {
            Some(stream) => self.0 = Some((call, stream)),
            None => call.end(),
        }
        item
    }
}

impl Outgoing for Responses {
    fn poll_message(&mut self, waker: &Waker, out: &mut Encoded) -> Poll<Option<Result<()>>> {
        self.take(|stream| stream.poll_message(waker, out))
    }
}

impl Drop for Responses {
    /// As if it had nothing more.
    fn drop(&mut self) {
        let _ = self.take(|_| Poll::Ready(None));
    }
}

/// What the hello says of services.
pub(super) fn service_infos<'a>(offered: impl Iterator<Item = &'a Offered>) -> Vec<ServiceInfo> {
    let info = |offer: &Offered| ServiceInfo {
        name: offer.name.to_owned(),
        magic: offer.magic.to_owned(),
        version: offer.version,
        methods: offer
            .methods
            .iter()
            .map(|method| MethodInfo {
                name: method.name().to_owned(),
                streams_requests: method.kind().streams_requests(),
                streams_responses: method.kind().streams_responses(),
                one_way: method.is_one_way(),
            })
            .collect(),
    };
    offered.map(info).collect()
}

/// A connection that nothing comes over.
#[cfg(test)]
pub(crate) fn idle_link() -> Arc<super::link::Link> {
    use crate::protocol::{Connection, Hello, Side};
    let (input, output) = crate::sys::pipe::pair().unwrap();
    let core = Connection::new(Side::Host, Hello::new(String::new(), String::new()), None);
    super::link::Link::new(core, input, output, false).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incoming::Reply;
    use crate::service::Method as ServiceMethod;
    use crate::stream::Stream;

    const METHODS: &[ServiceMethod] = &[ServiceMethod::server_streaming("Watch")];

    fn offers(serve: impl Fn(Incoming<'_>) -> Reply + Send + Sync + 'static) -> Offers {
        let service =
            Offered { name: "a.B", magic: "", version: 0, methods: METHODS, descriptors: b"" };
        Offers { services: vec![service], serve: Arc::new(move |_, call| serve(call)) }
    }

    fn run(dispatch: &Dispatch, method: u32) -> (Arc<CallState>, Outcome) {
        let link = idle_link();
        let start = Start { id: 2, link: &link, extra: None };
        let call = dispatch.begin(None, method, start, &WeakPeer::default());
        let request = Request { call: 2, method, ..Request::default() };
        let outcome = dispatch.run(request, None, call.clone(), Vec::new(), usize::MAX);
        (call, outcome)
    }

    /// Whether callbacks are still kept for a call, as they are until it ends.
    fn has_ended(call: &Arc<CallState>) -> bool {
        let held = Arc::new(());
        let holding = held.clone();
        let _entered = call::enter(Some(call.clone()));
        crate::Call::current().on_cancel(move || drop(holding));
        Arc::strong_count(&held) == 1
    }

    #[test]
    fn the_call_is_current_while_its_items_are_made_and_ends_with_its_stream() {
        let dispatch = Dispatch::new(vec![offers(|call| {
            call.server_streaming(|()| {
                let mut left = 0..3;
                let name = move || crate::Call::current().method().to_owned();
                Ok(Stream::new(std::iter::from_fn(move || left.next().map(|_| name()))))
            })
        })]);
        for reads in [1, 4] {
            let (call, outcome) = run(&dispatch, 1);
            let Outcome::Stream(mut stream) = outcome else { panic!("{outcome:?}") };
            for read in 0..reads {
                let mut out = Encoded::default();
                let polled = stream.poll_message(Waker::noop(), &mut out);
                let Poll::Ready(item) = polled else { panic!("an iterator is always ready") };
                assert_eq!(item.is_some(), read < 3);
                let text: String = prost::Message::decode(&out.bytes[..]).unwrap();
                assert_eq!(text, if read < 3 { "a.B/Watch" } else { "" });
            }
            assert_eq!(has_ended(&call), reads == 4);
            assert_eq!(crate::Call::current().method(), "", "it is current nowhere else");
            drop(stream);
            assert!(has_ended(&call), "after {reads} reads");
        }
    }

    #[test]
    fn a_drop_that_panics_ends_the_call_and_nothing_else() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("as a test");
            }
        }
        let dispatch = Dispatch::new(vec![offers(|call| {
            call.server_streaming(|()| {
                let bad = Bad;
                Ok(Stream::new(std::iter::from_fn(move || {
                    let _ = &bad;
                    Some(7_u64)
                })))
            })
        })]);
        let (call, outcome) = run(&dispatch, 1);
        drop(outcome);
        assert!(has_ended(&call));
    }

    #[test]
    fn methods_are_numbered_through_all_offers() {
        let answer = |with: u64| move |call: Incoming<'_>| call.unary(move |()| Ok(with));
        let dispatch = Dispatch::new(vec![offers(answer(10)), offers(answer(11))]);
        for (method, expected) in [(0, None), (1, Some(10)), (2, Some(11)), (3, None)] {
            let (_, outcome) = run(&dispatch, method);
            let answered: Option<u64> = match outcome {
                Outcome::Answer(Answer::Response(bytes)) => prost::Message::decode(&bytes[..]).ok(),
                Outcome::Answer(Answer::Refused(error)) => {
                    assert_eq!(error.code(), Code::Unimplemented);
                    None
                }
                other => panic!("method {method}: {other:?}"),
            };
            assert_eq!(answered, expected, "method {method}");
        }
    }
}
