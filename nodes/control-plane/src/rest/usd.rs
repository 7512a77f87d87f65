//! US dollars at the edge: decimals in requests, answers and on the command line, integer nano-USD behind them.

use std::{fmt, str::FromStr};

use aa_protocol::NanoUsd;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

/// US dollars as a decimal, such as `"25.00"`: no sign, no exponent, at most 9223372036.854775807.
///
/// A number is read too, as the shortest decimal that denotes it. Past nine decimals the amount is rounded half
/// to even.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, example = "25.00")]
pub struct Usd(NanoUsd);

/// Why a text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsdError {
    /// It is no plain decimal.
    #[error("{0:?} is not an amount: write US dollars as a decimal, such as \"25.00\"")]
    NotADecimal(String),
    /// It is below nothing.
    #[error("the amount {0} is negative")]
    Negative(String),
    /// It does not fit.
    #[error("the amount {0} is above the most, 9223372036.854775807 US dollars")]
    TooHigh(String),
}

struct UsdVisitor;

const NANOS_PER_USD: i64 = 1_000_000_000;
const DECIMALS: usize = 9;
const SHOWN: usize = 40;

// === impl Usd ===

impl Usd {
    /// The amount.
    pub const fn nanos(self) -> NanoUsd {
        self.0
    }
}

impl From<NanoUsd> for Usd {
    fn from(amount: NanoUsd) -> Self {
        Self(amount)
    }
}

impl FromStr for Usd {
    type Err = UsdError;

    fn from_str(text: &str) -> Result<Self, UsdError> {
        let shown = || text.chars().take(SHOWN).collect::<String>();
        if let Some(amount) = text.strip_prefix('-')
            && amount.starts_with(|first: char| first.is_ascii_digit())
        {
            return Err(UsdError::Negative(shown()));
        }
        let (whole, decimals) = match text.split_once('.') {
            Some((whole, decimals)) if !decimals.is_empty() => (whole, decimals),
            Some(_) => return Err(UsdError::NotADecimal(shown())),
            None => (text, ""),
        };
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(decimals) {
            return Err(UsdError::NotADecimal(shown()));
        }
        let (kept, cut) = decimals.split_at(decimals.len().min(DECIMALS));
        let nanos: i64 =
            format!("{kept:0<DECIMALS$}").parse().map_err(|_| UsdError::NotADecimal(shown()))?;
        whole
            .parse::<i64>()
            .ok()
            .and_then(|usd| usd.checked_mul(NANOS_PER_USD))
            .and_then(|whole| whole.checked_add(nanos))
            .and_then(|down| down.checked_add(i64::from(rounds_up(down, cut))))
            .map(|nanos| Self(NanoUsd(nanos)))
            .ok_or_else(|| UsdError::TooHigh(shown()))
    }
}

/// Whether `down`, to which the digits `cut` were cut off, is rounded up: half goes to even.
fn rounds_up(down: i64, cut: &str) -> bool {
    match cut.as_bytes() {
        [] | [b'0'..=b'4', ..] => false,
        [b'5', rest @ ..] if rest.iter().all(|digit| *digit == b'0') => down % 2 != 0,
        _ => true,
    }
}

impl fmt::Display for Usd {
    /// At least two decimals: `25.00`, `0.000125`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string().replace('$', ""))
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UsdVisitor)
    }
}

// === impl UsdVisitor ===

impl de::Visitor<'_> for UsdVisitor {
    type Value = Usd;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("US dollars, such as \"25.00\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Usd, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, usd: u64) -> Result<Usd, E> {
        self.visit_str(&usd.to_string())
    }

    fn visit_i64<E: de::Error>(self, usd: i64) -> Result<Usd, E> {
        self.visit_str(&usd.to_string())
    }

    fn visit_f64<E: de::Error>(self, usd: f64) -> Result<Usd, E> {
        // Adding zero takes the sign off nothing. The text of a float is its shortest decimal, without exponent.
        self.visit_str(&(usd + 0.0).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> i64 {
        text.parse::<Usd>().unwrap().nanos().0
    }

    #[test]
    fn decimals_are_read_exactly_and_rounded_half_to_even_past_nine() {
        assert_eq!(nanos("25"), 25_000_000_000);
        assert_eq!(nanos("0.000125"), 125_000);
        assert_eq!(nanos("0.0000000005"), 0);
        assert_eq!(nanos("0.0000000015"), 2);
        assert_eq!(nanos("0.0000000025"), 2);
        assert_eq!(nanos("0.00000000250001"), 3);
        assert_eq!(nanos("0.99999999949"), 999_999_999);
        assert_eq!(nanos("0.9999999995"), 1_000_000_000);
        assert_eq!(nanos("9223372036.854775807"), i64::MAX);
    }

    #[test]
    fn what_is_no_amount_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "not an amount"),
            (".5", "not an amount"),
            ("5.", "not an amount"),
            ("+1", "not an amount"),
            ("1e3", "not an amount"),
            ("1,5", "not an amount"),
            ("$5", "not an amount"),
            ("NaN", "not an amount"),
            ("inf", "not an amount"),
            ("-1", "negative"),
            ("9223372036.8547758075", "above the most"),
            ("99999999999999999999", "above the most"),
        ] {
            let message = text.parse::<Usd>().unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
        }
        let long = "9".repeat(1 << 20).parse::<Usd>().unwrap_err().to_string();
        assert!(long.len() < 200, "an error never repeats a long text");
    }

    #[test]
    fn numbers_are_read_as_the_decimals_they_are_written_as() {
        let read = |text: &str| serde_json::from_str::<Usd>(text).map(|usd| usd.nanos().0);
        assert_eq!(read("0.1").unwrap(), 100_000_000);
        assert_eq!(read("25").unwrap(), 25_000_000_000);
        assert_eq!(read("1e-3").unwrap(), 1_000_000);
        assert_eq!(read("1.0000000005").unwrap(), 1_000_000_000);
        assert_eq!(read("-0.0").unwrap(), 0);
        for bad in ["-0.1", "-3", "1e300", "1e10", "null", "true", "[1]", "{}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_amount_reads_back_as_it_was_written() {
        for nanos in [0, 1, 5, 125_000, 1_500_000_000, 25_000_000_000, i64::MAX] {
            let usd = Usd::from(NanoUsd(nanos));
            assert_eq!(usd.to_string().parse(), Ok(usd));
            let text = serde_json::to_string(&usd).unwrap();
            assert_eq!(serde_json::from_str::<Usd>(&text).unwrap(), usd);
        }
        assert_eq!(Usd::from(NanoUsd(25_000_000_000)).to_string(), "25.00");
    }
}
