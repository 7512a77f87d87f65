//! Policies: what is in force, what was, and changing it.

use std::sync::Arc;

use aa_governance::{
    governance::PolicyStatus,
    permission::{ManagePolicies, ReadPolicies},
    policy_record::{PolicyHeader, PolicyRevision},
    policy_set::Applied,
};
use axum::{
    Json,
    extract::{FromRequest, Request, State},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState, BASE_PATH,
    access::Authorized,
    input::{DocumentBody, OptionalJson, Params, PathPart, invalid},
    problem::{DocumentFinding, Problem, ProblemKind},
};

/// One revision of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Counts from 1, for each policy.
    pub revision: u64,
    /// The author's own version.
    pub version: Option<String>,
    /// The author's description.
    pub description: Option<String>,
    /// The scope as written, such as `team:platform`.
    pub scope: String,
    /// When it was applied, RFC 3339.
    pub applied_at: String,
    /// Who applied it: `key:<id>`, or `setup`.
    pub applied_by: String,
    /// The revision it brought back, after a rollback.
    pub rollback_of: Option<u64>,
    /// SHA-256 of the source, lower-case hex.
    pub sha256: String,
    /// Length of the source in bytes.
    pub bytes: u64,
    /// How many warnings the source had.
    pub warning_count: usize,
}

/// A policy: the revision in force or, when none is, the latest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// The revision in force; none after a removal.
    pub active_revision: Option<u64>,
    /// The latest revision there is.
    pub latest_revision: u64,
    /// The revision described here.
    #[serde(flatten)]
    pub revision: Revision,
}

/// All policies of the workspace.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyList {
    /// In the order of their names.
    pub policies: Vec<Policy>,
}

/// A policy with its source.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyWithSource {
    /// What is known of it.
    #[serde(flatten)]
    pub policy: Policy,
    /// The document as it was applied.
    pub source: String,
}

/// The revisions of a policy.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyHistory {
    /// The policy.
    pub name: String,
    /// The revision in force; none after a removal.
    pub active_revision: Option<u64>,
    /// Newest first; at most the latest 1 000.
    pub revisions: Vec<Revision>,
}

/// The outcome of an accepted change.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AppliedPolicy {
    /// The policy.
    pub name: String,
    /// Whether anything changed: the same bytes applied again change nothing.
    pub changed: bool,
    /// Whether this was a check only.
    pub dry_run: bool,
    /// The revision in force now; in a dry run, the one that would be.
    #[serde(flatten)]
    pub revision: Revision,
    /// What the author should look at.
    pub warnings: Vec<DocumentFinding>,
}

/// A policy that was taken out of force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RemovedPolicy {
    /// The policy.
    pub name: String,
    /// Always null: none of its revisions is in force.
    pub active_revision: Option<u64>,
    /// The latest revision; it can be rolled back to.
    pub latest_revision: u64,
}

/// How a document is applied.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ApplyParams {
    /// The name of a document in the flat format, usually its file's stem. Default: `policy`.
    name: Option<String>,
    /// Check only, and say what would happen.
    #[serde(default)]
    dry_run: bool,
}

/// Which revision is meant.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RevisionParams {
    /// The revision; the one in force, or the latest, when absent.
    revision: Option<u64>,
}

/// Which revision to bring back.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision; the one before the revision in force when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// The longest name that is looked for.
const MAX_NAME: usize = 128;

