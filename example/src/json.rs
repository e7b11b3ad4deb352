use std::collections::HashMap;

use plug::prost::Name;
use plug::prost_types::Any;
use plug::{Code, Error, ResultExt as _};
use serde_json::{Map, Number, Value};

use crate::{Serializer, SerializerService};

/// Writes values as a JSON object, sorted by key.
///
/// Each value is one of the wrapper types of `google/protobuf/wrappers.proto`. Numbers become JSON numbers, bytes
/// base64.
#[derive(Debug, Default)]
pub struct Json;

impl Serializer for Json {
    fn marshal(&self, data: HashMap<String, Any>) -> plug::Result<Vec<u8>> {
        let object = data
            .into_iter()
            .map(|(key, any)| {
                let value = value(&any).map_err(|error| {
                    Error::new(error.code(), format!("the value of {key:?}: {}", error.message()))
                })?;
                Ok((key, value))
            })
            .collect::<plug::Result<Map<_, _>>>()?;
        serde_json::to_vec(&object).code(Code::Internal)
    }
}

impl plug::Plugin for Json {
    type Services = SerializerService;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
}

/// prost's types for the wrappers are Rust's own: `StringValue` is `String`, `Int64Value` is `i64`.
fn value(any: &Any) -> plug::Result<Value> {
    // What comes before the last slash is for resolvers, which this has no use for.
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    Ok(match name {
        "google.protobuf.BoolValue" => Value::Bool(decode(any)?),
        "google.protobuf.BytesValue" => Value::String(base64(&decode::<Vec<u8>>(any)?)),
        "google.protobuf.DoubleValue" => number(decode(any)?)?,
        "google.protobuf.FloatValue" => number(decode::<f32>(any)?.into())?,
        "google.protobuf.Int32Value" => decode::<i32>(any)?.into(),
        "google.protobuf.Int64Value" => decode::<i64>(any)?.into(),
        "google.protobuf.StringValue" => Value::String(decode(any)?),
        "google.protobuf.UInt32Value" => decode::<u32>(any)?.into(),
        "google.protobuf.UInt64Value" => decode::<u64>(any)?.into(),
        _ => {
            let text = format!("{:?} is not one of the wrapper types", any.type_url);
            return Err(Error::new(Code::InvalidArgument, text));
        }
    })
}

fn decode<M: Name + Default>(any: &Any) -> plug::Result<M> {
    Ok(M::decode(any.value.as_slice())?)
}

fn number(value: f64) -> plug::Result<Value> {
    let Some(number) = Number::from_f64(value) else {
        return Err(Error::new(Code::InvalidArgument, format!("JSON has no number {value}")));
    };
    Ok(Value::Number(number))
}

/// Base64 as in RFC 4648, section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for index in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * index)) as usize & 63];
            text.push(if index <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marshal(values: &[(&str, Any)]) -> plug::Result<String> {
        let data = values.iter().map(|(key, any)| ((*key).to_owned(), any.clone())).collect();
        Json.marshal(data).map(|json| String::from_utf8(json).unwrap())
    }

    fn any(message: &impl Name) -> Any {
        Any::from_msg(message).unwrap()
    }

    #[test]
    fn every_wrapper_type_has_its_json() {
        let values = [
            ("bool", any(&true)),
            ("bytes", any(&vec![0xff_u8, 0, 1, 2])),
            ("double", any(&0.5_f64)),
            ("float", any(&-2.5_f32)),
            ("int32", any(&i32::MIN)),
            ("int64", any(&i64::MIN)),
            ("string", any(&"a \"quoted\" word".to_owned())),
            ("uint32", any(&u32::MAX)),
            ("uint64", any(&u64::MAX)),
        ];
        assert_eq!(
            marshal(&values).unwrap(),
            concat!(
                r#"{"bool":true,"bytes":"/wABAg==","double":0.5,"float":-2.5,"int32":-2147483648,"#,
                r#""int64":-9223372036854775808,"string":"a \"quoted\" word","#,
                r#""uint32":4294967295,"uint64":18446744073709551615}"#,
            )
        );
        assert_eq!(marshal(&[]).unwrap(), "{}");
    }

    #[test]
    fn what_json_cannot_say_is_refused_by_name() {
        let error = marshal(&[("x", any(&f64::NAN))]).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.to_string(), r#"the value of "x": JSON has no number NaN"#);

        let duration = Any { type_url: "x/google.protobuf.Duration".to_owned(), value: Vec::new() };
        let error = marshal(&[("x", duration)]).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);

        let torn = Any { value: vec![0x0a, 0xff], ..any(&String::new()) };
        let error = marshal(&[("x", torn)]).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }

    #[test]
    fn base64_is_padded() {
        let texts = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (len, text) in texts.into_iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..len]), text);
        }
    }
}
