//! How an agent pays for its calls of models.
//!
//! A call that costs something waits here until every window it is paid in has set aside the most it can cost, is
//! then decided with what the windows answered, and is let go. Its result waits until every window has posted what
//! the call did cost. Nothing waits on a thread: the windows' answers are messages to the agent.
//!
//! What a crash leaves behind is safe in either order: what is reserved without a decision is found again by the
//! client's repeat, under the same action id, and posted in full if it never comes; what is posted without the
//! result's entry is not posted twice.

use std::{collections::HashMap, sync::Arc};

use aa_budget::{Amount, ReservationId, Standing};
use aa_policy::{AgentPolicies, BudgetFacts, Cost, Judgement, Period, SharedBudget, Spend, Spent};
use aa_pricing::{DEFAULT_MAX_OUTPUT_TOKENS, Family, ModelPrice, Priced, PricedBy, estimate};
use aa_protocol::{
    Action, ActionId, AgentFacts, ApprovalId, CallEnd, Decision, NanoUsd, ReasonCode, Timestamp,
    Usage, Verdict, WorkspaceId,
};
use aa_runtime::{Fault, Reply};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    AgentActor, Answer, Check, NotRegistered,
    view::{MeteredWindow, own_window},
};
use crate::{
    agent_record::BudgetSuspension,
    approval::Claimed,
    approval_record::ApprovalRecord,
    budget_window::{Ask, Asked, RESERVED_FOR, Settlement, WindowMessage},
    keys,
    prices::Prices,
    spender::{Spender, WindowId},
    stored,
};

/// What an agent has under way in its windows. Empty for an agent whose spending nothing limits.
#[derive(Default)]
pub(super) struct Metering {
    /// Actions that wait for windows.
    parked: HashMap<ActionId, Parked>,
    /// Calls that were let go and are not settled.
    open: HashMap<ActionId, OpenCall>,
    /// Asks of the actions that one message brought: each window gets them together.
    asks: Vec<(WindowId, Vec<Ask>)>,
}

/// An action that waits.
pub(super) struct Parked {
    pub(super) check: Check,
    /// Repeats that came meanwhile.
    pub(super) also: Vec<Reply<Result<Answer, NotRegistered>>>,
    /// How many actors have not answered.
    pub(super) waiting: usize,
    /// Why one did not.
    pub(super) fault: Option<Fault>,
    pub(super) stage: Stage,
}

/// What an action waits for.
pub(super) enum Stage {
    /// A large prompt is being measured aside.
    Pricing,
    /// The windows are setting amounts aside.
    Reserving { call: Quote, answers: Vec<(WindowId, Asked)>, attempt: u8 },
    /// It was refused: what was set aside is being given back.
    Voiding { judgement: Box<Judgement> },
    /// It is a result: the windows are posting what the call did cost.
    Posting { call: OpenCall, charge: Charge },
    /// A person is being asked.
    Asking { judgement: Box<Judgement> },
    /// The request that it refers to is saying what it is worth.
    Claiming { id: ApprovalId, judgement: Box<Judgement> },
}

/// What a call can cost.
#[derive(Clone, Debug)]
pub struct Quote {
    cost: Cost,
    input_tokens: u64,
    price: Option<Price>,
}

/// The price a call is let go at; what it does cost is counted by the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Price {
    model: ModelPrice,
    by: PricedBy,
    family: Family,
}

/// A call for which something is reserved, as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OpenCall {
    /// The windows that set it aside.
    windows: Vec<WindowId>,
    /// How much.
    amount: Amount,
    /// The estimate of the prompt.
    input_tokens: u64,
    /// Its price; none where only tokens are limited and nobody knows one.
    price: Option<Price>,
    /// When the windows post it in full by themselves.
    pub(super) expires_at: Timestamp,
}

/// What a result did to what was reserved for its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// It was settled at this amount.
    Settled {
        /// What was posted in every window.
        amount: Amount,
        /// What that is known from.
        basis: Basis,
    },
    /// Nothing is reserved for the call: it was settled before, it expired, or it is no call of this agent.
    NotOpen,
}

