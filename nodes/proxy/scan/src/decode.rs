//! Content codings (RFC 9110, §8.4), undone as the bytes come.
//!
//! What a piece of input makes known is handed out at once: a sender that flushes is read without delay. What a
//! small input may become is bounded ([`Limits`]), and so is what a decoder remembers:
//!
//! | coding | format | decoder | memory |
//! |---|---|---|---|
//! | `gzip`, `x-gzip` | RFC 1952, members one after another | `flate2` on `miniz_oxide` | 50 KiB |
//! | `deflate` | RFC 1950; without its header (RFC 1951) as well, as many senders do | the same | 50 KiB |
//! | `br` | RFC 7932, windows up to its 16 MiB, large windows refused | `brotli-decompressor` | window and 1 MiB |
//! | `zstd` | RFC 8878, windows up to 8 MiB as RFC 9659 demands | `libzstd` | window and 0.5 MiB |
//!
//! Checksums are verified. An empty body is taken as one of any coding, for answers that have none. Bytes behind
//! the end are an error, but for the zeros that some pad gzip with: who reads on where another
//! stops does not see what that other sees.

mod brotli;
mod content_encoding;
mod deflate;
mod gzip;
mod meter;
mod zstd;

use bytes::Bytes;

use self::{brotli::Brotli, deflate::Deflate, gzip::Gzip, meter::Meter, zstd::Zstd};

pub use self::{
    content_encoding::{Coding, ContentEncoding, UnknownEncoding},
    meter::Limits,
};

/// Undoes the codings of one body.
#[derive(Debug)]
pub struct Decoder {
    /// The last applied one first. At most two.
    stages: Vec<Stage>,
    meter: Meter,
    failure: Option<DecodeError>,
}

/// Why a body cannot be decoded, or is not decoded further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not what its header says.
    #[error("the body is not valid {coding}: {problem}")]
    Malformed {
        /// The coding that it should have.
        coding: Coding,
        /// What its decoder says.
        problem: &'static str,
    },
    /// It ended too early.
    #[error("the {coding} body ends before its end")]
    Truncated {
        /// The coding that is not complete.
        coding: Coding,
    },
    /// Bytes follow its end.
    #[error("bytes follow the end of the {coding} body")]
    TrailingData {
        /// The coding that is complete.
        coding: Coding,
    },
    /// A piece of it became too large.
    #[error("the body expands more than {max_ratio} times past a burst of {burst} bytes")]
    TooDense {
        /// [`Limits::max_ratio`].
        max_ratio: u32,
        /// [`Limits::burst`].
        burst: u64,
    },
    /// All of it became too large.
    #[error("the decoded body is larger than {max_total} bytes")]
    TooLarge {
        /// [`Limits::max_total`].
        max_total: u64,
    },
}

#[derive(Debug)]
enum Stage {
    Gzip(Gzip),
    Deflate(Deflate),
    Brotli(Box<Brotli>),
    Zstd(Zstd),
}

/// Takes what a stage makes of its input. It may refuse more.
type Sink<'s> = dyn FnMut(&[u8]) -> Result<(), DecodeError> + 's;

/// What a stage hands on at a time, in bytes.
const CHUNK: usize = 16 << 10;

// === impl Decoder ===

impl Decoder {
    /// A decoder at the beginning of a body.
    pub fn new(encoding: &ContentEncoding, limits: Limits) -> Self {
        let stages = encoding.codings().iter().rev().map(|coding| Stage::new(*coding));
        let stages: Vec<Stage> = stages.collect();
        let meter = Meter::new(limits, stages.len());
        Self { stages, meter, failure: None }
    }

    /// Takes the next piece of the body, and yields all that can be made of it: at most
    /// [`Limits::burst`] bytes and [`Limits::max_ratio`] for each byte of the piece.
    ///
    /// # Errors
    /// When the body is malformed or passes a limit, now or before.
    pub fn push(&mut self, piece: Bytes) -> Result<Vec<Bytes>, DecodeError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = self.decode(piece);
        self.failure = result.as_ref().err().cloned();
        result
    }

    /// Ends the body. All that it contains was yielded before.
    ///
    /// # Errors
    /// When it is not complete, or failed before.
    pub fn finish(&mut self) -> Result<(), DecodeError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = self.stages.iter().try_for_each(Stage::finish);
        self.failure = result.as_ref().err().cloned();
        result
    }

    fn decode(&mut self, piece: Bytes) -> Result<Vec<Bytes>, DecodeError> {
        if piece.is_empty() {
            return Ok(Vec::new());
        }
        self.meter.fill(piece.len());
        let mut made = Vec::new();
        let meter = &mut self.meter;
        match &mut *self.stages {
            [] => {
                meter.pass(piece.len())?;
                made.push(piece);
            }
            [one] => one.push(&piece, &mut |bytes| {
                meter.take(0, bytes.len())?;
                made.push(Bytes::copy_from_slice(bytes));
                Ok(())
            })?,
            [outer, inner, ..] => outer.push(&piece, &mut |bytes| {
                meter.take(0, bytes.len())?;
                inner.push(bytes, &mut |bytes| {
                    meter.take(1, bytes.len())?;
                    made.push(Bytes::copy_from_slice(bytes));
                    Ok(())
                })
            })?,
        }
        Ok(made)
    }
}

// === impl Stage ===

impl Stage {
    fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip => Self::Gzip(Gzip::new()),
            Coding::Deflate => Self::Deflate(Deflate::new()),
            Coding::Brotli => Self::Brotli(Box::new(Brotli::new())),
            Coding::Zstd => Self::Zstd(Zstd::new()),
        }
    }

    fn push(&mut self, input: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
        match self {
            Self::Gzip(gzip) => gzip.push(input, sink),
            Self::Deflate(deflate) => deflate.push(input, sink),
            Self::Brotli(brotli) => brotli.push(input, sink),
            Self::Zstd(zstd) => zstd.push(input, sink),
        }
    }

    fn finish(&self) -> Result<(), DecodeError> {
        let (coding, is_complete) = match self {
            Self::Gzip(gzip) => (Coding::Gzip, gzip.is_complete()),
            Self::Deflate(deflate) => (Coding::Deflate, deflate.is_complete()),
            Self::Brotli(brotli) => (Coding::Brotli, brotli.is_complete()),
            Self::Zstd(zstd) => (Coding::Zstd, zstd.is_complete()),
        };
        if is_complete { Ok(()) } else { Err(DecodeError::Truncated { coding }) }
    }
}
