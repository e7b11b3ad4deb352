//! The goldens, compiled and run: each service implemented, and called through its proxy.

use plug::{Code, Plugin, Result, Stream};

/// Where a crate that re-exports the runtime has it: `runtime=crate::sdk::plug`.
mod sdk {
    pub(crate) use ::plug;
}

/// What the case `elsewhere` does not generate.
#[allow(unreachable_pub)]
mod prebuilt {
    #[derive(Clone, PartialEq, plug::prost::Message)]
    #[prost(prost_path = "plug::prost")]
    pub struct Handmade {
        #[prost(bytes = "vec", tag = "1")]
        pub anything: Vec<u8>,
    }

    pub mod messages {
        #[derive(Clone, PartialEq, plug::prost::Message)]
        #[prost(prost_path = "plug::prost")]
        pub struct Common {
            #[prost(string, tag = "1")]
            pub text: String,
        }

        #[derive(Clone, PartialEq, plug::prost::Message)]
        #[prost(prost_path = "plug::prost")]
        pub struct Choice {
            #[prost(oneof = "choice::Choice", tags = "1, 2")]
            pub choice: Option<choice::Choice>,
        }

        pub mod choice {
            #[derive(Clone, PartialEq, plug::prost::Oneof)]
            #[prost(prost_path = "plug::prost")]
            pub enum Choice {
                #[prost(string, tag = "1")]
                Text(String),
                #[prost(message, tag = "2")]
                Common(super::Common),
            }
        }
    }
}

/// One module a case, each with the code as it is checked in.
macro_rules! goldens {
    ($($case:ident: $file:literal,)*) => {$(
        #[doc = "The case."]
        pub mod $case {
            include!(concat!("golden/", stringify!($case), "/", $file));
        }
    )*};
}

goldens! {
    comments: "comments.rs",
    deprecated: "deprecated.rs",
    enums: "enums.rs",
    hidden_runtime: "hidden.rs",
    kv: "example.rs",
    names: "names.rs",
    options: "options.rs",
    packages: "tree.rs",
    proto2: "old.rs",
    scalars: "scalars.rs",
    shapes: "shapes.rs",
    whole: "whole.rs",
}

/// The case.
pub mod elsewhere {
    // `messages=none`: the messages of the package are somebody else's, in the same module.
    #[derive(Clone, PartialEq, plug::prost::Message)]
    #[prost(prost_path = "plug::prost")]
    /// A message.
    pub struct Here {
        #[prost(message, optional, tag = "1")]
        /// A field.
        pub common: Option<crate::prebuilt::messages::Common>,
    }

    include!("golden/elsewhere/elsewhere.rs");
}

/// Answers every call with what it was called with, as far as the types allow.
struct Echo;

macro_rules! plugin {
    ($($service:path),*) => {
        impl Plugin for Echo {
            type Services = ($($service,)*);
        }
    };
}

// Two tuples, since one has eight places at most.
plugin!(
    kv::KvService,
    scalars::ScalarsService,
    enums::EnumsService,
    shapes::ShapesService,
    shapes::IdleService,
    names::NamesService,
    proto2::OldService,
    options::OptionsService
);

struct Others;

impl Plugin for Others {
    type Services = (
        packages::tree::a::AService,
        packages::tree::a::AnotherOfAService,
        packages::tree::a::r#type::BService,
        packages::plug::PluggedService,
        elsewhere::ElsewhereService,
        hidden_runtime::HiddenService,
        whole::WholeService,
        shapes::PlainService,
    );
}

mod run_kv {
    use super::kv::{Event, Kv, KvProxy};
    use super::*;

    impl Kv for Echo {
        fn get(&self, key: String) -> Result<Vec<u8>> {
            if key == "missing" {
                return Err(plug::Error::new(Code::NotFound, "no such key"));
            }
            Ok(key.into_bytes())
        }

        fn put(&self, key: String, value: Vec<u8>) -> Result<()> {
            if key.as_bytes() == value { Ok(()) } else { Err("they differ".into()) }
        }

        fn watch(&self, prefix: String) -> Result<Stream<Event>> {
            Ok(Stream::new([Event { key: prefix, value: None }]))
        }

        fn import(&self, requests: Stream<kv::PutRequest>) -> Result<u64> {
            Ok(requests.count() as u64)
        }

        fn sync(&self, requests: Stream<Event>) -> Result<Stream<Event>> {
            Ok(requests)
        }
    }

    #[test]
    fn arguments_go_and_results_come_back() {
        let kv = KvProxy::in_process(Echo).unwrap();
        assert_eq!(kv.get("hello").unwrap(), b"hello");
        kv.put("same", "same").unwrap();
        assert_eq!(kv.put("a", b"b".to_vec()).unwrap_err().message(), "they differ");
        let error = kv.get("missing").unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert_eq!(error.method(), Some("example.KV/Get"));
        // The proxy is a `Kv` like any other.
        let any: &dyn Kv = &kv;
        assert_eq!(any.get("dyn".into()).unwrap(), b"dyn");
    }

