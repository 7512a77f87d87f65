//! How an agent gets a person's approval for what it wants to do.
//!
//! An action that needs approval waits here until its request is durable, and is then answered with the request's id:
//! nobody waits for the person but the program itself. When it comes back with that id, after the decision, the action
//! waits until the request has said what it is worth, and is decided anew with that. An approval is bound to the exact
//! action and to the revisions of the policies that asked.

use std::collections::{HashMap, HashSet};

use aa_policy::{Judgement, Outcome};
use aa_protocol::{Action, ApprovalId, Decision, Reason, ReasonCode, Timestamp, Verdict};
use aa_runtime::{Fault, Reply};
use sha2::{Digest, Sha256};

use super::{
    AgentActor, AgentKeyId, Answer, Check, NotRegistered, SessionId,
    particulars::Particulars,
    waiting::{Metered, Parked, Stage},
};
use crate::{
    approval::{ApprovalKey, ApprovalMessage, Claim, Claimed},
    approval_record::{ApprovalRecord, ApprovalScope, Outcome as ApprovalOutcome},
    keys,
};

/// What an agent has asked people, and been granted.
#[derive(Default)]
pub(super) struct Approving {
    /// The pending request for what has this digest, and its deadline.
    asked: HashMap<String, (ApprovalId, Timestamp)>,
    /// What people have approved for whole sessions.
    granted: HashSet<(SessionId, String)>,
}

/// The largest action that is put before a person, as JSON: what nobody can read, nobody can approve.
pub const MAX_SHOWN: usize = 64 << 10;

/// The longest context that a program gives, in characters.
pub const MAX_CONTEXT: usize = 2_000;

/// The most requests of one agent that are before people at a time.
pub(super) const MAX_PENDING: usize = 100;

/// The most sessions' grants an agent has; the program asks again past it.
const MAX_GRANTS: usize = 1_000;

type Also = Vec<Reply<Result<Answer, NotRegistered>>>;

impl AgentActor {
    /// Goes on with an action for which a person is asked.
    pub(super) fn seek_approval(&mut self, check: Check, judgement: Judgement, now: Timestamp) {
        let rule = rule_digest(&check.request.action, &judgement.outcome().decision);
        if let Some(session) = check.request.session
            && self.approving.granted.contains(&(session, rule))
        {
            return self.conclude_approved(check, Vec::new(), None, now);
        }
        let Some(id) = check.request.approval else {
            return self.ask_people(check, Vec::new(), judgement, now);
        };
        let digest = digest(&check.request.action, &judgement.outcome().decision);
        let action = check.request.id;
        let claim = Claim { action, digest };
        let (agent, services) = (self.id, std::sync::Arc::clone(&self.services));
        let reply = Reply::new(move |answer: Result<Claimed, Fault>| {
            let metered = match answer {
                Ok(claimed) => Metered::Claimed(action, claimed),
                Err(fault) => Metered::Unanswered(vec![action], fault),
            };
            services.tell_agent(agent, metered);
        });
        let stage = Stage::Claiming { id, judgement: Box::new(judgement) };
        self.metering.park(Parked { waiting: 1, ..Parked::new(check, stage) });
        let key = ApprovalKey { workspace: self.id.workspace, id };
        self.services.send_approval(&key, ApprovalMessage::Claim(claim, reply));
    }

    /// What a request for approval is worth to the action that referred to it.
    pub(super) fn claimed(
        &mut self,
        action: aa_protocol::ActionId,
        claimed: Claimed,
        now: Timestamp,
    ) {
        let Some(parked) = self.metering.unpark(action) else { return };
        let Stage::Claiming { id, judgement } = parked.stage else { return };
        let (check, also) = (parked.check, parked.also);
        match claimed {
            Claimed::Granted(scope) => self.conclude_approved(check, also, Some((id, scope)), now),
            Claimed::Refused(reason) => {
                let judgement = refused(&judgement, *reason);
                let digest = digest(&check.request.action, &judgement.outcome().decision);
                let particulars = self.about_approval(id, &digest);
                self.conclude(check, also, judgement, particulars, now);
            }
            Claimed::Pending => {
                let particulars =
                    Particulars { approval: Some(id), ..Particulars::of_approval(id) };
                self.conclude(check, also, *judgement, particulars, now);
            }
            Claimed::NotForThis => self.ask_people(check, also, *judgement, now),
        }
    }

