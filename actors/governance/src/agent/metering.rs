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

use aa_budget::{Amount, Refused, ReservationId, Standing};
use aa_policy::{Judgement, SharedBudget};
use aa_protocol::{Action, ActionId, Timestamp, Verdict};
use aa_runtime::{Fault, Reply};

use super::{
    AgentActor, Answer, Check, Known, NotRegistered, Request,
    particulars::Particulars,
    quote::{Basis, Charge, OpenCall, Quote, text_bytes},
    view::MeteredWindow,
    waiting::{Metered, Parked, Stage},
};
use crate::{
    budget_window::{Ask, Asked, Settlement, WindowMessage},
    prices::Prices,
    spender::{Spender, WindowId},
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
    /// The same for reservations that end.
    endings: Vec<Ending>,
}

/// Reservations of one window that end.
struct Ending {
    window: WindowId,
    settlements: Vec<(ReservationId, Settlement)>,
    /// The actions on whose behalf they do.
    of: Vec<ActionId>,
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
        let judged = self.judge(&check.request, now)?;
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
        let parked = Parked { waiting: 1, ..Parked::new(check, Stage::Pricing) };
        self.metering.parked.insert(id, parked);
        // A reply tells its agent even if the measuring panics.
        let reply = Reply::new(move |quote: Result<Quote, Fault>| {
            let measured = match quote {
                Ok(quote) => Metered::Quoted(id, quote),
                Err(fault) => Metered::Unanswered(vec![id], fault),
            };
            services.tell_agent(agent, measured);
        });
        // What it answers, it answers by the reply.
        drop(self.services.node.offload(move || reply.send(Ok(Quote::of(&action, &prices)))));
    }

    /// Goes on with the actions that waited for this.
    pub(super) fn metered(&mut self, metered: Metered, now: Timestamp) {
        let metered = if self.policies.is_readable() {
            metered
        } else {
            // What waited is not decided by the rules of before either.
            Metered::Unanswered(metered.actions(), unreadable())
        };
        match metered {
            Metered::Quoted(id, quote) => self.ask(id, quote, 1, now),
            Metered::Reserved(window, answers) => self.reserved(&window, answers, now),
            Metered::Settled(ids) => ids.into_iter().for_each(|id| self.answered(id, now)),
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
        for Ending { window, settlements, of } in std::mem::take(&mut self.metering.endings) {
            let (agent, services) = (self.id, Arc::clone(&self.services));
            let reply = Reply::new(move |answer: Result<(), Fault>| {
                let settled = match answer {
                    Ok(()) => Metered::Settled(of),
                    Err(fault) => Metered::Unanswered(of, fault),
                };
                services.tell_agent(agent, settled);
            });
            self.services.send_window(&window, WindowMessage::Settle(settlements, reply));
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
                let Some(judgement) = self.judge(&parked.check.request, now) else { return };
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
        let Some(judgement) = self.judge_paid(&check.request, &call, &answers, now) else {
            return;
        };
        let is_allowed = judgement.outcome().decision.verdict == Verdict::Allow;
        if is_allowed && all_hold {
            let paid = Particulars::call(&call, &holding, now);
            self.metering.open.extend(paid.opens.clone().map(|open| (id, open)));
            return self.conclude(check, also, judgement, paid, now);
        }
        if is_allowed {
            // The limits were raised between the window's answer and this decision: ask again. A window that is full
            // of calls under way is asked again by the client.
            let parked = Parked { also, ..Parked::new(check, Stage::Pricing) };
            let is_full =
                |(_, asked): &(WindowId, Asked)| asked.outcome == Err(Refused::TooManyOpen);
            if attempt == ATTEMPTS || answers.iter().any(is_full) {
                let why = match answers.iter().any(is_full) {
                    true => Refused::TooManyOpen.to_string(),
                    false => "the budgets changed while the call was being paid".to_owned(),
                };
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
        &mut self,
        id: ActionId,
        of: ActionId,
        windows: Vec<WindowId>,
        settlement: Settlement,
    ) {
        let reservation = ReservationId { agent: self.id.agent, action: of };
        for window in windows {
            let endings = &mut self.metering.endings;
            match endings.iter_mut().find(|ending| ending.window == window) {
                Some(ending) => {
                    ending.settlements.push((reservation, settlement));
                    ending.of.push(id);
                }
                None => {
                    let (settlements, of) = (vec![(reservation, settlement)], vec![id]);
                    endings.push(Ending { window, settlements, of });
                }
            }
        }
    }

    fn judge_paid(
        &mut self,
        request: &Request,
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
        let known =
            Known { answers, shared_budgets: &shared, cost: call.cost, ..Known::of(request) };
        self.judge_with(&request.action, known, now)
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

/// Why nothing is decided while the workspace's changed rules cannot be read.
pub(super) fn unreadable() -> Fault {
    Fault::NotDurable("the workspace's changed policies cannot be read on this node".to_owned())
}