/// What an amount is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The provider's usage.
    Usage,
    /// The prompt and what was produced, counted here.
    Produced,
    /// The reservation: nobody knows more.
    Reservation,
    /// The call was not charged.
    NotCharged,
}

/// What a waiting action waits for.
#[derive(Debug)]
pub enum Metered {
    /// A prompt that was measured aside.
    Quoted(ActionId, Quote),
    /// A window's answers to what this agent's calls asked of it.
    Reserved(WindowId, Vec<Asked>),
    /// A window has settled what it was told, on behalf of this action.
    Settled(ActionId),
    /// The request for approval that this action led to.
    Asked(ActionId, Box<ApprovalRecord>),
    /// What the request for approval is worth that this action referred to.
    Claimed(ActionId, Claimed),
    /// An actor did not answer these actions.
    Unanswered(Vec<ActionId>, Fault),
}

/// A prompt above this many bytes is measured on another thread.
const MEASURED_HERE: u64 = 4 << 10;

/// How often a call is asked for again because its limits changed meanwhile.
const ATTEMPTS: u8 = 3;

/// The most calls of one agent for which something is reserved.
pub(super) const MAX_OPEN_CALLS: usize = 10_000;

// === impl AgentActor ===

impl AgentActor {
    /// Takes the actions that windows have to do with; others are given back to be decided at once.
    pub(super) fn meter(&mut self, check: Check, now: Timestamp) -> Option<Check> {
        if let Some(parked) = self.metering.parked.get_mut(&check.request.id) {
            parked.also.push(check.reply);
            return None;
        }
        match &check.request.action {
            Action::LlmCall { .. } => self.meter_call(check, now),
            Action::LlmResult { call: Some(call), .. } => match self.metering.open.remove(call) {
                Some(open) => {
                    self.settle(check, open);
                    None
                }
                None => Some(check),
            },
            _ => Some(check),
        }
    }

    fn meter_call(&mut self, check: Check, now: Timestamp) -> Option<Check> {
        let Some(record) = &self.record else { return Some(check) };
        let rules = self.policies.in_force(self.id.workspace, &record.facts);
        if rules.windows.is_empty() {
            return Some(check);
        }
        let prices = Arc::clone(&rules.prices);
        // What is refused anyway need not be paid.
        let judged = self.judge(&check.request.action, now)?;
        if judged.outcome().decision.verdict != Verdict::Allow {
            return Some(check);
        }
        if self.metering.open.len() + self.metering.parked.len() >= MAX_OPEN_CALLS {
            let why = format!("{MAX_OPEN_CALLS} calls of the agent are not settled");
            check.reply.send(Err(Fault::NotDurable(why)));
            return None;
        }
        let Action::LlmCall { messages, .. } = &check.request.action else { return Some(check) };
        if text_bytes(messages) > MEASURED_HERE {
            self.measure_aside(check, prices);
            return None;
        }
        let quote = Quote::of(&check.request.action, &prices);
        let id = check.request.id;
        self.metering.parked.insert(id, Parked::new(check, Stage::Pricing));
        self.ask(id, quote, 1, now);
        None
    }

    fn measure_aside(&mut self, check: Check, prices: Arc<Prices>) {
        let (agent, id) = (self.id, check.request.id);
        let action = check.request.action.clone();
        let services = Arc::clone(&self.services);
        self.metering.parked.insert(id, Parked::new(check, Stage::Pricing));
        tokio::task::spawn_blocking(move || {
            let quote = Quote::of(&action, &prices);
            services.tell_agent(agent, Metered::Quoted(id, quote));
        });
    }

    /// Goes on with the actions that waited for this.
    pub(super) fn metered(&mut self, metered: Metered, now: Timestamp) {
        match metered {
            Metered::Quoted(id, quote) => self.ask(id, quote, 1, now),
            Metered::Reserved(window, answers) => self.reserved(&window, answers, now),
            Metered::Settled(id) => self.answered(id, now),
            Metered::Asked(id, record) => self.asked(id, &record, now),
            Metered::Claimed(id, claimed) => self.claimed(id, claimed, now),
            Metered::Unanswered(ids, fault) => self.unanswered(ids, &fault, now),
        }
        self.send_asks();
    }

