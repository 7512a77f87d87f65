//! Taking over the shards that nobody serves.

use std::collections::BTreeSet;

use aa_store::KeyRange;

use super::{Alive, BeatError, Found, Member, read_owners};
use crate::{
    balance,
    lease::{self, LeaseError, Ownership},
    membership::{NodeRecord, node_key},
    shard::ShardId,
};

/// Claims in one transaction.
const CLAIMS: usize = 64;

impl Member {
    /// Takes the shards of nobody, and of nodes whose lease has ended, that fall to this node.
    pub(super) async fn claim_orphans(&self, found: &Found, alive: &Alive) {
        if self.draining {
            return;
        }
        let takers: Vec<&str> = alive
            .values()
            .filter(|node| !node.draining)
            .map(|node| node.life.node.as_str())
            .collect();
        let is_orphan = |shard: &ShardId| {
            found.owners.get(shard).is_none_or(|ownership| {
                alive.get(&ownership.owner.node).is_none_or(|node| node.life != ownership.owner)
            })
        };
        let orphans: Vec<ShardId> = (0..self.node.shard_count())
            .map(ShardId)
            .filter(is_orphan)
            .filter(|shard| balance::heir(*shard, &takers) == Some(self.life.node.as_str()))
            .collect();
        for claims in orphans.chunks(CLAIMS) {
            match self.claim(claims, found).await {
                Ok(()) => {
                    tracing::info!(shards = claims.len(), "took shards that nobody served");
                    claims.iter().for_each(|shard| self.node.take(*shard, &self.life));
                }
                // Somebody was faster, or their owner is back: the next beat tells.
                Err(error) => tracing::info!(%error, "shards were not taken"),
            }
        }
    }

    /// Writes this node down as the owner, unless an owner has written anything since it was read.
    async fn claim(&self, shards: &[ShardId], found: &Found) -> Result<(), BeatError> {
        let store = self.node.store();
        let mut txn = store.begin().await?;
        let now = read_owners(&mut *txn, self.node.shard_count()).await?;
        let mut former = BTreeSet::new();
        for shard in shards {
            let known = now.get(shard);
            if known != found.owners.get(shard) {
                let owner = known.map_or_else(String::new, |known| known.owner.node.clone());
                return Err(LeaseError::Held { shard: *shard, owner }.into());
            }
            txn.add_read_conflict(KeyRange::single(&lease::owner_key(*shard)));
            former.extend(known.map(|known| known.owner.clone()));
            let ownership = Ownership { owner: self.life.clone(), successor: None };
            lease::put_owner(&mut *txn, *shard, &ownership);
        }
        for life in former {
            // INVARIANT: renewals of the former owner conflict with the claim, so it never renews a lease that
            // somebody else has seen end; nor one with the owners it read before the claim.
            txn.add_write_conflict(KeyRange::single(&node_key(&life.node)));
            let stored = txn.get(&node_key(&life.node)).await?;
            let now = stored.and_then(|stored| serde_json::from_slice::<NodeRecord>(&stored).ok());
            let seen = self.seen.get(&life.node).map(|seen| seen.record.renewals);
            // A life that another has followed is over, whatever was seen of it.
            if now.is_some_and(|now| now.life == life && Some(now.renewals) != seen) {
                return Err(LeaseError::Held { shard: shards[0], owner: life.node }.into());
            }
        }
        txn.commit().await?;
        Ok(())
    }
}
