//! The cluster: its nodes, where its shards are, draining and moving. For keys of the home workspace.

use std::{collections::BTreeMap, sync::Arc};

use aa_governance::{
    governance::ClusterStatus,
    permission::{ManageCluster, ReadCluster},
};
use aa_runtime::{NodeStatus, ShardStatus};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    access::Authorized,
    input::{JsonBody, PathPart},
    problem::Problem,
};

/// The cluster in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterSummary {
    /// The cluster's name.
    pub cluster: String,
    /// The node that answers; each tells what it last read in the store.
    pub told_by: String,
    /// `ok` when every shard is served by a node whose lease runs, `degraded` otherwise.
    pub status: String,
    /// Nodes whose leases run.
    pub nodes_alive: u32,
    /// Nodes on record whose leases have ended. They are forgotten after an hour.
    pub nodes_gone: u32,
    /// Nodes alive that hand over their shards and take none.
    pub nodes_draining: u32,
    /// Shards there are.
    pub shards: u32,
    /// Shards whose owner's lease runs.
    pub shards_served: u32,
    /// Shards on their way to another node.
    pub shards_moving: u32,
    /// Records committed per second, as the nodes last measured it.
    pub records_per_second: u64,
    /// The versions of the programs of the nodes that are alive.
    pub versions: Vec<String>,
    /// Nodes that the answering one cannot reach, and why.
    pub unreachable: BTreeMap<String, String>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterNode {
    /// Its name.
    pub node: String,
    /// `alive`, `draining` or `gone`.
    pub status: String,
    /// Where it stands.
    pub zone: String,
    /// Where its relay takes calls.
    pub address: String,
    /// Its program's version.
    pub version: String,
    /// The oldest and the newest protocol that it speaks with other nodes.
    pub protocols: [u32; 2],
    /// Shards that it owns.
    pub shards: u32,
    /// Records per second of its shards.
    pub records_per_second: u64,
    /// How long it may be silent, in milliseconds.
    pub lease_ms: u64,
    /// When it joined, RFC 3339, by its own clock.
    pub started_at: String,
    /// When it last renewed its lease, RFC 3339, by its own clock.
    pub renewed_at: String,
    /// Why the answering node does not reach it, when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
}

/// The nodes on record.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// By name.
    pub nodes: Vec<ClusterNode>,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterShard {
    /// Its number.
    pub shard: u16,
    /// Its owner; none before the first node has claimed it.
    pub owner: Option<String>,
    /// Whether the owner's lease runs.
    pub served: bool,
    /// The node it is on its way to.
    pub moving_to: Option<String>,
    /// Records per second, as its owner last measured it.
    pub records_per_second: u64,
}

/// The shards.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ShardList {
    /// By number.
    pub shards: Vec<ClusterShard>,
}

/// Where a shard shall go.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveShardRequest {
    /// The node's name.
    pub to: String,
}

