//! The parser that needs nothing installed.

use std::collections::BTreeSet;
use std::path::Path;

use miette::Diagnostic;
use protox::file::{
    ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver,
};

use crate::builder::{Error, Parsed};
use crate::mistakes::Mistakes;
use crate::parsers::{PLUG_PROTO, PLUG_PROTO_NAME};

pub(crate) fn parse(protos: &[&Path], includes: &[&Path]) -> Result<Parsed, Error> {
    // The parser recurses over what a file nests.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(256 << 20)
            .spawn_scoped(scope, || parse_here(protos, includes))
            .map_err(|error| Error::from(format!("the parser cannot be started: {error}")))?
            .join()
            .unwrap_or_else(|_| Err("the parser protox panicked: see above".into()))
    })
}

fn parse_here(protos: &[&Path], includes: &[&Path]) -> Result<Parsed, Error> {
    let mut resolver = ChainFileResolver::new();
    // First, since a copy on disk may be of another age than the types in prost-types.
    resolver.add(GoogleFileResolver::new());
    for include in includes {
        resolver.add(IncludeFileResolver::new(include.to_path_buf()));
    }
    resolver.add(PlugProto);
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).include_source_info(true);
    let mut mistakes = Mistakes::default();
    for proto in protos {
        if let Err(error) = compiler.open_file(proto) {
            report(&error, &mut mistakes);
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes.to_string().into());
    }
    let named: BTreeSet<String> = compiler
        .files()
        .filter(|file| !file.is_import())
        .map(|file| file.name().to_owned())
        .collect();
    Parsed::of_set(&compiler.encode_file_descriptor_set(), named.into_iter().collect())
}

/// Adds what protox says. The place of an error is in its labels only.
fn report(error: &protox::Error, mistakes: &mut Mistakes) {
    let file = error.file().unwrap_or_default();
    report_diagnostic(error, error, file, mistakes);
}

fn report_diagnostic(
    diagnostic: &dyn Diagnostic,
    outer: &dyn Diagnostic,
    file: &str,
    mistakes: &mut Mistakes,
) {
    let position = diagnostic.labels().and_then(|mut labels| labels.next()).and_then(|label| {
        let source = diagnostic.source_code().or_else(|| outer.source_code())?;
        let contents = source.read_span(label.inner(), 0, 0).ok()?;
        Some((contents.line() as u32 + 1, contents.column() as u32 + 1))
    });
    let mut message = diagnostic.to_string();
    if let Some(source) = std::error::Error::source(diagnostic) {
        message.push_str(&format!(": {source}"));
    }
    if let Some(help) = diagnostic.help() {
        message.push_str(&format!(" ({help})"));
    }
    // Errors of parsing begin with the file and the place, which are given already.
    let message = message.strip_prefix(&format!("{file}:")).unwrap_or(&message).trim_start();
    match remedy(message) {
        Some(remedy) => mistakes.add(file, position, format!("{message}: {remedy}")),
        None => mistakes.add(file, position, message),
    }
    for related in diagnostic.related().into_iter().flatten() {
        report_diagnostic(related, outer, file, mistakes);
    }
}

/// What to do about mistakes that many make at first.
fn remedy(message: &str) -> Option<&'static str> {
    if message.starts_with("name 'plugpb.") && message.contains("is not defined") {
        Some("import \"plug.proto\", which need not be on your disk")
    } else if message.contains("with proto2 syntax") {
        Some("is a line missing that says syntax = \"proto3\"?")
    } else {
        None
    }
}

/// Finds `plug.proto` where no folder has it.
struct PlugProto;

impl FileResolver for PlugProto {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == PLUG_PROTO_NAME {
            File::from_source(name, PLUG_PROTO)
        } else {
            Err(protox::Error::file_not_found(name))
        }
    }
}
