//! Exports: the entries in the order of the Merkle tree, closed by a signed checkpoint over them.
//!
//! An export is written slice by slice, each a bounded read of the store on a blocking thread, with a turn for
//! every other export in between: however long the log and however many read it, the threads that decide
//! stay free.

use std::{io::Write, sync::Arc};

use aa_ledger::{Entry, ExportWriter, Hash, TileTree, write_cef};
use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::{Node, ShardId, journal::log_prefix};
use aa_store::{KeyRange, Order, Store};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    leaves::{Leaves, segment_of},
    turns::Queue,
};
use crate::{
    chain::decode_entry,
    governance::{Governance, GovernanceError},
    keys,
    permission::{Permit, ReadAudit},
    stored::Damaged,
    tenant::{CheckpointFailed, SegmentOf, SignedCheckpoint, with_tiles},
};

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// JSON Lines, closed by a signed checkpoint: `aasm audit verify` reads it.
    JsonLines,
    /// One ArcSight CEF line per entry, for a SIEM.
    Cef,
}

/// An export on its way out, in chunks of at most 64 KiB. It is whole only if the last chunk was followed by
/// the end of the channel and no error.
pub struct Export {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The checkpoint that closes it.
    pub checkpoint: SignedCheckpoint,
    /// Leaf index of its first entry.
    pub first: u64,
    /// The text.
    pub chunks: mpsc::Receiver<Result<Bytes, GovernanceError>>,
}

/// The longest chunk, in bytes: the connection encrypts it in one go.
const CHUNK: usize = 64 << 10;

/// What a slice gathers before another export gets its turn, in bytes.
const SLICE: usize = 256 << 10;

/// Clocks of agents on one node agree within this; segments that end earlier before `since` are left out.
const SLACK: std::time::Duration = std::time::Duration::from_secs(10);

/// What is still to be written of an export.
struct Work {
    store: Arc<dyn Store>,
    sink: Sink,
    leaves: Leaves,
}

/// What is written but not sent yet, shared with the writer that fills it.
#[derive(Clone, Default)]
struct Chunk(Arc<parking_lot::Mutex<Vec<u8>>>);

