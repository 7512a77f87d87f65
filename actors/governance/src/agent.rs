//! The agent actor: decides its agent's actions, counts its rates and writes its chain.

mod approving;
mod events;
mod load;
mod message;
mod metering;
mod particulars;
mod quote;
mod remote;
mod sequences;
mod spent_by;
mod status;
mod travelling_action;
mod view;
mod waiting;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use aa_ledger::{ActionSummary, Draft, Kind, Stream};
use aa_policy::{Cost, Facts, Judgement, RateFacts, SharedBudget, judge};
use aa_protocol::{Action, AgentFacts, AgentId, EventId, Timestamp, Verdict, WorkspaceId};
use aa_runtime::{Entity, Fault, Flow, LiveShard, LoadError, Record, Reply, journal::LogEntry};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::{
    approving::Approving,
    metering::Metering,
    particulars::Particulars,
    sequences::{Armed, Reach},
    spent_by::SpentBy,
    view::View,
};
pub use self::{
    approving::{MAX_CONTEXT, MAX_SHOWN},
    message::{
        AgentMessage, Answer, Check, NotRegistered, Refusal, Registration, Report, ReportOutcome,
        Request, SessionId, StatusChange,
    },
    quote::{Basis, Charge},
    waiting::Metered,
};
use crate::{
    agent_record::AgentRecord,
    budget_window::Asked,
    chain::Chain,
    keys,
    rate_window::{RING, RateWindow},
    recent_actions::{ActionKey, RecentActions},
    services::Services,
    spender::WindowId,
};

/// An agent within its workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AgentKeyId {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The agent.
    pub agent: AgentId,
}

/// The actor. Its fields are the state that the store holds, ahead of it by what the journal carries.
pub struct AgentActor {
    id: AgentKeyId,
    shard: Arc<LiveShard>,
    services: Arc<Services>,
    chain: Chain,
    record: Option<AgentRecord>,
    recent: RecentActions,
    rates: Rates,
    metering: Box<Metering>,
    approving: Box<Approving>,
    armed: Armed,
    policies: View,
    /// Actions that came in one message and are still to be decided. Kept here and not on the stack, so
    /// that one that makes the actor panic takes none of the others with it.
    waiting: VecDeque<Check>,
}

/// The rate windows by tool.
#[derive(Default)]
struct Rates(HashMap<String, RateWindow>);

/// What a decision is told of an action, beside what the actor holds.
#[derive(Clone, Copy)]
struct Known<'a> {
    session: Option<SessionId>,
    /// The answers of the windows that the action is paid in.
    answers: &'a [(WindowId, Asked)],
    shared_budgets: &'a [SharedBudget<'a>],
    cost: Cost,
    is_approved: bool,
}

/// What is committed together with an entry, besides the chain.
type Writes = Vec<(Bytes, Bytes)>;

// === impl Known ===

impl Known<'_> {
    /// What is known of an action that costs nothing.
    fn of(request: &Request) -> Self {
        Self::of_session(request.session)
    }

    fn of_session(session: Option<SessionId>) -> Self {
        let cost = Cost::default();
        Self { session, answers: &[], shared_budgets: &[], cost, is_approved: false }
    }
}

// === impl AgentActor ===

impl Entity for AgentActor {
    type Id = AgentKeyId;
    type Message = AgentMessage;
    type Context = Arc<Services>;

    const KIND: &'static str = "agent";

    fn shard_key(id: &AgentKeyId) -> Vec<u8> {
        [id.workspace.as_uuid().as_bytes().as_slice(), id.agent.as_uuid().as_bytes()].concat()
    }

