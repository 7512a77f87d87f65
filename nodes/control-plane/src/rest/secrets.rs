//! Secrets: which there are, setting and deleting them, and rotating the keys they are kept under. There is no way to
//! read one back.

use std::sync::Arc;

use aa_governance::{
    permission::{ManageSecrets, ReadSecrets},
    secret_record::{DataKeyStatus, SecretStatus, VaultStatus},
};
use aa_vault::{SecretName, SecretNameError};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
    /// When the value was set, RFC 3339.
    pub updated_at: String,
    /// Who set it: `key:<id>`.
    pub updated_by: String,
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

/// Keeps a secret, in the place of the one there was. Setting the value it has changes nothing.
#[utoipa::path(
    put, path = "/secrets/{name}", tag = "secrets", operation_id = "set_secret",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The secret, percent-encoded")),
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
    SecretBody(value): SecretBody,
) -> Result<Json<Secret>, Problem> {
    let name = parse_name(&name)?;
    Ok(Json(state.governance.set_secret(&permit, name, value).await?.into()))
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
        let SecretStatus { name, version, key, created_at, updated_at, updated_by } = status;
        Self {
            name: name.to_string(),
            version,
            key: key.to_string(),
            created_at: created_at.to_string(),
            updated_at: updated_at.to_string(),
            updated_by,
        }
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
