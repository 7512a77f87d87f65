//! Secrets: which there are, where proxies may send them, setting and deleting them, and rotating the keys they are kept
//! under. There is no way to read one back here.

use std::sync::Arc;

use aa_governance::{
    permission::{ManageSecrets, ReadSecrets},
    release::Release,
    secret_record::{DataKeyStatus, SecretStatus, VaultStatus},
};
use aa_protocol::{AgentId, IdError};
use aa_vault::{SecretName, SecretNameError};
use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    access::Authorized,
    input::{PathPart, SecretBody, invalid},
    problem::Problem,
};

/// What may be told of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// What it is called.
    pub name: String,
    /// Which value it has: numbers grow with every value that is set in the workspace.
    pub version: u64,
    /// The id of the data key it is sealed under.
    pub key: String,
    /// When the name was first used, RFC 3339.
    pub created_at: String,
    /// When it was last set, RFC 3339.
    pub updated_at: String,
    /// Who did: `key:<id>`.
    pub updated_by: String,
    /// Where proxies may send it; absent when nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<SecretRelease>,
}

/// Where proxies may send a secret, in the place of the placeholder that an agent holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretRelease {
    /// Hosts, and `*.` before a suffix for all hosts below it.
    pub hosts: Vec<String>,
    /// The ids of the agents it is released for, beside those of the teams.
    pub agents: Vec<String>,
    /// The teams whose agents it is released for. With neither agents nor teams it is for every agent.
    pub teams: Vec<String>,
}

/// Where proxies may send a secret from now on. Without any, that stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReleaseParams {
    /// A host, or `*.` and a suffix for all hosts below it. May be repeated.
    pub release_to: Vec<String>,
    /// The id of an agent, to release it for named agents and teams only. May be repeated.
    pub release_agent: Vec<String>,
    /// A team, likewise.
    pub release_team: Vec<String>,
}

/// A data key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DataKey {
    /// Its id.
    pub id: String,
    /// `active`, `decrypt-only` or `retired`.
    pub state: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// The master key it is wrapped under; null once it is retired.
    pub master_key: Option<String>,
}

/// The vault of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vault {
    /// The secrets, in the order of their names.
    pub secrets: Vec<Secret>,
    /// The data keys, oldest first; none before the first secret.
    pub keys: Vec<DataKey>,
    /// Where the master key is kept.
    pub master_key: String,
    /// What is left to do of rotations.
    pub rotation: Rotation,
}

/// What is left to do of rotations; all are 0 when none is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rotation {
    /// Data keys that are still to be wrapped under the new master key.
    pub to_rewrap: usize,
    /// Secrets that are still to be sealed under the active data key.
    pub to_reseal: usize,
    /// Data keys that nothing will be sealed under any more.
    pub to_retire: usize,
}

/// Lists secrets by name, and the keys they are kept under.
#[utoipa::path(
    get, path = "/secrets", tag = "secrets", operation_id = "list_secrets",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The vault, without what the secrets are", body = Vault),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_secrets(
    Authorized(permit): Authorized<ReadSecrets>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<Vault>, Problem> {
    Ok(Json(state.governance.secrets(&permit).await?.into()))
}

