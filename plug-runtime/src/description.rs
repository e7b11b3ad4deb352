//! What a plugin is, without calling it: its services, their methods, types and comments.

mod encoded;
mod service;

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use prost::Message;
use prost_types::source_code_info::Location;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

pub(crate) use self::encoded::{
    Descriptors, EncodedDescription, NO_LIMIT, decode_descriptors, merged,
};
pub(crate) use self::service::{GET, SERVICE, is_built_in, offer};
use crate::error::{Error, ErrorKind, OneLine, Result};
use crate::peer::text_pairs;
use crate::protocol::{Hello, MAX_FRAME, MethodInfo, ServiceInfo};
use crate::service::MethodKind;

/// What a plugin says about itself: see [`Command::describe`](crate::Command::describe) and
/// [`Peer::description`](crate::Peer::description).
///
/// `Display` is a text of some lines for people.
///
/// ```no_run
/// # fn main() -> plug::Result<()> {
/// let plugin = plug::Command::new("path/to/plugin").describe()?;
/// for service in plugin.services() {
///     println!("{} has {} methods", service.name(), service.methods().len());
/// }
/// println!("{plugin}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Description {
    hello: Hello,
    services: Vec<ServiceDescription>,
    descriptors: FileDescriptorSet,
}

/// A service that a plugin offers.
#[derive(Clone, Debug)]
pub struct ServiceDescription {
    name: String,
    magic: String,
    version: u32,
    comments: String,
    methods: Vec<MethodDescription>,
}

/// A method of such a service.
#[derive(Clone, Debug)]
pub struct MethodDescription {
    name: String,
    kind: MethodKind,
    one_way: bool,
    request: String,
    response: String,
    comments: String,
}

impl Description {
    /// `limit` is how much memory the descriptors may take, decoded.
    pub(crate) fn new(hello: Hello, descriptors: &[u8], limit: usize) -> Result<Description> {
        let descriptors = decode_descriptors(descriptors, limit)?;
        let visible = hello.services.iter().filter(|service| !is_built_in(&service.name));
        let mut index = Index::of(&descriptors);
        let services = visible.map(|info| ServiceDescription::new(info, &mut index)).collect();
        Ok(Description { hello, services, descriptors })
    }

    /// Reads what a plugin writes that is asked to describe itself. `limit` is that of [`new`](Self::new).
    pub(crate) fn decode(encoded: Bytes, limit: usize) -> Result<Description> {
        let refused = |why: &str| Err(Error::of_kind(ErrorKind::Handshake, why));
        let Ok(EncodedDescription { hello: Some(hello), descriptors }) =
            EncodedDescription::decode(encoded)
        else {
            return refused(NO_DESCRIPTION);
        };
        if hello.len() > MAX_FRAME {
            return refused("its hello is longer than one that is sent may be: is it a plugin?");
        }
        match Hello::from_bytes(&hello) {
            Ok(hello) => Description::new(hello, &descriptors, limit),
            Err(_) => refused(NO_DESCRIPTION),
        }
    }

    /// The name of the plugin: [`Plugin::NAME`](crate::Plugin::NAME), or that of its program.
    pub fn name(&self) -> &str {
        &self.hello.name
    }

    /// The version of the plugin: [`Plugin::VERSION`](crate::Plugin::VERSION).
    pub fn version(&self) -> &str {
        &self.hello.version
    }

    /// What the plugin says about itself besides: [`Plugin::ATTRIBUTES`](crate::Plugin::ATTRIBUTES). Values that are
    /// not text are left out.
    pub fn attributes(&self) -> Vec<(&str, &str)> {
        text_pairs(&self.hello.attributes)
    }

    /// The services that the plugin offers.
    pub fn services(&self) -> &[ServiceDescription] {
        &self.services
    }

    /// The files that describe these services and their messages, with all that they import, each once. Empty if the
    /// plugin does not carry them.
    pub fn descriptors(&self) -> &FileDescriptorSet {
        &self.descriptors
    }
}

