//! `budget`: what one agent may spend per calendar day and month.

use aa_budget::Calendar;
use aa_protocol::{NanoUsd, Timestamp};
use jiff::tz::TimeZone;

use crate::{
    diagnostic::{Diagnostic, DiagnosticCode, Report},
    facts::{Spend, Spent},
    policy::Site,
    schedule::timezone,
    tree::{Node, Value, member_path},
};

/// The spend cap of one document.
#[derive(Debug)]
pub struct Budget {
    daily: Option<(NanoUsd, Site)>,
    monthly: Option<(NanoUsd, Site)>,
    timezone: TimeZone,
    action: ActionOnExceed,
}

/// What happens when a limit would be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionOnExceed {
    /// Actions that would spend are refused; others still pass.
    Deny,
    /// Every action is refused until the window resets.
    Suspend,
}

/// A window of spending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// The calendar day of the budget's zone.
    Day,
    /// The calendar month of the budget's zone.
    Month,
}

/// A limit that refuses an action.
pub(crate) struct Exceeded<'b> {
    pub(crate) period: Period,
    pub(crate) limit: NanoUsd,
    pub(crate) spent: Spent,
    pub(crate) site: &'b Site,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn compile(section: &Node, path: &str, report: &mut Report) -> Option<Self> {
        let limit = |key: &str| {
            let member = section.member(key)?;
            let usd = match member.node.value {
                Value::Integer(value) => value as f64,
                Value::Float(value) => value,
                _ => return None,
            };
            let site = Site::new(&member_path(path, key), member.place);
            NanoUsd::from_usd(usd).filter(|limit| limit.0 > 0).map(|limit| (limit, site))
        };
        let daily = limit("daily_limit_usd");
        let monthly = limit("monthly_limit_usd");
        if let (Some((day, _)), Some((month, site))) = (&daily, &monthly)
            && month < day
        {
            let message = format!("the monthly limit {month} is below the daily limit {day}");
            report.error(Diagnostic::new(
                DiagnosticCode::LimitsInverted,
                &*site.path,
                site.place(),
                message,
            ));
        }
        let zone = match section.member("timezone") {
            Some(member) => timezone(&member.node, &member_path(path, "timezone"), report)?,
            None => TimeZone::UTC,
        };
        let action = match section.member("action_on_exceed").and_then(|member| member.node.text())
        {
            Some("suspend") => ActionOnExceed::Suspend,
            _ => ActionOnExceed::Deny,
        };
        Some(Self { daily, monthly, timezone: zone, action })
    }

    /// The most an agent may spend in a window, if it is limited.
    pub fn limit(&self, period: Period) -> Option<NanoUsd> {
        self.part(period).as_ref().map(|(limit, _)| *limit)
    }

    /// What happens when a limit would be passed.
    pub const fn action(&self) -> ActionOnExceed {
        self.action
    }

    /// The windows of a limit.
    pub fn calendar(&self, period: Period) -> Calendar {
        let repeats = match period {
            Period::Day => aa_budget::Period::Daily,
            Period::Month => aa_budget::Period::Monthly,
        };
        Calendar::new(repeats, self.timezone.clone())
    }

    /// The window around `now`: its first instant and the first instant after it.
    pub fn window(&self, period: Period, now: Timestamp) -> (Timestamp, Timestamp) {
        self.calendar(period).around(now)
    }

    /// The entry of the limit that a call without a known price cannot be held against, if there is one.
    pub(crate) fn first_limit(&self) -> Option<&Site> {
        self.daily.as_ref().or(self.monthly.as_ref()).map(|(_, site)| site)
    }

    /// Every limit that refuses an action of this cost.
    pub(crate) fn exceeded(
        &self,
        spend: Spend,
        cost: NanoUsd,
    ) -> impl Iterator<Item = Exceeded<'_>> {
        [Period::Day, Period::Month].into_iter().filter_map(move |period| {
            let (limit, site) = self.part(period).as_ref()?;
            let spent = spend.of(period);
            let total = spent.total();
            let passes = cost.0 > 0 && total.checked_add(cost).is_none_or(|total| total > *limit);
            let suspended = self.action == ActionOnExceed::Suspend
                && (total >= *limit || spend.suspended == Some(period));
            (passes || suspended).then_some(Exceeded { period, limit: *limit, spent, site })
        })
    }

    fn part(&self, period: Period) -> &Option<(NanoUsd, Site)> {
        match period {
            Period::Day => &self.daily,
            Period::Month => &self.monthly,
        }
    }
}

// === impl Period ===

impl Period {
    /// `daily` or `monthly`.
    pub const fn as_adjective(self) -> &'static str {
        match self {
            Self::Day => "daily",
            Self::Month => "monthly",
        }
    }
}
