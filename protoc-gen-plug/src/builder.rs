//! The doors for `build.rs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

use prost::Message as _;

use crate::generate::{OutputFile, generate_files};
use crate::messages::is_extern;
use crate::options::Options;
use crate::{mirror, modules, parsers};

/// The file with the tree of modules, for `plug::include_proto!()`.
const MODULES: &str = "plug_modules.rs";

/// Generates code from `build.rs`, with options.
///
/// ```no_run
/// fn main() -> Result<(), protoc_gen_plug::Error> {
///     protoc_gen_plug::Builder::new()
///         .bytes(".")
///         .type_attribute(".example.Event", "#[derive(serde::Serialize)]")
///         .compile(&["proto/kv.proto"], &["proto"])
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    options: Options,
    out_dir: Option<PathBuf>,
    parser: Parser,
}

/// Who parses the `.proto` files.
#[derive(Clone, Debug, Default)]
enum Parser {
    /// The one in this process.
    #[default]
    Protox,
    Protoc(PathBuf),
    #[cfg(feature = "protobuf-parse")]
    ProtobufParse,
}

/// What is wrong with the `.proto` files or the options, one mistake a line, each as
/// `file:line:col: what is wrong and what to do`.
///
/// `Debug` prints the same text as `Display`, since that is what `unwrap()` in a `build.rs` shows.
pub struct Error {
    text: String,
}

/// Generates code from `build.rs`: for `protos` and all that they import, which is looked for in the
/// folders `includes`. Needs no protoc.
///
/// The code goes to cargo's `OUT_DIR`, from where `plug::include_proto!` takes it. Cargo runs
/// `build.rs` again when one of the files changes.
///
/// ```no_run
/// protoc_gen_plug::compile(&["proto/kv.proto"], &["proto"]).unwrap();
/// ```
///
/// # Errors
///
/// If a file cannot be read or written, and with all the mistakes in the `.proto` files.
pub fn compile(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    Builder::new().compile(protos, includes)
}

impl Builder {
    /// A builder with the default options: those of [`compile`].
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Whether the code of messages is generated (the default), or comes from elsewhere: from code
    /// in the same modules, or from the paths that [`extern_path`](Builder::extern_path) sets.
    pub fn messages(mut self, emit: bool) -> Builder {
        self.options.emit_messages = emit;
        self
    }

    /// Does not generate the messages of a package, or one message, but uses those at a Rust path.
    ///
    /// A message that is named itself may be any type that implements `prost::Message`, and is never
    /// unwrapped. Those of a package must be as prost generates them.
    ///
    /// ```
    /// let builder = protoc_gen_plug::Builder::new().extern_path(".common", "::common_protos");
    /// # let _ = builder;
    /// ```
    pub fn extern_path(mut self, proto: impl Into<String>, rust: impl Into<String>) -> Builder {
        self.options.extern_paths.push((proto.into(), rust.into()));
        self
    }

    /// Whether requests and responses are unwrapped where the `.proto` does not say: fields become
    /// arguments, the only field of a response becomes the result. The default is yes.
    pub fn unwrap(mut self, unwrap: bool) -> Builder {
        self.options.unwrap = unwrap;
        self
    }

    /// Makes `bytes` fields `plug::bytes::Bytes` instead of `Vec<u8>`: all of them (`.`), those of a
    /// package, of a message, or one.
    pub fn bytes(mut self, path: impl Into<String>) -> Builder {
        self.options.bytes.push(path.into());
        self
    }

    /// Makes `map` fields `BTreeMap` instead of `HashMap`: all of them (`.`), those of a package, of
    /// a message, or one.
    pub fn btree_map(mut self, path: impl Into<String>) -> Builder {
        self.options.btree_map.push(path.into());
        self
    }

    /// Also writes the tree of modules, which `plug::include_proto!()` includes, to a file of this
    /// name.
    pub fn include_file(mut self, name: impl Into<String>) -> Builder {
        self.options.include_file = Some(name.into());
        self
    }

