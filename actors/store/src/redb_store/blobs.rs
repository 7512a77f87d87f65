//! Large values, in files beside the database file.
//!
//! A page of the database file is written again whenever something near it changes, so large values that
//! stay as they are cost more there than they are worth. A flush appends them to the newest **blob
//! file** instead, in the order of their keys, and puts a reference into the table; the reference is
//! durable only with the flush's transaction, and the blobs are synced before that commits. What a
//! file holds beyond the length that the database notes is of a flush that did not commit, and is
//! written over. The database counts the references into each file, and a file without any is removed.
//!
//! A blob is its checksum (CRC-32 of its key, its value and its place; 4 bytes, little-endian) and its
//! value.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::disk::{self, Disk, DiskFile};
use crate::{MAX_VALUE_BYTES, OpenError, StoreError};

/// Values from this many bytes on are blobs.
pub(super) const BLOB_BYTES: usize = 256;
/// The longest file, so that places in it fit 4 bytes.
const MOST_FILE_BYTES: u64 = 2 << 30;
/// Bytes that are written at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Bytes that a scan reads ahead.
const AHEAD_BYTES: usize = 64 << 10;
/// Each flush begins at a multiple of this, so that no block holds what two of them wrote.
const BLOCK: u64 = 4096;
const CHECKSUM_BYTES: usize = 4;
const EXTENSION: &str = "blob";

/// For each file's number its [`Extent`]: both numbers, big-endian.
const FILES: TableDefinition<'static, u32, &'static [u8]> = TableDefinition::new("blob-files");

const INLINE: u8 = 0;
const REFERENCE: u8 = 1;

/// Where a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlobRef {
    file: u32,
    /// Of its checksum.
    offset: u32,
    /// Of its value.
    length: u32,
}

/// What stands in the table for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored<'a> {
    Inline(&'a [u8]),
    Blob(BlobRef),
}

/// What the database knows of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    /// Bytes that hold blobs or padding.
    length: u64,
    /// References to its blobs.
    references: u64,
}

/// The files as of one flush, for reading. Clones are cheap; a file that is removed stays readable
/// through them.
#[derive(Clone)]
pub(super) struct BlobFiles {
    directory: Arc<Path>,
    open: Arc<BTreeMap<u32, Arc<dyn DiskFile>>>,
}

/// Reads blobs one after the other, ahead where they are adjacent.
pub(super) struct BlobReader<'a> {
    files: &'a BlobFiles,
    ahead: Vec<u8>,
    /// Where `ahead` is from: the file and the place in it.
    from: (u32, u64),
    /// Where the last blob ended.
    end: (u32, u64),
}

/// The files as their writer knows them.
pub(super) struct Blobs {
    disk: Arc<dyn Disk>,
    files: BlobFiles,
    extents: BTreeMap<u32, Extent>,
    /// Extents that the database does not have yet.
    changed: BTreeMap<u32, Extent>,
    /// What is on its way to the newest file, from its noted length on.
    buffer: Vec<u8>,
    /// The file that the buffer goes to, and that a sync is due for.
    current: Option<u32>,
    /// The greatest number in this run; one that could not be removed keeps its name.
    last: u32,
    /// When a file is full.
    file_bytes: u64,
}

/// The directory of the blobs of the store at `path`.
pub(super) fn directory_of(path: &Path) -> PathBuf {
    disk::beside(path, "blobs")
}

fn checksum(key: &[u8], value: &[u8], file: u32, offset: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(file);
    hasher.update(key);
    hasher.update(value);
    hasher.update(&offset.to_le_bytes());
    hasher.finalize()
}

// === impl Stored ===

impl<'a> Stored<'a> {
    /// Reads what stands in the table; nothing if it is malformed.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&INLINE, value) => Some(Self::Inline(value)),
            (&REFERENCE, reference) => {
                let reference: &[u8; 12] = reference.try_into().ok()?;
                let number =
                    |at: usize| reference.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
                let (file, offset, length) = (number(0)?, number(4)?, number(8)?);
                Some(Self::Blob(BlobRef { file, offset, length }))
            }
            _ => None,
        }
    }

    /// Writes over `out` what stands in the table.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Inline(value) => {
                out.push(INLINE);
                out.extend_from_slice(value);
            }
            Self::Blob(BlobRef { file, offset, length }) => {
                out.push(REFERENCE);
                for number in [file, offset, length] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
            }
        }
    }
}

// === impl BlobRef ===

impl BlobRef {
    const fn start(self) -> u64 {
        self.offset as u64
    }

    const fn end(self) -> u64 {
        self.start() + CHECKSUM_BYTES as u64 + self.length as u64
    }
}

// === impl Extent ===

impl Extent {
    fn encode(self) -> [u8; 16] {
        let mut encoded = [0; 16];
        encoded[..8].copy_from_slice(&self.length.to_be_bytes());
        encoded[8..].copy_from_slice(&self.references.to_be_bytes());
        encoded
    }

    fn decode(encoded: &[u8]) -> Option<Self> {
        let (length, references) = encoded.split_first_chunk()?;
        let references = references.try_into().ok()?;
        let length = u64::from_be_bytes(*length);
        Some(Self { length, references: u64::from_be_bytes(references) })
    }
}

