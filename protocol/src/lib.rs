//! What two parts of Agent Assembly agree on: typed ids, money, time, the vocabulary of actions and
//! decisions and, behind the feature `grpc`, the generated messages of the gateway.
//!
//! It refuses to know how anything is decided, stored or sent. It has no clock and no randomness:
//! ids and times are made by the runtime's clock and passed in.
//!
//! The path of a value: an SDK builds an [`Action`] about an agent ([`AgentFacts`]); the gateway carries
//! it as a protobuf message (`wire`) to the agent's actor; the answer is a [`Decision`].

pub mod action;
pub mod agent;
pub mod decision;
pub mod id;
pub mod json;
pub mod money;
pub mod time;
#[cfg(feature = "grpc")]
pub mod wire;

pub use action::{
    Action, ActionKind, CallEnd, MAX_FINISH_REASON_CHARS, MAX_PROVIDER_ID_CHARS, Observed, Usage,
};
pub use agent::{AgentFacts, GovernanceLevel};
pub use decision::{ApprovalTerms, BudgetStanding, Decision, Finding, Reason, ReasonCode, Verdict};
pub use id::{ActionId, AgentId, ApprovalId, BudgetId, EventId, IdError, WorkspaceId};
pub use json::{JsonError, parse_json};
pub use money::NanoUsd;
pub use time::Timestamp;
