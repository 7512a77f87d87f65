//! The bodies that pass through.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tokio::time::{Instant, Sleep, sleep};

/// What went wrong with a body, told to whoever reads it.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body of any origin.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body that must not be silent for too long.
pub(crate) struct Timed<B> {
    inner: B,
    patience: Duration,
    /// Made when the body is first waited for: most never are.
    silence: Option<Pin<Box<Sleep>>>,
    _kept: Box<dyn Send>,
}

/// Nothing came of a body for too long.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no data came for {} s", patience.as_secs())]
pub(crate) struct Stalled {
    patience: Duration,
}

// === impl Stalled ===

impl Stalled {
    pub(crate) const fn after(patience: Duration) -> Self {
        Self { patience }
    }
}

/// A body that is complete already.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body without anything.
pub(crate) fn empty() -> Body {
    full(Bytes::new())
}

// === impl Timed ===

impl<B> Timed<B> {
    /// Ends with [`Stalled`] once nothing came for `patience`; `kept` is dropped with it.
    pub(crate) fn new(inner: B, patience: Duration, kept: impl Send + 'static) -> Self {
        Self { inner, patience, silence: None, _kept: Box::new(kept) }
    }
}

impl<B> fmt::Debug for Timed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timed").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl<B> HttpBody for Timed<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) {
            if let Some(silence) = &mut this.silence {
                silence.as_mut().reset(Instant::now() + this.patience);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let patience = this.patience;
        let silence = this.silence.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(silence.as_mut().poll(context));
        Poll::Ready(Some(Err(Stalled { patience }.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
