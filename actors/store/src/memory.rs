//! A store in memory: the double of the durable ones in tests, and a store for what may be lost.

mod faults;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rpds::RedBlackTreeMapSync;

pub use self::faults::{Fault, FaultRates, Faults};
use crate::{
    CommitError, HistoryBounds, KeyRange, Order, Store, StoreClock, StoreError, SystemClock,
    Transaction, Version, Watch,
    optimistic::{Engine, OptimisticTransaction, Pairs, Snapshot},
    resolver::{CommitRequest, Resolver},
    watch::Watches,
};

/// A store in memory. Clones share one store; its contents go with the last of them and its
/// transactions.
#[derive(Clone)]
pub struct MemoryStore {
    engine: Arc<MemoryEngine>,
}

struct MemoryEngine {
    clock: Arc<dyn StoreClock>,
    faults: Faults,
    state: Mutex<State>,
    watches: Arc<Watches>,
}

struct State {
    latest: Arc<MemorySnapshot>,
    resolver: Resolver,
}

/// A persistent map: a snapshot costs one pointer, and a commit copies only the paths it changes.
struct MemorySnapshot {
    version: Version,
    pairs: RedBlackTreeMapSync<Bytes, Bytes>,
}

const KIND: &str = "memory";

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store without faults, on the machine's clock.
    pub fn new() -> Self {
        Self::with(Arc::new(SystemClock::new()), Faults::none())
    }

    /// An empty store on a clock, with the faults it shall suffer.
    pub fn with(clock: Arc<dyn StoreClock>, faults: Faults) -> Self {
        let pairs = RedBlackTreeMapSync::new_sync();
        let latest = Arc::new(MemorySnapshot { version: Version::default(), pairs });
        let resolver = Resolver::new(HistoryBounds::default(), Version::default());
        let state = Mutex::new(State { latest, resolver });
        let watches = Arc::new(Watches::default());
        Self { engine: Arc::new(MemoryEngine { clock, faults, state, watches }) }
    }

    /// The faults of this store, to change them while it runs.
    pub fn faults(&self) -> &Faults {
        &self.engine.faults
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latest = Arc::clone(&self.engine.state.lock().latest);
        f.debug_struct("MemoryStore")
            .field("version", &latest.version)
            .field("pairs", &latest.pairs.size())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.engine.readable()?;
        let snapshot = Arc::clone(&self.engine.state.lock().latest);
        Ok(Box::new(OptimisticTransaction::begin(Arc::clone(&self.engine), snapshot)))
    }

    async fn begin_after(&self, known: Version) -> Result<Box<dyn Transaction>, StoreError> {
        self.engine.readable()?;
        let snapshot = Arc::clone(&self.engine.state.lock().latest);
        let engine = Arc::clone(&self.engine);
        Ok(Box::new(OptimisticTransaction::begin_after(engine, snapshot, known)))
    }

    fn watch(&self, key: &[u8]) -> Watch {
        self.engine.watches.register(key, KIND)
    }

    fn kind(&self) -> &'static str {
        KIND
    }
}

// === impl MemoryEngine ===

impl MemoryEngine {
    fn apply(&self, mut request: CommitRequest) -> Result<Version, CommitError> {
        let mut state = self.state.lock();
        let version = state.latest.version.next();
        let now = self.clock.elapsed();
        request.writes.stamp(version);
        state
            .resolver
            .resolve(&request, version, now)
            .map_err(|_conflict| CommitError::Conflict)?;
        let mut pairs = state.latest.pairs.clone();
        for range in request.writes.cleared() {
            let keys: Vec<Bytes> =
                pairs.range::<[u8], _>(range.bounds()).map(|(key, _)| key.clone()).collect();
            for key in &keys {
                pairs.remove_mut(key);
            }
        }
        for (key, value) in request.writes.keys() {
            match value {
                Some(value) => pairs.insert_mut(key.clone(), value.clone()),
                None => {
                    pairs.remove_mut(key);
                }
            }
        }
        state.latest = Arc::new(MemorySnapshot { version, pairs });
        drop(state);
        self.watches.fire(&request.writes);
        Ok(version)
    }
}

impl Engine for MemoryEngine {
    type Snapshot = MemorySnapshot;

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    fn readable(&self) -> Result<(), StoreError> {
        if self.faults.unavailable() { Err(injected_outage()) } else { Ok(()) }
    }

    async fn submit(&self, request: CommitRequest) -> Result<Version, CommitError> {
        self.readable()?;
        match self.faults.strike() {
            None => self.apply(request),
            Some(Fault::Conflict) => Err(CommitError::Conflict),
            Some(Fault::UnknownApplied) => {
                self.apply(request)?;
                Err(CommitError::UnknownResult(injected_outage()))
            }
            Some(Fault::UnknownLost) => Err(CommitError::UnknownResult(injected_outage())),
            Some(Fault::Stall) => {
                self.faults.stall().await;
                self.apply(request)
            }
            Some(Fault::StallFor(duration)) => {
                self.clock.sleep(duration).await;
                self.apply(request)
            }
            Some(Fault::Unavailable) => Err(CommitError::Store(injected_outage())),
            Some(Fault::Full) => {
                Err(CommitError::Store(StoreError::Full { path: ":memory:".into() }))
            }
        }
    }
}

impl Drop for MemoryEngine {
    fn drop(&mut self) {
        self.watches.close();
    }
}

const fn injected_outage() -> StoreError {
    StoreError::Unavailable { kind: KIND, why: Cow::Borrowed("a fault was injected") }
}

// === impl MemorySnapshot ===

impl Snapshot for MemorySnapshot {
    fn version(&self) -> Version {
        self.version
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan<'a>(&'a self, range: &KeyRange, order: Order) -> Result<Pairs<'a>, StoreError> {
        let owned = |(key, value): (&Bytes, &Bytes)| Ok((key.clone(), value.clone()));
        let bounds = (
            std::ops::Bound::Included(range.begin().clone()),
            std::ops::Bound::Excluded(range.end().clone()),
        );
        let pairs = self.pairs.range::<Bytes, _>(bounds);
        Ok(match order {
            Order::Forward => Box::new(pairs.map(owned)),
            Order::Reverse => Box::new(pairs.rev().map(owned)),
        })
    }
}

#[cfg(test)]
mod tests;
