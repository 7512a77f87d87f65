//! What people are told of, and how it is read off the audit log.

mod of_entry;

use std::{collections::BTreeSet, fmt, str::FromStr};

use aa_protocol::{AgentId, ApprovalId, EventId, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::text::{bounded, plain};

/// Something people may want to know. It holds names, amounts and reasons, and no payload of an action, because the
/// entry it is read from holds none.
///
/// Every text in it is plain: no control characters, no marks that turn the direction of writing, and at most the
/// bytes that are named here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The id of the audit entry.
    pub id: EventId,
    /// When it happened.
    pub at: Timestamp,
    /// The tenant.
    pub workspace: WorkspaceId,
    /// What happened.
    pub kind: EventKind,
    /// How much it matters.
    pub severity: Severity,
    /// One line for people, without the agent's name; at most [`MAX_TITLE_BYTES`].
    pub title: String,
    /// The agent it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// That agent's name, where somebody looked it up ([`Event::with_agent`]); at most [`MAX_NAME_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
    /// The team whose budget it is, or the agent's where somebody looked it up; at most [`MAX_TEAM_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The request for approval it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
    /// The policy that decided; at most [`MAX_POLICY_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// More of it, in the order to be shown.
    #[serde(default, skip_serializing_if = "Facts::is_empty")]
    pub facts: Facts,
}

/// Facts in the order to be shown: at most [`MAX_FACTS`], each key once, values of at most [`MAX_FACT_BYTES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(Vec<(String, String)>);

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An action was denied, or input of an agent was malformed or forged and refused.
    Violation,
    /// Spending has reached a threshold of a budget.
    BudgetThreshold,
    /// A budget refuses calls.
    BudgetExceeded,
    /// A person is asked to approve an action.
    ApprovalNeeded,
    /// Nobody has answered yet, and more people are asked.
    ApprovalEscalated,
    /// A request was approved, denied, or expired.
    ApprovalDecided,
    /// An agent was suspended.
    AgentSuspended,
    /// An agent was resumed.
    AgentResumed,
    /// The audit log did not verify.
    AuditVerificationFailed,
    /// Nothing: somebody tries a destination. No rule names it.
    Test,
}

/// How much an event matters; the order is that of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look at it.
    Warning,
    /// Somebody should look at it now.
    Critical,
}

/// A text that names no kind of event, or no severity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}; use one of {known}")]
pub struct UnknownName {
    text: String,
    what: &'static str,
    known: String,
}

/// The longest title, in bytes.
pub const MAX_TITLE_BYTES: usize = 256;
/// The longest name of an agent, in bytes; a longer one ends in `…`.
pub const MAX_NAME_BYTES: usize = 128;
/// The longest name of a team, in bytes. It is not cut below what agents register with, since rules compare it.
pub const MAX_TEAM_BYTES: usize = 512;
/// The longest name of a policy, in bytes. It is not cut below what entries hold, since rules compare it.
pub const MAX_POLICY_BYTES: usize = 1_024;
/// The most facts of an event.
pub const MAX_FACTS: usize = 16;
/// The longest value of a fact, in bytes; a longer one ends in `…`.
pub const MAX_FACT_BYTES: usize = 400;

// === impl Event ===

impl Event {
    /// An event that says it is a test of the destination of that name. Its id is of no audit entry.
    pub fn test(id: EventId, workspace: WorkspaceId, at: Timestamp, destination: &str) -> Self {
        let title = format!("this is a test of the destination {destination}; nothing happened");
        Self { kind: EventKind::Test, ..Self::of_no_entry(id, workspace, at, &title) }
    }

    /// An entry of the audit log that cannot be read. Its id is of no audit entry.
    pub fn unreadable(id: EventId, workspace: WorkspaceId, at: Timestamp, place: &str) -> Self {
        let title = format!("the audit log is damaged: the entry at {place} cannot be read");
        let severity = Severity::Critical;
        Self { severity, ..Self::of_no_entry(id, workspace, at, &title) }
    }

    fn of_no_entry(id: EventId, workspace: WorkspaceId, at: Timestamp, title: &str) -> Self {
        Self {
            id,
            at,
            workspace,
            kind: EventKind::AuditVerificationFailed,
            severity: Severity::Info,
            title: plain(title, MAX_TITLE_BYTES),
            agent: None,
            agent_name: None,
            team: None,
            approval: None,
            policy: None,
            facts: Facts::default(),
        }
    }

    /// The event with what is known of its agent: entries name agents by id only.
    #[must_use]
    pub fn with_agent(mut self, name: &str, team: Option<&str>) -> Self {
        self.agent_name = Some(plain(name, MAX_NAME_BYTES));
        if self.team.is_none() {
            self.team = team.map(|team| plain(team, MAX_TEAM_BYTES));
        }
        self
    }

