//! What the store holds of policies: every revision ever applied, and which of them is in force.

use aa_protocol::{Timestamp, WorkspaceId};
use aa_store::{Order, StoreError, Transaction};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::keys;

/// Which revision of a policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyHeader {
    /// The revision in force; none after a removal.
    pub active: Option<u64>,
    /// The latest revision there is; revisions count from 1.
    pub latest: u64,
}

/// One revision of a policy, apart from its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRevision {
    /// The policy.
    pub name: String,
    /// The revision.
    pub revision: u64,
    /// The author's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The author's description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The scope as written, such as `team:platform`.
    pub scope: String,
    /// When it was applied.
    pub applied_at: Timestamp,
    /// Who applied it: `key:<id>`.
    pub applied_by: String,
    /// The revision this one brought back, after a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<u64>,
    /// SHA-256 of the source, lower-case hex.
    pub sha256: String,
    /// Length of the source in bytes.
    pub bytes: u64,
    /// How many warnings the source had.
    pub warnings: usize,
}

/// Sources are stored in chunks: a store's values are at most 100 kB.
const CHUNK: usize = 90_000;

/// The writes that store a source.
pub fn source_writes(
    workspace: WorkspaceId,
    name: &str,
    revision: u64,
    source: &Bytes,
) -> Vec<(Bytes, Bytes)> {
    let space = keys::policy_source(workspace, name, revision);
    let starts = (0..source.len().max(1)).step_by(CHUNK);
    starts
        .zip(0_u64..)
        .map(|(start, chunk)| {
            let end = source.len().min(start + CHUNK);
            (space.key(chunk), source.slice(start..end))
        })
        .collect()
}

/// Reads a source back; empty when there is none.
///
/// # Errors
/// What the store says.
pub async fn read_source(
    txn: &mut dyn Transaction,
    workspace: WorkspaceId,
    name: &str,
    revision: u64,
) -> Result<Vec<u8>, StoreError> {
    let range = keys::policy_source(workspace, name, revision).range();
    // A document is at most 1 MiB, so 12 chunks.
    let chunks = txn.range_snapshot(&range, 64, Order::Forward).await?;
    Ok(chunks.iter().flat_map(|(_, chunk)| chunk.iter().copied()).collect())
}
