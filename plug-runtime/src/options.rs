//! What is asked of a call beside its request: how long it may take, what ends it, what goes with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::blocking::Link;
use crate::call;
use crate::cancel::CancelToken;
use crate::error::{Code, Error, Result};
use crate::log::CallSpan;
use crate::protocol::{MAX_METADATA, metadata_len};
use crate::service::MethodKind;

/// What a proxy asks of each of its calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    limit: Option<Limit>,
    metadata: Vec<(String, Bytes)>,
    cancel: Option<CancelToken>,
    /// What is wrong with the metadata: the calls fail with it.
    mistake: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    /// From the start of each call.
    Timeout(Duration),
    Deadline(Instant),
}

impl Options {
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.limit = Some(Limit::Timeout(timeout));
    }

    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.limit = Some(Limit::Deadline(deadline));
    }

    pub(crate) fn set_cancel(&mut self, token: &CancelToken) {
        self.cancel = Some(token.clone());
    }

    pub(crate) fn add_metadata(&mut self, key: &str, value: Bytes) {
        self.metadata.push((key.to_owned(), value));
        let len = metadata_len(&self.metadata);
        let mistake = if !is_key(key) {
            Some(format!(
                "the metadata key {key:?} cannot be sent: keys are made of the letters a to z, digits, `-`, `_` and `.`"
            ))
        } else if key.starts_with(RESERVED) {
            Some(format!(
                "the metadata key {key:?} is reserved: keys must not begin with `{RESERVED}`"
            ))
        } else if len > MAX_METADATA {
            Some(format!(
                "the metadata with the key {key:?} comes to {len} bytes: a call carries at most {MAX_METADATA}"
            ))
        } else {
            None
        };
        // The first mistake says most.
        self.mistake = self.mistake.take().or(mistake);
    }

    /// # Errors
    ///
    /// [`Code::InvalidArgument`] if the metadata cannot be sent.
    pub(crate) fn check(&self) -> Result<()> {
        let mistake = self.mistake.as_deref();
        mistake.map_or(Ok(()), |mistake| Err(Error::new(Code::InvalidArgument, mistake)))
    }
}

fn is_key(key: &str) -> bool {
    let may =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    !key.is_empty() && key.bytes().all(may)
}

/// A call as it leaves: what the proxy, the command and the call that is being served come to.
#[derive(Clone, Debug)]
pub(crate) struct Outbound<'a> {
    /// The number of the method in the other side's hello.
    pub(crate) method: u32,
    pub(crate) kind: MethodKind,
    /// Whether it may run twice.
    pub(crate) is_idempotent: bool,
    /// When this side stops waiting.
    pub(crate) deadline: Option<Instant>,
    /// What time it was when this was made, if that was asked for: each look at the clock is half a percent of a call.
    pub(crate) made_at: Option<Instant>,
    /// The call of the other side, over the same connection, whose handler makes this one. 0: none.
    pub(crate) within: u64,
    pub(crate) metadata: &'a [(String, Bytes)],
    /// What ends the call early: the proxy's token, and that of the call whose handler makes this one.
    pub(crate) cancel: [Option<CancelToken>; 2],
    /// In which span it is made.
    pub(crate) span: CallSpan,
}

impl<'a> Outbound<'a> {
    /// `default_timeout` is for calls whose proxy sets no limit.
    ///
    /// Without limit, options and a current call, this neither asks for the time nor takes memory: every call goes
    /// through it.
    ///
    /// Whether the proxy's metadata can be sent is asked before: see [`Options::check`].
    #[inline(always)]
    pub(crate) fn new(
        method: u32,
        kind: MethodKind,
        is_idempotent: bool,
        options: Option<&'a Options>,
        default_timeout: Option<Duration>,
        link: &Arc<Link>,
    ) -> Outbound<'a> {
        let limit = options.and_then(|options| options.limit);
        let mut made_at = None;
        let mut deadline = match limit.or(default_timeout.map(Limit::Timeout)) {
            None => None,
            // A time-out beyond what the clock can say is none.
            Some(Limit::Timeout(timeout)) => made_at.insert(Instant::now()).checked_add(timeout),
            Some(Limit::Deadline(deadline)) => Some(deadline),
        };
        let mut within = 0;
        let mut inherited = None;
        if let Some(current) = call::current() {
            deadline = [deadline, current.deadline()].into_iter().flatten().min();
            within = current.id_within(link).unwrap_or(0);
            inherited = Some(current.cancel().clone());
        }
        let (metadata, own) = match options {
            None => (&[][..], None),
            Some(options) => (&options.metadata[..], options.cancel.clone()),
        };
        let cancel = [own, inherited];
        let span = CallSpan::current();
        Outbound { method, kind, is_idempotent, deadline, made_at, within, metadata, cancel, span }
    }

    /// Whether it carries nothing but its request and its time, and nothing but that ends it early.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.cancel.iter().all(Option::is_none)
            && self.within == 0
            && self.metadata.is_empty()
            && self.span.is_none()
    }

    /// The same call over another connection.
    pub(crate) fn over(&self, link: &Arc<Link>) -> Outbound<'a> {
        let within = call::current().and_then(|current| current.id_within(link)).unwrap_or(0);
        // It may have waited for that since it was made.
        Outbound { within, made_at: None, ..self.clone() }
    }
}