    /// Asks every window that applies to set the amount aside.
    fn ask(&mut self, id: ActionId, quote: Quote, attempt: u8, now: Timestamp) {
        let Some(record) = &self.record else { return };
        let Some(parked) = self.metering.parked.get_mut(&id) else { return };
        let rules = self.policies.in_force(self.id.workspace, &record.facts);
        let windows = Arc::clone(&rules.windows);
        // Without a price no budget of money can admit it: there is nothing to ask.
        let needs_price = |window: &MeteredWindow| window.enforced && window.limits.cost.is_some();
        let asks_none = quote.cost.is_unpriced && windows.iter().any(needs_price);
        let reservation = ReservationId { agent: self.id.agent, action: id };
        let amount = quote.cost.amount;
        parked.stage = Stage::Reserving { call: quote, answers: Vec::new(), attempt };
        if asks_none || windows.is_empty() {
            return self.resume(id, now);
        }
        parked.waiting = windows.len();
        for window in windows.iter() {
            let ask = Ask { id: reservation, amount, limits: window.limits };
            match self.metering.asks.iter_mut().find(|(known, _)| *known == window.id) {
                Some((_, asks)) => asks.push(ask),
                None => self.metering.asks.push((window.id.clone(), vec![ask])),
            }
        }
    }

    /// Sends what was gathered while one message was handled.
    pub(super) fn send_asks(&mut self) {
        for (window, asks) in std::mem::take(&mut self.metering.asks) {
            let ids: Vec<_> = asks.iter().map(|ask| ask.id.action).collect();
            let (agent, services) = (self.id, Arc::clone(&self.services));
            let of = window.clone();
            let reply = Reply::new(move |answer: Result<Vec<Asked>, Fault>| {
                let reserved = match answer {
                    Ok(answers) => Metered::Reserved(of, answers),
                    Err(fault) => Metered::Unanswered(ids, fault),
                };
                services.tell_agent(agent, reserved);
            });
            self.services.send_window(&window, WindowMessage::Reserve(asks, reply));
        }
    }

    /// The windows' answers to asks.
    fn reserved(&mut self, window: &WindowId, answers: Vec<Asked>, now: Timestamp) {
        for asked in answers {
            let id = asked.id.action;
            // An agent that was loaded anew knows nothing of it: the client's repeat finds the reservation.
            let Some(parked) = self.metering.parked.get_mut(&id) else { continue };
            let Stage::Reserving { answers, .. } = &mut parked.stage else { continue };
            answers.push((window.clone(), asked));
            self.answered(id, now);
        }
    }

    /// A window that did not answer, for each of these actions.
    fn unanswered(&mut self, ids: Vec<ActionId>, fault: &Fault, now: Timestamp) {
        for id in ids {
            if let Some(parked) = self.metering.parked.get_mut(&id) {
                parked.fault = Some(fault.clone());
                self.answered(id, now);
            }
        }
    }

    fn answered(&mut self, id: ActionId, now: Timestamp) {
        let Some(parked) = self.metering.parked.get_mut(&id) else { return };
        parked.waiting = parked.waiting.saturating_sub(1);
        if parked.waiting == 0 {
            self.resume(id, now);
        }
    }

