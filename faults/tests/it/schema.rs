//! V: both sides speak the protocol, but not of the same service.

use plug::{Caller, Code, Delivery, ErrorKind, Method, Proxy, Service};
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
    assert_eq!(peer.services(), ["probe.Probe", "probe.Adder"]);
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

#[derive(Clone, Debug)]
struct OtherProbe(Caller<OtherProbeService>);

impl Proxy for OtherProbe {
    type Service = OtherProbeService;

    fn new(caller: Caller<OtherProbeService>) -> OtherProbe {
        OtherProbe(caller)
    }

    fn caller(&self) -> &Caller<OtherProbeService> {
        &self.0
    }
}

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
