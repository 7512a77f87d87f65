//! Copying all of one store into another, verified: to move a deployment between kinds of stores.
//!
//! The target bears a mark from the first write until all of it was read back and found equal. A store
//! with the mark is not to be served from: see [`check_complete`].

use std::{fmt, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{CommitError, KeyRange, Order, Store, StoreError, Subspace, Transaction, Version};

/// What a copy has done, or is about to have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So much is in the target.
    Copied(Volume),
    /// So much of the source was read again.
    VerifiedSource(Volume),
    /// So much of the target was read back.
    VerifiedTarget(Volume),
}

/// An amount of pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// How many.
    pub pairs: u64,
    /// Of keys and values.
    pub bytes: u64,
}

/// A copy that was found equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// All pairs.
    pub volume: Volume,
    /// SHA-256 over all pairs in the order of their keys: for each the length of the key (4, big-endian),
    /// the key, the length of the value (4), the value.
    pub digest: [u8; 32],
}

/// A copy that was not made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The target has pairs of its own.
    #[error("the target is not empty; name an empty or new one, nothing is merged")]
    NotEmpty,
    /// The target has what an earlier copy left.
    #[error("the target holds a copy that was interrupted; remove it, then copy again")]
    Interrupted,
    /// The source is such a target.
    #[error("the source holds a copy that was interrupted; copy from the store it was made from")]
    IncompleteSource,
    /// The target counts its commits from below the source's, so keys that it stamps would come before
    /// copied ones.
    #[error(
        "the target's versions are at {target}, behind the source's at {source_version}: what is recorded from now on would sort before what is copied; of a FoundationDB cluster that is to be the target, run `fdbcli --exec 'advanceversion {source_version}'` and copy again"
    )]
    Behind {
        /// Of the source.
        source_version: Version,
        /// Of the target.
        target: Version,
    },
    /// What was read back differs.
    #[error(
        "the copy differs from the source ({copied} copied, {source_volume} in the source, {target} in the target): something wrote to one of them meanwhile; stop all that uses them, remove the target and copy again"
    )]
    Differs {
        /// What was copied.
        copied: Volume,
        /// What the source has.
        source_volume: Volume,
        /// What the target has.
        target: Volume,
    },
    /// The source cannot be read.
    #[error("the source cannot be read: {0}")]
    Source(#[source] StoreError),
    /// The target cannot be read.
    #[error("the target cannot be read: {0}")]
    Target(#[source] StoreError),
    /// The target cannot be written.
    #[error("the target cannot be written: {0}")]
    Write(#[from] CommitError),
}

/// A store that holds a copy that was not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store holds a copy that was interrupted or is still being made; remove it and run `aasm store copy` again"
)]
pub struct IncompleteCopy;

/// Pairs read at once: with the largest values, some ten megabytes.
const MAX_PAGE_PAIRS: usize = 128;
/// Bytes written at once, about.
const WRITE_BYTES: usize = 500_000;
/// Times that a step is tried: with the waits between them, over half a minute.
const ATTEMPTS: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// Set in a target until the copy is found equal.
fn mark() -> Bytes {
    Subspace::root().key("store_copy_in_progress")
}

/// Copies everything from `source` to `target`, which must be empty, and reads both again to compare. Nothing
/// else may use either. `source_version` is a version of the source, read after its last writer has stopped
/// ([`version()`]); a cluster's goes on by itself. Tells `progress` after each page.
///
/// # Errors
/// See [`CopyError`]. What was written until then stays, with the mark of an incomplete copy.
pub async fn copy(
    source: &dyn Store,
    source_version: Version,
    target: &dyn Store,
    mut progress: impl FnMut(Progress),
) -> Result<Report, CopyError> {
    if is_marked(source).await.map_err(CopyError::Source)? {
        return Err(CopyError::IncompleteSource);
    }
    check_empty(target).await?;
    let at = version(target).await.map_err(CopyError::Target)?;
    if at < source_version {
        return Err(CopyError::Behind { source_version, target: at });
    }
    write(target, |txn| txn.put(mark(), Bytes::from_static(b"1"))).await?;
    let mut copied = Tally::default();
    let mut rest = KeyRange::all();
    while let Some(page) = next_page(source, &mut rest).await.map_err(CopyError::Source)? {
        for batch in batches(&page) {
            let put = |txn: &mut dyn Transaction| {
                for (key, value) in batch {
                    txn.put(key.clone(), value.clone());
                }
            };
            write(target, put).await?;
        }
        copied.add(&page);
        progress(Progress::Copied(copied.volume));
    }
    let copied = copied.finish();
    let again = read_all(source, |volume| progress(Progress::VerifiedSource(volume))).await;
    let again = again.map_err(CopyError::Source)?;
    let target_report = read_all(target, |volume| progress(Progress::VerifiedTarget(volume))).await;
    let target_report = target_report.map_err(CopyError::Target)?;
    if copied != again || copied != target_report {
        return Err(CopyError::Differs {
            copied: copied.volume,
            source_volume: again.volume,
            target: target_report.volume,
        });
    }
    write(target, |txn| txn.delete(mark())).await?;
    Ok(copied)
}

