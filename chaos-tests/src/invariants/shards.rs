//! What a store says of its shards, from one look to the next.

use std::collections::BTreeMap;

use aa_protocol::WorkspaceId;
use aa_runtime::{ShardId, journal, lease::Ownership};
use aa_store::{KeyRange, Order, Store, StoreError};

use super::Violation;

/// A shard at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    /// Its number.
    pub shard: u16,
    /// The epoch that fences off every earlier owner.
    pub epoch: u64,
    /// The node that owns it; nobody where a node is by itself.
    pub owner: String,
    /// The workspace whose log was looked at.
    pub workspace: WorkspaceId,
    /// The position after its last entry of that workspace. Positions count from 0.
    pub end: u64,
}

/// Remembers the shards of earlier looks. At most one owner's epoch commits at a time: an epoch never goes
/// back and never has two owners, and a log that was committed is never shorter afterwards.
#[derive(Clone, Debug, Default)]
pub struct ShardWatch {
    seen: BTreeMap<(u16, WorkspaceId), ShardState>,
}

/// Entries read from the store at a time.
const READ: usize = 1_024;

/// Looks at every shard of a store, and at every position of one workspace's log in it. The log must not be
/// written meanwhile.
///
/// # Errors
/// Outside, what the store says; inside, [`Violation::Gap`].
pub async fn shard_states(
    store: &dyn Store,
    workspace: WorkspaceId,
) -> Result<Result<Vec<ShardState>, Violation>, StoreError> {
    let mut txn = store.begin().await?;
    let records = txn.range_snapshot(&KeyRange::prefix(SHARDS), usize::MAX, Order::Forward).await?;
    let mut states = Vec::new();
    for (key, value) in &records {
        let Some(shard) = shard_of(key, b"/epoch") else { continue };
        let epoch = value.as_ref().try_into().map_or(0, u64::from_be_bytes);
        let owner = txn.get_snapshot(&[OWNERS, &shard.to_be_bytes()].concat()).await?;
        let owner = owner.and_then(|value| serde_json::from_slice::<Ownership>(&value).ok());
        let owner = owner.map_or_else(|| "nobody".to_owned(), |record| record.owner.node);
        states.push(ShardState { shard, epoch, owner, workspace, end: 0 });
    }
    for state in &mut states {
        let prefix = journal::log_prefix(workspace, ShardId(state.shard));
        let mut range = KeyRange::prefix(&prefix);
        loop {
            // A transaction of its own for each part: the whole log takes longer than one may.
            let mut txn = store.begin().await?;
            let part = txn.range_snapshot(&range, READ, Order::Forward).await?;
            for (key, _) in &part {
                let found = journal::position(key).unwrap_or(u64::MAX);
                if found != state.end {
                    let (shard, expected) = (state.shard, state.end);
                    let workspace = workspace.to_string();
                    return Ok(Err(Violation::Gap { shard, workspace, expected, found }));
                }
                state.end += 1;
            }
            match part.last() {
                Some((last, _)) if part.len() == READ => range = range.after(last),
                _ => break,
            }
        }
    }
    Ok(Ok(states))
}

/// The prefix of the records of shards: then the number, two bytes big-endian, and what it is.
const SHARDS: &[u8] = b"shard/";

/// The prefix of the records of who owns a shard: then the number.
const OWNERS: &[u8] = b"shard_owner/";

fn shard_of(key: &[u8], what: &[u8]) -> Option<u16> {
    let number = key.strip_prefix(SHARDS)?.strip_suffix(what)?;
    Some(u16::from_be_bytes(number.try_into().ok()?))
}

// === impl ShardWatch ===

impl ShardWatch {
    /// Holds the shards against those of the looks before.
    ///
    /// # Errors
    /// [`Violation::Epoch`] or [`Violation::Shrunk`].
    pub fn look(&mut self, states: impl IntoIterator<Item = ShardState>) -> Result<(), Violation> {
        for state in states {
            let key = (state.shard, state.workspace);
            if let Some(earlier) = self.seen.get(&key) {
                let same_epoch_elsewhere =
                    state.epoch == earlier.epoch && state.owner != earlier.owner;
                if state.epoch < earlier.epoch || same_epoch_elsewhere {
                    return Err(Violation::Epoch {
                        shard: state.shard,
                        epoch: state.epoch,
                        owner: state.owner,
                        earlier_epoch: earlier.epoch,
                        earlier_owner: earlier.owner.clone(),
                    });
                }
                if state.end < earlier.end {
                    return Err(Violation::Shrunk {
                        shard: state.shard,
                        workspace: state.workspace.to_string(),
                        earlier: earlier.end,
                        end: state.end,
                    });
                }
            }
            self.seen.insert(key, state);
        }
        Ok(())
    }
}