    /// Goes on with an action that every window has answered.
    fn resume(&mut self, id: ActionId, now: Timestamp) {
        let Some(mut parked) = self.metering.parked.remove(&id) else { return };
        if let Some(fault) = parked.fault.take() {
            if let Stage::Posting { call, .. } = parked.stage
                && let Action::LlmResult { call: Some(id), .. } = &parked.check.request.action
            {
                self.metering.open.insert(*id, call);
            }
            parked.also.into_iter().for_each(|reply| reply.send(Err(fault.clone())));
            parked.check.reply.send(Err(fault));
            return;
        }
        match parked.stage {
            Stage::Pricing | Stage::Asking { .. } | Stage::Claiming { .. } => {}
            Stage::Reserving { call, answers, attempt } => {
                let Parked { check, also, .. } = parked;
                self.decide_call(check, also, call, answers, attempt, now);
            }
            Stage::Voiding { judgement } => {
                self.conclude(parked.check, parked.also, *judgement, Particulars::nothing(), now);
            }
            Stage::Posting { call, charge } => {
                let Some(judgement) = self.judge(&parked.check.request.action, now) else { return };
                let paid = Particulars::result(&parked.check.request.action, &call, charge);
                self.conclude(parked.check, parked.also, judgement, paid, now);
            }
        }
    }

    /// Decides a call by what its windows answered.
    fn decide_call(
        &mut self,
        check: Check,
        also: Vec<Reply<Result<Answer, NotRegistered>>>,
        call: Quote,
        answers: Vec<(WindowId, Asked)>,
        attempt: u8,
        now: Timestamp,
    ) {
        let id = check.request.id;
        let holding: Vec<_> = answers
            .iter()
            .filter(|(_, asked)| asked.outcome.is_ok())
            .map(|(window, _)| window.clone())
            .collect();
        let all_hold = holding.len() == answers.len();
        let Some(judgement) = self.judge_paid(&check.request.action, &call, &answers, now) else {
            return;
        };
        let is_allowed = judgement.outcome().decision.verdict == Verdict::Allow;
        if is_allowed && all_hold {
            let paid = Particulars::call(&call, &holding, now);
            self.metering.open.extend(paid.opens.clone().map(|open| (id, open)));
            return self.conclude(check, also, judgement, paid, now);
        }
        if is_allowed {
            // The limits were raised between the window's answer and this decision: ask again.
            let parked = Parked { also, ..Parked::new(check, Stage::Pricing) };
            if attempt == ATTEMPTS {
                let why = "the budgets changed while the call was being paid".to_owned();
                parked.refuse(&Fault::NotDurable(why));
                return;
            }
            self.metering.parked.insert(id, parked);
            return self.ask(id, call, attempt + 1, now);
        }
        if holding.is_empty() {
            return self.conclude(check, also, judgement, Particulars::nothing(), now);
        }
        // First give back what was set aside, then say no: a crash in between leaves nothing reserved for long.
        let judgement = Box::new(judgement);
        let stage = Stage::Voiding { judgement };
        let parked = Parked { also, waiting: holding.len(), ..Parked::new(check, stage) };
        self.metering.parked.insert(id, parked);
        self.end_reservation(id, id, holding, Settlement::Void);
    }

    fn settle(&mut self, check: Check, call: OpenCall) {
        let Action::LlmResult { call: Some(of), content, usage, end, .. } = &check.request.action
        else {
            return;
        };
        let charge = call.charge(*usage, content, *end);
        let settlement = match charge {
            Charge::Settled { basis: Basis::NotCharged, .. } | Charge::NotOpen => Settlement::Void,
            Charge::Settled { amount, .. } => Settlement::Post(amount),
        };
        let (id, of) = (check.request.id, *of);
        let windows = call.windows.clone();
        let stage = Stage::Posting { call, charge };
        let parked = Parked { waiting: windows.len(), ..Parked::new(check, stage) };
        self.metering.parked.insert(id, parked);
        self.end_reservation(id, of, windows, settlement);
    }

    /// Ends what is reserved for the call `of`, on behalf of the action `id`.
    fn end_reservation(
        &self,
        id: ActionId,
        of: ActionId,
        windows: Vec<WindowId>,
        settlement: Settlement,
    ) {
        let reservation = ReservationId { agent: self.id.agent, action: of };
        for window in windows {
            let (agent, services) = (self.id, Arc::clone(&self.services));
            let reply = Reply::new(move |answer: Result<(), Fault>| {
                services.tell_agent(
                    agent,
                    match answer {
                        Ok(()) => Metered::Settled(id),
                        Err(fault) => Metered::Unanswered(vec![id], fault),
                    },
                );
            });
            let message = WindowMessage::Settle(vec![(reservation, settlement)], reply);
            self.services.send_window(&window, message);
        }
    }