/// What keys of the protocol itself begin with.
const RESERVED: &str = "plug.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocking::idle_link;
    use crate::call::{CallState, Start};
    use crate::peer::WeakPeer;
    use crate::protocol::Extra;

    const LONG: Duration = Duration::from_secs(1000);

    fn outbound<'a>(
        options: Option<&'a Options>,
        default: Option<Duration>,
        link: &Arc<Link>,
    ) -> Outbound<'a> {
        Outbound::new(3, MethodKind::Unary, false, options, default, link)
    }

    #[test]
    fn a_bare_call_has_no_limit_and_carries_nothing() {
        let outbound = outbound(None, None, &idle_link());
        assert_eq!((outbound.method, outbound.kind), (3, MethodKind::Unary));
        assert_eq!((outbound.deadline, outbound.within), (None, 0));
        assert!(outbound.metadata.is_empty());
        assert!(outbound.cancel.iter().all(Option::is_none));
    }

    #[test]
    fn the_limit_of_a_proxy_replaces_the_default_of_its_command() {
        let link = idle_link();
        let before = Instant::now();
        let default = outbound(None, Some(LONG), &link).deadline.unwrap();
        assert!(before + LONG <= default && default <= Instant::now() + LONG);

        let mut options = Options::default();
        options.set_cancel(&CancelToken::new());
        assert!(outbound(Some(&options), Some(LONG), &link).deadline.unwrap() >= default);
        options.set_timeout(2 * LONG);
        assert!(outbound(Some(&options), Some(LONG), &link).deadline.unwrap() >= before + 2 * LONG);
        let at = before + 3 * LONG;
        options.set_deadline(at);
        assert_eq!(outbound(Some(&options), Some(LONG), &link).deadline, Some(at));
        options.set_timeout(Duration::MAX);
        assert_eq!(outbound(Some(&options), Some(LONG), &link).deadline, None);
    }

    #[test]
    fn a_call_inherits_from_the_call_that_is_served() {
        let (link, other_link) = (idle_link(), idle_link());
        let deadline = Instant::now() + LONG;
        let extra = Some(Box::new(Extra { deadline: Some(deadline), ..Extra::default() }));
        let start = Start { id: 8, link: &link, extra };
        let state = CallState::new(None, start, &"a.B/C".into(), &WeakPeer::default());
        let entered = call::enter(Some(state.clone()));
        let token = CancelToken::new();
        let mut options = Options::default();
        options.set_timeout(2 * LONG);
        options.set_cancel(&token);

        let inner = outbound(Some(&options), None, &link);
        assert_eq!((inner.deadline, inner.within), (Some(deadline), 8), "the earlier deadline");
        let [own, inherited] = inner.cancel.clone().map(Option::unwrap);
        state.cancel().cancel();
        assert!(inherited.is_cancelled() && !own.is_cancelled());
        token.cancel();
        assert!(own.is_cancelled());

        assert_eq!(outbound(None, None, &other_link).within, 0, "it came over another connection");
        drop(entered);
        assert_eq!(outbound(None, None, &link).deadline, None);
    }

    #[test]
    fn metadata_that_cannot_be_sent_fails_the_calls_and_says_which_key() {
        let link = idle_link();
        let mut good = Options::default();
        good.add_metadata("trace-id_1.x", "7".into());
        good.add_metadata("trace-id_1.x", "8".into());
        assert_eq!(outbound(Some(&good), None, &link).metadata.len(), 2);

        let long = "x".repeat(MAX_METADATA);
        for (key, value) in [("Trace", ""), ("", ""), ("a b", ""), ("plug.x", ""), ("x", &long)] {
            let mut options = good.clone();
            options.add_metadata(key, Bytes::copy_from_slice(value.as_bytes()));
            let error = options.check().unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(error.message().contains(&format!("key {key:?}")), "{error}");
        }
    }
}
