//! A registered agent: what a program asks before it acts.

use std::{sync::Arc, time::Duration};

use aa_protocol::{
    ActionId, AgentId, ApprovalId, Decision, EventId, Timestamp,
    wire::v1::{self, action::Kind},
};
use tokio::{sync::watch, task::AbortHandle, time::timeout};

use crate::{
    client::{AgentSpec, Registrar},
    config::{Config, OnUnreachable},
    decided::Decided,
    error::ClientError,
    exchange::Exchange,
    gateways::Gateways,
    link::{Link, News, Supervisor},
    rounds::Rounds,
};

/// A registered agent. Cheap to clone; when the last clone is dropped, its session ends.
#[derive(Clone, Debug)]
pub struct Agent {
    exchange: Arc<Exchange>,
    /// Registered, or to be derived by the gateway from the workspace and the name.
    expected_id: AgentId,
    _tasks: Arc<Tasks>,
}

/// The answer to an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What may happen, and why.
    pub decision: Decision,
    /// The audit entry; `None` when no gateway was asked (see [`Checked::governed`]).
    pub event_id: Option<EventId>,
    /// Microseconds the gateway took.
    pub latency_us: u64,
    /// The id the action went under; a later [`Event`] about it refers to it.
    pub action_id: ActionId,
    /// `false` when the owner's [`OnUnreachable::Allow`] let it through without a gateway.
    pub governed: bool,
    /// The request that a person has to answer, when the verdict is that approval is required. To go on once it is
    /// decided, check the same action with it; see [`Options::approval`].
    pub approval_id: Option<ApprovalId>,
}

/// What a caller may add to one check.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The W3C trace the action belongs to.
    pub trace_id: Option<[u8; 16]>,
    /// The W3C id of the span that the action is a child of.
    pub parent_span: Option<[u8; 8]>,
    /// The longest to wait, retries included; `None` takes the configured time. People's time to decide on an approval
    /// is not in it.
    pub timeout: Option<Duration>,
    /// The request for approval that an earlier check of the same action led to: its decision is waited for.
    pub approval: Option<Approval>,
    /// What the program says of the action to those who approve it: at most 2,000 characters. It decides nothing.
    pub context: Option<Arc<str>>,
}

/// A request for approval, and how long to wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Approval {
    /// The request; see [`Checked::approval_id`].
    pub id: ApprovalId,
    /// The longest to wait for a person's decision. A request that nobody decides expires by itself.
    pub wait: Duration,
}

/// Something that happened outside a decision.
#[derive(Clone, Debug)]
pub struct Event {
    /// What it is about. It needs no payload; the checked action had it.
    pub action: Kind,
    /// The id of the checked action, or a fresh one.
    pub action_id: ActionId,
    /// The trace it belongs to.
    pub trace_id: Option<[u8; 16]>,
    /// The W3C id of the span that it is a child of.
    pub parent_span: Option<[u8; 8]>,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Duration,
    /// When it happened, when that is earlier than its report.
    pub occurred_at: Option<Timestamp>,
}

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It failed.
    Error,
    /// It was given up.
    Cancelled,
    /// It was let through while no gateway could be reached.
    Ungoverned,
    /// It was a connection that was let through without being looked at: nobody knows what went over it.
    Unseen,
}

#[derive(Debug)]
struct Tasks(Vec<AbortHandle>);

// === impl Agent ===

