//! The store that a workspace is restored into: marked while that lasts, and one restore's alone.

use std::time::Duration;

use aa_protocol::WorkspaceId;
use aa_runtime::Entropy;
use aa_store::{CommitError, KeyRange, Order, Store, StoreError, Transaction};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RestoreError;
use crate::{
    keys::{self, Space},
    stored,
};

/// A store, and what was written to it.
pub(super) struct Target<'s> {
    store: &'s dyn Store,
    workspace: WorkspaceId,
    mark: Bytes,
    batch: Vec<(Bytes, Bytes)>,
    batch_bytes: usize,
    written: Tally,
}

/// Pairs, in whatever order they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) pairs: u64,
    pub(super) bytes: u64,
    /// The digests of all pairs, one over the other.
    sum: [u8; 32],
}

/// Says whose restore it is.
#[derive(Serialize, Deserialize)]
struct Mark {
    restore: uuid::Uuid,
    /// Of the file.
    sha256: String,
}

/// How a try to commit went.
enum Tried {
    Done,
    /// It is not known to be done; it can be tried again.
    Again(CommitError),
}

/// Bytes written in one transaction, about.
const WRITE_BYTES: usize = 500_000;

/// Pairs read, or removed, at a time.
const PAGE: usize = 256;

/// Times that a step is tried: with the waits between them, over half a minute.
const ATTEMPTS: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

// === impl Target ===

impl<'s> Target<'s> {
    /// Marks the store, and clears away what an interrupted restore left there; how many pairs that were.
    pub(super) async fn begin(
        store: &'s dyn Store,
        workspace: WorkspaceId,
        entropy: &dyn Entropy,
        sha256: &str,
    ) -> Result<(Self, u64), RestoreError> {
        let target = Self::new(store, workspace, entropy, sha256);
        target.check_free().await?;
        target.claim().await?;
        let cleared = target.clear().await?;
        Ok((target, cleared))
    }

    pub(super) async fn undo(
        store: &'s dyn Store,
        workspace: WorkspaceId,
        entropy: &dyn Entropy,
    ) -> Result<u64, RestoreError> {
        let mut txn = store.begin().await?;
        if txn.get_snapshot(&keys::restoring(workspace)).await?.is_none() {
            return Err(RestoreError::NothingToUndo(workspace));
        }
        let target = Self::new(store, workspace, entropy, "");
        target.claim().await?;
        let cleared = target.clear().await?;
        target.remove_mark().await?;
        Ok(cleared)
    }

    fn new(
        store: &'s dyn Store,
        workspace: WorkspaceId,
        entropy: &dyn Entropy,
        sha256: &str,
    ) -> Self {
        let mark = Mark { restore: entropy.uuid(), sha256: sha256.to_owned() };
        let mark = stored::encode(&mark);
        let (batch, written) = (Vec::new(), Tally::default());
        Self { store, workspace, mark, batch, batch_bytes: 0, written }
    }

    /// What was put so far.
    pub(super) const fn written(&self) -> Tally {
        self.written
    }

