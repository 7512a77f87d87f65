//! What the store asks of a disk. There are two: the machine's, and one in memory that fails and loses
//! what was not synced ([`SimDisk`](crate::SimDisk)).

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{DatabaseError, StorageBackend, backends::FileBackend};
use rustix::fs::OFlags;
use tempfile::TempPath;

/// A place for files. Names are durable once [`Disk::sync_directory`] returned, contents once
/// [`DiskFile::sync`] or the backend's `sync_data` did; until then a crash may undo any of them.
pub(crate) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes an empty file for its owner only; fails if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file as redb uses one.
    fn open_database(&self, path: &Path) -> Result<Box<dyn StorageBackend>, DatabaseError>;

    /// Gives a file another name, unless that name is taken.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory for its owner only.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// The files in a directory, in no order.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Whether commits wait for the work in the background, so that a run can be repeated exactly.
    fn in_step(&self) -> bool {
        false
    }
}

/// An open file of fixed-place contents.
pub(crate) trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Fills `out` from `offset`; fails if the file ends before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data`, growing the file where needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes all written contents durable.
    fn sync(&self) -> io::Result<()>;

    /// Writes all of `data` over what is there, and makes it durable.
    fn write_durably(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(offset, data)?;
        self.sync()
    }
}

/// The machine's file systems.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemDisk;

/// A file of the machine's.
#[derive(Debug)]
struct SystemFile {
    file: File,
    /// The same for writing past the page cache, durably at once: it spares the copy, the page cache's
    /// book-keeping and a second system call. Not every file system has it.
    direct: Option<File>,
    /// Set once the disk refused such a write, for blocks larger than a sector.
    is_indirect: AtomicBool,
}

/// The directory that holds `path`.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// The directory beside the store at `path` whose name ends with `extension`.
pub(super) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

// === impl SystemDisk ===

impl Disk for SystemDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SystemFile::of(OpenOptions::new().read(true).write(true).open(path)?, path)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(SystemFile::of(options.open(path)?, path)))
    }

    fn open_database(&self, path: &Path) -> Result<Box<dyn StorageBackend>, DatabaseError> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| DatabaseError::Storage(error.into()))?;
        Ok(Box::new(FileBackend::new(file)?))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let from = TempPath::try_from_path(from)?;
        from.persist_noclobber(to).map_err(|error| error.error)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

// === impl SystemFile ===

impl SystemFile {
    fn of(file: File, path: &Path) -> Self {
        let flags = OFlags::DIRECT | OFlags::DSYNC;
        // Where it cannot be had, the other handle does the same.
        let direct = OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(path);
        Self { file, direct: direct.ok(), is_indirect: AtomicBool::new(false) }
    }
}

impl DiskFile for SystemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_durably(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(direct) = &self.direct
            && !self.is_indirect.load(Ordering::Relaxed)
        {
            match direct.write_all_at(data, offset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.is_indirect.store(true, Ordering::Relaxed);
                }
                written => return written,
            }
        }
        self.write_at(offset, data)?;
        self.sync()
    }
}
