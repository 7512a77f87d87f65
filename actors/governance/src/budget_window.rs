//! The actor of a budget window: the only writer of what is spent in it.

mod load;
mod remote;

use std::{sync::Arc, time::Duration};

use aa_budget::{Amount, Limits, Refused, Reservation, ReservationId, Span, Standing, Window};
use aa_ledger::{Draft, Kind};
use aa_protocol::{NanoUsd, Timestamp};
use aa_runtime::{Entity, Flow, LiveShard, LoadError, Record, Reply};
use aa_store::Subspace;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    budget_book::{DEFAULT_ALERTS, OnExceeded},
    chain::Chain,
    keys,
    policy_board::PolicyCell,
    services::Services,
    spender::{Spender, WindowId},
    stored,
};

/// What a window is asked.
#[derive(Debug)]
pub enum WindowMessage {
    /// Sets amounts aside for calls. Answered for each of them, once what was set aside is durable.
    Reserve(Vec<Ask>, Reply<Vec<Asked>>),
    /// Ends reservations. Answered once that is durable; one that is not open was ended before.
    Settle(Vec<(ReservationId, Settlement)>, Reply<()>),
    /// Tells where it stands, under the limits of the moment.
    Read(Reply<WindowStatus>),
}

/// A wish to spend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Which call.
    pub id: ReservationId,
    /// The most it can cost.
    pub amount: Amount,
    /// The limits of an agent's own window, which its policies set; those of a shared window are its budget's.
    pub limits: Limits,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Which call.
    pub id: ReservationId,
    /// Whether the amount is set aside now.
    pub outcome: Result<Reservation, Refused>,
    /// Where the window stood without the call.
    pub standing: Standing,
    /// Whether a budget refuses here, or only tells people.
    pub enforced: bool,
}

/// How a reservation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    /// The call did cost this.
    Post(Amount),
    /// The call did not happen, or was not charged.
    Void,
}

/// A window as operators see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WindowStatus {
    /// The present span.
    pub span: Span,
    /// The limits of the moment.
    pub limits: Limits,
}

/// What the store holds of a window, apart from its open reservations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// The present span and those with open reservations, the earliest first.
    pub spans: Vec<Span>,
    /// The limits of the latest reservation.
    pub limits: Limits,
    /// What was ever posted, in all spans.
    pub total: Amount,
}

/// The actor.
pub struct BudgetWindowActor {
    id: WindowId,
    shard: Arc<LiveShard>,
    services: Arc<Services>,
    chain: Chain,
    record_key: Bytes,
    /// The keys of its reservations.
    reservations: Subspace,
    window: Window,
    /// The limits of the latest reservation.
    limits: Limits,
    policies: Arc<PolicyCell>,
}

/// How long a call may take: what is set aside for it is posted in full unless it was settled by then.
pub const RESERVED_FOR: Duration = Duration::from_secs(3_600);

/// What the rules of the moment say of a window.
struct Terms {
    limits: Limits,
    enforced: bool,
    alert_at: Vec<u64>,
}

// === impl BudgetWindowActor ===

impl Entity for BudgetWindowActor {
    type Id = WindowId;
    type Message = WindowMessage;
    type Context = Arc<Services>;

    const KIND: &'static str = "budget_window";

    fn shard_key(id: &WindowId) -> Vec<u8> {
        let spender = match &id.spender {
            Spender::Agent(agent) => agent.as_uuid().as_bytes().as_slice(),
            Spender::Team(team) => team.as_bytes(),
            Spender::Workspace => &[],
        };
        let period = [id.period as u8];
        [id.workspace.as_uuid().as_bytes().as_slice(), &period, id.zone.as_bytes(), spender]
            .concat()
    }

    async fn load(
        id: WindowId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, LoadError> {
        let loaded = Self::read(id.clone(), shard, services).await;
        loaded.map_err(|error| LoadError::new::<Self>(&id, error))
    }

    async fn handle(&mut self, message: WindowMessage) -> Flow {
        let now = self.services.clock.now();
        self.expire(now);
        match message {
            WindowMessage::Reserve(asks, reply) => self.reserve(&asks, now, reply),
            WindowMessage::Settle(settlements, reply) => self.settle(&settlements, now, reply),
            WindowMessage::Read(reply) => {
                let limits = self.terms(self.limits).limits;
                let status = WindowStatus { span: *self.window.current(), limits };
                self.shard.journal.answer_after(reply, status);
            }
        }
        Flow::Continue
    }
}

impl BudgetWindowActor {
    fn reserve(&mut self, asks: &[Ask], now: Timestamp, reply: Reply<Vec<Asked>>) {
        let expires_at = now.saturating_add(RESERVED_FOR);
        let mut writes = Vec::with_capacity(asks.len() + 1);
        let mut answers = Vec::with_capacity(asks.len());
        let refused = self.window.current().refused;
        for ask in asks {
            let terms = self.terms(ask.limits);
            let is_new = self.window.reservation(ask.id).is_none();
            let mut standing = self.window.standing(terms.limits);
            if let Some(held) = self.window.reservation(ask.id)
                && held.span == self.window.current().start
            {
                standing.reserved = standing.reserved.saturating_sub(held.amount);
            }
            let holding = if terms.enforced { terms.limits } else { Limits::default() };
            let outcome = self.window.reserve(ask.id, ask.amount, &holding, expires_at);
            if let Ok(reservation) = &outcome
                && is_new
            {
                self.limits = terms.limits;
                let key = keys::reservation(&self.reservations, ask.id);
                writes.push((key, stored::encode(reservation)));
            }
            answers.push(Asked { id: ask.id, outcome, standing, enforced: terms.enforced });
        }
        if writes.is_empty() {
            // What it was refused for may still be on its way to the disk.
            self.shard.journal.answer_after(reply, answers);
        } else {
            writes.push(self.record());
            let done = reply.map(|()| answers);
            self.append(Record::of_state(writes, done));
        }
        if refused == 0 && self.window.current().refused > 0 {
            self.tell(&[("change", "refused")], now);
        }
    }