    /// Whom it is about and what happened, in one line.
    pub fn headline(&self) -> String {
        match (&self.agent_name, self.agent) {
            (Some(name), _) => format!("{name}: {}", self.title),
            (None, Some(id)) => format!("agent {id}: {}", self.title),
            (None, None) => self.title.clone(),
        }
    }

    /// What events that are told as one have in common: kind, agent, policy, rule, tool and the like. `None` for an
    /// event that is always told by itself, because somebody must act on that very one.
    pub fn fingerprint(&self) -> Option<String> {
        if self.kind.is_about_approval() {
            return None;
        }
        let mut text = self.kind.as_str().to_owned();
        let mut part = |name: &str, value: &str| {
            text.push('\n');
            text.push_str(name);
            text.push('=');
            text.push_str(value);
        };
        if let Some(agent) = self.agent {
            part("agent", &agent.to_string());
        }
        part("team", self.team.as_deref().unwrap_or_default());
        part("policy", self.policy.as_deref().unwrap_or_default());
        for (key, value) in self.facts.iter() {
            if of_entry::DISTINGUISHING.contains(&key) {
                part(key, value);
            }
        }
        Some(text)
    }

    /// The event without its facts and with shorter names, for whoever keeps many.
    pub(crate) fn brief(&self) -> Self {
        let short = |text: &Option<String>| text.as_deref().map(|text| bounded(text, 96));
        Self {
            title: bounded(&self.title, 160),
            agent_name: short(&self.agent_name),
            team: short(&self.team),
            policy: short(&self.policy),
            facts: Facts::default(),
            ..*self
        }
    }
}

// === impl Facts ===

impl Facts {
    /// Adds a fact at the end, made plain and bounded; one that is there already, one past [`MAX_FACTS`] and an empty
    /// one are left out.
    pub fn push(&mut self, key: &str, value: &str) {
        let known = self.get(key).is_some();
        if !known && !value.is_empty() && self.0.len() < MAX_FACTS {
            self.0.push((plain(key, 64), plain(value, MAX_FACT_BYTES)));
        }
    }

    /// The value of a fact.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    /// All, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Facts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Facts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> serde::de::Visitor<'de> for InOrder {
            type Value = Facts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Facts, A::Error> {
                let mut facts = Facts::default();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    facts.push(&key, &value);
                }
                Ok(facts)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

// === impl EventKind ===

impl EventKind {
    /// Every kind that rules can name.
    pub const ALL: [Self; 9] = [
        Self::Violation,
        Self::BudgetThreshold,
        Self::BudgetExceeded,
        Self::ApprovalNeeded,
        Self::ApprovalEscalated,
        Self::ApprovalDecided,
        Self::AgentSuspended,
        Self::AgentResumed,
        Self::AuditVerificationFailed,
    ];

    /// The name in rules, in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Violation => "violation",
            Self::BudgetThreshold => "budget_threshold",
            Self::BudgetExceeded => "budget_exceeded",
            Self::ApprovalNeeded => "approval_needed",
            Self::ApprovalEscalated => "approval_escalated",
            Self::ApprovalDecided => "approval_decided",
            Self::AgentSuspended => "agent_suspended",
            Self::AgentResumed => "agent_resumed",
            Self::AuditVerificationFailed => "audit_verification_failed",
            Self::Test => "test",
        }
    }

    /// What it is called in a sentence.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Violation => "violation",
            Self::BudgetThreshold => "budget threshold",
            Self::BudgetExceeded => "budget exceeded",
            Self::ApprovalNeeded => "approval needed",
            Self::ApprovalEscalated => "approval escalated",
            Self::ApprovalDecided => "approval decided",
            Self::AgentSuspended => "agent suspended",
            Self::AgentResumed => "agent resumed",
            Self::AuditVerificationFailed => "audit verification failed",
            Self::Test => "test",
        }
    }

    /// Whether it is about a request for approval.
    pub const fn is_about_approval(self) -> bool {
        matches!(self, Self::ApprovalNeeded | Self::ApprovalEscalated | Self::ApprovalDecided)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        by_name(text, "kind of event", &Self::ALL, EventKind::as_str)
    }
}

// === impl Severity ===

impl Severity {
    /// Every severity, the least urgent first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// The name in rules, in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        by_name(text, "severity", &Self::ALL, Severity::as_str)
    }
}

fn by_name<T: Copy>(
    text: &str,
    what: &'static str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, UnknownName> {
    let found = all.iter().copied().find(|known| name(*known) == text);
    found.ok_or_else(|| {
        let known: BTreeSet<_> = all.iter().copied().map(&name).collect();
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        UnknownName { text: plain(text, 64), what, known }
    })
}
