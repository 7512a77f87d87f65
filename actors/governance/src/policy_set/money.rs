//! The rules about money: budgets of teams and workspaces, and prices.

use std::sync::Arc;

use aa_budget::Period;
use aa_ledger::Kind;
use aa_protocol::{NanoUsd, Timestamp};
use aa_runtime::Reply;

use super::{Change, PolicySetActor};
use crate::{
    budget_book::{BudgetError, BudgetRecord, BudgetTerms, MAX_BUDGETS},
    keys,
    prices::{PriceRecord, PriceTerms, Prices, PricesError},
    spender::Spender,
    stored,
};

/// A change of the rules about money.
#[derive(Debug)]
pub enum MoneyMessage {
    /// Sets a budget, in the place of the one there was.
    SetBudget(BudgetTerms, String, Reply<Result<BudgetRecord, BudgetError>>),
    /// Takes a budget away.
    RemoveBudget(Spender, Period, String, Reply<Result<BudgetRecord, BudgetError>>),
    /// Sets the prices, in the place of those that were set before.
    SetPrices(PriceTerms, String, Reply<Result<PriceRecord, PricesError>>),
}

impl PolicySetActor {
    pub(super) fn change_money(&mut self, message: MoneyMessage, now: Timestamp) {
        match message {
            MoneyMessage::SetBudget(terms, actor, reply) => match self.checked(terms, now, actor) {
                Ok(record) => self.set_budget(record, now, reply),
                Err(error) => reply.send(Ok(Err(error))),
            },
            MoneyMessage::RemoveBudget(spender, period, actor, reply) => {
                self.remove_budget(spender, period, &actor, now, reply);
            }
            MoneyMessage::SetPrices(terms, actor, reply) => {
                let record = PriceRecord { terms, updated_at: now, updated_by: actor };
                match Prices::new(record.clone()) {
                    Ok(prices) => self.set_prices(prices, record, now, reply),
                    Err(error) => reply.send(Ok(Err(error))),
                }
            }
        }
    }

    fn checked(
        &self,
        terms: BudgetTerms,
        now: Timestamp,
        actor: String,
    ) -> Result<BudgetRecord, BudgetError> {
        let record = terms.into_record(now, actor)?;
        let is_new = self.rules.budgets.get(&record.spender, record.period).is_none();
        if is_new && self.rules.budgets.len() >= MAX_BUDGETS {
            return Err(BudgetError::TooMany);
        }
        Ok(record)
    }

    fn set_budget(
        &mut self,
        record: BudgetRecord,
        now: Timestamp,
        reply: Reply<Result<BudgetRecord, BudgetError>>,
    ) {
        let BudgetRecord { spender, period, limits, action, .. } = &record;
        let key = keys::budget(self.workspace, spender, *period);
        let written = (key, stored::encode(&record));
        let (spender, cost) =
            (spender.to_string(), limits.cost.map(|NanoUsd(cost)| cost.to_string()));
        let tokens = limits.tokens.map(|tokens| tokens.to_string());
        let alert_at: Vec<_> = record.alert_at.iter().map(u64::to_string).collect();
        let alert_at = alert_at.join(",");
        let mut detail = vec![
            ("action", action.as_str()),
            ("alert_at", &alert_at),
            ("change", "set"),
            ("spender", &spender),
            ("window", period.as_str()),
        ];
        detail.extend(cost.as_deref().map(|cost| ("limit_nano_usd", cost)));
        detail.extend(tokens.as_deref().map(|tokens| ("limit_tokens", tokens)));
        let actor = record.updated_by.clone();
        Arc::make_mut(&mut self.rules.budgets).set(record.clone());
        let change = Change::put(Kind::Budget, &actor, &detail, written);
        self.change(change, now, reply, record);
    }

    fn remove_budget(
        &mut self,
        spender: Spender,
        period: Period,
        actor: &str,
        now: Timestamp,
        reply: Reply<Result<BudgetRecord, BudgetError>>,
    ) {
        let Some(record) = Arc::make_mut(&mut self.rules.budgets).remove(&spender, period) else {
            reply.send(Ok(Err(BudgetError::Unknown { spender, period })));
            return;
        };
        let key = keys::budget(self.workspace, &spender, period);
        let spender = spender.to_string();
        let detail =
            [("change", "removed"), ("spender", spender.as_str()), ("window", period.as_str())];
        let change = Change::take(Kind::Budget, actor, &detail, key);
        self.change(change, now, reply, (*record).clone());
    }

    fn set_prices(
        &mut self,
        prices: Prices,
        record: PriceRecord,
        now: Timestamp,
        reply: Reply<Result<PriceRecord, PricesError>>,
    ) {
        let value = stored::encode(&record);
        let digest = super::digest(&value);
        let count = record.terms.overrides.len().to_string();
        let detail = [("change", "prices"), ("overrides", count.as_str()), ("sha256", &digest)];
        let written = (keys::prices(self.workspace), value);
        self.rules.prices = Arc::new(prices);
        let actor = record.updated_by.clone();
        let change = Change::put(Kind::Budget, &actor, &detail, written);
        self.change(change, now, reply, record);
    }
}
