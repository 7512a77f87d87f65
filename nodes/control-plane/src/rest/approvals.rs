//! Requests for approval: what agents wait for, in full, and people's answers.

use std::{str::FromStr, sync::Arc};

use aa_governance::{
    Principal,
    approval_record::{self, ApprovalRecord, OpenStage, Outcome},
    approvers::Approvers,
    governance::Proposal,
    permission::{AnswerApprovals, Permit, ReadApprovals},
};
use aa_policy::Exemption;
use aa_protocol::{ApprovalId, IdError, Reason, Timestamp};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    access::Authorized,
    agents::page_limit,
    input::{OptionalJson, Params, PathPart, invalid},
    problem::Problem,
};

/// A request for a person's approval of one action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    /// Its id, a UUID.
    pub id: String,
    /// Whether it is decided, and how.
    pub state: ApprovalState,
    /// Who wants to act.
    pub agent: ApprovalAgent,
    /// What it wants to do, to the last argument: the JSON form of actions. The approval is for exactly this.
    #[schema(value_type = Object)]
    pub action: Value,
    /// The action's kind, such as `tool_call`.
    pub kind: String,
    /// The tool, for a call or a result of one.
    pub tool: Option<String>,
    /// Why a person is asked: the rules, with their places in the policies.
    pub reasons: Vec<ApprovalReason>,
    /// What the program says about it. It is the requester's own word and nobody has checked it.
    pub context: Option<String>,
    /// What the approval is bound to: SHA-256, in hex, over the action and the revisions of the policies that ask.
    pub digest: String,
    /// When it was asked, RFC 3339.
    pub asked_at: String,
    /// Until when it can be answered, RFC 3339; then it expires as denied.
    pub deadline: String,
    /// How often the agent has asked for the same while it was pending.
    pub asked: u64,
    /// Who is asked, and from when.
    pub stages: Vec<ApprovalStage>,
    /// Whether every stage must approve, or the first that does decides.
    pub needs_every_stage: bool,
    /// Whether the key that reads this may answer now: the request is before a group of it, and the agent did not
    /// register with it. A key that has approved may still deny.
    pub may_answer: bool,
    /// The answers, in their order.
    pub answers: Vec<ApprovalAnswer>,
    /// Present once it is decided.
    pub outcome: Option<ApprovalOutcome>,
    /// The id of the action that made use of the approval.
    pub used_by: Option<String>,
}

/// Whether a request is decided, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Nobody has decided yet.
    Pending,
    /// Everybody who must has approved.
    Approved,
    /// Somebody refused.
    Denied,
    /// Nobody decided in time.
    Expired,
}

/// Who wants to act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalAgent {
    /// The agent's id, a UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its team.
    pub team: Option<String>,
}

/// A rule because of which a person is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalReason {
    /// The stable name of the kind of reason, such as `approval_required`.
    pub code: String,
    /// The policy.
    pub policy: Option<String>,
    /// The policy's revision at that time.
    pub revision: Option<u64>,
    /// The author's own version of the policy.
    pub version: Option<String>,
    /// The field, such as `spec.tools.bash.requires_approval_if`.
    pub path: Option<String>,
    /// The field's 1-based line in the policy's source.
    pub line: Option<u32>,
    /// The field's 1-based column, in characters.
    pub column: Option<u32>,
    /// A sentence for people.
    pub message: String,
}

/// A group that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalStage {
    /// The group; null for the workspace's owners and admins.
    pub group: Option<String>,
    /// How many of it must approve.
    pub needed: u32,
    /// How many have.
    pub approved: usize,
    /// From when on it is asked, RFC 3339.
    pub opens_at: String,
}

/// A person's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalAnswer {
    /// Whose: the id of an API key.
    pub by: String,
    /// Whether the action may go on.
    pub approved: bool,
    /// For what; null when it may not.
    pub scope: Option<ApprovalScope>,
    /// Why, in the person's words; may be empty.
    pub reason: String,
    /// When, RFC 3339.
    pub at: String,
}

