//! The options: what `--plug_opt` and [`Builder`](crate::Builder) set.

use crate::mistakes::Mistakes;

/// How to generate. The same for all three doors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether the messages are part of the output, or come from somewhere else.
    pub(crate) emit_messages: bool,
    /// Where messages that are not generated live: `.package` or `.package.Message` → Rust path.
    pub(crate) extern_paths: Vec<(String, String)>,
    /// Whether requests and responses are unwrapped where the `.proto` does not say.
    pub(crate) unwrap: bool,
    /// The `bytes` fields that become `Bytes`.
    pub(crate) bytes: Vec<String>,
    /// The `map` fields that become `BTreeMap`.
    pub(crate) btree_map: Vec<String>,
    /// The file that holds the tree of modules.
    pub(crate) include_file: Option<String>,
    /// The path of the runtime crate.
    pub(crate) runtime: Option<String>,
    /// Attributes for messages, enums and oneofs.
    pub(crate) type_attributes: Vec<(String, String)>,
    /// Attributes for fields.
    pub(crate) field_attributes: Vec<(String, String)>,
    /// Whether the types of `google.protobuf` are generated like any other.
    pub(crate) compile_well_known_types: bool,
    /// Services that get a fuzz target, each with the Rust path of the function that makes what is fuzzed.
    pub(crate) fuzz: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            emit_messages: true,
            extern_paths: Vec::new(),
            unwrap: true,
            bytes: Vec::new(),
            btree_map: Vec::new(),
            include_file: None,
            runtime: None,
            type_attributes: Vec::new(),
            field_attributes: Vec::new(),
            compile_well_known_types: false,
            fuzz: Vec::new(),
        }
    }
}

/// What an error about an option lists.
const VALID: &str = "\
valid options:
  messages=emit|none               generate the messages (default), or leave them to other code
  extern_path=.pkg[.Message]=PATH  do not generate these messages: they are at this Rust path
  unwrap=true|false                fields as arguments (default), or whole messages
  bytes=.pkg[.Message[.field]]     bytes fields become Bytes instead of Vec<u8>
  btree_map=.pkg[.Message[.field]] maps become BTreeMap instead of HashMap
  include_file=NAME.rs             also write the tree of modules to this file
  runtime=PATH                     the Rust path of the runtime crate (default: plug)
  type_attribute=.pkg[.Type]=#[..] add an attribute to messages, enums and oneofs
  field_attribute=.pkg[.M[.f]]=#[] add an attribute to fields
  compile_well_known_types[=true]  generate google.protobuf too
  fuzz=.pkg.Service=PATH           also write a fuzz target for what this Rust function returns";

impl Options {
    /// Parses the parameter that protoc hands over: `key=value`, separated by commas. A comma inside
    /// brackets or quotes separates nothing, so that an attribute can hold one.
    pub(crate) fn parse(parameter: &str) -> Result<Options, Mistakes> {
        let mut options = Options::default();
        let mut wrong = Vec::new();
        for option in split_outside_brackets(parameter) {
            let option = option.trim();
            if option.is_empty() {
                continue;
            }
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key.trim(), Some(value.trim())),
                None => (option, None),
            };
            if let Err(why) = options.set(key, value) {
                wrong.push(format!("option `{option}`: {why}"));
            }
        }
        wrong.extend(options.problems());
        report(wrong)?;
        Ok(options)
    }

    /// Checks what a builder set, which no parser has seen.
    pub(crate) fn check(&self) -> Result<(), Mistakes> {
        report(self.problems())
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let needed = || value.filter(|value| !value.is_empty()).ok_or("it needs a value");
        match key {
            "messages" => {
                self.emit_messages = match needed()? {
                    "emit" => true,
                    "none" => false,
                    _ => return Err("the value must be `emit` or `none`".into()),
                }
            }
            "unwrap" => self.unwrap = flag(needed()?)?,
            "compile_well_known_types" => {
                self.compile_well_known_types = value.map_or(Ok(true), flag)?;
            }
            "bytes" => self.bytes.push(needed()?.into()),
            "btree_map" => self.btree_map.push(needed()?.into()),
            "include_file" => self.include_file = Some(needed()?.into()),
            "runtime" => self.runtime = Some(needed()?.into()),
            "extern_path" => self.extern_paths.push(pair(needed()?)?),
            "type_attribute" => self.type_attributes.push(pair(needed()?)?),
            "field_attribute" => self.field_attributes.push(pair(needed()?)?),
            "fuzz" => self.fuzz.push(pair(needed()?)?),
            _ => return Err("there is no such option".into()),
        }
        Ok(())
    }

    /// What is wrong with the values, each as one line.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |key: &str, value: &str, problem: Option<String>| {
            if let Some(problem) = problem {
                problems.push(format!("option `{key}={value}`: {problem}"));
            }
        };
        for (key, paths) in [("bytes", &self.bytes), ("btree_map", &self.btree_map)] {
            for path in paths {
                check(key, path, proto_path_problem(path));
            }
        }
        for (index, (path, rust)) in self.extern_paths.iter().enumerate() {
            let value = format!("{path}={rust}");
            check("extern_path", &value, extern_path_problem(path, rust));
            let before = self.extern_paths[..index].iter().any(|(other, _)| other == path);
            check("extern_path", &value, before.then(|| format!("`{path}` is given twice")));
        }
        for (key, attributes) in
            [("type_attribute", &self.type_attributes), ("field_attribute", &self.field_attributes)]
        {
            for (path, attribute) in attributes {
                let value = format!("{path}={attribute}");
                check(key, &value, proto_path_problem(path).or(attribute_problem(attribute)));
            }
        }
        for (service, path) in &self.fuzz {
            let value = format!("{service}={path}");
            check("fuzz", &value, fuzz_problem(service, path));
        }
        if let Some(runtime) = &self.runtime {
            check("runtime", runtime, rust_path_problem(runtime));
        }
        if let Some(file) = &self.include_file {
            let fine = file.ends_with(".rs")
                && !file.starts_with('.')
                && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            check(
                "include_file",
                file,
                (!fine).then(|| "it must be a file name such as `mod.rs`, without folders".into()),
            );
        }
        problems
    }
}

