//! What a spender and its operator can rely on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use aa_budget::{
    Amount, Calendar, Inconsistent, Limits, OutOfRange, Period, Refused, ReservationId, Window,
};
use aa_protocol::{ActionId, AgentId, NanoUsd, Timestamp};
use jiff::tz::TimeZone;

const HOUR: Duration = Duration::from_secs(3_600);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn call(number: u8) -> ReservationId {
    let workspace = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
    ReservationId {
        agent: AgentId::of_name(workspace, "a"),
        action: ActionId::from_bytes([number; 16]),
    }
}

fn usd(dollars: f64) -> Amount {
    Amount::new(NanoUsd::from_usd(dollars).unwrap(), 0).unwrap()
}

fn limit(dollars: f64) -> Limits {
    Limits::of_cost(NanoUsd::from_usd(dollars).unwrap())
}

fn daily(now: Timestamp) -> Window {
    Window::new(Calendar::utc(Period::Daily), now)
}

#[test]
fn a_window_admits_to_the_last_nano_dollar_and_no_further() {
    let now = at("2026-11-23T12:00:00Z");
    let mut window = daily(now);
    let later = now.saturating_add(HOUR);
    assert!(window.reserve(call(1), usd(0.6), &limit(1.0), later).is_ok());
    let over = Amount::new(NanoUsd(400_000_001), 0).unwrap();
    assert_eq!(window.reserve(call(2), over, &limit(1.0), later), Err(Refused::OverLimit));
    assert!(window.reserve(call(2), usd(0.4), &limit(1.0), later).is_ok());
    assert_eq!(window.reserve(call(3), usd(0.1), &limit(1.0), later), Err(Refused::OverLimit));
    assert_eq!(window.current().refused, 2);
    assert!(window.reserve(call(3), Amount::ZERO, &limit(1.0), later).is_ok(), "free of charge");
}

#[test]
fn what_was_not_spent_is_there_for_the_next_call() {
    let now = at("2026-11-23T12:00:00Z");
    let mut window = daily(now);
    let later = now.saturating_add(HOUR);
    window.reserve(call(1), usd(1.0), &limit(1.0), later).unwrap();
    assert_eq!(window.reserve(call(2), usd(0.5), &limit(1.0), later), Err(Refused::OverLimit));
    window.post(call(1), usd(0.5)).unwrap();
    assert!(window.reserve(call(2), usd(0.5), &limit(1.0), later).is_ok());
    window.void(call(2)).unwrap();
    assert!(window.reserve(call(3), usd(0.5), &limit(1.0), later).is_ok());
}

#[test]
fn a_call_nobody_settles_is_posted_in_full_and_marked() {
    let now = at("2026-11-23T12:00:00Z");
    let mut window = daily(now);
    window.reserve(call(1), usd(0.7), &limit(1.0), now.saturating_add(HOUR)).unwrap();
    assert_eq!(window.expire(now.saturating_add(HOUR - Duration::from_micros(1))), None);
    let (id, posted) = window.expire(now.saturating_add(HOUR)).unwrap();
    assert_eq!((id, posted.amount), (call(1), usd(0.7)));
    assert_eq!(window.expire(now.saturating_add(HOUR)), None);
    let span = window.current();
    assert_eq!((span.posted, span.estimated, span.reserved), (usd(0.7), usd(0.7), Amount::ZERO));
    assert_eq!(
        window.post(call(1), usd(0.1)),
        None,
        "the report that comes too late changes nothing"
    );
}

#[test]
fn what_is_reserved_on_a_day_is_settled_on_that_day() {
    let evening = at("2026-11-23T23:59:00Z");
    let mut window = daily(evening);
    window.reserve(call(1), usd(1.0), &limit(1.0), evening.saturating_add(HOUR)).unwrap();
    let morning = at("2026-11-24T00:00:00Z");
    window.advance(morning);
    assert_eq!(window.current().start, morning);
    assert!(window.reserve(call(2), usd(1.0), &limit(1.0), morning.saturating_add(HOUR)).is_ok());
    assert_eq!(window.spans().count(), 2);
    window.post(call(1), usd(0.9)).unwrap();
    assert_eq!(window.spans().count(), 1, "a settled day is not kept");
    assert_eq!(window.current().posted, Amount::ZERO);
}

#[test]
fn a_clock_that_goes_back_opens_no_new_window() {
    let noon = at("2026-11-23T12:00:00Z");
    let mut window = daily(noon);
    window.reserve(call(1), usd(1.0), &limit(1.0), noon.saturating_add(HOUR)).unwrap();
    let yesterday = at("2026-11-22T12:00:00Z");
    window.advance(yesterday);
    assert_eq!(
        window.reserve(call(2), usd(1.0), &limit(1.0), yesterday.saturating_add(HOUR)),
        Err(Refused::OverLimit)
    );
}

#[test]
fn a_limit_below_what_is_spent_refuses_and_takes_nothing_back() {
    let now = at("2026-11-23T12:00:00Z");
    let mut window = daily(now);
    let later = now.saturating_add(HOUR);
    window.reserve(call(1), usd(1.0), &limit(2.0), later).unwrap();
    assert_eq!(window.reserve(call(2), usd(0.1), &limit(0.5), later), Err(Refused::OverLimit));
    window.post(call(1), usd(1.0)).unwrap();
    assert_eq!(window.current().posted, usd(1.0));
    assert_eq!(window.reserve(call(2), usd(0.1), &limit(0.5), later), Err(Refused::OverLimit));
    assert!(window.reserve(call(2), usd(0.1), &limit(1.1), later).is_ok());
}

