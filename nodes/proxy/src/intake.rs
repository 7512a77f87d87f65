//! Reads a request's body whole, bounded: what it asks for must be known before any of it leaves.

use aa_dialect::Refusal;
use aa_scan::decode::{ContentEncoding, DecodeError, Decoder, UnknownEncoding};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_ENCODING};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::{body::BodyError, refusal, settings::Settings};

/// A body, as it came and as it reads.
#[derive(Debug)]
pub(crate) struct Intake {
    /// What is sent on: the very bytes that came.
    pub(crate) sent: Bytes,
    /// Decoded.
    pub(crate) read: Bytes,
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntakeError {
    /// Longer than what is read.
    #[error("the body is longer than {limit} bytes, the most that can be decided on")]
    TooLong { limit: usize },
    /// Its encoding is unknown.
    #[error(transparent)]
    Encoding(#[from] UnknownEncoding),
    /// It is not what its encoding says.
    #[error(transparent)]
    Decoding(#[from] DecodeError),
    /// Nothing came for too long.
    #[error("the body stopped coming for {seconds} s")]
    Stalled { seconds: u64 },
    /// It broke off.
    #[error("the body broke off: {0}")]
    Broken(BodyError),
}

pub(crate) async fn read_body(
    headers: &HeaderMap,
    mut body: Incoming,
    settings: &Settings,
) -> Result<Intake, IntakeError> {
    let limit = settings.limits.call_bytes;
    let silence = settings.timeouts.silence;
    let mut sent = BytesMut::new();
    loop {
        let frame = timeout(silence, body.frame())
            .await
            .map_err(|_| IntakeError::Stalled { seconds: silence.as_secs() })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| IntakeError::Broken(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        if sent.len() + data.len() > limit {
            return Err(IntakeError::TooLong { limit });
        }
        sent.extend_from_slice(&data);
    }
    let sent = sent.freeze();
    let encoding = content_encoding(headers)?;
    if encoding.is_identity() {
        return Ok(Intake { read: sent.clone(), sent });
    }
    let mut decoder = Decoder::new(&encoding, settings.limits.decoding());
    let mut read = BytesMut::new();
    for piece in decoder.push(sent.clone())? {
        read.extend_from_slice(&piece);
        if read.len() > limit {
            return Err(IntakeError::TooLong { limit });
        }
    }
    decoder.finish()?;
    Ok(Intake { sent, read: read.freeze() })
}

/// How a message's body is encoded; a header that is no text names an encoding nobody knows.
pub(crate) fn content_encoding(headers: &HeaderMap) -> Result<ContentEncoding, UnknownEncoding> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    ContentEncoding::parse(values.map(|value| value.to_str().unwrap_or("unreadable")))
}

// === impl IntakeError ===

impl IntakeError {
    pub(crate) fn refusal(&self) -> Box<Refusal> {
        match self {
            Self::TooLong { .. } => refusal::too_large(self.to_string()),
            Self::Encoding(_) | Self::Decoding(_) | Self::Broken(_) => {
                refusal::bad_request(self.to_string())
            }
            Self::Stalled { .. } => refusal::timed_out(self.to_string()),
        }
    }
}
