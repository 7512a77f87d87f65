//! Restoring a backup into a store that nothing serves the workspace from.
//!
//! The file is verified before anything is written. Then a mark is set, everything is written but the workspace's own
//! record and its API keys, and read back; these come last, in the transaction that removes the mark. Until then nobody
//! can name the workspace, and nothing starts an actor of it. What was interrupted is cleared away by the next restore,
//! or by [`undo`].

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Seek},
    path::{Path, PathBuf},
};

use aa_ledger::{Keys, Tile, TileId, tiles::TILE_WIDTH};
use aa_protocol::WorkspaceId;
use aa_runtime::{Entropy, layout};
use aa_store::{Order, Store, copy::check_complete};
use bytes::Bytes;

use super::{
    Contents, FileError, RestoreError,
    examine::{CheckedRun, Examination, Part},
    laying::{Laying, Surroundings},
    target::Target,
};
use crate::{
    api_key::KeyRecord,
    keys::{self, Space},
    stored,
    tenant::{RestoredFrom, WorkspaceRecord},
};

/// How far a restore is.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Left by an interrupted restore: so many pairs were removed.
    Cleared(u64),
    /// So many pairs are written.
    Written(u64),
    /// So many pairs were read back.
    ReadBack(u64),
}

/// A file that was verified, and is open.
#[derive(Debug)]
pub struct VerifiedFile {
    path: PathBuf,
    file: File,
    contents: Contents,
    surroundings: Surroundings,
}

/// What a workspace is to the deployment of a store that has no other yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its home: the workspace's owners run the deployment.
    Home,
    /// One of those that it serves: its home is another workspace, which the first start makes.
    Tenant,
}

/// A workspace that was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the file held.
    pub contents: Contents,
    /// How many shards it was laid out in.
    pub shards: u16,
    /// Whether it is the deployment's home.
    pub is_home: bool,
    /// Pairs in the store.
    pub pairs: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// What comes with the last transaction.
#[derive(Default)]
struct Last {
    pairs: Vec<(Bytes, Bytes)>,
    /// Pairs that must not be in the store before, with the ids of their API keys.
    api_keys: Vec<(Bytes, String)>,
}

/// A file being written to a store.
struct Restoring<'s> {
    target: Target<'s>,
    workspace: WorkspaceId,
    laying: Laying,
    /// Tiles that may still widen.
    partial: BTreeMap<TileId, Bytes>,
    last: Last,
    has_finished_log: bool,
}

/// Pairs that are written before somebody is told.
const TELL_EVERY: u64 = 4_096;

/// Bytes read of a file at a time.
const BUFFER: usize = 256 << 10;

/// Restores the workspace in a file into `store`, which is laid out in `new_shards` if it is new. No control plane may
/// serve the workspace from it meanwhile. Of a store without a workspace it has to be said what this one is to be: it is
/// not for a file to decide who runs the deployment.
///
/// # Errors
/// See [`RestoreError`].
pub async fn restore(
    verified: VerifiedFile,
    store: &dyn Store,
    new_shards: u16,
    standing: Option<Standing>,
    entropy: &dyn Entropy,
    mut progress: impl FnMut(Phase),
) -> Result<Restored, RestoreError> {
    let VerifiedFile { path, mut file, contents, surroundings } = verified;
    check_complete(store).await??;
    let workspace = contents.workspace;
    let home = home_of(store, workspace, standing, entropy).await?;
    let shards = layout(store, new_shards).await?;
    let (target, cleared) = Target::begin(store, workspace, entropy, &contents.sha256).await?;
    if cleared > 0 {
        progress(Phase::Cleared(cleared));
    }
    let laying = Laying::new(workspace, contents.shards, shards, surroundings);
    let mut restoring = Restoring {
        target,
        workspace,
        laying,
        partial: BTreeMap::new(),
        last: Last::default(),
        has_finished_log: false,
    };
    file.rewind().map_err(FileError::from)?;
    let mut examination = Examination::begin(BufReader::with_capacity(BUFFER, &file), None, None)?;
    let mut told = 0;
    let again = loop {
        match examination.next()? {
            Part::End(contents) => break contents,
            part => restoring.take(part).await?,
        }
        if restoring.target.written().pairs >= told + TELL_EVERY {
            told = restoring.target.written().pairs;
            progress(Phase::Written(told));
        }
    };
    if again.sha256 != contents.sha256 {
        return Err(RestoreError::Changed(path));
    }
    let from = RestoredFrom { sha256: contents.sha256.clone(), taken_at: contents.taken_at };
    let (pairs, bytes) = restoring.finish(&from, home, &mut progress).await?;
    Ok(Restored { contents, shards, is_home: home == workspace, pairs, bytes })
}

/// The workspace that is the home of the store's deployment, or is to be.
async fn home_of(
    store: &dyn Store,
    workspace: WorkspaceId,
    standing: Option<Standing>,
    entropy: &dyn Entropy,
) -> Result<WorkspaceId, RestoreError> {
    let mut txn = store.begin().await?;
    if txn.get_snapshot(&keys::workspace(workspace)).await?.is_some() {
        return Err(RestoreError::Exists(workspace));
    }
    let at = keys::home();
    let home = txn.get_snapshot(&at).await?;
    let known = match home.map(|stored| stored::decode(&at, &stored)).transpose()? {
        Some(home) => Some(home),
        // As a start would have it, of a store of a version that had no home.
        None => {
            let first = txn.range_snapshot(&keys::workspaces(), 1, Order::Forward).await?;
            let record = first.first().map(|(key, value)| stored::decode(key, value));
            record.transpose()?.map(|record: WorkspaceRecord| record.id)
        }
    };
    match (known, standing) {
        (Some(home), Some(Standing::Home)) if home != workspace => {
            Err(RestoreError::OtherHome(home))
        }
        (Some(home), _) => Ok(home),
        (None, Some(Standing::Home)) => Ok(workspace),
        (None, Some(Standing::Tenant)) => Ok(WorkspaceId::from_uuid(entropy.uuid())),
        (None, None) => Err(RestoreError::NoHome(workspace)),
    }
}