/// Tells how the cluster does.
#[utoipa::path(
    get, path = "/cluster", tag = "cluster", operation_id = "get_cluster",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The cluster in numbers", body = ClusterSummary),
        (status = "4XX", description = "Refused, or there is no cluster", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_cluster(
    Authorized(permit): Authorized<ReadCluster>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<ClusterSummary>, Problem> {
    let status = state.governance.cluster(&permit).await?;
    Ok(Json(ClusterSummary::of(&status, state.unreachable())))
}

/// Lists the nodes, those that are gone for less than an hour included.
#[utoipa::path(
    get, path = "/cluster/nodes", tag = "cluster", operation_id = "list_nodes",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The nodes", body = NodeList),
        (status = "4XX", description = "Refused, or there is no cluster", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_nodes(
    Authorized(permit): Authorized<ReadCluster>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<NodeList>, Problem> {
    let status = state.governance.cluster(&permit).await?;
    let mut unreachable = state.unreachable();
    let nodes = status.view.nodes.iter().map(|node| {
        let problem = unreachable.remove(&node.record.life.node).filter(|_| node.is_alive);
        ClusterNode { unreachable: problem, ..ClusterNode::from(node) }
    });
    Ok(Json(NodeList { nodes: nodes.collect() }))
}

/// Lists the shards and where they are.
#[utoipa::path(
    get, path = "/cluster/shards", tag = "cluster", operation_id = "list_shards",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The shards", body = ShardList),
        (status = "4XX", description = "Refused, or there is no cluster", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_shards(
    Authorized(permit): Authorized<ReadCluster>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<ShardList>, Problem> {
    let view = state.governance.cluster(&permit).await?.view;
    let loads: BTreeMap<u16, u32> =
        view.nodes.iter().flat_map(|node| node.record.loads.iter().copied()).collect();
    let shards = view.shards.iter().map(|shard| ClusterShard {
        records_per_second: loads.get(&shard.shard.0).copied().unwrap_or_default().into(),
        ..ClusterShard::from(shard)
    });
    Ok(Json(ShardList { shards: shards.collect() }))
}

/// Lets a node hand over all its shards and take none: what is done before it is stopped or upgraded. It goes on
/// serving clients.
#[utoipa::path(
    post, path = "/cluster/nodes/{name}/drain", tag = "cluster", operation_id = "drain_node",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The node's name")),
    responses(
        (status = 200, description = "The node; its shards go now", body = ClusterNode),
        (status = "4XX", description = "Refused, or there is no cluster", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn drain_node(
    Authorized(permit): Authorized<ManageCluster>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
) -> Result<Json<ClusterNode>, Problem> {
    Ok(Json((&state.governance.drain_node(&permit, &name, true).await?).into()))
}

/// Lets a node take shards again.
#[utoipa::path(
    post, path = "/cluster/nodes/{name}/undrain", tag = "cluster", operation_id = "undrain_node",
    security(("api_key" = [])),
    params(("name" = String, Path, description = "The node's name")),
    responses(
        (status = 200, description = "The node", body = ClusterNode),
        (status = "4XX", description = "Refused, or there is no cluster", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn undrain_node(
    Authorized(permit): Authorized<ManageCluster>,
    State(state): State<Arc<ApiState>>,
    PathPart(name): PathPart<String>,
) -> Result<Json<ClusterNode>, Problem> {
    Ok(Json((&state.governance.drain_node(&permit, &name, false).await?).into()))
}

/// Lets the owner of a shard finish what it has begun and hand the shard over.
#[utoipa::path(
    post, path = "/cluster/shards/{shard}/move", tag = "cluster", operation_id = "move_shard",
    security(("api_key" = [])),
    params(("shard" = u16, Path, description = "The shard's number")),
    request_body = MoveShardRequest,
    responses(
        (status = 202, description = "It is on its way"),
        (status = "4XX", description = "Refused, or there is no cluster", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn move_shard(
    Authorized(permit): Authorized<ManageCluster>,
    State(state): State<Arc<ApiState>>,
    PathPart(shard): PathPart<u16>,
    JsonBody(request): JsonBody<MoveShardRequest>,
) -> Result<axum::http::StatusCode, Problem> {
    state.governance.move_shard(&permit, shard, &request.to).await?;
    Ok(axum::http::StatusCode::ACCEPTED)
}

// === impl ApiState ===

impl ApiState {
    /// The nodes to which no link came up when that was last tried.
    pub(super) fn unreachable(&self) -> BTreeMap<String, String> {
        self.links.as_ref().map(|links| links.problems()).unwrap_or_default()
    }
}

// === impl ClusterSummary ===

impl ClusterSummary {
    fn of(status: &ClusterStatus, mut unreachable: BTreeMap<String, String>) -> Self {
        let ClusterStatus { name, told_by, view } = status;
        let alive = || view.nodes.iter().filter(|node| node.is_alive);
        let mut versions: Vec<_> = alive().map(|node| node.record.version.clone()).collect();
        versions.sort_unstable();
        versions.dedup();
        unreachable.retain(|name, _| alive().any(|node| node.record.life.node == *name));
        let served = view.shards.iter().filter(|shard| shard.is_served).count();
        let is_moving = |shard: &&ShardStatus| {
            shard.ownership.as_ref().is_some_and(|known| known.successor.is_some())
        };
        let is_whole = served == view.shards.len() && !view.shards.is_empty();
        Self {
            cluster: name.clone(),
            told_by: told_by.clone(),
            status: if is_whole { "ok" } else { "degraded" }.to_owned(),
            nodes_alive: count(alive().count()),
            nodes_gone: count(view.nodes.len() - alive().count()),
            nodes_draining: count(alive().filter(|node| node.record.draining).count()),
            shards: count(view.shards.len()),
            shards_served: count(served),
            shards_moving: count(view.shards.iter().filter(is_moving).count()),
            records_per_second: alive().map(load).sum(),
            versions,
            unreachable,
        }
    }
}

/// Nodes and shards are counted in thousands.
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn load(node: &NodeStatus) -> u64 {
    node.record.loads.iter().map(|(_, load)| u64::from(*load)).sum()
}

// === impl ClusterNode ===

impl From<&NodeStatus> for ClusterNode {
    fn from(node: &NodeStatus) -> Self {
        let NodeStatus { record, is_alive, shards } = node;
        let status = match (is_alive, record.draining) {
            (false, _) => "gone",
            (true, true) => "draining",
            (true, false) => "alive",
        };
        Self {
            node: record.life.node.clone(),
            status: status.to_owned(),
            zone: record.zone.clone(),
            address: record.address.clone(),
            version: record.version.clone(),
            protocols: [record.protocols.lowest, record.protocols.highest],
            shards: count(*shards),
            records_per_second: if *is_alive { load(node) } else { 0 },
            lease_ms: record.lease_ms,
            started_at: record.started_at.to_string(),
            renewed_at: record.wall.to_string(),
            unreachable: None,
        }
    }
}

// === impl ClusterShard ===

impl From<&ShardStatus> for ClusterShard {
    fn from(status: &ShardStatus) -> Self {
        let known = status.ownership.as_ref();
        Self {
            shard: status.shard.0,
            owner: known.map(|known| known.owner.node.clone()),
            served: status.is_served,
            moving_to: known.and_then(|known| known.successor.clone()),
            records_per_second: 0,
        }
    }
}
