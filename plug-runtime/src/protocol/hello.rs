//! What each side says about itself before the first call, and whether the two fit.

use bytes::Bytes;
use prost::Message;

use super::{CONNECTION_WINDOW, STREAM_WINDOW, Side, VERSIONS};
use crate::error::{Error, ErrorKind, Result};

/// The payload of the first frame of each side: `Hello` of `frame.proto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(crate) version_min: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) version_max: u32,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) version: String,
    #[prost(string, tag = "5")]
    pub(crate) runtime: String,
    #[prost(message, repeated, tag = "6")]
    pub(crate) services: Vec<ServiceInfo>,
    /// The largest message that the sender receives, in bytes. 0: it states no limit.
    #[prost(uint64, tag = "7")]
    pub(crate) max_message: u64,
    /// How many calls the sender serves at once. 0: it states no limit.
    #[prost(uint32, tag = "8")]
    pub(crate) max_calls: u32,
    /// What the sender can do beyond the base protocol; in use where both sides list it.
    #[prost(string, repeated, tag = "9")]
    pub(crate) features: Vec<String>,
    /// What the sender cannot do without.
    #[prost(string, repeated, tag = "10")]
    pub(crate) required: Vec<String>,
    /// What the other side may send at first: in each stream, and in all together.
    #[prost(uint64, tag = "11")]
    pub(crate) stream_window: u64,
    #[prost(uint64, tag = "12")]
    pub(crate) connection_window: u64,
    /// Of a host: a message for the plugin to start with.
    #[prost(message, optional, tag = "13")]
    pub(crate) config: Option<Config>,
    /// What the program says about itself.
    #[prost(message, repeated, tag = "14")]
    pub(crate) attributes: Vec<Pair>,
    /// The least important log records that the host wants.
    #[prost(int32, tag = "15")]
    pub(crate) level: i32,
}

/// Which features are in use: those that both hellos list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Streams, which need credit and cancel.
    pub(crate) streams: bool,
    pub(crate) credit: bool,
    pub(crate) cancel: bool,
    pub(crate) deadline: bool,
    pub(crate) within: bool,
    pub(crate) metadata: bool,
    pub(crate) ping: bool,
    pub(crate) ready: bool,
    pub(crate) log: bool,
    pub(crate) shm: bool,
}

/// A message for a plugin to start with.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Config {
    /// The full name of the message, or empty where the sender does not know it.
    #[prost(string, tag = "1")]
    pub(crate) type_name: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

/// A name and what it stands for.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Pair {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

/// A service that the sender of a hello offers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServiceInfo {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) magic: String,
    #[prost(uint32, tag = "3")]
    pub(crate) version: u32,
    #[prost(message, repeated, tag = "4")]
    pub(crate) methods: Vec<MethodInfo>,
}

/// A method of such a service. Its number in calls is its place in the hello, counted from 1
/// through the methods of all services.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MethodInfo {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(bool, tag = "2")]
    pub(crate) streams_requests: bool,
    #[prost(bool, tag = "3")]
    pub(crate) streams_responses: bool,
    /// The caller does not wait for the end of a call.
    #[prost(bool, tag = "4")]
    pub(crate) one_way: bool,
}

impl Hello {
    /// Decodes one. It is cold, and so is [`to_bytes`](Self::to_bytes), as both are for once in a connection: each caller
    /// would have 7 KB of its own for it.
    #[cold]
    pub(crate) fn from_bytes(encoded: &[u8]) -> std::result::Result<Hello, prost::DecodeError> {
        // Room for those that are known, and as many others: growing the list step by step would have a plugin hold 64 KiB
        // more of its program, where nothing else of use is.
        let features = Vec::with_capacity(2 * FEATURES.len());
        let mut hello = Hello { features, ..Hello::default() };
        hello.merge(encoded)?;
        Ok(hello)
    }

    #[cold]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// A hello of this runtime, without services and without limits.
    pub(crate) fn new(name: String, version: String) -> Hello {
        Hello {
            version_min: *VERSIONS.start(),
            version_max: *VERSIONS.end(),
            name,
            version,
            runtime: concat!("plug-runtime ", env!("CARGO_PKG_VERSION")).to_owned(),
            ..Hello::default()
        }
    }

    /// The same hello, of a side that has the features which this runtime always has, and `more`.
    pub(crate) fn with_features(mut self, more: &[&str]) -> Hello {
        self.features = FEATURES.iter().chain(more).map(|&name| name.to_owned()).collect();
        self.stream_window = STREAM_WINDOW;
        self.connection_window = CONNECTION_WINDOW;
        self
    }