    #[test]
    fn the_service_says_what_the_proto_says() {
        use plug::{MethodKind, Service};

        assert_eq!(kv::KvService::NAME, "example.KV");
        assert_eq!(kv::KvService::MAGIC, "magic");
        assert_eq!(kv::KvService::VERSION, 1);
        let methods: Vec<_> = kv::KvService::METHODS
            .iter()
            .map(|method| (method.name(), method.kind(), method.is_idempotent()))
            .collect();
        assert_eq!(
            methods,
            [
                ("Get", MethodKind::Unary, true),
                ("Put", MethodKind::Unary, false),
                ("Watch", MethodKind::ServerStreaming, false),
                ("Import", MethodKind::ClientStreaming, false),
                ("Sync", MethodKind::BidiStreaming, false),
            ]
        );
    }

    #[test]
    fn the_descriptors_describe_the_service_and_all_that_it_needs() {
        use plug::Service;
        use plug::prost::Message;

        let set = plug::prost_types::FileDescriptorSet::decode(kv::KvService::DESCRIPTORS).unwrap();
        let names: Vec<&str> = set.file.iter().map(|file| file.name()).collect();
        assert_eq!(names, ["google/protobuf/descriptor.proto", "plug.proto", "kv.proto"]);
        let kv = &set.file[2];
        assert_eq!(kv.service[0].method.len(), 5);
        let comments: Vec<&str> = kv
            .source_code_info
            .iter()
            .flat_map(|info| &info.location)
            .map(|location| location.leading_comments())
            .collect();
        assert!(comments.contains(&" A small key-value store.\n"), "{comments:?}");
        // prost-types does not know custom options, but they are there: 50001 is `magic`.
        let key = [0x8a, 0xb5, 0x18, 5, b'm', b'a', b'g', b'i', b'c'];
        assert!(kv::KvService::DESCRIPTORS.windows(key.len()).any(|window| window == key));
    }
}

mod run_scalars {
    use std::collections::HashMap;

    use super::scalars::{All, Optional, Repeated, Scalars, ScalarsProxy, Wide};
    use super::*;

    impl Scalars for Echo {
        fn all(
            &self,
            f64: f64,
            f32: f32,
            i32: i32,
            i64: i64,
            u32: u32,
            u64: u64,
            s32: i32,
            s64: i64,
            x32: u32,
            x64: u64,
            sx32: i32,
            sx64: i64,
            flag: bool,
            text: String,
            data: Vec<u8>,
        ) -> Result<All> {
            Ok(All {
                f64,
                f32,
                i32,
                i64,
                u32,
                u64,
                s32,
                s64,
                x32,
                x64,
                sx32,
                sx64,
                flag,
                text,
                data,
            })
        }

        fn optional(
            &self,
            number: Option<u32>,
            flag: Option<bool>,
            text: Option<String>,
            data: Option<Vec<u8>>,
        ) -> Result<Optional> {
            Ok(Optional { number, flag, text, data })
        }

        fn repeated(
            &self,
            numbers: Vec<i64>,
            texts: Vec<String>,
            data: Vec<Vec<u8>>,
            map: HashMap<String, Vec<u8>>,
            messages: HashMap<i32, All>,
        ) -> Result<Repeated> {
            Ok(Repeated { numbers, texts, data, map, messages })
        }

        fn order(&self, first: String, second: String, third: String) -> Result<Vec<String>> {
            Ok(vec![first, second, third])
        }

        fn number(&self, number: u32) -> Result<u32> {
            Ok(number)
        }

        fn flag(&self, flag: Option<bool>) -> Result<Option<bool>> {
            Ok(flag)
        }

        fn map(&self, map: HashMap<String, Vec<u8>>) -> Result<HashMap<String, Vec<u8>>> {
            Ok(map)
        }

        fn wide(
            &self,
            number: Option<u64>,
            other: Option<i64>,
            ratio: Option<f64>,
            time: Option<u64>,
            more: Vec<Wide>,
        ) -> Result<Wide> {
            Ok(Wide { number, other, ratio, time, more })
        }
    }

    #[test]
    fn every_scalar_arrives() {
        let proxy = ScalarsProxy::in_process(Echo).unwrap();
        let all = proxy
            .all(1.5, -2.5, -3, -4, 5, 6, -7, -8, 9, 10, -11, -12, true, "text", b"data".to_vec())
            .unwrap();
        let expected = All {
            f64: 1.5,
            f32: -2.5,
            i32: -3,
            i64: -4,
            u32: 5,
            u64: 6,
            s32: -7,
            s64: -8,
            x32: 9,
            x64: 10,
            sx32: -11,
            sx64: -12,
            flag: true,
            text: "text".into(),
            data: b"data".into(),
        };
        assert_eq!(all, expected);
        assert_eq!(proxy.number(u32::MAX).unwrap(), u32::MAX);
    }

    #[test]
    fn what_is_absent_stays_absent() {
        let proxy = ScalarsProxy::in_process(Echo).unwrap();
        assert_eq!(proxy.optional(None, None, None, None).unwrap(), Optional::default());
        let some = proxy.optional(0, false, "".to_owned(), Vec::new()).unwrap();
        assert_eq!((some.number, some.flag), (Some(0), Some(false)));
        assert_eq!((some.text, some.data), (Some(String::new()), Some(Vec::new())));
        assert_eq!(proxy.flag(None).unwrap(), None);
        assert_eq!(proxy.flag(Some(false)).unwrap(), Some(false));
    }