impl Agent {
    pub(crate) async fn start(
        config: Arc<Config>,
        spec: AgentSpec,
        registrar: Registrar,
        gateways: Gateways,
    ) -> Result<Self, ClientError> {
        let all_tried = Rounds::over(gateways.count()).all_tried();
        let connecting = Link::Down { problem: "not connected yet".to_owned(), all_tried };
        let (link, link_seen) = watch::channel(connecting);
        let (news, news_seen) = watch::channel(News::default());
        let decided = Decided::default();
        let expected_id =
            spec.id.unwrap_or_else(|| AgentId::of_name(config.workspace_id, &spec.name));
        let exchange =
            Arc::new(Exchange::new(config, spec.name, link_seen, news_seen, decided.clone()));
        let supervisor = Supervisor {
            registrar,
            gateways,
            link,
            news,
            decided,
            agent_id: Arc::clone(&exchange.agent_id),
            unregistered: Arc::clone(&exchange.unregistered),
        };
        let tasks = Tasks(vec![
            tokio::spawn(supervisor.run()).abort_handle(),
            tokio::spawn(Arc::clone(&exchange).deliver_backlog()).abort_handle(),
        ]);
        let agent = Self { exchange, expected_id, _tasks: Arc::new(tasks) };
        match agent.exchange.first_session().await {
            Err(ClientError::Unreachable { problem, .. })
                if agent.exchange.config.on_unreachable == OnUnreachable::Allow =>
            {
                tracing::warn!(agent = agent.name(), %problem, "not registered yet; going on ungoverned");
                Ok(agent)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(agent),
        }
    }

    /// The agent's name.
    pub fn name(&self) -> &str {
        &self.exchange.name
    }

    /// The registered id; before the gateway confirmed it, the one it will derive.
    pub fn id(&self) -> AgentId {
        self.exchange.agent_id.get().copied().unwrap_or(self.expected_id)
    }

    /// What the gateway pushed, as it changes.
    pub fn news(&self) -> watch::Receiver<News> {
        self.exchange.news.clone()
    }

    /// Whether a session is open right now.
    pub fn is_connected(&self) -> bool {
        matches!(&*self.exchange.link.borrow(), Link::Up(session) if session.is_open())
    }

    /// Asks whether an action may happen. Takes `&Action` or a wire [`Kind`] whose JSON is ready. Nothing
    /// but an answer whose verdict is [`Verdict::Allow`](aa_protocol::Verdict::Allow) lets the action go on.
    ///
    /// # Errors
    /// There is no decision; see [`ClientError`].
    pub async fn check(&self, action: impl Into<Kind>) -> Result<Checked, ClientError> {
        self.check_with(action, Options::default()).await
    }

    /// [`Agent::check`] with a trace id or another time to wait.
    ///
    /// # Errors
    /// There is no decision; see [`ClientError`].
    pub async fn check_with(
        &self,
        action: impl Into<Kind>,
        options: Options,
    ) -> Result<Checked, ClientError> {
        self.exchange.check(action.into(), options).await
    }

    /// Records an event and waits until it is durable.
    ///
    /// # Errors
    /// It was not recorded; see [`ClientError`].
    pub async fn record(&self, event: Event) -> Result<EventId, ClientError> {
        self.exchange.record(event.into_message(), self.exchange.config.request_timeout).await
    }

    /// Records an event in the background, retrying until the gateway took it.
    ///
    /// # Errors
    /// [`ClientError::BacklogFull`] when too many events wait already.
    pub fn record_later(&self, event: Event) -> Result<(), ClientError> {
        self.exchange.keep(event.into_message())
    }

    /// Waits until every event given to [`Agent::record_later`], and every action let through ungoverned,
    /// is delivered; `false` when that takes longer than `patience`.
    pub async fn flush(&self, patience: Duration) -> bool {
        timeout(patience, self.exchange.backlog.empty()).await.is_ok()
    }
}

// === impl Tasks ===

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

// === impl Event ===

impl Event {
    fn into_message(self) -> v1::Event {
        let outcome = match self.outcome {
            Outcome::Ok => v1::Outcome::Ok,
            Outcome::Error => v1::Outcome::Error,
            Outcome::Cancelled => v1::Outcome::Cancelled,
            Outcome::Ungoverned => v1::Outcome::Ungoverned,
            Outcome::Unseen => v1::Outcome::Unseen,
        };
        v1::Event {
            action: Some(v1::Action {
                id: self.action_id.to_bytes().to_vec().into(),
                trace_id: self.trace_id.map(|trace| trace.to_vec().into()).unwrap_or_default(),
                parent_span: self.parent_span.map(|span| span.to_vec().into()).unwrap_or_default(),
                kind: Some(self.action),
                ..v1::Action::default()
            }),
            outcome: outcome.into(),
            duration_us: u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX),
            occurred_at_unix_us: self.occurred_at.map_or(0, Timestamp::as_micros),
        }
    }
}
