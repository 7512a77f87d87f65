//! What the store holds of alerts on their way, and what operators see of them.

use aa_notify::{Destination, Message, Rule};
use aa_protocol::Timestamp;
use serde::{Deserialize, Serialize};

/// A message on its way to a destination. It stays until the destination has taken it, so it goes out at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// Names it within its workspace.
    pub id: u64,
    /// Where it goes.
    pub destination: String,
    /// What goes there.
    pub message: Message,
    /// How often that was tried.
    pub attempts: u32,
    /// When it was tried first; when it was made, until then.
    pub first_at: Timestamp,
    /// When it is tried next.
    pub next_at: Timestamp,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A message that was given up. It stays until an operator sends it again or discards it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    /// The message, and how it went.
    pub delivery: Delivery,
    /// When it was given up.
    pub given_up_at: Timestamp,
}

/// The alerts of a workspace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlertStatus {
    /// Where people are told.
    pub destinations: Vec<DestinationStatus>,
    /// Of what.
    pub rules: Vec<Rule>,
    /// How many messages were given up and are kept.
    pub dead_letters: usize,
    /// Why the log is not read for events, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A destination and how it is doing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DestinationStatus {
    /// The destination.
    pub destination: Destination,
    /// Messages that it has not taken yet.
    pub waiting: usize,
    /// Events that are counted, to be told as one.
    pub folded: u64,
    /// Why the latest attempt failed; none after one that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When it last took a message, since the process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_taken: Option<Timestamp>,
}

/// The most messages that wait for one destination; past it they are dead letters at once.
pub const MAX_WAITING: usize = 500;

/// The most dead letters of a workspace; past it the oldest go.
pub const MAX_DEAD_LETTERS: usize = 1_000;
