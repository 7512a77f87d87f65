//! What is spent in a window, and by an agent in its own windows.

use std::sync::Arc;

use aa_budget::{Limits, Period, Span};
use aa_governance::{governance::AgentSpending, permission::ReadBudgets};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState, access::Authorized, agents::agent_id, input::PathPart, problem::Problem, usd::Usd,
};

/// The present turn of a window, such as today.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Turn {
    /// When it began, RFC 3339.
    pub starts_at: String,
    /// When the window starts anew, RFC 3339.
    pub resets_at: String,
    /// What calls did cost.
    pub spent_usd: Usd,
    /// What is set aside for calls under way.
    pub reserved_usd: Usd,
    /// The part of what is spent that is the full amount of reservations which nobody settled.
    pub estimated_usd: Usd,
    /// The part of what is spent that providers reported beyond what was reserved.
    pub overrun_usd: Usd,
    /// Like `spent_usd`, in tokens of prompts and answers.
    pub spent_tokens: u64,
    /// Like `reserved_usd`, in tokens.
    pub reserved_tokens: u64,
    /// Like `estimated_usd`, in tokens.
    pub estimated_tokens: u64,
    /// Like `overrun_usd`, in tokens.
    pub overrun_tokens: u64,
    /// How many calls are under way.
    pub calls_under_way: u64,
    /// How many calls were refused for want of budget.
    pub refused: u64,
    /// How much of the limits is spent, in whole per cent rounded down: of the measure nearer to its end.
    pub percent: u64,
}

/// What an agent spends in the windows that its policies limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Spending {
    /// The agent's id.
    pub agent: String,
    /// Its own windows, those that were once limited included. Budgets it shares with others are under `/budgets`.
    pub windows: Vec<OwnWindow>,
}

/// A window of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwnWindow {
    /// How often it starts anew: `daily` or `monthly`.
    #[schema(value_type = String, example = "daily")]
    pub window: Period,
    /// The IANA name of the zone whose midnight counts.
    pub zone: String,
    /// The tightest limit of the agent's policies when it last called a model.
    pub cost_limit_usd: Option<Usd>,
    /// What is spent.
    pub current: Turn,
}

/// What an agent spends in its own windows, which the budgets of its policies limit.
#[utoipa::path(
    get, path = "/agents/{id}/spending", tag = "budgets", operation_id = "get_agent_spending",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The agent's id")),
    responses(
        (status = 200, description = "Its windows; none while nothing has limited it", body = Spending),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_agent_spending(
    Authorized(permit): Authorized<ReadBudgets>,
    State(state): State<Arc<ApiState>>,
    PathPart(id): PathPart<String>,
) -> Result<Json<Spending>, Problem> {
    let id = agent_id(&id)?;
    let windows = state.governance.agent_spending(&permit, id).await?;
    let windows = windows.into_iter().map(Into::into).collect();
    Ok(Json(Spending { agent: id.to_string(), windows }))
}

// === impl Turn ===

impl Turn {
    pub(super) fn new(span: &Span, limits: &Limits) -> Self {
        let Span { start, end, posted, reserved, open, estimated, overrun, refused, alerted: _ } =
            *span;
        Self {
            starts_at: start.to_string(),
            resets_at: end.to_string(),
            spent_usd: posted.cost().into(),
            reserved_usd: reserved.cost().into(),
            estimated_usd: estimated.cost().into(),
            overrun_usd: overrun.cost().into(),
            spent_tokens: posted.tokens(),
            reserved_tokens: reserved.tokens(),
            estimated_tokens: estimated.tokens(),
            overrun_tokens: overrun.tokens(),
            calls_under_way: open,
            refused,
            percent: limits.percent(posted),
        }
    }
}

// === impl OwnWindow ===

impl From<AgentSpending> for OwnWindow {
    fn from(spending: AgentSpending) -> Self {
        let AgentSpending { window, status } = spending;
        Self {
            window: window.period,
            zone: window.zone.to_string(),
            cost_limit_usd: status.limits.cost.map(Into::into),
            current: Turn::new(&status.span, &status.limits),
        }
    }
}
