//! API keys: who has which, making and revoking them.

use std::sync::Arc;

use aa_governance::{Grant, api_key::KeyRecord, permission::ManageKeys};
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    access::Authorized,
    input::{JsonBody, PathPart, invalid},
    problem::Problem,
};

/// An API key, without the part that must not be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Key {
    /// The part of the key that may be shown.
    pub id: String,
    /// What it is for, in its maker's words.
    pub name: String,
    /// What it may do: `agent`, `proxy`, `owner`, `admin`, `developer` or `viewer`.
    pub role: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Who made it: `key:<id>`, or `setup`.
    pub created_by: String,
    /// When it was revoked, RFC 3339.
    pub revoked_at: Option<String>,
}

/// The keys of the workspace.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyList {
    /// In the order of their ids, revoked ones included; a developer sees its own.
    pub keys: Vec<Key>,
}

/// A key to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKeyRequest {
    /// What it is for: 1 to 100 characters.
    pub name: String,
    /// What it may do: `agent`, `proxy`, `owner`, `admin`, `developer` or `viewer`.
    pub role: String,
}

/// A key that was made. This is the only time it is shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    /// What is known of it.
    #[serde(flatten)]
    pub key: Key,
    /// The key itself: `aak_<id>_<secret>`. Keep it safe; it is stored nowhere.
    pub secret: String,
}

const MAX_NAME: usize = 100;

/// Lists API keys.
#[utoipa::path(
    get, path = "/keys", tag = "keys", operation_id = "list_keys",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The keys", body = KeyList),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_keys(
    Authorized(permit): Authorized<ManageKeys>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<KeyList>, Problem> {
    let keys = state.governance.keys(&permit).await?;
    Ok(Json(KeyList { keys: keys.into_iter().map(Into::into).collect() }))
}

/// Makes an API key. A developer can make keys up to its own role.
#[utoipa::path(
    post, path = "/keys", tag = "keys", operation_id = "create_key",
    security(("api_key" = [])),
    request_body = CreateKeyRequest,
    responses(
        (status = 201, description = "The key; it is not shown again", body = CreatedKey),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create_key(
    Authorized(permit): Authorized<ManageKeys>,
    State(state): State<Arc<ApiState>>,
    JsonBody(request): JsonBody<CreateKeyRequest>,
) -> Result<(StatusCode, Json<CreatedKey>), Problem> {
    let grant: Grant = request
        .role
        .parse()
        .map_err(|error: aa_governance::permission::UnknownGrant| invalid(error.to_string()))?;
    let name = request.name.trim().to_owned();
    let length = name.chars().count();
    if !(1..=MAX_NAME).contains(&length) || name.chars().any(char::is_control) {
        let bound = format!("`name` has 1 to {MAX_NAME} characters, none of them control");
        return Err(invalid(bound));
    }
    let (record, key) = state.governance.create_key(&permit, name, grant).await?;
    let created = CreatedKey { key: record.into(), secret: key.expose().to_owned() };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Revokes an API key. From now on it opens nothing.
#[utoipa::path(
    delete, path = "/keys/{id}", tag = "keys", operation_id = "revoke_key",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The key's id")),
    responses(
        (status = 200, description = "The key, revoked", body = Key),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn revoke_key(
    Authorized(permit): Authorized<ManageKeys>,
    State(state): State<Arc<ApiState>>,
    PathPart(id): PathPart<String>,
) -> Result<Json<Key>, Problem> {
    // Who pastes the whole key by mistake should not find it in an error or a log.
    if id.len() > 32 || id.starts_with("aak_") {
        return Err(invalid("name the key by its id: the part after `aak_`, 10 characters".into()));
    }
    Ok(Json(state.governance.revoke_key(&permit, id).await?.into()))
}

// === impl Key ===

impl From<KeyRecord> for Key {
    fn from(record: KeyRecord) -> Self {
        Self {
            id: record.id,
            name: record.name,
            role: record.grant.to_string(),
            created_at: record.created_at.to_string(),
            created_by: record.created_by,
            revoked_at: record.revoked_at.map(|at| at.to_string()),
        }
    }
}