    /// Makes the request, or joins the pending one for the very same.
    fn ask_people(&mut self, check: Check, also: Also, judgement: Judgement, now: Timestamp) {
        let Some(record) = self.request_for(&check, &judgement, now) else {
            let message =
                format!("the action is larger than a person can be shown ({MAX_SHOWN} bytes)");
            let reason = Reason::undocumented(ReasonCode::ApprovalDenied, message);
            let judgement = refused(&judgement, reason);
            return self.conclude(check, also, judgement, Particulars::nothing(), now);
        };
        let known = self.approving.asked.get(&record.digest).map(|(id, _)| *id);
        if known.is_none() && self.approving.pending(now) >= MAX_PENDING {
            let message = format!("{MAX_PENDING} requests of the agent are before people already");
            let reason = Reason::undocumented(ReasonCode::ApprovalDenied, message);
            let judgement = refused(&judgement, reason);
            return self.conclude(check, also, judgement, Particulars::nothing(), now);
        }
        let id = known.unwrap_or(record.id);
        let action = check.request.id;
        let (agent, services) = (self.id, std::sync::Arc::clone(&self.services));
        let reply = Reply::new(move |answer: Result<ApprovalRecord, Fault>| {
            let metered = match answer {
                Ok(record) => Metered::Asked(action, Box::new(record)),
                Err(fault) => Metered::Unanswered(vec![action], fault),
            };
            services.tell_agent(agent, metered);
        });
        let stage = Stage::Asking { judgement: Box::new(judgement) };
        self.metering.park(Parked { waiting: 1, also, ..Parked::new(check, stage) });
        let key = ApprovalKey { workspace: self.id.workspace, id };
        let record = Box::new(ApprovalRecord { id, ..record });
        self.services.send_approval(&key, ApprovalMessage::Ask(record, reply));
    }

    /// The request as it was made, or as it stands.
    pub(super) fn asked(
        &mut self,
        action: aa_protocol::ActionId,
        record: &ApprovalRecord,
        now: Timestamp,
    ) {
        let Some(parked) = self.metering.unpark(action) else { return };
        let Stage::Asking { judgement } = parked.stage else { return };
        let is_own = record.id == ApprovalId::of_action(self.id.agent, action);
        if record.outcome.is_some() && !is_own {
            // Decided since: this is a new request.
            self.approving.asked.remove(&record.digest);
            return self.ask_people(parked.check, parked.also, *judgement, now);
        }
        let mut particulars = Particulars::of_approval(record.id);
        particulars.approval = Some(record.id);
        if record.outcome.is_none() {
            let AgentKeyId { workspace, agent } = self.id;
            let key = keys::asked(workspace, agent, &record.digest);
            particulars.writes.push((key, stored_request(record.id, record.deadline)));
            for digest in self.approving.forget_expired(now) {
                particulars.removes.push(keys::asked(workspace, agent, &digest));
            }
            let pending = (record.id, record.deadline);
            self.approving.asked.insert(record.digest.clone(), pending);
        }
        self.conclude(parked.check, parked.also, *judgement, particulars, now);
    }

    /// Decides an action that a person has approved. Everything else must still admit it.
    fn conclude_approved(
        &mut self,
        check: Check,
        also: Also,
        by: Option<(ApprovalId, ApprovalScope)>,
        now: Timestamp,
    ) {
        let Some(asking) = self.judge(&check.request, now) else { return };
        let decision = &asking.outcome().decision;
        let (digest, rule) =
            (digest(&check.request.action, decision), rule_digest(&check.request.action, decision));
        let Some(judgement) = self.judge_approved(&check.request, now) else { return };
        let Some((id, scope)) = by else {
            let particulars = Particulars {
                detail: vec![("approval_scope", "session".to_owned())],
                ..Particulars::nothing()
            };
            return self.conclude(check, also, judgement, particulars, now);
        };
        let mut particulars = self.about_approval(id, &digest);
        if let (ApprovalScope::Session, Some(session)) = (scope, check.request.session)
            && judgement.outcome().decision.verdict == Verdict::Allow
            && self.approving.granted.len() < MAX_GRANTS
        {
            let AgentKeyId { workspace, agent } = self.id;
            let key = keys::session_grants(workspace, agent).with(session.0).key(&rule);
            particulars.writes.push((key, bytes::Bytes::new()));
            self.approving.granted.insert((session, rule));
        }
        self.conclude(check, also, judgement, particulars, now);
    }

    /// What the entry of an action says of the decided request it referred to, which is not pending any more.
    fn about_approval(&mut self, id: ApprovalId, digest: &str) -> Particulars {
        let mut particulars = Particulars::of_approval(id);
        if self.approving.asked.get(digest).is_some_and(|(asked, _)| *asked == id) {
            self.approving.asked.remove(digest);
            let AgentKeyId { workspace, agent } = self.id;
            particulars.removes.push(keys::asked(workspace, agent, digest));
        }
        particulars
    }