impl ServiceDescription {
    fn new<'a>(info: &'a ServiceInfo, index: &mut Index<'a>) -> ServiceDescription {
        let place = index.take_service(&info.name);
        let comments = place.map(|(file, service)| index.comments(file, &[SERVICE_FIELD, service]));
        let method = |info| MethodDescription::new(info, place, index);
        ServiceDescription {
            name: info.name.clone(),
            magic: info.magic.clone(),
            version: info.version,
            comments: comments.unwrap_or_default(),
            methods: info.methods.iter().map(method).collect(),
        }
    }

    /// The full name, such as `example.KV`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `(plugpb.magic)` says, or empty.
    pub fn magic(&self) -> &str {
        &self.magic
    }

    /// What `(plugpb.version)` says, or 0.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The comments in the `.proto`, without the marks of comments. Empty if there are none.
    pub fn comments(&self) -> &str {
        &self.comments
    }

    /// The methods, in the plugin's order.
    pub fn methods(&self) -> &[MethodDescription] {
        &self.methods
    }
}

impl MethodDescription {
    fn new<'a>(
        info: &'a MethodInfo,
        service: Option<Place>,
        index: &mut Index<'a>,
    ) -> MethodDescription {
        let plain = |name: &str| name.trim_start_matches('.').to_owned();
        let found = service.and_then(|service| index.take_method(service, &info.name));
        let (request, response, comments) = match (service, found) {
            (Some((file, service)), Some((place, method))) => {
                let path = [SERVICE_FIELD, service, METHOD_FIELD, place];
                let comments = index.comments(file, &path);
                (plain(method.input_type()), plain(method.output_type()), comments)
            }
            _ => Default::default(),
        };
        MethodDescription {
            name: info.name.clone(),
            kind: MethodKind::of_streams(info.streams_requests, info.streams_responses),
            one_way: info.one_way,
            request,
            response,
            comments,
        }
    }

    /// The name within its service, such as `Get`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which sides are streams.
    pub fn kind(&self) -> MethodKind {
        self.kind
    }

    /// Whether the caller does not wait for an answer.
    pub fn is_one_way(&self) -> bool {
        self.one_way
    }

    /// The full name of the request's message, such as `example.GetRequest`. Empty if the plugin does not carry its
    /// descriptors.
    pub fn request(&self) -> &str {
        &self.request
    }

    /// The full name of the response's message; empty like that of the [request](Self::request).
    pub fn response(&self) -> &str {
        &self.response
    }

    /// The comments in the `.proto`, without the marks of comments. Empty if there are none.
    pub fn comments(&self) -> &str {
        &self.comments
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", OneLine(self.name()))?;
        if !self.version().is_empty() {
            write!(f, " {}", OneLine(self.version()))?;
        }
        writeln!(f)?;
        for (key, value) in self.attributes() {
            writeln!(f, "  {}: {}", OneLine(key), OneLine(value))?;
        }
        if self.services.is_empty() {
            writeln!(f, "\nIt offers no services.")?;
        }
        self.services.iter().try_for_each(|service| service.fmt(f))
    }
}

impl fmt::Display for ServiceDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\nservice {}", OneLine(&self.name))?;
        if self.version != 0 {
            write!(f, ", version {}", self.version)?;
        }
        if !self.magic.is_empty() {
            write!(f, ", magic {:?}", self.magic)?;
        }
        writeln!(f)?;
        indented(f, "  ", &self.comments)?;
        for method in &self.methods {
            write!(f, "\n  {}", OneLine(&method.name))?;
            if !method.request.is_empty() {
                let mark = |is_stream| if is_stream { "stream " } else { "" };
                write!(
                    f,
                    "({}{}) returns ({}{})",
                    mark(method.kind.streams_requests()),
                    OneLine(&method.request),
                    mark(method.kind.streams_responses()),
                    OneLine(&method.response),
                )?;
            }
            let one_way = if method.one_way { ", one-way" } else { "" };
            writeln!(f, ": {}{one_way}", method.kind)?;
            indented(f, "    ", &method.comments)?;
        }
        Ok(())
    }
}

fn indented(f: &mut fmt::Formatter<'_>, indent: &str, text: &str) -> fmt::Result {
    text.lines().try_for_each(|line| writeln!(f, "{indent}{}", OneLine(line)))
}

/// What is where in descriptors. It takes one pass to make, and gives each service and method once: a plugin that names the
/// same ones again and again has nobody search for them again and again, nor copy their comments.
struct Index<'a> {
    /// By the package and the name: which service of which file.
    services: HashMap<(&'a str, &'a str), Place>,
    /// By the service and the name.
    methods: HashMap<(Place, &'a str), (i32, &'a MethodDescriptorProto)>,
    /// By the file and the path within it.
    locations: HashMap<(usize, &'a [i32]), &'a Location>,
}

/// A file, and the place of a service in it.
type Place = (usize, i32);

