//! Asking and being answered, within the caller's time, over whatever session there is.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aa_protocol::{
    ActionId, AgentId, ApprovalId, Decision, EventId, Reason, ReasonCode, Verdict,
    wire::{
        WireError,
        v1::{self, action::Kind, client_frame},
    },
};
use prost::Message as _;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::Code;

use crate::{
    agent::{Approval, Checked, Options},
    backlog::{Backlog, Full},
    backoff::{Backoff, jittered},
    config::{Config, OnUnreachable},
    decided::Decided,
    error::ClientError,
    link::{Link, News},
    session::{Answer, MAX_FRAME_BYTES, Session},
};

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) config: Arc<Config>,
    pub(crate) name: String,
    pub(crate) agent_id: Arc<OnceLock<AgentId>>,
    pub(crate) link: watch::Receiver<Link>,
    pub(crate) news: watch::Receiver<News>,
    pub(crate) unregistered: Arc<Notify>,
    pub(crate) backlog: Backlog,
    decided: Decided,
    in_flight: Semaphore,
}

/// What kept a caller from its answer.
enum Obstacle {
    Way(String),
    Overload,
}

/// Actions of one agent that may be with the gateway at once; more wait their turn within their own time.
const MAX_IN_FLIGHT: usize = 256;
const DELIVERED_AT_ONCE: usize = 64;
const DELIVERY_PATIENCE: Duration = Duration::from_secs(30);
/// How long an action waits for a link known to be down before its owner's choice applies.
const GRACE: Duration = Duration::from_millis(250);
const RETRY_AT_LEAST: Duration = Duration::from_millis(5);
const RETRY_AT_MOST: Duration = Duration::from_secs(2);
/// How long to give the agent to register anew before a frame is tried under the new token.
const REGISTRATION_TAKES: Duration = Duration::from_millis(100);
const REGISTRATIONS: u32 = 3;
/// How often to look at a request for approval of which nothing is heard.
const LOOK_EVERY: Duration = Duration::from_secs(60);

// === impl Exchange ===

impl Exchange {
    pub(crate) fn new(
        config: Arc<Config>,
        name: String,
        link: watch::Receiver<Link>,
        news: watch::Receiver<News>,
        decided: Decided,
    ) -> Self {
        Self {
            config,
            name,
            agent_id: Arc::default(),
            link,
            news,
            unregistered: Arc::default(),
            backlog: Backlog::new(),
            decided,
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
        }
    }

    pub(crate) async fn check(
        &self,
        action: Kind,
        options: Options,
    ) -> Result<Checked, ClientError> {
        let Some(Approval { mut id, wait }) = options.approval else {
            return self.check_once(action, None, &options).await;
        };
        let until = Instant::now() + wait;
        loop {
            let in_time = self.await_decision(id, until).await;
            // An approval is for the very same action, under an id of its own.
            let checked = self.check_once(action.clone(), Some(id), &options).await?;
            match checked.approval_id {
                // Should the request have become worthless, by a changed policy, the answer names a new one.
                Some(asked) if in_time => id = asked,
                _ => return Ok(checked),
            }
        }
    }

    /// Waits until a request for approval may have been decided; `false` when the time is up.
    async fn await_decision(&self, id: ApprovalId, until: Instant) -> bool {
        let mut link = self.link.clone();
        link.mark_unchanged();
        let reconnected = async {
            // What was pushed while there was no stream was not heard: look once there is one again.
            while link.changed().await.is_ok() && !matches!(&*link.borrow(), Link::Up(_)) {}
        };
        let news = async {
            tokio::select! {
                () = self.decided.heard_of(id) => {}
                () = reconnected => {}
            }
        };
        let look_at = until.min(Instant::now() + LOOK_EVERY);
        let _ = timeout_at(look_at, news).await;
        Instant::now() < until
    }

