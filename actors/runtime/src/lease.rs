//! Fencing: the epoch that shuts out every earlier owner of a shard, and the record of who owns it.
//!
//! The owner's record says who should write; the epoch says who can. They are two keys, and a node's lease is
//! a third ([`crate::membership`]), because renewing a lease must not conflict with the journal's commits, which
//! all read the epoch.

use aa_store::{CommitError, Store, StoreError, Transaction};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::shard::ShardId;

/// One life of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeLife {
    /// The node's name.
    pub node: String,
    /// Which of its lives.
    pub incarnation: u64,
}

/// Who owns a shard, and who shall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// The owner.
    pub owner: NodeLife,
    /// The node to which the owner shall hand it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
}

/// Why a shard was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another node owns it.
    #[error("shard {shard} is owned by node `{owner}`")]
    Held {
        /// The shard.
        shard: ShardId,
        /// The owner.
        owner: String,
    },
    /// The shard was taken over.
    #[error("shard {shard} was taken over under epoch {found}, this tenure is {epoch}")]
    Deposed {
        /// The shard.
        shard: ShardId,
        /// The epoch of this tenure.
        epoch: u64,
        /// The epoch of the latest.
        found: u64,
    },
    /// The stored record does not read; nothing is guessed about who owns the shard.
    #[error("the {what} record of shard {shard} is damaged; restore the store from a backup")]
    Damaged {
        /// The shard.
        shard: ShardId,
        /// Which record.
        what: &'static str,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commit did not succeed, or it is unknown whether it did.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The range of all ownership records.
pub(crate) const OWNERS: &[u8] = b"shard_owner/";

/// Begins a tenure: bumps the epoch of `shard` and returns it. With `life`, only if that is the owner on
/// record; without, the store itself admits one process only.
///
/// # Errors
/// [`LeaseError::Held`] when another is on record; otherwise what the store says. After an unknown result it
/// is safe to call again: epochs only grow.
pub(crate) async fn begin_tenure(
    store: &dyn Store,
    shard: ShardId,
    life: Option<&NodeLife>,
) -> Result<u64, LeaseError> {
    let mut txn = store.begin().await?;
    if let Some(life) = life {
        check_owner(&mut *txn, shard, life).await?;
    }
    let epoch = read_epoch(&mut *txn, shard).await? + 1;
    txn.put(epoch_key(shard), Bytes::copy_from_slice(&epoch.to_be_bytes()));
    txn.commit().await?;
    Ok(epoch)
}

/// Makes `heir` the owner of a shard whose tenure has ended here. An order to move it is done with then.
///
/// # Errors
/// [`LeaseError::Held`] when `life` is not the owner any more; otherwise what the store says.
pub(crate) async fn hand_over(
    store: &dyn Store,
    shard: ShardId,
    life: &NodeLife,
    heir: &NodeLife,
) -> Result<(), LeaseError> {
    let mut txn = store.begin().await?;
    check_owner(&mut *txn, shard, life).await?;
    put_owner(&mut *txn, shard, &Ownership { owner: heir.clone(), successor: None });
    txn.commit().await?;
    Ok(())
}

/// Reads the epoch within `txn`, so that the commit conflicts with whoever bumps it. Zero before the
/// first owner.
///
/// # Errors
/// What the store says, or [`LeaseError::Damaged`].
pub(crate) async fn read_epoch(
    txn: &mut dyn Transaction,
    shard: ShardId,
) -> Result<u64, LeaseError> {
    let Some(stored) = txn.get(&epoch_key(shard)).await? else { return Ok(0) };
    let bytes =
        stored.as_ref().try_into().map_err(|_| LeaseError::Damaged { shard, what: "epoch" })?;
    Ok(u64::from_be_bytes(bytes))
}

/// Reads who owns `shard` within `txn`, so that the commit conflicts with a change of it.
///
/// # Errors
/// What the store says, or [`LeaseError::Damaged`].
pub(crate) async fn read_owner(
    txn: &mut dyn Transaction,
    shard: ShardId,
) -> Result<Option<Ownership>, LeaseError> {
    let Some(stored) = txn.get(&owner_key(shard)).await? else { return Ok(None) };
    decode_owner(shard, &stored).map(Some)
}

/// Makes sure that `life` is the owner of `shard`, so that the commit conflicts with a change of that.
async fn check_owner(
    txn: &mut dyn Transaction,
    shard: ShardId,
    life: &NodeLife,
) -> Result<(), LeaseError> {
    match read_owner(txn, shard).await? {
        Some(known) if known.owner == *life => Ok(()),
        other => {
            let owner = other.map_or_else(|| "none".to_owned(), |known| known.owner.node);
            Err(LeaseError::Held { shard, owner })
        }
    }
}

pub(crate) fn decode_owner(shard: ShardId, stored: &[u8]) -> Result<Ownership, LeaseError> {
    serde_json::from_slice(stored).map_err(|_| LeaseError::Damaged { shard, what: "owner" })
}

pub(crate) fn put_owner(txn: &mut dyn Transaction, shard: ShardId, ownership: &Ownership) {
    // A struct of strings and numbers always serializes.
    let value = serde_json::to_vec(ownership).unwrap_or_default();
    txn.put(owner_key(shard), value.into());
}

/// The shard that an ownership record's key names.
pub(crate) fn shard_of_key(key: &[u8]) -> Option<ShardId> {
    let number = key.strip_prefix(OWNERS)?.try_into().ok()?;
    Some(ShardId(u16::from_be_bytes(number)))
}

pub(crate) fn epoch_key(shard: ShardId) -> Bytes {
    [b"shard/".as_slice(), &shard.0.to_be_bytes(), b"/epoch"].concat().into()
}

/// Where the journal of `shard` notes its last commit.
pub(crate) fn mark_key(shard: ShardId) -> Bytes {
    [b"shard/".as_slice(), &shard.0.to_be_bytes(), b"/batch"].concat().into()
}

/// Where the journal of `shard` notes an attempt at a commit that may already have happened.
pub(crate) fn doubt_key(shard: ShardId) -> Bytes {
    [b"shard/".as_slice(), &shard.0.to_be_bytes(), b"/doubt"].concat().into()
}

pub(crate) fn owner_key(shard: ShardId) -> Bytes {
    [OWNERS, &shard.0.to_be_bytes()].concat().into()
}