    /// The request that this action leads to; `None` when it is too large to be shown.
    fn request_for(
        &mut self,
        check: &Check,
        judgement: &Judgement,
        now: Timestamp,
    ) -> Option<ApprovalRecord> {
        let record = self.record.as_ref()?;
        let decision = &judgement.outcome().decision;
        let terms = decision.approval.as_ref()?;
        let action = serde_json::to_value(&check.request.action).ok()?;
        if action.to_string().len() > MAX_SHOWN {
            return None;
        }
        let deadline = now.saturating_add(std::time::Duration::from_secs(terms.timeout_seconds));
        let rules = self.policies.in_force(self.id.workspace, &record.facts);
        let team = record.facts.team.as_deref();
        let (stages, needs_every_stage) = rules.approvers.stages(&terms.roles, team, now, deadline);
        Some(ApprovalRecord {
            id: ApprovalId::of_action(self.id.agent, check.request.id),
            workspace: self.id.workspace,
            agent: self.id.agent,
            agent_name: record.facts.name.clone(),
            team: record.facts.team.clone(),
            registered_by: record.registered_by.clone(),
            action,
            kind: check.request.action.kind(),
            digest: digest(&check.request.action, decision),
            reasons: decision.reasons.clone(),
            context: check.request.context.clone(),
            asked_at: now,
            deadline,
            stages,
            needs_every_stage,
            asked: 1,
            answers: Vec::new(),
            outcome: None::<ApprovalOutcome>,
            used_by: None,
        })
    }
}

// === impl Approving ===

impl Approving {
    pub(super) fn of(
        asked: HashMap<String, (ApprovalId, Timestamp)>,
        granted: HashSet<(SessionId, String)>,
    ) -> Self {
        Self { asked, granted }
    }

    /// How many requests are before people.
    fn pending(&self, now: Timestamp) -> usize {
        self.asked.values().filter(|(_, deadline)| *deadline > now).count()
    }

    /// Forgets the requests whose deadlines are over; tells what they were about.
    fn forget_expired(&mut self, now: Timestamp) -> Vec<String> {
        let expired = self.asked.extract_if(|_, (_, deadline)| *deadline <= now);
        expired.map(|(digest, _)| digest).collect()
    }
}

/// A pending request as stored: its id and its deadline.
fn stored_request(id: ApprovalId, deadline: Timestamp) -> bytes::Bytes {
    [id.to_bytes().as_slice(), &deadline.as_micros().to_be_bytes()].concat().into()
}

/// Reads it back.
pub(super) fn read_request(stored: &[u8]) -> Option<(ApprovalId, Timestamp)> {
    let (id, deadline) = stored.split_first_chunk::<16>()?;
    let deadline = i64::from_be_bytes(deadline.try_into().ok()?);
    Some((ApprovalId::from_bytes(*id), Timestamp::from_micros(deadline)))
}

/// The same judgement, but refused for this reason.
fn refused(judgement: &Judgement, reason: Reason) -> Judgement {
    let outcome = judgement.outcome();
    let mut reasons = vec![reason];
    reasons.extend(outcome.decision.reasons.iter().cloned());
    let findings = outcome.decision.findings.clone();
    let decision = Decision { verdict: Verdict::Deny, reasons, approval: None, findings };
    Judgement::Restrained(Outcome {
        decision,
        applied: outcome.applied.clone(),
        counted_limit: None,
        arms: Vec::new(),
    })
}

/// What an approval is bound to: the exact action, and the revisions of the policies that ask for it.
fn digest(action: &Action, decision: &Decision) -> String {
    let action = serde_json::to_string(action).unwrap_or_default();
    hash(&[action.as_bytes()], decision)
}

/// What an approval for a session is bound to: the tool, and the revisions of the policies that ask.
fn rule_digest(action: &Action, decision: &Decision) -> String {
    let tool = match action {
        Action::ToolCall { tool, .. } => tool.as_str(),
        _ => "",
    };
    hash(&[b"tool", tool.as_bytes()], decision)
}

fn hash(parts: &[&[u8]], decision: &Decision) -> String {
    let mut hasher = Sha256::new();
    // Each part with its length, so that no two lists of parts are the same bytes.
    let mut add = |part: &[u8]| {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    };
    parts.iter().for_each(|part| add(part));
    for reason in decision.reasons.iter().filter(|reason| reason.code.asks_for_approval()) {
        add(reason.policy.as_deref().unwrap_or_default().as_bytes());
        add(&reason.revision.unwrap_or_default().to_be_bytes());
        add(reason.path.as_deref().unwrap_or_default().as_bytes());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