/// How a request was decided; `state` says the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalOutcome {
    /// When, RFC 3339.
    pub at: String,
    /// What the approval is good for: the narrowest scope of those who approved.
    pub scope: Option<ApprovalScope>,
    /// Who refused: the id of an API key.
    pub by: Option<String>,
    /// Why it was refused, in that person's words; may be empty.
    pub reason: Option<String>,
}

/// What an approval is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalScope {
    /// This very action, once.
    #[default]
    Once,
    /// Calls of the same tool that the same rules ask about, for as long as the agent's process runs.
    Session,
}

/// A page of requests for approval.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ApprovalPage {
    /// In the order of their ids.
    pub approvals: Vec<Approval>,
    /// What to give as `after` for the next page; absent on the last.
    pub next: Option<String>,
}

/// Which requests are wanted.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ApprovalParams {
    /// `pending`, or `all` for those that are decided as well. Default: `pending`.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    state: Wanted,
    /// Those whose ids come after this one; `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<String>,
    /// Requests on the page, 1 to 100; 50 when absent.
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    #[default]
    Pending,
    All,
}

/// An approval. No body is one for once, without a reason.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveRequest {
    /// What it is good for; `once` when absent.
    #[serde(default)]
    pub scope: ApprovalScope,
    /// In the person's words, at most 1 000 characters; it is kept in the audit log.
    #[serde(default)]
    pub reason: String,
}

/// A refusal.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DenyRequest {
    /// In the person's words, at most 1 000 characters; it is kept in the audit log, and the agent is told.
    #[serde(default)]
    pub reason: String,
}

/// Documents to be looked at and applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProposalList {
    /// One for each policy that asked.
    pub proposals: Vec<RuleProposal>,
}

/// A policy with one condition narrowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleProposal {
    /// The policy.
    pub policy: String,
    /// The revision in force, which the document is made of.
    pub revision: u64,
    /// The field that changes.
    pub path: String,
    /// Its line.
    pub line: u32,
    /// The condition as it is.
    pub before: String,
    /// The condition as proposed.
    pub after: String,
    /// The whole document with it.
    pub document: String,
}

const DEFAULT_PAGE: usize = 50;

/// Each request holds an action of up to 64 KiB.
const MAX_PAGE: usize = 100;

const MAX_REASON: usize = 1_000;