    /// The path of the runtime crate in generated code, for crates that re-export it. The default is
    /// `plug`.
    pub fn runtime(mut self, path: impl Into<String>) -> Builder {
        self.options.runtime = Some(path.into());
        self
    }

    /// Adds an attribute to messages, enums and oneofs: to all (`.`), to those of a package, or to one.
    pub fn type_attribute(
        mut self,
        path: impl Into<String>,
        attribute: impl Into<String>,
    ) -> Builder {
        self.options.type_attributes.push((path.into(), attribute.into()));
        self
    }

    /// Adds an attribute to fields: to all (`.`), to those of a package or message, or to one.
    pub fn field_attribute(
        mut self,
        path: impl Into<String>,
        attribute: impl Into<String>,
    ) -> Builder {
        self.options.field_attributes.push((path.into(), attribute.into()));
        self
    }

    /// Whether the types of `google.protobuf` are generated like any other, instead of taken from
    /// `prost-types`. The default is no.
    pub fn compile_well_known_types(mut self, compile: bool) -> Builder {
        self.options.compile_well_known_types = compile;
        self
    }

    /// Also writes a fuzz target for a service, such as `.example.KV`: `fuzz_targets/kv.rs`.
    ///
    /// `make` is the Rust path of a function without arguments that returns a `plug::Plugin` with that service, as a
    /// fuzz crate sees it: `my_plugin::Store::default`. It is called for each input. See `plug::fuzz`.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), protoc_gen_plug::Error> {
    /// protoc_gen_plug::Builder::new()
    ///     .fuzz(".example.KV", "my_plugin::Store::default")
    ///     .out_dir("fuzz")
    ///     .compile(&["proto/kv.proto"], &["proto"])
    /// # }
    /// ```
    pub fn fuzz(mut self, service: impl Into<String>, make: impl Into<String>) -> Builder {
        self.options.fuzz.push((service.into(), make.into()));
        self
    }

    /// Where the files go, if not to `OUT_DIR`.
    pub fn out_dir(mut self, path: impl Into<PathBuf>) -> Builder {
        self.out_dir = Some(path.into());
        self
    }

    /// Parses the files with this protoc, instead of in this process. The code is the same, to the
    /// byte.
    pub fn protoc(mut self, path: impl Into<PathBuf>) -> Builder {
        self.parser = Parser::Protoc(path.into());
        self
    }

    /// Parses the files with the crate protobuf-parse.
    ///
    /// That parser makes no use of comments, so that the code has no docs and is not the same to the
    /// byte. It accepts files that protoc refuses, its errors have no places, and files that import
    /// each other overflow the stack: not for `.proto` files from strangers.
    #[cfg(feature = "protobuf-parse")]
    pub fn protobuf_parse(mut self) -> Builder {
        self.parser = Parser::ProtobufParse;
        self
    }

