//! What is asked of an agent, and what it answers.

use std::borrow::Cow;

use aa_ledger::UNSEEN;
use aa_protocol::{Action, ActionId, AgentFacts, AgentId, ApprovalId, EventId, Timestamp};
use aa_runtime::Reply;
use serde::{Deserialize, Serialize};

use super::{Charge, Metered, travelling_action::TravellingAction};
use crate::{agent_record::AgentRecord, decided::Decided};

/// What an agent's actor is asked.
#[derive(Debug)]
pub enum AgentMessage {
    /// Registers the agent, or a further key of it.
    Register(Registration, Reply<AgentFacts>),
    /// Decides actions, in their order.
    Check(Vec<Check>),
    /// Records an event.
    Record(Report, Reply<Result<EventId, NotRegistered>>),
    /// Records that something the agent sent was refused at the edge.
    Refuse(Refusal, Reply<()>),
    /// Suspends or resumes the agent.
    SetStatus(StatusChange, Reply<Result<AgentRecord, NotRegistered>>),
    /// Something that an action of this agent waits for has come.
    Metered(Metered),
}

/// The facts an agent registers with. Possession of the key is proven by now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registration {
    /// What policies will see; its id is the actor's.
    pub facts: AgentFacts,
    /// Ed25519, base64url without padding.
    pub public_key: String,
    /// Whose API key it came with: `key:<id>`.
    pub actor: String,
}

/// An action with the way back for its decision.
#[derive(Debug)]
pub struct Check {
    /// What is to be decided.
    pub request: Request,
    /// Answered once the decision is durable.
    pub reply: Reply<Result<Answer, NotRegistered>>,
}

/// An action to be decided.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The client's idempotency key.
    pub id: ActionId,
    /// W3C trace id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<[u8; 16]>,
    /// W3C id of the span that it is a child of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_span: Option<[u8; 8]>,
    /// The action.
    #[serde(with = "TravellingAction")]
    pub action: Action,
    /// When the gateway received it.
    pub received: Timestamp,
    /// The request for approval that it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
    /// The run of the agent's program that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What the program says about it to those who approve; at most [`MAX_CONTEXT`](super::MAX_CONTEXT) characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// One run of an agent's program: the approvals for a session are for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// A decision that is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The decision.
    pub decision: Decided,
    /// Its audit entry.
    pub event: EventId,
    /// Microseconds from receipt to decision.
    pub latency_us: u64,
    /// Whether it is the recorded answer to an earlier action with the same id.
    pub repeated: bool,
    /// What became of what was reserved for the call that a result answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charge: Option<Charge>,
    /// The request for approval that a person has to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
}

/// Something that happened outside a decision.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The client's idempotency key.
    pub id: ActionId,
    /// W3C trace id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<[u8; 16]>,
    /// W3C id of the span that it is a child of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_span: Option<[u8; 8]>,
    /// What it is about.
    #[serde(with = "TravellingAction")]
    pub action: Action,
    /// How it ended.
    pub outcome: ReportOutcome,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// When it happened, when that is earlier than the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// The run of the agent's program that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

/// How something ended that an agent reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportOutcome {
    /// As it should.
    Ok,
    /// With an error.
    Error,
    /// Somebody stopped it.
    Cancelled,
    /// It was not put before a policy.
    Ungoverned,
    /// Nobody looked: a connection that was let through as it was.
    Unseen,
}

/// Input of a known agent that the edge refused.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// A stable name of what was wrong, such as `malformed_action`.
    pub code: Cow<'static, str>,
    /// A sentence that quotes nothing of the input.
    pub message: String,
}

/// An operator's change of an agent's status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusChange {
    /// Suspend, or resume.
    pub suspend: bool,
    /// Who: `key:<id>`.
    pub actor: String,
    /// Why, in the operator's words.
    pub reason: String,
}

/// The actor's id is of no registered agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("agent {0} is not registered in this workspace; register it first")]
pub struct NotRegistered(pub AgentId);

// === impl Request ===

impl Request {
    /// An action of which nothing more is known than when it was received.
    pub const fn new(id: ActionId, action: Action, received: Timestamp) -> Self {
        Self {
            id,
            trace: None,
            parent_span: None,
            action,
            received,
            approval: None,
            session: None,
            context: None,
        }
    }
}

// === impl ReportOutcome ===

impl ReportOutcome {
    /// The name in entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::Ungoverned => "ungoverned",
            Self::Unseen => UNSEEN,
        }
    }
}
