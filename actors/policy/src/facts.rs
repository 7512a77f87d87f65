//! What a decision is told beside the documents and the action.

use aa_budget::{Amount, Standing};
use aa_protocol::{AgentFacts, NanoUsd};

use crate::{budget::Period, sequences::SequenceRef};

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
    /// Where the budgets stand that the agent shares with its team or workspace.
    pub shared_budgets: &'a [SharedBudget<'a>],
    /// The most the action can cost.
    pub cost: Cost,
    /// Which sequences earlier results of the session have armed.
    pub armed: &'a dyn ArmedFacts,
    /// Whether those who must have approved this very action: then nobody is asked again.
    pub is_approved: bool,
}

/// The most an action can cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Money, as far as a price is known, and tokens; nothing for an action that costs nothing.
    pub amount: Amount,
    /// Whether nobody knows the price. Then no budget of money admits the action.
    pub is_unpriced: bool,
}

/// A budget that several agents share.
#[derive(Clone, Copy, Debug)]
pub struct SharedBudget<'a> {
    /// Whose it is, for people: `team platform`.
    pub spender: &'a str,
    /// How often it starts anew: `hourly`, `daily`, `weekly` or `monthly`.
    pub window: &'a str,
    /// Where it stands without the action.
    pub standing: Standing,
    /// Whether it refuses what would pass it; otherwise it only tells people.
    pub enforced: bool,
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

/// What the results that an agent has seen in a session have armed.
pub trait ArmedFacts {
    /// Whether the sequence of this name, of the document of this name, is armed.
    fn is_armed(&self, policy: &str, sequence: &str) -> bool;
}

/// Spending in the current windows of one budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spend {
    /// Since the start of the calendar day.
    pub day: Spent,
    /// Since the start of the calendar month.
    pub month: Spent,
    /// The window in which an earlier action would have passed a limit of a budget that suspends.
    pub suspended: Option<Period>,
}

/// Money that is gone or spoken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// What calls did cost.
    pub posted: NanoUsd,
    /// What is set aside for calls under way.
    pub reserved: NanoUsd,
}

/// No calls, no spending and nothing armed so far.
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

impl ArmedFacts for Unmetered {
    fn is_armed(&self, _policy: &str, _sequence: &str) -> bool {
        false
    }
}

impl ArmedFacts for Vec<SequenceRef> {
    fn is_armed(&self, policy: &str, sequence: &str) -> bool {
        self.iter().any(|armed| *armed.policy == *policy && *armed.sequence == *sequence)
    }
}

impl RateFacts for std::collections::BTreeMap<String, u64> {
    fn admitted_in_window(&self, tool: &str) -> u64 {
        self.get(tool).copied().unwrap_or(0)
    }
}

impl<'a> Facts<'a> {
    /// The facts of an agent that is not suspended, has called and seen nothing and spends nothing.
    pub fn of(agent: &'a AgentFacts) -> Self {
        Self {
            agent,
            suspended: None,
            rates: &Unmetered,
            budgets: &Unmetered,
            shared_budgets: &[],
            cost: Cost::default(),
            armed: &Unmetered,
            is_approved: false,
        }
    }
}

impl Spend {
    /// What was spent in a window.
    pub const fn of(&self, period: Period) -> Spent {
        match period {
            Period::Day => self.day,
            Period::Month => self.month,
        }
    }
}

impl Spent {
    /// Both together.
    pub const fn total(self) -> NanoUsd {
        NanoUsd(self.posted.0.saturating_add(self.reserved.0))
    }
}

impl From<NanoUsd> for Spent {
    fn from(posted: NanoUsd) -> Self {
        Self { posted, reserved: NanoUsd::ZERO }
    }
}

impl From<Amount> for Cost {
    fn from(amount: Amount) -> Self {
        Self { amount, is_unpriced: false }
    }
}
