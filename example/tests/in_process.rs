//! The plugins inside the process of the test: the same frames as with a child, but no child.

use std::collections::HashMap;

use plug::prost_types::Any;
use plug::{Code, ErrorKind};
use plug_example::{Json, Kv, KvProxy, KvService, SerializerProxy, SerializerService, Store};

#[test]
fn the_store_is_called_like_a_child() {
    let directory = tempfile::tempdir().unwrap();
    let kv = KvProxy::in_process(Store::open(directory.path()).unwrap()).unwrap();
    kv.put("hello", "world").unwrap();
    assert_eq!(kv.get("hello").unwrap(), b"world");

    let error = kv.get("nothing").unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Status, Code::NotFound));
    assert_eq!(error.method(), Some("example.KV/Get"));
    assert_eq!(kv.put("", "x").unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn code_that_takes_the_trait_does_not_know_where_it_lives() {
    fn swap(kv: &dyn Kv) -> plug::Result<()> {
        let (a, b) = (kv.get("a".to_owned())?, kv.get("b".to_owned())?);
        kv.put("a".to_owned(), b)?;
        kv.put("b".to_owned(), a)
    }

    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.put("a".to_owned(), b"1".to_vec()).unwrap();
    store.put("b".to_owned(), b"2".to_vec()).unwrap();
    swap(&store).unwrap();
    let kv = KvProxy::in_process(store).unwrap();
    swap(&kv).unwrap();
    assert_eq!(kv.get("a").unwrap(), b"1");
}

#[test]
fn the_serializer_is_called_like_a_child() {
    let serializer = SerializerProxy::in_process(Json).unwrap();
    let values = HashMap::from([
        ("n".to_owned(), Any::from_msg(&7_i64).unwrap()),
        ("s".to_owned(), Any::from_msg(&"text".to_owned()).unwrap()),
    ]);
    assert_eq!(serializer.marshal(values).unwrap(), br#"{"n":7,"s":"text"}"#);
}

#[test]
fn a_plugin_offers_what_it_says_and_no_more() {
    let peer = plug::in_process(Json).unwrap();
    assert_eq!(peer.services(), ["example.Serializer"]);
    assert_eq!(peer.version(), env!("CARGO_PKG_VERSION"));
    assert!(peer.has::<SerializerService>());
    assert!(!peer.has::<KvService>());
    let error = peer.proxy::<KvProxy>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    assert!(error.to_string().contains("offers example.Serializer"), "{error}");
}

#[test]
fn options_of_the_proto_are_in_the_service() {
    use plug::Service as _;
    assert_eq!(SerializerService::MAGIC, "s3rializer");
    assert_eq!(SerializerService::VERSION, 2);
}
