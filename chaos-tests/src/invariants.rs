//! What must hold after every run, whatever happened in it.
//!
//! 1. No acknowledged decision without its entry, none twice, every chain verifies: [`check_export`] and
//!    [`check_export_file`].
//! 2. `posted + reserved ≤ limit` in every committed state of every budget window: [`crate::money`] sees them all.
//! 3. No action allowed that the policy in force at its decision denies: [`Replay`] decides every exported
//!    action again, from the documents in force at its time.
//! 4. At most one owner's epoch commits per shard at a time: [`ShardWatch`] compares what a store holds from
//!    one look to the next.
//! 5. Nothing of one tenant is readable by another: [`check_tenancy`] asks every operator's route and every
//!    registration with another workspace's key.
//!
//! Each check returns the first [`Violation`] it finds, with the values that show it.

mod record;
mod replay;
mod shards;
mod tenancy;

use aa_protocol::{ActionId, AgentId, EventId, Timestamp, Verdict};

pub use self::{
    record::{Acknowledged, Recorded, check_export, check_export_file, entries},
    replay::{PolicySources, Replay, Replayed, SourceKey},
    shards::{ShardState, ShardWatch, shard_states},
    tenancy::{TenancyChecked, Tenant, check_tenancy},
};

/// What must never be, and was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The export is no export, or cannot be read.
    #[error("the export cannot be read: {0}")]
    Unreadable(String),
    /// The verifier refuses the export.
    #[error("the export does not verify:\n{0}")]
    NotIntact(String),
    /// A line of a verified export does not read as an entry.
    #[error("line {line} of the export is no entry: {problem}")]
    NoEntry {
        /// 1-based line.
        line: u64,
        /// Why.
        problem: String,
    },
    /// A client was told a decision that the log does not have.
    #[error("action {action} was acknowledged by {event} and is not in the log")]
    Lost {
        /// The action.
        action: ActionId,
        /// The entry the client was told.
        event: EventId,
    },
    /// The log has a decision under another id than the client was told.
    #[error("action {action} was acknowledged by {told} and is recorded by {recorded}")]
    OtherEvent {
        /// The action.
        action: ActionId,
        /// What the client was told.
        told: EventId,
        /// What the log has.
        recorded: EventId,
    },
    /// A client was told two entries for one action.
    #[error("action {action} was acknowledged by {first} and again by {second}")]
    ToldTwice {
        /// The action.
        action: ActionId,
        /// One of them.
        first: EventId,
        /// The other.
        second: EventId,
    },
    /// An action was decided twice.
    #[error("action {action} is recorded by {first} and again by {second}")]
    RecordedTwice {
        /// The action.
        action: ActionId,
        /// The earlier entry.
        first: EventId,
        /// The later entry.
        second: EventId,
    },
    /// A client was told another verdict than the log has.
    #[error("{event} was told as {told} and is recorded as {recorded}")]
    OtherVerdict {
        /// The entry.
        event: EventId,
        /// What the client was told.
        told: Verdict,
        /// What the log has.
        recorded: Verdict,
    },
    /// An action was treated more leniently than the policies in force say.
    #[error(
        "{event} of {time}: {recorded} is recorded, but the policies in force ({policies}) say {due}: {reason}"
    )]
    AgainstPolicy {
        /// The entry.
        event: EventId,
        /// When it was decided.
        time: Timestamp,
        /// What was decided.
        recorded: Verdict,
        /// What had to be decided.
        due: Verdict,
        /// The documents in force, with revisions.
        policies: String,
        /// The first reason for what was due.
        reason: String,
    },
    /// A decision names documents that were not those in force.
    #[error("{event} of {time} was decided by {recorded}; in force were {due}")]
    NotInForce {
        /// The entry.
        event: EventId,
        /// When it was decided.
        time: Timestamp,
        /// The documents it names.
        recorded: String,
        /// The documents it had to name.
        due: String,
    },
    /// A decision of an agent that the log never registered.
    #[error("{event} decides an action of agent {agent}, which no entry before it registered")]
    Unregistered {
        /// The entry.
        event: EventId,
        /// The agent.
        agent: AgentId,
    },
    /// A document is not the one whose digest the log has, or does not compile.
    #[error("policy `{name}` revision {revision}: {problem}")]
    Source {
        /// The policy.
        name: String,
        /// Its revision.
        revision: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A shard's log lacks positions or has them twice.
    #[error("shard {shard} of {workspace}: position {found} comes where {expected} was due")]
    Gap {
        /// The shard.
        shard: u16,
        /// The workspace whose log it is.
        workspace: String,
        /// The position that was due.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// A shard's epoch went back, or two owners had the same one.
    #[error(
        "shard {shard}: epoch {epoch} of {owner} follows epoch {earlier_epoch} of {earlier_owner}"
    )]
    Epoch {
        /// The shard.
        shard: u16,
        /// What it is now.
        epoch: u64,
        /// Whose it is now.
        owner: String,
        /// What it was at the earlier look.
        earlier_epoch: u64,
        /// Whose it was.
        earlier_owner: String,
    },
    /// A shard's log is shorter than it was.
    #[error("shard {shard} of {workspace}: its log ended at {earlier} and now ends at {end}")]
    Shrunk {
        /// The shard.
        shard: u16,
        /// The workspace whose log it is.
        workspace: String,
        /// Its end at the earlier look.
        earlier: u64,
        /// Its end now.
        end: u64,
    },
    /// One tenant's key had an answer about another.
    #[error("{who} asked {what} and was answered {status}: {answer}")]
    Leaked {
        /// Whose credential.
        who: String,
        /// The request.
        what: String,
        /// The status of the answer.
        status: String,
        /// The beginning of the answer.
        answer: String,
    },
}
