//! The embedded store: a log and a database file, group commit.
//!
//! The path of a commit: one writer drains all transactions that wait, resolves them, appends
//! them to the **log** as one record ([`log`], [`record`], [`sector`]: one sequential write and one
//! fsync), puts them into the active **layer** in memory ([`memtable`], [`cleared`]), publishes a
//! snapshot and answers, while the next ones gather. Readers take the latest snapshot and never wait:
//! the newest layer that knows a key decides, the database file is the oldest ([`snapshot`]).
//!
//! Once the active layer is large enough, it is frozen and [`flush`] moves it into the database file, its
//! large values into files of their own ([`blobs`]), in one redb transaction that also notes where the
//! log goes on; the log's **segments** before that
//! place are reused ([`segment`], [`segment_pool`]). At most one layer is frozen at a time: when the
//! active one is twice as large as it should be, commits wait, so memory and the log stay bounded.
//!
//! Opening reads what the log holds beyond the file into a layer ([`recovery`]). That takes time in
//! proportion to the log, never to the file: redb keeps its own book of free pages with each flush, so
//! a crash costs no walk over the file. A file of the first format, which has no log, is walked once
//! if it was not closed. A clean close leaves the log empty.
//!
//! What a disk may do is in [`disk`]; everything goes through it, so that tests can do it.

mod aligned;
mod blobs;
mod cleared;
pub(crate) mod disk;
mod file;
mod flush;
mod log;
mod memtable;
mod meters;
mod record;
mod recovery;
mod sector;
mod segment;
mod segment_pool;
mod snapshot;
mod writer;

use std::{
    borrow::Cow,
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use redb::TableDefinition;
use tokio::sync::{mpsc, oneshot};

use self::{
    blobs::Blobs,
    disk::{Disk, SystemDisk},
    flush::{FlushJob, FlushQueue, Flusher},
    memtable::Layer,
    meters::{MeteredDisk, Meters},
    recovery::Recovered,
    snapshot::{Base, RedbSnapshot},
    writer::{Job, Pace, QUEUE_LENGTH, Writer, WriterParts},
};
use crate::{
    CommitError, HistoryBounds, OpenError, Store, StoreClock, StoreCounters, StoreError,
    SystemClock, Transaction, Version, Watch,
    optimistic::{Engine, OptimisticTransaction},
    resolver::CommitRequest,
    watch::Watches,
};

/// The embedded store. Clones share one store. It is closed, and its threads joined, when the last of
/// them and of its transactions is dropped, which blocks on the disk until all commits are in the
/// database file; what was committed until then is durable in any case.
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
    /// Memory for commits that are not in the database file yet, in bytes: at this many they begin to
    /// move there, at twice as many in wait, and as many on their way, commits wait.
    pub memtable_bytes: usize,
    /// The size of the log's segments, in bytes. A larger transaction gets a larger one.
    pub segment_bytes: usize,
    /// When a file of large values is full, in bytes; at most 2 GiB.
    pub blob_file_bytes: u64,
    /// How much of the past conflicts are found in.
    pub history: HistoryBounds,
    /// When to verify the whole file.
    pub verify: Verify,
    /// Where the versions of a store that is created go on from. So a store that takes over the pairs of
    /// another one stamps higher keys than that did.
    pub first_version: Version,
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
    /// Times a file was synced to disk.
    pub fsyncs: u64,
    /// Bytes committed, as [`MAX_TRANSACTION_BYTES`](crate::MAX_TRANSACTION_BYTES) counts them.
    pub bytes: u64,
    /// Bytes written to files.
    pub file_bytes: u64,
    /// Of the fsyncs, those of the log: one per commit, and one or two per segment.
    pub log_fsyncs: u64,
    /// Of the bytes written, those of the log.
    pub log_bytes: u64,
    /// Of the bytes written, those of large values.
    pub blob_bytes: u64,
    /// Times that commits were moved into the database file.
    pub flushes: u64,
    /// Pairs written or removed thereby.
    pub flushed_pairs: u64,
    /// Times that commits waited because they could not be moved fast enough.
    pub waits: u64,
    /// Of the commits, those that a lone caller made on its own thread.
    pub by_caller: u64,
}

