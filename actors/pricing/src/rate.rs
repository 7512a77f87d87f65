//! A price per million tokens, exact to the nano-dollar.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A price in nano-USD (10⁻⁹ USD) per million tokens, from nothing to $1,000,000.
///
/// Its text form, which JSON and YAML carry, is the decimal US dollars per million tokens that price lists
/// show (`"2.50"`): at most nine decimals, no sign, no exponent. A plain number is read too; the float it may
/// be is taken for the shortest decimal that denotes it and rounded up past nine decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(i64);

/// Why a text is no price.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// It is no plain decimal.
    #[error(
        "{0:?} is not a price: write US dollars per million tokens as a decimal, such as \"2.50\""
    )]
    NotADecimal(String),
    /// It is below nothing.
    #[error("the price {0} is negative: the least is 0, which makes the tokens free")]
    Negative(String),
    /// It is not a number or without end.
    #[error("the price {0} is not finite")]
    NotFinite(String),
    /// It has a part below the nano-dollar.
    #[error("the price {0:?} has more than nine decimals: round it up")]
    TooPrecise(String),
    /// It is above [`Rate::MAX`].
    #[error("the price {0} is above the most, 1000000 US dollars per million tokens")]
    TooHigh(String),
}

struct RateVisitor;

const NANOS_PER_USD: i64 = 1_000_000_000;
const DECIMALS: usize = 9;
const MOST_USD: i64 = 1_000_000;
const SHOWN: usize = 40;

// === impl Rate ===

impl Rate {
    /// Free.
    pub const ZERO: Self = Self(0);

    /// The highest price: $1,000,000 per million tokens.
    pub const MAX: Self = Self(MOST_USD * NANOS_PER_USD);

    /// A rate of so many nano-USD per million tokens; `None` outside `0..=`[`Rate::MAX`].
    pub const fn from_nanos(nanos: i64) -> Option<Self> {
        if nanos < 0 || nanos > Self::MAX.0 { None } else { Some(Self(nanos)) }
    }

    /// Nano-USD per million tokens.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// What so many tokens cost, in nano-USD per million: at most 2⁶⁴ · 10¹⁵, so that dozens of them add up
    /// without passing the range.
    pub(crate) fn of(self, tokens: u64) -> u128 {
        u128::from(tokens) * u128::from(self.0.unsigned_abs())
    }

    fn from_float(usd: f64) -> Result<Self, RateError> {
        if !usd.is_finite() {
            return Err(RateError::NotFinite(usd.to_string()));
        }
        if usd < 0.0 {
            return Err(RateError::Negative(usd.to_string()));
        }
        if usd > MOST_USD as f64 {
            return Err(RateError::TooHigh(format!("{usd:e}")));
        }
        let text = usd.abs().to_string();
        let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
        match decimals.get(DECIMALS..) {
            None | Some("") => text.parse(),
            // What was cut is not nothing, since the shortest form has no trailing zeros.
            Some(_) => format!("{whole}.{}", &decimals[..DECIMALS])
                .parse::<Self>()
                .and_then(|rate| Self::from_nanos(rate.0 + 1).ok_or(RateError::TooHigh(text))),
        }
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let shown = || text.chars().take(SHOWN).collect::<String>();
        if let Some(amount) = text.strip_prefix('-')
            && amount.starts_with(|first: char| first.is_ascii_digit())
        {
            return Err(RateError::Negative(shown()));
        }
        let (whole, decimals) = match text.split_once('.') {
            Some((whole, decimals)) if !decimals.is_empty() => (whole, decimals),
            Some(_) => return Err(RateError::NotADecimal(shown())),
            None => (text, ""),
        };
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(decimals) {
            return Err(RateError::NotADecimal(shown()));
        }
        if decimals.len() > DECIMALS {
            return Err(RateError::TooPrecise(shown()));
        }
        let usd: i64 = whole.parse().map_err(|_| RateError::TooHigh(shown()))?;
        let nanos: i64 = format!("{decimals:0<DECIMALS$}")
            .parse()
            .map_err(|_| RateError::NotADecimal(shown()))?;
        usd.checked_mul(NANOS_PER_USD)
            .and_then(|whole| whole.checked_add(nanos))
            .and_then(Self::from_nanos)
            .ok_or_else(|| RateError::TooHigh(shown()))
    }
}

