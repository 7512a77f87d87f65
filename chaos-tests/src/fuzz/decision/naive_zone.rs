//! Wall clocks of a few zones, by their rules as laws state them.

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Minutes since local midnight.
pub(super) fn minute_of_day(now_micros: i64, zone: &str) -> i64 {
    let utc = now_micros.div_euclid(1_000_000);
    let offset = match zone {
        "UTC" => 0,
        "Asia/Taipei" => 8 * HOUR,
        "Asia/Kolkata" => 5 * HOUR + 30 * MINUTE,
        "America/New_York" => {
            // From the second Sunday of March to the first of November, at 2:00 by the clock before.
            let year = year_of(utc);
            let start = sunday_from(days(year, 3, 8)) * DAY + 7 * HOUR;
            let end = sunday_from(days(year, 11, 1)) * DAY + 6 * HOUR;
            if utc >= start && utc < end { -4 * HOUR } else { -5 * HOUR }
        }
        "Europe/Berlin" => {
            // From the last Sunday of March to the last of October, at 1:00 UTC.
            let year = year_of(utc);
            let start = sunday_from(days(year, 3, 25)) * DAY + HOUR;
            let end = sunday_from(days(year, 10, 25)) * DAY + HOUR;
            if utc >= start && utc < end { 2 * HOUR } else { HOUR }
        }
        _ => unreachable!("no document names the zone {zone}"),
    };
    (utc + offset).rem_euclid(DAY) / MINUTE
}

/// The first Sunday on or after a day. 1970-01-01, day 0, was a Thursday.
fn sunday_from(day: i64) -> i64 {
    let mut day = day;
    while (day + 4).rem_euclid(7) != 0 {
        day += 1;
    }
    day
}

/// Days since 1970-01-01, which times before do not need.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let mut days = day - 1;
    for earlier in 1970..year {
        days += if is_leap(earlier) { 366 } else { 365 };
    }
    for earlier in 1..month {
        days += match earlier {
            2 if is_leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
    }
    days
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn year_of(utc: i64) -> i64 {
    let mut year = 1970;
    while days(year + 1, 1, 1) * DAY <= utc {
        year += 1;
    }
    year
}
