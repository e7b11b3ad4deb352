//! The request, decoded: the files, what they define, and where.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

use crate::mirror;
use crate::mistakes::Mistakes;

/// The files of one run: those to generate and all that they import.
pub(crate) struct Source {
    pub(crate) files: Vec<File>,
    by_name: HashMap<String, usize>,
}

/// One `.proto` file.
pub(crate) struct File {
    pub(crate) proto: FileDescriptorProto,
    /// The same, with custom options.
    pub(crate) mirror: mirror::File,
    /// Whether code is generated for it.
    pub(crate) generate: bool,
    /// Where each item begins, counted from 1, by its path in the descriptor.
    positions: HashMap<Vec<i32>, (u32, u32)>,
}

/// What the files define, by full name with a leading dot, such as `.example.GetRequest`.
pub(crate) struct Types<'a> {
    pub(crate) messages: HashMap<String, MessageType<'a>>,
    pub(crate) enums: HashMap<String, &'a EnumDescriptorProto>,
}

/// A message and where it is defined.
pub(crate) struct MessageType<'a> {
    pub(crate) proto: &'a DescriptorProto,
    pub(crate) file: usize,
    pub(crate) path: Vec<i32>,
}

impl Source {
    /// Decodes the files, and marks those that are to be generated.
    pub(crate) fn decode(encoded: &[Vec<u8>], generate: &[String]) -> Result<Source, Mistakes> {
        let mut files: Vec<File> = Vec::with_capacity(encoded.len());
        let mut by_name = HashMap::new();
        let mut mistakes = Mistakes::default();
        for bytes in encoded {
            let file = match File::decode(bytes) {
                Ok(file) => file,
                Err(error) => {
                    mistakes.add("", None, format!("a descriptor cannot be decoded: {error}"));
                    continue;
                }
            };
            let name = file.name().to_owned();
            if name.is_empty() {
                mistakes.add("", None, "a descriptor has no file name");
            } else if by_name.insert(name.clone(), files.len()).is_some() {
                mistakes.add(&name, None, "the request has this file twice");
            }
            files.push(file);
        }
        for name in generate {
            match by_name.get(name) {
                Some(&index) => files[index].generate = true,
                None => mistakes.add(name, None, "the request does not have this file"),
            }
        }
        let source = Source { files, by_name };
        for file in &source.files {
            for (index, import) in file.proto.dependency.iter().enumerate() {
                if source.file(import).is_none() {
                    let message = format!("the imported file `{import}` is not in the request");
                    mistakes.add(file.name(), file.position(&[3, index as i32]), message);
                }
            }
        }
        mistakes.or(source)
    }

    pub(crate) fn file(&self, name: &str) -> Option<&File> {
        self.by_name.get(name).map(|&index| &self.files[index])
    }

    /// The files that `names` are, and all that these import, in the one order that depends on
    /// nothing but their names and imports: imports first.
    pub(crate) fn with_imports<'a>(&'a self, names: &[&'a str]) -> Vec<&'a File> {
        let mut ordered = Vec::new();
        let mut seen = std::collections::HashSet::new();
        // A stack instead of a recursion, because a chain of imports can be as long as it likes. A
        // cycle ends where it meets a file that was seen.
        let mut stack: Vec<(&str, bool)> = names.iter().rev().map(|&name| (name, false)).collect();
        while let Some((name, imports_done)) = stack.pop() {
            let Some(file) = self.file(name) else { continue };
            if imports_done {
                ordered.push(file);
            } else if seen.insert(name) {
                stack.push((name, true));
                stack.extend(file.proto.dependency.iter().rev().map(|name| (name.as_str(), false)));
            }
        }
        ordered
    }

    /// Collects what the files define. A name that is defined twice is the checker's business.
    pub(crate) fn types(&self) -> Types<'_> {
        let mut types = Types { messages: HashMap::new(), enums: HashMap::new() };
        for (index, file) in self.files.iter().enumerate() {
            let scope = match file.proto.package() {
                "" => String::new(),
                package => format!(".{package}"),
            };
            types.collect(
                index,
                &scope,
                &mut Vec::new(),
                (4, &file.proto.message_type),
                &file.proto.enum_type,
            );
        }
        types
    }
}

impl<'a> Types<'a> {
    // The depth of nesting is bounded: the decoder refuses more than a hundred levels.
    fn collect(
        &mut self,
        file: usize,
        scope: &str,
        path: &mut Vec<i32>,
        (message_tag, messages): (i32, &'a [DescriptorProto]),
        enums: &'a [EnumDescriptorProto],
    ) {
        for (index, message) in messages.iter().enumerate() {
            path.extend([message_tag, index as i32]);
            let name = format!("{scope}.{}", message.name());
            self.collect(file, &name, path, (3, &message.nested_type), &message.enum_type);
            self.messages.entry(name).or_insert(MessageType {
                proto: message,
                file,
                path: path.clone(),
            });
            path.truncate(path.len() - 2);
        }
        for proto in enums {
            self.enums.entry(format!("{scope}.{}", proto.name())).or_insert(proto);
        }
    }
}

impl File {
    fn decode(bytes: &[u8]) -> Result<File, prost::DecodeError> {
        let proto = FileDescriptorProto::decode(bytes)?;
        let mirror = mirror::File::decode(bytes)?;
        let mut positions = HashMap::new();
        for location in proto.source_code_info.iter().flat_map(|info| &info.location) {
            if let [line, column, ..] = location.span[..] {
                let from_one = |n: i32| u32::try_from(n).unwrap_or(0).saturating_add(1);
                // An extension block has one location for the block and one for each of its fields,
                // all with the same path: the first is the outermost.
                positions
                    .entry(location.path.clone())
                    .or_insert((from_one(line), from_one(column)));
            }
        }
        Ok(File { proto, mirror, generate: false, positions })
    }

    pub(crate) fn name(&self) -> &str {
        self.proto.name()
    }

    /// Where the item at `path` begins, or else the nearest item around it.
    pub(crate) fn position(&self, path: &[i32]) -> Option<(u32, u32)> {
        let mut path = path;
        loop {
            if let Some(&position) = self.positions.get(path) {
                return Some(position);
            }
            path = &path[..path.len().checked_sub(1)?];
        }
    }
}
