//! The operations on budgets and prices.

use std::sync::Arc;

use aa_budget::{Period, Span};
use aa_protocol::AgentId;
use aa_runtime::{Fault, Reply};

use super::{Governance, GovernanceError, MAX_PAGE};
use crate::{
    budget_book::{BudgetError, BudgetRecord, BudgetTerms},
    budget_window::{WindowMessage, WindowStatus},
    keys,
    permission::{ManageBudgets, Permit, ReadBudgets},
    policy_set::{MoneyMessage, PolicySetMessage},
    prices::{PriceRecord, PriceTerms, Prices},
    spender::{Spender, WindowId},
    stored,
};

/// A budget of a team or workspace, and what is spent of it.
#[derive(Clone, Debug)]
pub struct BudgetStatus {
    /// The budget.
    pub budget: BudgetRecord,
    /// Its present window.
    pub span: Span,
}

/// A window in which an agent spends, and what it spent there.
#[derive(Clone, Debug)]
pub struct AgentSpending {
    /// The window.
    pub window: WindowId,
    /// Its present state.
    pub status: WindowStatus,
}

impl Governance {
    /// Sets a budget, in the place of the one there was. Calls that are decided from now on are held against it.
    ///
    /// # Errors
    /// The terms are wrong, or the actor does not answer.
    pub async fn set_budget(
        &self,
        permit: &Permit<ManageBudgets>,
        terms: BudgetTerms,
    ) -> Result<BudgetRecord, GovernanceError> {
        let actor = permit.actor();
        let set = |reply| PolicySetMessage::Money(MoneyMessage::SetBudget(terms, actor, reply));
        Ok(self.ask_policies(permit.workspace(), set).await??)
    }

    /// Takes a budget away. What was spent in its window is kept, and counts if it is set again in the same window.
    ///
    /// # Errors
    /// There is none, or the actor does not answer.
    pub async fn remove_budget(
        &self,
        permit: &Permit<ManageBudgets>,
        spender: Spender,
        period: Period,
    ) -> Result<BudgetRecord, GovernanceError> {
        let actor = permit.actor();
        let remove = |reply| {
            PolicySetMessage::Money(MoneyMessage::RemoveBudget(spender, period, actor, reply))
        };
        Ok(self.ask_policies(permit.workspace(), remove).await??)
    }

    /// The budgets of teams and of the workspace with what is spent of them, in the order of their spenders, from the
    /// one after `after`; at most `limit`, itself at most [`MAX_PAGE`].
    ///
    /// # Errors
    /// The store or an actor does not answer, or a record is damaged.
    pub async fn budgets(
        &self,
        permit: &Permit<ReadBudgets>,
        after: Option<(&Spender, Period)>,
        limit: usize,
    ) -> Result<Vec<BudgetStatus>, GovernanceError> {
        let workspace = permit.workspace();
        let all = keys::budgets(workspace);
        let range = match after {
            Some((spender, period)) => all.after(&keys::budget(workspace, spender, period)),
            None => all,
        };
        let mut txn = self.services.node.store().begin().await?;
        let page =
            txn.range_snapshot(&range, limit.min(MAX_PAGE), aa_store::Order::Forward).await?;
        let mut budgets = Vec::with_capacity(page.len());
        for (key, value) in page {
            budgets.push(self.spending_of(permit, stored::decode(&key, &value)?).await?);
        }
        Ok(budgets)
    }

    /// One budget with what is spent of it.
    ///
    /// # Errors
    /// There is none, the store or an actor does not answer, or the record is damaged.
    pub async fn budget(
        &self,
        permit: &Permit<ReadBudgets>,
        spender: Spender,
        period: Period,
    ) -> Result<BudgetStatus, GovernanceError> {
        let key = keys::budget(permit.workspace(), &spender, period);
        let mut txn = self.services.node.store().begin().await?;
        let Some(value) = txn.get_snapshot(&key).await? else {
            return Err(BudgetError::Unknown { spender, period }.into());
        };
        self.spending_of(permit, stored::decode(&key, &value)?).await
    }

    /// What is spent of a budget of the workspace.
    ///
    /// # Errors
    /// The window's actor does not answer.
    pub async fn spending_of(
        &self,
        permit: &Permit<ReadBudgets>,
        budget: BudgetRecord,
    ) -> Result<BudgetStatus, GovernanceError> {
        let id = WindowId::utc(permit.workspace(), budget.spender.clone(), budget.period);
        let span = self.window_status(&id).await?.span;
        Ok(BudgetStatus { budget, span })
    }

    /// What an agent spent in its own windows, those its policies limit or once did.
    ///
    /// # Errors
    /// There is no such agent, the store or an actor does not answer, or a record is damaged.
    pub async fn agent_spending(
        &self,
        permit: &Permit<ReadBudgets>,
        agent: AgentId,
    ) -> Result<Vec<AgentSpending>, GovernanceError> {
        let workspace = permit.workspace();
        let mut txn = self.services.node.store().begin().await?;
        if txn.get_snapshot(&keys::agent(workspace, agent)).await?.is_none() {
            return Err(GovernanceError::NotFound { what: "agent", id: agent.to_string() });
        }
        let spender = Spender::Agent(agent);
        let space = keys::windows_of(workspace, &spender);
        let found = txn.range_snapshot(&space.range(), MAX_PAGE, aa_store::Order::Forward).await?;
        let mut spending = Vec::with_capacity(found.len());
        for (key, _) in found {
            let window = keys::window_id(workspace, &spender, &key)
                .ok_or_else(|| stored::Damaged::at(&key))?;
            let status = self.window_status(&window).await?;
            spending.push(AgentSpending { window, status });
        }
        Ok(spending)
    }

    /// Sets the workspace's prices, in the place of those that were set before.
    ///
    /// # Errors
    /// A price is wrong, or the actor does not answer.
    pub async fn set_prices(
        &self,
        permit: &Permit<ManageBudgets>,
        terms: PriceTerms,
    ) -> Result<PriceRecord, GovernanceError> {
        let actor = permit.actor();
        let set = |reply| PolicySetMessage::Money(MoneyMessage::SetPrices(terms, actor, reply));
        Ok(self.ask_policies(permit.workspace(), set).await??)
    }

    /// The prices in force.
    ///
    /// # Errors
    /// The actor does not answer.
    pub async fn prices(
        &self,
        permit: &Permit<ReadBudgets>,
    ) -> Result<Arc<Prices>, GovernanceError> {
        let cell = self.services.policies(permit.workspace()).await?;
        Ok(Arc::clone(&cell.load().prices))
    }

    async fn window_status(&self, id: &WindowId) -> Result<WindowStatus, GovernanceError> {
        let (reply, answer) = Reply::channel();
        self.services.send_window(id, WindowMessage::Read(reply));
        Ok(answer.await.unwrap_or(Err(Fault::Gone))?)
    }
}