fn report(wrong: Vec<String>) -> Result<(), Mistakes> {
    if wrong.is_empty() {
        return Ok(());
    }
    let mut mistakes = Mistakes::default();
    for message in wrong {
        mistakes.add("", None, message);
    }
    Err(mistakes.with_help(VALID))
}

fn flag(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "the value must be `true` or `false`".into())
}

fn pair(value: &str) -> Result<(String, String), String> {
    match value.split_once('=') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => {
            Ok((left.trim().into(), right.trim().into()))
        }
        _ => Err("the value must be of the form `.package.Name=VALUE`".into()),
    }
}

fn proto_path_problem(path: &str) -> Option<String> {
    if path == "." {
        return None;
    }
    let names = path.strip_prefix('.').unwrap_or(path);
    let fine = names.split('.').all(is_ident);
    (!fine).then(|| "the path must be `.` for everything, or like `.package.Message.field`".into())
}

fn extern_path_problem(path: &str, rust: &str) -> Option<String> {
    if !path.starts_with('.') || path == "." {
        return Some(
            "the protobuf path must start with a dot and name a package or message".into(),
        );
    }
    proto_path_problem(path).or_else(|| rust_path_problem(rust))
}

fn fuzz_problem(service: &str, path: &str) -> Option<String> {
    if !service.starts_with('.') || service == "." {
        return Some("the service must be given like `.package.Service`".into());
    }
    proto_path_problem(service).or_else(|| rust_path_problem(path))
}

fn rust_path_problem(path: &str) -> Option<String> {
    let names = path.strip_prefix("::").unwrap_or(path);
    let fine = names.split("::").all(|name| is_ident(name.strip_prefix("r#").unwrap_or(name)));
    (!fine || syn::parse_str::<syn::Path>(path).is_err())
        .then(|| "it must be a Rust path such as `::plug` or `crate::api`".into())
}

fn attribute_problem(attribute: &str) -> Option<String> {
    use syn::parse::Parser as _;
    // An attribute goes into the code as it is: it must be attributes and nothing more.
    match syn::Attribute::parse_outer.parse_str(attribute) {
        Ok(attributes) if !attributes.is_empty() => None,
        _ => Some("the value must be a Rust attribute such as `#[derive(Eq)]`".into()),
    }
}

/// Whether a name is a protobuf identifier.
pub(crate) fn is_ident(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn split_outside_brackets(parameter: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut depth = 0usize;
    let mut quoted = false;
    let mut escaped = false;
    for (index, c) in parameter.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&parameter[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&parameter[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_understood() {
        let options = Options::parse(
            "messages=none,extern_path=.a.b=::c::d,unwrap=false,bytes=.,btree_map=.a.M.f,\
             include_file=mod.rs,runtime=::sdk::plug,compile_well_known_types,\
             type_attribute=.a=#[derive(Eq, Hash)],field_attribute=.a.M.f=#[serde(rename = \"x,y\")],\
             fuzz=.a.S=b::Store::default",
        )
        .unwrap();
        assert_eq!(
            options,
            Options {
                emit_messages: false,
                extern_paths: vec![(".a.b".into(), "::c::d".into())],
                unwrap: false,
                bytes: vec![".".into()],
                btree_map: vec![".a.M.f".into()],
                include_file: Some("mod.rs".into()),
                runtime: Some("::sdk::plug".into()),
                type_attributes: vec![(".a".into(), "#[derive(Eq, Hash)]".into())],
                field_attributes: vec![(".a.M.f".into(), "#[serde(rename = \"x,y\")]".into())],
                compile_well_known_types: true,
                fuzz: vec![(".a.S".into(), "b::Store::default".into())],
            }
        );
    }

    #[test]
    fn all_wrong_options_are_told_with_the_valid_ones() {
        let error = Options::parse(
            "mesages=none,unwrap=yes,bytes,extern_path=a=b,runtime=a-b,include_file=../x.rs,\
             type_attribute=.=fn main() {},fuzz=a.S=b,fuzz=.a.S=b()",
        )
        .unwrap_err()
        .to_string();
        for expected in [
            "option `mesages=none`: there is no such option",
            "option `unwrap=yes`: the value must be `true` or `false`",
            "option `bytes`: it needs a value",
            "option `extern_path=a=b`: the protobuf path must start with a dot",
            "option `runtime=a-b`: it must be a Rust path",
            "option `include_file=../x.rs`: it must be a file name",
            "option `type_attribute=.=fn main() {}`: the value must be a Rust attribute",
            "option `fuzz=a.S=b`: the service must be given like",
            "option `fuzz=.a.S=b()`: it must be a Rust path",
            "valid options:\n  messages=emit|none ",
        ] {
            assert!(error.contains(expected), "{expected:?} is not in:\n{error}");
        }
    }
}