impl fmt::Display for Rate {
    /// US dollars per million tokens, without trailing zeros: `2.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = format!("{:09}", self.0 % NANOS_PER_USD);
        let decimals = nanos.trim_end_matches('0');
        let point = if decimals.is_empty() { "" } else { "." };
        write!(f, "{}{point}{decimals}", self.0 / NANOS_PER_USD)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RateVisitor)
    }
}

// === impl RateVisitor ===

impl de::Visitor<'_> for RateVisitor {
    type Value = Rate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("US dollars per million tokens, such as \"2.50\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Rate, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, usd: u64) -> Result<Rate, E> {
        usd.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, usd: i64) -> Result<Rate, E> {
        usd.to_string().parse().map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, usd: f64) -> Result<Rate, E> {
        Rate::from_float(usd).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> i64 {
        text.parse::<Rate>().unwrap().nanos()
    }

    #[test]
    fn decimals_are_read_exactly() {
        assert_eq!(nanos("2.50"), 2_500_000_000);
        assert_eq!(nanos("0"), 0);
        assert_eq!(nanos("0.000000001"), 1);
        assert_eq!(nanos("0.0375"), 37_500_000);
        assert_eq!(nanos("1000000"), Rate::MAX.nanos());
        assert_eq!(nanos("0000007"), 7_000_000_000);
    }

    #[test]
    fn what_is_no_price_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "not a price"),
            (".5", "not a price"),
            ("5.", "not a price"),
            ("+1", "not a price"),
            ("1e3", "not a price"),
            ("1,5", "not a price"),
            (" 1", "not a price"),
            ("NaN", "not a price"),
            ("$5", "not a price"),
            ("٣", "not a price"),
            ("-1", "negative"),
            ("-0.5", "negative"),
            ("1.0000000001", "nine decimals"),
            ("1000000.000000001", "above the most"),
            ("99999999999999999999", "above the most"),
        ] {
            let message = text.parse::<Rate>().unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
        }
        let long = "9".repeat(1 << 20).parse::<Rate>().unwrap_err().to_string();
        assert!(long.len() < 200, "an error never repeats a long text");
    }

    #[test]
    fn numbers_are_read_as_the_decimals_they_are_written_as() {
        let read = |text: &str| serde_json::from_str::<Rate>(text).map(Rate::nanos);
        assert_eq!(read("0.15").unwrap(), 150_000_000);
        assert_eq!(read("3").unwrap(), 3_000_000_000);
        assert_eq!(read("1e-3").unwrap(), 1_000_000);
        assert_eq!(read("-0.0").unwrap(), 0);
        assert_eq!(read("0.30000000000000004").unwrap(), 300_000_001, "rounded up");
        assert_eq!(read("1e-30").unwrap(), 1, "never silently free");
        for bad in ["-0.15", "-3", "1e300", "1000000.5", "null", "true", "[1]", "{}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(matches!(Rate::from_float(bad), Err(RateError::NotFinite(_))));
        }
    }

    proptest::proptest! {
        #[test]
        fn a_price_reads_back_as_it_was_written(nanos in 0..=Rate::MAX.0) {
            let rate = Rate::from_nanos(nanos).unwrap();
            assert_eq!(rate.to_string().parse(), Ok(rate));
            let text = serde_json::to_string(&rate).unwrap();
            assert_eq!(serde_json::from_str::<Rate>(&text).unwrap(), rate);
        }

        #[test]
        fn a_float_is_never_read_below_itself(usd in 0.0..1_000_000.0f64) {
            let rate = Rate::from_float(usd).unwrap();
            assert!(rate.0 as f64 / 1e9 >= usd * (1.0 - 1e-15));
            assert!((rate.0 as f64 / 1e9 - usd).abs() <= 1e-9 + usd * 1e-15);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Rate>();
        }
    }
}
