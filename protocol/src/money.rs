//! Money as an integer count of nano-US-dollars. Floats exist only at the YAML and JSON edge.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount in nano-USD (10⁻⁹ USD), within ±9.2 billion USD.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NanoUsd(pub i64);

const NANOS_PER_USD: i64 = 1_000_000_000;

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Converts a decimal amount of US dollars, rounded half to even. `None` when it is not finite or
    /// does not fit.
    pub fn from_usd(usd: f64) -> Option<Self> {
        let nanos = (usd * NANOS_PER_USD as f64).round_ties_even();
        let fits = nanos.is_finite() && nanos.abs() < i64::MAX as f64;
        fits.then_some(Self(nanos as i64))
    }

    /// The amount as US dollars, for display only.
    pub fn to_usd(self) -> f64 {
        self.0 as f64 / NANOS_PER_USD as f64
    }

    /// The sum, or `None` past the range.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

impl fmt::Display for NanoUsd {
    /// Dollars with at least two decimals and no trailing zeros past them: `$25.00`, `$0.000125`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let dollars = self.0.unsigned_abs() / NANOS_PER_USD as u64;
        let nanos = format!("{:09}", self.0.unsigned_abs() % NANOS_PER_USD as u64);
        let decimals = nanos.trim_end_matches('0').len().max(2);
        write!(f, "{sign}${dollars}.{}", &nanos[..decimals])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_round_half_to_even() {
        assert_eq!(NanoUsd::from_usd(25.0), Some(NanoUsd(25_000_000_000)));
        assert_eq!(NanoUsd::from_usd(0.000_000_000_5), Some(NanoUsd(0)));
        assert_eq!(NanoUsd::from_usd(0.000_000_001_5), Some(NanoUsd(2)));
        assert_eq!(NanoUsd::from_usd(f64::NAN), None);
        assert_eq!(NanoUsd::from_usd(1e300), None);
    }

    #[test]
    fn amounts_print_as_people_write_them() {
        assert_eq!(NanoUsd(25_000_000_000).to_string(), "$25.00");
        assert_eq!(NanoUsd(125_000).to_string(), "$0.000125");
        assert_eq!(NanoUsd(-1_500_000_000).to_string(), "-$1.50");
    }
}