    fn judge_paid(
        &mut self,
        action: &Action,
        call: &Quote,
        answers: &[(WindowId, Asked)],
        now: Timestamp,
    ) -> Option<Judgement> {
        let record = self.record.as_ref()?;
        let rules = self.policies.in_force(self.id.workspace, &record.facts);
        let windows = Arc::clone(&rules.windows);
        let names: Vec<_> = answers.iter().map(|(window, _)| window.spender.to_string()).collect();
        let mut shared: Vec<SharedBudget<'_>> = answers
            .iter()
            .zip(&names)
            .filter(|((window, _), _)| !matches!(window.spender, Spender::Agent(_)))
            .map(|((window, asked), spender)| SharedBudget {
                spender,
                window: window.period.as_str(),
                standing: asked.standing,
                enforced: asked.enforced,
            })
            .collect();
        let unasked: Vec<_> = windows
            .iter()
            .filter(|window| answers.is_empty() && !matches!(window.id.spender, Spender::Agent(_)))
            .map(|window| (window, window.id.spender.to_string()))
            .collect();
        shared.extend(unasked.iter().map(|(window, spender)| SharedBudget {
            spender,
            window: window.id.period.as_str(),
            standing: Standing {
                posted: Amount::ZERO,
                reserved: Amount::ZERO,
                limits: window.limits,
                resets_at: window.id.calendar().around(now).1,
            },
            enforced: window.enforced,
        }));
        self.judge_with(action, answers, &shared, call.cost, false, now)
    }

    /// What a refusal by a budget that suspends means for the agent.
    pub(super) fn suspension_of(
        &self,
        decision: &Decision,
        now: Timestamp,
    ) -> Option<BudgetSuspension> {
        let suspends = |code| code == ReasonCode::BudgetSuspended;
        let reason = decision.reasons.iter().find(|reason| suspends(reason.code))?;
        let standing = reason.budget.as_deref()?;
        Some(BudgetSuspension {
            policy: reason.policy.clone()?,
            revision: reason.revision,
            window: aa_budget::Period::from_name(&standing.window)?,
            at: now,
            until: standing.resets_at,
            spent: standing.spent,
            reserved: standing.reserved,
        })
    }
}

/// What an entry tells beside its decision, and the state that changes with it.
#[derive(Default)]
pub(super) struct Particulars {
    pub(super) detail: Vec<(&'static str, String)>,
    /// The request for approval that the answer names.
    pub(super) approval: Option<ApprovalId>,
    pub(super) writes: Vec<(Bytes, Bytes)>,
    pub(super) removes: Vec<Bytes>,
    /// The call that is open from now on.
    pub(super) opens: Option<OpenCall>,
    /// The call that is settled now.
    pub(super) closes: Option<ActionId>,
    pub(super) charge: Option<Charge>,
}

// === impl Particulars ===

impl Particulars {
    pub(super) fn nothing() -> Self {
        Self::default()
    }

    pub(super) fn of_approval(id: ApprovalId) -> Self {
        Self { detail: vec![("approval", id.to_string())], ..Self::default() }
    }

    fn call(call: &Quote, windows: &[WindowId], now: Timestamp) -> Self {
        let amount = call.cost.amount;
        if windows.is_empty() {
            return Self::nothing();
        }
        let detail = vec![
            ("price", call.priced_by().to_owned()),
            ("reserved_nano_usd", amount.cost().0.to_string()),
            ("reserved_tokens", amount.tokens().to_string()),
        ];
        let opens = OpenCall {
            windows: windows.to_vec(),
            amount,
            input_tokens: call.input_tokens,
            price: call.price.clone(),
            expires_at: now.saturating_add(RESERVED_FOR),
        };
        Self { detail, opens: Some(opens), ..Self::default() }
    }

