//! The workspace as a whole: taking it away in a file.

use std::sync::Arc;

use aa_governance::permission::BackUp;
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::{
    ApiState,
    access::Authorized,
    problem::{Problem, ProblemKind},
    streamed::Streamed,
};

/// A backup of the workspace: all of it at one moment, taken while it goes on.
///
/// `aasm workspace verify` and `restore` read it. One that cannot be finished ends in a broken connection, never like a
/// whole one. That it was taken is in the audit log.
#[utoipa::path(
    post, path = "/workspace/backup", tag = "workspace", operation_id = "back_up_workspace",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The backup", body = String,
            content_type = "application/octet-stream"),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn back_up_workspace(
    Authorized(permit): Authorized<BackUp>,
    State(state): State<Arc<ApiState>>,
) -> Result<Response, Problem> {
    let Ok(held) = Arc::clone(&state.exports).try_acquire_owned() else {
        let detail = "too many exports are under way; try again when one is done";
        return Err(Problem::new(ProblemKind::Overloaded, detail).retry_after(10));
    };
    let backup = state.governance.back_up(&permit, state.info.version).await?;
    let name = format!("attachment; filename=\"{}.backup\"", backup.workspace);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, name),
    ];
    let streamed = Streamed { chunks: backup.chunks, lines_left: None, held };
    Ok((headers, streamed.body()).into_response())
}
