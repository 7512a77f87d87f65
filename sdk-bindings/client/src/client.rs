//! The gateways of a workspace, and how agents come to life on them.

use std::{collections::BTreeMap, sync::Arc};

use aa_protocol::{
    AgentId, GovernanceLevel,
    wire::{registration_message, v1},
};
use ed25519_dalek::{Signer as _, SigningKey};
use tonic::{Request, Status};
use zeroize::Zeroizing;

use crate::{
    agent::Agent,
    config::Config,
    error::ClientError,
    gateways::{Gateways, Way},
    token::{Token, bearer},
};

/// The gateways that agents register with. Cheap to clone; all clones, and their agents, share a connection
/// to one gateway, and another one to the next when that fails: in a random order, round and round, with
/// pauses only after every gateway has failed. A client does not return by itself to a gateway that came
/// back, and never asks for the node that owns an agent: any node serves it, one hop further.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<Config>,
    gateways: Gateways,
}

/// What an agent tells about itself when it registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentSpec {
    /// 1 to 128 characters; unique in the workspace when no id is given.
    pub name: String,
    /// Its UUID; `None` derives it from the workspace and the name.
    pub id: Option<AgentId>,
    /// The organisation that `org:` scopes match; empty for none.
    pub org: String,
    /// The team that `team:` scopes match; empty for none.
    pub team: String,
    /// How closely it is governed.
    pub governance_level: GovernanceLevel,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// Registers one agent, again and again if need be, always under the same key.
pub(crate) struct Registrar {
    config: Arc<Config>,
    spec: AgentSpec,
    key: SigningKey,
}

/// One registration as the gateway confirmed it.
pub(crate) struct Registration {
    pub(crate) agent_id: String,
    pub(crate) token: Token,
}

// === impl Client ===

impl Client {
    /// Prepares a connection; it is made when the first agent registers, and a new one whenever it breaks.
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The CA file or a gateway's address cannot be used.
    pub fn connect(config: Config) -> Result<Self, ClientError> {
        let gateways = Gateways::new(&config)?;
        Ok(Self { config: Arc::new(config), gateways })
    }

    /// The configuration in use.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) const fn gateways(&self) -> &Gateways {
        &self.gateways
    }

    /// Registers an agent under a fresh Ed25519 key that never leaves memory, and opens its session. From
    /// then on the agent looks after itself: it reconnects, renews its token and registers again when the
    /// token has lapsed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the gateway does not take the registration;
    /// [`ClientError::Unreachable`] when none answers within the configured time and the owner did not
    /// choose [`OnUnreachable::Allow`](crate::OnUnreachable::Allow), under which registration goes on in
    /// the background.
    pub async fn register(&self, spec: AgentSpec) -> Result<Agent, ClientError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|error| ClientError::System(error.to_string()))?;
        let registrar = Registrar {
            config: Arc::clone(&self.config),
            spec: spec.clone(),
            key: SigningKey::from_bytes(&seed),
        };
        Agent::start(Arc::clone(&self.config), spec, registrar, self.gateways.clone()).await
    }
}

// === impl Registrar ===

impl Registrar {
    /// Proves possession of the key over a gateway's nonce and gets a token, which every gateway of the
    /// workspace takes. The nonce is good on the connection it came over only.
    pub(crate) async fn register(&self, way: &mut Way) -> Result<Registration, Status> {
        let workspace_id = self.config.workspace_id.to_string();
        let api_key = bearer(self.config.api_key.expose())
            .map_err(|error| Status::internal(error.to_string()))?;
        let begin = v1::BeginRegistrationRequest { workspace_id: workspace_id.clone() };
        let mut request = Request::new(begin);
        request.metadata_mut().insert("authorization", api_key.clone());
        let nonce = way.grpc.begin_registration(request).await?.into_inner().nonce;
        let fixed: [u8; 32] = nonce.as_ref().try_into().map_err(|_| {
            Status::internal(format!("the gateway's nonce is {} bytes long, not 32", nonce.len()))
        })?;

        let agent_id = self.spec.id.map(|id| id.to_string()).unwrap_or_default();
        let public_key = self.key.verifying_key().to_bytes();
        let message =
            registration_message(&fixed, &public_key, &workspace_id, &self.spec.name, &agent_id);
        let mut request = Request::new(v1::RegisterAgentRequest {
            workspace_id,
            name: self.spec.name.clone(),
            agent_id,
            public_key: public_key.to_vec().into(),
            nonce,
            signature: self.key.sign(&message).to_bytes().to_vec().into(),
            org: self.spec.org.clone(),
            team: self.spec.team.clone(),
            governance_level: self.spec.governance_level.to_string(),
            labels: self.spec.labels.clone().into_iter().collect(),
        });
        request.metadata_mut().insert("authorization", api_key);
        let issued = way.grpc.register_agent(request).await?.into_inner();
        Ok(Registration { agent_id: issued.agent_id.clone(), token: Token::issued(issued) })
    }

    /// Exchanges a token that still stands.
    pub(crate) async fn renew(way: &mut Way, token: &Token) -> Result<Token, Status> {
        let mut request = Request::new(v1::RenewTokenRequest {});
        let bearer = token.bearer().map_err(|error| Status::internal(error.to_string()))?;
        request.metadata_mut().insert("authorization", bearer);
        Ok(Token::issued(way.grpc.renew_token(request).await?.into_inner()))
    }
}
