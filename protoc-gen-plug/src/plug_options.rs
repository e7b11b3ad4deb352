//! The options of `plug.proto`: `(plugpb.magic)` and its siblings.

use crate::mirror;
use crate::mistakes::Mistakes;
use crate::source::Source;
use crate::wire::{Value, records};

/// The numbers of the options, as the files of this run define them; 0 for those that they do not.
#[derive(Default)]
pub(crate) struct PlugOptions {
    magic: u32,
    version: u32,
    unwrap_methods: u32,
    unwrap: u32,
    one_way: u32,
}

/// The options of a service.
#[derive(Default)]
pub(crate) struct ServicePlugOptions {
    pub(crate) magic: Option<String>,
    pub(crate) version: Option<u32>,
    pub(crate) unwrap_methods: Option<bool>,
}

/// The options of a method.
#[derive(Default)]
pub(crate) struct MethodPlugOptions {
    pub(crate) unwrap: Option<bool>,
    pub(crate) one_way: bool,
}

impl PlugOptions {
    /// Finds the options by their full names. A user may have a `plug.proto` of their own, so the
    /// shape of each is checked.
    pub(crate) fn find(source: &Source, mistakes: &mut Mistakes) -> PlugOptions {
        use prost_types::field_descriptor_proto::Type;

        let mut found = PlugOptions::default();
        for file in source.files.iter().filter(|file| file.proto.package() == "plugpb") {
            for (index, extension) in file.proto.extension.iter().enumerate() {
                let (slot, extendee, ty) = match extension.name() {
                    "magic" => (&mut found.magic, "Service", Type::String),
                    "version" => (&mut found.version, "Service", Type::Uint32),
                    "unwrap_methods" => (&mut found.unwrap_methods, "Service", Type::Bool),
                    "unwrap" => (&mut found.unwrap, "Method", Type::Bool),
                    "one_way" => (&mut found.one_way, "Method", Type::Bool),
                    _ => continue,
                };
                let extendee = format!(".google.protobuf.{extendee}Options");
                if extension.extendee() == extendee && extension.r#type() == ty {
                    *slot = u32::try_from(extension.number()).unwrap_or(0);
                } else {
                    mistakes.add(
                        file.name(),
                        file.position(&[7, index as i32]),
                        format!(
                            "the option `plugpb.{}` is not the one that protoc-gen-plug knows. Use \
                             the `plug.proto` that `protoc-gen-plug --include DIR` writes",
                            extension.name()
                        ),
                    );
                }
            }
        }
        found
    }

    pub(crate) fn of_service(&self, service: &mirror::Service) -> ServicePlugOptions {
        let mut options = ServicePlugOptions::default();
        each(&service.options, |number, value| match value {
            Value::Bytes(text) if number == self.magic => {
                options.magic = Some(String::from_utf8_lossy(text).into_owned());
            }
            Value::Varint(version) if number == self.version => {
                options.version = u32::try_from(version).ok();
            }
            Value::Varint(flag) if number == self.unwrap_methods => {
                options.unwrap_methods = Some(flag != 0);
            }
            _ => {}
        });
        options
    }

    pub(crate) fn of_method(&self, method: &mirror::Method) -> MethodPlugOptions {
        let mut options = MethodPlugOptions::default();
        each(&method.options, |number, value| {
            let Value::Varint(flag) = value else { return };
            if number == self.unwrap {
                options.unwrap = Some(flag != 0);
            } else if number == self.one_way {
                options.one_way = flag != 0;
            }
        });
        options
    }
}

fn each(options: &[Vec<u8>], mut visit: impl FnMut(u32, Value<'_>)) {
    for bytes in options {
        for record in records(bytes).unwrap_or_default() {
            visit(record.number, record.value);
        }
    }
}
