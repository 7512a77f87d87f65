//! Agents: who is registered, and suspending and resuming them.

use std::{collections::BTreeMap, sync::Arc};

use aa_budget::Period;
use aa_governance::{
    agent_record::{self, AgentStatus},
    governance::MAX_PAGE,
    permission::{ManageAgents, Permit, ReadAgents},
};
use aa_protocol::{AgentId, Timestamp};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    access::Authorized,
    input::{OptionalJson, Params, PathPart, invalid},
    problem::Problem,
    usd::Usd,
};

/// A registered agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Its id, a UUID.
    pub id: String,
    /// The name shown to people.
    pub name: String,
    /// The organisation, matched by `org:` scopes.
    pub org: Option<String>,
    /// The team, matched by `team:` scopes.
    pub team: Option<String>,
    /// `L0` to `L3`.
    pub governance_level: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it may act.
    pub status: Status,
    /// Present while an operator has it suspended.
    pub suspended: Option<Suspended>,
    /// Present while a budget of its policies has it suspended.
    pub budget_suspension: Option<BudgetSuspension>,
    /// When it first registered, RFC 3339.
    pub registered_at: String,
    /// Entries in its audit chain.
    pub entries: u64,
    /// The keys it proved to hold, newest last.
    pub keys: Vec<ProvenKey>,
}

/// Whether an agent may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Policies decide.
    Active,
    /// Everything is denied.
    Suspended,
}

/// An operator's suspension of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Suspended {
    /// Since when, RFC 3339.
    pub at: String,
    /// Who: `key:<id>`.
    pub by: String,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
}

/// A budget's suspension of an agent. It ends by itself: when the window starts anew, when the policy changes, or when
/// an operator resumes the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BudgetSuspension {
    /// The policy whose budget it is.
    pub policy: String,
    /// The policy's revision at that time.
    pub revision: Option<u64>,
    /// The window that is used up: `daily` or `monthly`.
    #[schema(value_type = String, example = "daily")]
    pub window: Period,
    /// Since when, RFC 3339.
    pub at: String,
    /// When the window starts anew, RFC 3339.
    pub until: String,
    /// What calls had cost.
    pub spent_usd: Usd,
    /// What was set aside for calls under way.
    pub reserved_usd: Usd,
}

/// A public key of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvenKey {
    /// Ed25519, base64url without padding.
    pub public_key: String,
    /// When possession of it was last proven, RFC 3339.
    pub proven_at: String,
}

/// A page of agents.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AgentPage {
    /// In the order of their ids.
    pub agents: Vec<Agent>,
    /// What to give as `after` for the next page; absent on the last.
    pub next: Option<String>,
}

/// Which page is wanted.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageParams {
    /// The last id of the page before.
    #[param(value_type = Option<String>)]
    after: Option<AgentId>,
    /// Agents on the page, 1 to 1 000; 100 when absent.
    limit: Option<usize>,
}

/// Why an agent is suspended or resumed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusRequest {
    /// In the operator's words, at most 500 characters; it is kept in the audit log.
    #[serde(default)]
    pub reason: String,
}

const DEFAULT_PAGE: usize = 100;
const MAX_REASON: usize = 500;

