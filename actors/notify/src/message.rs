//! What goes out: an event, or a summary of many like it.

use aa_protocol::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Event, EventKind, Facts, Severity};

/// What goes out to a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The same for every attempt to deliver it, so that a receiver can tell a repeat: the event's id, with a suffix
    /// for a summary. At most 40 of `a`–`z`, `0`–`9`, `_` and `-`.
    pub id: String,
    /// The event, or for a summary the last of those it sums up, without facts.
    pub event: Event,
    /// Present when it stands for more events that were not told one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded: Option<Folded>,
}

/// Events that are told as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folded {
    /// How many, from 1.
    pub count: u64,
    /// When the first of them happened.
    pub first: Timestamp,
    /// When the last of them happened.
    pub last: Timestamp,
    /// Whether they have only their kind in common, because there were too many different ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mixed: bool,
}

/// The body of a webhook.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    timestamp: Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    id: &'a str,
    kind: EventKind,
    severity: Severity,
    title: String,
    workspace: aa_protocol::WorkspaceId,
    event: aa_protocol::EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<aa_protocol::AgentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<aa_protocol::ApprovalId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Facts::is_empty")]
    facts: &'a Facts,
    #[serde(skip_serializing_if = "Option::is_none")]
    folded: Option<Folded>,
}

// === impl Message ===

impl Message {
    /// One event.
    pub fn of_event(event: Event) -> Self {
        Self { id: event.id.to_string(), event, folded: None }
    }

    /// Many events, of which `last` is the last. What they do not have in common is left out.
    pub fn summary(mut last: Event, folded: Folded) -> Self {
        if folded.mixed && folded.count > 1 {
            (last.agent, last.agent_name, last.team, last.policy) = (None, None, None, None);
            last.title = format!("events of the kind “{}”", last.kind.words());
        }
        Self { id: format!("{}-more", last.id), event: last, folded: Some(folded) }
    }

    /// How many events it tells of.
    pub fn told(&self) -> u64 {
        self.folded.map_or(1, |folded| folded.count)
    }

    /// One line for people: whom it is about, what happened, and how often.
    pub fn headline(&self) -> String {
        let Some(folded) = self.folded else { return self.event.headline() };
        let Folded { count, first, last, mixed } = folded;
        let seconds = last.since(first).as_secs().max(1);
        let kind = self.event.kind.words();
        match (mixed, count) {
            (false, 1) => format!("1 more like it: {}", self.event.headline()),
            (false, _) => format!("{count} more like it in {seconds} s: {}", self.event.headline()),
            (true, 1) => format!("1 more “{kind}”: {}", self.event.headline()),
            (true, _) => format!("{count} more {} in {seconds} s", self.event.headline()),
        }
    }

    /// The JSON that a webhook gets: `type` (`alert.<kind>`), `timestamp` (when it happened) and `data`, the form that
    /// the Standard Webhooks specification recommends. Below 20 kB.
    pub fn to_json(&self) -> Vec<u8> {
        let Event { id, at, workspace, kind, severity, agent, approval, facts, .. } = &self.event;
        let body = Body {
            r#type: format!("alert.{kind}"),
            timestamp: *at,
            data: Data {
                id: &self.id,
                kind: *kind,
                severity: *severity,
                title: self.headline(),
                workspace: *workspace,
                event: *id,
                agent: *agent,
                agent_name: self.event.agent_name.as_deref(),
                team: self.event.team.as_deref(),
                approval: *approval,
                policy: self.event.policy.as_deref(),
                facts,
                folded: self.folded,
            },
        };
        serde_json::to_vec(&body).expect("texts, numbers and objects with text keys serialize")
    }

    /// What is shown below the headline, as pairs of name and value.
    pub(crate) fn particulars(&self) -> Vec<(String, String)> {
        let event = &self.event;
        let mut all = Vec::new();
        let mut push = |name: &str, value: Option<String>| {
            all.extend(value.map(|value| (name.to_owned(), value)));
        };
        push("Event", Some(event.kind.words().to_owned()));
        push("Severity", Some(event.severity.to_string()));
        push("Agent", event.agent_name.clone());
        push("Agent id", event.agent.map(|id| id.to_string()));
        push("Team", event.team.clone());
        push("Policy", event.policy.clone());
        push("Approval", event.approval.map(|id| id.to_string()));
        match self.folded {
            None => push("Time", Some(event.at.to_string())),
            Some(folded) => {
                push("Count", Some(folded.count.to_string()));
                push("First", Some(folded.first.to_string()));
                push("Last", Some(folded.last.to_string()));
            }
        }
        for (key, value) in event.facts.iter() {
            let mut name = key.replace('_', " ");
            if let Some(first) = name.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            push(&name, Some(value.to_owned()));
        }
        push("Workspace", Some(event.workspace.to_string()));
        push("Audit entry", Some(event.id.to_string()));
        all
    }
}
