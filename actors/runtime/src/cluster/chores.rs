//! What keeps a cluster fair and tidy: measuring and balancing load, forgetting dead nodes and old news.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aa_store::KeyRange;
use bytes::Bytes;

use super::{Alive, BeatError, Found, Member, Seen, order_moves};
use crate::{
    balance::{self, Burden, Move},
    membership::{NodeRecord, node_key},
    news::{self, KEPT_FOR, Stamp},
    shard::ShardId,
};

/// A node whose record was silent for this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

impl Member {
    pub(super) fn measure(&mut self, now: Duration) {
        for live in self.node.table().all_live() {
            let records = live.journal.stats().records;
            let (before, at) =
                self.counted.insert(live.id, (records, now)).unwrap_or((records, now));
            let millis = now.saturating_sub(at).as_millis() as u64;
            if millis == 0 {
                continue;
            }
            // A tenure that began anew counts from zero.
            let rate = records.saturating_sub(before) * 1_000 / millis;
            let known = u64::from(self.loads.get(&live.id).copied().unwrap_or(0));
            // Smoothed over some beats, so that one burst moves nothing.
            let smooth = (known * 7 + rate).div_ceil(8);
            if smooth == 0 {
                self.loads.remove(&live.id);
            } else {
                self.loads.insert(live.id, u32::try_from(smooth).unwrap_or(u32::MAX));
            }
        }
        let table = self.node.table();
        self.loads.retain(|shard, _| table.live(*shard).is_some());
        self.counted.retain(|shard, _| table.live(*shard).is_some());
    }

    /// What each node carries.
    pub(super) fn burdens(&self, found: &Found, alive: &Alive) -> Vec<Burden> {
        let mut burdens: Vec<Burden> = alive
            .values()
            .map(|record| Burden {
                node: record.life.node.clone(),
                takes: !record.draining,
                shards: BTreeMap::new(),
                arriving: BTreeSet::new(),
            })
            .collect();
        for (shard, ownership) in &found.owners {
            let owner =
                alive.get(&ownership.owner.node).filter(|node| node.life == ownership.owner);
            let Some(owner) = owner else { continue };
            let load = owner.loads.iter().find(|(number, _)| *number == shard.0);
            // A shard on its way already counts where it goes.
            let moving = ownership.successor.as_ref().filter(|name| alive.contains_key(*name));
            let name = moving.unwrap_or(&owner.life.node);
            let at = burdens.iter_mut().find(|burden| burden.node == *name);
            let Some(at) = at else { continue };
            at.shards.insert(*shard, load.map_or(0, |(_, load)| *load));
            if moving.is_some() {
                at.arriving.insert(*shard);
            }
        }
        burdens
    }

    pub(super) async fn balance(&mut self, found: &Found, alive: &Alive, now: Duration) {
        self.rested.retain(|_, since| now.saturating_sub(*since) < balance::REST);
        let resting: BTreeSet<ShardId> = self.rested.keys().copied().collect();
        let moves = balance::plan(&self.burdens(found, alive), &resting);
        for Move { shard, .. } in &moves {
            self.rested.insert(*shard, now);
        }
        self.order(&moves).await;
    }

    /// Writes down to whom shards shall go; their owners see to it.
    pub(super) async fn order(&self, moves: &[Move]) {
        if moves.is_empty() {
            return;
        }
        let orders: Vec<_> = moves.iter().map(|order| (order.shard, order.to.as_str())).collect();
        if let Err(error) = order_moves(&*self.node.store(), &orders).await {
            tracing::info!(%error, "moves of shards were not ordered");
            return;
        }
        tracing::info!(shards = moves.len(), "ordered shards to move");
    }

    pub(super) async fn forget_the_dead(&self, now: Duration) {
        let is_long_gone = |seen: &&Seen| now.saturating_sub(seen.at) > FORGOTTEN_AFTER;
        for seen in self.seen.values().filter(is_long_gone) {
            let forgotten = async {
                let mut txn = self.node.store().begin().await?;
                let key = node_key(&seen.record.life.node);
                let stored = txn.get(&key).await?;
                let now = stored.and_then(|s| serde_json::from_slice::<NodeRecord>(&s).ok());
                if now.is_some_and(|record| record.renewals == seen.record.renewals) {
                    txn.delete(key);
                    txn.commit().await?;
                }
                Ok::<_, BeatError>(())
            };
            if let Err(error) = forgotten.await {
                tracing::info!(%error, node = seen.record.life.node, "a dead node stays on record");
            }
        }
    }

    /// Removes news that are older than they are kept.
    pub(super) async fn forget_old_news(&mut self, now: Duration) {
        self.past_news.push_back((now, self.cursor));
        let mut old = None;
        while let Some((at, stamp)) = self.past_news.front().copied() {
            if now.saturating_sub(at) < KEPT_FOR {
                break;
            }
            old = Some(stamp);
            self.past_news.pop_front();
        }
        let Some(old) = old.filter(|old| *old != Stamp::default()) else { return };
        let removed = async {
            let mut txn = self.node.store().begin().await?;
            txn.delete_range(KeyRange::new(Bytes::from_static(news::NEWS), old.key()));
            txn.commit().await?;
            Ok::<_, BeatError>(())
        };
        if let Err(error) = removed.await {
            tracing::info!(%error, "old news stay for now");
        }
    }
}
