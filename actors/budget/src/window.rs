//! One window of spending: what is posted, what is reserved, and for which calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aa_protocol::{ActionId, AgentId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    amount::{Amount, Limits},
    calendar::Calendar,
};

/// The most reservations that are open in one window at a time: past it, calls are refused until some are settled.
pub const MAX_OPEN: usize = 100_000;

/// A window of one spender.
#[derive(Clone, Debug)]
pub struct Window {
    calendar: Calendar,
    /// By their first instants; never empty. The last one is the present, the others have open reservations.
    spans: BTreeMap<Timestamp, Span>,
    open: HashMap<ReservationId, Reservation>,
    by_expiry: BTreeSet<(Timestamp, ReservationId)>,
    /// What was ever posted, in all spans.
    total: Amount,
}

/// One turn of a window, such as one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Its first instant.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
    /// What calls did cost.
    pub posted: Amount,
    /// What is set aside for calls under way.
    pub reserved: Amount,
    /// How many calls are under way.
    pub open: u64,
    /// The part of `posted` that is the full amount of reservations which nobody settled.
    pub estimated: Amount,
    /// The part of `posted` that providers reported beyond the reservation.
    pub overrun: Amount,
    /// How many calls were refused for want of budget.
    pub refused: u64,
    /// The highest alert threshold that `posted` has reached, in per cent.
    pub alerted: u64,
}

/// Which call an amount is reserved for: action ids are unique per agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReservationId {
    /// The agent that calls.
    pub agent: AgentId,
    /// The call.
    pub action: ActionId,
}

/// An amount set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// The first instant of the span it belongs to.
    pub span: Timestamp,
    /// How much.
    pub amount: Amount,
    /// When it is posted in full unless it was settled.
    pub expires_at: Timestamp,
}

/// A window as its spender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What calls did cost.
    pub posted: Amount,
    /// What is set aside for calls under way.
    pub reserved: Amount,
    /// The limits of the moment.
    pub limits: Limits,
    /// When the window starts anew.
    pub resets_at: Timestamp,
}

/// How a reservation was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posted {
    /// What had been reserved.
    pub reservation: Reservation,
    /// What was posted in its place.
    pub amount: Amount,
}

/// Why an amount was not reserved. Nothing changed but the count of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// It does not fit the limits any more.
    #[error("the budget does not hold it")]
    OverLimit,
    /// Too many calls are under way.
    #[error("{MAX_OPEN} calls are under way in this window; settle some first")]
    TooManyOpen,
}

/// What a store holds of a window does not add up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// A reservation belongs to no span.
    #[error("a reservation belongs to the span of {0}, which is not there")]
    NoSpan(Timestamp),
    /// The reservations of a span are not what it says is reserved.
    #[error("the span of {start} says {said:?} is reserved; its reservations are {found:?}")]
    Sum {
        /// The span.
        start: Timestamp,
        /// What it says, and in how many reservations.
        said: (Amount, u64),
        /// What its reservations add up to, and how many there are.
        found: (Amount, u64),
    },
}

// === impl Window ===

impl Window {
    /// A window in which nothing was spent.
    pub fn new(calendar: Calendar, now: Timestamp) -> Self {
        let span = Span::around(&calendar, now);
        Self {
            calendar,
            spans: BTreeMap::from([(span.start, span)]),
            open: HashMap::new(),
            by_expiry: BTreeSet::new(),
            total: Amount::ZERO,
        }
    }

    /// A window as it was kept: its spans, its open reservations and its total.
    ///
    /// # Errors
    /// [`Inconsistent`] when they do not belong together.
    pub fn restore(
        calendar: Calendar,
        spans: Vec<Span>,
        open: Vec<(ReservationId, Reservation)>,
        total: Amount,
        now: Timestamp,
    ) -> Result<Self, Inconsistent> {
        if spans.is_empty() && open.is_empty() {
            return Ok(Self { total, ..Self::new(calendar, now) });
        }
        let spans: BTreeMap<_, _> = spans.into_iter().map(|span| (span.start, span)).collect();
        let mut sums: BTreeMap<Timestamp, (Amount, u64)> = BTreeMap::new();
        for (_, reservation) in &open {
            let (sum, count) = sums.entry(reservation.span).or_default();
            *sum = sum.saturating_add(reservation.amount);
            *count += 1;
        }
        if let Some(lost) = sums.keys().find(|start| !spans.contains_key(start)) {
            return Err(Inconsistent::NoSpan(*lost));
        }
        for span in spans.values() {
            let found = sums.get(&span.start).copied().unwrap_or_default();
            let said = (span.reserved, span.open);
            if found != said {
                return Err(Inconsistent::Sum { start: span.start, said, found });
            }
        }
        let by_expiry = open.iter().map(|(id, held)| (held.expires_at, *id)).collect();
        Ok(Self { calendar, spans, open: open.into_iter().collect(), by_expiry, total })
    }

    /// Starts the span of `now` if it has begun. To be called before anything else is done at `now`.
    ///
    /// A clock that goes back changes nothing: the span that has begun goes on.
    pub fn advance(&mut self, now: Timestamp) {
        if self.current().end <= now {
            let span = Span::around(&self.calendar, now);
            // A zone whose rules changed may put the new span's start before the present one's.
            let before = *self.current();
            if span.start > before.start {
                self.spans.insert(span.start, span);
                self.forget_if_settled(before.start);
            }
        }
    }