/// Lists requests for approval in the order of their ids.
#[utoipa::path(
    get, path = "/approvals", tag = "approvals", operation_id = "list_approvals",
    security(("api_key" = [])),
    params(ApprovalParams),
    responses(
        (status = 200, description = "A page of requests", body = ApprovalPage),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_approvals(
    Authorized(permit): Authorized<ReadApprovals>,
    State(state): State<Arc<ApiState>>,
    Params(params): Params<ApprovalParams>,
) -> Result<Json<ApprovalPage>, Problem> {
    let limit = page_limit(params.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let after = params.after.as_deref().map(approval_id).transpose()?;
    let only_pending = params.state == Wanted::Pending;
    // One more than asked for tells whether there is a next page.
    let mut found = state.governance.approvals(&permit, only_pending, after, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().map(|record| record.id.to_string());
    let next = if more { last } else { None };
    // What was pending when it was looked up may have expired when it was read.
    found.retain(|record| !only_pending || record.outcome.is_none());
    let reader = Reader::new(&state, &permit).await?;
    let approvals = found.into_iter().map(|record| reader.shown(record)).collect();
    Ok(Json(ApprovalPage { approvals, next }))
}

/// One request for approval.
#[utoipa::path(
    get, path = "/approvals/{id}", tag = "approvals", operation_id = "get_approval",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The request's id")),
    responses(
        (status = 200, description = "The request", body = Approval),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_approval(
    Authorized(permit): Authorized<ReadApprovals>,
    State(state): State<Arc<ApiState>>,
    PathPart(id): PathPart<String>,
) -> Result<Json<Approval>, Problem> {
    let record = state.governance.approval(&permit, approval_id(&id)?).await?;
    Ok(Json(Reader::new(&state, &permit).await?.shown(record)))
}

/// Approves an action. It goes on once everybody who must has approved; see `stages`.
///
/// A key may answer for the groups it is in, whatever its role, but not for an agent that registered with it (403).
/// What is decided, or approved by the same key already, is a conflict (409).
#[utoipa::path(
    post, path = "/approvals/{id}/approve", tag = "approvals", operation_id = "approve",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The request's id")),
    request_body = Option<ApproveRequest>,
    responses(
        (status = 200, description = "The request with the answer", body = Approval),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn approve(
    Authorized(permit): Authorized<AnswerApprovals>,
    State(state): State<Arc<ApiState>>,
    PathPart(id): PathPart<String>,
    OptionalJson(ApproveRequest { scope, reason }): OptionalJson<ApproveRequest>,
) -> Result<Json<Approval>, Problem> {
    answer(&state, &permit, &id, true, scope, &reason).await
}

/// Refuses an action. One refusal decides; who may answer is as for an approval.
#[utoipa::path(
    post, path = "/approvals/{id}/deny", tag = "approvals", operation_id = "deny",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The request's id")),
    request_body = Option<DenyRequest>,
    responses(
        (status = 200, description = "The request, denied", body = Approval),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn deny(
    Authorized(permit): Authorized<AnswerApprovals>,
    State(state): State<Arc<ApiState>>,
    PathPart(id): PathPart<String>,
    OptionalJson(DenyRequest { reason }): OptionalJson<DenyRequest>,
) -> Result<Json<Approval>, Problem> {
    answer(&state, &permit, &id, false, ApprovalScope::Once, &reason).await
}

/// The policies that asked, each narrowed so that calls of exactly these arguments are not asked about again.
///
/// Nothing changes by this: apply a document, as it is or as you edit it, to put it in force. Where no rule can be
/// proposed that is a conflict (409), which says why.
#[utoipa::path(
    get, path = "/approvals/{id}/proposals", tag = "approvals", operation_id = "propose_rules",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The request's id")),
    responses(
        (status = 200, description = "A document for each policy that asked", body = ProposalList),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn propose_rules(
    Authorized(permit): Authorized<ReadApprovals>,
    State(state): State<Arc<ApiState>>,
    PathPart(id): PathPart<String>,
) -> Result<Json<ProposalList>, Problem> {
    let proposals = state.governance.propose_rules(&permit, approval_id(&id)?).await?;
    Ok(Json(ProposalList { proposals: proposals.into_iter().map(Into::into).collect() }))
}

async fn answer(
    state: &ApiState,
    permit: &Permit<AnswerApprovals>,
    id: &str,
    approved: bool,
    scope: ApprovalScope,
    reason: &str,
) -> Result<Json<Approval>, Problem> {
    let id = approval_id(id)?;
    if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
        let bound = format!("`reason` has at most {MAX_REASON} characters, none of them control");
        return Err(invalid(bound));
    }
    // Whoever may answer requests may also read them.
    let reading = permit.principal().authorize::<ReadApprovals>()?;
    let reader = Reader::new(state, &reading).await?;
    let record =
        state.governance.answer_approval(permit, id, approved, scope.into(), reason).await?;
    Ok(Json(reader.shown(record)))
}

fn approval_id(text: &str) -> Result<ApprovalId, Problem> {
    ApprovalId::from_str(text).map_err(|error: IdError| invalid(error.to_string()))
}

/// Who reads, and when.
struct Reader<'a> {
    who: &'a Principal,
    approvers: Arc<Approvers>,
    now: Timestamp,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    async fn new(state: &ApiState, permit: &'a Permit<ReadApprovals>) -> Result<Self, Problem> {
        let approvers = state.governance.approvers(permit).await?;
        Ok(Self { who: permit.principal(), approvers, now: state.now() })
    }

    /// A request as the reader sees it.
    fn shown(&self, record: ApprovalRecord) -> Approval {
        let stage = |stage: &OpenStage| ApprovalStage {
            group: Some(stage.group.clone()).filter(|group| !group.is_empty()),
            needed: stage.needed,
            approved: record.approvals(stage),
            opens_at: stage.opens_at.to_string(),
        };
        let tool = record.action.get("tool").and_then(Value::as_str);
        Approval {
            id: record.id.to_string(),
            state: record.outcome.as_ref().into(),
            kind: record.kind.to_string(),
            tool: tool.map(str::to_owned),
            stages: record.stages.iter().map(stage).collect(),
            may_answer: record.admits(self.who, &self.approvers, self.now).is_ok(),
            agent: ApprovalAgent {
                id: record.agent.to_string(),
                name: record.agent_name,
                team: record.team,
            },
            action: record.action,
            reasons: record.reasons.into_iter().map(Into::into).collect(),
            context: record.context,
            digest: record.digest,
            asked_at: record.asked_at.to_string(),
            deadline: record.deadline.to_string(),
            asked: record.asked,
            needs_every_stage: record.needs_every_stage,
            answers: record.answers.into_iter().map(Into::into).collect(),
            outcome: record.outcome.map(Into::into),
            used_by: record.used_by.map(|action| action.to_string()),
        }
    }
}

// === impl ApprovalState ===

impl ApprovalState {
    /// The name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
        }
    }
}

impl From<Option<&Outcome>> for ApprovalState {
    fn from(outcome: Option<&Outcome>) -> Self {
        match outcome {
            None => Self::Pending,
            Some(Outcome::Approved { .. }) => Self::Approved,
            Some(Outcome::Denied { .. }) => Self::Denied,
            Some(Outcome::Expired { .. }) => Self::Expired,
        }
    }
}

// === impl ApprovalReason ===

impl From<Reason> for ApprovalReason {
    fn from(reason: Reason) -> Self {
        // Budgets refuse; they do not ask.
        let Reason { code, policy, revision, version, path, line, column, budget: _, message } =
            reason;
        Self { code: code.to_string(), policy, revision, version, path, line, column, message }
    }
}

// === impl ApprovalAnswer ===

impl From<approval_record::ApprovalAnswer> for ApprovalAnswer {
    fn from(answer: approval_record::ApprovalAnswer) -> Self {
        let approval_record::ApprovalAnswer { by, approved, scope, reason, groups: _, at } = answer;
        let scope = approved.then(|| scope.into());
        Self { by, approved, scope, reason, at: at.to_string() }
    }
}

// === impl ApprovalOutcome ===

impl From<Outcome> for ApprovalOutcome {
    fn from(outcome: Outcome) -> Self {
        let at = outcome.at().to_string();
        match outcome {
            Outcome::Approved { scope, .. } => {
                Self { at, scope: Some(scope.into()), by: None, reason: None }
            }
            Outcome::Denied { by, reason, .. } => {
                Self { at, scope: None, by: Some(by), reason: Some(reason) }
            }
            Outcome::Expired { .. } => Self { at, scope: None, by: None, reason: None },
        }
    }
}

// === impl ApprovalScope ===

impl From<approval_record::ApprovalScope> for ApprovalScope {
    fn from(scope: approval_record::ApprovalScope) -> Self {
        match scope {
            approval_record::ApprovalScope::Once => Self::Once,
            approval_record::ApprovalScope::Session => Self::Session,
        }
    }
}

impl From<ApprovalScope> for approval_record::ApprovalScope {
    fn from(scope: ApprovalScope) -> Self {
        match scope {
            ApprovalScope::Once => Self::Once,
            ApprovalScope::Session => Self::Session,
        }
    }
}

// === impl RuleProposal ===

impl From<Proposal> for RuleProposal {
    fn from(proposal: Proposal) -> Self {
        let Proposal { policy, revision, exemption } = proposal;
        let Exemption { path, line, before, after, document } = exemption;
        Self { policy, revision, path, line, before, after, document }
    }
}
