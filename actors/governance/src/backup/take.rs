//! Taking a backup of a workspace that goes on.

use std::collections::BTreeMap;

use aa_ledger::{LogKey, VerifierKeyError};
use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::{
    Node, ShardId,
    journal::{log_prefix, position},
};
use aa_store::{KeyRange, Order, Store, StoreError, Transaction};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    BackupError,
    contents::{End, Header, Payload, is_carried},
    frame::{FrameKind, FrameWriter},
    place::Place,
    spool::{Spool, Spooled},
};
use crate::{
    audit::{Leaves, Run},
    chain::decode_entry,
    governance::{Governance, GovernanceError},
    keys::{self, Space},
    permission::{BackUp, Permit},
    stored::{self, Damaged},
    tenant::{CheckpointFailed, SignedCheckpoint, TenantMessage, TreeState},
};

/// A backup on its way out, in chunks of at most 64 KiB. It is whole only if the last chunk was followed by the end of
/// the channel and no error.
pub struct Backup {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The file.
    pub chunks: mpsc::Receiver<Result<Bytes, GovernanceError>>,
}

/// A backup being taken.
struct Taking {
    governance: Governance,
    node: Node,
    workspace: WorkspaceId,
    key: LogKey,
    frames: FrameWriter<Vec<u8>>,
    sender: mpsc::Sender<Result<Bytes, GovernanceError>>,
    /// Leaves in the file.
    leaves: u64,
    _place: Place,
}

/// What a snapshot held.
struct Cut {
    spooled: Spooled,
    /// Whatever was answered before is in it.
    taken_at: Timestamp,
    leaves: u64,
    tail: u64,
    rows: BTreeMap<String, u64>,
}

/// A snapshot being read.
struct Cutting<'t> {
    txn: &'t mut dyn Transaction,
    workspace: WorkspaceId,
    spool: Spool,
    entries: u64,
    rows: u64,
}

/// Why a snapshot was not read.
enum NotCut {
    /// It did not last as long; what was read until then.
    TooOld {
        rows: u64,
        entries: u64,
        bytes: u64,
    },
    Failed(GovernanceError),
}

/// Nobody reads what is taken.
struct Unread;

/// The longest chunk, in bytes: the connection encrypts it in one go.
const CHUNK: usize = 64 << 10;

/// What a slice gathers before another reader of a log gets its turn, in bytes.
const SLICE: usize = 256 << 10;

/// Entries that may be left for the snapshot.
const NEAR: u64 = 4_096;

/// Times that the entries which came meanwhile are read before the snapshot. Whoever takes so slowly that there are
/// always more gets them from the snapshot, if that lasts.
const ROUNDS: usize = 16;

/// Times that a snapshot is tried: what was read once is read faster.
const CUTS: usize = 3;

/// Rows and entries read at a time, at first; while they are small, more.
const PAGE: usize = 128;
const LONGEST_PAGE: usize = 8_192;
const PAGE_BYTES: usize = 256 << 10;

// === impl Governance ===

impl Governance {
    /// Takes a backup of the workspace, while it goes on. That it is taken, and by whom, is in its audit log before
    /// anything leaves.
    ///
    /// # Errors
    /// Another is being taken, or the tenant does not answer.
    pub async fn back_up(
        &self,
        permit: &Permit<BackUp>,
        program_version: &'static str,
    ) -> Result<Backup, GovernanceError> {
        let workspace = permit.workspace();
        let place = self.services.backups.enter(workspace)?;
        let note = |reply| TenantMessage::NoteBackup(permit.actor(), reply);
        self.ask_tenant(workspace, note).await?;
        let unusable = |error: VerifierKeyError| CheckpointFailed(error.to_string());
        let key = self.services.log_key(workspace).map_err(unusable)?;
        let node = self.services.node.clone();
        let header = Header {
            workspace,
            shards: node.shard_count(),
            log_key: key.verifier().to_string(),
            program: program_version.to_owned(),
            begun_at: self.services.clock.now(),
        };
        let mut frames = FrameWriter::begin(Vec::new()).map_err(BackupError::from)?;
        frames.frame(FrameKind::Header, &stored::encode(&header)).map_err(BackupError::from)?;
        let (sender, chunks) = mpsc::channel(4);
        let mut taking = Taking {
            governance: self.clone(),
            node,
            workspace,
            key,
            frames,
            sender,
            leaves: 0,
            _place: place,
        };
        tokio::spawn(async move {
            if let Err(error) = taking.run().await {
                taking.fail(error).await;
            }
        });
        Ok(Backup { workspace, chunks })
    }
}

