//! The one error type of hosts and plugins.
//!
//! [`Error`] is opaque: match on [`Error::kind`] for what happened to a call, on [`Error::code`] for
//! what a handler said, on [`Error::delivery`] for whether the call may have run.

mod code;
mod convert;

use std::fmt;
use std::sync::Arc;

use crate::exit::Exit;
pub use code::Code;
pub use convert::ResultExt;

/// A result with [`Error`] as its error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call, a load or a plugin failed.
///
/// `Display` is one line that names the plugin, the method and the cause. `Debug` is the readable
/// report that `main` prints when it returns an error: the same line, the chain of causes, and the
/// last lines of the plugin's stderr. (A `main` that returns `anyhow::Result` shows anyhow's own report, without those
/// lines: downcast, or print [`Error::stderr`].) Errors are one pointer wide.
///
/// In a handler, `?` turns these into an `Error`: [`anyhow::Error`], [`std::io::Error`], strings,
/// boxed errors, and the errors of parsing numbers, booleans and UTF-8 and of decoding protobuf. For any other
/// error, say which code it is: [`ResultExt::code`].
///
/// ```
/// use plug::{Code, Error, ErrorKind};
///
/// let error = Error::new(Code::NotFound, "no such key");
/// assert_eq!(error.kind(), ErrorKind::Status);
/// assert_eq!(error.code(), Code::NotFound);
/// assert_eq!(error.to_string(), "no such key");
/// ```
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    code: Code,
    delivery: Delivery,
    message: String,
    plugin: Option<Arc<str>>,
    method: Option<String>,
    exit: Option<Exit>,
    stderr: Option<Arc<str>>,
    cause: Option<Cause>,
}

#[derive(Clone)]
enum Cause {
    /// What the failure was caused by.
    Source(Arc<dyn std::error::Error + Send + Sync>),
    /// The error that this one was made from: its text is the message already, so that only what
    /// it was caused by in turn comes next in the chain.
    Origin(Arc<dyn std::error::Error + Send + Sync>),
}

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A handler answered with an error, or panicked: see [`Error::code`].
    Status,
    /// The plugin could not be started: not found, not executable, out of resources.
    Spawn,
    /// The plugin was started, but did not complete the handshake: it said nothing in time, exited,
    /// or wrote something that is not this protocol.
    Handshake,
    /// Both sides speak the protocol, but do not fit: no common version, a service that is missing
    /// or has another magic or version, a method that is a stream on one side only.
    Incompatible,
    /// The plugin's process ended: see [`Error::exit`].
    Exited,
    /// The other side broke the protocol; the connection is over.
    Protocol,
    /// A message or a call's answer could not be decoded. Only that call is affected.
    Decode,
    /// A message is larger than the limit of one of the sides, or would be once decoded: see
    /// [`Command::max_decoded`](crate::Command::max_decoded). Only that call is affected.
    TooLarge,
    /// The other side does not have the service or method.
    Unimplemented,
    /// The call did not end within its time-out: see [`Proxy::with_timeout`](crate::Proxy::with_timeout).
    Deadline,
    /// The call was cancelled on this side: see [`CancelToken`](crate::CancelToken).
    Cancelled,
    /// The connection was shut down by this side, or in an orderly way by the other.
    Shutdown,
}

/// Whether a failed call may have had an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Delivery {
    /// The handler was not started and will not be: calling again cannot do the work twice.
    NotSent,
    /// The request was handed over, so the handler may have run, in part or to its end.
    MayHaveRun,
}

