//! What a decision is told beside the documents and the action.

use aa_protocol::{AgentFacts, NanoUsd};

use crate::budget::Period;

/// Everything known of the moment. The caller gathers it; nothing here is looked up.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The agent as registered.
    pub agent: &'a AgentFacts,
    /// Set while an operator has suspended the agent.
    pub suspended: Option<&'a Suspension>,
    /// Admitted calls of late.
    pub rates: &'a dyn RateFacts,
    /// What the agent has spent.
    pub budgets: &'a dyn BudgetFacts,
    /// The most the action can cost; zero for one that costs nothing.
    pub cost: NanoUsd,
}

/// Why an operator suspended an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspension {
    /// The operator's words; may be empty.
    pub reason: String,
}

/// Admitted calls of one agent.
pub trait RateFacts {
    /// How many calls of `tool` were admitted in `(now − 60 min, now]`.
    fn admitted_in_window(&self, tool: &str) -> u64;
}

/// Spending of one agent under the budgets of documents.
pub trait BudgetFacts {
    /// What the agent has spent in the current windows of the budget of the document `policy`.
    fn spend(&self, policy: &str) -> Spend;
}

/// Spending in the current windows of one budget: posted and reserved together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spend {
    /// Since the start of the calendar day.
    pub day: NanoUsd,
    /// Since the start of the calendar month.
    pub month: NanoUsd,
    /// The window in which an earlier action would have passed a limit of a budget that suspends.
    pub suspended: Option<Period>,
}

/// No calls and no spending so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unmetered;

impl RateFacts for Unmetered {
    fn admitted_in_window(&self, _tool: &str) -> u64 {
        0
    }
}

impl BudgetFacts for Unmetered {
    fn spend(&self, _policy: &str) -> Spend {
        Spend::default()
    }
}

impl RateFacts for std::collections::BTreeMap<String, u64> {
    fn admitted_in_window(&self, tool: &str) -> u64 {
        self.get(tool).copied().unwrap_or(0)
    }
}

impl<'a> Facts<'a> {
    /// The facts of an agent that is not suspended, has called nothing and spends nothing.
    pub fn of(agent: &'a AgentFacts) -> Self {
        Self { agent, suspended: None, rates: &Unmetered, budgets: &Unmetered, cost: NanoUsd::ZERO }
    }
}

impl Spend {
    /// What was spent in a window.
    pub const fn of(&self, period: Period) -> NanoUsd {
        match period {
            Period::Day => self.day,
            Period::Month => self.month,
        }
    }
}
