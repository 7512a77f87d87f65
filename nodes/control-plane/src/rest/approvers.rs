//! Who is asked for approval: groups of people, and the chains of groups that teams' requests go along.

use std::sync::Arc;

use aa_governance::{
    approvers::{self, Approvers, Stage},
    permission::{ManageApprovers, Permit, ReadApprovals},
};
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    access::Authorized,
    input::{JsonBody, PathPart, invalid},
    problem::Problem,
};

/// Who is asked for approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApproverList {
    /// The groups, in the order of their names.
    pub groups: Vec<ApproverGroup>,
    /// The workspace's chain, then those of teams in the order of their names. Without one that fits, the owners and
    /// admins are asked.
    pub chains: Vec<ApprovalChain>,
}

/// People who approve. A role that a policy names (`escalation_role`) is the group of this name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApproverGroup {
    /// Its name.
    pub name: String,
    /// The ids of its members' API keys; without any, the workspace's owners and admins.
    pub members: Vec<String>,
    /// How many of them must approve where a policy names the group: 2 for four eyes.
    pub needed: u32,
}

/// The groups that a team's requests go to, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalChain {
    /// Whose; null for teams without a chain of their own.
    pub team: Option<String>,
    /// Its stages.
    pub stages: Vec<ChainStage>,
}

/// A group's part in a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChainStage {
    /// The group; null or absent for the workspace's owners and admins.
    #[serde(default)]
    pub group: Option<String>,
    /// How many of it must approve, 1 to 100; 1 when absent.
    #[serde(default = "one")]
    pub needed: u32,
    /// How much of the time until the deadline it has before the next is asked as well, in per cent above 0.
    pub share: u32,
}

/// A group to be set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetGroupRequest {
    /// The ids of its members' API keys, at most 100; without any, the workspace's owners and admins.
    #[serde(default)]
    pub members: Vec<String>,
    /// How many of them must approve where a policy names the group; 1 when absent.
    #[serde(default = "one")]
    pub needed: u32,
}

/// A chain to be set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetChainRequest {
    /// 1 to 8 stages whose shares make up 100.
    pub stages: Vec<ChainStage>,
}

/// Longer than the id of any API key.
const MAX_KEY_ID: usize = 32;

const fn one() -> u32 {
    1
}

/// Who is asked for approval: all groups and chains.
#[utoipa::path(
    get, path = "/approvers", tag = "approvals", operation_id = "get_approvers",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The groups and chains", body = ApproverList),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_approvers(
    Authorized(permit): Authorized<ReadApprovals>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<ApproverList>, Problem> {
    let approvers = state.governance.approvers(&permit).await?;
    let groups = approvers.groups().cloned().map(Into::into).collect();
    let chains = approvers.chains().cloned().map(Into::into).collect();
    Ok(Json(ApproverList { groups, chains }))
}

