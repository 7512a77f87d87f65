//! One transaction on the cluster.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use async_trait::async_trait;
use bytes::Bytes;
use foundationdb::{
    FdbError, FdbResult, RangeOption,
    options::{ConflictRangeType, MutationType, StreamingMode, TransactionOption},
};
use tokio::time::timeout;

use super::{Shared, failure, meters::count};
use crate::{
    CommitError, KeyRange, LimitError, MAX_STAMPED, MAX_TRANSACTION_AGE, MAX_TRANSACTION_BYTES,
    Order, STAMP_BYTES, StoreError, Transaction, Version,
    limits::{check_key, check_range, check_stamped, check_value},
};

/// The client library's transaction, with the limits and errors of all stores.
pub(super) struct FdbTransaction {
    shared: Arc<Shared>,
    inner: foundationdb::Transaction,
    version: Version,
    begun: Instant,
    bytes: usize,
    /// Whether there is anything that a commit must bring to the cluster.
    writes: bool,
    /// Handed to the library at the commit only: it refuses to read ranges that will be stamped.
    stamped: Vec<(Bytes, Bytes)>,
    /// The first limit a write broke; it fails the commit.
    broken: Option<LimitError>,
    /// What the library refused of a write; it fails the commit.
    refused: Option<FdbError>,
}

// === impl FdbTransaction ===

impl FdbTransaction {
    /// A transaction that reads at `version`, and conflicts with what is committed after it.
    pub(super) fn new(
        shared: Arc<Shared>,
        inner: foundationdb::Transaction,
        version: Version,
    ) -> Self {
        count(&shared.meters.begun);
        Self {
            shared,
            inner,
            version,
            begun: Instant::now(),
            bytes: 0,
            writes: false,
            stamped: Vec::new(),
            broken: None,
            refused: None,
        }
    }

    /// Waits for a read, which must not be too late, nor take too long.
    async fn read<T>(
        &self,
        meter: &AtomicU64,
        read: impl Future<Output = FdbResult<T>>,
    ) -> Result<T, StoreError> {
        count(meter);
        let age = self.begun.elapsed();
        let read = if age > MAX_TRANSACTION_AGE {
            Err(StoreError::TooOld { age })
        } else {
            match timeout(self.shared.timeout, read).await {
                Ok(read) => read.map_err(|error| failure::of_read(error, age)),
                Err(_) => Err(failure::timed_out()),
            }
        };
        read.inspect_err(|error| self.shared.meters.failed(error))
    }

    async fn read_key(&mut self, key: &[u8], snapshot: bool) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        if !snapshot {
            self.bytes += key.len();
        }
        let value = self.inner.get(&self.shared.keyspace.key(key), snapshot);
        let value = self.read(&self.shared.meters.reads, value).await?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    async fn read_range(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
        snapshot: bool,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        check_range(range)?;
        let mut found = Vec::new();
        if range.is_empty() || limit == 0 {
            return Ok(found);
        }
        if !snapshot {
            self.bytes += range.begin().len() + range.end().len();
        }
        let keyspace = &self.shared.keyspace;
        let mut page = RangeOption::from(keyspace.range(range));
        page.reverse = order == Order::Reverse;
        page.limit = Some(limit);
        // The largest pages that the library makes, about 80 kB.
        page.mode = StreamingMode::WantAll;
        loop {
            let pairs = self.inner.get_range(&page, 1, snapshot);
            let pairs = self.read(&self.shared.meters.read_pages, pairs).await?;
            found.extend(pairs.iter().filter_map(|pair| {
                // The range is within the prefix, so no key is of somebody else.
                let key = keyspace.own(pair.key())?;
                Some((key, Bytes::copy_from_slice(pair.value())))
            }));
            match page.next_range(&pairs) {
                Some(next) => page = next,
                None => return Ok(found),
            }
        }
    }

