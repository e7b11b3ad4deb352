//! What the command line says.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use plug::prost::Name;
use plug::prost_types::Any;

pub(crate) const USAGE: &str = "\
usage: host                              a short tour of what plugins can do to their host
       host [--dir DIR] put KEY VALUE    stores a value under a key
       host [--dir DIR] get KEY          prints the value stored under a key
       host marshal [KEY=VALUE]...       prints values as JSON

put and get use the plugin kv-plugin, which keeps its files in DIR (default: kv-data beside this
program). marshal uses serializer-plugin; KEY:TYPE=VALUE says which type a value has: bool, bytes,
double, float, int32, int64, string (the default), uint32 or uint64.
";

#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    Tour,
    Help,
    Put { directory: Option<PathBuf>, key: String, value: Vec<u8> },
    Get { directory: Option<PathBuf>, key: String },
    Marshal { values: HashMap<String, Any> },
}

/// What to do, or what is wrong with the arguments.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Action, String> {
    let mut args = args.into_iter();
    let mut directory = None;
    let command = loop {
        let Some(arg) = args.next() else {
            return match directory {
                None => Ok(Action::Tour),
                Some(_) => Err("--dir goes with put or get".to_owned()),
            };
        };
        match arg.to_str() {
            Some("-h" | "--help" | "help") => return Ok(Action::Help),
            Some("--dir") => {
                directory = Some(PathBuf::from(args.next().ok_or("--dir needs a directory")?));
            }
            Some(option) if option.starts_with('-') => {
                return Err(format!("there is no option {option}"));
            }
            _ => break text(arg)?,
        }
    };
    let args: Vec<_> = args.collect();
    match command.as_str() {
        "put" => {
            let [key, value] = exactly(args, "put takes a key and a value")?;
            Ok(Action::Put { directory, key: text(key)?, value: value.into_encoded_bytes() })
        }
        "get" => {
            let [key] = exactly(args, "get takes a key")?;
            Ok(Action::Get { directory, key: text(key)? })
        }
        "marshal" if directory.is_some() => Err("--dir goes with put or get".to_owned()),
        "marshal" => {
            let mut values = HashMap::new();
            for arg in args {
                let (key, value) = named_value(&text(arg)?)?;
                if values.insert(key.clone(), value).is_some() {
                    return Err(format!("the key {key:?} is there twice"));
                }
            }
            Ok(Action::Marshal { values })
        }
        _ => Err(format!("there is no command {command:?}")),
    }
}

fn exactly<const N: usize>(args: Vec<OsString>, needed: &str) -> Result<[OsString; N], String> {
    let given = args.len();
    args.try_into().map_err(|_| format!("{needed}, not {given} arguments"))
}

fn text(arg: OsString) -> Result<String, String> {
    arg.into_string().map_err(|arg| format!("{arg:?} is not UTF-8"))
}

/// `KEY=VALUE` or `KEY:TYPE=VALUE`.
fn named_value(arg: &str) -> Result<(String, Any), String> {
    let (name, value) = arg.split_once('=').ok_or_else(|| format!("{arg:?} is not KEY=VALUE"))?;
    let (key, kind) = name.rsplit_once(':').unwrap_or((name, "string"));
    let any = match kind {
        "bool" => parsed::<bool>(value),
        "bytes" => Ok(any(&value.as_bytes().to_vec())),
        "double" => parsed::<f64>(value),
        "float" => parsed::<f32>(value),
        "int32" => parsed::<i32>(value),
        "int64" => parsed::<i64>(value),
        "string" => Ok(any(&value.to_owned())),
        "uint32" => parsed::<u32>(value),
        "uint64" => parsed::<u64>(value),
        _ => return Err(format!("{arg:?} names a type {kind:?} that there is not")),
    };
    let any = any.map_err(|error| format!("{value:?} is no {kind}: {error}"))?;
    Ok((key.to_owned(), any))
}

fn parsed<T>(value: &str) -> Result<Any, String>
where
    T: FromStr<Err: Display> + Name,
{
    value.parse::<T>().map(|value| any(&value)).map_err(|error| error.to_string())
}

/// The wrapper message of a value: prost's type for `Int64Value` is `i64`, and so on.
pub(crate) fn any(value: &impl Name) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", full_name(value)),
        value: value.encode_to_vec(),
    }
}

fn full_name<M: Name>(_: &M) -> String {
    M::full_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_all(args: &[&str]) -> Result<Action, String> {
        parse(args.iter().map(OsString::from))
    }

    #[test]
    fn commands() {
        assert_eq!(parse_all(&[]), Ok(Action::Tour));
        assert_eq!(
            parse_all(&["put", "--help"]),
            Err("put takes a key and a value, not 1 arguments".to_owned())
        );
        let put = Action::Put {
            directory: Some("d".into()),
            key: "-k".to_owned(),
            value: b"--dir".to_vec(),
        };
        assert_eq!(parse_all(&["--dir", "d", "put", "-k", "--dir"]), Ok(put));
        for mistake in [
            &["--dir"][..],
            &["--dir", "d"],
            &["--dir", "d", "marshal"],
            &["--wrong"],
            &["wrong"],
            &["put", "k"],
            &["get"],
            &["get", "a", "b"],
        ] {
            assert!(parse_all(mistake).is_err(), "{mistake:?}");
        }
    }

    #[test]
    fn typed_values() {
        let Ok(Action::Marshal { values }) =
            parse_all(&["marshal", "s=a=b", "a:b:string=x", "n:int64=-5", "e:bytes="])
        else {
            panic!("these are right");
        };
        assert_eq!(values["s"], any(&"a=b".to_owned()));
        assert_eq!(values["a:b"], any(&"x".to_owned()));
        assert_eq!(values["n"], any(&-5_i64));
        assert_eq!(values["e"], any(&Vec::new()));
        assert_eq!(values["n"].type_url, "type.googleapis.com/google.protobuf.Int64Value");
        for mistake in ["x", "x:int=1", "x:int32=3000000000", "x:uint32=-1", "x:bool=maybe"] {
            assert!(parse_all(&["marshal", mistake]).is_err(), "{mistake}");
        }
        assert!(parse_all(&["marshal", "x=1", "x=2"]).is_err());
    }
}
