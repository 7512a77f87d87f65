//! The transaction shared by the stores of this crate: a snapshot, an overlay of own writes, and the
//! conflicts collected on the way.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    CommitError, KeyRange, LimitError, MAX_STAMPED, MAX_TRANSACTION_AGE, MAX_TRANSACTION_BYTES,
    Order, STAMP_BYTES, StoreError, Transaction, Version,
    limits::{check_key, check_range, check_stamped, check_value},
    resolver::{CommitRequest, ReadConflicts},
    write_set::{Overlay, WriteSet},
};

/// An immutable view of all pairs at one version.
pub(crate) trait Snapshot: Send + Sync + 'static {
    fn version(&self) -> Version;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The pairs of a range that is not empty, in reading order.
    fn scan<'a>(&'a self, range: &KeyRange, order: Order) -> Result<Pairs<'a>, StoreError>;
}

pub(crate) type Pairs<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), StoreError>> + 'a>;

/// The rest of a store: time, health, and the way to commit.
pub(crate) trait Engine: Send + Sync + 'static {
    type Snapshot: Snapshot;

    fn elapsed(&self) -> Duration;

    /// Refuses reads while the store cannot serve them.
    fn readable(&self) -> Result<(), StoreError>;

    fn submit(
        &self,
        request: CommitRequest,
    ) -> impl Future<Output = Result<Version, CommitError>> + Send;
}

/// A transaction of an engine.
pub(crate) struct OptimisticTransaction<E: Engine> {
    engine: Arc<E>,
    snapshot: Arc<E::Snapshot>,
    /// Commits after this one count as conflicts.
    conflicts_from: Version,
    begun: Duration,
    reads: ReadConflicts,
    writes: WriteSet,
    write_conflicts: Vec<KeyRange>,
    bytes: usize,
    /// The first limit a write broke; it fails the commit.
    broken: Option<LimitError>,
}

// === impl OptimisticTransaction ===

impl<E: Engine> OptimisticTransaction<E> {
    pub(crate) fn begin(engine: Arc<E>, snapshot: Arc<E::Snapshot>) -> Self {
        let latest = snapshot.version();
        Self::begin_after(engine, snapshot, latest)
    }

    /// A transaction that conflicts with what was committed after `known`, though its snapshot may have
    /// it.
    pub(crate) fn begin_after(engine: Arc<E>, snapshot: Arc<E::Snapshot>, known: Version) -> Self {
        Self {
            // A version from elsewhere must not hide commits to come.
            conflicts_from: known.min(snapshot.version()),
            begun: engine.elapsed(),
            engine,
            snapshot,
            reads: ReadConflicts::default(),
            writes: WriteSet::default(),
            write_conflicts: Vec::new(),
            bytes: 0,
            broken: None,
        }
    }

    fn readable(&self) -> Result<(), StoreError> {
        self.engine.readable()?;
        let age = self.engine.elapsed().saturating_sub(self.begun);
        if age > MAX_TRANSACTION_AGE { Err(StoreError::TooOld { age }) } else { Ok(()) }
    }

    fn read(&mut self, key: &[u8], conflict: bool) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        self.readable()?;
        // What the transaction wrote itself depends on nobody else.
        match self.writes.get(key) {
            Overlay::Set(value) => return Ok(Some(value.clone())),
            Overlay::Removed => return Ok(None),
            Overlay::Untouched => {}
        }
        if conflict {
            self.bytes += key.len();
            self.reads.keys.push(Bytes::copy_from_slice(key));
        }
        self.snapshot.get(key)
    }

    fn read_range(
        &self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        check_range(range)?;
        self.readable()?;
        let mut found = Vec::new();
        if range.is_empty() || limit == 0 {
            return Ok(found);
        }
        let mut own = self.writes.overlay(range, order);
        for pair in self.snapshot.scan(range, order)? {
            let (key, value) = pair?;
            while found.len() < limit
                && let Some(pair) = own.next_before(Some(&key))
            {
                found.push(pair);
            }
            if found.len() == limit {
                return Ok(found);
            }
            found.extend(own.resolve(key, value));
        }
        while found.len() < limit
            && let Some(pair) = own.next_before(None)
        {
            found.push(pair);
        }
        Ok(found)
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
}

#[async_trait]
impl<E: Engine> Transaction for OptimisticTransaction<E> {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read(key, true)
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read(key, false)
    }

    async fn range(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let found = self.read_range(range, limit, order)?;
        if limit == 0 || range.is_empty() {
            return Ok(found);
        }
        let seen = match (found.last(), order) {
            (Some((last, _)), Order::Forward) if found.len() == limit => {
                KeyRange::new(range.begin().clone(), KeyRange::single(last).end().clone())
            }
            (Some((last, _)), Order::Reverse) if found.len() == limit => {
                KeyRange::new(last.clone(), range.end().clone())
            }
            _ => range.clone(),
        };
        self.bytes += seen.begin().len() + seen.end().len();
        self.reads.ranges.push(seen);
        Ok(found)
    }

    async fn range_snapshot(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.read_range(range, limit, order)
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        let checked = check_key(&key).and_then(|()| check_value(&value));
        if self.admit(key.len() + value.len(), checked) {
            self.writes.put(key, value);
        }
    }

    fn put_without_conflict(&mut self, key: Bytes, value: Bytes) {
        let checked = check_key(&key).and_then(|()| check_value(&value));
        if self.admit(key.len() + value.len(), checked) {
            self.writes.put_quietly(key, value);
        }
    }

    fn put_stamped(&mut self, prefix: Bytes, value: Bytes) {
        let mut checked = check_stamped(&prefix, &value);
        if self.writes.stamped() == MAX_STAMPED {
            checked = Err(LimitError::Stamped);
        }
        if self.admit(prefix.len() + STAMP_BYTES + value.len(), checked) {
            self.writes.put_stamped(prefix, value);
        }
    }

    fn delete(&mut self, key: Bytes) {
        if self.admit(key.len(), check_key(&key)) {
            self.writes.delete(key);
        }
    }

    fn delete_range(&mut self, range: KeyRange) {
        if self.admit_range(&range) {
            self.writes.delete_range(&range);
        }
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        if self.admit_range(&range) {
            self.reads.ranges.push(range);
        }
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        if self.admit_range(&range) {
            self.write_conflicts.push(range);
        }
    }

    async fn commit(self: Box<Self>) -> Result<Version, CommitError> {
        let Self {
            engine,
            snapshot,
            conflicts_from,
            begun,
            reads,
            writes,
            write_conflicts,
            bytes,
            broken,
        } = *self;
        if let Some(limit) = broken {
            return Err(limit.into());
        }
        let snapshot_version = snapshot.version();
        // The snapshot pins pages that the store could use again.
        drop(snapshot);
        // A snapshot is consistent in itself, so what only read it needs nobody's consent.
        if writes.is_empty() && write_conflicts.is_empty() {
            return Ok(snapshot_version);
        }
        if bytes > MAX_TRANSACTION_BYTES {
            return Err(LimitError::Transaction { bytes }.into());
        }
        let read_version = conflicts_from;
        let request = CommitRequest { read_version, begun, reads, writes, write_conflicts, bytes };
        engine.submit(request).await
    }
}
