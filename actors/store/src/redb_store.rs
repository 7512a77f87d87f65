//! The embedded store: one file, one writer thread, group commit.
//!
//! Readers take the latest published snapshot and never wait for the writer. The writer drains all
//! transactions that wait, resolves them, applies them in one redb transaction and answers them after
//! one fsync, while the next ones gather. One phase of commit suffices: pages and commit slot carry
//! checksums, and after a crash the last slot that verifies is taken. Reopening after a crash walks the
//! file once to verify it, so it takes time in proportion to its size; a clean close spares that.

mod file;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use redb::{ReadOnlyTable, ReadableDatabase, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use self::{
    file::{Meters, storage_error},
    writer::{Job, QUEUE_LENGTH, Writer},
};
use crate::{
    CommitError, HistoryBounds, KeyRange, OpenError, Order, Store, StoreClock, StoreError,
    SystemClock, Transaction, Version, Watch,
    optimistic::{Engine, OptimisticTransaction, Pairs, Snapshot},
    resolver::CommitRequest,
    watch::Watches,
};

/// The embedded store. Clones share one store. The file is closed, and the writer thread joined, when
/// the last of them and of its transactions is dropped, which blocks on the disk for the commits still
/// on their way; what was committed until then is durable.
#[derive(Clone)]
pub struct RedbStore {
    engine: Arc<RedbEngine>,
}

/// How to open a [`RedbStore`].
#[derive(Clone)]
pub struct RedbOptions {
    /// The clock that ages transactions.
    pub clock: Arc<dyn StoreClock>,
    /// Memory for cached pages, in bytes.
    pub cache_bytes: usize,
    /// How much of the past conflicts are found in.
    pub history: HistoryBounds,
    /// When to verify the whole file.
    pub verify: Verify,
}

/// When opening verifies the checksum of every page, which reads the whole file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// After a crash only.
    #[default]
    AfterCrash,
    /// Always.
    Always,
}

/// Counters since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedbStats {
    /// Groups of transactions made durable together.
    pub commits: u64,
    /// Transactions committed, without those that only read.
    pub transactions: u64,
    /// Transactions refused as conflicts.
    pub conflicts: u64,
    /// Times the file was synced to disk.
    pub fsyncs: u64,
    /// Bytes committed, as [`MAX_TRANSACTION_BYTES`](crate::MAX_TRANSACTION_BYTES) counts them.
    pub bytes: u64,
    /// Bytes written to the file.
    pub file_bytes: u64,
}

struct RedbEngine {
    shared: Arc<Shared>,
    /// Present until drop.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

/// What the writer thread and the callers share.
struct Shared {
    path: PathBuf,
    clock: Arc<dyn StoreClock>,
    latest: ArcSwap<RedbSnapshot>,
    /// Set once, by the first failure to write.
    stopped: OnceLock<StoreError>,
    watches: Arc<Watches>,
    meters: Arc<Meters>,
}

struct RedbSnapshot {
    version: Version,
    pairs: ReadOnlyTable<&'static [u8], &'static [u8]>,
    path: PathBuf,
}

type Guard<'a> = redb::AccessGuard<'a, &'static [u8]>;

const KIND: &str = "redb";
const PAIRS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("pairs");

// === impl RedbOptions ===

impl Default for RedbOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            cache_bytes: 256 << 20,
            history: HistoryBounds::default(),
            verify: Verify::default(),
        }
    }
}

impl fmt::Debug for RedbOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbOptions")
            .field("cache_bytes", &self.cache_bytes)
            .field("history", &self.history)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

// === impl RedbStore ===

