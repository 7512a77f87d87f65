//! A gateway that does what a test tells it to: drops connections, answers late or never, drains, refuses.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use aa_protocol::{
    AgentId, EventId, WorkspaceId,
    wire::{
        registration_message,
        v1::{
            self, client_frame,
            gateway_server::{Gateway, GatewayServer},
            server_frame,
        },
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use tokio::{
    net::TcpListener,
    runtime::{self, Runtime},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Identity, Server, ServerTlsConfig},
};

pub(crate) const WORKSPACE: &str = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890";
pub(crate) const API_KEY: &str = "test-key";
pub(crate) const AGENT: &str = "research";
pub(crate) const SECRET: &str = "sk-marker-31";

/// What the gateway does with one check.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reaction {
    Allow,
    UnknownVerdict,
    Refuse {
        code: tonic::Code,
        retry_after_ms: u64,
    },
    /// Ends the stream without an answer.
    Hang,
    Ignore,
    /// Announces a drain, and answers after that.
    DrainThenAllow,
    /// Answers together with, and after, the next check.
    AfterTheNext,
    PushNews,
}

#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) script: VecDeque<Reaction>,
    pub(crate) otherwise: Reaction,
    pub(crate) registrations: Vec<v1::RegisterAgentRequest>,
    pub(crate) renewals: usize,
    pub(crate) session_tokens: Vec<String>,
    pub(crate) offered_tokens: Vec<String>,
    pub(crate) checks: Vec<v1::Action>,
    pub(crate) events: Vec<v1::Event>,
    pub(crate) refuse_registration: Option<tonic::Code>,
    pub(crate) refuse_session: Option<tonic::Code>,
    pub(crate) releases: Vec<v1::ReleaseSecretRequest>,
    /// How requests for secrets are refused, before they are answered.
    pub(crate) refuse_releases: VecDeque<Status>,
    /// Whether tokens are good only once somebody has registered here.
    pub(crate) knows_own_tokens_only: bool,
    pub(crate) token_seconds: i64,
}

#[derive(Clone)]
pub(crate) struct Scripted {
    seen: Arc<Mutex<Seen>>,
}

/// A gateway in a runtime of its own, as if it were a process that can be killed.
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    pub(crate) gateway: Scripted,
    runtime: Option<Runtime>,
}

/// A running gateway; it stops when dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) gateway: Scripted,
    server: AbortHandle,
}

// === impl Scripted ===

impl Scripted {
    pub(crate) fn new(script: impl IntoIterator<Item = Reaction>) -> Self {
        Self {
            seen: Arc::new(Mutex::new(Seen {
                script: script.into_iter().collect(),
                otherwise: Reaction::Allow,
                registrations: Vec::new(),
                renewals: 0,
                session_tokens: Vec::new(),
                offered_tokens: Vec::new(),
                checks: Vec::new(),
                events: Vec::new(),
                refuse_registration: None,
                refuse_session: None,
                releases: Vec::new(),
                refuse_releases: VecDeque::new(),
                knows_own_tokens_only: false,
                token_seconds: 3600,
            })),
        }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    pub(crate) async fn start(self) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.serve(listener, None)
    }

    pub(crate) fn serve(self, listener: TcpListener, identity: Option<Identity>) -> Running {
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(identity) = identity {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let serving = server
            .add_service(GatewayServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move {
            serving.await.unwrap();
        });
        Running { address, gateway: self, server: server.abort_handle() }
    }

    pub(crate) fn start_process(self) -> Process {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let serving = Server::builder().add_service(GatewayServer::new(self.clone()));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(socket).unwrap();
            serving.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Process { address, gateway: self, runtime: Some(runtime) }
    }

    fn token(&self) -> v1::AgentToken {
        let seen = self.seen();
        let serial = seen.registrations.len() + seen.renewals;
        let claims = format!(r#"{{"iat":0,"exp":{},"jti":"{serial}"}}"#, seen.token_seconds);
        v1::AgentToken {
            agent_id: AgentId::of_name(workspace(), AGENT).to_string(),
            token: format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)),
            expires_at_unix_seconds: 0,
        }
    }

    fn react(&self, action: v1::Action) -> Reaction {
        let mut seen = self.seen();
        seen.checks.push(action);
        let otherwise = seen.otherwise;
        seen.script.pop_front().unwrap_or(otherwise)
    }
}

#[tonic::async_trait]
impl Gateway for Scripted {
    type SessionStream = ReceiverStream<Result<v1::ServerFrame, Status>>;

    async fn begin_registration(
        &self,
        request: Request<v1::BeginRegistrationRequest>,
    ) -> Result<Response<v1::BeginRegistrationResponse>, Status> {
        assert_eq!(credential(&request), API_KEY);
        Ok(Response::new(v1::BeginRegistrationResponse { nonce: vec![7; 32].into() }))
    }

    async fn register_agent(
        &self,
        request: Request<v1::RegisterAgentRequest>,
    ) -> Result<Response<v1::AgentToken>, Status> {
        assert_eq!(credential(&request), API_KEY);
        if let Some(code) = self.seen().refuse_registration {
            return Err(Status::new(code, "not this one"));
        }
        let request = request.into_inner();
        let key: [u8; 32] = request.public_key.as_ref().try_into().unwrap();
        let message = registration_message(
            &[7; 32],
            &key,
            &request.workspace_id,
            &request.name,
            &request.agent_id,
        );
        let signature = Signature::from_slice(&request.signature).unwrap();
        VerifyingKey::from_bytes(&key).unwrap().verify_strict(&message, &signature).unwrap();
        self.seen().registrations.push(request);
        Ok(Response::new(self.token()))
    }