impl<'a> Index<'a> {
    fn of(descriptors: &'a FileDescriptorSet) -> Index<'a> {
        let mut index =
            Index { services: HashMap::new(), methods: HashMap::new(), locations: HashMap::new() };
        for (number, file) in descriptors.file.iter().enumerate() {
            for (place, service) in (0..).zip(&file.service) {
                let at = (number, place);
                index.services.entry((file.package(), service.name())).or_insert(at);
                for (place, method) in (0..).zip(&service.method) {
                    index.methods.entry((at, method.name())).or_insert((place, method));
                }
            }
            let locations = file.source_code_info.iter().flat_map(|info| &info.location);
            for location in
                locations.filter(|location| location.path.first() == Some(&SERVICE_FIELD))
            {
                index.locations.entry((number, &location.path)).or_insert(location);
            }
        }
        index
    }

    /// The file of a service and its place there, by its full name.
    fn take_service(&mut self, full_name: &'a str) -> Option<Place> {
        let name = full_name.rsplit_once('.').unwrap_or(("", full_name));
        self.services.remove(&name)
    }

    /// A method and its place in its service.
    fn take_method(
        &mut self,
        service: Place,
        name: &'a str,
    ) -> Option<(i32, &'a MethodDescriptorProto)> {
        self.methods.remove(&(service, name))
    }

    /// The comments of what has this path in a file.
    fn comments(&self, file: usize, path: &[i32]) -> String {
        let location = self.locations.get(&(file, path));
        let texts =
            location.map(|location| [location.leading_comments(), location.trailing_comments()]);
        let lines = texts.iter().flatten().flat_map(|text| text.lines());
        let lines: Vec<&str> =
            lines.map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
        lines.join("\n").trim_matches('\n').to_owned()
    }
}

const NO_DESCRIPTION: &str = "what it printed is no description: is it a plugin, and does it print nothing before plug::run?";

/// The number of `service` in `FileDescriptorProto`.
const SERVICE_FIELD: i32 = 6;

/// The number of `method` in `ServiceDescriptorProto`.
const METHOD_FIELD: i32 = 2;

#[cfg(test)]
mod tests {
    use prost_types::{FileDescriptorProto, ServiceDescriptorProto, SourceCodeInfo};

    use super::*;
    use crate::protocol::Pair;

    /// The encoded descriptors of some files.
    pub(super) fn set(sources: &[(&str, &str)]) -> Vec<u8> {
        let files = sources.iter().map(|(name, source)| {
            let file = protox::file::File::from_source(name, source).unwrap();
            file.file_descriptor_proto().clone()
        });
        FileDescriptorSet { file: files.collect() }.encode_to_vec()
    }

    fn hello(services: &[(&str, &[(&str, MethodKind)])]) -> Hello {
        let method = |&(name, kind): &(&str, MethodKind)| MethodInfo {
            name: name.to_owned(),
            streams_requests: kind.streams_requests(),
            streams_responses: kind.streams_responses(),
            one_way: false,
        };
        let services = services.iter().map(|(name, methods)| ServiceInfo {
            name: (*name).to_owned(),
            methods: methods.iter().map(method).collect(),
            ..ServiceInfo::default()
        });
        let attributes = vec![Pair { key: "author".to_owned(), value: "A\nB".into() }];
        Hello {
            services: services.collect(),
            attributes,
            ..Hello::new("kv-plugin".to_owned(), "1.2.3".to_owned())
        }
    }

    const KV: &str = r#"
        syntax = "proto3";
        package example;
        message Request {}
        message Response {}
        service Other { rpc Get(Request) returns (Request); }
        // A small store.
        //
        // With values.
        service KV {
            // Reads.
            rpc Get(.example.Request) returns (.example.Response);
            rpc Watch(.example.Request) returns (stream .example.Response);
        }
    "#;