/// Refuses a store that holds an incomplete copy; whoever serves from a store asks first.
///
/// # Errors
/// The outer is the store's, the inner says that the copy is incomplete.
pub async fn check_complete(store: &dyn Store) -> Result<Result<(), IncompleteCopy>, StoreError> {
    Ok(if is_marked(store).await? { Err(IncompleteCopy) } else { Ok(()) })
}

/// The version that everything in the store is at or below.
///
/// # Errors
/// The store's.
pub async fn version(store: &dyn Store) -> Result<Version, StoreError> {
    let transaction = store.begin().await?;
    // What wrote nothing commits wherever it could begin.
    transaction.commit().await.map_err(|error| match error {
        CommitError::Store(error) | CommitError::UnknownResult(error) => error,
        CommitError::TooLarge(limit) => limit.into(),
        CommitError::Conflict => StoreError::Unavailable {
            kind: store.kind(),
            why: "a transaction that read nothing conflicts".into(),
        },
    })
}

async fn is_marked(store: &dyn Store) -> Result<bool, StoreError> {
    Ok(store.begin().await?.get_snapshot(&mark()).await?.is_some())
}

async fn check_empty(target: &dyn Store) -> Result<(), CopyError> {
    let mut transaction = target.begin().await.map_err(CopyError::Target)?;
    let first = transaction.range_snapshot(&KeyRange::all(), 1, Order::Forward).await;
    if first.map_err(CopyError::Target)?.is_empty() {
        return Ok(());
    }
    let marked = is_marked(target).await.map_err(CopyError::Target)?;
    Err(if marked { CopyError::Interrupted } else { CopyError::NotEmpty })
}

/// The pairs that come next, without the mark, and what comes after them; none at the end.
async fn next_page(
    store: &dyn Store,
    rest: &mut KeyRange,
) -> Result<Option<Vec<(Bytes, Bytes)>>, StoreError> {
    let mut wait = Wait::default();
    loop {
        let error = match try_page(store, rest).await {
            Ok(mut page) => {
                let Some((last, _)) = page.last() else { return Ok(None) };
                *rest = rest.after(last);
                page.retain(|(key, _)| *key != mark());
                return Ok(Some(page));
            }
            Err(error) => error,
        };
        if !error.is_retryable() || !wait.again().await {
            return Err(error);
        }
    }
}

async fn try_page(store: &dyn Store, rest: &KeyRange) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    store.begin().await?.range_snapshot(rest, MAX_PAGE_PAIRS, Order::Forward).await
}

/// Commits writes that give the same however often they are applied.
async fn write(
    store: &dyn Store,
    writes: impl Fn(&mut dyn Transaction) + Send + Sync,
) -> Result<(), CommitError> {
    let mut wait = Wait::default();
    loop {
        let committed = match store.begin().await {
            Ok(mut transaction) => {
                writes(&mut *transaction);
                transaction.commit().await
            }
            Err(error) => Err(error.into()),
        };
        let error = match committed {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let may_pass = match &error {
            CommitError::UnknownResult(cause) => cause.is_retryable(),
            other => other.is_retryable(),
        };
        if !may_pass || !wait.again().await {
            return Err(error);
        }
    }
}

/// Reads everything, without the mark.
async fn read_all(
    store: &dyn Store,
    mut progress: impl FnMut(Volume),
) -> Result<Report, StoreError> {
    let mut tally = Tally::default();
    let mut rest = KeyRange::all();
    while let Some(page) = next_page(store, &mut rest).await? {
        tally.add(&page);
        progress(tally.volume);
    }
    Ok(tally.finish())
}

/// The page in parts of about [`WRITE_BYTES`].
fn batches(page: &[(Bytes, Bytes)]) -> impl Iterator<Item = &[(Bytes, Bytes)]> {
    let mut bytes = 0;
    page.chunk_by(move |left, _| {
        bytes += left.0.len() + left.1.len();
        let goes_on = bytes < WRITE_BYTES;
        if !goes_on {
            bytes = 0;
        }
        goes_on
    })
}

/// Pairs being counted and hashed.
#[derive(Default)]
struct Tally {
    volume: Volume,
    digest: Sha256,
}

/// The waits between the tries of one step.
#[derive(Default)]
struct Wait {
    tries: u32,
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, page: &[(Bytes, Bytes)]) {
        for (key, value) in page {
            self.volume.pairs += 1;
            self.volume.bytes += (key.len() + value.len()) as u64;
            for part in [key, value] {
                // The limits of keys and values are far below 4 GiB.
                self.digest.update((part.len() as u32).to_be_bytes());
                self.digest.update(part);
            }
        }
    }

    fn finish(self) -> Report {
        Report { volume: self.volume, digest: self.digest.finalize().into() }
    }
}

// === impl Wait ===

impl Wait {
    /// Waits before another try, unless there were enough.
    async fn again(&mut self) -> bool {
        self.tries += 1;
        if self.tries >= ATTEMPTS {
            return false;
        }
        let wait = FIRST_WAIT.saturating_mul(1 << self.tries).min(LONGEST_WAIT);
        tokio::time::sleep(wait).await;
        true
    }
}

// === impl Volume ===

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pairs of {} bytes", self.pairs, self.bytes)
    }
}

#[cfg(test)]
mod tests;