    /// Writes a pair, sooner or later. Every key once.
    pub(super) async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), RestoreError> {
        self.written.add(&key, &value);
        self.batch_bytes += key.len() + value.len();
        self.batch.push((key, value));
        if self.batch_bytes >= WRITE_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Writes what was put.
    pub(super) async fn flush(&mut self) -> Result<(), RestoreError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let mut wait = Wait::default();
        loop {
            let error = match self.try_write(&batch).await? {
                Tried::Done => return Ok(()),
                Tried::Again(error) => error,
            };
            wait.again(error).await?;
        }
    }

    /// Compares everything of the workspace with what was written.
    pub(super) async fn read_back(
        &self,
        mut progress: impl FnMut(u64),
    ) -> Result<(), RestoreError> {
        let mut found = Tally::default();
        for mut rest in self.ranges() {
            loop {
                let page = self.page(&rest).await?;
                let Some((last, _)) = page.last() else { break };
                rest = rest.after(last);
                page.iter().for_each(|(key, value)| found.add(key, value));
                progress(found.pairs);
            }
        }
        let written = self.written;
        if found != written {
            let (written, found) = (written.pairs, found.pairs);
            return Err(RestoreError::Differs { written, found });
        }
        Ok(())
    }

    /// Writes the last pairs and removes the mark, in one transaction, which makes `home` the deployment's home, unless it
    /// has another by now. Of `api_keys` none may be there yet.
    pub(super) async fn show(
        &self,
        pairs: &[(Bytes, Bytes)],
        api_keys: &[(Bytes, String)],
        home: WorkspaceId,
    ) -> Result<(), RestoreError> {
        let mut wait = Wait::default();
        let mut is_unknown = false;
        loop {
            let error = match self.try_show(pairs, api_keys, home, is_unknown).await? {
                Tried::Done => return Ok(()),
                Tried::Again(error) => error,
            };
            is_unknown |= matches!(error, CommitError::UnknownResult(_));
            wait.again(error).await?;
        }
    }

    async fn try_show(
        &self,
        pairs: &[(Bytes, Bytes)],
        api_keys: &[(Bytes, String)],
        home: WorkspaceId,
        is_unknown: bool,
    ) -> Result<Tried, RestoreError> {
        let mut txn = self.store.begin().await?;
        let found = txn.get(&keys::restoring(self.workspace)).await?;
        if found.is_none() && is_unknown {
            // Only this restore removes its own mark: an earlier try was applied.
            return Ok(Tried::Done);
        }
        self.check_mark(found.as_ref())?;
        for (key, id) in api_keys {
            if txn.get(key).await?.is_some() {
                return Err(RestoreError::KeyTaken(id.clone()));
            }
        }
        let at = keys::home();
        match txn.get(&at).await? {
            Some(stored) => {
                let known: WorkspaceId = stored::decode(&at, &stored)?;
                // Somebody has started a control plane meanwhile.
                if known != home && home == self.workspace {
                    return Err(RestoreError::OtherHome(known));
                }
            }
            None => txn.put(at, stored::encode(&home)),
        }
        for (key, value) in pairs {
            txn.put(key.clone(), value.clone());
        }
        txn.delete(keys::restoring(self.workspace));
        Ok(tried(txn).await)
    }

    async fn try_write(&self, batch: &[(Bytes, Bytes)]) -> Result<Tried, RestoreError> {
        let mut txn = match self.begin_marked().await {
            Err(RestoreError::Store(error)) => return Ok(Tried::Again(error.into())),
            begun => begun?,
        };
        for (key, value) in batch {
            txn.put(key.clone(), value.clone());
        }
        Ok(tried(txn).await)
    }

    /// A transaction that commits only while the mark is this restore's.
    async fn begin_marked(&self) -> Result<Box<dyn Transaction>, RestoreError> {
        let mut txn = self.store.begin().await?;
        let found = txn.get(&keys::restoring(self.workspace)).await?;
        self.check_mark(found.as_ref())?;
        Ok(txn)
    }

    fn check_mark(&self, found: Option<&Bytes>) -> Result<(), RestoreError> {
        if found == Some(&self.mark) {
            return Ok(());
        }
        Err(RestoreError::Overtaken(self.workspace))
    }

    /// Makes sure that whatever there is of the workspace was left by a restore.
    async fn check_free(&self) -> Result<(), RestoreError> {
        let mut txn = self.store.begin().await?;
        if txn.get_snapshot(&keys::workspace(self.workspace)).await?.is_some() {
            return Err(RestoreError::Exists(self.workspace));
        }
        if txn.get_snapshot(&keys::restoring(self.workspace)).await?.is_some() {
            return Ok(());
        }
        for range in self.ranges() {
            if !self.page(&range).await?.is_empty() {
                return Err(RestoreError::Remains(self.workspace));
            }
        }
        Ok(())
    }

    /// Sets the mark, unless the workspace is there.
    async fn claim(&self) -> Result<(), RestoreError> {
        let mut wait = Wait::default();
        loop {
            let mut txn = self.store.begin().await?;
            if txn.get(&keys::workspace(self.workspace)).await?.is_some() {
                return Err(RestoreError::Exists(self.workspace));
            }
            let found = txn.get(&keys::restoring(self.workspace)).await?;
            if found.as_ref() == Some(&self.mark) {
                // A try whose result was unknown.
                return Ok(());
            }
            txn.put(keys::restoring(self.workspace), self.mark.clone());
            match tried(txn).await {
                Tried::Done => return Ok(()),
                Tried::Again(error) => wait.again(error).await?,
            }
        }
    }

    async fn remove_mark(&self) -> Result<(), RestoreError> {
        let mut wait = Wait::default();
        loop {
            let mut txn = self.store.begin().await?;
            let found = txn.get(&keys::restoring(self.workspace)).await?;
            if found.as_ref() != Some(&self.mark) {
                return Ok(());
            }
            txn.delete(keys::restoring(self.workspace));
            match tried(txn).await {
                Tried::Done => return Ok(()),
                Tried::Again(error) => wait.again(error).await?,
            }
        }
    }

    /// Removes all there is of the workspace; how many pairs.
    async fn clear(&self) -> Result<u64, RestoreError> {
        let mut cleared = 0;
        for range in self.ranges() {
            let mut wait = Wait::default();
            loop {
                let mut txn = self.begin_marked().await?;
                let page = txn.range_snapshot(&range, PAGE, Order::Forward).await?;
                if page.is_empty() {
                    break;
                }
                for (key, _) in &page {
                    txn.delete(key.clone());
                }
                match tried(txn).await {
                    Tried::Done => cleared += page.len() as u64,
                    Tried::Again(error) => wait.again(error).await?,
                }
            }
        }
        Ok(cleared)
    }

    /// Where anything of the workspace can be, but for its API keys' digests.
    fn ranges(&self) -> impl Iterator<Item = KeyRange> + '_ {
        let rows = Space::ALL.iter().map(|space| space.rows(self.workspace));
        [keys::entries(self.workspace)].into_iter().chain(rows)
    }

    async fn page(&self, range: &KeyRange) -> Result<Vec<(Bytes, Bytes)>, RestoreError> {
        let mut wait = Wait::default();
        loop {
            match try_page(self.store, range).await {
                Ok(page) => return Ok(page),
                Err(error) => wait.again(error.into()).await?,
            }
        }
    }
}

