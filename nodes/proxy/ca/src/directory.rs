//! The directory an authority is kept in: read with suspicion, written whole or not at all, by one process at a time.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

/// The file with key and certificates.
pub const AUTHORITY_FILE: &str = "authority.pem";

/// A directory that may hold an authority.
pub(crate) struct Directory<'a> {
    path: &'a Path,
}

/// The right to write to a directory, while it lives.
pub(crate) struct Locked<'a> {
    path: &'a Path,
    _lock: File,
}

/// Why an authority's directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The file system refused.
    #[error("could not {what} {path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// Others than the owner can read the key.
    #[error(
        "{path} can be read by others (mode {mode:o}), who could pose as every host; run `chmod 600 {path}`, and \
         `aasm ca rotate --replace` if somebody may have read it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others than the owner can put another key in its place.
    #[error("{path} can be written to by others (mode {mode:o}); run `chmod 700 {path}`")]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is another user's.
    #[error(
        "{path} belongs to user {owner}, and this process runs as user {user}; run it as that user, or `chown {user} \
         {path}`"
    )]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// The file is no authority's.
    #[error("{path} has {bytes} bytes, more than an authority ever has; restore it from a backup")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Another process is writing, and does not come to an end.
    #[error(
        "{path} has been held by another process for {} s; see whether one hangs", LOCK_PATIENCE.as_secs()
    )]
    Busy {
        /// The lock's file.
        path: PathBuf,
    },
}

/// Held, by `flock`, by who writes.
const LOCK_FILE: &str = "lock";
const DRAFT_FILE: &str = "authority.pem.new";
/// The largest file that is read.
const MAX_BYTES: u64 = 256 * 1024;
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(5);

// === impl Directory ===

impl<'a> Directory<'a> {
    pub(crate) const fn new(path: &'a Path) -> Self {
        Self { path }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.path.join(AUTHORITY_FILE)
    }

    /// What the authority's file holds; `None` when there is none.
    pub(crate) fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, DirectoryError> {
        let path = self.file();
        let failed = |error| DirectoryError::Io { path: path.clone(), what: "read", error };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        // Of the open file: its name could come to mean another.
        let metadata = file.metadata().map_err(failed)?;
        check_owner(&path, metadata.uid())?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(DirectoryError::Exposed { path, mode });
        }
        let bytes = metadata.len();
        if bytes > MAX_BYTES {
            return Err(DirectoryError::TooLarge { path, bytes });
        }
        self.check()?;
        // Room for all of it, so that no part of a key is left behind where a buffer was.
        let room = usize::try_from(bytes).unwrap_or_default() + 1;
        let mut text = Zeroizing::new(Vec::with_capacity(room));
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
        Ok(Some(text))
    }

    /// Waits until nobody else writes. Makes the directory when there is none.
    pub(crate) fn lock(&self) -> Result<Locked<'a>, DirectoryError> {
        let failed = |what| move |error| self.failed(what, error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.path)
            .map_err(failed("create"))?;
        self.check()?;
        let path = self.path.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&path).map_err(failed("lock"))?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Locked { path: self.path, _lock: lock }),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_PATIENCE => {
                    thread::sleep(LOCK_RETRY);
                }
                Err(TryLockError::WouldBlock) => return Err(DirectoryError::Busy { path }),
                Err(TryLockError::Error(error)) => return Err(self.failed("lock", error)),
            }
        }
    }

    /// Whether only its owner and root can put files into it.
    fn check(&self) -> Result<(), DirectoryError> {
        let metadata = self.path.metadata().map_err(|error| self.failed("read", error))?;
        check_owner(self.path, metadata.uid())?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o022 != 0 {
            return Err(DirectoryError::Writable { path: self.path.to_owned(), mode });
        }
        Ok(())
    }

    fn failed(&self, what: &'static str, error: io::Error) -> DirectoryError {
        DirectoryError::Io { path: self.path.to_owned(), what, error }
    }
}

/// Root's files are trusted: orchestrators mount secrets as root.
fn check_owner(path: &Path, owner: u32) -> Result<(), DirectoryError> {
    let user = rustix::process::geteuid().as_raw();
    if owner == user || owner == 0 || user == 0 {
        return Ok(());
    }
    Err(DirectoryError::Foreign { path: path.to_owned(), owner, user })
}

// === impl Locked ===

impl Locked<'_> {
    /// Puts `text` in the place of what the authority's file held, and returns when it will outlive a crash.
    pub(crate) fn write(&self, text: &[u8]) -> Result<(), DirectoryError> {
        let (file, draft) = (self.path.join(AUTHORITY_FILE), self.path.join(DRAFT_FILE));
        let failed = |error| DirectoryError::Io { path: file.clone(), what: "write", error };
        // One that a crash left behind may have another mode.
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut written =
            options.write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
        written.write_all(text).and_then(|()| written.sync_all()).map_err(failed)?;
        std::fs::rename(&draft, &file).map_err(failed)?;
        File::open(self.path).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}
