//! The laws of a window, over arbitrary sequences of calls, settlements, silence and changes of the limit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::HashMap, time::Duration};

use aa_budget::{
    Amount, Calendar, Limits, Period, Posted, Refused, Reservation, ReservationId, Window,
};
use aa_protocol::{ActionId, AgentId, NanoUsd, Timestamp};
use jiff::tz::TimeZone;
use proptest::prelude::*;

const START: Timestamp = Timestamp::from_micros(1_793_000_000_000_000);

#[derive(Clone, Debug)]
enum Step {
    Reserve { call: u8, cost: i64, tokens: u64, seconds: u64 },
    Post { call: u8, cost: i64, tokens: u64 },
    Void { call: u8 },
    Wait { seconds: u64 },
    ClockBack { seconds: u64 },
    Limit { cost: Option<i64>, tokens: Option<u64> },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<u8>(), 0_i64..40, 0_u64..40, 1_u64..8_000)
            .prop_map(|(call, cost, tokens, seconds)| Step::Reserve { call, cost, tokens, seconds }),
        4 => (any::<u8>(), 0_i64..60, 0_u64..60)
            .prop_map(|(call, cost, tokens)| Step::Post { call, cost, tokens }),
        2 => any::<u8>().prop_map(|call| Step::Void { call }),
        3 => (0_u64..5_000).prop_map(|seconds| Step::Wait { seconds }),
        1 => (0_u64..5_000).prop_map(|seconds| Step::ClockBack { seconds }),
        1 => (proptest::option::of(0_i64..200), proptest::option::of(0_u64..200))
            .prop_map(|(cost, tokens)| Step::Limit { cost, tokens }),
        1 => Just(Step::Restart),
    ]
}

fn id(call: u8) -> ReservationId {
    ReservationId {
        agent: AgentId::of_name("ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap(), "a"),
        action: ActionId::from_bytes([call; 16]),
    }
}

fn amount(cost: i64, tokens: u64) -> Amount {
    Amount::new(NanoUsd(cost), tokens).unwrap()
}

/// Where the money went, told by nothing but what the window answered.
#[derive(Default)]
struct Book {
    open: HashMap<ReservationId, Reservation>,
    reserved: i64,
    given_back: i64,
    settled: i64,
}

impl Book {
    fn expired(&mut self, expired: impl Iterator<Item = (ReservationId, Posted)>) {
        for (id, posted) in expired {
            let held = self.open.remove(&id).expect("what expires was open");
            assert_eq!((posted.reservation, posted.amount), (held, held.amount));
            self.settled += held.amount.cost().0;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_overspent_and_every_reservation_ends_exactly_once(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let calendar = Calendar::utc(Period::Hourly);
        let mut now = START;
        let mut window = Window::new(calendar.clone(), now);
        let mut limits = Limits { cost: Some(NanoUsd(100)), tokens: Some(100) };
        let mut book = Book::default();
        for step in steps {
            window.advance(now);
            book.expired(std::iter::from_fn(|| window.expire(now)));
            match step {
                Step::Reserve { call, cost, tokens, seconds } => {
                    let wanted = amount(cost, tokens);
                    let expires = now.saturating_add(Duration::from_secs(seconds));
                    let before = *window.current();
                    match window.reserve(id(call), wanted, &limits, expires) {
                        Ok(held) if book.open.contains_key(&id(call)) => {
                            prop_assert_eq!(held, book.open[&id(call)], "a repeat changes nothing");
                            prop_assert_eq!(*window.current(), before);
                        }
                        Ok(held) => {
                            prop_assert_eq!(held.amount, wanted);
                            let used = before.posted.saturating_add(before.reserved);
                            prop_assert!(limits.admit(used, wanted));
                            book.reserved += cost;
                            book.open.insert(id(call), held);
                        }
                        Err(refused) => {
                            prop_assert_eq!(refused, Refused::OverLimit);
                            let used = before.posted.saturating_add(before.reserved);
                            prop_assert!(!limits.admit(used, wanted), "refused without need");
                            prop_assert_eq!(window.current().reserved, before.reserved);
                        }
                    }
                }
                Step::Post { call, cost, tokens } => {
                    let posted = window.post(id(call), amount(cost, tokens));
                    let held = book.open.remove(&id(call));
                    prop_assert_eq!(posted.map(|posted| posted.reservation), held);
                    book.settled += held.map_or(0, |held| held.amount.cost().0);
                    prop_assert_eq!(window.post(id(call), amount(1, 1)), None, "once only");
                }
                Step::Void { call } => {
                    let held = book.open.remove(&id(call));
                    prop_assert_eq!(window.void(id(call)), held);
                    book.given_back += held.map_or(0, |held| held.amount.cost().0);
                }
                Step::Wait { seconds } => now = now.saturating_add(Duration::from_secs(seconds)),
                Step::ClockBack { seconds } => now = now.saturating_sub(Duration::from_secs(seconds)),
                Step::Limit { cost, tokens } => limits = Limits { cost: cost.map(NanoUsd), tokens },
                Step::Restart => {
                    let spans = window.spans().copied().collect();
                    let open = book.open.iter().map(|(id, held)| (*id, *held)).collect();
                    window = Window::restore(calendar.clone(), spans, open, window.total(), now).unwrap();
                }
            }
            let reserved: i64 = window.spans().map(|span| span.reserved.cost().0).sum();
            let held: i64 = book.open.values().map(|held| held.amount.cost().0).sum();
            prop_assert_eq!(reserved, held);
            prop_assert_eq!(book.reserved, book.settled + book.given_back + held, "money is conserved");
        }
    }

    #[test]
    fn under_one_limit_what_was_reserved_never_passes_it(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let limits = Limits { cost: Some(NanoUsd(100)), tokens: Some(70) };
        let mut now = START;
        let mut window = Window::new(Calendar::utc(Period::Daily), now);
        for step in steps {
            window.advance(now);
            while window.expire(now).is_some() {}
            match step {
                Step::Reserve { call, cost, tokens, seconds } => {
                    let expires = now.saturating_add(Duration::from_secs(seconds));
                    let _ = window.reserve(id(call), amount(cost, tokens), &limits, expires);
                }
                Step::Post { call, cost, tokens } => {
                    window.post(id(call), amount(cost, tokens));
                }
                Step::Void { call } => {
                    window.void(id(call));
                }
                Step::Wait { seconds } => now = now.saturating_add(Duration::from_secs(seconds)),
                _ => {}
            }
            for span in window.spans() {
                let within = span.posted.saturating_sub(span.overrun).saturating_add(span.reserved);
                prop_assert!(within.cost() <= NanoUsd(100) && within.tokens() <= 70, "{span:?}");
            }
        }
    }

    #[test]
    fn windows_of_a_calendar_follow_each_other_without_gap_or_overlap(
        seconds in 0_i64..4_000_000_000,
        period in proptest::sample::select(Period::ALL.to_vec()),
        zone in proptest::sample::select(vec![
            "UTC", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Beirut",
            "Pacific/Apia", "Africa/Casablanca", "Asia/Kathmandu",
        ]),
    ) {
        let calendar = Calendar::new(period, TimeZone::get(zone).unwrap());
        let now = Timestamp::from_micros(seconds * 1_000_000);
        let (start, end) = calendar.around(now);
        prop_assert!(start <= now && now < end, "{start} {now} {end}");
        prop_assert_eq!(calendar.around(start), (start, end));
        let last = Timestamp::from_micros(end.as_micros() - 1);
        prop_assert_eq!(calendar.around(last), (start, end));
        prop_assert_eq!(calendar.around(end).0, end);
    }
}
