//! What can go wrong, and what the caller does then.

use std::{borrow::Cow, io, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    LimitError,
    limits::{MAX_TRANSACTION_AGE, MAX_WATCHES},
};

/// A store that cannot serve. Cheap to clone, so that one failure can be told to many callers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer now.
    #[error("the {kind} store is unavailable: {why}; retry later")]
    Unavailable {
        /// The kind of store.
        kind: &'static str,
        /// Why, as far as known.
        why: Cow<'static, str>,
    },
    /// The disk is full.
    #[error("no space is left for the store at {}; free some and restart", path.display())]
    Full {
        /// The store's file.
        path: PathBuf,
    },
    /// The file or its file system cannot be written.
    #[error("the store at {} cannot be written; make its file system writable and restart", path.display())]
    ReadOnly {
        /// The store's file.
        path: PathBuf,
    },
    /// What is stored is damaged.
    #[error("the store at {} is damaged: {what}; restore it from a backup", path.display())]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// The damage that was met.
        what: Arc<str>,
    },
    /// The operating system refused.
    #[error("the store at {} failed: {source}; check the disk and restart", path.display())]
    Io {
        /// The store's file.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// An earlier failure stopped the store: after a failed write or fsync nothing it holds in memory
    /// may be trusted.
    #[error(
        "the store stopped after a failure; restart the process to recover what is durable. the failure: {cause}"
    )]
    Stopped {
        /// The failure.
        cause: Arc<StoreError>,
    },
    /// The transaction lived too long.
    #[error("the transaction is {} ms old, over the limit of {} ms; begin again", age.as_millis(), MAX_TRANSACTION_AGE.as_millis())]
    TooOld {
        /// Time since its begin.
        age: Duration,
    },
    /// There are as many watches as the store holds.
    #[error("all {MAX_WATCHES} watches of the store are in use; drop some or poll")]
    TooManyWatches,
    /// A read past a limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// A commit that was not acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// Something the transaction read was written since, or the store no longer knows. Nothing was
    /// applied: begin again.
    #[error("the transaction conflicts with a later commit; begin again")]
    Conflict,
    /// The transaction may or may not have been applied, now or later: read what it would have
    /// written before trying again.
    #[error("it is unknown whether the transaction was applied: {0}; look before trying again")]
    UnknownResult(#[source] StoreError),
    /// A write or the whole is past a limit. Nothing was applied, nor would it be on another try.
    #[error("the transaction is too large: {0}")]
    TooLarge(#[from] LimitError),
    /// The store cannot serve. Nothing was applied.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store in this one, has it open.
    #[error("the store at {} is in use by another process; stop that one first or choose another directory", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged or cut short. Nothing was changed.
    #[error("the store at {} is damaged: {what}; it is not repaired in place: move it away, then restore a backup or start empty and import an export", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The damage that was met.
        what: String,
    },
    /// It is a database, but of another program.
    #[error("{} is a redb database but not a store of Agent Assembly; choose another path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a version whose format this one does not know.
    #[error("the store at {} has format {found}, this program reads format {supported}; {}", path.display(), format_advice(*found, *supported))]
    Format {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u32,
        /// The format this program reads and writes.
        supported: u32,
    },
    /// The cluster cannot be used.
    #[error("cannot open the FoundationDB cluster of {}: {why}", cluster_file.display())]
    Cluster {
        /// Its cluster file.
        cluster_file: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The store is in a cluster, and the program cannot speak to one.
    #[error(
        "this program was built without FoundationDB; build it with `--features foundationdb`, or name the directory of an embedded store instead of fdb://"
    )]
    NotBuilt,
    /// The operating system refused.
    #[error("cannot open the store at {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

fn format_advice(found: u32, supported: u32) -> &'static str {
    if found > supported {
        "run the newer version that wrote it, or restore a backup made before the upgrade"
    } else {
        "open it with the version that wrote it, export, and import the export here"
    }
}

// === impl StoreError ===

impl StoreError {
    /// Whether the same call may succeed later in this process, on a new transaction.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::TooOld { .. } | Self::TooManyWatches)
    }
}

// === impl CommitError ===

impl CommitError {
    /// Whether the whole transaction may be run again at once, because nothing was applied.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Conflict => true,
            Self::UnknownResult(_) | Self::TooLarge(_) => false,
            Self::Store(error) => error.is_retryable(),
        }
    }
}