    #[test]
    fn lists_and_maps_arrive() {
        let proxy = ScalarsProxy::in_process(Echo).unwrap();
        let map = HashMap::from([("key".to_owned(), b"value".to_vec())]);
        let messages = HashMap::from([(-1, All { i32: 3, ..All::default() })]);
        let all = proxy
            .repeated(vec![1, -2], vec!["a".into()], vec![vec![1]], map.clone(), messages.clone())
            .unwrap();
        assert_eq!(
            (all.numbers, all.texts, all.data),
            (vec![1, -2], vec!["a".into()], vec![vec![1]])
        );
        assert_eq!((all.map, all.messages), (map.clone(), messages));
        assert_eq!(proxy.map(map.clone()).unwrap(), map);
    }

    #[test]
    fn arguments_are_in_the_order_of_the_numbers() {
        let proxy = ScalarsProxy::in_process(Echo).unwrap();
        assert_eq!(proxy.order("2", "7", "9").unwrap(), ["2", "7", "9"]);
    }
}

mod run_enums {
    use std::collections::HashMap;

    use super::enums::{Alias, Enums, EnumsProxy, EnumsService, Inside, Kind, inside::Colour};
    use super::*;

    impl Enums for Echo {
        fn one(&self, kind: Kind) -> Result<Kind> {
            Ok(kind)
        }

        fn maybe(&self, kind: Option<Kind>) -> Result<Option<Kind>> {
            Ok(kind)
        }

        fn many(&self, kinds: Vec<Kind>) -> Result<Vec<Kind>> {
            Ok(kinds)
        }

        fn named(&self, kinds_of_things: HashMap<String, Kind>) -> Result<HashMap<String, Kind>> {
            Ok(kinds_of_things)
        }

        fn inside(&self, colour: Colour, kind: Kind) -> Result<Inside> {
            Ok(Inside { colour: colour.into(), kind: kind.into() })
        }

        fn unknown(&self) -> Result<Inside> {
            Ok(Inside { colour: 77, kind: -1 })
        }
    }

    #[test]
    fn known_values_arrive() {
        let proxy = EnumsProxy::in_process(Echo).unwrap();
        assert_eq!(proxy.one(Kind::B).unwrap(), Kind::B);
        assert_eq!(proxy.maybe(None).unwrap(), None);
        assert_eq!(proxy.maybe(Kind::Unknown).unwrap(), Some(Kind::Unknown));
        assert_eq!(proxy.many(vec![Kind::A, Kind::B]).unwrap(), [Kind::A, Kind::B]);
        let named = HashMap::from([("a".to_owned(), Kind::A)]);
        assert_eq!(proxy.named(named.clone()).unwrap(), named);
        let inside = proxy.inside(Colour::Green, Kind::A).unwrap();
        assert_eq!((inside.colour(), inside.kind()), (Colour::Green, Kind::A));
        // A second name for a number is not a second variant.
        assert_eq!(Alias::try_from(1), Ok(Alias::One));
    }

    #[test]
    fn unknown_values_are_preserved_inside_messages() {
        let proxy = EnumsProxy::in_process(Echo).unwrap();
        assert_eq!(proxy.unknown().unwrap(), Inside { colour: 77, kind: -1 });
    }

    /// A host whose `.proto` has more values than the plugin's: it calls with messages of its own.
    #[test]
    fn an_unknown_argument_fails_the_call_and_names_field_and_number() {
        use plug::Proxy;

        let proxy = EnumsProxy::in_process(Echo).unwrap();
        let caller: &plug::Caller<EnumsService> = proxy.caller();
        let call = |method: u32, request: &dyn Fn() -> Vec<u8>| -> plug::Error {
            let request: Raw = plug::prost::Message::decode(&request()[..]).unwrap();
            caller.unary::<Raw, Raw>(method, &request).unwrap_err()
        };
        // Each holds the number 9 where a `Kind` is expected.
        for (method, bytes, field) in [
            (0, vec![0x08, 9], "kind"),
            (1, vec![0x08, 9], "kind"),
            (2, vec![0x0a, 2, 1, 9], "kinds"),
            (3, vec![0x0a, 5, 0x0a, 1, b'a', 0x10, 9], "kinds_of_things"),
        ] {
            let error = call(method, &|| bytes.clone());
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(error.message().contains(&format!("`{field}`")), "{error}");
            assert!(error.message().contains(" 9,"), "{error}");
        }
    }

    /// A message that can stand for those of `enums.proto`, without their types.
    #[derive(Clone, Default, PartialEq)]
    struct Raw(Vec<u8>);

