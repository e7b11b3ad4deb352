//! Making calls.

use std::time::Instant;

use bytes::Bytes;
use prost::Message;

use super::call::{Assembly, Made};
use super::connection::Connection;
use super::flow::Inflow;
use super::frame::{Frame, Metadata, flag, kind};
use super::long::Long;
use super::outbox::SentAt;
use super::{FRAGMENT, MAX_METADATA, Side, metadata_len};
use crate::error::{Code, Error, ErrorKind, Result};

/// What a call is made with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opening<'a> {
    /// The method's number in the other side's hello.
    pub(crate) method: u32,
    /// Which sides are streams.
    pub(crate) streams_requests: bool,
    pub(crate) streams_responses: bool,
    /// When the call ends at the latest, and what time it is now.
    pub(crate) deadline: Option<(Instant, Instant)>,
    /// The call of the other side in whose handler this one is made; 0 if none.
    pub(crate) within: u64,
    pub(crate) metadata: &'a [(String, Bytes)],
}

impl Connection {
    /// Starts a call and returns its id. Exactly one [`Event::Reply`](super::Event::Reply) follows. `request` is `None` where the requests
    /// are a stream: they follow with [`send`](Self::send), up to [`end_requests`](Self::end_requests). A message has
    /// `len` bytes, encoded, and one of [`LONG`](super::LONG) or more is for [`open_long`](Self::open_long).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`] if the other side does not receive messages of that size,
    /// [`ErrorKind::Unimplemented`] for a stream to a side that knows none, and why the connection is over if it is. Nothing was sent, and no
    /// event follows.
    pub(crate) fn open_short(
        &mut self,
        opening: &Opening<'_>,
        request: Option<&impl Message>,
        len: usize,
    ) -> Result<u64> {
        self.check_open(opening, len)?;
        let (call, begins_at) = self.next_call();
        let open = self.open_frame(opening, call);
        let sent_at = match request {
            None => {
                let sent_at = self.outbox.push(&open);
                let window = self.peer.as_ref().map_or(0, |peer| peer.stream_window);
                self.outbox.begin_stream(call, window);
                sent_at
            }
            Some(request) => {
                let open = Frame { flags: flag::LAST | flag::HALF_CLOSE, ..open };
                self.outbox.push_with(&open, len, |out| request.encode_raw(out))
            }
        };
        self.note_made(opening, call, begins_at, sent_at, request.is_some());
        Ok(call)
    }

    /// The same with a long request, which is taken if the call was started.
    pub(crate) fn open_long(
        &mut self,
        opening: &Opening<'_>,
        request: &mut Option<Long>,
    ) -> Result<u64> {
        let len = request.as_ref().map_or(0, Long::len);
        self.check_open(opening, len)?;
        let mut message = request.take().unwrap_or_default();
        let (call, begins_at) = self.next_call();
        let open = self.open_frame(opening, call);
        self.outbox.keep(&message);
        let sent_at = if len <= FRAGMENT {
            let open = Frame { flags: flag::LAST | flag::HALF_CLOSE, ..open };
            self.outbox.push_part(&open, &mut message, len)
        } else {
            let flags = flag::HALF_CLOSE;
            let last = Frame { kind: kind::MESSAGE, call, flags, ..Frame::default() };
            self.push_long(open, last, message);
            SentAt::Unfinished
        };
        self.note_made(opening, call, begins_at, sent_at, true);
        Ok(call)
    }

    #[inline]
    fn check_open(&self, opening: &Opening<'_>, len: usize) -> Result<()> {
        if let Some(error) = self.failure.as_ref().or(self.leaving.as_ref()) {
            return Err(error.duplicate());
        }
        self.check_size("request", len)?;
        self.check_opening(opening)
    }

    /// The id of a new call, and where its first frame begins.
    #[inline]
    pub(super) fn next_call(&mut self) -> (u64, u64) {
        let call = self.next_call;
        self.next_call += 2;
        (call, self.outbox.position())
    }

    #[inline]
    fn open_frame<'a>(&self, opening: &Opening<'a>, call: u64) -> Frame<'a> {
        Frame {
            kind: kind::OPEN,
            call,
            method: opening.method,
            timeout_us: self.timeout_us(opening),
            within: if self.features.within { opening.within } else { 0 },
            metadata: match opening.metadata {
                [] => Metadata::None,
                pairs => Metadata::Pairs(pairs),
            },
            ..Frame::default()
        }
    }

    #[inline]
    pub(super) fn note_made(
        &mut self,
        opening: &Opening<'_>,
        call: u64,
        begins_at: u64,
        sent_at: SentAt,
        has_request: bool,
    ) {
        let deadline = opening.deadline.map(|(deadline, _)| deadline);
        if let Some(deadline) = deadline {
            self.insert_deadline(deadline, call);
        }
        let made = Made {
            begins_at,
            sent_at,
            is_abandoned: false,
            deadline,
            response: Assembly::default(),
            responses: opening
                .streams_responses
                .then(|| Box::new(Inflow::new(self.own.stream_window))),
            is_one_frame: has_request && sent_at != SentAt::Unfinished,
        };
        self.made.insert(call, made);
    }

    fn check_opening(&self, opening: &Opening<'_>) -> Result<()> {
        if (opening.streams_requests || opening.streams_responses) && !self.features.streams {
            return Err(Error::of_kind(
                ErrorKind::Unimplemented,
                "the other side knows no streams: its plug-runtime is too old, or it is another implementation",
            ));
        }
        if !self.greeted || !self.is_ready {
            let message = if self.side == Side::Host {
                "the plugin is still starting: what it calls while it starts cannot call it in turn"
            } else {
                "the host takes no calls before the plugin has started: its plug-runtime is too old"
            };
            let error = Error::of_kind(ErrorKind::Shutdown, message);
            return Err(error.with_code(Code::FailedPrecondition));
        }
        if opening.metadata.is_empty() {
            return Ok(());
        }
        if !self.features.metadata {
            let message = "the other side takes no metadata";
            return Err(Error::of_kind(ErrorKind::Unimplemented, message));
        }
        let len = metadata_len(opening.metadata);
        if len > MAX_METADATA {
            let message = format!("the metadata has {len} bytes; the limit is {MAX_METADATA}");
            return Err(Error::of_kind(ErrorKind::TooLarge, message));
        }
        Ok(())
    }

    /// How much time a call has, for the other side. A call without any left still says so: 0 would mean that it
    /// has all the time there is.
    pub(super) fn timeout_us(&self, opening: &Opening<'_>) -> u64 {
        let Some((deadline, now)) = opening.deadline.filter(|_| self.features.deadline) else {
            return 0;
        };
        let left = deadline.saturating_duration_since(now).as_micros();
        u64::try_from(left).unwrap_or(u64::MAX).max(1)
    }
}