    fn result(action: &Action, call: &OpenCall, charge: Charge) -> Self {
        let Action::LlmResult { call: Some(of), .. } = action else { return Self::nothing() };
        let mut detail = vec![("call", of.to_string())];
        if let Charge::Settled { amount, basis } = charge {
            detail.push(("posted_nano_usd", amount.cost().0.to_string()));
            detail.push(("posted_tokens", amount.tokens().to_string()));
            detail.push(("posted_by", basis.as_str().to_owned()));
            detail.push(("reserved_nano_usd", call.amount.cost().0.to_string()));
        }
        Self { detail, closes: Some(*of), charge: Some(charge), ..Self::default() }
    }

    /// The state that changes with the entry.
    pub(super) fn changes(
        &self,
        id: super::AgentKeyId,
        action: ActionId,
    ) -> (Option<(Bytes, Bytes)>, Option<Bytes>) {
        let calls = keys::calls(id.workspace, id.agent);
        let write =
            self.opens.as_ref().map(|open| (calls.key(action.to_bytes()), stored::encode(open)));
        (write, self.closes.map(|call| calls.key(call.to_bytes())))
    }
}

// === impl Metering ===

impl Metering {
    pub(super) fn with_open(open: HashMap<ActionId, OpenCall>) -> Self {
        Self { open, ..Self::default() }
    }

    pub(super) fn park(&mut self, parked: Parked) {
        self.parked.insert(parked.check.request.id, parked);
    }

    pub(super) fn unpark(&mut self, id: ActionId) -> Option<Parked> {
        self.parked.remove(&id)
    }

    /// Whether an action waits for another actor.
    pub(super) fn is_waiting(&self) -> bool {
        !self.parked.is_empty()
    }
}

// === impl Parked ===

impl Parked {
    pub(super) fn new(check: Check, stage: Stage) -> Self {
        Self { check, also: Vec::new(), waiting: 0, fault: None, stage }
    }

    fn refuse(self, fault: &Fault) {
        self.also.into_iter().for_each(|reply| reply.send(Err(fault.clone())));
        self.check.reply.send(Err(fault.clone()));
    }
}

// === impl Quote ===

impl Quote {
    /// The most the call can cost, under these prices.
    fn of(action: &Action, prices: &Prices) -> Self {
        let Action::LlmCall { model, messages, max_output_tokens, choices, .. } = action else {
            return Self::unpriced(Amount::ZERO, 0);
        };
        let choices = choices.unwrap_or(1).max(1);
        let Ok(priced) = prices.table.price_of(model, &prices.unknown) else {
            // A token is at least one byte.
            let input = text_bytes(messages);
            let each = max_output_tokens.unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS);
            let tokens = input.saturating_add(each.saturating_mul(choices));
            let amount = Amount::new(NanoUsd::ZERO, tokens).unwrap_or_default();
            return Self::unpriced(amount, input);
        };
        let input = estimate::input_tokens(messages, &priced);
        let each = max_output_tokens.filter(|most| *most > 0);
        let each = each.unwrap_or_else(|| priced.price.longest_answer());
        let tokens = input.saturating_add(each.saturating_mul(choices));
        // What does not fit an amount fits no budget.
        let cost = priced.price.worst_case(input, *max_output_tokens, choices);
        let cost = cost.unwrap_or(NanoUsd(i64::MAX));
        Self {
            cost: Amount::new(cost, tokens).unwrap_or_default().into(),
            input_tokens: input,
            price: Some(Price {
                model: priced.price.clone(),
                by: priced.by,
                family: priced.family,
            }),
        }
    }

    /// Where the price is from, for entries.
    fn priced_by(&self) -> &'static str {
        match self.price.as_ref().map(|price| price.by) {
            Some(PricedBy::Table) => "table",
            Some(PricedBy::Override) => "override",
            Some(PricedBy::Fallback) => "fallback",
            None => "unknown",
        }
    }

    fn unpriced(amount: Amount, input_tokens: u64) -> Self {
        let cost = Cost { amount, is_unpriced: true };
        Self { cost, input_tokens, price: None }
    }
}

// === impl OpenCall ===