// === impl Taking ===

impl Taking {
    async fn run(&mut self) -> Result<(), GovernanceError> {
        for _ in 0..ROUNDS {
            let size = self.checkpoint().await?.checkpoint.size;
            if size.saturating_sub(self.leaves) <= NEAR {
                break;
            }
            if self.leaves_until(size).await?.is_err() {
                return Ok(());
            }
        }
        let Cut { mut spooled, taken_at, leaves, tail, rows } = self.cut().await?;
        loop {
            let mut frames = std::mem::take(&mut self.frames);
            let slice = self.node.offload_task(async move {
                let goes_on = slice_of(&mut spooled, &mut frames);
                (spooled, frames, goes_on)
            });
            let goes_on;
            (spooled, self.frames, goes_on) = slice.await.map_err(|_| BackupError::Ended)?;
            if !goes_on.map_err(BackupError::from)? {
                break;
            }
            if self.send().await.is_err() {
                return Ok(());
            }
        }
        let leaves = self.leaves + leaves;
        let mut end = End { leaves, tail, rows, taken_at, seal: String::new() };
        end.seal = self.key.sign(&end.sealed_text(self.workspace, self.frames.digest()));
        self.frames.frame(FrameKind::End, &stored::encode(&end)).map_err(BackupError::from)?;
        // The end of the channel follows, whether it is read or not.
        let _ = self.send().await;
        Ok(())
    }

    /// Says why there is no more, to who reads the file, and to who hands it on.
    async fn fail(&mut self, error: GovernanceError) {
        tracing::warn!(workspace = %self.workspace, %error, "a backup was not finished");
        let told = self.frames.frame(FrameKind::Failure, error.to_string().as_bytes());
        if told.is_ok() && self.send().await.is_ok() {
            // Whoever stopped reading wants no error either.
            let _ = self.sender.send(Err(error)).await;
        }
    }

    async fn checkpoint(&self) -> Result<SignedCheckpoint, GovernanceError> {
        Ok(self.governance.ask_tenant(self.workspace, TenantMessage::Checkpoint).await??)
    }

    /// Writes the leaves up to the tree's size `size`, slice by slice, in turns with other readers of the log.
    async fn leaves_until(&mut self, size: u64) -> Result<Result<(), Unread>, GovernanceError> {
        let queue = self.governance.services.log_readers.queue(self.workspace);
        let mut leaves = Leaves::new(self.workspace, self.leaves, size);
        while self.leaves < size {
            let Some(turn) = queue.turn().await else { return Ok(Err(Unread)) };
            let store = self.node.store();
            let mut frames = std::mem::take(&mut self.frames);
            let slice = self.node.offload_task(async move {
                let read = read_leaves(&*store, &mut leaves, &mut frames).await;
                (leaves, frames, read)
            });
            let read;
            (leaves, self.frames, read) = slice.await.map_err(|_| BackupError::Ended)?;
            self.leaves += read?;
            // The reader may take its time: others go on meanwhile.
            drop(turn);
            if self.send().await.is_err() {
                return Ok(Err(Unread));
            }
        }
        Ok(Ok(()))
    }

    /// Hands on what was written.
    async fn send(&mut self) -> Result<(), Unread> {
        let mut written = Bytes::from(std::mem::take(self.frames.out_mut()));
        while !written.is_empty() {
            let chunk = written.split_to(written.len().min(CHUNK));
            self.sender.send(Ok(chunk)).await.map_err(|_| Unread)?;
        }
        Ok(())
    }

