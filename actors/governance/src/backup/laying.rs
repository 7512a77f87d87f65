//! Laying entries out for the shards of another store.
//!
//! Which shard a stream is in follows from its actor's id and the number of shards; an entry's position, its link to
//! the one before it, and the segments that say where the tree's leaves stand, follow from that. Their order among each
//! other stays: entries are placed in the order of the leaves, in which every stream is in its own.

use std::collections::{BTreeMap, HashMap};

use aa_ledger::Stream;
use aa_protocol::{BudgetId, WorkspaceId};
use aa_runtime::{Entity, ShardId, journal::log_prefix};
use bytes::{BufMut, Bytes, BytesMut};

use super::{
    RestoreError,
    examine::{CheckedEntry, CheckedRun},
};
use crate::{
    agent::{AgentActor, AgentKeyId},
    approval::{ApprovalActor, ApprovalKey},
    audit::Cursor,
    budget_window::BudgetWindowActor,
    chain::{NOWHERE, encode_head},
    keys::{self, Space},
    notifier::NotifierActor,
    policy_set::PolicySetActor,
    spender::WindowId,
    stored,
    tenant::{Segment, TenantActor, TreeState},
    vault::VaultActor,
};

/// What has to be known of a whole file before its first entry is placed.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// The windows, by their streams.
    pub(super) windows: HashMap<BudgetId, WindowId>,
    /// How far the source's log was read for events.
    pub(super) cursor: Option<Cursor>,
}

/// The layout of a workspace's log in a target.
pub(super) struct Laying {
    workspace: WorkspaceId,
    source_shards: u16,
    shards: u16,
    surroundings: Surroundings,
    /// Where the last entry of each stream stands.
    last: HashMap<Stream, u64>,
    /// The position after the last entry of each shard.
    next: BTreeMap<u16, u64>,
    /// The first entry of each shard that was not read for events.
    unread: BTreeMap<u16, u64>,
    tree: TreeState,
    /// The segment that grows, and its first leaf.
    segment: Option<(u64, Segment)>,
}

/// A pair to be stored.
pub(super) type Pair = (Bytes, Bytes);

/// Entries of a segment: as many as a checkpoint takes from a shard at a time.
const MAX_SEGMENT: u64 = 2_048;

// === impl Surroundings ===

impl Surroundings {
    /// Takes note of checked rows.
    pub(super) fn note(&mut self, workspace: WorkspaceId, space: Space, rows: &[Pair]) {
        match space {
            Space::Window => {
                let prefix = Space::Window.prefix(workspace);
                let windows = rows.iter().filter_map(|(key, _)| {
                    keys::window_of(workspace, &[&prefix[..], key].concat())
                });
                self.windows.extend(windows.map(|window| (window.budget_id(), window)));
            }
            Space::AlertCursor => {
                let read = rows.iter().filter_map(|(key, value)| stored::decode(key, value).ok());
                self.cursor = read.last();
            }
            _ => {}
        }
    }
}

// === impl Laying ===

impl Laying {
    pub(super) fn new(
        workspace: WorkspaceId,
        source_shards: u16,
        shards: u16,
        surroundings: Surroundings,
    ) -> Self {
        Self {
            workspace,
            source_shards,
            shards,
            surroundings,
            last: HashMap::new(),
            next: BTreeMap::new(),
            unread: BTreeMap::new(),
            tree: TreeState::default(),
            segment: None,
        }
    }

    /// Places entries; the pairs to be stored.
    ///
    /// # Errors
    /// A stream's shard cannot be told.
    pub(super) fn place(&mut self, run: &CheckedRun) -> Result<Vec<Pair>, RestoreError> {
        let mut pairs = Vec::with_capacity(run.entries.len() + 1);
        for (entry, position) in run.entries.iter().zip(run.first..) {
            let shard = self.shard_of(entry.stream, run.shard)?;
            let at = self.next.get(&shard.0).copied().unwrap_or(0);
            self.next.insert(shard.0, at + 1);
            let read = self.surroundings.cursor.as_ref();
            if read.is_some_and(|read| position >= read.of(run.shard)) {
                self.unread.entry(shard.0).or_insert(at);
            }
            if !run.is_tail {
                pairs.extend(self.add_leaf(shard, at));
            }
            pairs.push(self.stored(entry, shard, at));
        }
        Ok(pairs)
    }

