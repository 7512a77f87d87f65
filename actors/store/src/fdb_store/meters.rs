//! Counting what the store does.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{CommitError, StoreError};

/// Counters since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FdbStats {
    /// Transactions begun.
    pub begun: u64,
    /// Transactions committed, without those that only read.
    pub commits: u64,
    /// Bytes committed, as [`MAX_TRANSACTION_BYTES`](crate::MAX_TRANSACTION_BYTES) counts them.
    pub bytes: u64,
    /// Transactions refused as conflicts.
    pub conflicts: u64,
    /// Commits whose result is unknown.
    pub unknown: u64,
    /// Transactions refused for their size.
    pub too_large: u64,
    /// Reads refused for the age of their transaction.
    pub too_old: u64,
    /// Begins, reads and commits that the cluster did not serve.
    pub unavailable: u64,
    /// Read versions fetched: one for each begin that knew none.
    pub read_versions: u64,
    /// Keys read one by one.
    pub reads: u64,
    /// Pages of ranges read.
    pub read_pages: u64,
    /// Watches set.
    pub watches: u64,
}

#[derive(Debug, Default)]
pub(super) struct Meters {
    pub(super) begun: AtomicU64,
    pub(super) read_versions: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) read_pages: AtomicU64,
    pub(super) watches: AtomicU64,
    commits: AtomicU64,
    bytes: AtomicU64,
    conflicts: AtomicU64,
    unknown: AtomicU64,
    too_large: AtomicU64,
    too_old: AtomicU64,
    unavailable: AtomicU64,
}

// === impl Meters ===

impl Meters {
    pub(super) fn read(&self) -> FdbStats {
        let get = |meter: &AtomicU64| meter.load(Ordering::Relaxed);
        FdbStats {
            begun: get(&self.begun),
            commits: get(&self.commits),
            bytes: get(&self.bytes),
            conflicts: get(&self.conflicts),
            unknown: get(&self.unknown),
            too_large: get(&self.too_large),
            too_old: get(&self.too_old),
            unavailable: get(&self.unavailable),
            read_versions: get(&self.read_versions),
            reads: get(&self.reads),
            read_pages: get(&self.read_pages),
            watches: get(&self.watches),
        }
    }

    pub(super) fn committed(&self, bytes: usize) {
        count(&self.commits);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, error: &CommitError) {
        count(match error {
            CommitError::Conflict => &self.conflicts,
            CommitError::UnknownResult(_) => &self.unknown,
            CommitError::TooLarge(_) => &self.too_large,
            CommitError::Store(_) => &self.unavailable,
        });
    }

    pub(super) fn failed(&self, error: &StoreError) {
        match error {
            StoreError::TooOld { .. } => count(&self.too_old),
            StoreError::Unavailable { .. } => count(&self.unavailable),
            _ => {}
        }
    }
}

pub(super) fn count(meter: &AtomicU64) {
    meter.fetch_add(1, Ordering::Relaxed);
}
