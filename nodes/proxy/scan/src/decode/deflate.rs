//! `deflate`: the zlib format, or its inside alone.

use flate2::{Decompress, FlushDecompress, Status};

use super::{CHUNK, Coding, DecodeError, Sink};

/// A body in zlib format (RFC 1950), or in the raw one (RFC 1951) that some send under this name.
#[derive(Debug)]
pub(super) enum Deflate {
    /// The first byte, where it came alone: two tell which format it is.
    Unknown(Option<u8>),
    Known(Inflate),
    Complete,
}

/// Deflated data.
#[derive(Debug)]
pub(super) struct Inflate {
    inflate: Decompress,
    coding: Coding,
}

// === impl Deflate ===

impl Deflate {
    pub(super) const fn new() -> Self {
        Self::Unknown(None)
    }

    pub(super) fn push(&mut self, input: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
        let coding = Coding::Deflate;
        let mut rest = input;
        if let Self::Unknown(first) = self {
            let (held, first, second) = match (*first, rest) {
                (_, []) => return Ok(()),
                (None, [only]) => {
                    *first = Some(*only);
                    return Ok(());
                }
                (None, [first, second, ..]) => (None, *first, *second),
                (Some(first), [second, ..]) => (Some(first), first, *second),
            };
            let mut inflate = Inflate::new(coding, is_zlib_header(first, second));
            if let Some(held) = held {
                // One byte ends nothing.
                inflate.push(&[held], sink)?;
            }
            *self = Self::Known(inflate);
        }
        if let Self::Known(inflate) = self
            && let Some(behind) = inflate.push(rest, sink)?
        {
            rest = behind;
            *self = Self::Complete;
        } else if matches!(self, Self::Known(_)) {
            return Ok(());
        }
        if rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingData { coding }) }
    }

    pub(super) const fn is_complete(&self) -> bool {
        matches!(self, Self::Unknown(None) | Self::Complete)
    }
}

/// RFC 1950, §2.2: the method, the window size, and a check that makes of both a multiple of 31.
fn is_zlib_header(first: u8, second: u8) -> bool {
    first & 0x0f == 8 && first >> 4 <= 7 && (u16::from(first) << 8 | u16::from(second)) % 31 == 0
}

// === impl Inflate ===

impl Inflate {
    pub(super) fn new(coding: Coding, has_zlib_header: bool) -> Self {
        Self { inflate: Decompress::new(has_zlib_header), coding }
    }

    /// Begins anew, without a header.
    pub(super) fn reset(&mut self) {
        self.inflate.reset(false);
    }

    /// Takes input, and returns what is behind its end once that is reached.
    pub(super) fn push<'i>(
        &mut self,
        mut input: &'i [u8],
        sink: &mut Sink<'_>,
    ) -> Result<Option<&'i [u8]>, DecodeError> {
        let mut out = [0; CHUNK];
        loop {
            let (taken, made) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, &mut out, FlushDecompress::None)
                .map_err(|error| self.malformed(&error))?;
            let taken = (self.inflate.total_in() - taken) as usize;
            let made = (self.inflate.total_out() - made) as usize;
            input = input.get(taken..).unwrap_or_default();
            if let Some(made) = out.get(..made).filter(|made| !made.is_empty()) {
                sink(made)?;
            }
            if status == Status::StreamEnd {
                return Ok(Some(input));
            }
            let is_stuck = taken == 0 && made == 0;
            if is_stuck || input.is_empty() && made < out.len() {
                return Ok(None);
            }
        }
    }

    fn malformed(&self, error: &flate2::DecompressError) -> DecodeError {
        let problem = match error.needs_dictionary() {
            Some(_) => "it needs a dictionary",
            None => "the deflated data is corrupt",
        };
        DecodeError::Malformed { coding: self.coding, problem }
    }
}
