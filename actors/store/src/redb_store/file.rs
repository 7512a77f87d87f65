//! The database file: creating and opening it, its header, and telling what is wrong with it.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend,
    StorageError, TableDefinition, TableError, WriteTransaction,
};

use super::{
    PAIRS, RedbOptions, Verify,
    blobs::Stored,
    disk::{self, Disk},
    log::LogPosition,
    meters::{MeteredBackend, MeteredDisk},
};
use crate::{OpenError, StoreError, Version};

/// Facts about the file itself, big-endian: `format` is the format's number, 4 bytes; `log` is where the
/// log begins: its id, 8, its first segment, 8, that segment's first record, 8, whether there may
/// be records at all, 1, and the version of the last transaction before it, 8, absent before format 4.
const META: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("meta");
const FORMAT_KEY: &[u8] = b"format";
const LOG_KEY: &[u8] = b"log";
/// The format of what is stored: one table of pairs whose values are inline or blobs, and a log and the blobs
/// beside the file. A program that would not keep the versions, and with them the order of stamped keys, must
/// not open it.
pub(super) const FORMAT: u32 = 4;
/// The oldest format that is read; it becomes [`FORMAT`] by opening. It has no log; it and the second have
/// raw pairs.
pub(super) const OLDEST_FORMAT: u32 = 1;
/// The first format whose values say whether they are inline.
const TAGGED_FORMAT: u32 = 3;
/// The pairs of the formats before that.
pub(super) const RAW_PAIRS: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("pairs");

/// What the file says about itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Where the log begins; none if the store never had one.
    pub(super) log: Option<LogPosition>,
}

/// Opens the file, or creates it if there is none.
pub(super) fn open_or_create(
    disk: &MeteredDisk,
    path: &Path,
    options: &RedbOptions,
) -> Result<(Database, Header), OpenError> {
    let backend = match disk.backend(path) {
        Err(DatabaseError::Storage(StorageError::Io(error)))
            if error.kind() == io::ErrorKind::NotFound =>
        {
            create(disk, path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
            disk.backend(path)
        }
        opened => opened,
    };
    open(path, backend.map_err(|error| database_error(path, error))?, options)
}

/// Puts an empty store at `path`. It is made under another name first, so that a crash leaves either
/// none or a whole one; if another process is faster, its file stays.
fn create(disk: &MeteredDisk, path: &Path) -> io::Result<()> {
    let directory = disk::parent(path);
    let nascent = directory.join(format!(".store-{:016x}", fastrand::u64(..)));
    disk.create(&nascent)?;
    let made = fill(disk, &nascent).and_then(|()| match disk.rename_new(&nascent, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.remove(&nascent),
        renamed => renamed,
    });
    if let Err(error) = made {
        // What made this fail says more than what a removal could.
        let _ = disk.remove(&nascent);
        return Err(error);
    }
    // A name is durable only once its directory is.
    disk.sync_directory(directory)
}

/// Makes an empty file an empty store.
fn fill(disk: &MeteredDisk, path: &Path) -> io::Result<()> {
    let backend = disk.backend(path).map_err(into_io)?;
    let database = Builder::new().create_with_backend(backend).map_err(into_io)?;
    write_header(&database).map_err(into_io)?;
    database.close().map_err(into_io)
}

fn into_io(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

fn write_header(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
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
    backend: MeteredBackend,
    options: &RedbOptions,
) -> Result<(Database, Header), OpenError> {
    let corrupt = |what: String| OpenError::Corrupt { path: path.to_owned(), what };
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    // redb would make a new database of an empty file; ours are never empty, so it lost its contents.
    if backend.len().map_err(io)? == 0 {
        return Err(corrupt("it is empty".to_owned()));
    }
    // A damaged file may trip assertions of redb; the damage must reach people as an error.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = builder(path, options)
            .create_with_backend(backend)
            .map_err(|error| database_error(path, error))?;
        let (header, format) = read_header(path, &database)?;
        if format < TAGGED_FORMAT {
            tag_values(&database).map_err(|error| open_error(path, error))?;
        }
        Ok((database, header))
    }));
    opened.map_err(|_| corrupt("its pages contradict each other".to_owned()))?
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

