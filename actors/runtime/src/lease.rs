//! Leases: which node a shard lives on, and the epoch that fences off every earlier owner.
//!
//! The lease says who should write; the epoch says who can. They are two keys because renewing the lease
//! must not conflict with the journal's commits, which all read the epoch.

use std::time::Duration;

use aa_protocol::Timestamp;
use aa_store::{CommitError, Store, StoreError, Transaction};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::shard::ShardId;

/// Who holds a shard, until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The node.
    pub owner: String,
    /// When the lease ends unless it is renewed.
    pub expires: Timestamp,
}

/// Why a lease was not taken or renewed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another node holds it.
    #[error("shard {shard} is leased to `{owner}` until {expires}")]
    Held {
        /// The shard.
        shard: ShardId,
        /// The holder.
        owner: String,
        /// The end of its lease.
        expires: Timestamp,
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

/// Takes `shard` for `node` and returns the new epoch. A node may take over from itself at once: only
/// one process can run under a node's name, so an earlier tenure of the same name is over.
///
/// # Errors
/// [`LeaseError::Held`] while another node's lease runs; otherwise what the store says. After an
/// unknown result it is safe to call again: epochs only grow.
pub async fn acquire(
    store: &dyn Store,
    shard: ShardId,
    node: &str,
    now: Timestamp,
    ttl: Duration,
) -> Result<u64, LeaseError> {
    let mut txn = store.begin().await?;
    if let Some(stored) = txn.get(&lease_key(shard)).await? {
        let lease: Lease = serde_json::from_slice(&stored)
            .map_err(|_| LeaseError::Damaged { shard, what: "lease" })?;
        if lease.owner != node && lease.expires > now {
            return Err(LeaseError::Held { shard, owner: lease.owner, expires: lease.expires });
        }
    }
    let epoch = read_epoch(&mut *txn, shard).await? + 1;
    txn.put(epoch_key(shard).into(), Bytes::copy_from_slice(&epoch.to_be_bytes()));
    put_lease(&mut *txn, shard, node, now, ttl);
    txn.commit().await?;
    Ok(epoch)
}

/// Extends the leases of all `shards` (with the epoch each is held under) in one transaction.
///
/// # Errors
/// [`LeaseError::Held`] when one of them has been taken; none is extended then.
pub async fn renew(
    store: &dyn Store,
    shards: &[(ShardId, u64)],
    node: &str,
    now: Timestamp,
    ttl: Duration,
) -> Result<(), LeaseError> {
    let mut txn = store.begin().await?;
    for (shard, epoch) in shards {
        if read_epoch(&mut *txn, *shard).await? != *epoch {
            return Err(LeaseError::Held {
                shard: *shard,
                owner: "another node".to_owned(),
                expires: now,
            });
        }
        put_lease(&mut *txn, *shard, node, now, ttl);
    }
    txn.commit().await?;
    Ok(())
}

/// Reads the epoch within `txn`, so that the commit conflicts with whoever bumps it. Zero before the
/// first owner.
///
/// # Errors
/// What the store says, or [`LeaseError::Damaged`].
pub async fn read_epoch(txn: &mut dyn Transaction, shard: ShardId) -> Result<u64, LeaseError> {
    let Some(stored) = txn.get(&epoch_key(shard)).await? else { return Ok(0) };
    let bytes =
        stored.as_ref().try_into().map_err(|_| LeaseError::Damaged { shard, what: "epoch" })?;
    Ok(u64::from_be_bytes(bytes))
}

fn put_lease(txn: &mut dyn Transaction, shard: ShardId, node: &str, now: Timestamp, ttl: Duration) {
    let lease = Lease { owner: node.to_owned(), expires: now.saturating_add(ttl) };
    // A struct of a string and a time always serializes.
    let value = serde_json::to_vec(&lease).unwrap_or_default();
    txn.put(lease_key(shard).into(), value.into());
}

fn epoch_key(shard: ShardId) -> Vec<u8> {
    [b"shard/".as_slice(), &shard.0.to_be_bytes(), b"/epoch"].concat()
}

fn lease_key(shard: ShardId) -> Vec<u8> {
    [b"shard/".as_slice(), &shard.0.to_be_bytes(), b"/lease"].concat()
}