/// Sets a group, in the place of the one there was. It holds for requests that are pending, too.
#[utoipa::path(
    put, path = "/approvers/groups/{name}", tag = "approvals", operation_id = "set_approver_group",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The group, percent-encoded")),
    request_body = SetGroupRequest,
    responses(
        (status = 201, description = "There was none: it is in force", body = ApproverGroup),
        (status = 200, description = "It is in force in place of the one before", body = ApproverGroup),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_group(
    Authorized(permit): Authorized<ManageApprovers>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<SetGroupRequest>,
) -> Result<(StatusCode, Json<ApproverGroup>), Problem> {
    let SetGroupRequest { mut members, needed } = request;
    if !members.iter().all(|id| is_key_id(id)) {
        // Who gives the whole key by mistake should not find it in an error or a log.
        let detail = "name members by the ids of their keys: the part after `aak_`, 10 characters";
        return Err(invalid(detail.to_owned()));
    }
    // Each counts once, however often it is named.
    members.sort_unstable();
    members.dedup();
    let known = |approvers: &Approvers| approvers.groups().any(|group| group.name == name);
    let status = if known(&*standing(&state, &permit).await?) {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let group = approvers::ApproverGroup { name: name.clone(), members, needed };
    let group = state.governance.set_approver_group(&permit, group).await?;
    Ok((status, Json(group.into())))
}

/// Takes a group away. Where it is named, the workspace's owners and admins are asked then.
#[utoipa::path(
    delete, path = "/approvers/groups/{name}", tag = "approvals",
    operation_id = "remove_approver_group",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The group, percent-encoded")),
    responses(
        (status = 200, description = "The group as it was", body = ApproverGroup),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_group(
    Authorized(permit): Authorized<ManageApprovers>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
) -> Result<Json<ApproverGroup>, Problem> {
    Ok(Json(state.governance.remove_approver_group(&permit, name).await?.into()))
}

/// Sets the chain of a team's requests, in the place of the one there was. It holds for requests made from now on.
#[utoipa::path(
    put, path = "/approvers/chains/teams/{team}", tag = "approvals",
    operation_id = "set_team_approval_chain",
    security(("api_key" = [])),
    params(("team" = String, Path, description = "The team, percent-encoded")),
    request_body = SetChainRequest,
    responses(
        (status = 201, description = "There was none: it is in force", body = ApprovalChain),
        (status = 200, description = "It is in force in place of the one before", body = ApprovalChain),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_team_chain(
    Authorized(permit): Authorized<ManageApprovers>,
    State(state): State<Arc<ApiState>>,
    PathPart(team): PathPart<String>,
    JsonBody(request): JsonBody<SetChainRequest>,
) -> Result<(StatusCode, Json<ApprovalChain>), Problem> {
    set_chain(&state, &permit, team, request).await
}

/// Sets the chain of requests of teams without one, in the place of the one there was. It holds for requests made from
/// now on.
#[utoipa::path(
    put, path = "/approvers/chains/workspace", tag = "approvals",
    operation_id = "set_workspace_approval_chain",
    security(("api_key" = [])),
    request_body = SetChainRequest,
    responses(
        (status = 201, description = "There was none: it is in force", body = ApprovalChain),
        (status = 200, description = "It is in force in place of the one before", body = ApprovalChain),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_workspace_chain(
    Authorized(permit): Authorized<ManageApprovers>,
    State(state): State<Arc<ApiState>>,
    JsonBody(request): JsonBody<SetChainRequest>,
) -> Result<(StatusCode, Json<ApprovalChain>), Problem> {
    set_chain(&state, &permit, String::new(), request).await
}

/// Takes a team's chain away: the workspace's holds then.
#[utoipa::path(
    delete, path = "/approvers/chains/teams/{team}", tag = "approvals",
    operation_id = "remove_team_approval_chain",
    security(("api_key" = [])),
    params(("team" = String, Path, description = "The team, percent-encoded")),
    responses(
        (status = 200, description = "The chain as it was", body = ApprovalChain),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_team_chain(
    Authorized(permit): Authorized<ManageApprovers>,
    State(state): State<Arc<ApiState>>,
    PathPart(team): PathPart<String>,
) -> Result<Json<ApprovalChain>, Problem> {
    Ok(Json(state.governance.remove_approval_chain(&permit, team).await?.into()))
}

/// Takes the workspace's chain away: the owners and admins are asked then.
#[utoipa::path(
    delete, path = "/approvers/chains/workspace", tag = "approvals",
    operation_id = "remove_workspace_approval_chain",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The chain as it was", body = ApprovalChain),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_workspace_chain(
    Authorized(permit): Authorized<ManageApprovers>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<ApprovalChain>, Problem> {
    Ok(Json(state.governance.remove_approval_chain(&permit, String::new()).await?.into()))
}

async fn set_chain(
    state: &ApiState,
    permit: &Permit<ManageApprovers>,
    team: String,
    request: SetChainRequest,
) -> Result<(StatusCode, Json<ApprovalChain>), Problem> {
    let stages = request.stages.into_iter().map(Stage::try_from).collect::<Result<_, _>>()?;
    let known = standing(state, permit).await?.chains().any(|chain| chain.team == team);
    let status = if known { StatusCode::OK } else { StatusCode::CREATED };
    let chain = approvers::ApprovalChain { team, stages };
    let chain = state.governance.set_approval_chain(permit, chain).await?;
    Ok((status, Json(chain.into())))
}

/// The groups and chains as they are. Whoever may change them may also read them.
async fn standing(
    state: &ApiState,
    permit: &Permit<ManageApprovers>,
) -> Result<Arc<Approvers>, Problem> {
    let reading = permit.principal().authorize::<ReadApprovals>()?;
    Ok(state.governance.approvers(&reading).await?)
}

fn is_key_id(text: &str) -> bool {
    (1..=MAX_KEY_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

// === impl ApproverGroup ===

impl From<approvers::ApproverGroup> for ApproverGroup {
    fn from(group: approvers::ApproverGroup) -> Self {
        let approvers::ApproverGroup { name, members, needed } = group;
        Self { name, members, needed }
    }
}

// === impl ApprovalChain ===

impl From<approvers::ApprovalChain> for ApprovalChain {
    fn from(chain: approvers::ApprovalChain) -> Self {
        let approvers::ApprovalChain { team, stages } = chain;
        let team = Some(team).filter(|team| !team.is_empty());
        Self { team, stages: stages.into_iter().map(Into::into).collect() }
    }
}

// === impl ChainStage ===

impl From<Stage> for ChainStage {
    fn from(stage: Stage) -> Self {
        let Stage { group, needed, share } = stage;
        Self { group: Some(group).filter(|group| !group.is_empty()), needed, share }
    }
}

impl TryFrom<ChainStage> for Stage {
    type Error = Problem;

    fn try_from(stage: ChainStage) -> Result<Self, Problem> {
        let ChainStage { group, needed, share } = stage;
        if group.as_deref() == Some("") {
            let detail = "`group` is empty; leave it out for the owners and admins";
            return Err(invalid(detail.to_owned()));
        }
        Ok(Self { group: group.unwrap_or_default(), needed, share })
    }
}
