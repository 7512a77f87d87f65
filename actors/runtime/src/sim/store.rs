//! The store as one node of a simulation reaches it: over a network of its own that can be slow or cut.

use std::{sync::Arc, time::Duration};

use aa_store::{CommitError, KeyRange, Order, Store, StoreError, Transaction, Version, Watch};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

/// One node's way to the store that all share. Clones are the same way.
#[derive(Clone)]
pub struct SimStore {
    inner: Arc<dyn Store>,
    path: Arc<Mutex<Path>>,
}

#[derive(Debug)]
struct Path {
    is_cut: bool,
    /// The longest time of a round trip.
    round_trip: Duration,
    chance: fastrand::Rng,
}

struct SimTransaction {
    inner: Box<dyn Transaction>,
    path: Arc<Mutex<Path>>,
}

// === impl SimStore ===

impl SimStore {
    /// A way to `store` whose delays come from `seed`.
    pub fn new(store: Arc<dyn Store>, seed: u64) -> Self {
        let path = Path {
            is_cut: false,
            round_trip: Duration::from_millis(2),
            chance: fastrand::Rng::with_seed(seed),
        };
        Self { inner: store, path: Arc::new(Mutex::new(path)) }
    }

    /// Cuts the node off, or ends that. What was on its way has an unknown result.
    pub fn set_cut(&self, is_cut: bool) {
        self.path.lock().is_cut = is_cut;
    }

    /// The longest time that a request and its answer take.
    pub fn set_round_trip(&self, longest: Duration) {
        self.path.lock().round_trip = longest;
    }
}

async fn travel(path: &Mutex<Path>) -> Result<(), StoreError> {
    let delay = {
        let mut path = path.lock();
        let part = path.chance.f64();
        path.round_trip.mul_f64(0.5 + part / 2.0) / 2
    };
    tokio::time::sleep(delay).await;
    if path.lock().is_cut { Err(cut_off()) } else { Ok(()) }
}

const fn cut_off() -> StoreError {
    StoreError::Unavailable {
        kind: "memory",
        why: std::borrow::Cow::Borrowed("the node is cut off from it"),
    }
}

#[async_trait]
impl Store for SimStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        travel(&self.path).await?;
        let inner = self.inner.begin().await?;
        travel(&self.path).await?;
        Ok(Box::new(SimTransaction { inner, path: Arc::clone(&self.path) }))
    }

    async fn begin_after(&self, known: Version) -> Result<Box<dyn Transaction>, StoreError> {
        let inner = self.inner.begin_after(known).await?;
        Ok(Box::new(SimTransaction { inner, path: Arc::clone(&self.path) }))
    }

    fn watch(&self, key: &[u8]) -> Watch {
        self.inner.watch(key)
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}

#[async_trait]
impl Transaction for SimTransaction {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        travel(&self.path).await?;
        self.inner.get(key).await
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        travel(&self.path).await?;
        self.inner.get_snapshot(key).await
    }

    async fn range(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        travel(&self.path).await?;
        self.inner.range(range, limit, order).await
    }

    async fn range_snapshot(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        travel(&self.path).await?;
        self.inner.range_snapshot(range, limit, order).await
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.inner.put(key, value);
    }

    fn put_without_conflict(&mut self, key: Bytes, value: Bytes) {
        self.inner.put_without_conflict(key, value);
    }

    fn put_stamped(&mut self, prefix: Bytes, value: Bytes) {
        self.inner.put_stamped(prefix, value);
    }

    fn delete(&mut self, key: Bytes) {
        self.inner.delete(key);
    }

    fn delete_range(&mut self, range: KeyRange) {
        self.inner.delete_range(range);
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        self.inner.add_read_conflict(range);
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        self.inner.add_write_conflict(range);
    }

    async fn commit(self: Box<Self>) -> Result<Version, CommitError> {
        // Before it got there, nothing happened; afterwards, nobody knows.
        travel(&self.path).await?;
        let committed = self.inner.commit().await?;
        travel(&self.path).await.map_err(CommitError::UnknownResult)?;
        Ok(committed)
    }
}