    /// Reads everything else in one snapshot, and sets it aside.
    async fn cut(&self) -> Result<Cut, GovernanceError> {
        let (workspace, leaves) = (self.workspace, self.leaves);
        let shards = self.node.shard_count();
        let _turn = self.governance.services.backups.cut().await;
        for tries_left in (0..CUTS).rev() {
            let store = self.node.store();
            let now = self.governance.services.clock.now();
            let cutting = async move { cut(&*store, workspace, shards, leaves, now).await };
            let cutting = self.node.offload_task(cutting);
            match cutting.await.map_err(|_| BackupError::Ended)? {
                Ok(cut) => return Ok(cut),
                Err(NotCut::TooOld { .. }) if tries_left > 0 => {}
                Err(NotCut::TooOld { rows, entries, bytes }) => {
                    return Err(BackupError::TooLarge { rows, entries, bytes }.into());
                }
                Err(NotCut::Failed(error)) => return Err(error),
            }
        }
        Err(BackupError::Ended.into())
    }
}

/// Reads leaves for one turn; how many.
async fn read_leaves(
    store: &dyn Store,
    leaves: &mut Leaves,
    frames: &mut FrameWriter<Vec<u8>>,
) -> Result<u64, GovernanceError> {
    // A transaction per slice: a snapshot is not held for as long as a reader may take.
    let mut txn = store.begin().await?;
    let mut read = 0;
    while frames.out_mut().len() < SLICE {
        let Some(run) = leaves.next(&mut *txn).await? else { break };
        read += run.lines.len() as u64;
        for payload in payloads(&run) {
            frames.frame(FrameKind::Leaves, payload.bytes()).map_err(BackupError::from)?;
        }
    }
    if read == 0 {
        return Err(CheckpointFailed("the log has fewer entries than its tree".to_owned()).into());
    }
    Ok(read)
}

/// A run in payloads of bounded length.
fn payloads(Run { shard, first, lines }: &Run) -> Vec<Payload> {
    let mut payloads: Vec<Payload> = Vec::new();
    for (line, position) in lines.iter().zip(*first..) {
        match payloads.last_mut().filter(|payload| !payload.is_full()) {
            Some(payload) => payload.put(line),
            None => {
                let mut payload = Payload::run(*shard, position);
                payload.put(line);
                payloads.push(payload);
            }
        }
    }
    payloads
}

/// Copies frames for one slice; whether there may be more.
fn slice_of(spooled: &mut Spooled, frames: &mut FrameWriter<Vec<u8>>) -> std::io::Result<bool> {
    while frames.out_mut().len() < SLICE {
        let Some((kind, payload)) = spooled.next()? else { return Ok(false) };
        frames.frame(kind, &payload)?;
    }
    Ok(true)
}

async fn cut(
    store: &dyn Store,
    workspace: WorkspaceId,
    shards: u16,
    leaves: u64,
    taken_at: Timestamp,
) -> Result<Cut, NotCut> {
    let mut txn = store.begin().await.map_err(GovernanceError::from)?;
    let spool = Spool::new().map_err(BackupError::from).map_err(GovernanceError::from)?;
    let mut cutting = Cutting { txn: &mut *txn, workspace, spool, entries: 0, rows: 0 };
    match cutting.read(shards, leaves).await {
        Ok((leaves, tail, rows)) => {
            let spooled = cutting.spool.finish().map_err(BackupError::from);
            let spooled = spooled.map_err(GovernanceError::from)?;
            Ok(Cut { spooled, taken_at, leaves, tail, rows })
        }
        Err(GovernanceError::Store(StoreError::TooOld { .. })) => {
            let Cutting { spool, entries, rows, .. } = cutting;
            Err(NotCut::TooOld { rows, entries, bytes: spool.bytes() })
        }
        Err(error) => Err(error.into()),
    }
}

// === impl Cutting ===

