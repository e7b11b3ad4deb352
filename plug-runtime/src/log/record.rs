//! A record as it travels: `Record` of `frame.proto`.

use prost::Message;
use tracing::level_filters::LevelFilter;

/// The payload of a log frame. With nothing but a level, the payload of a level frame.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(enumeration = "Level", tag = "1")]
    pub(super) level: i32,
    #[prost(string, tag = "2")]
    pub(super) target: String,
    #[prost(string, tag = "3")]
    pub(super) text: String,
    /// The values are text: numbers and booleans as in Rust, strings as they are, all else as its `Debug` has it.
    #[prost(message, repeated, tag = "4")]
    pub(super) fields: Vec<Pair>,
    /// Nanoseconds since 1970-01-01 UTC.
    #[prost(uint64, tag = "5")]
    pub(super) time_ns: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Pair {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// How important a record is. As a wish: the least important level that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Level {
    Off = 0,
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
    Trace = 5,
}

/// The key of the pair that says how many records before this one were lost. Its value is a decimal number.
pub(super) const LOST: &str = "plug.lost";

impl Level {
    /// The level with a number from the wire. Levels of later versions are less important than all that are known.
    pub(super) fn from_wire(number: i32) -> Level {
        Level::try_from(number).unwrap_or(if number < 0 { Level::Off } else { Level::Trace })
    }

    /// What of `tracing` is let through at this level.
    pub(super) fn filter(self) -> LevelFilter {
        match self {
            Level::Off => LevelFilter::OFF,
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }
}

impl From<&tracing::Level> for Level {
    fn from(level: &tracing::Level) -> Level {
        match *level {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::TRACE => Level::Trace,
        }
    }
}

impl Record {
    /// How many records were lost before this one, by what its plugin says.
    pub(super) fn lost(&self) -> u64 {
        let pair = self.fields.iter().find(|pair| pair.key == LOST);
        let text = pair.and_then(|pair| std::str::from_utf8(&pair.value).ok());
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, DynamicMessage, Value};

    use super::*;

    fn pool() -> DescriptorPool {
        let source = include_str!("../../proto/frame.proto");
        let file = protox::file::File::from_source("frame.proto", source).unwrap();
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_proto(file.file_descriptor_proto().clone()).unwrap();
        pool
    }

    #[test]
    fn records_are_those_of_the_schema() {
        let record = Record {
            level: Level::Debug as i32,
            target: "kv::store".to_owned(),
            text: "opened".to_owned(),
            fields: vec![Pair { key: "path".to_owned(), value: b"/tmp".to_vec() }],
            time_ns: u64::MAX,
        };
        let pool = pool();
        let message = pool.get_message_by_name("plug.wire.Record").unwrap();
        let decoded = DynamicMessage::decode(message, &record.encode_to_vec()[..]).unwrap();
        assert_eq!(decoded.unknown_fields().count(), 0, "fields that the schema does not know");
        let field = |name: &str| decoded.get_field_by_name(name).unwrap().into_owned();
        assert_eq!(field("level"), Value::EnumNumber(4));
        assert_eq!(field("target"), Value::String("kv::store".to_owned()));
        assert_eq!(field("text"), Value::String("opened".to_owned()));
        assert_eq!(field("time_ns"), Value::U64(u64::MAX));
        let pairs = field("fields");
        let pair = pairs.as_list().unwrap()[0].as_message().unwrap();
        assert_eq!(pair.get_field_by_name("key").unwrap().as_str(), Some("path"));
        assert_eq!(pair.get_field_by_name("value").unwrap().as_bytes().unwrap(), &b"/tmp"[..]);
        assert_eq!(Record::decode(&decoded.encode_to_vec()[..]).unwrap(), record);
    }

    #[test]
    fn levels_are_those_of_the_schema() {
        let levels = pool().get_enum_by_name("plug.wire.Level").unwrap();
        for value in levels.values() {
            let level = Level::from_wire(value.number());
            assert_eq!(level as i32, value.number(), "{}", value.name());
            assert_eq!(level.filter().to_string(), value.name().to_lowercase());
        }
        assert_eq!(Level::from_wire(6), Level::Trace, "a level of a later version");
        assert_eq!(Level::from_wire(-1), Level::Off);
    }

    #[test]
    fn a_lost_count_that_is_no_number_counts_nothing() {
        let lost = |value: &[u8]| {
            let pair = Pair { key: LOST.to_owned(), value: value.to_vec() };
            Record { fields: vec![pair], ..Record::default() }.lost()
        };
        assert_eq!(lost(b"17"), 17);
        assert_eq!(lost(b"-1"), 0);
        assert_eq!(lost(b"\xff"), 0);
    }
}