    /// Generates the code: see [`compile`].
    ///
    /// # Errors
    ///
    /// If a file cannot be read or written, and with all the mistakes in the `.proto` files and the
    /// options.
    pub fn compile(
        self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> Result<(), Error> {
        let in_build_script = env::var_os("OUT_DIR");
        let out_dir =
            self.out_dir
                .clone()
                .or_else(|| in_build_script.clone().map(PathBuf::from))
                .ok_or("OUT_DIR is not set: call this from build.rs, or set Builder::out_dir")?;
        let protos: Vec<&Path> = protos.iter().map(AsRef::as_ref).collect();
        let includes: Vec<&Path> = includes.iter().map(AsRef::as_ref).collect();
        if in_build_script.is_some() {
            // Before anything can fail, so that cargo tries again when the mistake is corrected.
            for proto in &protos {
                println!("cargo:rerun-if-changed={}", proto.display());
            }
        }
        let parsed = self.parse(&protos, &includes)?;
        if in_build_script.is_some() {
            for path in parsed.names()?.iter().flat_map(|name| on_disk(name, &includes)) {
                println!("cargo:rerun-if-changed={}", path.display());
            }
        }
        for OutputFile { name, content } in self.generate(&parsed)? {
            let path = out_dir.join(&name);
            if let Some(folder) = path.parent().filter(|_| name.contains('/')) {
                fs::create_dir_all(folder)
                    .map_err(|error| Error::io("cannot make", folder, &error))?;
            }
            write_if_changed(&path, &content)?;
        }
        Ok(())
    }

    fn parse(&self, protos: &[&Path], includes: &[&Path]) -> Result<Parsed, Error> {
        match &self.parser {
            #[cfg(feature = "protox")]
            Parser::Protox => parsers::protox::parse(protos, includes),
            #[cfg(not(feature = "protox"))]
            Parser::Protox => {
                let _ = (protos, includes);
                Err("without the feature `protox`, Builder::protoc must be set".into())
            }
            Parser::Protoc(protoc) => parsers::protoc::parse(protoc, protos, includes),
            #[cfg(feature = "protobuf-parse")]
            Parser::ProtobufParse => parsers::protobuf_parse::parse(protos, includes),
        }
    }

    fn generate(&self, parsed: &Parsed) -> Result<Vec<OutputFile>, Error> {
        let options = &self.options;
        let mut generate = Vec::new();
        let mut packages = BTreeSet::new();
        for bytes in &parsed.files {
            let file = mirror::File::decode(&bytes[..])
                .map_err(|error| Error::from(format!("a descriptor cannot be decoded: {error}")))?;
            let named = parsed.named.iter().any(|name| name == file.name());
            let empty = file.message_type.is_empty()
                && file.enum_type.is_empty()
                && file.service.is_empty();
            let elsewhere = is_extern(options, &format!(".{}", file.package()));
            if named || !empty && !elsewhere {
                packages.insert(file.package().to_owned());
                generate.push(file.name().to_owned());
            }
        }
        let mut files = generate_files(&parsed.files, &generate, options)
            .map_err(|mistakes| Error { text: mistakes.to_string() })?;
        let names: Vec<&str> = packages.iter().map(String::as_str).collect();
        files.push(OutputFile { name: MODULES.into(), content: modules::tree(&names) });
        Ok(files)
    }
}

/// What a parser returns.
pub(crate) struct Parsed {
    /// All files, encoded.
    pub(crate) files: Vec<Vec<u8>>,
    /// The names of those that were named, as opposed to imported.
    pub(crate) named: Vec<String>,
}

impl Parsed {
    /// What a parser wrote as a `FileDescriptorSet`.
    pub(crate) fn of_set(set: &[u8], named: Vec<String>) -> Result<Parsed, Error> {
        let set = mirror::EncodedFiles::decode(set)
            .map_err(|error| Error::from(format!("the descriptors cannot be decoded: {error}")))?;
        Ok(Parsed { files: set.file, named })
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        self.files
            .iter()
            .map(|bytes| match mirror::File::decode(&bytes[..]) {
                Ok(file) => Ok(file.name().to_owned()),
                Err(error) => Err(format!("a descriptor cannot be decoded: {error}").into()),
            })
            .collect()
    }
}

/// Where a file is that was imported by this name.
pub(crate) fn on_disk(name: &str, includes: &[&Path]) -> Option<PathBuf> {
    includes.iter().map(|include| include.join(name)).find(|path| path.is_file())
}

/// Leaves a file alone whose content is right, so that cargo does not compile it again.
fn write_if_changed(path: &Path, content: &str) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|before| before == content.as_bytes()) {
        return Ok(());
    }
    fs::write(path, content).map_err(|error| Error::io("cannot write", path, &error))
}

impl Error {
    pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Error {
        format!("{what} {}: {error}", path.display()).into()
    }
}

impl From<String> for Error {
    fn from(text: String) -> Error {
        Error { text }
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Error {
        Error { text: text.to_owned() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // On a line of its own, behind what `unwrap()` puts in front.
        write!(f, "\n{}", self.text)
    }
}

impl std::error::Error for Error {}
