//! Alerts: who is told of what, and what was not delivered.

use std::{collections::BTreeSet, sync::Arc};

use aa_governance::{
    alert_record::{self, AlertStatus, DestinationStatus},
    notifier::Which,
    permission::{ManageAlerts, ReadAlerts},
};
use aa_notify::{Channel, Destination, EventKind, Rule, Severity};
use aa_protocol::AgentId;
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    access::Authorized,
    input::{JsonBody, OptionalJson, Params, PathPart, invalid},
    problem::Problem,
};

/// The alerts of the workspace.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Alerts {
    /// Where people are told, in the order of names.
    pub destinations: Vec<AlertDestination>,
    /// Who is told of what, in the order of names.
    #[schema(value_type = Vec<Object>)]
    pub rules: Vec<Rule>,
    /// How many messages were given up and are kept.
    pub dead_letters: usize,
    /// Why the audit log is not read for events; null while it is.
    pub problem: Option<String>,
}

/// A destination and how it is doing.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AlertDestination {
    /// Its name.
    pub name: String,
    /// How it is reached: an object with `type` `webhook`, `slack` or `email`. Secrets are named, never shown.
    #[schema(value_type = Object)]
    pub channel: Channel,
    /// How long equal events are counted before they are told as one, in seconds.
    pub fold_seconds: u32,
    /// Messages that it has not taken yet.
    pub waiting: usize,
    /// Events that are being counted.
    pub folded: u64,
    /// Why the latest attempt failed; null after one that succeeded.
    pub problem: Option<String>,
    /// When it last took a message since the process started, RFC 3339.
    pub last_taken_at: Option<String>,
}

/// A destination to be set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetDestinationRequest {
    /// How it is reached: `{"type":"webhook","url","secret","previous_secret"}`,
    /// `{"type":"slack","url_secret","signing_secret","approvers"}` or
    /// `{"type":"email","server","port","security","username","password","from","to"}`; what is secret is named as the
    /// vault has it.
    #[schema(value_type = Object)]
    pub channel: Channel,
    /// How long equal events are counted before they are told as one: 0 (each is told) to 3600 seconds; 60 when absent.
    #[serde(default)]
    pub fold_seconds: Option<u32>,
}

/// A rule to be set. An event goes to the destinations when it passes every filter; an empty one passes all.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRuleRequest {
    /// The names of destinations, at least one.
    pub destinations: BTreeSet<String>,
    /// Kinds: `violation`, `budget_threshold`, `budget_exceeded`, `approval_needed`, `approval_escalated`,
    /// `approval_decided`, `agent_suspended`, `agent_resumed`, `audit_verification_failed`.
    #[serde(default)]
    #[schema(value_type = BTreeSet<String>)]
    pub events: BTreeSet<EventKind>,
    /// Ids of agents.
    #[serde(default)]
    #[schema(value_type = BTreeSet<String>)]
    pub agents: BTreeSet<AgentId>,
    /// Teams.
    #[serde(default)]
    pub teams: BTreeSet<String>,
    /// Policies that decided.
    #[serde(default)]
    pub policies: BTreeSet<String>,
    /// The least severity: `info`, `warning` or `critical`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub min_severity: Option<Severity>,
}

/// A message that was given up.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// Names it within the workspace.
    pub id: u64,
    /// Where it was to go.
    pub destination: String,
    /// What it says, in one line.
    pub headline: String,
    /// The kind of event.
    pub kind: String,
    /// The audit entry it is about.
    pub event: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub problem: Option<String>,
    /// When it was given up, RFC 3339.
    pub given_up_at: String,
}

/// A page of dead letters.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterPage {
    /// The oldest first.
    pub dead_letters: Vec<DeadLetter>,
    /// `after` of the next page; null on the last.
    pub next: Option<u64>,
}

/// Which page of dead letters.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterParams {
    /// From the one after this id.
    after: Option<u64>,
    /// At most this many, 1 to 1000; 100 when absent.
    limit: Option<usize>,
}

/// Which dead letters are meant: one, those of a destination, or all when neither is given.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterSelection {
    /// This one.
    #[serde(default)]
    pub id: Option<u64>,
    /// Those of this destination.
    #[serde(default)]
    pub destination: Option<String>,
}