    async fn check_once(
        &self,
        action: Kind,
        approval: Option<ApprovalId>,
        options: &Options,
    ) -> Result<Checked, ClientError> {
        let id = ActionId::from_bytes(fresh_id()?);
        let action = v1::Action {
            id: id.to_bytes().to_vec().into(),
            trace_id: options.trace_id.map(|trace| trace.to_vec().into()).unwrap_or_default(),
            parent_span: options.parent_span.map(|span| span.to_vec().into()).unwrap_or_default(),
            kind: Some(action),
            approval_id: approval.map_or_else(Default::default, |id| id.to_bytes().to_vec().into()),
            context: options.context.as_deref().unwrap_or_default().to_owned(),
        };
        let patience = self.patience(options.timeout);
        let body = client_frame::Body::Check(action);
        match self.ask(patience, &body).await {
            Ok(Answer::Decision(decision)) => {
                let approval_id = decision.approval.as_ref().and_then(|approval| {
                    approval.id.as_ref().try_into().ok().map(ApprovalId::from_bytes)
                });
                Ok(Checked {
                    event_id: Some(event_id(&decision.event_id)?),
                    latency_us: decision.latency_us,
                    action_id: id,
                    governed: true,
                    decision: decision.to_decision()?,
                    approval_id,
                })
            }
            Ok(_) => Err(misplaced_answer()),
            Err(ClientError::Unreachable { problem, .. })
                if self.config.on_unreachable == OnUnreachable::Allow =>
            {
                self.let_through(id, body, &problem)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn record(
        &self,
        event: v1::Event,
        patience: Duration,
    ) -> Result<EventId, ClientError> {
        match self.ask(patience, &client_frame::Body::Record(event)).await? {
            Answer::Recorded(recorded) => Ok(event_id(&recorded.event_id)?),
            _ => Err(misplaced_answer()),
        }
    }

    /// How long to wait. With the owner's leave to go on, ways known to be closed are not waited for long.
    fn patience(&self, asked: Option<Duration>) -> Duration {
        let patience = asked.unwrap_or(self.config.request_timeout);
        let down = matches!(&*self.link.borrow(), Link::Down { all_tried: true, .. });
        if down && self.config.on_unreachable == OnUnreachable::Allow {
            patience.min(GRACE)
        } else {
            patience
        }
    }

    /// Sends a frame until it is answered or `patience` is over. Each attempt carries the same action id,
    /// so the gateway acts once.
    async fn ask(
        &self,
        patience: Duration,
        body: &client_frame::Body,
    ) -> Result<Answer, ClientError> {
        let size = body_size(body);
        if size > MAX_FRAME_BYTES {
            return Err(ClientError::TooLarge { bytes: size, limit: MAX_FRAME_BYTES });
        }
        let mut obstacle = Obstacle::Way("no answer came".to_owned());
        let attempts = self.attempt_until_answered(body, &mut obstacle);
        if let Ok(answer) = timeout(patience, attempts).await {
            return answer;
        }
        Err(match (obstacle, &*self.link.borrow()) {
            (Obstacle::Overload, _) => ClientError::Overloaded { waited: patience },
            (_, Link::Down { problem, .. }) => self.unreachable(patience, problem.clone()),
            (Obstacle::Way(problem), _) => self.unreachable(patience, problem),
        })
    }

    async fn attempt_until_answered(
        &self,
        body: &client_frame::Body,
        obstacle: &mut Obstacle,
    ) -> Result<Answer, ClientError> {
        let _permit = self
            .in_flight
            .acquire()
            .await
            .map_err(|_| ClientError::System("the agent was closed".to_owned()))?;
        let mut registrations = 0;
        loop {
            let session = self.open_session().await?;
            // The end of a stream is dealt with by its successor.
            let Ok(answer) = session.exchange(body.clone()).await else { continue };
            let Answer::Refusal(refusal) = answer else { return Ok(answer) };
            let code = Code::from_i32(refusal.code);
            let unknown_here = matches!(code, Code::Unauthenticated | Code::NotFound);
            if unknown_here && registrations < REGISTRATIONS {
                registrations += 1;
                self.unregistered.notify_one();
            } else if !asks_for_another_attempt(code) {
                return Err(ClientError::Refused { code, message: refusal.message });
            }
            *obstacle = match code {
                Code::ResourceExhausted => Obstacle::Overload,
                _ => Obstacle::Way(refusal.message),
            };
            let at_least = if unknown_here { REGISTRATION_TAKES } else { RETRY_AT_LEAST };
            let hint = Duration::from_millis(refusal.retry_after_ms);
            sleep(jittered(2 * hint.clamp(at_least, RETRY_AT_MOST))).await;
        }
    }

    /// The open stream, or the next one to open.
    async fn open_session(&self) -> Result<Arc<Session>, ClientError> {
        let mut link = self.link.clone();
        let usable = |link: &Link| match link {
            Link::Up(session) => session.is_open(),
            Link::Refused(_) => true,
            Link::Down { .. } => false,
        };
        let link = link
            .wait_for(usable)
            .await
            .map_err(|_| ClientError::System("the agent was closed".to_owned()))?;
        match &*link {
            Link::Up(session) => Ok(Arc::clone(session)),
            Link::Refused(error) => Err(error.clone()),
            Link::Down { problem, .. } => Err(self.unreachable(Duration::ZERO, problem.clone())),
        }
    }

    pub(crate) async fn first_session(&self) -> Result<(), ClientError> {
        let patience = self.config.request_timeout;
        if let Ok(session) = timeout_at(Instant::now() + patience, self.open_session()).await {
            return session.map(drop);
        }
        let problem = match &*self.link.borrow() {
            Link::Down { problem, .. } => problem.clone(),
            _ => "no session opened".to_owned(),
        };
        Err(self.unreachable(patience, problem))
    }

    fn unreachable(&self, waited: Duration, problem: String) -> ClientError {
        ClientError::Unreachable { gateways: self.config.gateway_urls.clone(), waited, problem }
    }

    fn let_through(
        &self,
        id: ActionId,
        body: client_frame::Body,
        problem: &str,
    ) -> Result<Checked, ClientError> {
        let client_frame::Body::Check(action) = body else {
            return Err(misplaced_answer());
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.keep(v1::Event {
            action: Some(action),
            outcome: v1::Outcome::Ungoverned.into(),
            duration_us: 0,
            occurred_at_unix_us: i64::try_from(now.as_micros()).unwrap_or(i64::MAX),
        })?;
        let message = format!(
            "no gateway could be reached ({problem}) and the owner chose to go on; recorded for later"
        );
        Ok(Checked {
            decision: Decision {
                verdict: Verdict::Allow,
                reasons: vec![Reason::undocumented(ReasonCode::Allowed, message)],
                approval: None,
                findings: Vec::new(),
            },
            event_id: None,
            latency_us: 0,
            action_id: id,
            governed: false,
            approval_id: None,
        })
    }

    pub(crate) fn keep(&self, event: v1::Event) -> Result<(), ClientError> {
        self.backlog.push(event).map_err(|Full(events)| ClientError::BacklogFull { events })
    }

    /// Delivers what is queued, some at a time, for as long as the agent lives.
    pub(crate) async fn deliver_backlog(self: Arc<Self>) {
        let mut backoff = Backoff::new();
        loop {
            let mut deliveries = JoinSet::new();
            for event in self.backlog.take(DELIVERED_AT_ONCE).await {
                let exchange = Arc::clone(&self);
                deliveries.spawn(async move {
                    let outcome = exchange.record(event.clone(), DELIVERY_PATIENCE).await;
                    (event, outcome)
                });
            }
            let mut undelivered = Vec::new();
            while let Some(Ok((event, outcome))) = deliveries.join_next().await {
                match outcome {
                    Ok(_) => self.backlog.settle(1),
                    Err(ClientError::Refused { code, message })
                        if !matches!(code, Code::Unauthenticated | Code::NotFound) =>
                    {
                        tracing::warn!(agent = %self.name, %message, ?code, "event refused");
                        self.backlog.settle(1);
                    }
                    Err(ClientError::TooLarge { bytes, .. }) => {
                        tracing::warn!(agent = %self.name, bytes, "event too large to record");
                        self.backlog.settle(1);
                    }
                    Err(_) => undelivered.push(event),
                }
            }
            if undelivered.is_empty() {
                backoff.reset();
            } else {
                self.backlog.put_back(undelivered);
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// Whether a refused frame may fare better soon. An internal error is not among them: what crashed an
/// actor once would crash it again.
const fn asks_for_another_attempt(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::DeadlineExceeded
    )
}

fn fresh_id() -> Result<[u8; 16], ClientError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| ClientError::System(error.to_string()))?;
    Ok(uuid::Builder::from_random_bytes(random).into_uuid().into_bytes())
}

fn body_size(body: &client_frame::Body) -> usize {
    const TAG_AND_LENGTH: usize = 32;
    TAG_AND_LENGTH
        + match body {
            client_frame::Body::Check(action) => action.encoded_len(),
            client_frame::Body::Record(event) => event.encoded_len(),
            client_frame::Body::Token(token) => token.len(),
        }
}

fn event_id(text: &str) -> Result<EventId, WireError> {
    text.parse().map_err(|_| WireError::Unknown {
        field: "event_id",
        value: text.chars().take(64).collect(),
    })
}

fn misplaced_answer() -> ClientError {
    let value = "an answer to something else".to_owned();
    ClientError::NotUnderstood(WireError::Unknown { field: "server_frame.body", value })
}
