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

/// The last microsecond that has a text form, that of `jiff::Timestamp::MAX`.
const LAST_MICROS: i64 = 253_402_207_200_999_999;

/// The decimal digits of 0 to 99.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut value = 0;
    while value < 100 {
        pairs[value] = [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8];
        value += 1;
    }
    pairs
};

/// Year, month and day of a day since 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
const fn civil_date(days: u32) -> (u32, u32, u32) {
    // Counted from 0000-03-01, so that a leap day is the last day of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + (month <= 2) as u32;
    (year, month, day)
}

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

    /// The text form of a time from the year 1970 on, for writers that append bytes; an earlier time is
    /// written as the start of 1970, one past 9999 as [`Timestamp::to_jiff`] clamps it.
    pub fn to_ascii(self) -> [u8; 27] {
        let micros = self.0.clamp(0, LAST_MICROS) as u64;
        let (seconds, fraction) = (micros / 1_000_000, (micros % 1_000_000) as u32);
        let (days, second) = ((seconds / 86_400) as u32, (seconds % 86_400) as u32);
        let (year, month, day) = civil_date(days);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let pairs = [
            (0, year / 100),
            (2, year % 100),
            (5, month),
            (8, day),
            (11, second / 3_600),
            (14, second / 60 % 60),
            (17, second % 60),
            (20, fraction / 10_000),
            (22, fraction / 100 % 100),
            (24, fraction % 100),
        ];
        for (at, value) in pairs {
            text[at..at + 2].copy_from_slice(&PAIRS[value as usize]);
        }
        text
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
        match std::str::from_utf8(&self.to_ascii()) {
            Ok(text) if self.0 >= 0 => f.write_str(text),
            _ => write!(f, "{:.6}", self.to_jiff()),
        }
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

    #[test]
    fn times_from_1970_to_9999_are_written_as_the_calendar_has_them() {
        const DAY: i64 = 86_400_000_000;
        // The calendar repeats after these days.
        const ERA: i64 = 146_097;
        let last = jiff::Timestamp::MAX.as_microsecond();
        for day in (0..ERA).chain((ERA..=last / DAY).step_by(97)) {
            let time = Timestamp::from_micros((day * DAY + day * 7_919_777_777 % DAY).min(last));
            assert_eq!(time.to_string(), format!("{:.6}", time.to_jiff()));
        }
        for micros in [i64::MIN, -1, 0, last, last + 1, i64::MAX] {
            let time = Timestamp::from_micros(micros);
            assert_eq!(time.to_string(), format!("{:.6}", time.to_jiff()));
        }
        assert_eq!(&Timestamp::from_micros(-1).to_ascii(), b"1970-01-01T00:00:00.000000Z");
    }
}
