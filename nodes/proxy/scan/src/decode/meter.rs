//! How much a body may expand.

use super::DecodeError;

/// Bounds on what is made of a body, by each of its codings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many bytes one byte of the body may become, past the burst.
    pub max_ratio: u32,
    /// Bytes that may be made at any time whatever came in: of a short body, and where a long one is denser for a
    /// while. It is used up by what passes the ratio, and grows again with input that stays below.
    pub burst: u64,
    /// How many bytes may be made in all.
    pub max_total: u64,
}

/// Counts what is made.
#[derive(Debug)]
pub(super) struct Meter {
    limits: Limits,
    /// For each stage, what it may still make of the input so far.
    credit: Vec<u64>,
    /// For each stage, and for a body without any, what it made.
    total: Vec<u64>,
}

// === impl Limits ===

impl Default for Limits {
    /// 100 times past 4 MiB, and 1 GiB in all: text seldom shrinks to a tenth, and a stream may be long.
    fn default() -> Self {
        Self { max_ratio: 100, burst: 4 << 20, max_total: 1 << 30 }
    }
}

// === impl Meter ===

impl Meter {
    pub(super) fn new(limits: Limits, stages: usize) -> Self {
        Self { limits, credit: vec![limits.burst; stages], total: vec![0; stages.max(1)] }
    }

    /// Counts input.
    pub(super) fn fill(&mut self, input: usize) {
        let more = (input as u64).saturating_mul(self.limits.max_ratio.into());
        for credit in &mut self.credit {
            *credit = (*credit).min(self.limits.burst).saturating_add(more);
        }
    }

    /// Counts what a stage made of it.
    pub(super) fn take(&mut self, stage: usize, made: usize) -> Result<(), DecodeError> {
        let Limits { max_ratio, burst, max_total } = self.limits;
        let made = made as u64;
        if let Some(credit) = self.credit.get_mut(stage) {
            let left = credit.checked_sub(made);
            *credit = left.ok_or(DecodeError::TooDense { max_ratio, burst })?;
        }
        if let Some(total) = self.total.get_mut(stage) {
            *total = total.saturating_add(made);
            if *total > max_total {
                return Err(DecodeError::TooLarge { max_total });
            }
        }
        Ok(())
    }

    /// Counts what passes as it is.
    pub(super) fn pass(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.take(0, bytes)
    }
}
