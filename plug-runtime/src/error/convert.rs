//! Errors made of others: with a code that is said, or with one that fits.

use super::{Code, Error, Result};

/// Gives any other error a status code, so that `?` takes it in a handler.
///
/// ```
/// use plug::{Code, ResultExt};
///
/// fn handler(address: &str) -> plug::Result<std::net::IpAddr> {
///     let address = address.parse().code(Code::InvalidArgument)?;
///     Ok(address)
/// }
/// assert_eq!(handler("nowhere").unwrap_err().code(), Code::InvalidArgument);
/// ```
pub trait ResultExt<T> {
    /// Turns the error, if there is one, into an [`Error`] with this code.
    fn code(self, code: Code) -> Result<T>;
}

impl<T, E> ResultExt<T> for std::result::Result<T, E>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn code(self, code: Code) -> Result<T> {
        self.map_err(|error| Error::new(code, error))
    }
}

impl From<anyhow::Error> for Error {
    /// Keeps the code of a [`plug::Error`](Error) anywhere in the chain; the code of an I/O error fits
    /// its kind; any other is [`Code::Unknown`].
    fn from(error: anyhow::Error) -> Error {
        // Only where it is the outermost: `downcast` alone would find it under any context, and drop that.
        let outermost = error.chain().next();
        let error = match outermost.is_some_and(|outermost| outermost.is::<Error>()) {
            true => match error.downcast::<Error>() {
                Ok(error) => return error,
                Err(error) => error,
            },
            false => error,
        };
        let code = error.chain().find_map(|cause| {
            if let Some(error) = cause.downcast_ref::<Error>() {
                Some(error.code())
            } else {
                cause.downcast_ref::<std::io::Error>().map(Code::from)
            }
        });
        Error::from_boxed(code.unwrap_or(Code::Unknown), error.into())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::new(Code::from(&error), error)
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for Error {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
        match error.downcast::<Error>() {
            Ok(error) => *error,
            Err(error) => Error::from_boxed(Code::Unknown, error),
        }
    }
}

/// One `From` for each error type, each with the code that fits it. A blanket one would forbid
/// `Error` to be an error itself (E0119).
macro_rules! from_error {
    ($($source:ty => $code:ident),* $(,)?) => {$(
        impl From<$source> for Error {
            fn from(error: $source) -> Error {
                Error::new(Code::$code, error)
            }
        }
    )*};
}

from_error! {
    &str => Unknown,
    String => Unknown,
    std::borrow::Cow<'_, str> => Unknown,
    std::fmt::Error => Internal,
    std::num::ParseIntError => InvalidArgument,
    std::num::ParseFloatError => InvalidArgument,
    std::num::TryFromIntError => OutOfRange,
    std::str::ParseBoolError => InvalidArgument,
    std::char::ParseCharError => InvalidArgument,
    std::str::Utf8Error => InvalidArgument,
    std::string::FromUtf8Error => InvalidArgument,
    std::time::SystemTimeError => Internal,
    prost::DecodeError => InvalidArgument,
    prost::EncodeError => Internal,
    prost::UnknownEnumValue => InvalidArgument,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use anyhow::Context as _;

    #[test]
    fn anyhow_keeps_the_code_of_a_wrapped_error() {
        let inner: Result<()> = Err(Error::new(Code::NotFound, "no such key"));
        let error = Error::from(inner.context("while reading").unwrap_err());
        assert_eq!(error.code(), Code::NotFound);
        assert_eq!(error.flattened(), "while reading: no such key");
    }

    #[test]
    fn a_bare_error_survives_anyhow_and_boxes() {
        let error = Error::of_kind(ErrorKind::Exited, "gone");
        let error = Error::from(anyhow::Error::from(error));
        assert_eq!(error.kind(), ErrorKind::Exited);
        let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        assert_eq!(Error::from(boxed).kind(), ErrorKind::Exited);
    }
}