    async fn load(
        id: AgentKeyId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, LoadError> {
        let loaded = Self::read(id, shard, services).await;
        loaded.map_err(|error| LoadError::new::<Self>(&id, error))
    }

    async fn handle(&mut self, message: AgentMessage) -> Flow {
        let now = self.services.clock.now();
        match message {
            AgentMessage::Check(checks) => {
                self.waiting = checks.into();
                while let Some(check) = self.waiting.pop_front() {
                    self.check(check, now);
                }
                self.send_asks();
                // An idle agent holds no room for what it was asked.
                self.waiting = VecDeque::new();
            }
            AgentMessage::Record(report, reply) => self.record_event(&report, now, reply),
            AgentMessage::Refuse(refusal, reply) => self.refuse(&refusal, now, reply),
            AgentMessage::Register(registration, reply) => {
                self.register(registration, now, reply);
                // Many register long before they act, and some never do.
                return Flow::Rest;
            }
            AgentMessage::SetStatus(change, reply) => self.set_status(change, now, reply),
            AgentMessage::Metered(metered) => self.metered(metered, now),
        }
        Flow::Continue
    }

    fn is_waiting(&self) -> bool {
        self.metering.is_waiting()
    }
}

impl AgentActor {
    /// The way of every decision: repeat, pay, decide, seal, journal. Nothing here waits.
    fn check(&mut self, check: Check, now: Timestamp) {
        if let Some(position) = self.recent.position(ActionKey::Check(check.request.id)) {
            self.answer_again(position, check.reply);
            return;
        }
        if !self.policies.is_readable() {
            check.reply.send(Err(metering::unreadable()));
            return;
        }
        self.lift_suspension(now);
        let Some(check) = self.meter(check, now) else { return };
        let Some(judgement) = self.judge(&check.request, now) else {
            check.reply.send(Ok(Err(NotRegistered(self.id.agent))));
            return;
        };
        if judgement.outcome().decision.verdict == Verdict::RequireApproval {
            return self.seek_approval(check, judgement, now);
        }
        let particulars = self.unsettled(&check.request.action);
        self.conclude(check, Vec::new(), judgement, particulars, now);
    }

    /// The one way a decision becomes real: its entry and the state that changed with it in one commit.
    fn conclude(
        &mut self,
        check: Check,
        also: Vec<Reply<Result<Answer, NotRegistered>>>,
        judgement: Judgement,
        mut particulars: Particulars,
        now: Timestamp,
    ) {
        let Check { request, reply } = check;
        let outcome = judgement.outcome();
        let latency_us = now.since(request.received).as_micros() as u64;

        let mut writes = Writes::new();
        if outcome.counted_limit.is_some()
            && let Action::ToolCall { tool, .. } = &request.action
        {
            writes.push(self.count_call(tool, now));
        }
        if !outcome.arms.is_empty() {
            self.arm(&outcome.arms, Reach::Session(request.session), &mut particulars);
        }
        let (opened, closed) = particulars.changes(self.id, request.id);
        writes.extend(opened);
        writes.extend(particulars.writes);
        let suspension = self.suspension_of(&outcome.decision, now);
        let event = self.services.entropy.event_id(now);
        let summary = ActionSummary::of(&request.action, request.id, &outcome.decision.findings);
        let detail: Vec<_> =
            particulars.detail.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let draft = Draft {
            kind: Kind::Decision,
            action: Some(&summary),
            latency_us: Some(latency_us),
            trace: request.trace,
            parent_span: request.parent_span,
            detail: &detail,
            ..self.draft(event, now)
        };
        let entry = self.chain.seal_decision(&draft, &judgement, &self.services.mac_key());
        self.services.metrics.count_decision(outcome.decision.verdict);
        let (charge, approval) = (particulars.charge, particulars.approval);
        let answer = Answer {
            decision: judgement.into(),
            event,
            latency_us,
            repeated: false,
            charge,
            approval,
        };
        let done = Reply::new(move |committed: Result<(), Fault>| {
            for reply in also {
                let repeated = Answer { repeated: true, ..answer.clone() };
                reply.send(committed.clone().map(|()| Ok(repeated)));
            }
            reply.send(committed.map(|()| Ok(answer)));
        });
        let removes = closed.into_iter().chain(particulars.removes).collect();
        let record = Record { entry: Some(entry), writes, removes, news: Vec::new(), done };
        if let Some(position) = self.append_record(record) {
            self.recent.remember(ActionKey::Check(request.id), position);
        }
        if let Some(suspension) = suspension {
            self.suspend_by_budget(suspension, now);
        }
    }