    fn settle(
        &mut self,
        settlements: &[(ReservationId, Settlement)],
        now: Timestamp,
        reply: Reply<()>,
    ) {
        let mut removes = Vec::with_capacity(settlements.len());
        for (id, settlement) in settlements {
            let ended = match settlement {
                Settlement::Post(actual) => self.window.post(*id, *actual).is_some(),
                Settlement::Void => self.window.void(*id).is_some(),
            };
            if ended {
                removes.push(keys::reservation(&self.reservations, *id));
            }
        }
        if removes.is_empty() {
            self.shard.journal.answer_after(reply, ());
            return;
        }
        let writes = vec![self.record()];
        self.append(Record { entry: None, writes, removes, news: Vec::new(), done: reply });
        self.alert(now);
    }

    /// Posts what nobody settled: an entry for each, in the commit that posts it.
    fn expire(&mut self, now: Timestamp) {
        self.window.advance(now);
        // INVARIANT: what is appended for one is the state as of that one, so that every committed state adds up.
        while let Some((id, posted)) = self.window.expire(now) {
            let (agent, action) = (id.agent.to_string(), id.action.to_string());
            let amount = posted.amount.cost().0.to_string();
            let tokens = posted.amount.tokens().to_string();
            let detail = [
                ("action", action.as_str()),
                ("agent", &agent),
                ("change", "expired"),
                ("posted_nano_usd", &amount),
                ("posted_tokens", &tokens),
            ];
            let entry = self.entry(&detail, now);
            let removes = vec![keys::reservation(&self.reservations, id)];
            let writes = vec![self.record()];
            self.append(Record {
                entry: Some(entry),
                writes,
                removes,
                news: Vec::new(),
                done: Reply::ignored(),
            });
        }
        self.alert(now);
    }

    /// Tells of the threshold that spending has reached, once.
    fn alert(&mut self, now: Timestamp) {
        let Terms { limits, alert_at, .. } = self.terms(self.limits);
        if let Some(percent) = self.window.alert(&limits, &alert_at) {
            let percent = percent.to_string();
            self.tell(&[("change", "threshold"), ("percent", &percent)], now);
        }
    }

    fn tell(&mut self, detail: &[(&str, &str)], now: Timestamp) {
        let entry = self.entry(detail, now);
        let writes = vec![self.record()];
        self.append(Record::of_entry(entry, writes, Reply::ignored()));
    }

    fn entry(&mut self, detail: &[(&str, &str)], now: Timestamp) -> aa_runtime::journal::LogEntry {
        let span = *self.window.current();
        let WindowId { workspace, spender, period, zone } = &self.id;
        let nanos = |money: NanoUsd| money.0.to_string();
        let (spender, resets_at) = (spender.to_string(), span.end.to_string());
        let (spent, reserved) = (nanos(span.posted.cost()), nanos(span.reserved.cost()));
        let (tokens, held) = (span.posted.tokens().to_string(), span.reserved.tokens().to_string());
        let limit = self.limits.cost.map(nanos);
        let limit_tokens = self.limits.tokens.map(|tokens| tokens.to_string());
        let mut all = vec![
            ("spender", spender.as_str()),
            ("window", period.as_str()),
            ("zone", zone),
            ("resets_at", &resets_at),
            ("spent_nano_usd", &spent),
            ("reserved_nano_usd", &reserved),
            ("spent_tokens", &tokens),
            ("reserved_tokens", &held),
        ];
        all.extend(limit.as_deref().map(|limit| ("limit_nano_usd", limit)));
        all.extend(limit_tokens.as_deref().map(|limit| ("limit_tokens", limit)));
        all.extend_from_slice(detail);
        let event = self.services.entropy.event_id(now);
        let draft = Draft {
            detail: &all,
            ..Draft::new(event, *workspace, self.id.stream(), now, Kind::Budget)
        };
        self.chain.seal(&draft, &self.services.mac_key())
    }

    /// What the rules of the moment say. An agent's own window has the limits it is asked under, a shared one those of
    /// its budget; one whose budget is gone limits nothing.
    fn terms(&self, asked: Limits) -> Terms {
        if let Spender::Agent(_) = self.id.spender {
            return Terms { limits: asked, enforced: true, alert_at: DEFAULT_ALERTS.to_vec() };
        }
        let snapshot = self.policies.load();
        match snapshot.budgets.get(&self.id.spender, self.id.period) {
            Some(budget) => Terms {
                limits: budget.limits,
                enforced: budget.action == OnExceeded::Deny,
                alert_at: budget.alert_at.clone(),
            },
            None => Terms { limits: Limits::default(), enforced: false, alert_at: Vec::new() },
        }
    }

    fn record(&self) -> (Bytes, Bytes) {
        let spans = self.window.spans().copied().collect();
        let record = WindowRecord { spans, limits: self.limits, total: self.window.total() };
        (self.record_key.clone(), stored::encode(&record))
    }

    fn append(&mut self, record: Record) {
        self.chain.commit(&self.shard, record);
    }
}