/// Removes what an interrupted restore of the workspace left in `store`; how many pairs there were.
///
/// # Errors
/// There is nothing, or the store does not answer.
pub async fn undo(
    workspace: WorkspaceId,
    store: &dyn Store,
    entropy: &dyn Entropy,
) -> Result<u64, RestoreError> {
    Target::undo(store, workspace, entropy).await
}

// === impl VerifiedFile ===

impl VerifiedFile {
    /// Verifies the file at `path` as [`super::verify`] does.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn open(path: &Path, keys: Option<&Keys>) -> Result<Self, FileError> {
        let file = File::open(path)?;
        let reader = BufReader::with_capacity(BUFFER, &file);
        let mut examination = Examination::begin(reader, keys, None)?;
        let mut surroundings = Surroundings::default();
        let contents = loop {
            match examination.next()? {
                Part::End(contents) => break *contents,
                // What the last rows say, the first entry needs.
                Part::Rows(space, rows) => surroundings.note(examination.workspace(), space, &rows),
                Part::Run(_) | Part::Checkpoint(_) => {}
            }
        };
        Ok(Self { path: path.to_owned(), file, contents, surroundings })
    }

    /// What it holds.
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }
}

// === impl Restoring ===

impl Restoring<'_> {
    async fn take(&mut self, part: Part) -> Result<(), RestoreError> {
        match part {
            Part::Run(run) => self.run(&run).await,
            Part::Checkpoint(note) => {
                self.target.put(keys::checkpoint(self.workspace), note.into()).await
            }
            Part::Rows(space, rows) => {
                self.finish_log().await?;
                for (key, value) in rows {
                    self.row(space, &key, value).await?;
                }
                Ok(())
            }
            Part::End(_) => Ok(()),
        }
    }

    async fn run(&mut self, run: &CheckedRun) -> Result<(), RestoreError> {
        for (key, value) in self.laying.place(run)? {
            self.target.put(key, value).await?;
        }
        for tile in &run.tiles {
            self.tile(tile).await?;
        }
        Ok(())
    }

    /// A full tile never changes again.
    async fn tile(&mut self, tile: &Tile) -> Result<(), RestoreError> {
        let bytes = Bytes::copy_from_slice(&tile.bytes);
        if tile.bytes.len() < TILE_WIDTH as usize * 32 {
            self.partial.insert(tile.id, bytes);
            return Ok(());
        }
        self.partial.remove(&tile.id);
        self.target.put(keys::tile(self.workspace, tile.id.level, tile.id.index), bytes).await
    }

    async fn finish_log(&mut self) -> Result<(), RestoreError> {
        if std::mem::replace(&mut self.has_finished_log, true) {
            return Ok(());
        }
        for (key, value) in self.laying.finish() {
            self.target.put(key, value).await?;
        }
        for (TileId { level, index }, bytes) in std::mem::take(&mut self.partial) {
            self.target.put(keys::tile(self.workspace, level, index), bytes).await?;
        }
        Ok(())
    }

    async fn row(&mut self, space: Space, key: &[u8], value: Bytes) -> Result<(), RestoreError> {
        let key = Bytes::from([&space.prefix(self.workspace)[..], key].concat());
        match space {
            Space::Workspace => {
                self.last.pairs.push((key, value));
                return Ok(());
            }
            Space::ApiKeyId => {
                let record: KeyRecord = stored::decode(&key, &value)?;
                // A revoked one opens nothing, whether it is found or not.
                if let (None, Some(digest)) = (record.revoked_at, record.digest_bytes()) {
                    let by_digest = keys::api_key(&digest);
                    self.last.pairs.push((by_digest.clone(), value.clone()));
                    self.last.api_keys.push((by_digest, record.id));
                }
            }
            Space::Head => {
                let damaged = || stored::Damaged::at(&key);
                let stream = keys::head_stream(self.workspace, &key).ok_or_else(damaged)?;
                let (_, head) = crate::chain::decode_head(&value).ok_or_else(damaged)?;
                let value = self.laying.head(stream, head);
                return self.target.put(key, value).await;
            }
            Space::AlertCursor => {
                return self.target.put(key, stored::encode(&self.laying.cursor())).await;
            }
            _ => {}
        }
        self.target.put(key, value).await
    }

    /// Reads everything back, and lets the workspace be seen.
    async fn finish(
        mut self,
        from: &RestoredFrom,
        home: WorkspaceId,
        progress: &mut impl FnMut(Phase),
    ) -> Result<(u64, u64), RestoreError> {
        self.target.flush().await?;
        let written = self.target.written();
        self.target.read_back(|pairs| progress(Phase::ReadBack(pairs))).await?;
        let Last { mut pairs, api_keys } = self.last;
        pairs.push((keys::restored(self.workspace), stored::encode(from)));
        let bytes = pairs.iter().map(|(key, value)| (key.len() + value.len()) as u64);
        let whole = (written.pairs + pairs.len() as u64, written.bytes + bytes.sum::<u64>());
        self.target.show(&pairs, &api_keys, home).await?;
        Ok(whole)
    }
}
