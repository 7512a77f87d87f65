//! One line of the ledger: what is sealed, and what is read back.

mod encode;
mod escape;
mod parse;

use std::{collections::BTreeMap, fmt, str::FromStr};

use aa_protocol::{
    AgentId, ApprovalId, ApprovalTerms, BudgetId, Decision, EventId, Finding, Reason, Timestamp,
    Verdict, WorkspaceId,
};
use serde::{Deserialize, Serialize};

pub use self::encode::{seal, seal_rendered};
pub(crate) use self::escape::write_string;
use crate::{Hash, format::KINDS, summary::ActionSummary};

/// What an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An agent registered.
    Registration,
    /// An action was decided.
    Decision,
    /// An agent reported after the fact; outcome and duration are in `detail`.
    Event,
    /// Input of a known agent was malformed or forged and refused.
    Refusal,
    /// An agent was suspended or resumed.
    Status,
    /// A policy was applied, rolled back or removed.
    Policy,
    /// A key was created or revoked.
    Key,
    /// The workspace was created.
    Workspace,
    /// A budget or a price was set, or a budget reached a threshold, refused, or posted what nobody settled.
    Budget,
    /// An approval was asked for, answered, escalated, used or expired.
    Approval,
    /// A secret was set or deleted, or the keys of the vault were rotated. Never what a secret is.
    Secret,
    /// It was set who is told of what, or somebody could not be told.
    Alert,
}

/// The outcome in the details of an [`Kind::Event`] whose action nobody looked at, such as a connection that was let
/// through as it was.
pub const UNSEEN: &str = "unseen";

/// The chain an entry belongs to. Text form: `workspace`, `policies`, `vault`, `alerts`, `agent:<uuid>`,
/// `budget:<uuid>` or `approval:<uuid>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// What happens to the workspace itself.
    Workspace,
    /// What happens to its policies.
    Policies,
    /// What one agent does and what happens to it.
    Agent(AgentId),
    /// What happens in one budget window.
    Budget(BudgetId),
    /// What becomes of one request for approval.
    Approval(ApprovalId),
    /// What happens to its secrets and their keys.
    Vault,
    /// What happens to its alerts.
    Alerts,
}

/// A text that names no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a stream; use workspace, policies, vault, alerts, agent:<uuid>, budget:<uuid> or \
     approval:<uuid>"
)]
pub struct StreamError(String);

/// The last entry of a stream; the default is a stream without entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// Its sequence number, from 1; 0 before the first entry.
    pub sequence: u64,
    /// Its hash; zeros before the first entry.
    pub hash: Hash,
}

/// A policy document that took part in a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    /// The document's name.
    pub name: String,
    /// The revision the workspace gave it.
    pub revision: u64,
}

/// A decision that many actions get, rendered once for the entries of all.
#[derive(Clone, Debug)]
pub struct RenderedDecision {
    decision: Decision,
    policies: Vec<PolicyRef>,
    /// The members `verdict` to `policies` as they are near the beginning of a line.
    text: Vec<u8>,
    /// Whether they had to leave something out.
    cut: bool,
}

/// An entry before it has its place in a chain. Texts longer than the format's bounds are cut when it is
/// sealed, so every draft can be.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// The entry's id.
    pub id: EventId,
    /// The tenant.
    pub workspace: WorkspaceId,
    /// The chain.
    pub stream: Stream,
    /// When it happened, from the years 1970 to 9999.
    pub time: Timestamp,
    /// What it records.
    pub kind: Kind,
    /// Who caused it when it was not the agent, such as an operator's key name; at most 256 characters.
    pub actor: Option<&'a str>,
    /// The action it is about.
    pub action: Option<&'a ActionSummary<'a>>,
    /// How that was decided: at most 64 reasons and 64 findings.
    pub decision: Option<&'a Decision>,
    /// The documents that took part; at most 64.
    pub policies: &'a [PolicyRef],
    /// How long the decision took, in microseconds.
    pub latency_us: Option<u64>,
    /// The W3C trace id.
    pub trace: Option<[u8; 16]>,
    /// The W3C id of the span that the action is a child of.
    pub parent_span: Option<[u8; 8]>,
    /// More facts: keys of at most 64 of `a`–`z`, `0`–`9`, `_`, `-`, `.`; values of at most 1 024
    /// characters; sorted when sealed, the first of equal keys stays. Must hold no secret.
    pub detail: &'a [(&'a str, &'a str)],
}

