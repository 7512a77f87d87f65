//! Who spends, and in which windows it is counted.

use std::{fmt, sync::Arc};

use aa_budget::{Calendar, Period};
use aa_ledger::Stream;
use aa_protocol::{AgentId, BudgetId, WorkspaceId};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// Whose money it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spender {
    /// One agent's, under the budgets of its policies.
    Agent(AgentId),
    /// That of all agents registered with this team.
    Team(#[serde(with = "arc_str")] Arc<str>),
    /// That of every agent of the workspace.
    Workspace,
}

/// A window of a spender: the identity of its actor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WindowId {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Whose spending it counts.
    pub spender: Spender,
    /// How often it starts anew.
    pub period: Period,
    /// The IANA name of the zone whose midnight counts.
    #[serde(with = "arc_str")]
    pub zone: Arc<str>,
}

/// The longest name of a team, in bytes: agents register with one of at most 128 characters.
pub const MAX_TEAM_BYTES: usize = 4 * 128;

// === impl Spender ===

impl fmt::Display for Spender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(agent) => write!(f, "agent {agent}"),
            Self::Team(team) => write!(f, "team {team}"),
            Self::Workspace => f.write_str("workspace"),
        }
    }
}

// === impl WindowId ===

impl WindowId {
    /// A window in UTC, as those of teams and workspaces are.
    pub fn utc(workspace: WorkspaceId, spender: Spender, period: Period) -> Self {
        Self { workspace, spender, period, zone: "UTC".into() }
    }

    /// When it begins and ends. A zone that this program no longer knows is read as UTC.
    pub fn calendar(&self) -> Calendar {
        Calendar::new(self.period, TimeZone::get(&self.zone).unwrap_or(TimeZone::UTC))
    }

    /// The id its audit stream goes by.
    pub fn budget_id(&self) -> BudgetId {
        let Self { spender, period, zone, .. } = self;
        // Neither a period nor a zone holds a colon.
        let name = match spender {
            Spender::Agent(agent) => format!("agent:{agent}:{period}:{zone}"),
            Spender::Team(team) => format!("team:{period}:{zone}:{team}"),
            Spender::Workspace => format!("workspace:{period}:{zone}"),
        };
        BudgetId::of_name(self.workspace, &name)
    }

    /// Its audit stream.
    pub fn stream(&self) -> Stream {
        Stream::Budget(self.budget_id())
    }
}

impl fmt::Display for WindowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workspace, spender, period, zone } = self;
        write!(f, "{workspace}/{period} {zone} of {spender}")
    }
}

/// A shared text in a record.
mod arc_str {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_has_a_stream_of_its_own() {
        let workspace: WorkspaceId = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        let agent = AgentId::of_name(workspace, "a");
        let team = |name: &str| Spender::Team(name.into());
        let spenders = [
            Spender::Agent(agent),
            team("a"),
            team("daily:UTC:a"),
            team(&format!("agent:{agent}")),
            Spender::Workspace,
        ];
        let mut ids: Vec<_> = spenders
            .iter()
            .flat_map(|spender| Period::ALL.map(|period| (spender.clone(), period)))
            .map(|(spender, period)| WindowId::utc(workspace, spender, period).budget_id())
            .collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