    #[test]
    fn a_description_has_the_types_and_comments_of_the_proto() {
        let methods = [("Watch", MethodKind::ServerStreaming), ("Get", MethodKind::Unary)];
        let hello = hello(&[("example.KV", &methods), (SERVICE, &[(GET, MethodKind::Unary)])]);
        let descriptors = set(&[("kv.proto", KV)]);
        let description = Description::new(hello, &descriptors, NO_LIMIT).unwrap();
        let [service] = description.services() else {
            panic!("what is built in is hidden: {description:?}");
        };
        assert_eq!(service.name(), "example.KV");
        assert_eq!(service.comments(), "A small store.\n\nWith values.");
        let [watch, get] = service.methods() else { panic!("two methods: {service:?}") };
        assert_eq!((get.name(), get.kind(), get.comments()), ("Get", MethodKind::Unary, "Reads."));
        assert_eq!((get.request(), get.response()), ("example.Request", "example.Response"));
        assert_eq!((watch.kind(), watch.comments()), (MethodKind::ServerStreaming, ""));
        assert_eq!(
            description.to_string(),
            "kv-plugin 1.2.3\n  author: A\\nB\n\n\
             service example.KV\n  A small store.\n  \n  With values.\n\n  \
             Watch(example.Request) returns (stream example.Response): server-streaming\n\n  \
             Get(example.Request) returns (example.Response): unary\n    Reads.\n"
        );
    }

    /// Each look for one of them used to be a walk through all that are described.
    #[test]
    fn a_plugin_that_names_and_describes_a_hundred_thousand_of_everything_is_described_at_once() {
        const MANY: usize = 100_000;
        let method =
            |name: String| MethodDescriptorProto { name: Some(name), ..Default::default() };
        let service =
            |name: String| ServiceDescriptorProto { name: Some(name), ..Default::default() };
        let mut services: Vec<_> = (0..MANY).map(|n| service(format!("S{n}"))).collect();
        services[0].method = (0..MANY).map(|n| method(format!("M{n}"))).collect();
        let location = |n: usize| Location {
            path: vec![SERVICE_FIELD, 0, METHOD_FIELD, n as i32],
            leading_comments: Some(format!(" The {n}th.")),
            ..Location::default()
        };
        let file = FileDescriptorProto {
            package: Some("a".to_owned()),
            service: services,
            source_code_info: Some(SourceCodeInfo { location: (0..MANY).map(location).collect() }),
            ..Default::default()
        };
        let descriptors = FileDescriptorSet { file: vec![file] }.encode_to_vec();
        // The last are the slowest to be found, and one comes again and again.
        let names: Vec<_> = (0..MANY).rev().map(|n| format!("M{n}")).collect();
        let methods: Vec<_> = names.iter().map(|name| (&name[..], MethodKind::Unary)).collect();
        let names: Vec<_> = (0..MANY).rev().map(|n| format!("a.S{n}")).collect();
        let mut services: Vec<(&str, &[_])> =
            names.iter().map(|name| (&name[..], &[][..])).collect();
        services[MANY - 1].1 = &methods;
        services.extend([services[MANY - 1], services[MANY - 1]]);
        let description = Description::new(hello(&services), &descriptors, NO_LIMIT).unwrap();
        let [.., first, second, _] = description.services() else { panic!("all of them") };
        assert_eq!(first.methods()[0].comments(), "The 99999th.");
        assert_eq!(second.methods()[0].comments(), "", "it is described once");
    }

    #[test]
    fn without_descriptors_there_are_names_and_kinds() {
        let hello = hello(&[("example.KV", &[("Get", MethodKind::Unary)])]);
        let description = Description::new(hello, b"", NO_LIMIT).unwrap();
        let method = &description.services()[0].methods()[0];
        assert_eq!((method.name(), method.request(), method.comments()), ("Get", "", ""));
        assert!(description.to_string().ends_with("\n  Get: unary\n"), "{description}");
    }

    #[test]
    fn what_is_no_description_is_refused() {
        for text in [&b""[..], b"Usage: kv [options]\n", b"\x0a\x01\xff"] {
            let error = Description::decode(Bytes::from(text), NO_LIMIT).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
            assert!(error.message().contains("is no description"), "{error}");
        }
    }

    #[test]
    fn a_description_that_would_burst_is_refused() {
        let decoded = |hello: Vec<u8>, descriptors: Vec<u8>| {
            let (hello, descriptors) = (Some(hello.into()), descriptors.into());
            let encoded = EncodedDescription { hello, descriptors }.encode_to_vec();
            Description::decode(encoded.into(), 1 << 20)
        };
        assert!(decoded(Vec::new(), Vec::new()).is_ok());
        // Empty files, and empty services.
        let error = decoded(Vec::new(), b"\x0a\x00".repeat(10_000)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.message().contains("Command::max_decoded"), "{error}");
        let services = Hello { services: vec![ServiceInfo::default()], ..Hello::default() };
        let hello = services.encode_to_vec();
        let error = decoded(hello.repeat(MAX_FRAME / hello.len() + 1), Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Handshake);
        assert!(error.message().contains("longer than"), "{error}");
    }
}
