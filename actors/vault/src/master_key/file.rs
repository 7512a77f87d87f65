//! A master key in a file of this machine.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aa_protocol::Timestamp;
use async_trait::async_trait;
use rustix::{fs::OFlags, io::Errno};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    MasterKey, MasterKeyError, MasterKeyId, WrapContext, WrappedKey,
    local::{LocalKey, fingerprint},
    unknown,
};
use crate::{
    DataKey,
    encoding::{Format, read_key, write_key},
    random::{self, RandomError},
};

/// The largest master key file, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The most generations of the key that a file holds.
pub const MAX_GENERATIONS: usize = 32;

/// A master key in a file that only its owner can read or write, in a directory that nobody else can write.
///
/// The file holds generations of the key. The newest wraps; the others open what they wrapped, until
/// [`FileMasterKey::remove`] drops them. Ids are `file:` and a fingerprint of the key. Writers take turns by
/// a lock on the directory, and replace the file as a whole: a crash leaves the old or the new one.
#[derive(Debug)]
pub struct FileMasterKey {
    path: PathBuf,
    /// Oldest first, never empty.
    generations: Vec<Generation>,
}

#[derive(Debug)]
struct Generation {
    created_at: Timestamp,
    key: LocalKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFile {
    format: Format,
    /// Oldest first.
    generations: Vec<StoredGeneration>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct StoredGeneration {
    #[zeroize(skip)]
    id: MasterKeyId,
    #[zeroize(skip)]
    created_at: Timestamp,
    key: String,
}

/// Why a master key file was not used. It never shows what the file holds.
#[derive(Debug, thiserror::Error)]
pub enum FileKeyError {
    /// The system did not do what was asked.
    #[error("could not {attempt} the master key file {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        attempt: &'static str,
        /// The system's reason.
        error: io::Error,
    },
    /// There is none.
    #[error(
        "there is no master key file {path}; restore it from a backup, for without it no secret can be \
         read, or make one if there are no secrets yet"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A new key was to be made where one is.
    #[error("{path} is already there; a new master key is added to it, never put in its place")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The path leads to a symbolic link, a directory, a device or a pipe.
    #[error("{path} is not a plain file; put the master key file itself there, not a link to it")]
    NotPlain {
        /// The path.
        path: PathBuf,
    },
    /// The file has a second name, which may be anywhere.
    #[error(
        "{path} has {links} names in the file system; remove the others (`find / -samefile {path}`)"
    )]
    Linked {
        /// The file.
        path: PathBuf,
        /// How many names.
        links: u64,
    },
    /// The file is another user's.
    #[error(
        "{path} belongs to user {owner}, but this process runs as user {user}; run `chown {user} {path}`"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who reads it.
        user: u32,
    },
    /// Others may read or write the file.
    #[error(
        "{path} can be read or written by others (mode {mode:o}); run `chmod 600 {path}` and rotate the key"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others may put another file in its place.
    #[error("others can write to the directory {path} (mode {mode:o}); run `chmod go-w {path}`")]
    ExposedDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is empty or too large.
    #[error(
        "{path} has {bytes} bytes, and a master key file has 1 to {MAX_FILE_BYTES}; restore it from a backup"
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The file does not hold what it should.
    #[error("{path} is damaged: {problem}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No room for another generation.
    #[error(
        "{path} holds {MAX_GENERATIONS} generations of the master key; remove some that nothing uses"
    )]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The generation is not in the file.
    #[error("{path} holds no master key {id}")]
    NoGeneration {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        id: MasterKeyId,
    },
    /// The generation is still needed.
    #[error(
        "the master key {id} in {path} still wraps data keys; re-wrap them first (`aasm secret rotate-master`)"
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// The generation.
        id: MasterKeyId,
    },
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
}

// === impl FileMasterKey ===

