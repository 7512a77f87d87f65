//! From the shards' logs into the tenant's Merkle tree.
//!
//! Each shard logs its entries in its own order; this actor, the tree's only writer, gives them their
//! place in the tree: run after run of one shard's log, each noted as a segment. A checkpoint leaves the
//! process only after the tree it signs is committed, so no two trees are ever signed at one size.

use std::time::Duration;

use aa_ledger::{Checkpoint, Hash};
use aa_protocol::Timestamp;
use aa_runtime::{
    Fault, Flow, Record, Reply, ShardId,
    journal::{log_end, log_ends, log_prefix},
};
use aa_store::{KeyRange, Order, Store};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CheckpointFailed, SignedCheckpoint, TenantActor};
use crate::{chain::decode_entry, keys, stored};

/// A run of leaves: where they stand in a shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    /// The shard.
    pub(crate) shard: u16,
    /// The position of the first entry.
    pub(crate) first: u64,
    /// How many.
    pub(crate) count: u64,
}

/// A segment with its place in the tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentOf {
    /// Leaf index of its first entry.
    pub(crate) first_leaf: u64,
    /// Where its entries stand.
    pub(crate) segment: Segment,
}

/// Entries taken from one shard's log at a time: about 1 MiB.
const RUN: usize = 2_048;

/// How often each log of a cluster is looked at, whether or not it is said to have grown: a node of an earlier version
/// says nothing.
const LOOK_AT_ALL_EVERY: Duration = Duration::from_secs(60);

impl TenantActor {
    pub(super) async fn checkpoint(
        &mut self,
        now: Timestamp,
        reply: Reply<Result<SignedCheckpoint, CheckpointFailed>>,
    ) -> Flow {
        let mut writes = Vec::new();
        let grown = self.take_in(&mut writes).await;
        if let Err(problem) = grown {
            reply.send(Ok(Err(CheckpointFailed(problem))));
            // The tree in memory may be ahead of what will be committed.
            return Flow::Reload;
        }
        if writes.is_empty()
            && let Some(latest) = &self.latest
        {
            // The commit that it stands on may still be under way.
            self.shard.journal.answer_after(reply, Ok(latest.clone()));
            return Flow::Continue;
        }
        let checkpoint = Checkpoint {
            workspace: self.workspace,
            size: self.tree.size,
            root: self.edge.root(),
            time: now,
        };
        let signed = SignedCheckpoint { note: checkpoint.sign(&self.log_key), checkpoint };
        writes.push((keys::tree(self.workspace), stored::encode(&self.tree)));
        writes.push((keys::checkpoint(self.workspace), Bytes::from(signed.note.clone())));
        self.latest = Some(signed.clone());
        self.services.metrics.count_checkpoint();
        let done = Reply::new(move |committed: Result<(), Fault>| {
            reply.send(committed.map(|()| Ok(signed)));
        });
        if self.shard.journal.append(Record::of_state(writes, done)).is_err() {
            self.shard.fail();
        }
        Flow::Continue
    }

    /// Appends every committed entry that is not in the tree yet; what must be stored goes to `writes`.
    async fn take_in(&mut self, writes: &mut Vec<(Bytes, Bytes)>) -> Result<(), String> {
        let store = self.services.node.store();
        let began = self.services.clock.elapsed();
        let looks_at_all = !self.services.node.is_clustered()
            || self.looked_at_all.is_none_or(|at| began.saturating_sub(at) >= LOOK_AT_ALL_EVERY);
        let shards = if looks_at_all {
            (0..self.services.node.shard_count()).map(ShardId).collect()
        } else {
            self.grown(&*store).await?
        };
        for shard in shards {
            loop {
                let taken = self.take_run(&*store, shard, writes).await?;
                if taken < RUN {
                    break;
                }
                self.flush(writes).await?;
            }
        }
        if looks_at_all {
            self.looked_at_all = Some(began);
        }
        Ok(())
    }

    /// The shards whose logs go further than the tree, as the nodes that have them say: one read for all.
    async fn grown(&self, store: &dyn Store) -> Result<Vec<ShardId>, String> {
        let mut txn = store.begin().await.map_err(|error| error.to_string())?;
        let range = log_ends(self.workspace);
        let ends = txn.range_snapshot(&range, usize::from(u16::MAX), Order::Forward).await;
        let ends = ends.map_err(|error| error.to_string())?;
        let ends = ends.iter().filter_map(|(key, value)| log_end(key, value));
        let is_ahead = |(shard, end): &(ShardId, u64)| {
            self.tree.next.get(&shard.0).is_none_or(|next| end > next)
        };
        Ok(ends.filter(is_ahead).map(|(shard, _)| shard).collect())
    }

    async fn take_run(
        &mut self,
        store: &dyn Store,
        shard: ShardId,
        writes: &mut Vec<(Bytes, Bytes)>,
    ) -> Result<usize, String> {
        let first = self.tree.next.get(&shard.0).copied().unwrap_or(0);
        // What was committed here a moment ago need not be read and hashed again.
        let live = self.services.node.live(shard);
        let known = live.and_then(|l| l.journal.recent_digests(self.workspace, first, RUN));
        let leaves = match known {
            Some(digests) => digests.into_iter().map(Hash::from_bytes).collect(),
            None => self.read_run(store, shard, first).await?,
        };
        if leaves.is_empty() {
            return Ok(0);
        }
        let count = leaves.len() as u64;
        let segment = Segment { shard: shard.0, first, count };
        writes.push((keys::segment(self.workspace, self.tree.size), stored::encode(&segment)));
        for tile in self.edge.append(&leaves) {
            let key = keys::tile(self.workspace, tile.id.level, tile.id.index);
            writes.push((key, tile.bytes.into()));
        }
        self.tree.size += count;
        self.tree.next.insert(shard.0, first + count);
        Ok(leaves.len())
    }

    /// The leaves of a shard's entries from `first` on.
    async fn read_run(
        &self,
        store: &dyn Store,
        shard: ShardId,
        first: u64,
    ) -> Result<Vec<Hash>, String> {
        let prefix = log_prefix(self.workspace, shard);
        let from = [prefix.as_slice(), &first.to_be_bytes()].concat();
        let end = KeyRange::prefix(&prefix);
        let range = KeyRange::new(Bytes::from(from), Bytes::copy_from_slice(end.end()));
        let mut txn = store.begin().await.map_err(|error| error.to_string())?;
        let entries = txn
            .range_snapshot(&range, RUN, Order::Forward)
            .await
            .map_err(|error| error.to_string())?;
        let leaf = |(key, stored): &(Bytes, Bytes)| {
            let damaged = || format!("the entry at `{}` is damaged", key.escape_ascii());
            let (_, line) = decode_entry(stored).ok_or_else(damaged)?;
            Ok(Hash::of_leaf(&line))
        };
        entries.iter().map(leaf).collect()
    }

    /// Commits what a long run has gathered, so that no transaction grows with the backlog.
    async fn flush(&mut self, writes: &mut Vec<(Bytes, Bytes)>) -> Result<(), String> {
        writes.push((keys::tree(self.workspace), stored::encode(&self.tree)));
        let writes = std::mem::take(writes);
        let (done, committed) = Reply::channel();
        self.shard
            .journal
            .append(Record::of_state(writes, done))
            .map_err(|error| error.to_string())?;
        // The next run may wait for this one: it is the tenant's own pace, and no decision's.
        committed.await.unwrap_or(Err(Fault::Gone)).map_err(|fault| fault.to_string())?;
        self.latest = None;
        Ok(())
    }
}