    /// Posts one reservation that has expired, in full; `None` when there is none. To be called until there is none,
    /// before anything else is done at `now`: one at a time, so that each can be kept together with the state it
    /// leads to.
    pub fn expire(&mut self, now: Timestamp) -> Option<(ReservationId, Posted)> {
        let (_, id) = self.by_expiry.first().copied().filter(|(at, _)| *at <= now)?;
        let posted = self.settle(id, |span, reservation| {
            span.estimated = span.estimated.saturating_add(reservation.amount);
            reservation.amount
        })?;
        Some((id, posted))
    }

    /// Sets `amount` aside until `expires_at`, if the limits hold it: posted and reserved and the amount together. A
    /// call that has a reservation keeps that one, whatever the limits are now.
    ///
    /// # Errors
    /// [`Refused`] when it does not fit.
    pub fn reserve(
        &mut self,
        id: ReservationId,
        amount: Amount,
        limits: &Limits,
        expires_at: Timestamp,
    ) -> Result<Reservation, Refused> {
        if let Some(known) = self.open.get(&id) {
            return Ok(*known);
        }
        let is_full = self.open.len() >= MAX_OPEN;
        let span = self.current_mut();
        let used = span.posted.checked_add(span.reserved);
        let fits = used.is_some_and(|used| {
            // Even without a limit, what cannot be counted cannot be spent.
            limits.admit(used, amount) && used.checked_add(amount).is_some()
        });
        if !fits || is_full {
            span.refused = span.refused.saturating_add(1);
            return Err(if fits { Refused::TooManyOpen } else { Refused::OverLimit });
        }
        span.reserved = span.reserved.saturating_add(amount);
        span.open += 1;
        let reservation = Reservation { span: span.start, amount, expires_at };
        self.open.insert(id, reservation);
        self.by_expiry.insert((expires_at, id));
        Ok(reservation)
    }

    /// Replaces a reservation by what the call did cost, in the span in which it was reserved. `None` when nothing is
    /// reserved for it: it was settled before, or never reserved.
    ///
    /// What was spent is spent: an amount above the reservation is posted too, and counted as overrun.
    pub fn post(&mut self, id: ReservationId, actual: Amount) -> Option<Posted> {
        self.settle(id, |span, reservation| {
            let over = actual.saturating_sub(reservation.amount);
            span.overrun = span.overrun.saturating_add(over);
            actual
        })
    }

    /// Gives a reservation back: the call did not happen, or was not charged. `None` when there is none.
    pub fn void(&mut self, id: ReservationId) -> Option<Reservation> {
        let voided = self.settle(id, |_, _| Amount::ZERO);
        voided.map(|posted| posted.reservation)
    }

    /// The highest of the thresholds, in per cent of the limits, that spending has reached in the present span and
    /// that was not returned before.
    pub fn alert(&mut self, limits: &Limits, thresholds: &[u64]) -> Option<u64> {
        let span = self.current_mut();
        let percent = limits.percent(span.posted);
        let reached = thresholds.iter().copied().filter(|mark| *mark <= percent).max()?;
        let is_new = reached > span.alerted;
        span.alerted = span.alerted.max(reached);
        is_new.then_some(reached)
    }

    /// The present span.
    pub fn current(&self) -> &Span {
        // INVARIANT: there is at least one span, since none but an earlier one is ever removed.
        self.spans.last_key_value().map(|(_, span)| span).expect("a window has a span")
    }

    /// The present span and those with open reservations, the earliest first.
    pub fn spans(&self) -> impl Iterator<Item = &Span> {
        self.spans.values()
    }

    /// What is reserved for a call.
    pub fn reservation(&self, id: ReservationId) -> Option<&Reservation> {
        self.open.get(&id)
    }

    /// What was ever posted, in all spans together; stays at the end of its range once it is reached.
    pub const fn total(&self) -> Amount {
        self.total
    }

    /// How many reservations are open.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Where the present span stands under `limits`.
    pub fn standing(&self, limits: Limits) -> Standing {
        let span = self.current();
        let Span { posted, reserved, end, .. } = *span;
        Standing { posted, reserved, limits, resets_at: end }
    }

    fn current_mut(&mut self) -> &mut Span {
        let last = self.spans.last_entry().expect("a window has a span");
        last.into_mut()
    }

    /// The one way a reservation ends.
    fn settle(
        &mut self,
        id: ReservationId,
        amount: impl FnOnce(&mut Span, &Reservation) -> Amount,
    ) -> Option<Posted> {
        let reservation = self.open.remove(&id)?;
        self.by_expiry.remove(&(reservation.expires_at, id));
        // INVARIANT: a span stays as long as a reservation belongs to it.
        let span = self.spans.get_mut(&reservation.span).expect("its span is there");
        span.reserved = span.reserved.saturating_sub(reservation.amount);
        span.open -= 1;
        let amount = amount(span, &reservation);
        span.posted = span.posted.saturating_add(amount);
        self.total = self.total.saturating_add(amount);
        self.forget_if_settled(reservation.span);
        Some(Posted { reservation, amount })
    }

    /// An earlier span is of no use once all of it is settled.
    fn forget_if_settled(&mut self, start: Timestamp) {
        let is_settled = self.spans.get(&start).is_some_and(|span| span.open == 0);
        if is_settled && start != self.current().start {
            self.spans.remove(&start);
        }
    }
}

// === impl Span ===

impl Span {
    fn around(calendar: &Calendar, now: Timestamp) -> Self {
        let (start, end) = calendar.around(now);
        Self {
            start,
            end,
            posted: Amount::ZERO,
            reserved: Amount::ZERO,
            open: 0,
            estimated: Amount::ZERO,
            overrun: Amount::ZERO,
            refused: 0,
            alerted: 0,
        }
    }
}
