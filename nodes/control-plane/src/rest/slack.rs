//! Answers that people give by button in Slack. Slack has no API key: it signs its requests, under a secret that the
//! workspace's vault keeps.

use std::sync::Arc;

use aa_governance::governance::SlackRefusal;
use aa_notify::slack::{MAX_REQUEST_BYTES, SIGNATURE, TIMESTAMP};
use aa_protocol::WorkspaceId;
use axum::{
    extract::{FromRequest, Request, State},
    http::{HeaderMap, StatusCode},
};

use super::{
    ApiState, PeerAddress,
    access::counted_failure,
    input::{PathPart, RawBody, invalid},
    problem::{Problem, ProblemKind},
};

/// Takes a press of a button under a request for approval.
#[utoipa::path(
    post, path = "/slack/{workspace}/{destination}", tag = "alerts",
    operation_id = "take_slack_interaction",
    params(
        ("workspace" = String, Path, description = "The workspace's id"),
        ("destination" = String, Path, description = "The destination whose message has the button"),
    ),
    request_body(content = String, content_type = "application/x-www-form-urlencoded",
        description = "Slack's interaction payload, signed"),
    responses(
        (status = 200, description = "Taken; what became of it is said in Slack"),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn take_interaction(
    State(state): State<Arc<ApiState>>,
    PathPart((workspace, destination)): PathPart<(String, String)>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let peer = request.extensions().get::<PeerAddress>().copied();
    let header = |headers: &HeaderMap, name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (timestamp, signature) =
        (header(request.headers(), TIMESTAMP), header(request.headers(), SIGNATURE));
    let RawBody(body) = RawBody::<MAX_REQUEST_BYTES>::from_request(request, &state).await?;
    // What is unknown and what is not signed look alike from outside.
    let unsigned =
        || Problem::new(ProblemKind::Unauthenticated, SlackRefusal::NotSigned.to_string());
    let Ok(workspace) = workspace.parse::<WorkspaceId>() else {
        return Err(counted_failure(unsigned(), peer, &state));
    };
    let taken = state.governance.take_slack_interaction(
        workspace,
        &destination,
        (&timestamp, &signature),
        &body,
    );
    match taken.await {
        Ok(()) => Ok(StatusCode::OK),
        Err(SlackRefusal::NotSigned) => Err(counted_failure(unsigned(), peer, &state)),
        Err(refusal @ SlackRefusal::NotUnderstood(_)) => Err(invalid(refusal.to_string())),
        Err(SlackRefusal::Unavailable(error)) => Err((*error).into()),
    }
}