    /// What is to be said of a result for whose call nothing is reserved.
    fn unsettled(&mut self, action: &Action) -> Particulars {
        let Action::LlmResult { call: Some(call), .. } = action else {
            return Particulars::nothing();
        };
        let Some(record) = &self.record else { return Particulars::nothing() };
        if self.policies.in_force(self.id.workspace, &record.facts).windows.is_empty() {
            return Particulars::nothing();
        }
        let detail = vec![("call", call.to_string()), ("posted_by", "nothing_reserved".to_owned())];
        Particulars { detail, charge: Some(Charge::NotOpen), ..Particulars::nothing() }
    }

    /// Decides by the snapshot in force; `None` when the agent is not registered.
    fn judge(&mut self, request: &Request, now: Timestamp) -> Option<Judgement> {
        self.judge_with(&request.action, Known::of(request), now)
    }

    /// Decides an action that a person has approved.
    fn judge_approved(&mut self, request: &Request, now: Timestamp) -> Option<Judgement> {
        let known = Known { is_approved: true, ..Known::of(request) };
        self.judge_with(&request.action, known, now)
    }

    fn judge_with(
        &mut self,
        action: &Action,
        known: Known<'_>,
        now: Timestamp,
    ) -> Option<Judgement> {
        let record = self.record.as_ref()?;
        let workspace = self.id.workspace;
        let rules = self.policies.in_force(workspace, &record.facts);
        let budgets = SpentBy {
            workspace,
            facts: &record.facts,
            policies: &rules.policies,
            answers: known.answers,
            suspension: record.budget_suspension.as_ref(),
        };
        let rates = RatesAt { rates: &self.rates, now };
        let suspended = record
            .suspended
            .as_ref()
            .map(|suspension| aa_policy::Suspension { reason: suspension.reason.clone() });
        let facts = Facts {
            agent: &record.facts,
            suspended: suspended.as_ref(),
            rates: &rates,
            budgets: &budgets,
            shared_budgets: known.shared_budgets,
            cost: known.cost,
            armed: &self.armed.within(known.session),
            is_approved: known.is_approved,
        };
        Some(judge(&rules.policies, &facts, action, now))
    }

    fn count_call(&mut self, tool: &str, now: Timestamp) -> (Bytes, Bytes) {
        // Windows in which nothing is left only cost memory.
        self.rates.0.retain(|known, window| known == tool || window.calls_at(now) > 0);
        let window = self.rates.0.entry(tool.to_owned()).or_default();
        window.calls_at(now);
        let slot = window.admit(now);
        let key = keys::rates(self.id.workspace, self.id.agent).with(tool).key(slot.number % RING);
        (key, Bytes::copy_from_slice(&slot.to_bytes()))
    }

