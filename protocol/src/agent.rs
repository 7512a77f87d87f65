//! What is known of an agent when an action is decided.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::id::AgentId;

/// The registered facts of an agent. Scopes match against them and conditions read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentFacts {
    /// The registered id.
    pub id: AgentId,
    /// The name shown to people; unique in its workspace when ids are derived from names.
    #[serde(default)]
    pub name: String,
    /// The organisation, matched by `org:` scopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// The team, matched by `team:` scopes and by team budgets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// How closely the agent is governed.
    #[serde(default)]
    pub governance_level: GovernanceLevel,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The governance tier of an agent: `L0 < L1 < L2 < L3`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum GovernanceLevel {
    /// The default tier.
    #[default]
    L0,
    /// Tier 1.
    L1,
    /// Tier 2.
    L2,
    /// The most closely governed tier.
    L3,
}

/// A text that is none of `L0` to `L3`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a governance level; use L0, L1, L2 or L3")]
pub struct GovernanceLevelError(String);

impl GovernanceLevel {
    /// Every level, lowest first.
    pub const ALL: [Self; 4] = [Self::L0, Self::L1, Self::L2, Self::L3];

    /// The name as policies write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::L0 => "L0",
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        }
    }
}

impl fmt::Display for GovernanceLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for GovernanceLevel {
    type Err = GovernanceLevelError;

    fn from_str(text: &str) -> Result<Self, GovernanceLevelError> {
        Self::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| GovernanceLevelError(text.chars().take(32).collect()))
    }
}