    /// What both sides can do.
    pub(crate) fn features_with(&self, peer: &Hello) -> Features {
        let both = |name: &str| {
            [self, peer].iter().all(|hello| hello.features.iter().any(|feature| feature == name))
        };
        let (credit, cancel) = (both("credit"), both("cancel"));
        Features {
            streams: credit && cancel && both("streams"),
            credit,
            cancel,
            deadline: both("deadline"),
            within: both("within"),
            metadata: both("metadata"),
            ping: both("ping"),
            ready: both("ready"),
            log: both("log"),
            shm: both("shm"),
        }
    }

    /// Whether `self`, the hello of `side`, and `peer`, that of the other, can talk.
    pub(super) fn check(&self, side: Side, peer: &Hello) -> Result<()> {
        let highest = self.version_max.min(peer.version_max);
        let lowest = self.version_min.max(peer.version_min);
        if highest < lowest {
            let (host, plugin) = match side {
                Side::Host => (self, peer),
                Side::Plugin => (peer, self),
            };
            return Err(Error::of_kind(
                ErrorKind::Incompatible,
                format!(
                    "no common protocol version: the host speaks {}, the plugin speaks {}. Update the plug-runtime of the older one",
                    versions(host),
                    versions(plugin),
                ),
            ));
        }
        // Both sides look at both lists, so that both come to the same end.
        for (requires, lacks, whose) in [(peer, self, "this"), (self, peer, "the other")] {
            let missing = requires.required.iter().find(|&name| !lacks.features.contains(name));
            if let Some(feature) = missing {
                return Err(Error::of_kind(
                    ErrorKind::Incompatible,
                    format!(
                        "{whose} side does not have the feature {feature:?}, which is required. Update its plug-runtime"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The largest message that its sender receives.
    pub(super) fn message_limit(&self) -> u64 {
        let stated = if self.max_message == 0 { u64::MAX } else { self.max_message };
        // What a message says of its length is counted with before it is there.
        stated.min(LONGEST_MESSAGE)
    }

    /// The number of a method in calls to the sender of this hello.
    pub(crate) fn method_number(&self, service: &str, method: &str) -> Option<u32> {
        let all = self.services.iter().flat_map(|s| s.methods.iter().map(move |m| (s, m)));
        (1..).zip(all).find(|(_, (s, m))| s.name == service && m.name == method).map(|(n, _)| n)
    }
}

/// The features that this runtime always has.
const FEATURES: [&str; 8] =
    ["streams", "credit", "cancel", "deadline", "within", "metadata", "ping", "ready"];

fn versions(hello: &Hello) -> String {
    if hello.version_min == hello.version_max {
        hello.version_min.to_string()
    } else {
        format!("{} to {}", hello.version_min, hello.version_max)
    }
}

/// More than any connection carries, and little enough to be added to what it has carried.
const LONGEST_MESSAGE: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version_min: u32, version_max: u32) -> Hello {
        Hello { version_min, version_max, ..Hello::default() }
    }

    #[test]
    fn h6_versions_must_overlap() {
        let host = hello(2, 3);
        for (plugin, fits) in
            [(hello(1, 1), false), (hello(4, 4), false), (hello(3, 9), true), (hello(0, 2), true)]
        {
            assert_eq!(host.check(Side::Host, &plugin).is_ok(), fits, "{plugin:?}");
            assert_eq!(plugin.check(Side::Plugin, &host).is_ok(), fits, "{plugin:?}");
        }
        let error = host.check(Side::Host, &hello(1, 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        assert!(
            error.message().contains("the host speaks 2 to 3, the plugin speaks 1."),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_required_feature_is_refused_and_an_optional_one_ignored() {
        let mut peer = hello(1, 1);
        peer.features = vec!["telepathy".into()];
        assert!(hello(1, 1).check(Side::Host, &peer).is_ok());
        peer.required = vec!["telepathy".into()];
        let error = hello(1, 1).check(Side::Host, &peer).unwrap_err();
        assert!(error.message().contains("telepathy"), "{error}");
    }

    #[test]
    fn methods_are_numbered_through_all_services() {
        let method = |name: &str| MethodInfo { name: name.into(), ..MethodInfo::default() };
        let service = |name: &str, methods: &[&str]| ServiceInfo {
            name: name.into(),
            methods: methods.iter().map(|name| method(name)).collect(),
            ..ServiceInfo::default()
        };
        let hello = Hello {
            services: vec![service("a.A", &["X", "Y"]), service("a.B", &["X"])],
            ..Hello::default()
        };
        assert_eq!(hello.method_number("a.A", "X"), Some(1));
        assert_eq!(hello.method_number("a.B", "X"), Some(3));
        assert_eq!(hello.method_number("a.B", "Y"), None);
    }
}