/// How many dead letters it was done to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterCount {
    /// At most 1000 at a time.
    pub count: usize,
}

/// A destination took a test message.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TestResult {
    /// The destination.
    pub destination: String,
}

const DEFAULT_LIMIT: usize = 100;

/// Who is told of what, and how that is going.
#[utoipa::path(
    get, path = "/alerts", tag = "alerts", operation_id = "get_alerts",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The destinations and rules", body = Alerts),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_alerts(
    Authorized(permit): Authorized<ReadAlerts>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<Alerts>, Problem> {
    Ok(Json(state.governance.alerts(&permit).await?.into()))
}

/// Sets a destination, in the place of the one there was.
#[utoipa::path(
    put, path = "/alerts/destinations/{name}", tag = "alerts",
    operation_id = "set_alert_destination",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The destination")),
    request_body = SetDestinationRequest,
    responses(
        (status = 200, description = "It is set", body = AlertDestination),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_destination(
    Authorized(permit): Authorized<ManageAlerts>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<SetDestinationRequest>,
) -> Result<Json<AlertDestination>, Problem> {
    let SetDestinationRequest { channel, fold_seconds } = request;
    let mut destination = Destination::new(name, channel);
    if let Some(seconds) = fold_seconds {
        destination.fold_seconds = seconds;
    }
    Ok(Json(state.governance.set_alert_destination(&permit, destination).await?.into()))
}

/// Takes a destination away, with what waits for it. Its dead letters stay.
#[utoipa::path(
    delete, path = "/alerts/destinations/{name}", tag = "alerts",
    operation_id = "remove_alert_destination",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The destination")),
    responses(
        (status = 200, description = "The destination as it was", body = AlertDestination),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_destination(
    Authorized(permit): Authorized<ManageAlerts>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
) -> Result<Json<AlertDestination>, Problem> {
    Ok(Json(state.governance.remove_alert_destination(&permit, name).await?.into()))
}

/// Sends a destination a message that says it is a test, and waits for what becomes of it.
#[utoipa::path(
    post, path = "/alerts/destinations/{name}/test", tag = "alerts",
    operation_id = "test_alert_destination",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The destination")),
    responses(
        (status = 200, description = "It took the message", body = TestResult),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn test_destination(
    Authorized(permit): Authorized<ManageAlerts>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
) -> Result<Json<TestResult>, Problem> {
    state.governance.test_alert_destination(&permit, name.clone()).await?;
    Ok(Json(TestResult { destination: name }))
}

/// Sets a rule, in the place of the one there was. It holds for what happens from now on.
#[utoipa::path(
    put, path = "/alerts/rules/{name}", tag = "alerts", operation_id = "set_alert_rule",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The rule")),
    request_body = SetRuleRequest,
    responses(
        (status = 200, description = "It is in force", body = Object),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_rule(
    Authorized(permit): Authorized<ManageAlerts>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<SetRuleRequest>,
) -> Result<Json<Rule>, Problem> {
    let SetRuleRequest { destinations, events, agents, teams, policies, min_severity } = request;
    let rule = Rule { name, events, agents, teams, policies, min_severity, destinations };
    Ok(Json(state.governance.set_alert_rule(&permit, rule).await?))
}

/// Takes a rule away.
#[utoipa::path(
    delete, path = "/alerts/rules/{name}", tag = "alerts", operation_id = "remove_alert_rule",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The rule")),
    responses(
        (status = 200, description = "The rule as it was", body = Object),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_rule(
    Authorized(permit): Authorized<ManageAlerts>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
) -> Result<Json<Rule>, Problem> {
    Ok(Json(state.governance.remove_alert_rule(&permit, name).await?))
}

/// Lists messages that were given up.
#[utoipa::path(
    get, path = "/alerts/dead-letters", tag = "alerts", operation_id = "list_dead_letters",
    security(("api_key" = [])),
    params(DeadLetterParams),
    responses(
        (status = 200, description = "A page", body = DeadLetterPage),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_dead_letters(
    Authorized(permit): Authorized<ReadAlerts>,
    State(state): State<Arc<ApiState>>,
    Params(params): Params<DeadLetterParams>,
) -> Result<Json<DeadLetterPage>, Problem> {
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=1_000).contains(&limit) {
        return Err(invalid("`limit` is 1 to 1000".to_owned()));
    }
    let letters = state.governance.dead_letters(&permit, params.after, limit).await?;
    let next = (letters.len() == limit).then(|| letters.last().map(|last| last.delivery.id));
    let dead_letters = letters.into_iter().map(Into::into).collect();
    Ok(Json(DeadLetterPage { dead_letters, next: next.flatten() }))
}

/// Sends dead letters again.
#[utoipa::path(
    post, path = "/alerts/dead-letters/replay", tag = "alerts",
    operation_id = "replay_dead_letters",
    security(("api_key" = [])),
    request_body = DeadLetterSelection,
    responses(
        (status = 200, description = "They are on their way", body = DeadLetterCount),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn replay_dead_letters(
    Authorized(permit): Authorized<ManageAlerts>,
    State(state): State<Arc<ApiState>>,
    OptionalJson(selection): OptionalJson<DeadLetterSelection>,
) -> Result<Json<DeadLetterCount>, Problem> {
    let count = state.governance.replay_dead_letters(&permit, selection.which()?).await?;
    Ok(Json(DeadLetterCount { count }))
}

/// Forgets dead letters.
#[utoipa::path(
    post, path = "/alerts/dead-letters/discard", tag = "alerts",
    operation_id = "discard_dead_letters",
    security(("api_key" = [])),
    request_body = DeadLetterSelection,
    responses(
        (status = 200, description = "They are gone", body = DeadLetterCount),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn discard_dead_letters(
    Authorized(permit): Authorized<ManageAlerts>,
    State(state): State<Arc<ApiState>>,
    OptionalJson(selection): OptionalJson<DeadLetterSelection>,
) -> Result<Json<DeadLetterCount>, Problem> {
    let count = state.governance.discard_dead_letters(&permit, selection.which()?).await?;
    Ok(Json(DeadLetterCount { count }))
}

// === impl DeadLetterSelection ===

impl DeadLetterSelection {
    fn which(self) -> Result<Which, Problem> {
        match (self.id, self.destination) {
            (None, None) => Ok(Which::All),
            (Some(id), None) => Ok(Which::One(id)),
            (None, Some(destination)) => Ok(Which::Of(destination)),
            (Some(_), Some(_)) => Err(invalid("give `id` or `destination`, not both".to_owned())),
        }
    }
}

// === impl Alerts ===

impl From<AlertStatus> for Alerts {
    fn from(status: AlertStatus) -> Self {
        let AlertStatus { destinations, rules, dead_letters, problem } = status;
        let destinations = destinations.into_iter().map(Into::into).collect();
        Self { destinations, rules, dead_letters, problem }
    }
}

// === impl AlertDestination ===

impl From<DestinationStatus> for AlertDestination {
    fn from(status: DestinationStatus) -> Self {
        let DestinationStatus { destination, waiting, folded, problem, last_taken } = status;
        let last_taken_at = last_taken.map(|at| at.to_string());
        Self { waiting, folded, problem, last_taken_at, ..destination.into() }
    }
}

impl From<Destination> for AlertDestination {
    fn from(destination: Destination) -> Self {
        let Destination { name, channel, fold_seconds } = destination;
        let (waiting, folded, problem, last_taken_at) = (0, 0, None, None);
        Self { name, channel, fold_seconds, waiting, folded, problem, last_taken_at }
    }
}

// === impl DeadLetter ===

impl From<alert_record::DeadLetter> for DeadLetter {
    fn from(letter: alert_record::DeadLetter) -> Self {
        let alert_record::DeadLetter { delivery, given_up_at } = letter;
        Self {
            id: delivery.id,
            headline: delivery.message.headline(),
            kind: delivery.message.event.kind.to_string(),
            event: delivery.message.event.id.to_string(),
            destination: delivery.destination,
            attempts: delivery.attempts,
            problem: delivery.problem,
            given_up_at: given_up_at.to_string(),
        }
    }
}
