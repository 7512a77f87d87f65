//! Registration: an API key for the workspace, and proof that the agent holds its key.

use std::collections::BTreeMap;

use aa_governance::{
    agent::{AgentKeyId, SessionId},
    api_key::ApiKey,
    permission::{Operation, Permit, RegisterAgents},
};
use aa_protocol::{
    AgentFacts, AgentId, GovernanceLevel, WorkspaceId,
    wire::{registration_message, v1},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};
use tonic::{Request, Status, metadata::MetadataMap};

use super::{Gateway, bearer, refusal::fault_status};

/// The longest name, organisation, team or label, in characters.
const MAX_CHARS: usize = 128;

/// The most labels.
const MAX_LABELS: usize = 32;

impl Gateway {
    pub(super) async fn begin(
        &self,
        request: Request<v1::BeginRegistrationRequest>,
    ) -> Result<v1::BeginRegistrationResponse, Status> {
        let workspace = &request.get_ref().workspace_id;
        let permit: Permit<RegisterAgents> = self.permit(request.metadata(), workspace).await?;
        let (now, entropy) = (self.inner.clock.now(), &*self.inner.entropy);
        let nonce = self.inner.nonces.issue(permit.workspace(), now, entropy);
        Ok(v1::BeginRegistrationResponse { nonce: nonce.to_vec().into() })
    }

    pub(super) async fn register(
        &self,
        request: Request<v1::RegisterAgentRequest>,
    ) -> Result<v1::AgentToken, Status> {
        let workspace = &request.get_ref().workspace_id;
        let permit: Permit<RegisterAgents> = self.permit(request.metadata(), workspace).await?;
        let message = request.into_inner();
        let facts = facts(permit.workspace(), &message)?;
        let id = AgentKeyId { workspace: permit.workspace(), agent: facts.id };
        let public_key = match self.prove(&permit, &message) {
            Ok(public_key) => public_key,
            Err(refused) => {
                let why = refused.message().to_owned();
                self.audit_refusal(&id, "registration_refused", why).await;
                return Err(refused);
            }
        };
        // Each run of a program makes a key of its own.
        let session = session_of(&public_key);
        let registered = self.inner.governance.register(&permit, facts, public_key).await;
        registered.map_err(|fault| fault_status(&fault))?;
        Ok(self.token_for(&id, Some(session)))
    }

    pub(super) fn token_for(&self, id: &AgentKeyId, session: Option<SessionId>) -> v1::AgentToken {
        let (now, jti) = (self.inner.clock.now(), self.inner.entropy.uuid());
        let sid = session.map(|session| session.0);
        let (token, expires) = self.inner.tokens.issue_to(id.workspace, id.agent, sid, now, jti);
        v1::AgentToken { agent_id: id.agent.to_string(), token, expires_at_unix_seconds: expires }
    }

    /// Leave for an operation in the workspace that the request names, by the API key that comes with it.
    pub(super) async fn permit<O: Operation>(
        &self,
        metadata: &MetadataMap,
        workspace: &str,
    ) -> Result<Permit<O>, Status> {
        let workspace: WorkspaceId = workspace
            .parse()
            .map_err(|error| Status::invalid_argument(format!("`workspace_id`: {error}")))?;
        let unknown = || Status::unauthenticated("the API key is unknown or revoked");
        let key = ApiKey::parse(bearer(metadata)?).ok_or_else(unknown)?;
        let principal = self.inner.governance.authenticate(&key).await.map_err(|error| {
            tracing::error!(%error, "an API key could not be looked up");
            Status::unavailable("the API key could not be looked up; try again")
        })?;
        let principal = principal.ok_or_else(unknown)?;
        if principal.workspace != workspace {
            return Err(Status::permission_denied("the API key is of another workspace"));
        }
        principal.authorize().map_err(|forbidden| Status::permission_denied(forbidden.to_string()))
    }

    /// Checks nonce and signature; returns the public key in base64url.
    fn prove(
        &self,
        permit: &Permit<RegisterAgents>,
        message: &v1::RegisterAgentRequest,
    ) -> Result<String, Status> {
        let nonce: [u8; 32] = exactly("nonce", &message.nonce)?;
        let public: [u8; 32] = exactly("public_key", &message.public_key)?;
        let signature: [u8; 64] = exactly("signature", &message.signature)?;
        if !self.inner.nonces.redeem(&nonce, permit.workspace(), self.inner.clock.now()) {
            return Err(Status::failed_precondition(
                "the nonce is unknown, expired or used; begin the registration again",
            ));
        }
        let key = VerifyingKey::from_bytes(&public)
            .map_err(|_| Status::invalid_argument("`public_key` is not an Ed25519 key"))?;
        let v1::RegisterAgentRequest { workspace_id, name, agent_id, .. } = message;
        let signed = registration_message(&nonce, &public, workspace_id, name, agent_id);
        key.verify_strict(&signed, &Signature::from_bytes(&signature))
            .map_err(|_| Status::unauthenticated("the signature over the nonce does not verify"))?;
        Ok(BASE64_URL_SAFE_NO_PAD.encode(public))
    }
}

fn facts(workspace: WorkspaceId, message: &v1::RegisterAgentRequest) -> Result<AgentFacts, Status> {
    let name = plain("name", &message.name)?
        .ok_or_else(|| Status::invalid_argument("`name` is missing"))?;
    let id = match message.agent_id.as_str() {
        "" => AgentId::of_name(workspace, &name),
        id => {
            id.parse().map_err(|error| Status::invalid_argument(format!("`agent_id`: {error}")))?
        }
    };
    let governance_level = match message.governance_level.as_str() {
        "" => GovernanceLevel::default(),
        level => level
            .parse()
            .map_err(|error| Status::invalid_argument(format!("`governance_level`: {error}")))?,
    };
    if message.labels.len() > MAX_LABELS {
        return Err(Status::invalid_argument(format!(
            "there are {} labels; at most {MAX_LABELS} are accepted",
            message.labels.len()
        )));
    }
    let mut labels = BTreeMap::new();
    for (key, value) in &message.labels {
        let key = plain("labels", key)?
            .ok_or_else(|| Status::invalid_argument("`labels` has an empty key"))?;
        labels.insert(key, plain("labels", value)?.unwrap_or_default());
    }
    let (org, team) = (plain("org", &message.org)?, plain("team", &message.team)?);
    Ok(AgentFacts { id, name, org, team, governance_level, labels })
}

/// A short text without control characters; `None` when empty.
fn plain(field: &'static str, text: &str) -> Result<Option<String>, Status> {
    if text.chars().count() > MAX_CHARS {
        let message = format!("`{field}` is longer than {MAX_CHARS} characters");
        return Err(Status::invalid_argument(message));
    }
    if text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!("`{field}` holds a control character")));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn exactly<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], Status> {
    bytes.try_into().map_err(|_| {
        Status::invalid_argument(format!("`{field}` must be {N} bytes, not {}", bytes.len()))
    })
}

/// The run of a program that holds this key: 53 bits of the key's digest, so that every reader of JSON has them exactly.
fn session_of(public_key: &str) -> SessionId {
    let digest = Sha256::digest(public_key.as_bytes());
    let bits = digest.iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    SessionId(bits >> 11)
}