impl RedbStore {
    /// Opens the store at `path`, or creates one there, readable and writable by its owner only, in a
    /// directory that exists. Blocks on the disk.
    ///
    /// # Errors
    /// See [`OpenError`]. A file that cannot be used is left as it is.
    pub fn open(path: impl AsRef<Path>, options: RedbOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let (database, meters) = file::open_or_create(path, &options)?;
        let version = Version::default();
        let first = RedbSnapshot::of(&database, version, path).map_err(|error| {
            OpenError::Corrupt { path: path.to_owned(), what: error.to_string() }
        })?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            clock: options.clock,
            latest: ArcSwap::from_pointee(first),
            stopped: OnceLock::new(),
            watches: Arc::new(Watches::default()),
            meters,
        });
        let (jobs, queue) = mpsc::channel(QUEUE_LENGTH);
        let writer = Writer::new(database, Arc::clone(&shared), options.history);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        let engine = RedbEngine { shared, jobs: Some(jobs), writer: Some(writer) };
        Ok(Self { engine: Arc::new(engine) })
    }

    /// What the store has done since it was opened.
    pub fn stats(&self) -> RedbStats {
        self.engine.shared.meters.read()
    }

    /// Whether the store can still commit.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] after a failure to write; the process must restart.
    pub fn health(&self) -> Result<(), StoreError> {
        self.engine.readable()
    }

    /// The store's file.
    pub fn path(&self) -> &Path {
        &self.engine.shared.path
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore")
            .field("path", &self.engine.shared.path)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.engine.readable()?;
        let snapshot = self.engine.shared.latest.load_full();
        Ok(Box::new(OptimisticTransaction::begin(Arc::clone(&self.engine), snapshot)))
    }

    fn watch(&self, key: &[u8]) -> Watch {
        self.engine.shared.watches.register(key, KIND)
    }

    fn kind(&self) -> &'static str {
        KIND
    }
}

// === impl RedbEngine ===

impl Engine for RedbEngine {
    type Snapshot = RedbSnapshot;

    fn elapsed(&self) -> Duration {
        self.shared.clock.elapsed()
    }

    fn readable(&self) -> Result<(), StoreError> {
        self.shared.stopped.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    async fn submit(&self, request: CommitRequest) -> Result<Version, CommitError> {
        self.readable()?;
        let Some(jobs) = &self.jobs else { return Err(self.shared.gone().into()) };
        let (reply, answer) = oneshot::channel();
        if jobs.send(Job { request, reply }).await.is_err() {
            return Err(self.shared.gone().into());
        }
        // The writer dropped the request in its fall: how far it came is unknown.
        answer.await.unwrap_or_else(|_| Err(CommitError::UnknownResult(self.shared.gone())))
    }
}

impl Drop for RedbEngine {
    fn drop(&mut self) {
        // The writer ends once the queue is closed and empty.
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(path = %self.shared.path.display(), "the store's writer panicked");
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Why the writer no longer takes jobs.
    fn gone(&self) -> StoreError {
        let closed = StoreError::Unavailable { kind: KIND, why: "it is closed" };
        self.stopped.get().cloned().unwrap_or(closed)
    }
}

// === impl RedbSnapshot ===

impl RedbSnapshot {
    fn of(database: &redb::Database, version: Version, path: &Path) -> Result<Self, StoreError> {
        let failed = |error| storage_error(path, error);
        let transaction = database.begin_read().map_err(|error| failed(error.into()))?;
        let pairs = transaction.open_table(PAIRS).map_err(|error| failed(error.into()))?;
        Ok(Self { version, pairs, path: path.to_owned() })
    }

    fn failed(&self, error: redb::StorageError) -> StoreError {
        storage_error(&self.path, error.into())
    }
}

impl Snapshot for RedbSnapshot {
    fn version(&self) -> Version {
        self.version
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.pairs.get(key).map_err(|error| self.failed(error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn scan<'a>(&'a self, range: &KeyRange, order: Order) -> Result<Pairs<'a>, StoreError> {
        let pairs =
            self.pairs.range::<&[u8]>(range.bounds()).map_err(|error| self.failed(error))?;
        let owned = |pair: Result<(Guard<'_>, Guard<'_>), _>| {
            let (key, value) = pair.map_err(|error| self.failed(error))?;
            Ok((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())))
        };
        Ok(match order {
            Order::Forward => Box::new(pairs.map(owned)),
            Order::Reverse => Box::new(pairs.rev().map(owned)),
        })
    }
}

#[cfg(test)]
mod tests;