#[test]
fn more_than_was_reserved_is_posted_and_shown_as_overrun() {
    let now = at("2026-11-23T12:00:00Z");
    let mut window = daily(now);
    let later = now.saturating_add(HOUR);
    window.reserve(call(1), usd(1.0), &limit(1.0), later).unwrap();
    window.post(call(1), usd(1.5)).unwrap();
    assert_eq!((window.current().posted, window.current().overrun), (usd(1.5), usd(0.5)));
    assert_eq!(window.reserve(call(2), usd(0.1), &limit(1.0), later), Err(Refused::OverLimit));
}

#[test]
fn tokens_are_limited_beside_money() {
    let now = at("2026-11-23T12:00:00Z");
    let mut window = daily(now);
    let later = now.saturating_add(HOUR);
    let both = Limits { cost: NanoUsd::from_usd(10.0), tokens: Some(1_000) };
    let of = |dollars, tokens| Amount::new(NanoUsd::from_usd(dollars).unwrap(), tokens).unwrap();
    assert!(window.reserve(call(1), of(1.0, 900), &both, later).is_ok());
    assert_eq!(window.reserve(call(2), of(1.0, 101), &both, later), Err(Refused::OverLimit));
    assert!(window.reserve(call(2), of(9.0, 100), &both, later).is_ok());
}

#[test]
fn thresholds_are_told_once_per_window_and_the_highest_only() {
    let now = at("2026-11-23T12:00:00Z");
    let mut window = daily(now);
    let later = now.saturating_add(HOUR);
    let marks = [50, 80, 100];
    let spend = |window: &mut Window, number, dollars| {
        window.reserve(call(number), usd(dollars), &Limits::default(), later).unwrap();
        assert_eq!(window.alert(&limit(1.0), &marks), None, "a reservation is not yet spent");
        window.post(call(number), usd(dollars)).unwrap();
        window.alert(&limit(1.0), &marks)
    };
    assert_eq!(spend(&mut window, 1, 0.49), None);
    assert_eq!(spend(&mut window, 2, 0.01), Some(50));
    assert_eq!(spend(&mut window, 3, 0.10), None);
    assert_eq!(spend(&mut window, 4, 0.50), Some(100));
    window.advance(at("2026-11-24T00:00:00Z"));
    assert_eq!(window.alert(&limit(1.0), &marks), None);
}

#[test]
fn amounts_that_cannot_be_counted_are_refused() {
    assert_eq!(Amount::new(NanoUsd(-1), 0), Err(OutOfRange(-1)));
    let now = at("2026-11-23T12:00:00Z");
    let mut window = daily(now);
    let later = now.saturating_add(HOUR);
    let most = Amount::new(NanoUsd(i64::MAX), u64::MAX).unwrap();
    assert!(window.reserve(call(1), most, &Limits::default(), later).is_ok());
    assert_eq!(
        window.reserve(call(2), usd(1.0), &Limits::default(), later),
        Err(Refused::OverLimit)
    );
    let one_token = Amount::new(NanoUsd::ZERO, 1).unwrap();
    assert_eq!(
        window.reserve(call(2), one_token, &Limits::default(), later),
        Err(Refused::OverLimit)
    );
}

#[test]
fn a_kept_window_that_does_not_add_up_is_not_trusted() {
    let now = at("2026-11-23T12:00:00Z");
    let mut window = daily(now);
    window.reserve(call(1), usd(1.0), &limit(1.0), now.saturating_add(HOUR)).unwrap();
    let spans: Vec<_> = window.spans().copied().collect();
    let calendar = Calendar::utc(Period::Daily);
    let lost = Window::restore(calendar.clone(), spans, Vec::new(), Amount::ZERO, now);
    assert!(matches!(lost, Err(Inconsistent::Sum { .. })), "{lost:?}");
    let held = (call(1), *window.reservation(call(1)).unwrap());
    let orphan = Window::restore(calendar, Vec::new(), vec![held], Amount::ZERO, now);
    assert!(matches!(orphan, Err(Inconsistent::NoSpan(_))), "{orphan:?}");
}

#[test]
fn days_of_a_zone_begin_at_its_midnight_on_the_days_that_clocks_change_too() {
    let around = |zone: &str, period, now: &str| {
        let calendar = Calendar::new(period, TimeZone::get(zone).unwrap());
        let (start, end) = calendar.around(at(now));
        (start.to_string(), end.to_string(), (end.as_micros() - start.as_micros()) / 3_600_000_000)
    };
    let day = |zone, now| around(zone, Period::Daily, now);
    assert_eq!(
        day("America/New_York", "2026-03-08T12:00:00Z"),
        ("2026-03-08T05:00:00.000000Z".into(), "2026-03-09T04:00:00.000000Z".into(), 23)
    );
    assert_eq!(
        day("America/New_York", "2026-11-01T12:00:00Z"),
        ("2026-11-01T04:00:00.000000Z".into(), "2026-11-02T05:00:00.000000Z".into(), 25)
    );
    // Beirut changes its clocks at midnight: the day begins at one.
    assert_eq!(
        day("Asia/Beirut", "2026-03-29T12:00:00Z"),
        ("2026-03-28T22:00:00.000000Z".into(), "2026-03-29T21:00:00.000000Z".into(), 23)
    );
    assert_eq!(
        around("UTC", Period::Weekly, "2026-11-22T23:59:59Z"),
        ("2026-11-16T00:00:00.000000Z".into(), "2026-11-23T00:00:00.000000Z".into(), 168)
    );
    assert_eq!(
        around("UTC", Period::Monthly, "2028-02-29T10:00:00Z"),
        ("2028-02-01T00:00:00.000000Z".into(), "2028-03-01T00:00:00.000000Z".into(), 696)
    );
}
