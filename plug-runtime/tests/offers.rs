//! What hosts and plugins tell each other at load, and what they offer, with plugins inside the process.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plug::{
    Call, Caller, Code, Command, ErrorKind, Incoming, Method, MethodKind, Peer, Plugin, Proxy,
    Reply, Result, Serve, Service,
};

/// Texts in, texts out, by whatever implements it.
trait Texts: Send + Sync + 'static {
    fn change(&self, text: String) -> Result<String>;
}

enum TextsService {}

impl Service for TextsService {
    const NAME: &'static str = "test.Texts";
    const MAGIC: &'static str = "";
    const VERSION: u32 = 0;
    const METHODS: &'static [Method] = &[Method::unary("Change")];
    const DESCRIPTORS: &'static [u8] = b"\x0a\x0c\x0a\x0atest.proto";
}

impl<T: Texts + ?Sized> Serve<T> for TextsService {
    fn serve(plugin: &T, call: Incoming<'_>) -> Reply {
        match call.method() {
            0 => call.unary(|text| plugin.change(text)),
            _ => call.unimplemented(),
        }
    }
}

/// The same service, as a host sees it whose `.proto` has a stream where the plugin's has none.
enum StreamingTextsService {}

impl Service for StreamingTextsService {
    const NAME: &'static str = "test.Texts";
    const MAGIC: &'static str = "";
    const VERSION: u32 = 0;
    const METHODS: &'static [Method] =
        &[Method::unary("Unknown"), Method::server_streaming("Change")];
    const DESCRIPTORS: &'static [u8] = b"";
}

macro_rules! proxy {
    ($name:ident, $service:ty) => {
        #[derive(Clone, Debug)]
        struct $name(Caller<$service>);

        impl Proxy for $name {
            type Service = $service;

            fn new(caller: Caller<$service>) -> Self {
                $name(caller)
            }

            fn caller(&self) -> &Caller<$service> {
                &self.0
            }
        }
    };
}

proxy!(TextsProxy, TextsService);
proxy!(StreamingTextsProxy, StreamingTextsService);

impl TextsProxy {
    fn change(&self, text: &str) -> Result<String> {
        self.0.unary(0, &text.to_owned())
    }
}

/// Answers with what it knows of the call and its host.
#[derive(Default)]
struct Teller {
    found: Arc<Mutex<Vec<String>>>,
}

impl Texts for Teller {
    fn change(&self, text: String) -> Result<String> {
        let call = Call::current();
        let has_peer = call.peer().is_some();
        Ok(format!("{text} by {} with a peer: {has_peer}", call.method()))
    }
}

impl Plugin for Teller {
    type Services = TextsService;
    const NAME: &'static str = "teller";
    const VERSION: &'static str = "1.2";
    const ATTRIBUTES: &'static [(&'static str, &'static str)] =
        &[("author", "somebody"), ("licence", "MIT")];

    fn start(&self, host: &Peer) -> Result<()> {
        let mut found = self.found.lock().unwrap();
        found.extend(host.services().iter().map(|service| (*service).to_owned()));
        found.push(format!("has it: {}", host.has::<TextsService>()));
        match host.config::<String>() {
            Ok(config) => found.push(config),
            Err(error) => found.push(format!("{:?}", error.code())),
        }
        Ok(())
    }
}

/// Loads a plugin with what `change` makes of its command, and returns what it found.
fn found_by_plugin(change: impl FnOnce(Command) -> Command) -> Vec<String> {
    let teller = Teller::default();
    let found = teller.found.clone();
    change(Command::in_process(teller)).load().unwrap();
    found.lock().unwrap().clone()
}

fn texts() -> TextsProxy {
    plug::in_process(Teller::default()).unwrap().proxy().unwrap()
}

#[test]
fn a_plugin_finds_the_services_and_the_configuration_of_its_host() {
    let host: Arc<dyn Texts> = Arc::new(Teller::default());
    let found = found_by_plugin(|command| {
        command.serve::<TextsService>(host).config(&"be quick".to_owned())
    });
    assert_eq!(found, ["test.Texts", "has it: true", "be quick"]);
    assert_eq!(found_by_plugin(|command| command), ["has it: false", "FailedPrecondition"]);
}

