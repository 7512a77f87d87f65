//! Reading a workspace back from the store.

use std::{collections::BTreeMap, sync::Arc};

use aa_ledger::{Checkpoint, LogKey, Stream, TreeEdge};
use aa_protocol::WorkspaceId;
use aa_runtime::{Fault, LiveShard};
use aa_store::{Order, StoreError};

use super::{
    RestoredFrom, SignedCheckpoint, TenantActor, TreeState,
    tiles::{TilesUnreadable, with_tiles},
};
use crate::{
    api_key::{KeyRecord, MAX_KEYS_EVER},
    chain::{Chain, ChainError},
    keys,
    services::Services,
    stored::{self, Damaged},
};

/// What keeps a tenant from loading.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error(transparent)]
    Record(#[from] stored::ReadError),
    #[error(transparent)]
    Tiles(#[from] TilesUnreadable),
    #[error("where it was restored from could not be noted: {0}")]
    NotNoted(#[from] Fault),
    #[error("its log key is not usable: {0}")]
    LogKey(#[from] aa_ledger::VerifierKeyError),
}

impl TenantActor {
    pub(super) async fn read(
        workspace: WorkspaceId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, ReadError> {
        let store = services.node.store();
        let mut txn = store.begin().await?;
        let chain = Chain::open(&mut *txn, &shard.journal, workspace, Stream::Workspace).await?;
        let record = stored::read(&mut *txn, &keys::workspace(workspace)).await?;
        let ids = keys::api_key_ids(workspace);
        let mut keys_by_id = BTreeMap::new();
        for (key, value) in txn.range_snapshot(&ids, MAX_KEYS_EVER, Order::Forward).await? {
            let record: KeyRecord = stored::decode(&key, &value)?;
            keys_by_id.insert(record.id.clone(), record);
        }
        let tree: TreeState =
            stored::read(&mut *txn, &keys::tree(workspace)).await?.unwrap_or_default();
        let log_key = services.log_key(workspace)?;
        let latest = read_latest(&mut *txn, workspace, &log_key).await?;
        let size = tree.size;
        let edge = with_tiles(&*store, workspace, |tiles| TreeEdge::load(size, tiles)).await?;
        let restored: Option<RestoredFrom> =
            stored::read(&mut *txn, &keys::restored(workspace)).await?;
        let now = services.clock.now();
        let mut tenant = Self {
            workspace,
            shard,
            services,
            chain,
            record,
            keys: keys_by_id,
            log_key,
            tree,
            edge,
            latest,
            looked_at_all: None,
        };
        if let Some(from) = restored {
            tenant.note_restored(&from, now);
            // Before anybody hears of the log.
            tenant.shard.journal.barrier().await?;
        }
        Ok(tenant)
    }
}

async fn read_latest(
    txn: &mut dyn aa_store::Transaction,
    workspace: WorkspaceId,
    key: &LogKey,
) -> Result<Option<SignedCheckpoint>, ReadError> {
    let at = keys::checkpoint(workspace);
    let Some(stored) = txn.get_snapshot(&at).await? else { return Ok(None) };
    let note = String::from_utf8(stored.to_vec()).map_err(|_| Damaged::at(&at))?;
    // A checkpoint under an earlier key still stands, but is not one to hand out again.
    let checkpoint = Checkpoint::open(&note, key.verifier()).ok();
    Ok(checkpoint.map(|checkpoint| SignedCheckpoint { checkpoint, note }))
}