// === impl BlobFiles ===

impl BlobFiles {
    /// A reader for blobs in the order of their keys.
    pub(super) fn reader(&self) -> BlobReader<'_> {
        BlobReader { files: self, ahead: Vec::new(), from: (0, 0), end: (0, 0) }
    }

    /// Reads the blob of `key`.
    fn read(&self, key: &[u8], blob: BlobRef) -> Result<Bytes, StoreError> {
        if blob.length as usize > MAX_VALUE_BYTES {
            return Err(self.corrupt(blob.file, format!("it is said to hold {blob:?}")));
        }
        let mut bytes = vec![0; CHECKSUM_BYTES + blob.length as usize];
        self.fill(blob.file, blob.start(), &mut bytes)?;
        self.check(key, blob, &bytes)?;
        Ok(Bytes::from(bytes).slice(CHECKSUM_BYTES..))
    }

    fn check(&self, key: &[u8], blob: BlobRef, bytes: &[u8]) -> Result<(), StoreError> {
        let damaged = || {
            let what = format!("the value at byte {} fails its checksum", blob.offset);
            self.corrupt(blob.file, what)
        };
        let (expected, value) = bytes.split_first_chunk().ok_or_else(damaged)?;
        if u32::from_le_bytes(*expected) != checksum(key, value, blob.file, blob.offset) {
            return Err(damaged());
        }
        Ok(())
    }

    fn fill(&self, number: u32, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let Some(file) = self.open.get(&number) else {
            return Err(self.corrupt(number, "it is referred to and not known".to_owned()));
        };
        file.read_at(offset, out).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt(number, "it is cut short".to_owned()),
            _ => StoreError::Io { path: self.path(number), source: Arc::new(error) },
        })
    }

    fn corrupt(&self, file: u32, what: String) -> StoreError {
        StoreError::Corrupt { path: self.path(file), what: what.into() }
    }

    fn path(&self, file: u32) -> PathBuf {
        self.directory.join(format!("{file:010}.{EXTENSION}"))
    }
}

impl fmt::Debug for BlobFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobFiles")
            .field("directory", &self.directory)
            .field("files", &self.open.len())
            .finish()
    }
}

// === impl BlobReader ===

impl BlobReader<'_> {
    /// Reads the blob of `key`.
    pub(super) fn read(&mut self, key: &[u8], blob: BlobRef) -> Result<Bytes, StoreError> {
        let follows = (blob.file, blob.start()) == self.end;
        self.end = (blob.file, blob.end());
        if follows && self.buffered(blob).is_none() {
            self.read_ahead(blob)?;
        }
        let Some(bytes) = self.buffered(blob) else { return self.files.read(key, blob) };
        self.files.check(key, blob, bytes)?;
        Ok(Bytes::copy_from_slice(&bytes[CHECKSUM_BYTES..]))
    }

    fn buffered(&self, blob: BlobRef) -> Option<&[u8]> {
        let (file, from) = self.from;
        let start = blob.start().checked_sub(from).filter(|_| blob.file == file)?;
        let end = blob.end() - from;
        self.ahead.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// Reads the blob and what comes after it, as far as the file goes.
    fn read_ahead(&mut self, blob: BlobRef) -> Result<(), StoreError> {
        let failed =
            |error| StoreError::Io { path: self.files.path(blob.file), source: Arc::new(error) };
        let file = self.files.open.get(&blob.file);
        let length = file.map_or(Ok(0), |file| file.len()).map_err(failed)?;
        let most = (blob.start() + AHEAD_BYTES as u64).min(length).saturating_sub(blob.start());
        // At most AHEAD_BYTES.
        self.ahead.resize(most as usize, 0);
        self.from = (blob.file, blob.start());
        let read = self.files.fill(blob.file, blob.start(), &mut self.ahead);
        if read.is_err() {
            self.ahead.clear();
        }
        read
    }
}

// === impl Blobs ===

