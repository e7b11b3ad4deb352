//! Fuzzing of what users implement.

use std::task::{Poll, Waker};

use bytes::Bytes;

use crate::budget::{Budget, Side};
use crate::choices::Choices;
use crate::encoding::Encoded;
use crate::incoming::{Incoming, Outcome};
use crate::plugin::Plugin;
use crate::service::Services;
use crate::stream::{Arriving, Outgoing};

/// Calls methods of one service of a plugin as `data` says: for a fuzzer, without a process and without threads.
///
/// The requests are arbitrary bytes, which are decoded and dispatched as those of a host are; what cannot be decoded
/// reaches no handler. A stream of responses is read as far as it comes without waiting, and then dropped. There is no
/// host: [`Call::current`](crate::Call::current) is that of no call, and [`Plugin::start`] is not called. What is
/// returned counts for nothing: a fuzzer looks for panics, hangs and leaks.
///
/// `data` is a sequence of calls: a byte for the method, modulo how many there are; where requests are a stream, a byte
/// for how many; and for each request its length, two bytes with the high one first, and itself. What is missing at the
/// end is 0 or empty. There are at most 256 calls.
///
/// What a host offers is fuzzed in the same way, if a [`Plugin`] is made of it. `protoc-gen-plug` writes a target for
/// cargo-fuzz with its option `fuzz`.
///
/// # Panics
///
/// If the plugin has no such service, and if a handler panics.
///
/// ```no_run
/// # fn fuzz_target(store: impl plug::Plugin, data: &[u8]) {
/// plug::fuzz(&store, "example.KV", data);
/// # }
/// ```
pub fn fuzz<P: Plugin>(plugin: &P, service: &str, data: &[u8]) {
    let offered = P::Services::offer();
    let Some(place) = offered.iter().position(|offered| offered.name == service) else {
        let names: Vec<&str> = offered.iter().map(|offered| offered.name).collect();
        panic!("the plugin has no service {service}; it has {names:?}");
    };
    let offered = offered[place];
    let methods = offered.methods;
    let mut choices = Choices::new(data);
    for _ in 0..MOST_CALLS {
        if choices.are_over() || methods.is_empty() {
            break;
        }
        let index = choices.below(methods.len());
        let method = methods[index];
        let streams = method.kind().streams_requests();
        let count = if streams { choices.below(256) } else { 1 };
        let mut requests = Vec::new();
        for _ in 0..count {
            if streams && choices.are_over() {
                break;
            }
            let len = choices.below(1 << 16);
            requests.push(Bytes::copy_from_slice(choices.take(len)));
        }
        let budget = Budget::new(offered.name, offered.descriptors, method.name(), Side::Request);
        let incoming = Incoming {
            method: index as u32,
            name: &format!("{service}/{}", method.name()),
            request: if streams { Bytes::new() } else { requests.pop().unwrap_or_default() },
            budget: &budget,
            decode_limit: budget.limit(),
            messages: streams.then(|| Arriving::Given(requests.into_iter())),
            buffer: Vec::new(),
        };
        let reply = P::Services::dispatch(plugin, place, incoming);
        if let Outcome::Stream(responses) = reply.outcome {
            read(responses);
        }
    }
}

fn read(mut responses: Box<dyn Outgoing>) {
    let mut message = Encoded::default();
    for _ in 0..MOST_RESPONSES {
        match responses.poll_message(Waker::noop(), &mut message) {
            Poll::Ready(Some(Ok(()))) => {}
            Poll::Ready(None | Some(Err(_))) | Poll::Pending => return,
        }
    }
}

/// How many calls of an input are made, and how many responses of a stream are read.
const MOST_CALLS: usize = 256;
const MOST_RESPONSES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use prost::Message as _;

    use super::*;
    use crate::{Method, Reply, Result, Serve, Service, Stream};

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Recorder {
        fn note(&self, what: &str, requests: impl IntoIterator<Item = Result<String>>) {
            let requests: Vec<String> = requests
                .into_iter()
                .map(|request| request.unwrap_or_else(|error| format!("{:?}", error.code())))
                .collect();
            self.0.lock().unwrap().push(format!("{what} {}", requests.join(" ")));
        }
    }

    enum Recording {}

    impl Service for Recording {
        const NAME: &'static str = "a.B";
        const MAGIC: &'static str = "";
        const VERSION: u32 = 0;
        const METHODS: &'static [Method] = &[
            Method::unary("One"),
            Method::client_streaming("Many"),
            Method::server_streaming("Endless"),
        ];
        const DESCRIPTORS: &'static [u8] = b"";
    }

    impl Serve<Recorder> for Recording {
        fn serve(plugin: &Recorder, call: Incoming<'_>) -> Reply {
            match call.method() {
                0 => call.unary(|request: String| {
                    plugin.note("one", [Ok(request)]);
                    Ok(0_u64)
                }),
                1 => call.client_streaming(|requests: Stream<String>| {
                    plugin.note("many", requests);
                    Ok(0_u64)
                }),
                _ => call.server_streaming(|request: String| {
                    plugin.note("endless", [Ok(request)]);
                    Ok(Stream::new(0_u64..))
                }),
            }
        }
    }

    impl Plugin for Recorder {
        type Services = Recording;
    }

    fn request(text: &str) -> Vec<u8> {
        let encoded = text.to_owned().encode_to_vec();
        [&[0, encoded.len() as u8][..], &encoded].concat()
    }

    #[test]
    fn the_methods_are_called_with_what_can_be_decoded() {
        let recorder = Recorder::default();
        let data = [
            &[3][..],
            &request("a"),
            &[1, 2],
            &request("b"),
            &request("c"),
            // A string that is not there, alone and in a stream.
            &[0, 0, 2, 0x0a, 9],
            &[1, 2, 0, 2, 0x0a, 9],
            &request("d"),
            &[2],
            &request("e"),
            &[1, 7],
        ];
        fuzz(&recorder, "a.B", &data.concat());
        let noted = recorder.0.into_inner().unwrap();
        assert_eq!(noted, ["one a", "many b c", "many InvalidArgument", "endless e", "many "]);
    }

    #[test]
    #[should_panic(expected = "the plugin has no service a.C; it has [\"a.B\"]")]
    fn a_service_that_is_not_there_is_told() {
        fuzz(&Recorder::default(), "a.C", b"");
    }
}
