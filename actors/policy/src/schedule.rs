//! `schedule`: the hours of the day in which an agent may run.

use std::sync::LazyLock;

use aa_protocol::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::{
    diagnostic::{Diagnostic, DiagnosticCode, Report, quoted},
    policy::Site,
    tree::{Node, member_path},
};

/// A daily window by local wall clock: `[start, end)`, daylight saving included.
#[derive(Debug)]
pub(crate) struct ActiveHours {
    pub(crate) site: Site,
    start: MinuteOfDay,
    end: MinuteOfDay,
    timezone: TimeZone,
}

/// Minutes since midnight, 0 to 1440.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MinuteOfDay(u16);

/// The zones are compiled in: a decision must not depend on the files of the machine it is made on.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The zone of an IANA name.
pub(crate) fn timezone(node: &Node, path: &str, report: &mut Report) -> Option<TimeZone> {
    let name = node.text()?;
    match ZONES.get(name) {
        Ok(zone) if !zone.is_unknown() => Some(zone),
        _ => {
            let message = format!("{} is not an IANA time zone", quoted(name));
            report.error(
                Diagnostic::new(DiagnosticCode::UnknownTimezone, path, node.place, message)
                    .with_help("write a name such as `UTC`, `Europe/Berlin` or `America/New_York`"),
            );
            None
        }
    }
}

// === impl ActiveHours ===

impl ActiveHours {
    /// Compiles the section `schedule`. `None` when it restricts nothing or has errors.
    pub(crate) fn compile(section: &Node, path: &str, report: &mut Report) -> Option<Self> {
        let member = section.member("active_hours")?;
        let path = member_path(path, "active_hours");
        let hours = &member.node;
        let mut field = |key: &str| {
            let member = hours.member(key)?;
            let path = member_path(&path, key);
            let node = &member.node;
            match MinuteOfDay::parse(node.text()?, key == "end") {
                Some(minute) => Some((minute, node, path)),
                None => {
                    report.error(invalid_time(node, &path));
                    None
                }
            }
        };
        let start = field("start");
        let end = field("end");
        let zone = hours
            .member("timezone")
            .and_then(|member| timezone(&member.node, &member_path(&path, "timezone"), report));
        let ((start, ..), (end, end_node, end_path)) = (start?, end?);
        if end <= start {
            let message = format!("`end` ({end}) must be later than `start` ({start})");
            report.error(
                Diagnostic::new(DiagnosticCode::EmptyWindow, end_path, end_node.place, message)
                    .with_help("a window does not cross midnight; the end of the day is `24:00`"),
            );
            return None;
        }
        Some(Self { site: Site::new(&path, member.place), start, end, timezone: zone? })
    }

    /// Whether the wall clock of the zone is in the window.
    pub(crate) fn contains(&self, now: Timestamp) -> bool {
        let minute = self.minute(now);
        self.start <= minute && minute < self.end
    }

    /// `10:30 is outside 09:00 to 18:00 (America/New_York)`.
    pub(crate) fn sentence(&self, now: Timestamp) -> String {
        format!(
            "{} is outside the active hours {} to {} ({})",
            self.minute(now),
            self.start,
            self.end,
            self.timezone.iana_name().unwrap_or("UTC"),
        )
    }

    fn minute(&self, now: Timestamp) -> MinuteOfDay {
        let local = self.timezone.to_datetime(now.to_jiff());
        MinuteOfDay(local.hour().unsigned_abs() as u16 * 60 + local.minute().unsigned_abs() as u16)
    }
}

fn invalid_time(node: &Node, path: &str) -> Diagnostic {
    let text = node.text().unwrap_or_default();
    let message = format!("{} is not a time of day as HH:MM", quoted(text));
    let help =
        "write two digits each, 00:00 to 23:59, such as \"09:00\"; `24:00` is taken as an end";
    Diagnostic::new(DiagnosticCode::InvalidTime, path, node.place, message).with_help(help)
}

// === impl MinuteOfDay ===

impl MinuteOfDay {
    fn parse(text: &str, is_end: bool) -> Option<Self> {
        let [h1, h2, b':', m1, m2] = *text.as_bytes() else { return None };
        let digits = [h1, h2, m1, m2];
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let [h1, h2, m1, m2] = digits.map(|digit| u16::from(digit - b'0'));
        let (hour, minute) = (h1 * 10 + h2, m1 * 10 + m2);
        let in_day = hour < 24 && minute < 60;
        let at_its_end = is_end && hour == 24 && minute == 0;
        (in_day || at_its_end).then_some(Self(hour * 60 + minute))
    }
}

impl std::fmt::Display for MinuteOfDay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}
