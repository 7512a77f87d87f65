//! The actor of one request for approval. It holds no thread while people think: its clock wakes it.

mod remote;

use std::{fmt, sync::Arc};

use aa_ledger::{Draft, Kind, Stream};
use aa_protocol::{ActionId, ApprovalId, Reason, Timestamp, WorkspaceId};
use aa_runtime::{Entity, Fault, Flow, LiveShard, LoadError, Record, Reply};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    approval_record::{AnswerError, ApprovalRecord, ApprovalScope, Outcome},
    bulletin::Bulletin,
    chain::{Chain, ChainError},
    keys,
    notice::Notice,
    permission::Principal,
    policy_board::PolicyCell,
    services::Services,
    stored,
};

/// A request within its workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ApprovalKey {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The request.
    pub id: ApprovalId,
}

/// What a request's actor is asked.
#[derive(Debug)]
pub enum ApprovalMessage {
    /// Makes the request, or asks again for one that is pending. Answers the request as it stands.
    Ask(Box<ApprovalRecord>, Reply<ApprovalRecord>),
    /// A person's answer.
    Answer(Answer, Reply<Result<ApprovalRecord, NotAnswered>>),
    /// An action wants to go on by it.
    Claim(Claim, Reply<Claimed>),
    /// The request as it stands; `None` when there is none.
    Read(Reply<Option<ApprovalRecord>>),
    /// Something may be due: a stage opens, or the deadline has come. Answered once what was due is durable.
    Wake(Reply<()>),
}

/// A person's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Whose.
    pub who: Principal,
    /// Whether the action may go on.
    pub approved: bool,
    /// For what.
    pub scope: ApprovalScope,
    /// Why, in the person's words.
    pub reason: String,
}

/// Why an answer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NotAnswered {
    /// There is no such request.
    #[error("there is no request for approval {0} in this workspace")]
    Unknown(ApprovalId),
    /// The request does not take it.
    #[error(transparent)]
    Refused(#[from] AnswerError),
}

/// An action that refers to an approval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The action.
    pub action: ActionId,
    /// What the approval must be bound to.
    pub digest: String,
}

/// What an approval is worth to an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claimed {
    /// The action may go on.
    Granted(ApprovalScope),
    /// Nobody has decided yet.
    Pending,
    /// It was refused, or expired.
    Refused(Box<Reason>),
    /// It is not for this action: other arguments, another policy, another agent's, used before, or none at all.
    NotForThis,
}

/// The actor.
pub struct ApprovalActor {
    key: ApprovalKey,
    shard: Arc<LiveShard>,
    services: Arc<Services>,
    chain: Chain,
    record: Option<ApprovalRecord>,
    /// When it will be woken.
    alarm: Option<Timestamp>,
    rules: Arc<PolicyCell>,
}

/// What keeps a request from loading.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Store(#[from] aa_store::StoreError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Record(#[from] stored::ReadError),
    #[error("the workspace's approvers are not available: {0}")]
    Rules(#[from] Fault),
}

/// An approved action must be made within this long after the deadline of its request.
const USABLE_FOR: std::time::Duration = std::time::Duration::from_secs(900);

/// The pause between attempts to wake a request whose actor does not answer.
const RING_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

// === impl ApprovalActor ===

impl Entity for ApprovalActor {
    type Id = ApprovalKey;
    type Message = ApprovalMessage;
    type Context = Arc<Services>;

    const KIND: &'static str = "approval";

    fn shard_key(key: &ApprovalKey) -> Vec<u8> {
        [key.workspace.as_uuid().as_bytes().as_slice(), key.id.as_uuid().as_bytes()].concat()
    }