impl Error {
    /// Makes the error with which a handler fails its call.
    ///
    /// The other side receives the code and the text of `error` and of its chain of sources.
    pub fn new(code: Code, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::from_boxed(code, error.into())
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The status code: the handler's own for [`ErrorKind::Status`], the one that fits otherwise.
    pub fn code(&self) -> Code {
        self.inner.code
    }

    /// Whether the call may have had an effect. An error that no call caused is `NotSent`.
    pub fn delivery(&self) -> Delivery {
        self.inner.delivery
    }

    /// What happened, without the names of plugin and method that `Display` puts in front, and as it came: a
    /// handler's text may have any characters, those that control a terminal too, which `Display` escapes.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The name of the plugin, where one is involved.
    pub fn plugin(&self) -> Option<&str> {
        self.inner.plugin.as_deref()
    }

    /// The full name of the method, such as `example.KV/Get`, where one was called.
    pub fn method(&self) -> Option<&str> {
        self.inner.method.as_deref()
    }

    /// How the plugin's process ended, where that is why the call failed.
    pub fn exit(&self) -> Option<Exit> {
        self.inner.exit
    }

    /// The last lines that the plugin wrote to stderr (and to stdout, which a plugin's `println!`
    /// shares), where its process ended: at most 64 KiB, control characters escaped.
    pub fn stderr(&self) -> Option<&str> {
        self.inner.stderr.as_deref()
    }

    pub(crate) fn of_kind(kind: ErrorKind, message: impl Into<String>) -> Error {
        let code = match kind {
            ErrorKind::Status => Code::Unknown,
            ErrorKind::Incompatible => Code::FailedPrecondition,
            ErrorKind::Protocol | ErrorKind::Decode => Code::Internal,
            ErrorKind::TooLarge => Code::ResourceExhausted,
            ErrorKind::Unimplemented => Code::Unimplemented,
            ErrorKind::Deadline => Code::DeadlineExceeded,
            ErrorKind::Cancelled => Code::Cancelled,
            ErrorKind::Spawn | ErrorKind::Handshake | ErrorKind::Exited | ErrorKind::Shutdown => {
                Code::Unavailable
            }
        };
        Error {
            inner: Box::new(Inner {
                kind,
                code,
                delivery: Delivery::NotSent,
                message: message.into(),
                plugin: None,
                method: None,
                exit: None,
                stderr: None,
                cause: None,
            }),
        }
    }

    /// The error of a call whose handler answered with one.
    pub(crate) fn status(code: Code, message: impl Into<String>, delivery: Delivery) -> Error {
        let kind = match (code, delivery) {
            (Code::Unimplemented, Delivery::NotSent) => ErrorKind::Unimplemented,
            _ => ErrorKind::Status,
        };
        let mut error = Error::of_kind(kind, message);
        error.inner.code = code;
        error.with_delivery(delivery)
    }

    fn from_boxed(code: Code, error: Box<dyn std::error::Error + Send + Sync>) -> Error {
        let mut made = Error::of_kind(ErrorKind::Status, error.to_string());
        made.inner.code = code;
        if error.source().is_some() {
            made.inner.cause = Some(Cause::Origin(Arc::from(error)));
        }
        made
    }

    pub(crate) fn with_delivery(mut self, delivery: Delivery) -> Error {
        self.inner.delivery = delivery;
        self
    }

    pub(crate) fn with_code(mut self, code: Code) -> Error {
        self.inner.code = code;
        self
    }

    pub(crate) fn with_note(mut self, note: &str) -> Error {
        self.inner.message.push_str(note);
        self
    }

    pub(crate) fn with_plugin(mut self, plugin: &Arc<str>) -> Error {
        self.inner.plugin.get_or_insert_with(|| plugin.clone());
        self
    }

    pub(crate) fn with_method(mut self, method: impl FnOnce() -> String) -> Error {
        self.inner.method.get_or_insert_with(method);
        self
    }

    pub(crate) fn with_exit(mut self, exit: Exit) -> Error {
        self.inner.exit = Some(exit);
        self
    }

    pub(crate) fn with_stderr(mut self, stderr: impl Into<Arc<str>>) -> Error {
        let stderr = stderr.into();
        self.inner.stderr = (!stderr.is_empty()).then_some(stderr);
        self
    }

    pub(crate) fn with_source(
        mut self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        self.inner.cause = Some(Cause::Source(Arc::new(source)));
        self
    }

    /// The same error for another call that the same failure ends.
    pub(crate) fn duplicate(&self) -> Error {
        Error { inner: self.inner.clone() }
    }

    /// What crosses the wire: the message and the texts of all causes, `a: b: c`.
    ///
    /// Errors that print their source as part of themselves are common, so a text that the chain
    /// already ends with is not repeated.
    pub(crate) fn flattened(&self) -> String {
        let mut text = match (self.plugin(), self.method()) {
            (None, None) => self.message().to_owned(),
            _ => self.to_string(),
        };
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            source = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(plugin) = self.plugin() {
            write!(f, "{}: ", OneLine(plugin))?;
        }
        if let Some(method) = self.method() {
            write!(f, "{}: ", OneLine(method))?;
        }
        match self.message() {
            "" => write!(f, "{:?}, without a message", self.code())?,
            message => write!(f, "{}", OneLine(message))?,
        }
        let ended_by_connection =
            matches!(self.kind(), ErrorKind::Exited | ErrorKind::Protocol | ErrorKind::Shutdown);
        match self.delivery() {
            Delivery::MayHaveRun if ended_by_connection => f.write_str(" (the call may have run)"),
            Delivery::NotSent if ended_by_connection && self.method().is_some() => {
                f.write_str(" (the call was not sent)")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if self.kind() == ErrorKind::Status && self.code() != Code::Unknown {
            write!(f, " [{:?}]", self.code())?;
        }
        let mut source = std::error::Error::source(self);
        if source.is_some() {
            f.write_str("\n\nCaused by:")?;
        }
        while let Some(error) = source {
            write!(f, "\n    {}", OneLine(&error.to_string()))?;
            source = error.source();
        }
        if let Some(stderr) = self.stderr() {
            let lines: Vec<_> = stderr.lines().collect();
            let skipped = lines.len().saturating_sub(SHOWN_LINES);
            f.write_str("\n\nThe plugin's last output:")?;
            if skipped > 0 {
                write!(f, "\n    … ({skipped} lines before; Error::stderr has them)")?;
            }
            for line in &lines[skipped..] {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.inner.cause.as_ref()? {
            Cause::Source(source) => Some(source.as_ref()),
            Cause::Origin(origin) => origin.source(),
        }
    }
}

/// Text from elsewhere, which must not end the line, move the cursor or turn the direction of writing.
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turns = |char| matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        for char in self.0.chars() {
            if (char.is_control() && char != '\t') || turns(char) {
                write!(f, "{}", char.escape_default())?;
            } else {
                write!(f, "{char}")?;
            }
        }
        Ok(())
    }
}

/// How many lines of a plugin's output the report shows: a backtrace, and what led to it.
const SHOWN_LINES: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn the_chain_is_flattened_once() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no file");
        let error = Error::from(anyhow::Error::from(io).context("open").context("load"));
        assert_eq!(error.flattened(), "load: open: no file");
        assert_eq!(error.code(), Code::NotFound);
        assert_eq!(format!("{error:?}"), "load [NotFound]\n\nCaused by:\n    open\n    no file");
    }

    #[test]
    fn text_from_elsewhere_stays_on_its_line() {
        let error = Error::new(Code::Aborted, "a\nb\u{1b}[2J\u{202e}c");
        assert_eq!(error.to_string(), "a\\nb\\u{1b}[2J\\u{202e}c");
        assert_eq!(error.message(), "a\nb\u{1b}[2J\u{202e}c");
        assert_eq!(Error::new(Code::Aborted, "").to_string(), "Aborted, without a message");
    }
}
