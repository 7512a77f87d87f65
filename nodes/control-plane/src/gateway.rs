//! The gRPC gateway: who is calling, is the message well formed, is there room; then to the actors.

mod decoding;
mod refusal;
mod registration;
mod releasing;
mod session;

use std::{pin::Pin, sync::Arc, time::Duration};

use aa_governance::{
    Governance,
    agent::{
        AgentKeyId, Answer, Charge, MAX_CONTEXT, NotRegistered, Report, ReportOutcome,
        Request as CheckRequest, SessionId,
    },
    notice::Notice,
};
use aa_protocol::{
    ActionId, ApprovalId, EventId, Timestamp,
    wire::{WireError, v1},
};
use aa_runtime::{Clock, Entropy, Fault, Reply};
use futures::Stream;
use http::{HeaderValue, header::AUTHORIZATION};
use prost::Message;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

pub use self::decoding::{AuditDecoding, DecodingLayer};
pub(crate) use self::refusal::with_retry;
use self::refusal::{fault_status, overload_status, status_of};
use crate::{
    admission::{Admission, Limits},
    nonce::Nonces,
    token::{Claims, TokenKey},
};

/// The largest message that is read, in bytes: 4 MiB of content and its framing.
pub const MAX_MESSAGE: usize = (4 << 20) + (64 << 10);

/// The gateway's service. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    governance: Governance,
    tokens: TokenKey,
    nonces: Nonces,
    admission: Admission,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    draining: watch::Receiver<bool>,
}

/// An agent whose token was accepted.
#[derive(Clone, Debug)]
struct Caller {
    id: AgentKeyId,
    expires: Timestamp,
    session: Option<SessionId>,
}

/// An action as it was read.
struct Parsed {
    id: ActionId,
    trace: Option<[u8; 16]>,
    parent_span: Option<[u8; 8]>,
    action: aa_protocol::Action,
    approval: Option<ApprovalId>,
    context: Option<String>,
}

/// The longest that a unary caller waits for a person's decision; it asks again then.
const MAX_WAIT: Duration = Duration::from_secs(30);

// === impl Gateway ===