    async fn await_approval(
        &self,
        _request: Request<v1::AwaitApprovalRequest>,
    ) -> Result<Response<v1::ApprovalState>, Status> {
        Err(Status::unimplemented("nothing here needs approval"))
    }

    async fn renew_token(
        &self,
        _: Request<v1::RenewTokenRequest>,
    ) -> Result<Response<v1::AgentToken>, Status> {
        let mut seen = self.seen();
        seen.renewals += 1;
        // Only the first is short-lived.
        seen.token_seconds = 3600;
        drop(seen);
        Ok(Response::new(self.token()))
    }

    async fn release_secret(
        &self,
        request: Request<v1::ReleaseSecretRequest>,
    ) -> Result<Response<v1::ReleaseSecretResponse>, Status> {
        assert_eq!(credential(&request), API_KEY);
        let mut seen = self.seen();
        seen.releases.push(request.into_inner());
        match seen.refuse_releases.pop_front() {
            Some(refused) => Err(refused),
            None => Ok(Response::new(v1::ReleaseSecretResponse::new(
                SECRET.as_bytes(),
                3,
                std::time::Duration::from_secs(3_600),
            ))),
        }
    }

    async fn check_policy(&self, _: Request<v1::Action>) -> Result<Response<v1::Decision>, Status> {
        Err(Status::unimplemented("the client uses the session"))
    }

    async fn record_event(&self, _: Request<v1::Event>) -> Result<Response<v1::Recorded>, Status> {
        Err(Status::unimplemented("the client uses the session"))
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(code) = self.seen().refuse_session {
            return Err(Status::new(code, "not here"));
        }
        let mut seen = self.seen();
        if seen.knows_own_tokens_only && seen.registrations.is_empty() {
            return Err(Status::unauthenticated("of another key"));
        }
        seen.session_tokens.push(credential(&request));
        drop(seen);
        let (answers, stream) = mpsc::channel(1024);
        tokio::spawn(self.clone().converse(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

type Answers = mpsc::Sender<Result<v1::ServerFrame, Status>>;

impl Scripted {
    async fn converse(self, mut frames: Streaming<v1::ClientFrame>, answers: Answers) {
        use server_frame::Body;
        let mut held = Vec::new();
        while let Ok(Some(frame)) = frames.message().await {
            let send = async |tag, body| {
                let _ = answers.send(Ok(v1::ServerFrame { tag, body: Some(body) })).await;
            };
            let tag = frame.tag;
            match frame.body.unwrap() {
                client_frame::Body::Record(event) => {
                    self.seen().events.push(event);
                    let event_id = EventId::from_parts(1, u128::from(tag)).to_string();
                    send(tag, Body::Recorded(v1::Recorded { event_id })).await;
                }
                client_frame::Body::Token(token) => {
                    self.seen().offered_tokens.push(token);
                    send(tag, Body::TokenAccepted(v1::TokenAccepted::default())).await;
                }
                client_frame::Body::Check(action) => match self.react(action.clone()) {
                    Reaction::Allow => {
                        send(tag, Body::Decision(allow(&action))).await;
                        for (tag, action) in held.drain(..) {
                            send(tag, Body::Decision(allow(&action))).await;
                        }
                    }
                    Reaction::UnknownVerdict => {
                        let decision = v1::Decision { verdict: 99, ..allow(&action) };
                        send(tag, Body::Decision(decision)).await;
                    }
                    Reaction::Refuse { code, retry_after_ms } => {
                        let message = "as told".to_owned();
                        let code = code.into();
                        send(tag, Body::Refusal(v1::Refusal { code, message, retry_after_ms }))
                            .await;
                    }
                    Reaction::Hang => return,
                    Reaction::Ignore => {}
                    Reaction::AfterTheNext => held.push((tag, action)),
                    Reaction::DrainThenAllow => {
                        send(0, Body::Draining(v1::Draining {})).await;
                        send(tag, Body::Decision(allow(&action))).await;
                    }
                    Reaction::PushNews => {
                        send(0, Body::PolicyChanged(v1::PolicyChanged { generation: 5 })).await;
                        send(0, Body::StatusChanged(v1::StatusChanged { suspended: true })).await;
                        send(tag, Body::Decision(allow(&action))).await;
                    }
                },
            }
        }
    }
}

// === impl Process ===

impl Process {
    /// Its connections end from one moment to the next, and nobody listens any more.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(crate) fn workspace() -> WorkspaceId {
    WORKSPACE.parse().unwrap()
}

/// The event id tells which action was answered.
pub(crate) fn allow(action: &v1::Action) -> v1::Decision {
    let id = u128::from_be_bytes(action.id.as_ref().try_into().unwrap());
    v1::Decision {
        verdict: v1::Verdict::Allow.into(),
        reasons: Vec::new(),
        event_id: EventId::from_parts(1, id).to_string(),
        latency_us: 12,
        approval: None,
        repeated_action: false,
        charge: None,
    }
}

fn credential<T>(request: &Request<T>) -> String {
    let value = request.metadata().get("authorization").unwrap().to_str().unwrap();
    value.strip_prefix("Bearer ").unwrap().to_owned()
}