enum Sink {
    JsonLines { out: Chunk, writer: ExportWriter<Chunk> },
    Cef { out: Chunk, version: &'static str },
}

// === impl Governance ===

impl Governance {
    /// Exports everything committed so far, or, with `since`, at least everything of that time or later.
    ///
    /// # Errors
    /// No checkpoint can be made, or the store does not answer.
    pub async fn export(
        &self,
        permit: &Permit<ReadAudit>,
        format: ExportFormat,
        since: Option<Timestamp>,
        program_version: &'static str,
    ) -> Result<Export, GovernanceError> {
        let workspace = permit.workspace();
        let checkpoint = self.checkpoint(permit).await?;
        let size = checkpoint.checkpoint.size;
        let first = match since {
            Some(since) => self.first_leaf(workspace, size, since).await?,
            None => 0,
        };
        let sink = match format {
            ExportFormat::Cef => Sink::Cef { out: Chunk::default(), version: program_version },
            ExportFormat::JsonLines => self.json_lines(workspace, &checkpoint, first).await?,
        };
        let leaves = Leaves::new(workspace, first, size);
        let work = Work { store: self.services.node.store(), sink, leaves };
        let queue = self.services.log_readers.queue(workspace);
        let (sender, chunks) = mpsc::channel(4);
        let node = self.services.node.clone();
        tokio::spawn(async move {
            if let Err(error) = work.run(&node, queue, &sender).await {
                // Whoever stopped reading wants no error either.
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(Export { workspace, checkpoint, first, chunks })
    }

    async fn json_lines(
        &self,
        workspace: WorkspaceId,
        checkpoint: &SignedCheckpoint,
        first: u64,
    ) -> Result<Sink, GovernanceError> {
        let failed = |error: &dyn std::fmt::Display| CheckpointFailed(error.to_string());
        let store = self.services.node.store();
        let frontier: Vec<Hash> =
            with_tiles(&*store, workspace, |tiles| TileTree::new(tiles).frontier(first))
                .await
                .map_err(|error| failed(&error))?;
        let key = self.services.log_key(workspace).map_err(|error| failed(&error))?;
        let out = Chunk::default();
        let SignedCheckpoint { checkpoint, note } = checkpoint;
        let writer =
            ExportWriter::new(out.clone(), first, &frontier, key.verifier(), checkpoint, note)
                .map_err(|error| failed(&error))?;
        Ok(Sink::JsonLines { out, writer })
    }

    /// The first leaf of the last segment before which nothing is of `since` or later.
    async fn first_leaf(
        &self,
        workspace: WorkspaceId,
        size: u64,
        since: Timestamp,
    ) -> Result<u64, GovernanceError> {
        let start = since.saturating_sub(SLACK);
        let mut txn = self.services.node.store().begin().await?;
        let all = keys::segments(workspace);
        // Segments follow each other in time, so the boundary is found by halving.
        let (mut low, mut high) = (0, size);
        while low < high {
            let middle = low + (high - low) / 2;
            // The one that leaf stands in: the last that begins no later.
            let until = KeyRange::new(all.begin().clone(), keys::segment(workspace, middle + 1));
            let found = txn.range_snapshot(&until, 1, Order::Reverse).await?;
            let (key, value) = found.first().ok_or_else(|| Damaged::at(until.begin()))?;
            let SegmentOf { first_leaf, segment } = segment_of(workspace, key, value)?;
            let last = segment.first + segment.count - 1;
            let prefix = log_prefix(workspace, ShardId(segment.shard));
            let key = [prefix.as_slice(), &last.to_be_bytes()].concat();
            let stored = txn.get_snapshot(&key).await?.ok_or_else(|| Damaged::at(&key))?;
            let (_, line) = decode_entry(&stored).ok_or_else(|| Damaged::at(&key))?;
            let entry = Entry::parse(&line).map_err(|_| Damaged::at(&key))?;
            if entry.time < start {
                low = first_leaf + segment.count;
            } else {
                high = first_leaf;
            }
        }
        Ok(low)
    }
}

// === impl Work ===

impl Work {
    async fn run(
        self,
        node: &Node,
        queue: Queue,
        sender: &mpsc::Sender<Result<Bytes, GovernanceError>>,
    ) -> Result<(), GovernanceError> {
        let mut work = Some(self);
        while let Some(left) = work.take() {
            let Some(turn) = queue.turn().await else { return Ok(()) };
            // Reads of a log that is larger than memory wait for the disk.
            let slice = node.offload_task(left.slice());
            let (mut text, left) =
                slice.await.map_err(|error| CheckpointFailed(error.to_string()))??;
            work = left;
            // The reader may take its time: others go on meanwhile.
            drop(turn);
            while !text.is_empty() {
                let chunk = text.split_to(text.len().min(CHUNK));
                if sender.send(Ok(chunk)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Writes for one turn: the text, and what is still to be written.
    async fn slice(mut self) -> Result<(Bytes, Option<Self>), GovernanceError> {
        // A transaction per slice: a snapshot is not held for as long as a reader may take.
        let mut txn = self.store.begin().await?;
        while self.sink.gathered() < SLICE {
            let Some(run) = self.leaves.next(&mut *txn).await? else {
                return Ok((self.sink.finish()?, None));
            };
            for line in &run.lines {
                self.sink.entry(line)?;
            }
        }
        Ok((self.sink.take(), Some(self)))
    }
}

// === impl Chunk ===

impl Chunk {
    /// What has gathered; there is room for as much again.
    fn take(&self) -> Bytes {
        let mut gathered = self.0.lock();
        let room = Vec::with_capacity(gathered.capacity());
        std::mem::replace(&mut *gathered, room).into()
    }
}

impl Write for Chunk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// === impl Sink ===

impl Sink {
    fn entry(&mut self, line: &[u8]) -> Result<(), GovernanceError> {
        match self {
            Self::JsonLines { writer, .. } => {
                writer.entry(line).map_err(|error| CheckpointFailed(error.to_string()))?;
            }
            Self::Cef { out, version } => write_cef(line, version, &mut out.0.lock())
                .map_err(|error| CheckpointFailed(error.to_string()))?,
        }
        Ok(())
    }

    /// Bytes that were written and not taken.
    fn gathered(&self) -> usize {
        let (Self::JsonLines { out, .. } | Self::Cef { out, .. }) = self;
        out.0.lock().len()
    }

    fn take(&self) -> Bytes {
        let (Self::JsonLines { out, .. } | Self::Cef { out, .. }) = self;
        out.take()
    }

    fn finish(self) -> Result<Bytes, GovernanceError> {
        let out = match self {
            Self::JsonLines { writer, .. } => {
                writer.finish().map_err(|error| CheckpointFailed(error.to_string()))?
            }
            Self::Cef { out, .. } => out,
        };
        let rest = std::mem::take(&mut *out.0.lock());
        Ok(rest.into())
    }
}