impl Gateway {
    /// A gateway before `governance`. Once `draining` turns true it takes nothing new.
    pub fn new(
        governance: Governance,
        tokens: TokenKey,
        limits: Limits,
        draining: watch::Receiver<bool>,
    ) -> Self {
        let services = governance.services();
        let inner = Inner {
            clock: Arc::clone(&services.clock),
            entropy: Arc::clone(&services.entropy),
            tokens,
            nonces: Nonces::default(),
            admission: Admission::new(limits),
            draining,
            governance,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The agent behind a request's token. A refused token that was this gateway's own is audited.
    async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let token = bearer(metadata)?;
        self.caller_of(token).await
    }

    async fn caller_of(&self, token: &str) -> Result<Caller, Status> {
        match self.inner.tokens.verify(token, self.inner.clock.now()) {
            Ok(claims) => Ok(Caller::of(&claims)),
            Err(error) => {
                if let Some(claims) = error.claims() {
                    let caller = Caller::of(claims);
                    self.audit_refusal(&caller.id, error.code(), error.to_string()).await;
                }
                Err(Status::unauthenticated(error.to_string()))
            }
        }
    }

    /// Takes an action apart; what is malformed is audited before it is refused.
    async fn parse(&self, caller: &Caller, action: v1::Action) -> Result<Parsed, Status> {
        match Parsed::of(action) {
            Ok(parsed) => Ok(parsed),
            Err(error) => Err(self.malformed(caller, &error).await),
        }
    }

    async fn malformed(&self, caller: &Caller, error: &WireError) -> Status {
        self.audit_refusal(&caller.id, "malformed_action", error.to_string()).await;
        Status::invalid_argument(error.to_string())
    }

    async fn audit_refusal(&self, id: &AgentKeyId, code: &'static str, message: String) {
        let (reply, recorded) = Reply::channel();
        let refusal = aa_governance::agent::Refusal { code: code.into(), message };
        self.inner.governance.refuse(id, refusal, reply);
        // The refusal stands whether or not its record could be written; the log says if it was not.
        if let Ok(Err(fault)) = recorded.await {
            tracing::warn!(%id, code, %fault, "a refusal was not audited");
        }
    }

    fn check_draining(&self) -> Result<(), Status> {
        if *self.inner.draining.borrow() {
            return Err(Status::unavailable("the gateway is shutting down; connect again"));
        }
        Ok(())
    }

    /// Refuses what would begin here while the node's lease has lapsed: it could only wait for the lease, and
    /// the client has other nodes to go to.
    fn check_lease(&self) -> Result<(), Status> {
        let node = &self.inner.governance.services().node;
        if node.serves() {
            return Ok(());
        }
        Err(Status::unavailable(format!(
            "node `{}` does not hold its lease at the moment; connect to another",
            node.name()
        )))
    }

    /// How a request for approval stands, once it is decided or `wait` is over. Nobody's thread waits.
    async fn await_decision(
        &self,
        caller: &Caller,
        id: ApprovalId,
        wait: Duration,
    ) -> Result<v1::ApprovalState, Status> {
        // First listen, then look: a decision in between is heard.
        let mut notices = self.inner.governance.notices(caller.id.workspace);
        let decided = async {
            loop {
                match notices.recv().await {
                    Ok(Notice::ApprovalDecided { approval, .. }) if approval == id => return,
                    Ok(_) => {}
                    // Something was missed: look.
                    Err(_) => return,
                }
            }
        };
        let mut state = self.approval_state(caller, id).await?;
        if state.state == "pending" && !wait.is_zero() {
            let _ = tokio::time::timeout(wait, decided).await;
            state = self.approval_state(caller, id).await?;
        }
        Ok(state)
    }

    async fn approval_state(
        &self,
        caller: &Caller,
        id: ApprovalId,
    ) -> Result<v1::ApprovalState, Status> {
        let found = self.inner.governance.approval_of(&caller.id, id).await;
        let found = found.map_err(|error| match error {
            aa_governance::GovernanceError::Fault(fault) => fault_status(&fault),
            other => Status::unavailable(other.to_string()),
        })?;
        let record = found.ok_or_else(|| {
            Status::not_found(format!("there is no request for approval {id} of this agent"))
        })?;
        Ok(v1::ApprovalState {
            state: record.state().to_owned(),
            deadline_unix_us: record.deadline.as_micros(),
        })
    }

    async fn report(&self, caller: &Caller, event: v1::Event) -> Result<Report, Status> {
        let v1::Event { action, outcome, duration_us, occurred_at_unix_us } = event;
        let Some(action) = action else {
            return Err(self.malformed(caller, &WireError::Missing("event.action")).await);
        };
        let Parsed { id, trace, parent_span, action, .. } = self.parse(caller, action).await?;
        let outcome = match v1::Outcome::try_from(outcome) {
            Ok(v1::Outcome::Ok) => ReportOutcome::Ok,
            Ok(v1::Outcome::Error) => ReportOutcome::Error,
            Ok(v1::Outcome::Cancelled) => ReportOutcome::Cancelled,
            Ok(v1::Outcome::Ungoverned) => ReportOutcome::Ungoverned,
            Ok(v1::Outcome::Unseen) => ReportOutcome::Unseen,
            Ok(v1::Outcome::Unspecified) => {
                return Err(self.malformed(caller, &WireError::Missing("event.outcome")).await);
            }
            Err(_) => {
                let value = outcome.to_string();
                let error = WireError::Unknown { field: "event.outcome", value };
                return Err(self.malformed(caller, &error).await);
            }
        };
        let occurred_at =
            (occurred_at_unix_us > 0).then(|| Timestamp::from_micros(occurred_at_unix_us));
        let session = caller.session;
        Ok(Report { id, trace, parent_span, action, outcome, duration_us, occurred_at, session })
    }
}

type ServerFrames = Pin<Box<dyn Stream<Item = Result<v1::ServerFrame, Status>> + Send>>;

#[tonic::async_trait]
impl v1::gateway_server::Gateway for Gateway {
    async fn begin_registration(
        &self,
        request: Request<v1::BeginRegistrationRequest>,
    ) -> Result<Response<v1::BeginRegistrationResponse>, Status> {
        self.check_draining()?;
        self.check_lease()?;
        self.begin(request).await.map(Response::new)
    }

    async fn register_agent(
        &self,
        request: Request<v1::RegisterAgentRequest>,
    ) -> Result<Response<v1::AgentToken>, Status> {
        self.check_draining()?;
        self.check_lease()?;
        self.register(request).await.map(Response::new)
    }

    async fn renew_token(
        &self,
        request: Request<v1::RenewTokenRequest>,
    ) -> Result<Response<v1::AgentToken>, Status> {
        let caller = self.caller(request.metadata()).await?;
        Ok(Response::new(self.token_for(&caller.id, caller.session)))
    }

    async fn check_policy(
        &self,
        request: Request<v1::Action>,
    ) -> Result<Response<v1::Decision>, Status> {
        self.check_draining()?;
        let received = self.inner.clock.now();
        let caller = self.caller(request.metadata()).await?;
        let gauges = self.inner.admission.caller(&caller.id);
        let bytes = request.get_ref().encoded_len();
        let _admitted = gauges.admit(bytes).map_err(overload_status)?;
        let parsed = self.parse(&caller, request.into_inner()).await?;
        let (reply, answer) = Reply::channel();
        let check = parsed.received(received, caller.session);
        self.inner.governance.check(&caller.id, check, reply);
        let answer = durable(answer.await)?;
        Ok(Response::new(decision_message(&answer)))
    }