struct RedbEngine {
    shared: Arc<Shared>,
    /// Present until drop.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Arc<Mutex<Writer>>,
    thread: Option<JoinHandle<()>>,
}

/// What the writer thread and the callers share.
struct Shared {
    path: Arc<Path>,
    clock: Arc<dyn StoreClock>,
    latest: ArcSwap<RedbSnapshot>,
    /// Held while the latest snapshot is replaced.
    publishing: Mutex<()>,
    /// Set once, by the first failure to write.
    stopped: OnceLock<StoreError>,
    watches: Arc<Watches>,
    meters: Arc<Meters>,
    pace: Pace,
}

const KIND: &str = "redb";
/// For each key what stands for its value, see [`blobs::Stored`].
const PAIRS: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("tagged-pairs");

// === impl RedbOptions ===

impl Default for RedbOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            // Large values are not in its pages, and the system caches the file too.
            cache_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            segment_bytes: 16 << 20,
            blob_file_bytes: 1 << 30,
            history: HistoryBounds::default(),
            verify: Verify::default(),
            first_version: Version::default(),
        }
    }
}

impl fmt::Debug for RedbOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbOptions")
            .field("cache_bytes", &self.cache_bytes)
            .field("memtable_bytes", &self.memtable_bytes)
            .field("segment_bytes", &self.segment_bytes)
            .field("blob_file_bytes", &self.blob_file_bytes)
            .field("history", &self.history)
            .field("verify", &self.verify)
            .field("first_version", &self.first_version)
            .finish_non_exhaustive()
    }
}

// === impl RedbStore ===