impl Cutting<'_> {
    /// Reads the leaves from `leaves` on, the entries that are none yet, and all rows.
    async fn read(
        &mut self,
        shards: u16,
        leaves: u64,
    ) -> Result<(u64, u64, BTreeMap<String, u64>), GovernanceError> {
        let workspace = self.workspace;
        let tree: TreeState = stored::read(self.txn, &keys::tree(workspace))
            .await
            .map_err(read_error)?
            .unwrap_or_default();
        let at = keys::checkpoint(workspace);
        let note = self.txn.get_snapshot(&at).await?.ok_or_else(|| Damaged::at(&at))?;
        let signed = signed_size(&note).filter(|signed| (leaves..=tree.size).contains(signed));
        let signed = signed.ok_or_else(|| Damaged::at(&at))?;
        self.leaves(leaves, signed).await?;
        self.frame(FrameKind::Checkpoint, &note)?;
        self.leaves(signed, tree.size).await?;
        let before = self.entries;
        for shard in 0..shards {
            self.tail(ShardId(shard), tree.next.get(&shard).copied().unwrap_or(0)).await?;
        }
        let tail = self.entries - before;
        let mut rows = BTreeMap::new();
        for space in Space::ALL.iter().copied().filter(|space| is_carried(*space)) {
            let before = self.rows;
            self.space(space).await?;
            if self.rows > before {
                rows.insert(space.name().to_owned(), self.rows - before);
            }
        }
        Ok((tree.size - leaves, tail, rows))
    }

    async fn leaves(&mut self, from: u64, size: u64) -> Result<(), GovernanceError> {
        let before = self.entries;
        let mut leaves = Leaves::new(self.workspace, from, size);
        while self.entries - before < size - from {
            let run = leaves.next(self.txn).await?;
            let run = run.ok_or_else(|| Damaged::at(&keys::segment(self.workspace, from)))?;
            self.run(FrameKind::Leaves, &run)?;
        }
        Ok(())
    }

    /// The entries of a shard's log from a position on.
    async fn tail(&mut self, shard: ShardId, from: u64) -> Result<(), GovernanceError> {
        let prefix = log_prefix(self.workspace, shard);
        let begin = Bytes::from([prefix.as_slice(), &from.to_be_bytes()].concat());
        let mut range = KeyRange::new(begin, KeyRange::prefix(&prefix).end().clone());
        let mut first = from;
        loop {
            let page = self.txn.range_snapshot(&range, PAGE, Order::Forward).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            range = range.after(last);
            let mut lines = Vec::with_capacity(page.len());
            for ((key, value), at) in page.iter().zip(first..) {
                let line = decode_entry(value).filter(|_| position(key) == Some(at));
                lines.push(line.ok_or_else(|| Damaged::at(key))?.1);
            }
            let read = lines.len() as u64;
            self.run(FrameKind::Tail, &Run { shard: shard.0, first, lines })?;
            first += read;
        }
    }

    fn run(&mut self, kind: FrameKind, run: &Run) -> Result<(), GovernanceError> {
        self.entries += run.lines.len() as u64;
        payloads(run).iter().try_for_each(|payload| self.frame(kind, payload.bytes()))
    }

    async fn space(&mut self, space: Space) -> Result<(), GovernanceError> {
        let prefix = space.prefix(self.workspace);
        let mut range = space.rows(self.workspace);
        let mut limit = PAGE;
        let mut payload: Option<Payload> = None;
        loop {
            let page = self.txn.range_snapshot(&range, limit, Order::Forward).await?;
            let Some((last, _)) = page.last() else { break };
            range = range.after(last);
            let mut bytes = 0;
            for (key, value) in &page {
                let rows = payload.get_or_insert_with(|| Payload::rows(space));
                // The range has keys with this prefix only.
                rows.put(&key[prefix.len()..]);
                rows.put(value);
                bytes += key.len() + value.len();
                if let Some(full) = payload.take_if(|payload| payload.is_full()) {
                    self.frame(FrameKind::Rows, full.bytes())?;
                }
            }
            self.rows += page.len() as u64;
            if bytes < PAGE_BYTES {
                limit = (2 * limit).min(LONGEST_PAGE);
            }
        }
        match payload {
            Some(rest) => self.frame(FrameKind::Rows, rest.bytes()),
            None => Ok(()),
        }
    }

    fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), GovernanceError> {
        Ok(self.spool.frame(kind, payload).map_err(BackupError::from)?)
    }
}

/// The size that a checkpoint's note states, whoever signed it.
fn signed_size(note: &[u8]) -> Option<u64> {
    std::str::from_utf8(note).ok()?.lines().nth(1)?.parse().ok()
}

fn read_error(error: stored::ReadError) -> GovernanceError {
    match error {
        stored::ReadError::Store(error) => error.into(),
        stored::ReadError::Damaged(error) => error.into(),
    }
}

// === impl NotCut ===

impl From<GovernanceError> for NotCut {
    fn from(error: GovernanceError) -> Self {
        Self::Failed(error)
    }
}
