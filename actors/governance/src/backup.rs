//! A workspace in one file: taken from a running deployment, verified by anybody, restored into another store.
//!
//! A backup is one consistent cut. What is only ever added to, the entries of the log, is read first, in transactions
//! of their own, while the workspace goes on; everything that changes, and the entries that came meanwhile, is read in
//! one snapshot at the end. Snapshots last five seconds, so a workspace with more changing state than is read in that
//! time is refused with [`BackupError::TooLarge`].
//!
//! The file holds all of the workspace and nothing of the deployment: no certificate, token, MAC or log key, and secrets
//! as they are sealed. A restore lays the entries out for the shards of its target, so a store with another number of
//! shards takes it as well.

mod contents;
mod examine;
mod frame;
mod laying;
mod place;
mod restore;
mod rows;
mod spool;
mod take;
mod target;

use std::{io, path::PathBuf};

use aa_protocol::WorkspaceId;
use aa_store::{CommitError, MAX_TRANSACTION_AGE, StoreError};

pub(crate) use self::place::Backups;
pub use self::{
    examine::{Contents, Trust, verify},
    restore::{Phase, Restored, Standing, VerifiedFile, restore, undo},
    take::Backup,
};

/// Why no backup was taken.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Each workspace has one at a time.
    #[error("another backup of this workspace is being taken; try again when it is done")]
    Busy,
    /// What changes is more than a snapshot can be read for.
    #[error(
        "the workspace has more changing state than can be read in the {} s that a snapshot lasts: {rows} rows and {entries} entries of {bytes} bytes were read; take the backup at a quieter time, or stop the control plane and copy its store with `aasm store copy`",
        MAX_TRANSACTION_AGE.as_secs()
    )]
    TooLarge {
        /// Rows read until then.
        rows: u64,
        /// Entries read until then.
        entries: u64,
        /// Of both.
        bytes: u64,
    },
    /// What a snapshot holds is set aside until it is handed on.
    #[error("no room to set a snapshot aside: {0}; it takes a temporary file (TMPDIR)")]
    Room(#[from] io::Error),
    /// The work ended early.
    #[error("the work ended early")]
    Ended,
}

/// A file that is not the backup it should be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is something else.
    #[error("it is no backup of a workspace")]
    NotABackup,
    /// Another program wrote it.
    #[error(
        "it has backup format {0}, this program reads format 1; use the version that wrote it, or a later one"
    )]
    OtherFormat(char),
    /// Its end is missing.
    #[error("it ends within the frame at byte {at}: it was cut off; copy or take it again")]
    CutOff {
        /// Where the frame begins.
        at: u64,
    },
    /// It was given up.
    #[error("the control plane could not finish it: {0}")]
    NotTaken(String),
    /// A frame does not follow from what precedes it.
    #[error(
        "the frame at byte {at} does not have the digest of what was written: it was altered, moved or put in; use another copy"
    )]
    Altered {
        /// Where the frame begins.
        at: u64,
    },
    /// The frame is whole, but says what cannot be.
    #[error("the frame at byte {at} is not consistent with the others: {problem}")]
    Inconsistent {
        /// Where the frame begins.
        at: u64,
        /// What is wrong.
        problem: String,
    },
    /// The one who should have does not vouch for it.
    #[error("nobody trusted vouches for it: {0}")]
    Untrusted(String),
}

/// Why a workspace was not restored. Until it is, no trace of it is served.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is not a backup, or not as it was written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nothing is overwritten.
    #[error(
        "the store already has workspace {0}; a backup is restored only where its workspace is not, for example into a new store"
    )]
    Exists(WorkspaceId),
    /// Something of it is there, but it is not.
    #[error(
        "the store holds parts of workspace {0} that no restore has put there; name a new or another store"
    )]
    Remains(WorkspaceId),
    /// Whose owners are to run the deployment is not for a file to say.
    #[error(
        "the store has no workspace yet, so it has to be said what {0} is to be: the deployment's home, whose owners run it (--home), or a tenant of it, and the first `aasm up` makes a home besides (--tenant)"
    )]
    NoHome(WorkspaceId),
    /// A deployment has one home.
    #[error(
        "the store's deployment has workspace {0} as its home; restore this one as a tenant, or into a new store"
    )]
    OtherHome(WorkspaceId),
    /// Somebody else restores it.
    #[error(
        "another restore of workspace {0} into this store has begun; let one of them run alone"
    )]
    Overtaken(WorkspaceId),
    /// There is nothing to undo.
    #[error("the store holds no interrupted restore of workspace {0}")]
    NothingToUndo(WorkspaceId),
    /// A key of the workspace opens another one there.
    #[error(
        "API key `{0}` of the backup is known to the store as another's; restore into another store"
    )]
    KeyTaken(String),
    /// An entry cannot be given a shard.
    #[error(
        "the entries of {stream} have no window in the backup, so they cannot be laid out in {shards} shards; restore into a store with {source_shards}"
    )]
    Placeless {
        /// The stream.
        stream: String,
        /// Shards of the target.
        shards: u16,
        /// Shards of the source.
        source_shards: u16,
    },
    /// What was read back is not what was written.
    #[error(
        "the store holds {found} pairs of the workspace that differ from the {written} that were written; something else writes to it, or it does not keep what it is given"
    )]
    Differs {
        /// Pairs that were written.
        written: u64,
        /// Pairs that were found.
        found: u64,
    },
    /// The file was changed while it was read.
    #[error("{} was changed while it was restored; leave it alone and try again", .0.display())]
    Changed(PathBuf),
    /// The store holds a copy that was not completed.
    #[error(transparent)]
    IncompleteCopy(#[from] aa_store::copy::IncompleteCopy),
    /// The layout of the store.
    #[error(transparent)]
    Layout(#[from] aa_runtime::NodeError),
    /// A stored value does not read.
    #[error(transparent)]
    Damaged(#[from] crate::stored::Damaged),
    /// The store cannot be read.
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    /// The store cannot be written.
    #[error("the store cannot be written: {0}")]
    Commit(#[from] CommitError),
}

impl FileError {
    fn inconsistent(at: u64, problem: impl Into<String>) -> Self {
        Self::Inconsistent { at, problem: problem.into() }
    }
}

#[cfg(test)]
mod tests;
