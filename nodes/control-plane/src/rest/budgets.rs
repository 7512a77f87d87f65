//! Budgets of teams and of the workspace: what is set, what is spent, and changing it.

use std::sync::Arc;

use aa_budget::{Limits, Period};
use aa_governance::{
    GovernanceError,
    budget_book::{self, BudgetError, BudgetRecord, BudgetTerms},
    governance::{BudgetStatus, MAX_PAGE},
    permission::{ManageBudgets, Permit, ReadBudgets},
    spender::{MAX_TEAM_BYTES, Spender},
};
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    access::Authorized,
    agents::page_limit,
    input::{JsonBody, Params, PathPart, invalid},
    problem::Problem,
    spending::Turn,
    usd::Usd,
};

/// A budget of a team or of the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Budget {
    /// The team whose calls it limits; null for the workspace's.
    pub team: Option<String>,
    /// Whether it limits the calls of all agents of the workspace together.
    pub workspace: bool,
    /// How often it starts anew, in UTC: `hourly`, `daily`, `weekly` (on Mondays) or `monthly`.
    #[schema(value_type = String, example = "daily")]
    pub window: Period,
    /// The most that may be spent in a window.
    pub cost_limit_usd: Option<Usd>,
    /// The most tokens of prompts and answers together in a window.
    pub token_limit: Option<u64>,
    /// What happens to a call that would pass a limit.
    pub action_on_exceeded: OnExceeded,
    /// At how many per cent of the limits somebody is told, ascending.
    pub alert_at: Vec<u64>,
    /// When it was last changed, RFC 3339.
    pub updated_at: String,
    /// Who changed it: `key:<id>`.
    pub updated_by: String,
}

/// A budget with what is spent of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BudgetWithSpending {
    /// What is set.
    #[serde(flatten)]
    pub budget: Budget,
    /// What is spent.
    pub current: Turn,
}

/// What happens to a call that would pass a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExceeded {
    /// It is refused.
    #[default]
    Deny,
    /// It goes on, and somebody is told.
    Alert,
}

/// A page of budgets.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BudgetPage {
    /// Those of teams in the order of their names, then the workspace's.
    pub budgets: Vec<BudgetWithSpending>,
    /// What to give as `after` for the next page; absent on the last.
    pub next: Option<String>,
}

/// Which page is wanted.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct BudgetPageParams {
    /// `next` of the page before.
    after: Option<String>,
    /// Budgets on the page, 1 to 1 000; 100 when absent.
    limit: Option<usize>,
}

/// A budget to be set. One limit at least is needed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetBudgetRequest {
    /// The most that may be spent in a window, above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_limit_usd: Option<Usd>,
    /// The most tokens of prompts and answers together in a window, 1 to 2^53 - 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_limit: Option<u64>,
    /// What happens to a call that would pass a limit; `deny` when absent.
    #[serde(default)]
    pub action_on_exceeded: OnExceeded,
    /// At how many per cent of the limits somebody is told: up to 8 ascending numbers from 1 to 100. 50, 80 and 100
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_at: Option<Vec<u64>>,
}

const DEFAULT_PAGE: usize = 100;

/// The largest integer that every reader of JSON takes as it is (RFC 8259, section 6).
const MAX_TOKENS: u64 = (1 << 53) - 1;