    async fn record_event(
        &self,
        request: Request<v1::Event>,
    ) -> Result<Response<v1::Recorded>, Status> {
        self.check_draining()?;
        let caller = self.caller(request.metadata()).await?;
        let gauges = self.inner.admission.caller(&caller.id);
        let bytes = request.get_ref().encoded_len();
        let _admitted = gauges.admit(bytes).map_err(overload_status)?;
        let report = self.report(&caller, request.into_inner()).await?;
        let (reply, answer) = Reply::channel();
        self.inner.governance.record(&caller.id, report, reply);
        let event: EventId = durable(answer.await)?;
        Ok(Response::new(v1::Recorded { event_id: event.to_string() }))
    }

    async fn await_approval(
        &self,
        request: Request<v1::AwaitApprovalRequest>,
    ) -> Result<Response<v1::ApprovalState>, Status> {
        self.check_draining()?;
        let caller = self.caller(request.metadata()).await?;
        let v1::AwaitApprovalRequest { approval_id, wait_ms } = request.into_inner();
        let id = <[u8; 16]>::try_from(approval_id.as_ref())
            .map_err(|_| Status::invalid_argument("`approval_id` must be 16 bytes"))?;
        let wait = Duration::from_millis(wait_ms).min(MAX_WAIT);
        self.await_decision(&caller, ApprovalId::from_bytes(id), wait).await.map(Response::new)
    }

    async fn release_secret(
        &self,
        request: Request<v1::ReleaseSecretRequest>,
    ) -> Result<Response<v1::ReleaseSecretResponse>, Status> {
        self.check_draining()?;
        self.check_lease()?;
        self.release(request).await.map(Response::new)
    }

    type SessionStream = ServerFrames;

    async fn session(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<ServerFrames>, Status> {
        self.check_draining()?;
        self.check_lease()?;
        let caller = self.caller(request.metadata()).await?;
        Ok(Response::new(session::open(self.clone(), caller, request.into_inner())))
    }
}

// === impl Caller ===

impl Caller {
    fn of(claims: &Claims) -> Self {
        let id = AgentKeyId { workspace: claims.ws, agent: claims.sub };
        let expires = Timestamp::from_micros(claims.exp.saturating_mul(1_000_000));
        Self { id, expires, session: claims.sid.map(SessionId) }
    }
}

fn bearer(metadata: &MetadataMap) -> Result<&str, Status> {
    let value = metadata.as_ref().get(AUTHORIZATION).ok_or_else(|| {
        Status::unauthenticated("there is no `authorization` metadata; send `Bearer <token>`")
    })?;
    presented(value)
        .ok_or_else(|| Status::unauthenticated("`authorization` is not of the form `Bearer …`"))
}

/// The credential that an `authorization` header presents, if it is of that form.
pub(crate) fn presented(authorization: &HeaderValue) -> Option<&str> {
    authorization.to_str().ok()?.strip_prefix("Bearer ")
}

/// What an actor answered, or the status of why it did not.
fn durable<T>(
    answer: Result<Result<Result<T, NotRegistered>, Fault>, tokio::sync::oneshot::error::RecvError>,
) -> Result<T, Status> {
    settled(answer.unwrap_or(Err(Fault::Gone)))
}

/// The same for an answer that has come.
fn settled<T>(answer: Result<Result<T, NotRegistered>, Fault>) -> Result<T, Status> {
    match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(unknown)) => Err(status_of(&unknown)),
        Err(fault) => Err(fault_status(&fault)),
    }
}

fn decision_message(answer: &Answer) -> v1::Decision {
    let Answer { decision, event, latency_us, repeated, charge, approval: asked } = answer;
    let charge = charge.map(|charge| match charge {
        Charge::Settled { amount, basis } => v1::Charge {
            settled: true,
            posted_nano_usd: amount.cost().0,
            posted_tokens: amount.tokens(),
            basis: basis.as_str().to_owned(),
        },
        Charge::NotOpen => v1::Charge::default(),
    });
    let message = v1::Decision::from_parts(decision, *event, *latency_us, *repeated);
    let approval = message.approval.map(|terms| v1::Approval {
        id: asked.map_or_else(Default::default, |id| id.to_bytes().to_vec().into()),
        ..terms
    });
    v1::Decision { charge, approval, ..message }
}

// === impl Parsed ===

impl Parsed {
    fn of(message: v1::Action) -> Result<Self, WireError> {
        let approval = message.approval()?;
        let parent_span = message.parent_span()?;
        let context = message.context.clone();
        if context.chars().count() > MAX_CONTEXT {
            let length = context.len();
            return Err(WireError::TooLong { field: "action.context", length });
        }
        let context = (!context.is_empty()).then_some(context);
        let (id, trace, action) = message.into_parts()?;
        Ok(Self { id, trace, parent_span, action, approval, context })
    }

    fn received(self, received: Timestamp, session: Option<SessionId>) -> CheckRequest {
        let Self { id, trace, parent_span, action, approval, context } = self;
        CheckRequest { id, trace, parent_span, action, received, approval, session, context }
    }
}
