//! `br`.

use std::fmt;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::{CHUNK, Coding, DecodeError, Sink};

/// A body in brotli format (RFC 7932).
pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Beginning,
    Data,
    End,
}

// === impl Brotli ===

impl Brotli {
    pub(super) fn new() -> Self {
        let alloc = StandardAlloc::default;
        // Strict: windows past 16 MiB, which RFC 7932 does not have, are an error.
        Self { state: BrotliState::new_strict(alloc(), alloc(), alloc()), at: At::Beginning }
    }

    pub(super) fn push(&mut self, input: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
        let coding = Coding::Brotli;
        if input.is_empty() {
            return Ok(());
        }
        if self.at == At::End {
            return Err(DecodeError::TrailingData { coding });
        }
        self.at = At::Data;
        let mut out = [0; CHUNK];
        let (mut left, mut taken, mut total) = (input.len(), 0, 0);
        loop {
            let (mut room, mut made) = (out.len(), 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut taken,
                input,
                &mut room,
                &mut made,
                &mut out,
                &mut total,
                &mut self.state,
            );
            if let Some(made) = out.get(..made).filter(|made| !made.is_empty()) {
                sink(made)?;
            }
            match result {
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::ResultSuccess => {
                    self.at = At::End;
                    let is_end = left == 0;
                    return if is_end { Ok(()) } else { Err(DecodeError::TrailingData { coding }) };
                }
                BrotliResult::ResultFailure => {
                    let problem = "the data is corrupt, or its window is too large";
                    return Err(DecodeError::Malformed { coding, problem });
                }
            }
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.at != At::Data
    }
}

impl fmt::Debug for Brotli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brotli").field("at", &self.at).finish_non_exhaustive()
    }
}