/// Keeps a secret, in the place of the one there was. Setting the value it has changes at most where proxies may send it:
/// that is set together with the value only, so nobody has a secret sent away that they do not know.
#[utoipa::path(
    put, path = "/secrets/{name}", tag = "secrets", operation_id = "set_secret",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The secret, percent-encoded"), ReleaseParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream",
        description = "The secret itself, 1 to 65,536 bytes"),
    responses(
        (status = 200, description = "It is kept", body = Secret),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_secret(
    Authorized(permit): Authorized<ManageSecrets>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
    RawQuery(query): RawQuery,
    SecretBody(value): SecretBody,
) -> Result<Json<Secret>, Problem> {
    let name = parse_name(&name)?;
    let release = ReleaseParams::parse(query.as_deref().unwrap_or_default())?.into_release()?;
    Ok(Json(state.governance.set_secret(&permit, name, value, release).await?.into()))
}

/// Lets no proxy send a secret anywhere any more.
#[utoipa::path(
    delete, path = "/secrets/{name}/release", tag = "secrets", operation_id = "withdraw_secret",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The secret, percent-encoded")),
    responses(
        (status = 200, description = "It is released to no host", body = Secret),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn withdraw_secret(
    Authorized(permit): Authorized<ManageSecrets>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
) -> Result<Json<Secret>, Problem> {
    let name = parse_name(&name)?;
    Ok(Json(state.governance.withdraw_secret(&permit, name).await?.into()))
}

/// Forgets a secret.
#[utoipa::path(
    delete, path = "/secrets/{name}", tag = "secrets", operation_id = "delete_secret",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The secret, percent-encoded")),
    responses(
        (status = 200, description = "What was known of it", body = Secret),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete_secret(
    Authorized(permit): Authorized<ManageSecrets>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
) -> Result<Json<Secret>, Problem> {
    let name = parse_name(&name)?;
    Ok(Json(state.governance.delete_secret(&permit, name).await?.into()))
}

/// Makes a fresh data key and seals all secrets anew under it, while everything goes on.
#[utoipa::path(
    post, path = "/vault/rotate", tag = "secrets", operation_id = "rotate_data_key",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "It has begun; `rotation` tells what is left", body = Vault),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn rotate_data_key(
    Authorized(permit): Authorized<ManageSecrets>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<Vault>, Problem> {
    Ok(Json(state.governance.rotate_data_key(&permit).await?.into()))
}

/// Wraps all data keys anew under the next master key. A master key in a file is renewed first; one that another
/// program keeps is renewed there.
#[utoipa::path(
    post, path = "/vault/rotate-master", tag = "secrets", operation_id = "rotate_master_key",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "It has begun; `rotation` tells what is left", body = Vault),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn rotate_master_key(
    Authorized(permit): Authorized<ManageSecrets>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<Vault>, Problem> {
    Ok(Json(state.governance.rotate_master_key(&permit).await?.into()))
}

fn parse_name(text: &str) -> Result<SecretName, Problem> {
    text.parse().map_err(|error: SecretNameError| invalid(error.to_string()))
}

// === impl Secret ===

impl From<SecretStatus> for Secret {
    fn from(status: SecretStatus) -> Self {
        let SecretStatus { name, version, key, created_at, updated_at, updated_by, release } =
            status;
        Self {
            name: name.to_string(),
            version,
            key: key.to_string(),
            created_at: created_at.to_string(),
            updated_at: updated_at.to_string(),
            updated_by,
            release: release.as_ref().map(Into::into),
        }
    }
}

// === impl SecretRelease ===

impl From<&Release> for SecretRelease {
    fn from(release: &Release) -> Self {
        Self {
            hosts: release.hosts().map(str::to_owned).collect(),
            agents: release.agents().map(|agent| agent.to_string()).collect(),
            teams: release.teams().map(str::to_owned).collect(),
        }
    }
}

// === impl ReleaseParams ===

impl ReleaseParams {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut params = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let listed = match &*name {
                "release_to" => &mut params.release_to,
                "release_agent" => &mut params.release_agent,
                "release_team" => &mut params.release_team,
                _ => {
                    let known = "release_to, release_agent and release_team";
                    return Err(invalid(format!("unknown parameter; there are {known}")));
                }
            };
            listed.push(value.into_owned());
        }
        Ok(params)
    }

    fn into_release(self) -> Result<Option<Release>, Problem> {
        if self == Self::default() {
            return Ok(None);
        }
        let agents: Vec<AgentId> = self
            .release_agent
            .iter()
            .map(|agent| agent.parse())
            .collect::<Result<_, _>>()
            .map_err(|error: IdError| invalid(format!("`release_agent`: {error}")))?;
        let release = Release::new(&self.release_to, &agents, &self.release_team);
        release.map(Some).map_err(|error| invalid(error.to_string()))
    }
}

// === impl DataKey ===

impl From<DataKeyStatus> for DataKey {
    fn from(status: DataKeyStatus) -> Self {
        let DataKeyStatus { id, state, created_at, master } = status;
        Self {
            id: id.to_string(),
            state: state.into_owned(),
            created_at: created_at.to_string(),
            master_key: master.map(|master| master.to_string()),
        }
    }
}

// === impl Vault ===

impl From<VaultStatus> for Vault {
    fn from(status: VaultStatus) -> Self {
        let VaultStatus { secrets, keys, progress, master } = status;
        Self {
            secrets: secrets.into_iter().map(Into::into).collect(),
            keys: keys.into_iter().map(Into::into).collect(),
            master_key: master,
            rotation: Rotation {
                to_rewrap: progress.to_rewrap,
                to_reseal: progress.to_reseal,
                to_retire: progress.to_retire,
            },
        }
    }
}
