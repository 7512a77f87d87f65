//! What the store holds of an agent, apart from its chain.

use aa_budget::Period;
use aa_ledger::Stream;
use aa_protocol::{AgentFacts, NanoUsd, Timestamp, WorkspaceId};
use aa_store::Transaction;
use serde::{Deserialize, Serialize};

use crate::{chain::decode_head, governance::GovernanceError, keys, stored::Damaged};

/// A registered agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// What policies see of it.
    pub facts: AgentFacts,
    /// When it first registered.
    pub registered_at: Timestamp,
    /// The keys it proved to hold, newest last; at most [`MAX_KEYS`].
    pub keys: Vec<AgentKey>,
    /// Set while an operator has it suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspension>,
    /// Set while a budget of its policies has it suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_suspension: Option<BudgetSuspension>,
    /// The id of the API key it last registered with: its holder approves nothing of this agent.
    #[serde(default)]
    pub registered_by: String,
}

/// A budget's suspension of an agent. It ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSuspension {
    /// The policy whose budget it is.
    pub policy: String,
    /// The revision that was in force; another one ends the suspension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The window that is used up.
    pub window: Period,
    /// Since when.
    pub at: Timestamp,
    /// When the window starts anew.
    pub until: Timestamp,
    /// What calls had cost.
    pub spent: NanoUsd,
    /// What was set aside for calls under way.
    pub reserved: NanoUsd,
}

/// A public key of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentKey {
    /// Ed25519, base64url without padding.
    pub public_key: String,
    /// When possession of it was last proven.
    pub proven_at: Timestamp,
}

/// An operator's suspension of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Since when.
    pub at: Timestamp,
    /// Who: `key:<id>`.
    pub by: String,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// An agent as operators see it.
#[derive(Clone, Debug)]
pub struct AgentStatus {
    /// What is registered.
    pub record: AgentRecord,
    /// How many entries its chain has.
    pub entries: u64,
}

/// Every process of an agent makes a key of its own; the oldest is forgotten past this many.
pub const MAX_KEYS: usize = 16;

impl AgentRecord {
    /// Notes that possession of `public_key` was proven at `now`.
    pub fn prove_key(&mut self, public_key: &str, now: Timestamp) {
        self.keys.retain(|known| known.public_key != public_key);
        self.keys.push(AgentKey { public_key: public_key.to_owned(), proven_at: now });
        let surplus = self.keys.len().saturating_sub(MAX_KEYS);
        self.keys.drain(..surplus);
    }
}

impl AgentStatus {
    pub(crate) async fn read(
        txn: &mut dyn Transaction,
        workspace: WorkspaceId,
        record: AgentRecord,
    ) -> Result<Self, GovernanceError> {
        let at = keys::head(workspace, Stream::Agent(record.facts.id));
        let entries = match txn.get_snapshot(&at).await? {
            Some(stored) => decode_head(&stored).ok_or_else(|| Damaged::at(&at))?.1.sequence,
            None => 0,
        };
        Ok(Self { record, entries })
    }
}
