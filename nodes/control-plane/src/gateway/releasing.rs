//! Secrets for proxies: an API key of the role for it, an agent, a host; then to the vault.

use aa_governance::{
    GovernanceError,
    agent::AgentKeyId,
    permission::{Permit, ReleaseSecrets},
    release::ReleaseError,
};
use aa_policy::host::Host;
use aa_protocol::{AgentId, wire::v1};
use aa_vault::{SecretName, SecretNameError};
use prost::Message;
use tonic::{Request, Status};

use super::{Gateway, overload_status, refusal::fault_status, with_retry};
use crate::admission::RETRY_AFTER_MS;

impl Gateway {
    /// An agent's own token opens nothing here: it is no API key. So no agent gets at the secret it holds a placeholder
    /// for.
    pub(super) async fn release(
        &self,
        request: Request<v1::ReleaseSecretRequest>,
    ) -> Result<v1::ReleaseSecretResponse, Status> {
        let workspace = &request.get_ref().workspace_id;
        let permit: Permit<ReleaseSecrets> = self.permit(request.metadata(), workspace).await?;
        let bytes = request.get_ref().encoded_len();
        let v1::ReleaseSecretRequest { agent_id, secret, host, .. } = request.into_inner();
        let agent: AgentId = agent_id
            .parse()
            .map_err(|error| Status::invalid_argument(format!("`agent_id`: {error}")))?;
        let secret: SecretName = secret.parse().map_err(|error: SecretNameError| {
            Status::invalid_argument(format!("`secret`: {error}"))
        })?;
        let host = Host::parse(&host).ok_or_else(|| {
            Status::invalid_argument(
                "`host` is no host name and no IP address; send one, without a port",
            )
        })?;
        let caller = AgentKeyId { workspace: permit.workspace(), agent };
        let _admitted =
            self.inner.admission.caller(&caller).admit(bytes).map_err(overload_status)?;
        let released = self.inner.governance.release_secret(&permit, agent, secret, &host).await;
        let released = released.map_err(refused)?;
        Ok(v1::ReleaseSecretResponse::new(
            released.value.expose(),
            released.version,
            released.keep_for,
        ))
    }
}

fn refused(error: GovernanceError) -> Status {
    let later = |problem: &'static str| with_retry(Status::unavailable(problem), RETRY_AFTER_MS);
    match error {
        GovernanceError::Fault(fault) => fault_status(&fault),
        GovernanceError::Release(
            denied @ (ReleaseError::AgentUnknown(_)
            | ReleaseError::AgentSuspended(_)
            | ReleaseError::Denied),
        ) => Status::permission_denied(denied.to_string()),
        // Where the master key is and what it said is the operator's matter.
        GovernanceError::Release(ReleaseError::Vault(problem)) => {
            tracing::error!(problem, "a secret could not be opened for a proxy");
            later("the vault cannot open its secrets at the moment; try again")
        }
        error => {
            tracing::error!(%error, "a secret could not be released");
            later("the secret could not be looked up; try again")
        }
    }
}
