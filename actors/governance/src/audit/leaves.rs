//! The log in the order of the Merkle tree, read in bounded steps.

use aa_protocol::WorkspaceId;
use aa_runtime::{ShardId, journal::log_prefix};
use aa_store::{KeyRange, Order, Transaction};
use bytes::Bytes;

use crate::{
    chain::decode_entry,
    governance::GovernanceError,
    keys,
    stored::{self, Damaged},
    tenant::{Segment, SegmentOf},
};

/// Where a reader of the leaves is.
pub(crate) struct Leaves {
    workspace: WorkspaceId,
    /// Segments that were read from the store and whose entries were not, in reverse.
    segments: Vec<SegmentOf>,
    /// The segments to come.
    range: KeyRange,
    /// The leaf at which it ends.
    size: u64,
}

/// Entries that follow each other in a shard's log.
pub(crate) struct Run {
    /// The shard.
    pub(crate) shard: u16,
    /// The position of the first.
    pub(crate) first: u64,
    /// Their lines.
    pub(crate) lines: Vec<Bytes>,
}

/// Entries read from the store at a time.
const READ: usize = 128;

/// Segments read from the store at a time.
const SEGMENTS: usize = 64;

// === impl Leaves ===

impl Leaves {
    /// A reader of the leaves from `first`, the first of a segment, up to the tree's size `size`.
    pub(crate) fn new(workspace: WorkspaceId, first: u64, size: u64) -> Self {
        let end = keys::segments(workspace).end().clone();
        let range = KeyRange::new(keys::segment(workspace, first), end);
        Self { workspace, segments: Vec::new(), range, size }
    }

    /// The entries that come next, at most 128; none at the end.
    ///
    /// # Errors
    /// The store does not answer, or what it holds is damaged.
    pub(crate) async fn next(
        &mut self,
        txn: &mut dyn Transaction,
    ) -> Result<Option<Run>, GovernanceError> {
        let Some(next) = self.next_segment(txn).await? else { return Ok(None) };
        let SegmentOf { first_leaf, segment: Segment { shard, first, count } } = next;
        let read = count.min(READ as u64);
        let lines = read_run(txn, self.workspace, shard, first, first + read).await?;
        let read = lines.len() as u64;
        if read < count {
            let segment = Segment { shard, first: first + read, count: count - read };
            self.segments.push(SegmentOf { first_leaf: first_leaf + read, segment });
        }
        Ok(Some(Run { shard, first, lines }))
    }

    /// Takes the next segment, cut to the size.
    async fn next_segment(
        &mut self,
        txn: &mut dyn Transaction,
    ) -> Result<Option<SegmentOf>, GovernanceError> {
        if self.segments.is_empty() {
            let page = txn.range_snapshot(&self.range, SEGMENTS, Order::Forward).await?;
            if let Some((last, _)) = page.last() {
                self.range = self.range.after(last);
            }
            for (key, value) in page.iter().rev() {
                self.segments.push(segment_of(self.workspace, key, value)?);
            }
        }
        let next = self.segments.pop().filter(|next| next.first_leaf < self.size);
        Ok(next.map(|SegmentOf { first_leaf, segment }| {
            let count = segment.count.min(self.size - first_leaf);
            SegmentOf { first_leaf, segment: Segment { count, ..segment } }
        }))
    }
}

async fn read_run(
    txn: &mut dyn Transaction,
    workspace: WorkspaceId,
    shard: u16,
    from: u64,
    end: u64,
) -> Result<Vec<Bytes>, GovernanceError> {
    let prefix = log_prefix(workspace, ShardId(shard));
    let at = |position: u64| Bytes::from([prefix.as_slice(), &position.to_be_bytes()].concat());
    let range = KeyRange::new(at(from), at(end));
    let entries = txn.range_snapshot(&range, READ, Order::Forward).await?;
    // Positions leave no gap.
    let last = from + (entries.len() as u64).saturating_sub(1);
    if entries.last().is_none_or(|(key, _)| *key != at(last)) {
        return Err(Damaged::at(&at(from)).into());
    }
    let line = |(key, stored): &(Bytes, Bytes)| {
        decode_entry(stored).map(|(_, line)| line).ok_or_else(|| Damaged::at(key))
    };
    Ok(entries.iter().map(line).collect::<Result<_, _>>()?)
}

/// The segment of a stored pair.
///
/// # Errors
/// It is none.
pub(crate) fn segment_of(
    workspace: WorkspaceId,
    key: &[u8],
    value: &[u8],
) -> Result<SegmentOf, Damaged> {
    let space = keys::segments_of(workspace);
    let first_leaf = space.unpack(key).ok().and_then(|mut parts| parts.u64().ok());
    let segment: Segment = stored::decode(key, value)?;
    let first_leaf = first_leaf.filter(|_| segment.count > 0).ok_or_else(|| Damaged::at(key))?;
    Ok(SegmentOf { first_leaf, segment })
}
