//! The contract every store keeps.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{CommitError, KeyRange, StoreError, Watch};

/// An ordered transactional key-value store, shared as `Arc<dyn Store>`.
///
/// Transactions are serializable, in the order of their commits, as far as they read without
/// `_snapshot`, and externally consistent: a transaction begun after a commit was answered sees it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Begins a transaction on a snapshot of everything committed so far. Cheap: no disk is touched.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Stopped`].
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError>;

    /// Begins a transaction whose conflicts count from `known`: the version of an earlier commit or
    /// read of this opening, about a second old at most. What it reads, or adds as a read conflict,
    /// is checked against all commits after `known`; of a cluster also against that of `known` itself,
    /// for others share its version. What it reads may be as of just before `known`, or as of now.
    /// A cluster store is spared the round trip for a version, so this is for what writes much and
    /// depends on little that is known already. A `known` that the store no longer knows the
    /// commits after makes the commit conflict.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Stopped`].
    async fn begin_after(&self, known: Version) -> Result<Box<dyn Transaction>, StoreError>;

    /// Watches one key: the result resolves once a transaction that gave the key another value, or
    /// removed it, commits after this call. It may also resolve though the value is the same, so look
    /// again. To miss nothing, watch first, then read in a transaction begun after that, then await.
    fn watch(&self, key: &[u8]) -> Watch;

    /// What became of transactions since the store was opened. A store that counts nothing gives zeros.
    fn counters(&self) -> StoreCounters {
        StoreCounters::default()
    }

    /// Whether the store can serve again without a restart of the process. That of a cluster always can.
    ///
    /// # Errors
    /// [`StoreError`] says after what failure to write an embedded store has stopped.
    fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The kind of store, for telling people: `memory`, `redb`, `foundationdb`.
    fn kind(&self) -> &'static str;
}

/// One transaction: reads from a snapshot overlaid with its own writes. Dropping it forgets it.
///
/// Keys hold at most [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES) and do not begin with `0xff`, values at
/// most [`MAX_VALUE_BYTES`](crate::MAX_VALUE_BYTES). Reading past a limit fails at once; a write past
/// a limit is remembered and fails the commit.
///
/// Reads of the embedded stores do not yield; one key or a page of a range takes well under a
/// millisecond when cached, so bound each range by its limit. A transaction older than
/// [`MAX_TRANSACTION_AGE`](crate::MAX_TRANSACTION_AGE) can neither read nor commit what it read.
#[async_trait]
pub trait Transaction: Send {
    /// The value of a key. The commit conflicts if another transaction writes the key meanwhile.
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The value of a key, without a conflict on it.
    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// At most `limit` pairs of a range from its start (or its end, [`Order::Reverse`]). The commit
    /// conflicts if another transaction writes into the part that was read: up to the last pair
    /// returned when the limit was reached, else the whole range. A limit of 0 reads nothing.
    async fn range(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// As [`Transaction::range`], without a conflict.
    async fn range_snapshot(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// Sets a key.
    fn put(&mut self, key: Bytes, value: Bytes);

    /// Sets a key, without making transactions that read it conflict: for a key that one writer sets once
    /// and others read from snapshots, so that nobody has to remember it.
    fn put_without_conflict(&mut self, key: Bytes, value: Bytes);

    /// Sets a key that nobody else ever sets: `prefix`, then the [`STAMP_BYTES`] of the commit's stamp,
    /// big-endian: its place in the order of all commits (10) and the number of this call within the
    /// transaction (2). So stamped keys of one prefix are in the order in which they were committed, over all
    /// writers and also over openings of the store. It depends on nothing; transactions that read from
    /// the range of the prefix conflict with it.
    ///
    /// The key exists with the commit, after all other writes of the transaction: it is not seen before,
    /// nor removed by a [`Transaction::delete_range`] beside it. At most [`MAX_STAMPED`] per transaction.
    ///
    /// [`MAX_STAMPED`]: crate::MAX_STAMPED
    fn put_stamped(&mut self, prefix: Bytes, value: Bytes);

    /// Removes a key, whether it exists or not.
    fn delete(&mut self, key: Bytes);

    /// Removes every key of a range. The embedded store visits each pair it removes.
    fn delete_range(&mut self, range: KeyRange);

    /// Makes the commit conflict if another transaction writes into the range, as if it had been read.
    fn add_read_conflict(&mut self, range: KeyRange);

    /// Makes concurrent transactions that read from the range conflict, as if it had been written.
    fn add_write_conflict(&mut self, range: KeyRange);

    /// Applies the writes whole and durably, or not at all. One without writes and write conflicts
    /// always commits. Dropping the future leaves open whether the transaction commits.
    ///
    /// # Errors
    /// See [`CommitError`]: only [`CommitError::UnknownResult`] leaves open whether it was applied.
    async fn commit(self: Box<Self>) -> Result<Version, CommitError>;
}

/// Counters of a store, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Transactions committed, without those that only read.
    pub committed: u64,
    /// Transactions refused as conflicts.
    pub conflicts: u64,
    /// Commits whose result is unknown.
    pub unknown: u64,
    /// Begins, reads and commits that the store could not serve.
    pub unavailable: u64,
    /// Bytes committed.
    pub bytes: u64,
}

/// The direction of a range read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Ascending, from the start of the range.
    Forward,
    /// Descending, from the end of the range.
    Reverse,
}

/// The length of what [`Transaction::put_stamped`] puts after the prefix, in bytes.
pub const STAMP_BYTES: usize = 12;

/// The place of a commit in the order of all commits. Comparable within one opening of one store; of
/// a transaction that wrote nothing, the version it read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

// === impl Version ===

impl Version {
    /// Wraps a commit's number.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The commit's number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
