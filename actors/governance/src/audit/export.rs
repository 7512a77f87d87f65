//! Exports: the entries in the order of the Merkle tree, closed by a signed checkpoint over them.

use std::io::Write;

use aa_ledger::{Entry, ExportWriter, Hash, TileTree, write_cef};
use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::{ShardId, journal::log_prefix};
use aa_store::{KeyRange, Order, Transaction};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    chain::decode_entry,
    governance::{Governance, GovernanceError},
    keys,
    permission::{Permit, ReadAudit},
    stored::{self, Damaged},
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

/// An export on its way out, in chunks of about 64 KiB. It is whole only if the last chunk was followed by
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

/// What is gathered before it is sent.
const CHUNK: usize = 64 << 10;

/// Entries read from the store at a time.
const READ: usize = 512;

/// Clocks of agents on one node agree within this; segments that end earlier before `since` are left out.
const SLACK: std::time::Duration = std::time::Duration::from_secs(10);

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
        let segments = self.segments(workspace).await?;
        let first = match since {
            Some(since) => self.first_leaf(workspace, &segments, since).await?,
            None => 0,
        };
        let store = self.services.node.store();
        let frontier = with_tiles(&*store, workspace, |tiles| TileTree::new(tiles).frontier(first))
            .await
            .map_err(|error| CheckpointFailed(error.to_string()))?;
        let (sender, chunks) = mpsc::channel(4);
        let task = ExportTask {
            governance: self.clone(),
            workspace,
            format,
            checkpoint: checkpoint.clone(),
            first,
            frontier,
            segments,
            program_version,
            sender,
        };
        tokio::spawn(task.run());
        Ok(Export { workspace, checkpoint, first, chunks })
    }

    async fn segments(&self, workspace: WorkspaceId) -> Result<Vec<SegmentOf>, GovernanceError> {
        let mut txn = self.services.node.store().begin().await?;
        let mut range = keys::segments(workspace);
        let space = keys::segments_of(workspace);
        let mut segments = Vec::new();
        loop {
            let page = txn.range_snapshot(&range, READ, Order::Forward).await?;
            let Some((last, _)) = page.last() else { return Ok(segments) };
            let rest = range.clone().after(last);
            for (key, value) in &page {
                let first_leaf = space
                    .unpack(key)
                    .ok()
                    .and_then(|mut parts| parts.u64().ok())
                    .ok_or_else(|| Damaged::at(key))?;
                segments.push(SegmentOf { first_leaf, segment: stored::decode(key, value)? });
            }
            range = rest;
        }
    }

    /// The first leaf of the last segment before which nothing is of `since` or later.
    async fn first_leaf(
        &self,
        workspace: WorkspaceId,
        segments: &[SegmentOf],
        since: Timestamp,
    ) -> Result<u64, GovernanceError> {
        let start = since.saturating_sub(SLACK);
        let mut txn = self.services.node.store().begin().await?;
        // Segments follow each other in time, so the boundary is found by halving.
        let (mut low, mut high) = (0, segments.len());
        while low < high {
            let middle = (low + high) / 2;
            let segment = &segments[middle].segment;
            let last = segment.first + segment.count - 1;
            let prefix = log_prefix(workspace, ShardId(segment.shard));
            let key = [prefix.as_slice(), &last.to_be_bytes()].concat();
            let stored = txn.get_snapshot(&key).await?.ok_or_else(|| Damaged::at(&key))?;
            let (_, line) = decode_entry(&stored).ok_or_else(|| Damaged::at(&key))?;
            let entry = Entry::parse(&line).map_err(|_| Damaged::at(&key))?;
            if entry.time < start {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let end = segments.last().map_or(0, |last| last.first_leaf + last.segment.count);
        Ok(segments.get(low).map_or(end, |segment| segment.first_leaf))
    }
}

struct ExportTask {
    governance: Governance,
    workspace: WorkspaceId,
    format: ExportFormat,
    checkpoint: SignedCheckpoint,
    first: u64,
    frontier: Vec<Hash>,
    segments: Vec<SegmentOf>,
    program_version: &'static str,
    sender: mpsc::Sender<Result<Bytes, GovernanceError>>,
}

// === impl ExportTask ===

impl ExportTask {
    async fn run(self) {
        let sender = self.sender.clone();
        if let Err(error) = self.write().await {
            // Whoever stopped reading wants no error either.
            let _ = sender.send(Err(error)).await;
        }
    }

    async fn write(self) -> Result<(), GovernanceError> {
        let closing = self.checkpoint.checkpoint;
        let mut sink = match self.format {
            ExportFormat::Cef => Sink::Cef { out: Chunk::default(), version: self.program_version },
            ExportFormat::JsonLines => {
                let key = self
                    .governance
                    .services
                    .log_key(self.workspace)
                    .map_err(|error| CheckpointFailed(error.to_string()))?;
                let chunk = Chunk::default();
                let writer = ExportWriter::new(
                    chunk.clone(),
                    self.first,
                    &self.frontier,
                    key.verifier(),
                    &closing,
                    &self.checkpoint.note,
                );
                let writer = writer.map_err(|error| CheckpointFailed(error.to_string()))?;
                Sink::JsonLines { out: chunk, writer }
            }
        };
        for SegmentOf { first_leaf, segment } in &self.segments {
            if first_leaf + segment.count <= self.first || *first_leaf >= closing.size {
                continue;
            }
            let count = segment.count.min(closing.size - first_leaf);
            let mut next = segment.first;
            let end = segment.first + count;
            while next < end {
                // A transaction per page: a snapshot is not held for as long as a reader may take.
                let mut txn = self.governance.services.node.store().begin().await?;
                let lines = self.read(&mut *txn, segment.shard, next, end).await?;
                next += lines.len() as u64;
                for line in &lines {
                    sink.entry(line)?;
                }
                drop(txn);
                if !self.send(sink.take(CHUNK)).await {
                    return Ok(());
                }
            }
        }
        let rest = sink.finish()?;
        self.send(Some(rest)).await;
        Ok(())
    }

    async fn read(
        &self,
        txn: &mut dyn Transaction,
        shard: u16,
        from: u64,
        end: u64,
    ) -> Result<Vec<Bytes>, GovernanceError> {
        let prefix = log_prefix(self.workspace, ShardId(shard));
        let at = |position: u64| Bytes::from([prefix.as_slice(), &position.to_be_bytes()].concat());
        let range = KeyRange::new(at(from), at(end));
        let entries = txn.range_snapshot(&range, READ, Order::Forward).await?;
        if entries.is_empty() {
            return Err(Damaged::at(&at(from)).into());
        }
        let mut lines = Vec::with_capacity(entries.len());
        for (key, stored) in entries {
            let (_, line) = decode_entry(&stored).ok_or_else(|| Damaged::at(&key))?;
            lines.push(line);
        }
        Ok(lines)
    }

    /// Whether there is still somebody reading.
    async fn send(&self, chunk: Option<Bytes>) -> bool {
        match chunk {
            Some(chunk) => self.sender.send(Ok(chunk)).await.is_ok(),
            None => !self.sender.is_closed(),
        }
    }
}

/// What is written but not sent yet, shared with the writer that fills it.
#[derive(Clone, Default)]
struct Chunk(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

impl Write for Chunk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Sink {
    JsonLines { out: Chunk, writer: ExportWriter<Chunk> },
    Cef { out: Chunk, version: &'static str },
}

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

    /// What has gathered, once it is at least `enough`.
    fn take(&mut self, enough: usize) -> Option<Bytes> {
        let (Self::JsonLines { out, .. } | Self::Cef { out, .. }) = self;
        let mut gathered = out.0.lock();
        (gathered.len() >= enough).then(|| std::mem::take(&mut *gathered).into())
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