impl RedbStore {
    /// Opens the store at `path`, or creates one there, readable and writable by its owner only, in a
    /// directory that exists. Its log is in the directory `<path>.wal` and its large values in
    /// `<path>.blobs`; the three belong together and are backed up together, while the store is closed.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// See [`OpenError`]. A store that cannot be used is left as it is.
    pub fn open(path: impl AsRef<Path>, options: RedbOptions) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(SystemDisk), path.as_ref(), options)
    }

    /// Opens the store at `path` on a simulated disk, or creates one there.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    #[cfg(any(test, feature = "faults"))]
    pub fn open_simulated(
        disk: &crate::SimDisk,
        path: impl AsRef<Path>,
        options: RedbOptions,
    ) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(disk.clone()), path.as_ref(), options)
    }

    fn open_on(disk: Arc<dyn Disk>, path: &Path, options: RedbOptions) -> Result<Self, OpenError> {
        let meters = Arc::new(Meters::default());
        let disk = MeteredDisk::new(disk, Arc::clone(&meters));
        let in_step = disk.in_step();
        let path: Arc<Path> = Arc::from(path);
        let (database, header) = file::open_or_create(&disk, &path, &options)?;
        let blob_disk: Arc<dyn Disk> = Arc::new(disk.for_blobs());
        let mut blobs = Blobs::open(&blob_disk, &path, &database, options.blob_file_bytes)?;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let Recovered { mut log, pool, pool_thread, layer, version } =
            recovery::recover(&disk, &path, header.log, &options)?;
        let failed = |error| file::open_error(&path, error);
        let flushing = FlushQueue::default();
        let active = Layer::default();
        let mut frozen = None;
        if header.log.is_some_and(|position| position.in_use) {
            let (position, segments) = log.cut(version).map_err(|error| failed(error.into()))?;
            frozen = Some(layer.clone());
            flushing.submit(FlushJob { layer, position, segments });
        } else {
            // Before its first record, the log must be known to be needed.
            let position = log.position(true, version);
            let job = FlushJob { layer, position, segments: Vec::new() };
            flush::write(&database, &mut blobs, &job).map_err(failed)?;
        }
        let base = Arc::new(Base::of(&database, &path, blobs.files()).map_err(failed)?);
        if options.verify == Verify::Always {
            base.verify()?;
        }
        let first = RedbSnapshot { version, active: active.clone(), frozen, base };
        let shared = Arc::new(Shared {
            latest: ArcSwap::from_pointee(first),
            path: Arc::clone(&path),
            clock: options.clock,
            publishing: Mutex::new(()),
            stopped: OnceLock::new(),
            watches: Arc::new(Watches::default()),
            meters,
            pace: Pace::default(),
        });
        let io = |source| OpenError::Io { path: path.to_path_buf(), source };
        let flusher =
            Flusher { database, blobs, shared: Arc::clone(&shared), pool, queue: flushing.clone() };
        let flusher = flusher.spawn().map_err(io)?;
        let parts = WriterParts {
            history: options.history,
            latest: version,
            log,
            flush_at: options.memtable_bytes,
            flushing,
            threads: vec![flusher, pool_thread],
            in_step,
        };
        let writer = Writer::new(Arc::clone(&shared), active, parts);
        let writer = Arc::new(Mutex::new(writer));
        let (jobs, queue) = mpsc::channel(QUEUE_LENGTH);
        let of_thread = Arc::clone(&writer);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || Writer::run(&of_thread, queue))
            .map_err(io)?;
        let engine = RedbEngine { shared, jobs: Some(jobs), writer, thread: Some(thread) };
        Ok(Self { engine: Arc::new(engine) })
    }

    /// What the store has done since it was opened.
    pub fn stats(&self) -> RedbStats {
        self.engine.shared.meters.read()
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

    async fn begin_after(&self, known: Version) -> Result<Box<dyn Transaction>, StoreError> {
        self.engine.readable()?;
        let snapshot = self.engine.shared.latest.load_full();
        let engine = Arc::clone(&self.engine);
        Ok(Box::new(OptimisticTransaction::begin_after(engine, snapshot, known)))
    }

    fn watch(&self, key: &[u8]) -> Watch {
        self.engine.shared.watches.register(key, KIND)
    }

    fn counters(&self) -> StoreCounters {
        let RedbStats { transactions, conflicts, bytes, .. } = self.stats();
        StoreCounters { committed: transactions, conflicts, bytes, ..StoreCounters::default() }
    }

    fn health(&self) -> Result<(), StoreError> {
        self.engine.readable()
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
        let (_outstanding, is_alone) = self.shared.pace.enter();
        if is_alone
            && let Some(mut writer) = self.writer.try_lock()
            && writer.is_brief(&request)
        {
            return writer.write_alone(request);
        }
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
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(path = %self.shared.path.display(), "the store's writer panicked");
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Why the writer no longer takes jobs.
    fn gone(&self) -> StoreError {
        let closed = StoreError::Unavailable { kind: KIND, why: Cow::Borrowed("it is closed") };
        self.stopped.get().cloned().unwrap_or(closed)
    }

    /// Ends all writing: after a failed write or fsync, what memory and page cache hold may differ
    /// from the disk, and only reopening tells what is there.
    fn stop(&self, error: StoreError) -> StoreError {
        tracing::error!(path = %self.path.display(), %error, "the store stops");
        let stopped = StoreError::Stopped { cause: Arc::new(error) };
        self.stopped.get_or_init(|| stopped).clone()
    }

    /// Ends all writing after a panic, which only damage explains.
    fn stop_damaged(&self) {
        let what = "its pages contradict each other".into();
        self.stop(StoreError::Corrupt { path: self.path.to_path_buf(), what });
    }

    /// Replaces the snapshot that new transactions read.
    fn publish(&self, change: impl FnOnce(&mut RedbSnapshot)) {
        let _publishing = self.publishing.lock();
        let mut snapshot = RedbSnapshot::clone(&self.latest.load());
        change(&mut snapshot);
        self.latest.store(Arc::new(snapshot));
    }
}

#[cfg(test)]
mod tests;