    impl std::fmt::Debug for Raw {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:?}", self.0)
        }
    }

    impl plug::prost::Message for Raw {
        fn encode_raw(&self, buffer: &mut impl plug::bytes::BufMut) {
            buffer.put_slice(&self.0);
        }

        fn merge_field(
            &mut self,
            tag: u32,
            wire_type: plug::prost::encoding::WireType,
            buffer: &mut impl plug::bytes::Buf,
            context: plug::prost::encoding::DecodeContext,
        ) -> Result<(), plug::prost::DecodeError> {
            use plug::prost::encoding::{WireType, encode_key, encode_varint};

            encode_key(tag, wire_type, &mut self.0);
            match wire_type {
                WireType::Varint => {
                    let value = plug::prost::encoding::decode_varint(buffer)?;
                    encode_varint(value, &mut self.0);
                }
                _ => {
                    let mut bytes = Vec::<u8>::new();
                    plug::prost::encoding::bytes::merge(wire_type, &mut bytes, buffer, context)?;
                    encode_varint(bytes.len() as u64, &mut self.0);
                    self.0.extend(bytes);
                }
            }
            Ok(())
        }

        fn encoded_len(&self) -> usize {
            self.0.len()
        }

        fn clear(&mut self) {
            self.0.clear();
        }
    }
}

mod run_shapes {
    use plug::prost_types::{Any, Duration, NullValue, Struct, Timestamp};

    use super::shapes::*;
    use super::*;

    impl Shapes for Echo {
        fn nothing(&self) -> Result<()> {
            Ok(())
        }

        fn google_nothing(&self) -> Result<()> {
            Ok(())
        }

        fn tree(
            &self,
            name: String,
            left: Option<Box<Tree>>,
            children: Vec<Tree>,
        ) -> Result<Option<Tree>> {
            Ok(Some(Tree { name, left, children }))
        }

        fn r#loop(&self, next: Option<Box<Loop>>) -> Result<Option<Box<Loop>>> {
            Ok(next)
        }

        fn choice(
            &self,
            before: u32,
            what: Option<choice::What>,
            after: u32,
        ) -> Result<Option<choice_response::What>> {
            Ok(match what {
                Some(choice::What::Text(text)) => Some(choice_response::What::Text(text)),
                Some(choice::What::Number(number)) => {
                    Some(choice_response::What::Text(format!("{before} {number} {after}")))
                }
                _ => None,
            })
        }

        fn nested(
            &self,
            inner: Option<outer::Inner>,
            innermost: Option<outer::inner::Innermost>,
        ) -> Result<Option<outer::inner::Innermost>> {
            Ok(innermost.or(inner.and_then(|inner| inner.innermost)))
        }

        fn innermost(&self, text: String) -> Result<String> {
            Ok(text)
        }

        fn known(
            &self,
            time: Option<Timestamp>,
            any: Option<Any>,
            json: Option<Struct>,
            text: Option<String>,
            number: Option<u64>,
            data: Option<Vec<u8>>,
            nothing: Option<()>,
            pauses: Vec<Duration>,
            null: NullValue,
        ) -> Result<Known> {
            let null = null.into();
            Ok(Known { time, any, json, text, number, data, nothing, pauses, null })
        }

        fn many(
            &self,
            the_first_of_many_fields: String,
            _: String,
            _: String,
            _: String,
            _: String,
            _: String,
            _: String,
            the_eighth_of_many_fields: String,
        ) -> Result<Many> {
            Ok(Many { the_first_of_many_fields, the_eighth_of_many_fields, ..Many::default() })
        }

        fn time(&self, request: Timestamp) -> Result<Duration> {
            Ok(Duration { seconds: request.seconds, nanos: request.nanos })
        }

        fn text(&self, request: String) -> Result<String> {
            Ok(request)
        }

        fn data(&self, request: Vec<u8>) -> Result<bool> {
            Ok(request.is_empty())
        }

        fn whole(&self, request: TreeResponse) -> Result<TreeResponse> {
            Ok(request)
        }

        fn event(&self, _: Option<Tree>) -> Result<()> {
            Ok(())
        }

        fn google_stream(&self) -> Result<Stream<String>> {
            Ok(Stream::new(["a".to_owned()]))
        }