/// Lists budgets with what is spent of them.
#[utoipa::path(
    get, path = "/budgets", tag = "budgets", operation_id = "list_budgets",
    security(("api_key" = [])),
    params(BudgetPageParams),
    responses(
        (status = 200, description = "A page of budgets", body = BudgetPage),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_budgets(
    Authorized(permit): Authorized<ReadBudgets>,
    State(state): State<Arc<ApiState>>,
    Params(params): Params<BudgetPageParams>,
) -> Result<Json<BudgetPage>, Problem> {
    let limit = page_limit(params.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let after = params.after.as_deref().map(parse_place).transpose()?;
    let after = after.as_ref().map(|(spender, period)| (spender, *period));
    // One more than asked for tells whether there is a next page.
    let asked = (limit + 1).min(MAX_PAGE);
    let mut found = state.governance.budgets(&permit, after, asked).await?;
    let more = found.len() > limit || (asked == limit && found.len() == limit);
    found.truncate(limit);
    let last = found.last().map(|status| place(&status.budget.spender, status.budget.period));
    let next = if more { last } else { None };
    Ok(Json(BudgetPage { budgets: found.into_iter().map(Into::into).collect(), next }))
}

/// One budget of a team with what is spent of it.
#[utoipa::path(
    get, path = "/budgets/teams/{team}/{window}", tag = "budgets",
    operation_id = "get_team_budget",
    security(("api_key" = [])),
    params(
        ("team" = String, Path, description = "The team, percent-encoded"),
        ("window" = String, Path, description = "`hourly`, `daily`, `weekly` or `monthly`"),
    ),
    responses(
        (status = 200, description = "The budget", body = BudgetWithSpending),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_team_budget(
    Authorized(permit): Authorized<ReadBudgets>,
    State(state): State<Arc<ApiState>>,
    PathPart((team, window)): PathPart<(String, String)>,
) -> Result<Json<BudgetWithSpending>, Problem> {
    get(&state, &permit, of_team(&team)?, &window).await
}

/// One budget of the workspace with what is spent of it.
#[utoipa::path(
    get, path = "/budgets/workspace/{window}", tag = "budgets",
    operation_id = "get_workspace_budget",
    security(("api_key" = [])),
    params(("window" = String, Path, description = "`hourly`, `daily`, `weekly` or `monthly`")),
    responses(
        (status = 200, description = "The budget", body = BudgetWithSpending),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_workspace_budget(
    Authorized(permit): Authorized<ReadBudgets>,
    State(state): State<Arc<ApiState>>,
    PathPart(window): PathPart<String>,
) -> Result<Json<BudgetWithSpending>, Problem> {
    get(&state, &permit, Spender::Workspace, &window).await
}

/// Sets a budget of a team, in the place of the one there was. What is spent in the present window counts.
#[utoipa::path(
    put, path = "/budgets/teams/{team}/{window}", tag = "budgets",
    operation_id = "set_team_budget",
    security(("api_key" = [])),
    params(
        ("team" = String, Path, description = "The team, percent-encoded"),
        ("window" = String, Path, description = "`hourly`, `daily`, `weekly` or `monthly`"),
    ),
    request_body = SetBudgetRequest,
    responses(
        (status = 201, description = "There was none: it is in force", body = BudgetWithSpending),
        (status = 200, description = "It is in force in place of the one before", body = BudgetWithSpending),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_team_budget(
    Authorized(permit): Authorized<ManageBudgets>,
    State(state): State<Arc<ApiState>>,
    PathPart((team, window)): PathPart<(String, String)>,
    JsonBody(request): JsonBody<SetBudgetRequest>,
) -> Result<(StatusCode, Json<BudgetWithSpending>), Problem> {
    set(&state, &permit, of_team(&team)?, &window, request).await
}

/// Sets a budget of the workspace, in the place of the one there was. What is spent in the present window counts.
#[utoipa::path(
    put, path = "/budgets/workspace/{window}", tag = "budgets",
    operation_id = "set_workspace_budget",
    security(("api_key" = [])),
    params(("window" = String, Path, description = "`hourly`, `daily`, `weekly` or `monthly`")),
    request_body = SetBudgetRequest,
    responses(
        (status = 201, description = "There was none: it is in force", body = BudgetWithSpending),
        (status = 200, description = "It is in force in place of the one before", body = BudgetWithSpending),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_workspace_budget(
    Authorized(permit): Authorized<ManageBudgets>,
    State(state): State<Arc<ApiState>>,
    PathPart(window): PathPart<String>,
    JsonBody(request): JsonBody<SetBudgetRequest>,
) -> Result<(StatusCode, Json<BudgetWithSpending>), Problem> {
    set(&state, &permit, Spender::Workspace, &window, request).await
}

/// Takes a budget of a team away. What was spent counts if it is set again in the same window.
#[utoipa::path(
    delete, path = "/budgets/teams/{team}/{window}", tag = "budgets",
    operation_id = "remove_team_budget",
    security(("api_key" = [])),
    params(
        ("team" = String, Path, description = "The team, percent-encoded"),
        ("window" = String, Path, description = "`hourly`, `daily`, `weekly` or `monthly`"),
    ),
    responses(
        (status = 200, description = "The budget as it was", body = Budget),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_team_budget(
    Authorized(permit): Authorized<ManageBudgets>,
    State(state): State<Arc<ApiState>>,
    PathPart((team, window)): PathPart<(String, String)>,
) -> Result<Json<Budget>, Problem> {
    remove(&state, &permit, of_team(&team)?, &window).await
}

/// Takes a budget of the workspace away. What was spent counts if it is set again in the same window.
#[utoipa::path(
    delete, path = "/budgets/workspace/{window}", tag = "budgets",
    operation_id = "remove_workspace_budget",
    security(("api_key" = [])),
    params(("window" = String, Path, description = "`hourly`, `daily`, `weekly` or `monthly`")),
    responses(
        (status = 200, description = "The budget as it was", body = Budget),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_workspace_budget(
    Authorized(permit): Authorized<ManageBudgets>,
    State(state): State<Arc<ApiState>>,
    PathPart(window): PathPart<String>,
) -> Result<Json<Budget>, Problem> {
    remove(&state, &permit, Spender::Workspace, &window).await
}

async fn get(
    state: &ApiState,
    permit: &Permit<ReadBudgets>,
    spender: Spender,
    window: &str,
) -> Result<Json<BudgetWithSpending>, Problem> {
    let period = period(window)?;
    Ok(Json(state.governance.budget(permit, spender, period).await?.into()))
}

async fn set(
    state: &ApiState,
    permit: &Permit<ManageBudgets>,
    spender: Spender,
    window: &str,
    request: SetBudgetRequest,
) -> Result<(StatusCode, Json<BudgetWithSpending>), Problem> {
    let period = period(window)?;
    let SetBudgetRequest { cost_limit_usd, token_limit, action_on_exceeded, alert_at } = request;
    if token_limit.is_some_and(|tokens| tokens > MAX_TOKENS) {
        return Err(invalid(format!("`token_limit` is at most {MAX_TOKENS}")));
    }
    // Whoever may change budgets may also read them.
    let reading = permit.principal().authorize::<ReadBudgets>()?;
    let status = match state.governance.budget(&reading, spender.clone(), period).await {
        Ok(_) => StatusCode::OK,
        Err(GovernanceError::Budget(BudgetError::Unknown { .. })) => StatusCode::CREATED,
        Err(error) => return Err(error.into()),
    };
    let terms = BudgetTerms {
        spender,
        period,
        limits: Limits { cost: cost_limit_usd.map(Usd::nanos), tokens: token_limit },
        action: action_on_exceeded.into(),
        alert_at,
    };
    let budget = state.governance.set_budget(permit, terms).await?;
    Ok((status, Json(state.governance.spending_of(&reading, budget).await?.into())))
}

async fn remove(
    state: &ApiState,
    permit: &Permit<ManageBudgets>,
    spender: Spender,
    window: &str,
) -> Result<Json<Budget>, Problem> {
    let period = period(window)?;
    Ok(Json(state.governance.remove_budget(permit, spender, period).await?.into()))
}

/// The team as a spender; its name is bounded, since it becomes part of a key.
fn of_team(name: &str) -> Result<Spender, Problem> {
    if name.is_empty() || name.len() > MAX_TEAM_BYTES {
        return Err(BudgetError::TeamName.into());
    }
    if name.contains(char::is_control) {
        return Err(invalid("a team's name holds no control characters".to_owned()));
    }
    Ok(Spender::Team(name.into()))
}

fn period(name: &str) -> Result<Period, Problem> {
    Period::from_name(name).ok_or_else(|| {
        let shown: String = name.chars().take(32).collect();
        invalid(format!("`{shown}` is not a window; use hourly, daily, weekly or monthly"))
    })
}

/// Where a budget stands in the list: its path without the escapes.
fn place(spender: &Spender, period: Period) -> String {
    match spender {
        Spender::Team(team) => format!("teams/{team}/{period}"),
        Spender::Agent(_) | Spender::Workspace => format!("workspace/{period}"),
    }
}

fn parse_place(text: &str) -> Result<(Spender, Period), Problem> {
    // A team's name may hold slashes, a window's does not.
    let (spender, window) = text.rsplit_once('/').unwrap_or_default();
    let spender = match spender.strip_prefix("teams/") {
        Some(team) => of_team(team)?,
        None if spender == "workspace" => Spender::Workspace,
        None => return Err(invalid("`after` is not the `next` of a page".to_owned())),
    };
    Ok((spender, period(window)?))
}

// === impl BudgetWithSpending ===

impl From<BudgetStatus> for BudgetWithSpending {
    fn from(status: BudgetStatus) -> Self {
        let BudgetStatus { budget, span } = status;
        let current = Turn::new(&span, &budget.limits);
        Self { budget: budget.into(), current }
    }
}

// === impl Budget ===

impl From<BudgetRecord> for Budget {
    fn from(record: BudgetRecord) -> Self {
        let BudgetRecord { spender, period, limits, action, alert_at, updated_at, updated_by } =
            record;
        let team = match &spender {
            Spender::Team(team) => Some(team.to_string()),
            Spender::Agent(_) | Spender::Workspace => None,
        };
        Self {
            team,
            workspace: spender == Spender::Workspace,
            window: period,
            cost_limit_usd: limits.cost.map(Into::into),
            token_limit: limits.tokens,
            action_on_exceeded: action.into(),
            alert_at,
            updated_at: updated_at.to_string(),
            updated_by,
        }
    }
}

// === impl OnExceeded ===

impl OnExceeded {
    /// The name in requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Alert => "alert",
        }
    }
}

impl From<budget_book::OnExceeded> for OnExceeded {
    fn from(action: budget_book::OnExceeded) -> Self {
        match action {
            budget_book::OnExceeded::Deny => Self::Deny,
            budget_book::OnExceeded::Alert => Self::Alert,
        }
    }
}

impl From<OnExceeded> for budget_book::OnExceeded {
    fn from(action: OnExceeded) -> Self {
        match action {
            OnExceeded::Deny => Self::Deny,
            OnExceeded::Alert => Self::Alert,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_whatever_the_team_is_called() {
        for team in ["platform", "a/b", "workspace", "daily", "teams/x", "über alles"] {
            let spender = of_team(team).unwrap();
            let place = place(&spender, Period::Daily);
            assert_eq!(parse_place(&place).unwrap(), (spender, Period::Daily), "{team}");
        }
        let workspace = (Spender::Workspace, Period::Weekly);
        assert_eq!(parse_place("workspace/weekly").unwrap(), workspace);
        for bad in ["", "/", "teams/daily", "teams//daily", "workspace", "workspace/x", "x/daily"] {
            assert!(parse_place(bad).is_err(), "{bad}");
        }
    }
}