impl FileMasterKey {
    /// Makes a file with one generation.
    ///
    /// # Errors
    /// There is a file already, its directory is exposed or missing, or the system refuses.
    pub fn create(path: &Path, now: Timestamp) -> Result<Self, FileKeyError> {
        let _turn = take_turn(path)?;
        let first = StoredGeneration::random(now)?;
        let stored = StoredFile { format: Format, generations: vec![first] };
        let draft = stored.draft(path)?;
        draft.persist_noclobber(path).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => FileKeyError::Exists { path: path.to_owned() },
            _ => io_error(path, "create")(error.error),
        })?;
        sync_directory(path)?;
        Self::open(path)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It is missing, exposed, another user's, not a plain file, or damaged; or its directory is exposed.
    pub fn open(path: &Path) -> Result<Self, FileKeyError> {
        check_directory(path)?;
        let stored = StoredFile::read(path)?;
        let generations = stored.generations.iter().map(|stored| {
            let key = read_key(&stored.key)
                .filter(|key| stored.id.as_str() == generation_id(key))
                .ok_or_else(|| damaged(path, format!("{} is not the key of that id", stored.id)))?;
            Ok(Generation {
                created_at: stored.created_at,
                key: LocalKey::new(stored.id.clone(), &key),
            })
        });
        let generations: Vec<_> = generations.collect::<Result<_, FileKeyError>>()?;
        Ok(Self { path: path.to_owned(), generations })
    }

    /// Adds a generation, which wraps from now on, and gives the key as the file now has it.
    ///
    /// # Errors
    /// As [`FileMasterKey::open`]; and there are [`MAX_GENERATIONS`], or the system refuses.
    pub fn add(path: &Path, now: Timestamp) -> Result<Self, FileKeyError> {
        let _turn = take_turn(path)?;
        let mut stored = StoredFile::read(path)?;
        if stored.generations.len() >= MAX_GENERATIONS {
            return Err(FileKeyError::Full { path: path.to_owned() });
        }
        stored.generations.push(StoredGeneration::random(now)?);
        stored.replace(path)?;
        Self::open(path)
    }

    /// Removes a generation that is not the newest and not among `in_use`, which are the master keys that
    /// the key rings of **all** workspaces name. What only it opens is lost for good.
    ///
    /// # Errors
    /// As [`FileMasterKey::open`]; and there is no such generation, or it is needed.
    pub fn remove<'a>(
        path: &Path,
        id: &MasterKeyId,
        in_use: impl IntoIterator<Item = &'a MasterKeyId>,
    ) -> Result<Self, FileKeyError> {
        let _turn = take_turn(path)?;
        let mut stored = StoredFile::read(path)?;
        let at = stored.generations.iter().position(|generation| generation.id == *id);
        let at =
            at.ok_or_else(|| FileKeyError::NoGeneration { path: path.to_owned(), id: id.clone() })?;
        if at + 1 == stored.generations.len() || in_use.into_iter().any(|used| used == id) {
            return Err(FileKeyError::InUse { path: path.to_owned(), id: id.clone() });
        }
        stored.generations.remove(at);
        stored.replace(path)?;
        Self::open(path)
    }

    /// The generations, oldest first: ids and when they were made.
    pub fn generations(&self) -> impl ExactSizeIterator<Item = (&MasterKeyId, Timestamp)> {
        self.generations.iter().map(|generation| (generation.key.id(), generation.created_at))
    }

    fn newest(&self) -> &LocalKey {
        &self.generations.last().expect("a file without a generation is refused").key
    }

    fn key(&self, id: &MasterKeyId) -> Option<&LocalKey> {
        self.generations.iter().map(|generation| &generation.key).find(|key| key.id() == id)
    }
}

#[async_trait]
impl MasterKey for FileMasterKey {
    fn id(&self) -> MasterKeyId {
        self.newest().id().clone()
    }

    fn opens(&self, id: &MasterKeyId) -> bool {
        self.key(id).is_some()
    }

    fn describe(&self) -> String {
        format!("the master key file {}", self.path.display())
    }

    async fn wrap(
        &self,
        key: &DataKey,
        context: &WrapContext,
    ) -> Result<WrappedKey, MasterKeyError> {
        self.newest().wrap(key, context)
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError> {
        let key = self.key(&wrapped.master).ok_or_else(|| unknown(self, &wrapped.master))?;
        key.unwrap(wrapped, context)
    }
}

// === impl StoredGeneration ===

impl StoredGeneration {
    fn random(now: Timestamp) -> Result<Self, RandomError> {
        let mut key = Zeroizing::new([0; 32]);
        random::fill(&mut *key)?;
        let id = generation_id(&key).parse().expect("a word, a colon and 16 hexadecimal digits");
        Ok(Self { id, created_at: now, key: std::mem::take(&mut *write_key(&key)) })
    }
}

// === impl StoredFile ===

impl StoredFile {
    fn read(path: &Path) -> Result<Self, FileKeyError> {
        let bytes = read_private(path)?;
        let stored: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(path, outline(&error)))?;
        if stored.generations.is_empty() || stored.generations.len() > MAX_GENERATIONS {
            let problem = format!("it holds {} generations", stored.generations.len());
            return Err(damaged(path, problem));
        }
        Ok(stored)
    }

