//! Points in time as people give and read them.

use std::{str::FromStr, time::Duration};

use aa_protocol::Timestamp;

/// A point in time: RFC 3339, or how long ago (`90s`, `30m`, `12h`, `7d`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    At(Timestamp),
    Ago(Duration),
}

/// A text that is no moment.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is neither an RFC 3339 time such as 2026-01-31T09:00:00Z nor how long ago, such as 30m or 7d"
)]
pub(crate) struct MomentError(String);

// === impl Moment ===

impl Moment {
    /// The moment in time, seen from now.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(duration) => now.saturating_sub(duration),
        }
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        let ago = || {
            let unit = text.chars().last()?;
            let seconds = match unit {
                's' => 1,
                'm' => 60,
                'h' => 3_600,
                'd' => 86_400,
                _ => return None,
            };
            let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
            Some(Self::Ago(Duration::from_secs(count.checked_mul(seconds)?)))
        };
        ago().ok_or_else(|| MomentError(text.chars().take(64).collect()))
    }
}

/// Now, by the system's clock.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
}

/// An RFC 3339 time for a column: to the second, in UTC.
pub(crate) fn short(rfc3339: &str) -> String {
    let seconds = rfc3339.split('.').next().unwrap_or(rfc3339).trim_end_matches('Z');
    seconds.replacen('T', " ", 1)
}

/// A span of time in words, in its two largest units: `4 min 10 s`.
pub(crate) fn in_words(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    let (large, small) = match (days, hours, minutes) {
        (0, 0, 0) => return format!("{seconds} s"),
        (0, 0, minutes) => ((minutes, "min"), (seconds, "s")),
        (0, hours, minutes) => ((hours, "h"), (minutes, "min")),
        (days, hours, _) => ((days, "d"), (hours, "h")),
    };
    match small {
        (0, _) => format!("{} {}", large.0, large.1),
        (count, unit) => format!("{} {} {count} {unit}", large.0, large.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let resolve = |text: &str| text.parse::<Moment>().unwrap().resolve(now).to_string();
        assert_eq!(resolve("2026-01-31T09:00:00+01:00"), "2026-01-31T08:00:00.000000Z");
        assert_eq!(resolve("90s"), "2026-11-22T11:58:30.000000Z");
        assert_eq!(resolve("30m"), "2026-11-22T11:30:00.000000Z");
        assert_eq!(resolve("7d"), "2026-11-15T12:00:00.000000Z");
        for text in ["", "yesterday", "5", "-1h", "5w", "99999999999999999999d", "é"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_span_is_told_in_its_two_largest_units() {
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (250, "4 min 10 s"),
            (3_600, "1 h"),
            (7_505, "2 h 5 min"),
            (3 * 86_400 + 4 * 3_600 + 59, "3 d 4 h"),
        ] {
            assert_eq!(in_words(Duration::from_secs(seconds)), words);
        }
    }

    #[test]
    fn a_time_is_shortened_to_the_second() {
        assert_eq!(short("2026-11-22T20:51:29.123456Z"), "2026-11-22 20:51:29");
    }
}
