//! Counting what reaches the disk.

use std::{
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::{BackendError, DatabaseError, StorageBackend};

use super::{
    RedbStats,
    disk::{Disk, DiskFile},
};

/// Counters that the store's threads and its files bump.
#[derive(Debug, Default)]
pub(super) struct Meters {
    pub(super) commits: AtomicU64,
    pub(super) transactions: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) flushed_pairs: AtomicU64,
    pub(super) waits: AtomicU64,
    pub(super) by_caller: AtomicU64,
    log: FileMeters,
    blobs: FileMeters,
    database: FileMeters,
    #[cfg(test)]
    pub(super) disk: TestDisk,
}

#[derive(Debug, Default)]
struct FileMeters {
    fsyncs: AtomicU64,
    bytes: AtomicU64,
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

/// A disk whose files count what is written to them.
#[derive(Debug)]
pub(super) struct MeteredDisk {
    disk: Arc<dyn Disk>,
    meters: Arc<Meters>,
    /// Which of them count its files.
    files: fn(&Meters) -> &FileMeters,
}

#[derive(Debug)]
struct MeteredFile {
    file: Arc<dyn DiskFile>,
    meters: Arc<Meters>,
    files: fn(&Meters) -> &FileMeters,
}

/// A file of redb's that counts what is written to it.
#[derive(Debug)]
pub(super) struct MeteredBackend {
    file: Box<dyn StorageBackend>,
    meters: Arc<Meters>,
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

// === impl Meters ===

impl Meters {
    pub(super) fn read(&self) -> RedbStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (log_fsyncs, log_bytes) = (read(&self.log.fsyncs), read(&self.log.bytes));
        let (blob_fsyncs, blob_bytes) = (read(&self.blobs.fsyncs), read(&self.blobs.bytes));
        RedbStats {
            commits: read(&self.commits),
            transactions: read(&self.transactions),
            conflicts: read(&self.conflicts),
            fsyncs: read(&self.database.fsyncs) + log_fsyncs + blob_fsyncs,
            bytes: read(&self.bytes),
            file_bytes: read(&self.database.bytes) + log_bytes + blob_bytes,
            log_fsyncs,
            log_bytes,
            blob_bytes,
            flushes: read(&self.flushes),
            flushed_pairs: read(&self.flushed_pairs),
            waits: read(&self.waits),
            by_caller: read(&self.by_caller),
        }
    }

    fn before_write(&self) -> io::Result<()> {
        #[cfg(test)]
        self.disk.before_write()?;
        Ok(())
    }

    fn before_sync(&self) -> io::Result<()> {
        #[cfg(test)]
        self.disk.before_sync()?;
        Ok(())
    }
}

// === impl MeteredDisk ===

impl MeteredDisk {
    pub(super) fn new(disk: Arc<dyn Disk>, meters: Arc<Meters>) -> Self {
        Self { disk, meters, files: |meters| &meters.log }
    }

    /// The same disk for files of large values.
    pub(super) fn for_blobs(&self) -> Self {
        let (disk, meters) = (Arc::clone(&self.disk), Arc::clone(&self.meters));
        Self { disk, meters, files: |meters| &meters.blobs }
    }

    /// Opens an existing file as redb uses one.
    pub(super) fn backend(&self, path: &Path) -> Result<MeteredBackend, DatabaseError> {
        let file = self.disk.open_database(path)?;
        Ok(MeteredBackend { file, meters: Arc::clone(&self.meters) })
    }

    fn metered(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(MeteredFile { file, meters: Arc::clone(&self.meters), files: self.files })
    }
}

impl Disk for MeteredDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.metered(self.disk.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.meters.before_write()?;
        Ok(self.metered(self.disk.create(path)?))
    }

    fn open_database(&self, path: &Path) -> Result<Box<dyn StorageBackend>, DatabaseError> {
        Ok(Box::new(self.backend(path)?))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.create_directory(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(directory)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.sync_directory(directory)
    }

    fn in_step(&self) -> bool {
        self.disk.in_step()
    }
}

// === impl MeteredFile ===

impl DiskFile for MeteredFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.meters.before_write()?;
        add(&(self.files)(&self.meters).bytes, data.len());
        self.file.write_at(offset, data)
    }

    fn write_durably(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.meters.before_write()?;
        self.meters.before_sync()?;
        let meters = (self.files)(&self.meters);
        add(&meters.bytes, data.len());
        add(&meters.fsyncs, 1);
        self.file.write_durably(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.meters.before_sync()?;
        add(&(self.files)(&self.meters).fsyncs, 1);
        self.file.sync()
    }
}

// === impl MeteredBackend ===

impl StorageBackend for MeteredBackend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.meters.before_write()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.meters.before_sync()?;
        add(&self.meters.database.fsyncs, 1);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.meters.before_write()?;
        add(&self.meters.database.bytes, data.len());
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

// === impl TestDisk ===

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