    /// A file beside `path`, readable by its owner only, with this as its durable content.
    fn draft(&self, path: &Path) -> Result<NamedTempFile, FileKeyError> {
        // Room for all of it, so that growing leaves no copy behind.
        let mut text = Zeroizing::new(Vec::with_capacity(256 + 256 * self.generations.len()));
        serde_json::to_writer_pretty(&mut *text, self)
            .map_err(|error| io_error(path, "write")(error.into()))?;
        text.push(b'\n');
        // `tempfile` opens with O_EXCL and mode 0600, and removes the draft when it is dropped.
        let mut draft = tempfile::Builder::new()
            .prefix(".master-key-")
            .tempfile_in(directory(path))
            .map_err(io_error(path, "write"))?;
        let written = draft.write_all(&text).and_then(|()| draft.as_file().sync_all());
        written.map_err(io_error(path, "write"))?;
        Ok(draft)
    }

    fn replace(&self, path: &Path) -> Result<(), FileKeyError> {
        let draft = self.draft(path)?;
        draft.persist(path).map_err(|error| io_error(path, "replace")(error.error))?;
        sync_directory(path)
    }
}

fn generation_id(key: &[u8; 32]) -> String {
    format!("file:{}", fingerprint(key))
}

/// Waits until no other process changes a file of this directory. Ends with the returned file.
fn take_turn(path: &Path) -> Result<File, FileKeyError> {
    check_directory(path)?;
    let turn = File::open(directory(path)).map_err(io_error(path, "lock"))?;
    turn.lock().map_err(io_error(path, "lock"))?;
    Ok(turn)
}

fn check_directory(path: &Path) -> Result<(), FileKeyError> {
    /// Others may write, but not replace what is another's.
    const STICKY: u32 = 0o1000;
    let directory = directory(path);
    let metadata = std::fs::metadata(directory).map_err(io_error(path, "find the directory of"))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 && mode & STICKY == 0 {
        return Err(FileKeyError::ExposedDirectory { path: directory.to_owned(), mode });
    }
    Ok(())
}

/// Reads a file that only this user can read. All is checked on the opened file, so that what was checked
/// is what is read.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileKeyError> {
    // A pipe would make the opener wait for a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let custom = i32::try_from(flags.bits()).expect("open flags fit the int that open takes");
    let opened = OpenOptions::new().read(true).custom_flags(custom).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FileKeyError::Missing { path: path.to_owned() },
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            FileKeyError::NotPlain { path: path.to_owned() }
        }
        _ => io_error(path, "open")(error),
    })?;
    let metadata = file.metadata().map_err(io_error(path, "inspect"))?;
    let path = path.to_owned();
    if !metadata.is_file() {
        return Err(FileKeyError::NotPlain { path });
    }
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(FileKeyError::Foreign { path, owner, user });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileKeyError::Exposed { path, mode });
    }
    if metadata.nlink() != 1 {
        return Err(FileKeyError::Linked { path, links: metadata.nlink() });
    }
    let bytes = metadata.len();
    if bytes == 0 || bytes > MAX_FILE_BYTES {
        return Err(FileKeyError::Size { path, bytes });
    }
    // One byte more than the file had, so that reading it does not grow the buffer and leave a copy.
    let room = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(1);
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    Read::by_ref(&mut file).take(bytes).read_to_end(&mut text).map_err(io_error(&path, "read"))?;
    Ok(text)
}

fn sync_directory(path: &Path) -> Result<(), FileKeyError> {
    // The name must outlive a crash too.
    let directory = File::open(directory(path)).map_err(io_error(path, "make durable"))?;
    directory.sync_all().map_err(io_error(path, "make durable"))
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn io_error(path: &Path, attempt: &'static str) -> impl FnOnce(io::Error) -> FileKeyError {
    move |error| FileKeyError::Io { path: path.to_owned(), attempt, error }
}

fn damaged(path: &Path, problem: String) -> FileKeyError {
    FileKeyError::Damaged { path: path.to_owned(), problem }
}

/// Where the text stops being right. What stands there may be a part of a key, which serde quotes.
fn outline(error: &serde_json::Error) -> String {
    format!(
        "line {}, column {} is not what a master key file has there",
        error.line(),
        error.column()
    )
}
