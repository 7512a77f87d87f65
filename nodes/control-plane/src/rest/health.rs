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
    /// `ok`; `partial` from a node that does not reach all other nodes: requests for what lives there are refused as
    /// unavailable, all others are served. Anything else is a problem document.
    pub status: String,
    /// The version of the control plane.
    pub version: String,
    /// `ok`.
    pub store: String,
    /// The nodes that the status is `partial` for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<UnreachableNode>,
}

/// A node whose lease runs and that the answering one does not reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnreachableNode {
    /// Its name.
    pub node: String,
    /// How many shards it has.
    pub shards: u32,
    /// Why no link to it came up when that was last tried.
    pub why: String,
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
        Ok(Ok(())) => {
            let unreachable = unreachable(&state);
            let status = if unreachable.is_empty() { "ok" } else { "partial" };
            Ok(Json(Health {
                status: status.to_owned(),
                version: state.info.version.to_owned(),
                store: "ok".to_owned(),
                unreachable,
            }))
        }
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Err(_elapsed) => Err(unavailable(format!("no answer within {STORE_TIMEOUT:?}"))),
    }
}

fn unreachable(state: &ApiState) -> Vec<UnreachableNode> {
    let mut problems = state.unreachable();
    let view = state.governance.services().node.view();
    let alive = view.nodes.iter().filter(|node| node.is_alive);
    let unreachable = alive.filter_map(|node| {
        let name = &node.record.life.node;
        let why = problems.remove(name)?;
        let shards = u32::try_from(node.shards).unwrap_or(u32::MAX);
        Some(UnreachableNode { node: name.clone(), shards, why })
    });
    unreachable.collect()
}

async fn read_store(state: &ApiState) -> Result<(), StoreError> {
    let mut txn = state.governance.services().node.store().begin().await?;
    txn.get_snapshot(b"health").await.map(|_| ())
}
