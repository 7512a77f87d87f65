//! When a window begins and ends.

use std::fmt;

use aa_protocol::Timestamp;
use jiff::{ToSpan, Unit, civil, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// How often a budget starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// At every full hour.
    Hourly,
    /// At midnight.
    Daily,
    /// At midnight before Monday (ISO 8601).
    Weekly,
    /// At midnight before the first of a month.
    Monthly,
}

/// The windows of one period in one zone: they follow each other without gap or overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    period: Period,
    zone: TimeZone,
}

// === impl Period ===

impl Period {
    /// Every period, the shortest first.
    pub const ALL: [Self; 4] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly];

    /// The name in commands, requests and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }

    /// The period of a name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.as_str() == name)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Calendar ===

impl Calendar {
    /// The windows of `period`, with midnight as `zone` has it.
    pub const fn new(period: Period, zone: TimeZone) -> Self {
        Self { period, zone }
    }

    /// The windows of `period` in UTC.
    pub const fn utc(period: Period) -> Self {
        Self::new(period, TimeZone::UTC)
    }

    /// Its period.
    pub const fn period(&self) -> Period {
        self.period
    }

    /// The IANA name of its zone.
    pub fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The window around `now`: its first instant and the first instant after it.
    pub fn around(&self, now: Timestamp) -> (Timestamp, Timestamp) {
        let local = self.zone.to_datetime(now.to_jiff());
        let today = local.date();
        let (first, next) = match self.period {
            // Where a zone shifts by half an hour, its hours do too, and one of them is short: the instants count.
            Period::Hourly => return hour_around(now),
            Period::Daily => (today, today.checked_add(1.day())),
            Period::Weekly => {
                let since_monday = today.weekday().to_monday_zero_offset();
                let monday = today.checked_sub(i64::from(since_monday).days()).unwrap_or(today);
                (monday, monday.checked_add(7.days()))
            }
            Period::Monthly => {
                let first = today.first_of_month();
                (first, first.checked_add(1.month()))
            }
        };
        (self.midnight(first), next.map_or(END_OF_TIME, |day| self.midnight(day)))
    }

    /// Midnight at the start of a day; where the zone skips it, the first instant after the gap.
    fn midnight(&self, day: civil::Date) -> Timestamp {
        day.to_zoned(self.zone.clone())
            .and_then(|midnight| midnight.start_of_day())
            .and_then(|start| start.timestamp().round(Unit::Microsecond))
            .map_or(END_OF_TIME, |start| Timestamp::from_micros(start.as_microsecond()))
    }
}

const END_OF_TIME: Timestamp = Timestamp::from_micros(i64::MAX);

const HOUR_MICROS: i64 = 3_600_000_000;

fn hour_around(now: Timestamp) -> (Timestamp, Timestamp) {
    let start = now.as_micros().div_euclid(HOUR_MICROS).saturating_mul(HOUR_MICROS);
    (Timestamp::from_micros(start), Timestamp::from_micros(start.saturating_add(HOUR_MICROS)))
}
