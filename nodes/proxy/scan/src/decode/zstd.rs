//! `zstd`.

use std::fmt;

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::{CHUNK, Coding, DecodeError, Sink};

/// A body in Zstandard format (RFC 8878): frames, one after another.
pub(super) struct Zstd {
    /// Made with the first byte: it takes memory.
    context: Option<DCtx<'static>>,
    /// Whether a frame has begun and did not end.
    is_within: bool,
}

/// RFC 9659: 8 MiB.
const MAX_WINDOW_LOG: u32 = 23;

// === impl Zstd ===

impl Zstd {
    pub(super) const fn new() -> Self {
        Self { context: None, is_within: false }
    }

    pub(super) fn push(&mut self, input: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
        if input.is_empty() {
            return Ok(());
        }
        let context = match &mut self.context {
            Some(context) => context,
            empty => empty.insert(begin()?),
        };
        let mut out = [0; CHUNK];
        let mut input = InBuffer::around(input);
        loop {
            let taken = input.pos();
            let mut buffer = OutBuffer::around(&mut out[..]);
            let result = context.decompress_stream(&mut buffer, &mut input);
            let made = buffer.as_slice();
            let (is_full, is_stuck) = (made.len() == CHUNK, made.is_empty());
            if !made.is_empty() {
                sink(made)?;
            }
            let is_stuck = is_stuck && input.pos() == taken;
            match result {
                Ok(0) => self.is_within = false,
                Ok(_) => self.is_within = true,
                Err(code) => return Err(malformed(get_error_name(code))),
            }
            let is_empty = input.pos() == input.src.len();
            if is_stuck || is_empty && (!is_full || !self.is_within) {
                return Ok(());
            }
        }
    }

    pub(super) const fn is_complete(&self) -> bool {
        !self.is_within
    }
}

impl fmt::Debug for Zstd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zstd").field("is_within", &self.is_within).finish_non_exhaustive()
    }
}

fn begin() -> Result<DCtx<'static>, DecodeError> {
    let mut context = DCtx::try_create().ok_or(malformed("there is no memory for it"))?;
    context
        .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
        .map_err(|code| malformed(get_error_name(code)))?;
    Ok(context)
}

const fn malformed(problem: &'static str) -> DecodeError {
    DecodeError::Malformed { coding: Coding::Zstd, problem }
}