async fn try_page(store: &dyn Store, range: &KeyRange) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    store.begin().await?.range_snapshot(range, PAGE, Order::Forward).await
}

async fn tried(txn: Box<dyn Transaction>) -> Tried {
    txn.commit().await.map_or_else(Tried::Again, |_| Tried::Done)
}

/// The waits between the tries of one step.
#[derive(Default)]
struct Wait {
    tries: u32,
}

// === impl Wait ===

impl Wait {
    /// Waits before another try.
    ///
    /// # Errors
    /// The error of the last one, if it does not pass by itself or there were enough.
    async fn again(&mut self, error: CommitError) -> Result<(), CommitError> {
        self.tries += 1;
        let may_pass = match &error {
            CommitError::UnknownResult(cause) => cause.is_retryable(),
            other => other.is_retryable(),
        };
        if !may_pass || self.tries >= ATTEMPTS {
            return Err(error);
        }
        let wait = FIRST_WAIT.saturating_mul(1 << self.tries).min(LONGEST_WAIT);
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.pairs += 1;
        self.bytes += (key.len() + value.len()) as u64;
        let mut digest = Sha256::new();
        // The limits of keys are far below 4 GiB.
        digest.update((key.len() as u32).to_be_bytes());
        digest.update(key);
        digest.update(value);
        let digest: [u8; 32] = digest.finalize().into();
        self.sum.iter_mut().zip(digest).for_each(|(sum, byte)| *sum ^= byte);
    }
}
