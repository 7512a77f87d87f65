//! Whether the control plane can do its work.

use std::{sync::Arc, time::Duration};

use aa_store::StoreError;
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    problem::{Problem, ProblemKind},
};

/// The control plane answers, and so does its store; as a node of a cluster, its lease runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`: anything else is a problem document.
    pub status: String,
    /// The version of the control plane.
    pub version: String,
    /// `ok`.
    pub store: String,
}

/// The store answers reads within microseconds; one that takes this long is no store to decide by.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers when the control plane and its store do, and, of a node of a cluster, its lease runs: what a load balancer
/// asks. Needs no key.
#[utoipa::path(
    get, path = "/health", tag = "health", operation_id = "get_health",
    responses(
        (status = 200, description = "Everything answers", body = Health),
        (status = 503, description = "The store does not answer, or the node's lease has ended", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_health(
    State(state): State<Arc<ApiState>>,
) -> Result<Json<Health>, Problem> {
    if !state.governance.services().node.serves() {
        let detail =
            "this node's lease has ended; it serves again once it has renewed it in the store";
        return Err(Problem::new(ProblemKind::Unavailable, detail).retry_after(1));
    }
    let unavailable = |cause: String| {
        tracing::warn!(cause, "the store does not answer the health check");
        Problem::new(ProblemKind::Unavailable, "the store does not answer").retry_after(1)
    };
    match tokio::time::timeout(STORE_TIMEOUT, read_store(&state)).await {
        Ok(Ok(())) => Ok(Json(Health {
            status: "ok".to_owned(),
            version: state.info.version.to_owned(),
            store: "ok".to_owned(),
        })),
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Err(_elapsed) => Err(unavailable(format!("no answer within {STORE_TIMEOUT:?}"))),
    }
}

async fn read_store(state: &ApiState) -> Result<(), StoreError> {
    let mut txn = state.governance.services().node.store().begin().await?;
    txn.get_snapshot(b"health").await.map(|_| ())
}