    /// Counts a write's bytes and says whether it is within all limits.
    fn admit(&mut self, bytes: usize, checked: Result<(), LimitError>) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        let checked = checked.and_then(|()| self.within_size());
        if let Err(limit) = checked {
            self.broken.get_or_insert(limit);
        }
        checked.is_ok()
    }

    const fn within_size(&self) -> Result<(), LimitError> {
        if self.bytes > MAX_TRANSACTION_BYTES {
            return Err(LimitError::Transaction { bytes: self.bytes });
        }
        Ok(())
    }

    fn admit_range(&mut self, range: &KeyRange) -> bool {
        let bytes = range.begin().len() + range.end().len();
        self.admit(bytes, check_range(range)) && !range.is_empty()
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.writes = true;
        self.inner.set(&self.shared.keyspace.key(key), value);
    }

    fn add_conflict(&mut self, range: &KeyRange, kind: ConflictRangeType) {
        let (begin, end) = self.shared.keyspace.range(range);
        let added = self.inner.add_conflict_range(&begin, &end, kind);
        self.note(added);
    }

    fn note(&mut self, result: FdbResult<()>) {
        if let Err(error) = result {
            self.refused.get_or_insert(error);
        }
    }

    fn checked(&self) -> Result<(), CommitError> {
        if let Some(limit) = self.broken {
            return Err(limit.into());
        }
        // Writes were counted as they came, reads were not stopped.
        self.within_size()?;
        match self.refused {
            Some(error) => Err(CommitError::Store(failure::unavailable(error))),
            None => Ok(()),
        }
    }

    async fn send(self) -> Result<Version, CommitError> {
        self.checked()?;
        for (index, (prefix, value)) in (0u16..=u16::MAX).zip(&self.stamped) {
            let key = self.shared.keyspace.stamped(prefix, index);
            self.inner.atomic_op(&key, value, MutationType::SetVersionstampedKey);
        }
        let asked = Instant::now();
        let committed = timeout(self.shared.timeout, self.inner.commit()).await;
        // Given up on, it may arrive still.
        let committed = committed.map_err(|_| CommitError::UnknownResult(failure::timed_out()))?;
        let refused = |error| failure::of_commit(error, self.bytes);
        let committed = committed.map_err(|error| refused(error.into()))?;
        let version = committed.committed_version().map_err(refused)?;
        // Negative if there was nothing to commit, which the library knows better than we.
        let version = u64::try_from(version).map_or(self.version, Version::from_u64);
        self.shared.versions.saw(version, asked);
        Ok(version)
    }
}

#[async_trait]
impl Transaction for FdbTransaction {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read_key(key, false).await
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read_key(key, true).await
    }

    async fn range(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.read_range(range, limit, order, false).await
    }

    async fn range_snapshot(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.read_range(range, limit, order, true).await
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        let checked = check_key(&key).and_then(|()| check_value(&value));
        if self.admit(key.len() + value.len(), checked) {
            self.set(&key, &value);
        }
    }

    fn put_without_conflict(&mut self, key: Bytes, value: Bytes) {
        let checked = check_key(&key).and_then(|()| check_value(&value));
        if self.admit(key.len() + value.len(), checked) {
            let next = self.inner.set_option(TransactionOption::NextWriteNoWriteConflictRange);
            self.note(next);
            self.set(&key, &value);
        }
    }

    fn put_stamped(&mut self, prefix: Bytes, value: Bytes) {
        let mut checked = check_stamped(&prefix, &value);
        if self.stamped.len() == MAX_STAMPED {
            checked = Err(LimitError::Stamped);
        }
        if self.admit(prefix.len() + STAMP_BYTES + value.len(), checked) {
            self.writes = true;
            self.stamped.push((prefix, value));
        }
    }

    fn delete(&mut self, key: Bytes) {
        if self.admit(key.len(), check_key(&key)) {
            self.writes = true;
            self.inner.clear(&self.shared.keyspace.key(&key));
        }
    }

    fn delete_range(&mut self, range: KeyRange) {
        if self.admit_range(&range) {
            self.writes = true;
            let (begin, end) = self.shared.keyspace.range(&range);
            self.inner.clear_range(&begin, &end);
        }
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        if self.admit_range(&range) {
            self.add_conflict(&range, ConflictRangeType::Read);
        }
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        if self.admit_range(&range) {
            self.writes = true;
            self.add_conflict(&range, ConflictRangeType::Write);
        }
    }

    async fn commit(self: Box<Self>) -> Result<Version, CommitError> {
        if let (None, false) = (&self.broken, self.writes) {
            return Ok(self.version);
        }
        let (meters, bytes) = (Arc::clone(&self.shared.meters), self.bytes);
        let sent = self.send().await;
        match &sent {
            Ok(_) => meters.committed(bytes),
            Err(error) => meters.refused(error),
        }
        sent
    }
}