    async fn load(
        key: ApprovalKey,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, LoadError> {
        let loaded = Self::read(key, shard, services).await;
        loaded.map_err(|error| LoadError::new::<Self>(&key, error))
    }

    async fn handle(&mut self, message: ApprovalMessage) -> Flow {
        let now = self.services.clock.now();
        self.move_on(now);
        match message {
            ApprovalMessage::Ask(asked, reply) => self.ask(*asked, now, reply),
            ApprovalMessage::Answer(answer, reply) => self.answer(answer, now, reply),
            ApprovalMessage::Claim(claim, reply) => self.claim(&claim, now, reply),
            ApprovalMessage::Read(reply) => {
                self.shard.journal.answer_after(reply, self.record.clone());
            }
            ApprovalMessage::Wake(reply) => self.shard.journal.answer_after(reply, ()),
        }
        self.set_alarm(now);
        Flow::Continue
    }
}

impl ApprovalActor {
    async fn read(
        key: ApprovalKey,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, ReadError> {
        let rules = services.policies(key.workspace).await?;
        let mut txn = services.node.store().begin().await?;
        let stream = Stream::Approval(key.id);
        let chain = Chain::open(&mut *txn, &shard.journal, key.workspace, stream).await?;
        let at = keys::approval(key.workspace, key.id);
        let record = stored::read(&mut *txn, &at).await?;
        Ok(Self { key, shard, services, chain, record, alarm: None, rules })
    }

    fn ask(&mut self, asked: ApprovalRecord, now: Timestamp, reply: Reply<ApprovalRecord>) {
        if let Some(record) = &mut self.record {
            // The agent was told of it before, and asks for the same: people see that it insists.
            record.asked = record.asked.saturating_add(1);
            let record = record.clone();
            let write = self.write();
            let done = reply.map(|()| record);
            self.append(Record::of_state(write.into_iter().collect(), done));
            return;
        }
        let deadline = asked.deadline.to_string();
        let asks = asked.asked_now(now);
        let detail = [
            ("agent", asked.agent.to_string()),
            ("asks", asks),
            ("change", "asked".to_owned()),
            ("deadline", deadline),
            ("digest", asked.digest.clone()),
        ];
        self.record = Some(asked.clone());
        self.tell(&detail, None, now, reply.map(|()| asked));
    }

    fn answer(
        &mut self,
        answer: Answer,
        now: Timestamp,
        reply: Reply<Result<ApprovalRecord, NotAnswered>>,
    ) {
        let Some(record) = &mut self.record else {
            reply.send(Ok(Err(NotAnswered::Unknown(self.key.id))));
            return;
        };
        let Answer { who, approved, scope, reason } = answer;
        let approvers = Arc::clone(&self.rules.load().approvers);
        let taken = record.answer(&who, approved, scope, reason.clone(), &approvers, now);
        if let Err(error) = taken {
            self.shard.journal.answer_after(reply, Err(error.into()));
            return;
        }
        let record = record.clone();
        let mut detail = vec![
            ("agent", record.agent.to_string()),
            ("answer", if approved { "approve" } else { "deny" }.to_owned()),
            ("change", "answered".to_owned()),
            ("state", record.state().to_owned()),
        ];
        if approved {
            detail.push(("scope", scope.as_str().to_owned()));
        }
        if !reason.is_empty() {
            detail.push(("reason", reason));
        }
        self.tell(&detail, Some(&who.actor()), now, reply.map(|()| Ok(record)));
    }

    fn claim(&mut self, claim: &Claim, now: Timestamp, reply: Reply<Claimed>) {
        let Some(record) = &mut self.record else {
            reply.send(Ok(Claimed::NotForThis));
            return;
        };
        let used_by_other = record.used_by.is_some_and(|action| action != claim.action);
        let claimed = match &record.outcome {
            _ if record.digest != claim.digest => Claimed::NotForThis,
            None => Claimed::Pending,
            Some(Outcome::Approved { scope: ApprovalScope::Once, .. }) if used_by_other => {
                Claimed::NotForThis
            }
            Some(Outcome::Approved { .. }) if now >= record.deadline.saturating_add(USABLE_FOR) => {
                Claimed::NotForThis
            }
            Some(Outcome::Approved { scope, .. }) => Claimed::Granted(*scope),
            Some(_) => record
                .refusal()
                .map_or(Claimed::NotForThis, |reason| Claimed::Refused(Box::new(reason))),
        };
        if matches!(claimed, Claimed::Granted(_)) && record.used_by.is_none() {
            record.used_by = Some(claim.action);
            let detail = [
                ("action", claim.action.to_string()),
                ("agent", record.agent.to_string()),
                ("change", "used".to_owned()),
            ];
            self.tell(&detail, None, now, reply.map(|()| claimed));
            return;
        }
        self.shard.journal.answer_after(reply, claimed);
    }

    /// What happens by itself: the deadline comes, or the next stage of a chain is asked as well.
    fn move_on(&mut self, now: Timestamp) {
        let Some(record) = &mut self.record else { return };
        let alarm = self.alarm.filter(|at| *at <= now);
        if record.settle(now) {
            let detail = [
                ("agent", record.agent.to_string()),
                ("change", "expired".to_owned()),
                ("state", record.state().to_owned()),
            ];
            self.tell(&detail, None, now, Reply::ignored());
        } else if alarm.is_some() {
            let opened = |stage: &&crate::approval_record::OpenStage| {
                alarm.is_some_and(|at| stage.opens_at >= at) && stage.opens_at <= now
            };
            let groups: Vec<_> =
                record.stages.iter().filter(opened).map(|stage| stage.group.clone()).collect();
            if !groups.is_empty() {
                let detail = [
                    ("agent", record.agent.to_string()),
                    ("asks", groups.join(", ")),
                    ("change", "escalated".to_owned()),
                ];
                self.tell(&detail, None, now, Reply::ignored());
            }
        }
        if alarm.is_some() {
            self.alarm = None;
        }
    }

    /// Has itself woken when something is due. The message that wakes it also starts it anew should it have left memory.
    fn set_alarm(&mut self, now: Timestamp) {
        let Some(at) = self.record.as_ref().and_then(|record| record.next_event(now)) else {
            return;
        };
        if self.alarm.is_some_and(|set| set <= at) {
            return;
        }
        self.alarm = Some(at);
        let (key, services) = (self.key, Arc::clone(&self.services));
        tokio::spawn(async move {
            services.clock.sleep(at.since(now)).await;
            while !services.wake_approval(&key).await {
                services.clock.sleep(RING_AGAIN).await;
            }
        });
    }

    /// The one way a request changes: its entry and its state in one commit; then the news.
    fn tell(
        &mut self,
        detail: &[(&str, String)],
        actor: Option<&str>,
        now: Timestamp,
        done: Reply<()>,
    ) {
        let id = self.key.id.to_string();
        let mut all: Vec<_> = detail.iter().map(|(key, value)| (*key, value.as_str())).collect();
        all.push(("approval", &id));
        let event = self.services.entropy.event_id(now);
        let stream = Stream::Approval(self.key.id);
        let draft = Draft {
            actor,
            detail: &all,
            ..Draft::new(event, self.key.workspace, stream, now, Kind::Approval)
        };
        let entry = self.chain.seal(&draft, &self.services.mac_key());
        let (writes, removes) = self.changes();
        let tell = |notice| Bulletin::new(&self.services, self.key.workspace, notice);
        let bulletin = self.news().map(tell);
        let news = bulletin.as_ref().map(Bulletin::news).unwrap_or_default();
        let done = Reply::new(move |committed: Result<(), Fault>| {
            if let (Ok(()), Some(bulletin)) = (&committed, bulletin) {
                bulletin.tell();
            }
            done.send(committed);
        });
        self.append(Record { entry: Some(entry), writes, removes, news, done });
    }

    fn news(&self) -> Option<Notice> {
        let record = self.record.as_ref()?;
        let outcome = record.outcome.as_ref()?;
        let approved = matches!(outcome, Outcome::Approved { .. });
        Some(Notice::ApprovalDecided { agent: record.agent, approval: record.id, approved })
    }

    /// The record, and its place among those that are pending: who restarts looks there for alarms to set.
    fn changes(&self) -> (Vec<(Bytes, Bytes)>, Vec<Bytes>) {
        let ApprovalKey { workspace, id } = self.key;
        let pending = keys::pending_approval(workspace, id);
        let mut writes: Vec<_> = self.write().into_iter().collect();
        match self.record.as_ref().is_some_and(|record| record.outcome.is_none()) {
            true => {
                writes.push((pending, Bytes::new()));
                (writes, Vec::new())
            }
            false => (writes, vec![pending]),
        }
    }

    fn write(&self) -> Option<(Bytes, Bytes)> {
        let record = self.record.as_ref()?;
        Some((keys::approval(self.key.workspace, self.key.id), stored::encode(record)))
    }

    fn append(&mut self, record: Record) {
        self.chain.commit(&self.shard, record);
    }
}

// === impl ApprovalKey ===

impl fmt::Display for ApprovalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.workspace, self.id)
    }
}