impl OpenCall {
    /// What the call did cost, from the best that is known.
    fn charge(&self, usage: Option<Usage>, content: &serde_json::Value, end: CallEnd) -> Charge {
        let of_usage = |usage: Usage| {
            let cost = match &self.price {
                Some(price) => price.model.cost(&usage).ok()?,
                None => NanoUsd::ZERO,
            };
            let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
            Amount::new(cost, tokens).ok()
        };
        let settled = |amount, basis| Charge::Settled { amount, basis };
        let whole = settled(self.amount, Basis::Reservation);
        match (end, usage) {
            (CallEnd::NotCharged, _) => settled(Amount::ZERO, Basis::NotCharged),
            (_, Some(usage)) => {
                of_usage(usage).map_or(whole, |amount| settled(amount, Basis::Usage))
            }
            (CallEnd::CutOff, None) if !is_nothing(content) => {
                let output_tokens = match &self.price {
                    Some(Price { model, by, family }) => {
                        let priced = Priced { price: model, by: *by, family: *family };
                        estimate::output_tokens(content, &priced)
                    }
                    None => text_bytes(content),
                };
                let usage =
                    Usage { input_tokens: self.input_tokens, output_tokens, ..Usage::default() };
                of_usage(usage).map_or(whole, |amount| settled(amount, Basis::Produced))
            }
            (CallEnd::CutOff | CallEnd::Complete, None) => whole,
        }
    }
}

/// Whether a content holds no text at all.
fn is_nothing(content: &serde_json::Value) -> bool {
    match content {
        serde_json::Value::Null => true,
        serde_json::Value::String(text) => text.is_empty(),
        serde_json::Value::Array(items) => items.iter().all(is_nothing),
        serde_json::Value::Object(members) => members.is_empty(),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => false,
    }
}

/// The bytes of all strings and keys of a value.
fn text_bytes(value: &serde_json::Value) -> u64 {
    match value {
        serde_json::Value::String(text) => text.len() as u64,
        serde_json::Value::Array(items) => items.iter().map(text_bytes).sum(),
        serde_json::Value::Object(members) => {
            members.iter().map(|(key, value)| key.len() as u64 + text_bytes(value)).sum()
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => 1,
    }
}

// === impl Basis ===

impl Basis {
    /// The name in entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Produced => "produced",
            Self::Reservation => "reservation",
            Self::NotCharged => "not_charged",
        }
    }
}

/// What an agent has spent, from its windows' answers and from the suspension that stands.
pub(super) struct SpentBy<'a> {
    pub(super) workspace: WorkspaceId,
    pub(super) facts: &'a AgentFacts,
    pub(super) policies: &'a AgentPolicies,
    pub(super) answers: &'a [(WindowId, Asked)],
    pub(super) suspension: Option<&'a BudgetSuspension>,
}

impl BudgetFacts for SpentBy<'_> {
    fn spend(&self, policy: &str) -> Spend {
        let mut spend = Spend::default();
        if let Some(suspension) = self.suspension.filter(|known| known.policy == policy) {
            let spent = Spent { posted: suspension.spent, reserved: suspension.reserved };
            match suspension.window {
                aa_budget::Period::Monthly => {
                    (spend.month, spend.suspended) = (spent, Some(Period::Month));
                }
                _ => (spend.day, spend.suspended) = (spent, Some(Period::Day)),
            }
        }
        if self.answers.is_empty() {
            return spend;
        }
        let document = self.policies.iter().find(|document| document.policy.name() == policy);
        let Some(budget) = document.and_then(|document| document.policy.budget()) else {
            return spend;
        };
        let of = |period| {
            let id = own_window(self.workspace, self.facts, &budget.calendar(period));
            let (_, asked) = self.answers.iter().find(|(window, _)| *window == id)?;
            let Standing { posted, reserved, .. } = asked.standing;
            Some(Spent { posted: posted.cost(), reserved: reserved.cost() })
        };
        spend.day = of(Period::Day).unwrap_or(spend.day);
        spend.month = of(Period::Month).unwrap_or(spend.month);
        spend
    }
}
