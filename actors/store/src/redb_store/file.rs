//! The store's file: creating, opening, telling what is wrong with it, and metering its writes.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use redb::{
    BackendError, Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError,
    TableDefinition, TableError, backends::FileBackend,
};

use super::{PAIRS, RedbOptions, RedbStats, Verify};
use crate::{OpenError, StoreError};

/// Facts about the file itself: the key `format` holds the format's number, 4 bytes, big-endian.
const META: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("meta");
const FORMAT_KEY: &[u8] = b"format";
/// The format of what is stored: one table of raw pairs.
pub(super) const FORMAT: u32 = 1;

/// Counters that the writer and the file bump.
#[derive(Debug, Default)]
pub(super) struct Meters {
    pub(super) commits: AtomicU64,
    pub(super) transactions: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) bytes: AtomicU64,
    fsyncs: AtomicU64,
    file_bytes: AtomicU64,
    #[cfg(test)]
    pub(super) disk: TestDisk,
}

/// What tests do to the disk.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct TestDisk {
    /// While set, every write and sync fails like this.
    pub(super) failure: parking_lot::Mutex<Option<io::ErrorKind>>,
    /// While locked, every sync waits.
    pub(super) sync: parking_lot::Mutex<()>,
}

/// A file that counts what is written to it.
#[derive(Debug)]
struct MeteredFile {
    file: FileBackend,
    meters: Arc<Meters>,
}

/// Opens the file, or creates it if there is none.
pub(super) fn open_or_create(
    path: &Path,
    options: &RedbOptions,
) -> Result<(Database, Arc<Meters>), OpenError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => open(path, file, options),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
            let file = OpenOptions::new().read(true).write(true).open(path);
            let file = file.map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
            open(path, file, options)
        }
        Err(source) => Err(OpenError::Io { path: path.to_owned(), source }),
    }
}

/// Puts an empty store at `path`. It is made under another name first, so that a crash leaves either
/// none or a whole one; if another process is faster, its file stays.
fn create(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Made with mode 0600.
    let nascent = tempfile::Builder::new().prefix(".store-").tempfile_in(directory)?;
    let database = Builder::new()
        .create_with_backend(FileBackend::new(nascent.reopen()?).map_err(io::Error::other)?)
        .map_err(io::Error::other)?;
    write_header(&database).map_err(io::Error::other)?;
    database.close().map_err(io::Error::other)?;
    nascent.as_file().sync_all()?;
    match nascent.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.error),
    }
    // A name is durable only once its directory is.
    File::open(directory)?.sync_all()
}

fn write_header(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(PAIRS)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(FORMAT_KEY, FORMAT.to_be_bytes().as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

fn open(
    path: &Path,
    file: File,
    options: &RedbOptions,
) -> Result<(Database, Arc<Meters>), OpenError> {
    let corrupt = |what: String| OpenError::Corrupt { path: path.to_owned(), what };
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    // redb would make a new database of an empty file; ours are never empty, so it lost its contents.
    if file.metadata().map_err(io)?.len() == 0 {
        return Err(corrupt("it is empty".to_owned()));
    }
    let meters = Arc::new(Meters::default());
    let file = FileBackend::new(file).map_err(|error| database_error(path, error))?;
    let backend = MeteredFile { file, meters: Arc::clone(&meters) };
    // A damaged file may trip assertions of redb; the damage must reach people as an error.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = builder(path, options)
            .create_with_backend(backend)
            .map_err(|error| database_error(path, error))?;
        check_header(path, &database)?;
        Ok(database)
    }));
    let database = opened.map_err(|_| corrupt("its pages contradict each other".to_owned()))??;
    Ok((database, meters))
}

fn builder(path: &Path, options: &RedbOptions) -> Builder {
    let mut builder = Builder::new();
    let shown = path.display().to_string();
    let told = AtomicBool::new(false);
    builder
        .set_cache_size(options.cache_bytes)
        .set_check_integrity_on_open(options.verify == Verify::Always)
        .set_repair_callback(move |_| {
            if !told.swap(true, Ordering::Relaxed) {
                tracing::info!(path = %shown, "the store was not closed; verifying it");
            }
        });
    builder
}

fn check_header(path: &Path, database: &Database) -> Result<(), OpenError> {
    let corrupt = |what: String| OpenError::Corrupt { path: path.to_owned(), what };
    let damaged = |error: StorageError| corrupt(error.to_string());
    let transaction = database.begin_read().map_err(|error| corrupt(error.to_string()))?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::Storage(error)) => return Err(damaged(error)),
        Err(_) => return Err(OpenError::Foreign { path: path.to_owned() }),
    };
    let Some(format) = meta.get(FORMAT_KEY).map_err(damaged)? else {
        return Err(OpenError::Foreign { path: path.to_owned() });
    };
    let Ok(format) = <[u8; 4]>::try_from(format.value()) else {
        return Err(corrupt("its format record is malformed".to_owned()));
    };
    let found = u32::from_be_bytes(format);
    if found != FORMAT {
        return Err(OpenError::Format { path: path.to_owned(), found, supported: FORMAT });
    }
    Ok(())
}

fn database_error(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse { path }
        }
        // No store of ours was ever in a format that redb calls old.
        DatabaseError::UpgradeRequired(_) => OpenError::Foreign { path },
        DatabaseError::Storage(StorageError::Io(source)) => match source.kind() {
            io::ErrorKind::InvalidData => {
                OpenError::Corrupt { path, what: "it does not begin as a store does".to_owned() }
            }
            io::ErrorKind::UnexpectedEof => {
                OpenError::Corrupt { path, what: "it is cut short".to_owned() }
            }
            _ => OpenError::Io { path, source },
        },
        other => OpenError::Corrupt { path, what: other.to_string() },
    }
}

/// Says what a failure of redb means for the store at `path`.
pub(super) fn storage_error(path: &Path, error: redb::Error) -> StoreError {
    let path: PathBuf = path.to_owned();
    match error {
        redb::Error::Corrupted(what) => StoreError::Corrupt { path, what: what.into() },
        redb::Error::Io(source) => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path },
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                StoreError::ReadOnly { path }
            }
            io::ErrorKind::UnexpectedEof => {
                StoreError::Corrupt { path, what: "it is cut short".into() }
            }
            _ => StoreError::Io { path, source: Arc::new(source) },
        },
        other => StoreError::Io { path, source: Arc::new(io::Error::other(other.to_string())) },
    }
}

// === impl Meters ===

impl Meters {
    pub(super) fn read(&self) -> RedbStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RedbStats {
            commits: read(&self.commits),
            transactions: read(&self.transactions),
            conflicts: read(&self.conflicts),
            fsyncs: read(&self.fsyncs),
            bytes: read(&self.bytes),
            file_bytes: read(&self.file_bytes),
        }
    }
}

// === impl MeteredFile ===

impl StorageBackend for MeteredFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.meters.disk.before_write()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        self.meters.disk.before_sync()?;
        self.meters.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.meters.disk.before_write()?;
        self.meters.file_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
impl TestDisk {
    fn before_write(&self) -> io::Result<()> {
        self.failure.lock().map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn before_sync(&self) -> io::Result<()> {
        drop(self.sync.lock());
        self.before_write()
    }
}

/// Rewrites the format record of a closed store.
#[cfg(test)]
pub(super) fn set_format(path: &Path, format: u32) {
    let database = Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert(FORMAT_KEY, format.to_be_bytes().as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}