/// Lists agents in the order of their ids.
#[utoipa::path(
    get, path = "/agents", tag = "agents", operation_id = "list_agents",
    security(("api_key" = [])),
    params(PageParams),
    responses(
        (status = 200, description = "A page of agents", body = AgentPage),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_agents(
    Authorized(permit): Authorized<ReadAgents>,
    State(state): State<Arc<ApiState>>,
    Params(params): Params<PageParams>,
) -> Result<Json<AgentPage>, Problem> {
    let limit = page_limit(params.limit, DEFAULT_PAGE, MAX_PAGE)?;
    // One more than asked for tells whether there is a next page.
    let asked = (limit + 1).min(MAX_PAGE);
    let mut found = state.governance.agents(&permit, params.after, asked).await?;
    let more = found.len() > limit || (asked == limit && found.len() == limit);
    found.truncate(limit);
    let last = found.last().map(|status| status.record.facts.id.to_string());
    let next = if more { last } else { None };
    let now = state.now();
    let agents = found.into_iter().map(|status| Agent::new(status, now)).collect();
    Ok(Json(AgentPage { agents, next }))
}

/// One agent.
#[utoipa::path(
    get, path = "/agents/{id}", tag = "agents", operation_id = "get_agent",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The agent's id")),
    responses(
        (status = 200, description = "The agent", body = Agent),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_agent(
    Authorized(permit): Authorized<ReadAgents>,
    State(state): State<Arc<ApiState>>,
    PathPart(id): PathPart<String>,
) -> Result<Json<Agent>, Problem> {
    let id = agent_id(&id)?;
    Ok(Json(Agent::new(state.governance.agent(&permit, id).await?, state.now())))
}

/// Suspends an agent: from now on every action of it is denied, and its sessions are told.
#[utoipa::path(
    post, path = "/agents/{id}/suspend", tag = "agents", operation_id = "suspend_agent",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The agent's id")),
    request_body = Option<StatusRequest>,
    responses(
        (status = 200, description = "The agent, suspended", body = Agent),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn suspend_agent(
    Authorized(permit): Authorized<ManageAgents>,
    State(state): State<Arc<ApiState>>,
    PathPart(id): PathPart<String>,
    OptionalJson(request): OptionalJson<StatusRequest>,
) -> Result<Json<Agent>, Problem> {
    set_status(&state, &permit, &id, true, request).await
}

/// Resumes a suspended agent: policies decide again.
#[utoipa::path(
    post, path = "/agents/{id}/resume", tag = "agents", operation_id = "resume_agent",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The agent's id")),
    request_body = Option<StatusRequest>,
    responses(
        (status = 200, description = "The agent, active", body = Agent),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn resume_agent(
    Authorized(permit): Authorized<ManageAgents>,
    State(state): State<Arc<ApiState>>,
    PathPart(id): PathPart<String>,
    OptionalJson(request): OptionalJson<StatusRequest>,
) -> Result<Json<Agent>, Problem> {
    set_status(&state, &permit, &id, false, request).await
}

async fn set_status(
    state: &ApiState,
    permit: &Permit<ManageAgents>,
    id: &str,
    suspend: bool,
    request: StatusRequest,
) -> Result<Json<Agent>, Problem> {
    let id = agent_id(id)?;
    let reason = request.reason;
    if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
        let bound = format!("`reason` has at most {MAX_REASON} characters, none of them control");
        return Err(invalid(bound));
    }
    // Whoever may suspend an agent may also read it.
    let reading = permit.principal().authorize::<ReadAgents>()?;
    state.governance.set_agent_status(permit, id, suspend, reason).await?;
    Ok(Json(Agent::new(state.governance.agent(&reading, id).await?, state.now())))
}

pub(super) fn agent_id(text: &str) -> Result<AgentId, Problem> {
    text.parse().map_err(|error: aa_protocol::IdError| invalid(error.to_string()))
}

/// A page's size as asked for, within its bounds.
pub(crate) fn page_limit(
    asked: Option<usize>,
    default: usize,
    max: usize,
) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(default);
    if (1..=max).contains(&limit) {
        return Ok(limit);
    }
    Err(invalid(format!("`limit` is {limit}; it can be 1 to {max}")))
}

// === impl Agent ===

impl Agent {
    fn new(status: AgentStatus, now: Timestamp) -> Self {
        let AgentStatus { record, entries } = status;
        let facts = record.facts;
        let suspended = record.suspended.map(|suspension| Suspended {
            at: suspension.at.to_string(),
            by: suspension.by,
            reason: suspension.reason,
        });
        // One that has run out stays in the record until the agent acts again.
        let by_budget = record.budget_suspension.filter(|suspension| now < suspension.until);
        let is_suspended = suspended.is_some() || by_budget.is_some();
        let proven = record.keys.into_iter().map(|key| ProvenKey {
            public_key: key.public_key,
            proven_at: key.proven_at.to_string(),
        });
        Self {
            id: facts.id.to_string(),
            name: facts.name,
            org: facts.org,
            team: facts.team,
            governance_level: facts.governance_level.to_string(),
            labels: facts.labels,
            status: if is_suspended { Status::Suspended } else { Status::Active },
            suspended,
            budget_suspension: by_budget.map(Into::into),
            registered_at: record.registered_at.to_string(),
            entries,
            keys: proven.collect(),
        }
    }
}

// === impl BudgetSuspension ===

impl From<agent_record::BudgetSuspension> for BudgetSuspension {
    fn from(suspension: agent_record::BudgetSuspension) -> Self {
        let agent_record::BudgetSuspension { policy, revision, window, at, until, spent, reserved } =
            suspension;
        Self {
            policy,
            revision,
            window,
            at: at.to_string(),
            until: until.to_string(),
            spent_usd: spent.into(),
            reserved_usd: reserved.into(),
        }
    }
}