/// An entry as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: EventId,
    /// The tenant.
    pub workspace: WorkspaceId,
    /// The chain it is in.
    pub stream: Stream,
    /// Its place in the chain, from 1.
    pub sequence: u64,
    /// When it happened.
    pub time: Timestamp,
    /// What it records.
    pub kind: Kind,
    /// Who caused it when it was not the agent.
    pub actor: Option<String>,
    /// The action it is about.
    pub action: Option<ActionSummary<'static>>,
    /// How the action was decided.
    pub verdict: Option<Verdict>,
    /// Why; empty without a verdict.
    pub reasons: Vec<Reason>,
    /// Who must approve and by when.
    pub approval: Option<ApprovalTerms>,
    /// Where sensitive text was found.
    pub findings: Vec<Finding>,
    /// The documents that took part.
    pub policies: Vec<PolicyRef>,
    /// How long the decision took, in microseconds.
    pub latency_us: Option<u64>,
    /// The W3C trace id.
    pub trace: Option<[u8; 16]>,
    /// The W3C id of the span that the action is a child of.
    pub parent_span: Option<[u8; 8]>,
    /// More facts.
    pub detail: BTreeMap<String, String>,
    /// Whether something was left out to bound the entry.
    pub cut: bool,
    /// The hash of the entry before it in its stream.
    pub prev: Hash,
    /// The id of the key that authenticates it.
    pub mac_key: String,
}

/// A line that is not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The line is longer than the format allows.
    #[error("the entry has {bytes} bytes; an entry has at most {}", crate::format::MAX_ENTRY_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The line is not the JSON of an entry.
    #[error("the line is not an audit entry: {problem} at column {column}")]
    Malformed {
        /// What is wrong.
        problem: String,
        /// 1-based byte column.
        column: usize,
    },
    /// The entry is of a version this program does not know.
    #[error("the entry has format version {0}; this program reads version 1, so use a newer one")]
    Version(u64),
}

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Registration,
        Self::Decision,
        Self::Event,
        Self::Refusal,
        Self::Status,
        Self::Policy,
        Self::Key,
        Self::Workspace,
        Self::Budget,
        Self::Approval,
        Self::Secret,
        Self::Alert,
    ];

    /// The name in entries.
    pub const fn as_str(self) -> &'static str {
        KINDS[self as usize]
    }

    /// The kind of a name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Stream ===

impl Stream {
    /// The agent whose stream it is.
    pub const fn agent(&self) -> Option<AgentId> {
        match self {
            Self::Agent(id) => Some(*id),
            Self::Workspace
            | Self::Policies
            | Self::Vault
            | Self::Alerts
            | Self::Budget(_)
            | Self::Approval(_) => None,
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workspace => f.write_str("workspace"),
            Self::Policies => f.write_str("policies"),
            Self::Vault => f.write_str("vault"),
            Self::Alerts => f.write_str("alerts"),
            Self::Agent(id) => write!(f, "agent:{id}"),
            Self::Budget(id) => write!(f, "budget:{id}"),
            Self::Approval(id) => write!(f, "approval:{id}"),
        }
    }
}

impl FromStr for Stream {
    type Err = StreamError;

    fn from_str(text: &str) -> Result<Self, StreamError> {
        let named = match text.split_once(':') {
            None if text == "workspace" => Some(Self::Workspace),
            None if text == "policies" => Some(Self::Policies),
            None if text == "vault" => Some(Self::Vault),
            None if text == "alerts" => Some(Self::Alerts),
            Some(("agent", id)) => id.parse().ok().map(Self::Agent),
            Some(("budget", id)) => id.parse().ok().map(Self::Budget),
            Some(("approval", id)) => id.parse().ok().map(Self::Approval),
            _ => None,
        };
        named.ok_or_else(|| StreamError(text.chars().take(64).collect()))
    }
}

// === impl ChainHead ===

impl Default for ChainHead {
    fn default() -> Self {
        Self { sequence: 0, hash: Hash::ZERO }
    }
}

// === impl Draft ===

impl Draft<'_> {
    /// An entry of which nothing more is known.
    pub const fn new(
        id: EventId,
        workspace: WorkspaceId,
        stream: Stream,
        time: Timestamp,
        kind: Kind,
    ) -> Self {
        Self {
            id,
            workspace,
            stream,
            time,
            kind,
            actor: None,
            action: None,
            decision: None,
            policies: &[],
            latency_us: None,
            trace: None,
            parent_span: None,
            detail: &[],
        }
    }
}

// === impl Entry ===

impl Entry {
    /// The agent in whose stream it is.
    pub const fn agent(&self) -> Option<AgentId> {
        self.stream.agent()
    }

    /// How the action of an [`Kind::Event`] ended, as it was reported: `ok`, `error`, `cancelled`, `ungoverned` or
    /// [`UNSEEN`].
    pub fn outcome(&self) -> Option<&str> {
        let outcome = self.detail.get("outcome").map(String::as_str);
        outcome.filter(|_| self.kind == Kind::Event)
    }

    /// The decision it recorded, to answer a repeat of the action; texts past the format's bounds are
    /// as cut as in the entry.
    pub fn decision(&self) -> Option<Decision> {
        self.verdict.map(|verdict| Decision {
            verdict,
            reasons: self.reasons.clone(),
            approval: self.approval.clone(),
            findings: self.findings.clone(),
        })
    }
}