fn read_header(path: &Path, database: &Database) -> Result<(Header, u32), OpenError> {
    let corrupt = |what: &str| OpenError::Corrupt { path: path.to_owned(), what: what.to_owned() };
    let damaged = |error: StorageError| corrupt(&error.to_string());
    let transaction = database.begin_read().map_err(|error| corrupt(&error.to_string()))?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::Storage(error)) => return Err(damaged(error)),
        Err(_) => return Err(OpenError::Foreign { path: path.to_owned() }),
    };
    let Some(format) = meta.get(FORMAT_KEY).map_err(damaged)? else {
        return Err(OpenError::Foreign { path: path.to_owned() });
    };
    let Ok(format) = <[u8; 4]>::try_from(format.value()) else {
        return Err(corrupt("its format record is malformed"));
    };
    let found = u32::from_be_bytes(format);
    if !(OLDEST_FORMAT..=FORMAT).contains(&found) {
        return Err(OpenError::Format { path: path.to_owned(), found, supported: FORMAT });
    }
    let log = match meta.get(LOG_KEY).map_err(damaged)? {
        None => None,
        Some(position) => {
            let position = decode_position(position.value());
            Some(position.ok_or_else(|| corrupt("its record of the log is malformed"))?)
        }
    };
    Ok((Header { log }, found))
}

/// Brings raw pairs into the present table. The format changes with it, or nothing does.
fn tag_values(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let raw = transaction.open_table(RAW_PAIRS)?;
        let mut pairs = transaction.open_table(PAIRS)?;
        let mut stored = Vec::new();
        for pair in raw.iter()? {
            let (key, value) = pair?;
            Stored::Inline(value.value()).write(&mut stored);
            pairs.insert(key.value(), &stored[..])?;
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(FORMAT_KEY, FORMAT.to_be_bytes().as_slice())?;
    }
    transaction.delete_table(RAW_PAIRS)?;
    transaction.commit()?;
    Ok(())
}

/// Notes in `transaction` where the log begins once it is committed.
pub(super) fn write_position(
    transaction: &WriteTransaction,
    position: &LogPosition,
) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert(FORMAT_KEY, FORMAT.to_be_bytes().as_slice())?;
    meta.insert(LOG_KEY, encode_position(position).as_slice())?;
    Ok(())
}

fn encode_position(position: &LogPosition) -> [u8; 33] {
    let LogPosition { id, segment, sequence, in_use, version } = *position;
    let mut encoded = [0; 33];
    encoded[..8].copy_from_slice(&id.to_be_bytes());
    encoded[8..16].copy_from_slice(&segment.to_be_bytes());
    encoded[16..24].copy_from_slice(&sequence.to_be_bytes());
    encoded[24] = u8::from(in_use);
    encoded[25..].copy_from_slice(&version.as_u64().to_be_bytes());
    encoded
}

fn decode_position(encoded: &[u8]) -> Option<LogPosition> {
    let (id, rest) = encoded.split_first_chunk()?;
    let (segment, rest) = rest.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let (in_use, rest) = match rest {
        [0, rest @ ..] => (false, rest),
        [1, rest @ ..] => (true, rest),
        _ => return None,
    };
    let version = match rest {
        [] => 0,
        _ => u64::from_be_bytes(rest.try_into().ok()?),
    };
    Some(LogPosition {
        id: u64::from_be_bytes(*id),
        segment: u64::from_be_bytes(*segment),
        sequence: u64::from_be_bytes(*sequence),
        in_use,
        version: Version::from_u64(version),
    })
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

/// Says why the store at `path` cannot be opened.
pub(super) fn open_error(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            OpenError::Io { path, source }
        }
        other => OpenError::Corrupt { path, what: other.to_string() },
    }
}

/// Says what a failure of redb means for the store at `path`.
pub(super) fn storage_error(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(what) => {
            StoreError::Corrupt { path: path.to_owned(), what: what.into() }
        }
        redb::Error::Io(source) => io_error(path, source),
        other => io_error(path, io::Error::other(other.to_string())),
    }
}

/// Says what a failure of the disk means for the store at `path`.
pub(super) fn io_error(path: &Path, source: io::Error) -> StoreError {
    let path: PathBuf = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path },
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            StoreError::ReadOnly { path }
        }
        io::ErrorKind::UnexpectedEof => {
            StoreError::Corrupt { path, what: "it is cut short".into() }
        }
        _ => StoreError::Io { path, source: Arc::new(source) },
    }
}

#[cfg(test)]
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

/// Makes an empty database a store of the first format.
#[cfg(test)]
pub(super) fn write_first_format(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(RAW_PAIRS)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(FORMAT_KEY, OLDEST_FORMAT.to_be_bytes().as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}
