//! Points in time as UTC microseconds.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Microseconds since the Unix epoch, UTC. Text form: RFC 3339 with six decimals and `Z`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text that is no RFC 3339 time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an RFC 3339 time such as 2026-01-31T09:00:00Z")]
pub struct TimestampError(String);

impl Timestamp {
    /// Wraps microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down; zero before it.
    pub const fn unix_millis(self) -> u64 {
        if self.0 < 0 { 0 } else { self.0 as u64 / 1_000 }
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This time plus a duration, at most the end of the range.
    pub const fn saturating_add(self, duration: Duration) -> Self {
        let micros = duration.as_micros();
        let micros = if micros > i64::MAX as u128 { i64::MAX } else { micros as i64 };
        Self(self.0.saturating_add(micros))
    }

    /// This time less a duration, at least the start of the range.
    pub const fn saturating_sub(self, duration: Duration) -> Self {
        let micros = duration.as_micros();
        let micros = if micros > i64::MAX as u128 { i64::MAX } else { micros as i64 };
        Self(self.0.saturating_sub(micros))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        if micros < 0 { Duration::ZERO } else { Duration::from_micros(micros as u64) }
    }

    /// The same instant for calendar arithmetic, clamped to the years −9999 to 9999.
    pub fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.to_jiff())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let parsed: jiff::Timestamp =
            text.parse().map_err(|_| TimestampError(text.chars().take(64).collect()))?;
        Ok(Self(parsed.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_prints_six_decimals_and_reads_back() {
        let time: Timestamp = "2026-11-22T20:51:29+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-22T19:51:29.000000Z");
        assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
