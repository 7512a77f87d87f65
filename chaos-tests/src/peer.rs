//! A bare peer of a control plane's gateway, without an SDK's manners: it registers, opens sessions and sends
//! whatever it is told to.

use std::time::Duration;

use aa_protocol::{
    ActionId,
    wire::{registration_message, v1},
};
use ed25519_dalek::{Signer, SigningKey};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::process::Environment;

/// Whatever keeps a peer from going on.
pub type PeerError = Box<dyn std::error::Error + Send + Sync>;

/// The gateway's generated client.
pub type Gateway = v1::gateway_client::GatewayClient<Channel>;

/// An agent that is registered.
#[derive(Clone)]
pub struct Peer {
    /// The connection, shared by clones.
    pub channel: Channel,
    token: MetadataValue<Ascii>,
}

/// An open session.
pub struct Session {
    frames: mpsc::UnboundedSender<v1::ClientFrame>,
    /// What the gateway says.
    pub answers: Streaming<v1::ServerFrame>,
}

/// How an action was answered on a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// With a decision.
    Decided,
    /// With a refusal: its gRPC code and retry hint in milliseconds.
    Refused(i32, u64),
}

/// How long establishing a connection may take.
const CONNECT: Duration = Duration::from_secs(30);

/// A connection of its own to the gateway.
///
/// # Errors
/// The gateway cannot be reached, or the certificate authority's file not be read.
pub async fn connect(env: &Environment) -> Result<Channel, PeerError> {
    let ca = Certificate::from_pem(std::fs::read(&env.ca_file)?);
    let endpoint = Endpoint::from_shared(env.gateway_url.clone())?
        .connect_timeout(CONNECT)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .tls_config(ClientTlsConfig::new().ca_certificate(ca))?;
    Ok(endpoint.connect().await?)
}

/// A tool call with an id of its own.
pub fn tool_call(args_json: impl Into<String>) -> v1::Action {
    let call = v1::ToolCall { tool: "web_search".to_owned(), args_json: args_json.into() };
    action(v1::action::Kind::ToolCall(call))
}

/// An action with an id of its own.
pub fn action(kind: v1::action::Kind) -> v1::Action {
    let id = ActionId::from_bytes(uuid::Uuid::new_v4().into_bytes());
    v1::Action { id: id.to_bytes().to_vec().into(), kind: Some(kind), ..Default::default() }
}

/// The arguments of an ordinary call.
pub const ORDINARY: &str = r#"{"query":"governance of agents","limit":10}"#;

// === impl Peer ===

impl Peer {
    /// Registers an agent of this name over a connection.
    ///
    /// # Errors
    /// The gateway refuses.
    pub async fn register(
        channel: Channel,
        env: &Environment,
        name: &str,
    ) -> Result<Self, PeerError> {
        Self::register_in(channel, env, name, "").await
    }

    /// Registers an agent of this name in a team.
    ///
    /// # Errors
    /// The gateway refuses.
    pub async fn register_in(
        channel: Channel,
        env: &Environment,
        name: &str,
        team: &str,
    ) -> Result<Self, PeerError> {
        let mut gateway = Gateway::new(channel.clone());
        let key: MetadataValue<Ascii> = format!("Bearer {}", env.agent_key()).parse()?;
        let workspace_id = env.workspace_id().to_owned();
        let begin = v1::BeginRegistrationRequest { workspace_id: workspace_id.clone() };
        let nonce = gateway.begin_registration(authorized(begin, &key)).await?.into_inner().nonce;
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let signing = SigningKey::from_bytes(&seed);
        let public = signing.verifying_key().to_bytes();
        let nonce_bytes: [u8; 32] = nonce.as_ref().try_into()?;
        let signed = registration_message(&nonce_bytes, &public, &workspace_id, name, "");
        let message = v1::RegisterAgentRequest {
            workspace_id,
            name: name.to_owned(),
            public_key: public.to_vec().into(),
            nonce,
            team: team.to_owned(),
            signature: signing.sign(&signed).to_bytes().to_vec().into(),
            ..Default::default()
        };
        let token = gateway.register_agent(authorized(message, &key)).await?.into_inner().token;
        Ok(Self { channel, token: format!("Bearer {token}").parse()? })
    }

    /// The same agent over a connection of its own.
    ///
    /// # Errors
    /// The gateway cannot be reached.
    pub async fn reconnected(&self, env: &Environment) -> Result<Self, PeerError> {
        Ok(Self { channel: connect(env).await?, token: self.token.clone() })
    }

    /// The same connection with another credential.
    ///
    /// # Errors
    /// It does not fit a header.
    pub fn with_credential(&self, credential: &str) -> Result<Self, PeerError> {
        Ok(Self { channel: self.channel.clone(), token: format!("Bearer {credential}").parse()? })
    }

    /// Asks for one decision.
    ///
    /// # Errors
    /// What the gateway says.
    pub async fn check(&self, action: v1::Action) -> Result<v1::Decision, Status> {
        let mut gateway = Gateway::new(self.channel.clone());
        Ok(gateway.check_policy(authorized(action, &self.token)).await?.into_inner())
    }

    /// Opens a session.
    ///
    /// # Errors
    /// What the gateway says.
    pub async fn session(&self) -> Result<Session, Status> {
        let (frames, outgoing) = mpsc::unbounded_channel();
        let request = authorized(UnboundedReceiverStream::new(outgoing), &self.token);
        let answers = Gateway::new(self.channel.clone()).session(request).await?.into_inner();
        Ok(Session { frames, answers })
    }

    /// Opens a session whose frames come from `frames`, as fast as the gateway takes them.
    ///
    /// # Errors
    /// What the gateway says.
    pub async fn session_of(
        &self,
        frames: impl futures::Stream<Item = v1::ClientFrame> + Send + 'static,
    ) -> Result<Streaming<v1::ServerFrame>, Status> {
        let mut gateway = Gateway::new(self.channel.clone());
        Ok(gateway.session(authorized(frames, &self.token)).await?.into_inner())
    }
}

// === impl Session ===

impl Session {
    /// Sends an action under a tag; whether the session still takes frames.
    pub fn check(&self, tag: u64, action: v1::Action) -> bool {
        let body = Some(v1::client_frame::Body::Check(action));
        self.frames.send(v1::ClientFrame { tag, body }).is_ok()
    }

    /// The next answer and its tag. News are passed over.
    ///
    /// # Errors
    /// The session ended.
    pub async fn answer(&mut self) -> Result<(u64, Answered), Status> {
        loop {
            let next = self.answers.message().await?;
            let Some(v1::ServerFrame { tag, body }) = next else {
                return Err(Status::aborted("the session ended"));
            };
            match body {
                Some(v1::server_frame::Body::Decision(_)) => return Ok((tag, Answered::Decided)),
                Some(v1::server_frame::Body::Refusal(refusal)) => {
                    return Ok((tag, Answered::Refused(refusal.code, refusal.retry_after_ms)));
                }
                _ => {}
            }
        }
    }
}

fn authorized<T>(message: T, value: &MetadataValue<Ascii>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", value.clone());
    request
}