    fn register(&mut self, registration: Registration, now: Timestamp, reply: Reply<AgentFacts>) {
        let Registration { facts, public_key, actor } = registration;
        let mut record = match self.record.take() {
            Some(known) => AgentRecord { facts, ..known },
            None => AgentRecord {
                facts,
                registered_at: now,
                keys: Vec::new(),
                suspended: None,
                budget_suspension: None,
                registered_by: String::new(),
            },
        };
        record.prove_key(&public_key, now);
        record.registered_by = actor.strip_prefix("key:").unwrap_or(&actor).to_owned();
        let level = record.facts.governance_level.as_str();
        let mut detail = vec![("governance_level", level), ("name", record.facts.name.as_str())];
        let optional = [("org", &record.facts.org), ("team", &record.facts.team)];
        detail.extend(optional.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?))));
        detail.push(("public_key", &public_key));
        let event = self.services.entropy.event_id(now);
        let draft = Draft {
            kind: Kind::Registration,
            actor: Some(&actor),
            detail: &detail,
            ..self.draft(event, now)
        };
        let entry = self.chain.seal(&draft, &self.services.mac_key());
        let facts = record.facts.clone();
        let write = self.record_write(&record);
        self.policies.facts_changed();
        self.record = Some(record);
        let done = Reply::new(move |committed: Result<(), Fault>| {
            reply.send(committed.map(|()| facts));
        });
        self.append(entry, vec![write], done);
    }

    /// Answers with what is recorded at `position`, once it is committed.
    fn answer_again(&self, position: u64, reply: Reply<Result<Answer, NotRegistered>>) {
        self.read_again(position, reply, |entry| {
            let decision = entry.decision()?;
            Some(Ok(Answer {
                decision: decision.into(),
                event: entry.id,
                latency_us: entry.latency_us.unwrap_or_default(),
                repeated: true,
                charge: None,
                approval: entry.detail.get("approval").and_then(|id| id.parse().ok()),
            }))
        });
    }

    fn event_again(&self, position: u64, reply: Reply<Result<EventId, NotRegistered>>) {
        self.read_again(position, reply, |entry| Some(Ok(entry.id)));
    }

    fn read_again<T: Send + 'static>(
        &self,
        position: u64,
        reply: Reply<T>,
        read: impl FnOnce(aa_ledger::Entry) -> Option<T> + Send + 'static,
    ) {
        let shard = Arc::clone(&self.shard);
        let store = self.services.node.store();
        let workspace = self.id.workspace;
        tokio::spawn(async move {
            let answer = match shard.journal.barrier().await {
                Ok(()) => load::entry_at(&*store, workspace, shard.id, position)
                    .await
                    .map_err(|error| Fault::NotDurable(error.to_string()))
                    .and_then(|entry| read(entry).ok_or(Fault::Crashed)),
                Err(fault) => Err(fault),
            };
            reply.send(answer);
        });
    }

    fn draft(&self, id: EventId, time: Timestamp) -> Draft<'static> {
        let stream = Stream::Agent(self.id.agent);
        Draft::new(id, self.id.workspace, stream, time, Kind::Event)
    }

    fn seal(&mut self, draft: &Draft<'_>) -> LogEntry {
        self.chain.seal(draft, &self.services.mac_key())
    }

    /// Hands everything to the journal. `None` when the journal is closed: the reply has been failed,
    /// and this actor is about to be dropped with its shard.
    fn append(&mut self, entry: LogEntry, writes: Writes, done: Reply<()>) -> Option<u64> {
        self.append_record(Record::of_entry(entry, writes, done))
    }

    fn append_record(&mut self, mut record: Record) -> Option<u64> {
        let pages = self.recent.due_pages(self.chain.position());
        if !pages.is_empty() {
            let space = keys::recent(self.id.workspace, self.id.agent);
            record.writes.extend(pages.into_iter().map(|(number, page)| (space.key(number), page)));
        }
        match self.shard.journal.append(record) {
            Ok(Some(position)) => {
                self.chain.placed(position);
                self.recent.count_entry();
                Some(position)
            }
            Ok(None) | Err(_) => {
                self.shard.fail();
                None
            }
        }
    }

    fn record_write(&self, record: &AgentRecord) -> (Bytes, Bytes) {
        let key = keys::agent(self.id.workspace, self.id.agent);
        (key, crate::stored::encode(record))
    }
}

/// The rates as of one moment.
struct RatesAt<'r> {
    rates: &'r Rates,
    now: Timestamp,
}

impl RateFacts for RatesAt<'_> {
    fn admitted_in_window(&self, tool: &str) -> u64 {
        self.rates.0.get(tool).map_or(0, |window| window.calls_in_hour(self.now))
    }
}

// === impl AgentKeyId ===

impl std::fmt::Display for AgentKeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.workspace, self.agent)
    }
}