impl Blobs {
    /// Opens the blobs of the store at `path`, as its database knows them; removes what a flush that did
    /// not commit left.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
        database: &redb::Database,
        file_bytes: u64,
    ) -> Result<Self, OpenError> {
        let directory = directory_of(path);
        let corrupt =
            |path: PathBuf, what: &str| OpenError::Corrupt { path, what: what.to_owned() };
        let extents = read_extents(database)
            .map_err(|error| super::file::open_error(path, error))?
            .ok_or_else(|| corrupt(path.to_owned(), "its list of blob files is malformed"))?;
        let mut files = BlobFiles { directory: directory.as_path().into(), open: Arc::default() };
        let found = match disk.list(&directory) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(OpenError::Io { path: directory, source }),
        };
        let mut open = BTreeMap::new();
        for (&number, extent) in &extents {
            let path = files.path(number);
            if !found.contains(&path) {
                return Err(corrupt(path, "it is missing"));
            }
            let io = |source| OpenError::Io { path: path.clone(), source };
            let file = disk.open(&path).map_err(io)?;
            if file.len().map_err(io)? < extent.length {
                return Err(corrupt(path, "it is cut short"));
            }
            open.insert(number, file);
        }
        let known: Vec<PathBuf> = extents.keys().map(|number| files.path(*number)).collect();
        for path in found {
            let ours = path.extension().is_some_and(|extension| extension == EXTENSION);
            if ours && !known.contains(&path) {
                disk.remove(&path).map_err(|source| OpenError::Io { path, source })?;
            }
        }
        files.open = Arc::new(open);
        let last = extents.last_key_value().map_or(0, |(file, _)| *file);
        Ok(Self {
            disk: Arc::clone(disk),
            files,
            extents,
            changed: BTreeMap::new(),
            buffer: Vec::new(),
            current: None,
            last,
            file_bytes: file_bytes.min(MOST_FILE_BYTES),
        })
    }

    /// The files, for reading what was appended and synced.
    pub(super) fn files(&self) -> BlobFiles {
        self.files.clone()
    }

    /// Appends the value of `key`; it can be read once [`Blobs::sync`] returned.
    pub(super) fn append(&mut self, key: &[u8], value: &[u8]) -> io::Result<BlobRef> {
        let framed = CHECKSUM_BYTES + value.len();
        let file = self.file_with_room(framed)?;
        let extent = self.extents.entry(file).or_default();
        // INVARIANT: files are shorter than 4 GiB, and so is a value.
        let (offset, length) = (extent.length as u32, value.len() as u32);
        let sum = checksum(key, value, file, offset);
        self.buffer.extend_from_slice(&sum.to_le_bytes());
        self.buffer.extend_from_slice(value);
        extent.length += framed as u64;
        extent.references += 1;
        self.changed.insert(file, *extent);
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_buffer()?;
        }
        Ok(BlobRef { file, offset, length })
    }

    /// A value is no longer in the table.
    pub(super) fn release(&mut self, stored: &[u8]) {
        if let Some(Stored::Blob(blob)) = Stored::parse(stored)
            && let Some(extent) = self.extents.get_mut(&blob.file)
        {
            extent.references = extent.references.saturating_sub(1);
            self.changed.insert(blob.file, *extent);
        }
    }

    /// Makes durable what was appended.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let Some(file) = self.current else { return Ok(()) };
        let extent = self.extents.entry(file).or_default();
        let padding = extent.length.next_multiple_of(BLOCK) - extent.length;
        extent.length += padding;
        self.changed.insert(file, *extent);
        self.buffer.resize(self.buffer.len() + padding as usize, 0);
        self.write_buffer()?;
        self.current = None;
        self.files.open.get(&file).map_or(Ok(()), |file| file.sync())
    }

    /// Brings what the database knows up to date, in the transaction that refers to the blobs.
    pub(super) fn note(&mut self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let mut table = transaction.open_table(FILES)?;
        for (file, extent) in &self.changed {
            if extent.references == 0 {
                table.remove(file)?;
            } else {
                table.insert(file, extent.encode().as_slice())?;
            }
        }
        Ok(())
    }

    /// Removes the files that the committed transaction left without references.
    pub(super) fn committed(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        for file in changed.into_iter().filter_map(|(file, e)| (e.references == 0).then_some(file))
        {
            self.extents.remove(&file);
            Arc::make_mut(&mut self.files.open).remove(&file);
            let path = self.files.path(file);
            // One that stays is found and removed when the store is opened again.
            if let Err(error) = self.disk.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "an unused blob file was not removed");
            }
        }
    }

    /// The file that takes the next `bytes`.
    fn file_with_room(&mut self, bytes: usize) -> io::Result<u32> {
        if let Some((&file, extent)) = self.extents.last_key_value()
            && (extent.length == 0 || extent.length + (bytes as u64) <= self.file_bytes)
        {
            self.current = Some(file);
            return Ok(file);
        }
        self.sync()?;
        self.last += 1;
        let file = self.last;
        let directory = &self.files.directory;
        if self.extents.is_empty() {
            match self.disk.create_directory(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => self.disk.sync_directory(disk::parent(directory))?,
            }
        }
        let made = self.disk.create(&self.files.path(file))?;
        self.disk.sync_directory(directory)?;
        Arc::make_mut(&mut self.files.open).insert(file, made);
        self.extents.insert(file, Extent::default());
        self.current = Some(file);
        Ok(file)
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let file = self.current.and_then(|file| Some((self.files.open.get(&file)?, file)));
        let Some((file, number)) = file else { return Ok(()) };
        let end = self.extents.get(&number).map_or(0, |extent| extent.length);
        file.write_at(end - self.buffer.len() as u64, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// What the database knows of the files; nothing if it is malformed.
fn read_extents(database: &redb::Database) -> Result<Option<BTreeMap<u32, Extent>>, redb::Error> {
    use redb::ReadableDatabase;
    let mut extents = BTreeMap::new();
    match database.begin_read()?.open_table(FILES) {
        Ok(table) => {
            for entry in table.iter()? {
                let (file, extent) = entry?;
                let Some(extent) = Extent::decode(extent.value()) else { return Ok(None) };
                extents.insert(file.value(), extent);
            }
        }
        // Until the first blob there is none.
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Some(extents))
}