        fn empty_stream(&self, _: Stream<()>) -> Result<()> {
            Ok(())
        }
    }

    impl Idle for Echo {}

    impl Plain for Others {
        fn whole(&self, request: Many) -> Result<Many> {
            Ok(request)
        }

        fn unwrapped(&self, tree: Option<Tree>) -> Result<Option<Tree>> {
            Ok(tree)
        }
    }

    fn leaf(name: &str) -> Tree {
        Tree { name: name.into(), ..Tree::default() }
    }

    #[test]
    fn recursive_messages_arrive() {
        let proxy = ShapesProxy::in_process(Echo).unwrap();
        let left = Box::new(leaf("left"));
        let tree = proxy.tree("root", left.clone(), vec![leaf("child")]).unwrap();
        let expected =
            Tree { name: "root".into(), left: Some(left), children: vec![leaf("child")] };
        assert_eq!(tree, Some(expected));
        let next = Some(Box::new(Loop { next: None }));
        assert_eq!(proxy.r#loop(next.clone()).unwrap(), next);
    }

    #[test]
    fn a_oneof_is_an_argument_and_a_result() {
        let proxy = ShapesProxy::in_process(Echo).unwrap();
        let answer = proxy.choice(1, choice::What::Number(2), 3).unwrap();
        assert_eq!(answer, Some(choice_response::What::Text("1 2 3".into())));
        assert_eq!(proxy.choice(1, None, 3).unwrap(), None);
    }

    #[test]
    fn nested_and_well_known_messages_arrive() {
        let proxy = ShapesProxy::in_process(Echo).unwrap();
        proxy.nothing().unwrap();
        proxy.google_nothing().unwrap();
        proxy.event(leaf("event")).unwrap();
        assert_eq!(proxy.innermost("in").unwrap(), "in");
        let innermost = outer::inner::Innermost { text: "deep".into() };
        assert_eq!(proxy.nested(None, innermost.clone()).unwrap(), Some(innermost));
        let time = Timestamp { seconds: 5, nanos: 6 };
        assert_eq!(proxy.time(time).unwrap(), Duration { seconds: 5, nanos: 6 });
        assert_eq!(proxy.text("text").unwrap(), "text");
        assert!(proxy.data(Vec::new()).unwrap());
        let known = proxy
            .known(
                time,
                None,
                Struct::default(),
                "text".to_owned(),
                7,
                b"data".to_vec(),
                (),
                vec![Duration::default()],
                NullValue::NullValue,
            )
            .unwrap();
        assert_eq!((known.time, known.any, known.number), (Some(time), None, Some(7)));
        assert_eq!((known.nothing, known.pauses.len()), (Some(()), 1));
    }

    #[test]
    fn options_keep_messages_whole() {
        let proxy = ShapesProxy::in_process(Echo).unwrap();
        let whole = TreeResponse { tree: Some(leaf("whole")) };
        assert_eq!(proxy.whole(whole.clone()).unwrap(), whole);
        let proxy = PlainProxy::in_process(Others).unwrap();
        let many = Many { the_third_of_many_fields: "3".into(), ..Many::default() };
        assert_eq!(proxy.whole(many.clone()).unwrap(), many);
        assert_eq!(proxy.unwrapped(leaf("back")).unwrap(), Some(leaf("back")));
    }

    #[test]
    fn one_way_methods_say_so() {
        use plug::Service;

        let one_way: Vec<&str> = ShapesService::METHODS
            .iter()
            .filter(|method| method.is_one_way())
            .map(|method| method.name())
            .collect();
        assert_eq!(one_way, ["Event"]);
    }

    #[test]
    fn many_fields_keep_their_places() {
        let proxy = ShapesProxy::in_process(Echo).unwrap();
        let many = proxy.many("1", "2", "3", "4", "5", "6", "7", "8").unwrap();
        assert_eq!(many.the_first_of_many_fields, "1");
        assert_eq!(many.the_eighth_of_many_fields, "8");
    }

    #[test]
    fn a_service_without_methods_can_be_loaded() {
        IdleProxy::in_process(Echo).unwrap();
    }
}

mod run_names {
    use super::names::{self, Names, NamesProxy, core, std};
    use super::*;

    impl Names for Echo {
        fn t(&self, t: String) -> Result<String> {
            Ok(t)
        }

        fn send(&self, _: String) -> Result<()> {
            Ok(())
        }

        fn into(&self, _: String) -> Result<()> {
            Ok(())
        }

        fn string(&self, string: String) -> Result<String> {
            Ok(string)
        }

        fn vec(&self, vec: Vec<u32>) -> Result<Vec<u32>> {
            Ok(vec)
        }

        fn option(&self, option: Option<String>) -> Result<Option<String>> {
            Ok(option)
        }

        fn result(&self, ok: u32, err: u32) -> Result<names::Result> {
            Ok(names::Result { ok, err })
        }

        fn r#box(&self, r#box: Option<Box<names::Box>>) -> Result<Option<Box<names::Box>>> {
            Ok(r#box)
        }

        fn std(
            &self,
            map: ::std::collections::HashMap<String, String>,
        ) -> Result<::std::collections::HashMap<String, String>> {
            Ok(map)
        }

        fn core(&self) -> Result<()> {
            Ok(())
        }

        fn self_(
            &self,
            self_: String,
            super_: String,
            crate_: String,
            extern_: String,
        ) -> Result<names::Self_> {
            Ok(names::Self_ { self_, super_, crate_, extern_ })
        }