    /// The last segment, and the state of the tree. Call it once, after all entries.
    pub(super) fn finish(&mut self) -> Vec<Pair> {
        let mut pairs: Vec<_> =
            self.segment.take().map(|segment| self.stored_segment(segment)).into_iter().collect();
        pairs.push((keys::tree(self.workspace), stored::encode(&self.tree)));
        pairs
    }

    /// The head of a stream, where its last entry stands here.
    pub(super) fn head(&self, stream: Stream, head: aa_ledger::ChainHead) -> Bytes {
        let position = self.last.get(&stream).copied().unwrap_or(NOWHERE);
        encode_head(position, &head).into()
    }

    /// How far the log was read for events. Where the shards differ it is not always a place between entries that were
    /// read and such that were not; then some are read again, and none is left out.
    pub(super) fn cursor(&self) -> Cursor {
        let mut cursor = Cursor::default();
        for shard in 0..self.shards {
            let end = self.next.get(&shard).copied().unwrap_or(0);
            cursor.set(shard, self.unread.get(&shard).copied().unwrap_or(end));
        }
        cursor
    }

    fn shard_of(&self, stream: Stream, source: u16) -> Result<ShardId, RestoreError> {
        let workspace = self.workspace;
        Ok(match stream {
            Stream::Workspace => self.shard::<TenantActor>(&workspace),
            Stream::Policies => self.shard::<PolicySetActor>(&workspace),
            Stream::Vault => self.shard::<VaultActor>(&workspace),
            Stream::Alerts => self.shard::<NotifierActor>(&workspace),
            Stream::Agent(agent) => self.shard::<AgentActor>(&AgentKeyId { workspace, agent }),
            Stream::Approval(id) => self.shard::<ApprovalActor>(&ApprovalKey { workspace, id }),
            Stream::Budget(budget) => match self.surroundings.windows.get(&budget) {
                Some(window) => self.shard::<BudgetWindowActor>(window),
                None if self.shards == self.source_shards => ShardId(source),
                None => {
                    return Err(RestoreError::Placeless {
                        stream: stream.to_string(),
                        shards: self.shards,
                        source_shards: self.source_shards,
                    });
                }
            },
        })
    }

    fn shard<E: Entity>(&self, id: &E::Id) -> ShardId {
        ShardId::of(E::KIND, &E::shard_key(id), self.shards)
    }

    /// Counts a leaf; the segment before it, if that is done.
    fn add_leaf(&mut self, shard: ShardId, position: u64) -> Option<Pair> {
        let leaf = self.tree.size;
        self.tree.size += 1;
        self.tree.next.insert(shard.0, position + 1);
        if let Some((_, segment)) = &mut self.segment
            && segment.shard == shard.0
            && segment.first + segment.count == position
            && segment.count < MAX_SEGMENT
        {
            segment.count += 1;
            return None;
        }
        let segment = Segment { shard: shard.0, first: position, count: 1 };
        let done = self.segment.replace((leaf, segment));
        done.map(|segment| self.stored_segment(segment))
    }

    fn stored_segment(&self, (first_leaf, segment): (u64, Segment)) -> Pair {
        (keys::segment(self.workspace, first_leaf), stored::encode(&segment))
    }

    fn stored(&mut self, entry: &CheckedEntry, shard: ShardId, position: u64) -> Pair {
        let link = self.last.insert(entry.stream, position).unwrap_or(NOWHERE);
        let mut value = BytesMut::with_capacity(8 + entry.line.len());
        value.put_u64(link);
        value.put_slice(&entry.line);
        let key = [log_prefix(self.workspace, shard).as_slice(), &position.to_be_bytes()].concat();
        (key.into(), value.freeze())
    }
}
