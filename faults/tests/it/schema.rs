//! V: both sides speak the protocol, but not of the same service.

use plug::{Caller, Code, Delivery, ErrorKind, Incoming, Method, Proxy, Reply, Serve, Service};
use plug_faults::{
    ActResponse, AdderProxy, AdderService, EchoRequest, ProbeProxy, ProbeService, load_adder,
    load_probe,
};

use crate::aftermath::{Case, evil, in_time, raw};

#[test]
fn v1_a_method_that_the_plugin_lacks_fails_its_calls_alone() {
    let case = Case::new();
    let probe = case.evil(&["--old"]);
    let error = probe.act("running").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error:?}");
    assert_eq!(error.code(), Code::Unimplemented);
    assert_eq!(error.delivery(), Delivery::NotSent);
    assert_eq!(error.method(), Some("probe.Probe/Act"));
    assert_eq!(probe.echo("still").unwrap(), b"still");
    drop(probe);
    case.finish();
}

#[test]
fn v2_a_service_that_the_plugin_lacks_fails_the_load_with_both_names() {
    let case = Case::new();
    let error = load_probe(evil(&["--other"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error:?}");
    assert!(error.message().contains("probe.Probe"), "{error}");
    assert!(error.message().contains("probe.Adder"), "{error}");
    assert_eq!(load_adder(evil(&["--other"])).unwrap().add(2, 3).unwrap(), 5);
    case.finish();
}

#[test]
fn several_services_live_in_one_process() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let peer = probe.peer().clone();
    assert_eq!(peer.services(), ["probe.Probe", "probe.Adder", "probe.Again"]);
    assert_eq!((peer.name(), peer.version()), ("evil", "6.6.6"));
    assert!(peer.has::<ProbeService>() && peer.has::<AdderService>());
    let adder: AdderProxy = peer.proxy().unwrap();
    drop((probe, peer));
    // The last proxy keeps the process.
    assert_eq!(adder.add(40, 2).unwrap(), 42);
    let probe: ProbeProxy = adder.peer().proxy().unwrap();
    assert_eq!(probe.echo("same").unwrap(), b"same");
    drop((adder, probe));
    case.finish();
}

#[test]
fn v5_a_response_that_is_not_utf_8_fails_its_call_alone() {
    let case = Case::new();
    let probe = case.load(raw(&["not-utf-8"]));
    let error = {
        let probe = probe.clone();
        in_time("the call", move || probe.act("first").unwrap_err())
    };
    assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
    assert_eq!(error.delivery(), Delivery::MayHaveRun);
    assert_eq!(in_time("the next call", move || probe.echo("next")).unwrap(), b"next");
    case.finish();
}

/// `probe.Probe` in a `.proto` where the argument of `Act` is `bytes`.
enum OtherProbeService {}

impl Service for OtherProbeService {
    const NAME: &'static str = "probe.Probe";
    const MAGIC: &'static str = "";
    const VERSION: u32 = 0;
    const METHODS: &'static [Method] = &[Method::unary("Act")];
    const DESCRIPTORS: &'static [u8] = b"";
}

/// A proxy as generated code has it.
macro_rules! proxy {
    ($name:ident, $service:ident) => {
        #[derive(Clone, Debug)]
        struct $name(Caller<$service>);

        impl Proxy for $name {
            type Service = $service;

            fn new(caller: Caller<$service>) -> $name {
                $name(caller)
            }

            fn caller(&self) -> &Caller<$service> {
                &self.0
            }
        }
    };
}

proxy!(OtherProbe, OtherProbeService);
proxy!(NewProbe, NewProbeService);
proxy!(StreamingProbe, StreamingProbeService);

#[test]
fn v5_a_request_that_is_not_utf_8_fails_its_call_alone() {
    let case = Case::new();
    let peer = evil(&[]).load().unwrap();
    let other: OtherProbe = peer.proxy().unwrap();
    let request = EchoRequest { payload: b"\xff\xfe".to_vec() };
    let error = other.0.unary::<_, ActResponse>(0, &request).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Status, Code::InvalidArgument),
        "{error:?}"
    );
    assert_eq!(error.delivery(), Delivery::NotSent);
    let request = EchoRequest { payload: b"running".to_vec() };
    assert_eq!(other.0.unary::<_, ActResponse>(0, &request).unwrap().said, "1");
    drop((peer, other));
    case.finish();
}

/// `probe.Probe` in a newer `.proto`, where a request and a response have more fields.
enum NewProbeService {}

/// What the newer side sends and expects: a field, an enumeration and an arm of a oneof more.
#[derive(Clone, PartialEq, plug::prost::Message)]
#[prost(prost_path = "::plug::prost")]
struct NewEcho {
    #[prost(bytes = "vec", tag = "1")]
    payload: Vec<u8>,
    #[prost(string, repeated, tag = "2")]
    tags: Vec<String>,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, optional, boxed, tag = "4")]
    within: Option<Box<NewEcho>>,
}

impl NewEcho {
    fn with(payload: &[u8]) -> NewEcho {
        let within = Some(Box::new(NewEcho { kind: 7, ..NewEcho::default() }));
        NewEcho { payload: payload.to_vec(), tags: vec!["new".to_owned()], kind: 1000, within }
    }
}

impl Service for NewProbeService {
    const NAME: &'static str = "probe.Probe";
    const MAGIC: &'static str = "";
    const VERSION: u32 = 0;
    const METHODS: &'static [Method] = &[Method::unary("Newest"), Method::unary("Echo")];
    const DESCRIPTORS: &'static [u8] = b"";
}

impl Serve<NewPlugin> for NewProbeService {
    fn serve(_: &NewPlugin, call: Incoming<'_>) -> Reply {
        call.unary(|NewEcho { payload, .. }| Ok(NewEcho::with(&payload)))
    }
}

struct NewPlugin;

impl plug::Plugin for NewPlugin {
    type Services = NewProbeService;
}

#[test]
fn v3_fields_of_a_newer_side_are_ignored() {
    let case = Case::new();
    // A newer host.
    let peer = evil(&[]).load().unwrap();
    let new: NewProbe = peer.proxy().unwrap();
    let response: NewEcho = new.0.unary(1, &NewEcho::with(b"new")).unwrap();
    assert_eq!(response, NewEcho { payload: b"new".to_vec(), ..NewEcho::default() });
    let error = new.0.unary::<_, NewEcho>(0, &NewEcho::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error:?}");
    drop((peer, new));
    // A newer plugin, with a method more in front of the others.
    let probe: plug_faults::ProbeProxy = plug::in_process(NewPlugin).unwrap().proxy().unwrap();
    assert_eq!(probe.echo("old").unwrap(), b"old");
    drop(probe);
    case.finish();
}

/// `probe.Probe` in a `.proto` where `Echo` returns a stream.
enum StreamingProbeService {}

impl Service for StreamingProbeService {
    const NAME: &'static str = "probe.Probe";
    const MAGIC: &'static str = "";
    const VERSION: u32 = 0;
    const METHODS: &'static [Method] = &[Method::unary("Act"), Method::server_streaming("Echo")];
    const DESCRIPTORS: &'static [u8] = b"";
}

#[test]
fn v6_a_method_of_another_kind_is_refused_at_load_with_both_kinds() {
    let case = Case::new();
    let peer = evil(&[]).load().unwrap();
    let error = peer.proxy::<StreamingProbe>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error:?}");
    println!("{error}");
    for part in ["Echo", "unary", "stream"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    // The others can still be used.
    assert!(peer.proxy::<AdderProxy>().is_ok());
    drop(peer);
    case.finish();
}
