//! A request for a person's approval: what it is about, who may answer, and what became of it. Pure.

use std::{borrow::Cow, collections::BTreeSet};

use aa_protocol::{
    ActionId, ActionKind, AgentId, ApprovalId, Reason, ReasonCode, Timestamp, WorkspaceId,
};
use serde::{Deserialize, Serialize};

use crate::{
    approvers::{Approvers, Stage},
    permission::{Grant, Principal},
};

/// A request, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRecord {
    /// Its id.
    pub id: ApprovalId,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The agent that wants to act.
    pub agent: AgentId,
    /// The agent's name, for people.
    pub agent_name: String,
    /// The agent's team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The key the agent registered with: its holder may not answer.
    pub registered_by: String,
    /// What it wants to do, in the JSON form of actions, to the last argument.
    pub action: serde_json::Value,
    /// The action's kind.
    pub kind: ActionKind,
    /// What the approval is bound to: SHA-256, in hex, over the action and the revisions of the policies that ask.
    pub digest: String,
    /// Why a person is asked.
    pub reasons: Vec<Reason>,
    /// What the program says about it. It is the requester's word and nobody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Nobody decides at or after this.
    pub deadline: Timestamp,
    /// Who may answer, and from when.
    pub stages: Vec<OpenStage>,
    /// Whether every stage must approve, or the first that does decides.
    pub needs_every_stage: bool,
    /// How often the agent has asked for the same while it was pending.
    pub asked: u64,
    /// The answers, in their order.
    #[serde(default)]
    pub answers: Vec<ApprovalAnswer>,
    /// Set once it is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The action that made use of it; an approval for once serves one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<ActionId>,
}

/// A group that may answer, from a time on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenStage {
    /// The group's name; empty for the workspace's owners and admins.
    pub group: String,
    /// How many of its members must approve.
    pub needed: u32,
    /// From when on they are asked.
    pub opens_at: Timestamp,
}

/// A person's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalAnswer {
    /// Whose: the id of an API key.
    pub by: String,
    /// Whether the action may go on.
    pub approved: bool,
    /// For what, when it may.
    pub scope: ApprovalScope,
    /// Why, in the person's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For which groups it counts.
    pub groups: Vec<String>,
    /// When it was given.
    pub at: Timestamp,
}

/// What an approval is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalScope {
    /// This very action, once.
    #[default]
    Once,
    /// Calls of the same tool that the same rules ask about, for as long as the agent's process runs.
    Session,
}

/// How a request was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Outcome {
    /// Everybody who must has approved.
    Approved {
        /// For what: the narrowest scope of those who approved.
        scope: ApprovalScope,
        /// When.
        at: Timestamp,
    },
    /// Somebody refused.
    Denied {
        /// Whose key.
        by: String,
        /// Why, in that person's words.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// Nobody decided in time.
    Expired {
        /// The deadline.
        at: Timestamp,
    },
}

/// Why an answer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AnswerError {
    /// It was decided before.
    #[error("the request was decided at {at}: {state}")]
    Decided {
        /// `approved`, `denied` or `expired`.
        state: Cow<'static, str>,
        /// When.
        at: Timestamp,
    },
    /// Its agent registered with the same key.
    #[error(
        "the agent registered with this key, and nobody approves what is their own; use another key"
    )]
    Own,
    /// The key is in no group that is asked now.
    #[error("this key may not answer: the request is before {0}")]
    NotAsked(String),
    /// The key has answered.
    #[error("this key has approved the request already; it needs the approval of others")]
    Twice,
}

// === impl ApprovalRecord ===

impl ApprovalRecord {
    /// Decides it by what is known at `now`, unless it is decided; whether it is decided now and was not before.
    pub fn settle(&mut self, now: Timestamp) -> bool {
        if self.outcome.is_some() {
            return false;
        }
        self.outcome = self.decided(now);
        self.outcome.is_some()
    }

    fn decided(&self, now: Timestamp) -> Option<Outcome> {
        if let Some(refusal) = self.answers.iter().find(|answer| !answer.approved) {
            let ApprovalAnswer { by, reason, at, .. } = refusal.clone();
            return Some(Outcome::Denied { by, reason, at });
        }
        let approved = |stage: &OpenStage| self.approvals(stage) >= stage.needed as usize;
        let mut stages = self.stages.iter();
        let is_approved =
            if self.needs_every_stage { stages.all(approved) } else { stages.any(approved) };
        if is_approved {
            let scope = self.answers.iter().map(|answer| answer.scope).min().unwrap_or_default();
            let at = self.answers.last().map_or(now, |answer| answer.at);
            return Some(Outcome::Approved { scope, at });
        }
        (now >= self.deadline).then_some(Outcome::Expired { at: self.deadline })
    }

