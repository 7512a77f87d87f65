//! The budgets that operators give to teams and workspaces.

use std::{collections::BTreeMap, sync::Arc};

use aa_budget::{Limits, Period};
use aa_protocol::{AgentFacts, NanoUsd, Timestamp};
use serde::{Deserialize, Serialize};

use crate::spender::{MAX_TEAM_BYTES, Spender};

/// A budget of a team or of the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetRecord {
    /// Whose it is; never one agent's, whose budgets are in policies.
    pub spender: Spender,
    /// How often it starts anew, in UTC.
    pub period: Period,
    /// The most that may be spent: money, tokens or both.
    pub limits: Limits,
    /// What happens when a call would pass a limit.
    pub action: OnExceeded,
    /// At how many per cent of the limits somebody is told, ascending.
    pub alert_at: Vec<u64>,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Who changed it: `key:<id>`.
    pub updated_by: String,
}

/// What happens when a call would pass a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExceeded {
    /// The call is refused.
    #[default]
    Deny,
    /// The call goes on and somebody is told.
    Alert,
}

/// A budget as an operator writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetTerms {
    /// Whose it is.
    pub spender: Spender,
    /// How often it starts anew.
    pub period: Period,
    /// The most that may be spent.
    pub limits: Limits,
    /// What happens when a call would pass a limit.
    pub action: OnExceeded,
    /// At how many per cent of the limits somebody is told; [`DEFAULT_ALERTS`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_at: Option<Vec<u64>>,
}

/// All budgets of a workspace, by spender and period.
#[derive(Clone, Debug, Default)]
pub struct BudgetBook(BTreeMap<(Spender, Period), Arc<BudgetRecord>>);

/// Why a budget was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum BudgetError {
    /// Neither money nor tokens are limited.
    #[error("the budget limits nothing; set a cost limit, a token limit or both")]
    NoLimit,
    /// The cost limit is not positive.
    #[error(
        "the cost limit {0} is not above zero; to stop all spending, deny the model in a policy"
    )]
    CostNotPositive(NanoUsd),
    /// The token limit is zero.
    #[error("the token limit is 0; to stop all calls, deny the model in a policy")]
    NoTokens,
    /// The thresholds are not ascending numbers from 1 to 100, or too many.
    #[error(
        "alert thresholds are up to {MAX_ALERTS} ascending numbers from 1 to 100, such as 50, 80, 100"
    )]
    Thresholds,
    /// The team's name is empty or too long.
    #[error("a team's name has 1 to {MAX_TEAM_BYTES} bytes")]
    TeamName,
    /// It is of one agent.
    #[error("the budgets of single agents are written in policies, under `budget`")]
    OfAgent,
    /// The workspace is full.
    #[error("the workspace has {MAX_BUDGETS} budgets, the most there can be; remove one")]
    TooMany,
    /// There is no such budget.
    #[error("there is no {period} budget of {spender}")]
    Unknown {
        /// Whose.
        spender: Spender,
        /// Which.
        period: Period,
    },
}

/// The most budgets of a workspace.
pub const MAX_BUDGETS: usize = 10_000;

/// The most thresholds of a budget.
pub const MAX_ALERTS: usize = 8;

/// The thresholds of a budget that names none, and of those in policies, in per cent.
pub const DEFAULT_ALERTS: [u64; 3] = [50, 80, 100];

// === impl BudgetTerms ===

impl BudgetTerms {
    /// The record of these terms.
    ///
    /// # Errors
    /// What is wrong with them; see [`BudgetError`].
    pub fn into_record(self, now: Timestamp, by: String) -> Result<BudgetRecord, BudgetError> {
        let Self { spender, period, limits, action, alert_at } = self;
        match &spender {
            Spender::Agent(_) => return Err(BudgetError::OfAgent),
            Spender::Team(team) if team.is_empty() || team.len() > MAX_TEAM_BYTES => {
                return Err(BudgetError::TeamName);
            }
            Spender::Team(_) | Spender::Workspace => {}
        }
        match limits {
            Limits { cost: None, tokens: None } => return Err(BudgetError::NoLimit),
            Limits { cost: Some(cost), .. } if cost.0 <= 0 => {
                return Err(BudgetError::CostNotPositive(cost));
            }
            Limits { tokens: Some(0), .. } => return Err(BudgetError::NoTokens),
            Limits { .. } => {}
        }
        let alert_at = alert_at.unwrap_or_else(|| DEFAULT_ALERTS.to_vec());
        let ascends = alert_at.is_sorted_by(|a, b| a < b);
        let in_range = alert_at.iter().all(|percent| (1..=100).contains(percent));
        if !ascends || !in_range || alert_at.len() > MAX_ALERTS {
            return Err(BudgetError::Thresholds);
        }
        Ok(BudgetRecord {
            spender,
            period,
            limits,
            action,
            alert_at,
            updated_at: now,
            updated_by: by,
        })
    }
}

// === impl BudgetBook ===

impl BudgetBook {
    /// The budget of a spender's window.
    pub fn get(&self, spender: &Spender, period: Period) -> Option<&Arc<BudgetRecord>> {
        // The map is small, and the key's spender cheap to clone.
        self.0.get(&(spender.clone(), period))
    }

    /// Puts a budget in the place of the one there was.
    pub fn set(&mut self, record: BudgetRecord) {
        self.0.insert((record.spender.clone(), record.period), Arc::new(record));
    }

    /// Takes a budget away.
    pub fn remove(&mut self, spender: &Spender, period: Period) -> Option<Arc<BudgetRecord>> {
        self.0.remove(&(spender.clone(), period))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every budget.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<BudgetRecord>> {
        self.0.values()
    }

    /// The budgets that an agent shares, those of its team first.
    pub fn of_agent(&self, facts: &AgentFacts) -> impl Iterator<Item = &Arc<BudgetRecord>> {
        let team = facts.team.as_deref().map(|team| Spender::Team(team.into()));
        let spenders = team.into_iter().chain([Spender::Workspace]);
        spenders.flat_map(move |spender| {
            Period::ALL.into_iter().filter_map(move |period| self.0.get(&(spender.clone(), period)))
        })
    }
}

// === impl OnExceeded ===

impl OnExceeded {
    /// The name in commands and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Alert => "alert",
        }
    }
}