        fn r#type(
            &self,
            r#type: String,
            r#fn: String,
            r#async: String,
            r#gen: String,
            r#try: String,
        ) -> Result<names::Type> {
            Ok(names::Type { r#type, r#fn, r#async, r#gen, r#try })
        }

        fn binders(
            &self,
            kv: String,
            call: String,
            plugin: String,
            request: String,
            response: String,
            requests: String,
            caller: String,
            plug: String,
            command: String,
        ) -> Result<names::Binders> {
            Ok(names::Binders {
                kv,
                call,
                plugin,
                request,
                response,
                requests,
                caller,
                plug,
                command,
            })
        }

        fn plugin(&self, plugin: String) -> Result<String> {
            Ok(plugin)
        }

        fn response(&self, response: String) -> Result<String> {
            Ok(response)
        }

        fn stream(&self, requests: Stream<names::T>) -> Result<Stream<names::String>> {
            Ok(Stream::from_results(requests.map(|t| Ok(names::String { string: t?.t }))))
        }

        fn new(&self, t: String) -> Result<String> {
            Ok(t)
        }

        fn in_process(&self, t: String) -> Result<String> {
            Ok(t)
        }

        fn caller(&self, t: String) -> Result<String> {
            Ok(t)
        }

        fn peer(&self, t: String) -> Result<String> {
            Ok(t)
        }

        fn clone(&self, t: String) -> Result<String> {
            Ok(t)
        }

        fn with_timeout(&self, t: String) -> Result<String> {
            Ok(t)
        }

        fn from_text(&self, string: String) -> Result<String> {
            Ok(string)
        }

        fn into_text(&self, string: String) -> Result<String> {
            Ok(string)
        }

        fn len(&self) -> Result<names::Result> {
            Ok(names::Result { ok: 1, err: 2 })
        }

        fn default(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn names_of_the_prelude_and_keywords_are_names() {
        let proxy = NamesProxy::in_process(Echo).unwrap();
        assert_eq!(proxy.t("t").unwrap(), "t");
        assert_eq!(proxy.string("s").unwrap(), "s");
        assert_eq!(proxy.vec(vec![1]).unwrap(), [1]);
        assert_eq!(proxy.option("o".to_owned()).unwrap().as_deref(), Some("o"));
        assert_eq!(proxy.result(1, 2).unwrap(), names::Result { ok: 1, err: 2 });
        assert_eq!(proxy.self_("a", "b", "c", "d").unwrap().extern_, "d");
        assert_eq!(proxy.r#type("a", "b", "c", "d", "e").unwrap().r#try, "e");
        let map = ::std::collections::HashMap::from([("k".to_owned(), "v".to_owned())]);
        assert_eq!(proxy.std(map.clone()).unwrap(), map);
        // The modules are types' neighbours, and as good as any.
        let _ = (std::Collections::default(), core::Option::default());
    }

    #[test]
    fn fields_may_have_the_names_of_what_generated_code_binds() {
        let proxy = NamesProxy::in_process(Echo).unwrap();
        let all = proxy.binders("1", "2", "3", "4", "5", "6", "7", "8", "9").unwrap();
        assert_eq!((&all.kv[..], &all.call[..], &all.plugin[..]), ("1", "2", "3"));
        assert_eq!((&all.request[..], &all.response[..], &all.plug[..]), ("4", "5", "8"));
        assert_eq!(proxy.plugin("p").unwrap(), "p");
        assert_eq!(proxy.response("r").unwrap(), "r");
    }

    #[test]
    fn methods_without_a_twin_are_in_the_trait() {
        let proxy = NamesProxy::in_process(Echo).unwrap();
        assert_eq!(Names::new(&proxy, "new".into()).unwrap(), "new");
        assert_eq!(Names::in_process(&proxy, "in".into()).unwrap(), "in");
        assert_eq!(Names::clone(&proxy, "clone".into()).unwrap(), "clone");
        assert_eq!(Names::with_timeout(&proxy, "time".into()).unwrap(), "time");
    }
}

mod run_proto2 {
    use super::proto2::{Defaults, Grouped, Level, Old, OldProxy, grouped};
    use super::*;

    impl Old for Echo {
        fn defaults(
            &self,
            number: Option<i32>,
            text: Option<String>,
            data: Option<Vec<u8>>,
            level: Option<Level>,
            ratio: Option<f64>,
            endless: Option<f32>,
            flag: Option<bool>,
            name: String,
            required_level: Level,
            packed: Vec<i32>,
            unpacked: Vec<i32>,
        ) -> Result<Defaults> {
            Ok(Defaults {
                number,
                text,
                data,
                level: level.map(i32::from),
                ratio,
                endless,
                flag,
                name,
                required_level: required_level.into(),
                packed,
                unpacked,
            })
        }

        fn grouped(
            &self,
            item: Option<Box<grouped::Item>>,
            row: Vec<grouped::Row>,
        ) -> Result<Grouped> {
            Ok(Grouped { item, row })
        }

        fn required(&self, name: String) -> Result<String> {
            Ok(name)
        }

        fn optional(&self, text: Option<String>) -> Result<Option<String>> {
            Ok(text)
        }
    }

    #[test]
    fn defaults_are_read_where_nothing_is_set() {
        let proxy = OldProxy::in_process(Echo).unwrap();
        let all = proxy
            .defaults(None, None, None, None, None, None, None, "n", Level::High, vec![1], vec![2])
            .unwrap();
        assert_eq!(all.number, None);
        assert_eq!(all.number(), -7);
        assert_eq!(all.text(), "a \"quoted\"\ttext\n\\ ä */");
        assert_eq!(all.data(), b"\x01\xff\"'\\x");
        assert_eq!(all.level(), Level::High);
        assert_eq!((all.ratio(), all.endless(), all.flag()), (1500.0, f32::NEG_INFINITY, true));
        assert_eq!((all.packed, all.unpacked), (vec![1], vec![2]));
    }

    #[test]
    fn groups_arrive() {
        let proxy = OldProxy::in_process(Echo).unwrap();
        let item = grouped::Item { text: Some("a".into()), again: None };
        let row = vec![grouped::Row { cell: 1 }];
        let again = proxy.grouped(Box::new(item.clone()), row.clone()).unwrap();
        assert_eq!(again, Grouped { item: Some(Box::new(item)), row });
        assert_eq!(proxy.required("r").unwrap(), "r");
        assert_eq!(proxy.optional(None).unwrap(), None);
    }
}

mod run_options {
    use std::collections::{BTreeMap, HashMap};

    use plug::bytes::Bytes;

    use super::options::{Data, Options, OptionsProxy, Sorted};
    use super::*;

    impl Options for Echo {
        fn data(
            &self,
            data: Bytes,
            plain: Vec<u8>,
            sorted: BTreeMap<String, Vec<u8>>,
            hashed: HashMap<String, String>,
        ) -> Result<Data> {
            Ok(Data { data, plain, sorted, hashed })
        }

        fn shared(&self, data: Bytes) -> Result<Bytes> {
            Ok(data)
        }

        fn sorted(&self, sorted: BTreeMap<String, u32>) -> Result<BTreeMap<String, u32>> {
            Ok(sorted)
        }
    }

    #[test]
    fn options_change_types() {
        let proxy = OptionsProxy::in_process(Echo).unwrap();
        assert_eq!(proxy.shared(&b"static"[..]).unwrap(), "static");
        let sorted = BTreeMap::from([("a".to_owned(), 1)]);
        assert_eq!(proxy.sorted(sorted.clone()).unwrap(), sorted);
        let data = proxy.data("d", "p", BTreeMap::new(), HashMap::new()).unwrap();
        assert_eq!((&data.data[..], &data.plain[..]), (&b"d"[..], &b"p"[..]));
        // `Hash` is there because an option added it.
        let hash =
            |value: &Sorted| std::hash::Hash::hash(value, &mut std::hash::DefaultHasher::new());
        hash(&Sorted::default());
    }
}

mod run_packages {
    use super::packages::tree::a::r#type::{B, BProxy};
    use super::packages::tree::a::{A, AProxy, AnotherOfA, AnotherOfAProxy, Leaf};
    use super::packages::tree::common::{Level, Shared, pick::Pick};
    use super::*;

    impl A for Others {
        fn grow(&self, shared: Option<Shared>, level: Level) -> Result<Leaf> {
            Ok(Leaf { shared, level: level.into() })
        }

        fn share(&self, text: String) -> Result<String> {
            Ok(text)
        }
    }

    impl AnotherOfA for Others {
        fn pick(&self, pick: Option<Pick>) -> Result<Option<Pick>> {
            Ok(pick)
        }
    }

    impl B for Others {
        fn share(&self, text: String) -> Result<Option<Pick>> {
            Ok(Some(Pick::Shared(Shared { text })))
        }

        fn watch(&self, shared: Option<Shared>, level: Level) -> Result<Stream<Leaf>> {
            Ok(Stream::new([Leaf { shared, level: level.into() }]))
        }
    }

    impl packages::plug::Plugged for Others {
        fn say(&self, text: String) -> Result<String> {
            Ok(text)
        }
    }

    #[test]
    fn packages_use_each_others_messages() {
        let a = AProxy::in_process(Others).unwrap();
        let leaf = a.grow(Shared { text: "s".into() }, Level::High).unwrap();
        assert_eq!((leaf.shared.as_ref().unwrap().text.as_str(), leaf.level()), ("s", Level::High));
        let another = AnotherOfAProxy::in_process(Others).unwrap();
        let level = Pick::Level(Level::High.into());
        assert_eq!(another.pick(level.clone()).unwrap(), Some(level));
        let b = BProxy::in_process(Others).unwrap();
        assert_eq!(b.share("t").unwrap(), Some(Pick::Shared(Shared { text: "t".into() })));
        let plugged = packages::plug::PluggedProxy::in_process(Others).unwrap();
        assert_eq!(plugged.say("p").unwrap(), "p");
    }

    #[test]
    fn what_has_no_package_is_in_the_root() {
        struct Root;

        impl Plugin for Root {
            type Services = packages::RootServiceService;
        }

        impl packages::RootService for Root {
            fn root(&self, leaf: Option<Leaf>) -> Result<Leaf> {
                Ok(leaf.unwrap_or_default())
            }
        }

        let root = packages::RootServiceProxy::in_process(Root).unwrap();
        assert_eq!(root.root(None).unwrap(), Leaf::default());
    }
}

mod run_others {
    use super::elsewhere::{Elsewhere, ElsewhereProxy, Here};
    use super::hidden_runtime::{Hidden, HiddenProxy, plug as nested};
    use super::prebuilt::Handmade;
    use super::prebuilt::messages::{Common, choice::Choice};
    use super::whole::{Text, Whole, WholeProxy};
    use super::*;

    impl Elsewhere for Others {
        fn prefix(&self, text: String) -> Result<String> {
            Ok(text)
        }

        fn exact(&self, request: Handmade) -> Result<Handmade> {
            Ok(request)
        }

        fn choice(&self, choice: Option<Choice>) -> Result<Option<Common>> {
            Ok(match choice {
                Some(Choice::Common(common)) => Some(common),
                Some(Choice::Text(text)) => Some(Common { text }),
                None => None,
            })
        }

        fn watch(&self, text: String) -> Result<Stream<Common>> {
            Ok(Stream::new([Common { text }]))
        }
    }

    impl Hidden for Others {
        fn plug(&self, nested: Option<nested::Nested>) -> Result<Option<nested::Nested>> {
            Ok(nested)
        }

        fn nested(&self, text: String) -> Result<String> {
            Ok(text)
        }
    }

    impl Whole for Others {
        fn say(&self, request: Text) -> Result<Text> {
            Ok(request)
        }

        fn empty(&self, request: whole::Empty) -> Result<whole::Empty> {
            Ok(request)
        }

        fn google(&self) -> Result<String> {
            Ok("google".into())
        }

        fn wrapper(&self, _: String) -> Result<()> {
            Ok(())
        }

        fn unwrapped(&self, text: String) -> Result<String> {
            Ok(text)
        }
    }

    #[test]
    fn messages_may_live_elsewhere() {
        let proxy = ElsewhereProxy::in_process(Others).unwrap();
        assert_eq!(proxy.prefix("p").unwrap(), "p");
        let handmade = Handmade { anything: vec![b'h'] };
        assert_eq!(proxy.exact(handmade.clone()).unwrap(), handmade);
        let common = Common { text: "t".into() };
        assert_eq!(proxy.choice(Choice::Text("t".into())).unwrap(), Some(common.clone()));
        assert_eq!(Here { common: Some(common) }.common.unwrap().text, "t");
    }

    #[test]
    fn a_message_may_hide_the_runtime() {
        let proxy = HiddenProxy::in_process(Others).unwrap();
        let nested = nested::Nested { text: "n".into() };
        assert_eq!(proxy.plug(nested.clone()).unwrap(), Some(nested));
        assert_eq!(proxy.nested("n").unwrap(), "n");
    }

    #[test]
    fn an_option_keeps_all_messages_whole() {
        let proxy = WholeProxy::in_process(Others).unwrap();
        let text = Text { text: "t".into() };
        assert_eq!(proxy.say(text.clone()).unwrap(), text);
        assert_eq!(proxy.empty(whole::Empty {}).unwrap(), whole::Empty {});
        assert_eq!(proxy.google().unwrap(), "google");
        assert_eq!(proxy.unwrapped("u").unwrap(), "u");
    }
}

mod run_documented {
    use super::comments::{Documented, DocumentedProxy, DocumentedService, Text, text::Either};
    use super::*;

    struct Writer;

    impl Plugin for Writer {
        type Services = DocumentedService;
    }

    impl Documented for Writer {
        fn say(
            &self,
            text: String,
            _: String,
            _: String,
            _: String,
            either: Option<Either>,
        ) -> Result<Text> {
            Ok(Text { text, either, ..Text::default() })
        }

        fn block(
            &self,
            _: String,
            _: String,
            _: String,
            _: String,
            _: Option<Either>,
        ) -> Result<Text> {
            Ok(Text::default())
        }

        fn undocumented(
            &self,
            _: String,
            _: String,
            _: String,
            _: String,
            _: Option<Either>,
        ) -> Result<Text> {
            Ok(Text::default())
        }

        fn empty(
            &self,
            _: String,
            _: String,
            _: String,
            _: String,
            _: Option<Either>,
        ) -> Result<Text> {
            Ok(Text::default())
        }
    }

    #[test]
    fn a_service_with_comments_of_every_kind_runs() {
        let proxy = DocumentedProxy::in_process(Writer).unwrap();
        let text = proxy.say("t", "", "", "", Either::Left("l".into())).unwrap();
        assert_eq!((text.text.as_str(), text.either), ("t", Some(Either::Left("l".into()))));
    }
}

#[expect(deprecated, reason = "they are implemented and called all the same")]
mod run_deprecated {
    use super::deprecated::{
        Current, CurrentProxy, CurrentService, Level, Partly, Past, PastProxy, PastService, partly,
    };
    use super::*;

    struct Museum;

    impl Plugin for Museum {
        type Services = (CurrentService, PastService);
    }

    impl Current for Museum {
        fn old(&self, text: String) -> Result<String> {
            Ok(text)
        }

        fn partly(&self, text: String, level: Level, what: Option<partly::What>) -> Result<Partly> {
            Ok(Partly { text, level: level.into(), what })
        }

        fn gone(&self, text: String, _: Level, _: Option<partly::What>) -> Result<String> {
            Ok(text)
        }
    }

    impl Past for Museum {
        fn say(&self, text: String, level: Level, what: Option<partly::What>) -> Result<Partly> {
            Ok(Partly { text, level: level.into(), what })
        }
    }

    #[test]
    fn deprecated_items_work() {
        let proxy = CurrentProxy::in_process(Museum).unwrap();
        assert_eq!(proxy.old("o").unwrap(), "o");
        assert_eq!(proxy.gone("g", Level::High, None).unwrap(), "g");
        let past = PastProxy::in_process(Museum).unwrap();
        let what = partly::What::Old("w".into());
        let partly = past.say("s", Level::High, what.clone()).unwrap();
        assert_eq!(
            (partly.text.as_str(), partly.level(), partly.what),
            ("s", Level::High, Some(what))
        );
    }
}