    /// How many different people of a stage's group have approved.
    pub fn approvals(&self, stage: &OpenStage) -> usize {
        let counts =
            |answer: &&ApprovalAnswer| answer.approved && answer.groups.contains(&stage.group);
        let people: BTreeSet<_> =
            self.answers.iter().filter(counts).map(|answer| &answer.by).collect();
        people.len()
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// [`AnswerError`], in the order decided, own, not asked, twice.
    pub fn answer(
        &mut self,
        who: &Principal,
        approved: bool,
        scope: ApprovalScope,
        reason: String,
        approvers: &Approvers,
        now: Timestamp,
    ) -> Result<(), AnswerError> {
        self.settle(now);
        let groups = self.admits(who, approvers, now)?;
        if approved && self.answers.iter().any(|answer| answer.by == who.key_id) {
            return Err(AnswerError::Twice);
        }
        let by = who.key_id.clone();
        self.answers.push(ApprovalAnswer { by, approved, scope, reason, groups, at: now });
        self.settle(now);
        Ok(())
    }

    /// The groups for which an answer of `who` would count at `now`. A key that has approved is still admitted: its
    /// holder may think again.
    ///
    /// # Errors
    /// [`AnswerError`], in the order decided, own, not asked.
    pub fn admits(
        &self,
        who: &Principal,
        approvers: &Approvers,
        now: Timestamp,
    ) -> Result<Vec<String>, AnswerError> {
        if let Some(outcome) = &self.outcome {
            return Err(AnswerError::Decided { state: outcome.as_str().into(), at: outcome.at() });
        }
        if who.key_id == self.registered_by {
            return Err(AnswerError::Own);
        }
        let groups = self.groups_of(who, approvers, now);
        if groups.is_empty() {
            return Err(AnswerError::NotAsked(self.asked_now(now)));
        }
        Ok(groups)
    }

    /// The groups that are asked at `now` and that `who` is in.
    pub fn groups_of(&self, who: &Principal, approvers: &Approvers, now: Timestamp) -> Vec<String> {
        let open = self.stages.iter().filter(|stage| stage.opens_at <= now);
        let mine = open.filter(|stage| approvers.is_member(&stage.group, who));
        mine.map(|stage| stage.group.clone()).collect()
    }

    /// The groups that are asked at `now`, for people.
    pub fn asked_now(&self, now: Timestamp) -> String {
        let open = self.stages.iter().filter(|stage| stage.opens_at <= now);
        let names: Vec<_> = open.map(OpenStage::described).collect();
        names.join(if self.needs_every_stage { " and " } else { " or " })
    }

    /// When something happens to it by itself: a stage opens, or it expires. `None` once it is decided.
    pub fn next_event(&self, now: Timestamp) -> Option<Timestamp> {
        if self.outcome.is_some() {
            return None;
        }
        let later = self.stages.iter().map(|stage| stage.opens_at).filter(|at| *at > now);
        later.chain([self.deadline]).min()
    }

    /// `pending`, `approved`, `denied` or `expired`.
    pub fn state(&self) -> &'static str {
        self.outcome.as_ref().map_or("pending", Outcome::as_str)
    }

    /// The reason that a refused or expired request gives its agent.
    pub fn refusal(&self) -> Option<Reason> {
        let id = self.id;
        match self.outcome.as_ref()? {
            Outcome::Approved { .. } => None,
            Outcome::Denied { reason, .. } if reason.is_empty() => {
                let message = format!("a person refused the request {id}");
                Some(Reason::undocumented(ReasonCode::ApprovalDenied, message))
            }
            Outcome::Denied { reason, .. } => {
                let message = format!("a person refused the request {id}: {reason}");
                Some(Reason::undocumented(ReasonCode::ApprovalDenied, message))
            }
            Outcome::Expired { at } => {
                let message = format!("nobody decided on the request {id} by {at}");
                Some(Reason::undocumented(ReasonCode::ApprovalExpired, message))
            }
        }
    }
}

// === impl OpenStage ===

impl OpenStage {
    /// The stages of a chain between two times.
    pub fn chain(stages: &[Stage], from: Timestamp, until: Timestamp) -> Vec<Self> {
        let whole = until.since(from).as_micros();
        let mut before = 0;
        let mut open = Vec::with_capacity(stages.len());
        for Stage { group, needed, share } in stages {
            let micros = u64::try_from(whole * u128::from(before) / 100).unwrap_or(u64::MAX);
            let opens_at = from.saturating_add(std::time::Duration::from_micros(micros));
            open.push(Self { group: group.clone(), needed: *needed, opens_at });
            before += share;
        }
        open
    }

    fn described(&self) -> String {
        let who = match self.group.as_str() {
            "" => "the workspace's owners and admins".to_owned(),
            group => format!("the group `{group}`"),
        };
        if self.needed > 1 { format!("{who} ({} of them)", self.needed) } else { who }
    }
}

// === impl Outcome ===

impl Outcome {
    /// `approved`, `denied` or `expired`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Approved { .. } => "approved",
            Self::Denied { .. } => "denied",
            Self::Expired { .. } => "expired",
        }
    }

    /// When.
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Approved { at, .. } | Self::Denied { at, .. } | Self::Expired { at } => *at,
        }
    }
}

// === impl ApprovalScope ===

impl ApprovalScope {
    /// The name in commands, requests and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Session => "session",
        }
    }
}

/// Whether a grant lets a key answer for groups that have no members of their own.
pub(crate) const fn answers_by_default(grant: Grant) -> bool {
    matches!(grant, Grant::Owner | Grant::Admin)
}