#[test]
fn a_service_that_is_offered_twice_fails_the_load() {
    let host = Arc::new(Teller::default());
    let command = Command::in_process(Teller::default())
        .serve::<TextsService>(host.clone())
        .serve::<(TextsService,)>(host);
    let error = command.load().unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("test.Texts"), "{error}");
}

#[test]
fn a_configuration_that_is_too_long_fails_the_load() {
    let long = "x".repeat(512 << 10);
    let error = Command::in_process(Teller::default()).config(&long).load().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
}

#[test]
fn a_host_reads_the_attributes_of_a_plugin() {
    let peer = plug::in_process(Teller::default()).unwrap();
    assert_eq!(peer.attributes(), [("author", "somebody"), ("licence", "MIT")]);
    assert_eq!(peer.attribute("licence"), Some("MIT"));
    assert_eq!(peer.attribute("none"), None);
}

#[test]
fn a_method_with_a_stream_on_one_side_only_is_refused_with_both_kinds() {
    let peer = plug::in_process(Teller::default()).unwrap();
    assert!(peer.has::<TextsService>() && !peer.has::<StreamingTextsService>());
    let error = peer.proxy::<StreamingTextsProxy>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    let both = "test.Texts/Change is server-streaming here and unary in teller";
    assert!(error.message().contains(both), "{error}");
}

#[test]
fn a_handler_knows_its_call() {
    let texts = texts();
    for text in ["one", "two"] {
        let expected = format!("{text} by test.Texts/Change with a peer: true");
        assert_eq!(texts.change(text).unwrap(), expected);
    }
    assert_eq!(Call::current().method(), "", "outside of handlers there is none");
}

#[test]
fn metadata_with_a_bad_key_fails_the_calls_of_that_proxy_only() {
    let texts = texts();
    let error = texts.with_metadata("Trace", "7").change("x").unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!((error.plugin(), error.method()), (Some("teller"), Some("test.Texts/Change")));
    assert!(error.message().contains("\"Trace\""), "{error}");
    let token = plug::CancelToken::new();
    let good = texts.with_metadata("trace", "7").with_cancel(&token);
    let good = good.with_deadline(Instant::now()).with_timeout(Duration::from_secs(600));
    assert!(good.change("x").is_ok());
}

#[test]
fn a_method_can_be_called_by_its_name_with_bytes() {
    let peer = plug::in_process(Teller::default()).unwrap();
    let request = plug::prost::Message::encode_to_vec(&"bytes".to_owned());
    let response = peer.call("test.Texts/Change", &request).unwrap();
    let response: String = plug::prost::Message::decode(response).unwrap();
    assert_eq!(response, "bytes by test.Texts/Change with a peer: true");

    for (name, says) in [
        ("Change", "no full name of a method"),
        ("test.None/Change", "teller offers test.Texts"),
        ("test.Texts/None", "it has Change"),
    ] {
        let error = peer.call(name, &request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error}");
        assert!(error.message().contains(says), "{error}");
        assert_eq!((error.plugin(), error.method()), (Some("teller"), Some(name)));
    }
}

#[test]
fn a_loaded_plugin_and_one_that_is_not_describe_themselves_alike() {
    let peer = plug::in_process(Teller::default()).unwrap();
    assert_eq!(peer.services(), ["test.Texts"], "what is built in is hidden");
    let file = &peer.descriptors().unwrap().file[0];
    assert_eq!(file.name(), "test.proto");
    let loaded = peer.description().unwrap();
    let described = Command::in_process(Teller::default()).describe().unwrap();
    for description in [&loaded, &described] {
        assert_eq!((description.name(), description.version()), ("teller", "1.2"));
        assert_eq!(description.attributes().len(), 2);
        assert_eq!(description.services().len(), 1);
        let method = &description.services()[0].methods()[0];
        assert_eq!((method.name(), method.kind()), ("Change", MethodKind::Unary));
        assert_eq!(description.descriptors().file.len(), 1);
    }
    assert_eq!(loaded.to_string(), described.to_string());
}
