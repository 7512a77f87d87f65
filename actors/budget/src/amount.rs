//! Money and tokens, counted together.

use aa_protocol::NanoUsd;
use serde::{Deserialize, Serialize};

/// What a call costs: never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// Money.
    cost: NanoUsd,
    /// Tokens of prompt and answer.
    tokens: u64,
}

/// The most that a window admits; a measure without a limit is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The most money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<NanoUsd>,
    /// The most tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
}

/// An amount that cannot be accounted for: negative, or past what an account can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} nano-USD is not an amount; amounts are from 0 to 2^63 - 1")]
pub struct OutOfRange(pub i64);

// === impl Amount ===

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self { cost: NanoUsd::ZERO, tokens: 0 };

    /// An amount.
    ///
    /// # Errors
    /// [`OutOfRange`] when `cost` is negative.
    pub const fn new(cost: NanoUsd, tokens: u64) -> Result<Self, OutOfRange> {
        if cost.0 < 0 { Err(OutOfRange(cost.0)) } else { Ok(Self { cost, tokens }) }
    }

    /// Its money.
    pub const fn cost(self) -> NanoUsd {
        self.cost
    }

    /// Its tokens.
    pub const fn tokens(self) -> u64 {
        self.tokens
    }

    /// The sum; `None` past the range of either measure.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let cost = self.cost.checked_add(other.cost)?;
        Some(Self { cost, tokens: self.tokens.checked_add(other.tokens)? })
    }

    /// The sum, at most the end of the range of each measure.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self {
            cost: NanoUsd(self.cost.0.saturating_add(other.cost.0)),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }

    /// What is left when `other` is taken away; nothing of a measure of which there is less.
    pub const fn saturating_sub(self, other: Self) -> Self {
        let cost = self.cost.0 - other.cost.0;
        Self {
            cost: NanoUsd(if cost < 0 { 0 } else { cost }),
            tokens: self.tokens.saturating_sub(other.tokens),
        }
    }
}

// === impl Limits ===

impl Limits {
    /// Limits on money only.
    pub const fn of_cost(limit: NanoUsd) -> Self {
        Self { cost: Some(limit), tokens: None }
    }

    /// Whether `amount` may come on top of `used`. A measure of which the amount has nothing is not looked at: what
    /// costs nothing passes however much was spent.
    pub fn admit(&self, used: Amount, amount: Amount) -> bool {
        let cost = |limit: NanoUsd| {
            amount.cost.0 == 0
                || used.cost.checked_add(amount.cost).is_some_and(|total| total <= limit)
        };
        let tokens = |limit: u64| {
            amount.tokens == 0
                || used.tokens.checked_add(amount.tokens).is_some_and(|total| total <= limit)
        };
        self.cost.is_none_or(cost) && self.tokens.is_none_or(tokens)
    }

    /// How much of the limits `used` is, in whole per cent, rounded down: the larger of the two measures. Zero
    /// without limits; a limit of zero is used up by anything.
    pub fn percent(&self, used: Amount) -> u64 {
        let share = |used: u64, limit: u64| match (used, limit) {
            (0, _) => 0,
            (_, 0) => u64::MAX,
            (used, limit) => {
                u64::try_from(u128::from(used) * 100 / u128::from(limit)).unwrap_or(u64::MAX)
            }
        };
        let unsigned = |money: NanoUsd| money.0.max(0) as u64;
        let cost = self.cost.map_or(0, |limit| share(unsigned(used.cost), unsigned(limit)));
        cost.max(self.tokens.map_or(0, |limit| share(used.tokens, limit)))
    }
}