/// Lists all policies, those out of force included.
#[utoipa::path(
    get, path = "/policies", tag = "policies", operation_id = "list_policies",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "All policies", body = PolicyList),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_policies(
    Authorized(permit): Authorized<ReadPolicies>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<PolicyList>, Problem> {
    let policies = state.governance.policies(&permit).await?;
    Ok(Json(PolicyList { policies: policies.into_iter().map(Into::into).collect() }))
}

/// Checks a document and puts it in force.
///
/// The body is the document itself, YAML or JSON, at most 1 MiB. Its name decides which policy gets a new
/// revision. The same bytes applied again change nothing.
#[utoipa::path(
    post, path = "/policies", tag = "policies", operation_id = "apply_policy",
    security(("api_key" = [])),
    params(ApplyParams),
    request_body(content = String, content_type = "application/yaml"),
    responses(
        (status = 201, description = "A new revision is in force", body = AppliedPolicy),
        (status = 200, description = "Nothing changed, or a dry run", body = AppliedPolicy),
        (status = 422, description = "The document has errors", body = Problem,
            content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn apply_policy(
    Authorized(permit): Authorized<ManagePolicies>,
    State(state): State<Arc<ApiState>>,
    Params(params): Params<ApplyParams>,
    request: Request,
) -> Result<Response, Problem> {
    // Before the body is read: what waits for its check must not fill the memory.
    let Ok(_taken) = state.uploads.try_acquire() else {
        let detail = "too many policy documents are being checked; try again when one is done";
        return Err(Problem::new(ProblemKind::Overloaded, detail).retry_after(1));
    };
    let DocumentBody(source) = DocumentBody::from_request(request, &state).await?;
    let ApplyParams { name, dry_run } = params;
    let name = checked_name(name.unwrap_or_else(|| "policy".to_owned()))?;
    let applied = state.governance.apply_policy(&permit, source, name, dry_run).await?;
    Ok(answer_applied(applied, dry_run))
}

/// One policy with its source.
#[utoipa::path(
    get, path = "/policies/{name}", tag = "policies", operation_id = "get_policy",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The policy"), RevisionParams),
    responses(
        (status = 200, description = "The policy", body = PolicyWithSource),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_policy(
    Authorized(permit): Authorized<ReadPolicies>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
    Params(params): Params<RevisionParams>,
) -> Result<Json<PolicyWithSource>, Problem> {
    let name = checked_name(name)?;
    let (status, source) = state.governance.policy(&permit, &name, params.revision).await?;
    let source = String::from_utf8_lossy(&source).into_owned();
    Ok(Json(PolicyWithSource { policy: status.into(), source }))
}

/// The document exactly as it was applied.
#[utoipa::path(
    get, path = "/policies/{name}/source", tag = "policies", operation_id = "get_policy_source",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The policy"), RevisionParams),
    responses(
        (status = 200, description = "The document", body = String,
            content_type = "application/yaml"),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_policy_source(
    Authorized(permit): Authorized<ReadPolicies>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
    Params(params): Params<RevisionParams>,
) -> Result<([(HeaderName, &'static str); 1], Vec<u8>), Problem> {
    let name = checked_name(name)?;
    let (_, source) = state.governance.policy(&permit, &name, params.revision).await?;
    // JSON is YAML too, but readers that can choose want to know.
    let is_json = source.trim_ascii_start().first() == Some(&b'{');
    let content_type = if is_json { "application/json" } else { "application/yaml" };
    Ok(([(header::CONTENT_TYPE, content_type)], source))
}

/// The revisions of a policy, newest first.
#[utoipa::path(
    get, path = "/policies/{name}/history", tag = "policies", operation_id = "get_policy_history",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The policy")),
    responses(
        (status = 200, description = "Its revisions", body = PolicyHistory),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_policy_history(
    Authorized(permit): Authorized<ReadPolicies>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
) -> Result<Json<PolicyHistory>, Problem> {
    let name = checked_name(name)?;
    let (status, _) = state.governance.policy(&permit, &name, None).await?;
    let revisions = state.governance.policy_history(&permit, &name).await?;
    Ok(Json(PolicyHistory {
        name,
        active_revision: status.header.active,
        revisions: revisions.into_iter().map(Into::into).collect(),
    }))
}

/// Puts an earlier revision in force again, as a new revision.
#[utoipa::path(
    post, path = "/policies/{name}/rollback", tag = "policies", operation_id = "roll_back_policy",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The policy")),
    request_body = Option<RollbackRequest>,
    responses(
        (status = 201, description = "A new revision is in force", body = AppliedPolicy),
        (status = 200, description = "It was in force already", body = AppliedPolicy),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn roll_back_policy(
    Authorized(permit): Authorized<ManagePolicies>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
    OptionalJson(request): OptionalJson<RollbackRequest>,
) -> Result<Response, Problem> {
    let name = checked_name(name)?;
    let applied = state.governance.rollback_policy(&permit, name, request.to).await?;
    Ok(answer_applied(applied, false))
}

/// Takes a policy out of force. Its revisions stay and can be rolled back to.
#[utoipa::path(
    delete, path = "/policies/{name}", tag = "policies", operation_id = "remove_policy",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The policy")),
    responses(
        (status = 200, description = "It is out of force", body = RemovedPolicy),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_policy(
    Authorized(permit): Authorized<ManagePolicies>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
) -> Result<Json<RemovedPolicy>, Problem> {
    let name = checked_name(name)?;
    let PolicyHeader { active, latest } =
        state.governance.remove_policy(&permit, name.clone()).await?;
    Ok(Json(RemovedPolicy { name, active_revision: active, latest_revision: latest }))
}

fn answer_applied(applied: Applied, dry_run: bool) -> Response {
    let Applied { revision, warnings, changed } = applied;
    let name = revision.name.clone();
    let is_new = changed && !dry_run;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let location = format!("{BASE_PATH}/policies/{name}");
    let body = Json(AppliedPolicy {
        name,
        changed,
        dry_run,
        revision: revision.into(),
        warnings: warnings.into_iter().map(Into::into).collect(),
    });
    let mut response = (status, body).into_response();
    if is_new && let Ok(location) = location.parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Names are stored in keys, whose length is bounded.
fn checked_name(name: String) -> Result<String, Problem> {
    if name.len() <= MAX_NAME {
        return Ok(name);
    }
    Err(invalid(format!("a policy's name has at most {MAX_NAME} characters")))
}

// === impl Policy ===

impl From<PolicyStatus> for Policy {
    fn from(status: PolicyStatus) -> Self {
        let PolicyStatus { header, revision } = status;
        Self {
            name: revision.name.clone(),
            active_revision: header.active,
            latest_revision: header.latest,
            revision: revision.into(),
        }
    }
}

// === impl Revision ===

impl From<PolicyRevision> for Revision {
    fn from(revision: PolicyRevision) -> Self {
        Self {
            revision: revision.revision,
            version: revision.version,
            description: revision.description,
            scope: revision.scope,
            applied_at: revision.applied_at.to_string(),
            applied_by: revision.applied_by,
            rollback_of: revision.rollback_of,
            sha256: revision.sha256,
            bytes: revision.bytes,
            warning_count: revision.warnings,
        }
    }
}
