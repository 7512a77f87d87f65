//! A store that looks at every committed state of every budget window.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use aa_budget::{Amount, Reservation, ReservationId, Span};
use aa_governance::{budget_window::WindowRecord, keys};
use aa_protocol::{ActionId, AgentId, NanoUsd, Timestamp};
use aa_store::{
    CommitError, KeyRange, MemoryStore, Order, Store, StoreError, Subspace, Transaction, Version,
    Watch,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

/// A memory store whose commits are looked at.
#[derive(Clone)]
pub struct WatchedStore {
    inner: MemoryStore,
    ledger: Arc<Mutex<Ledger>>,
}

/// What was committed of money so far.
#[derive(Debug, Default)]
pub struct Ledger {
    windows: HashMap<Bytes, WindowState>,
    /// Windows whose budgets refuse nothing.
    unlimited: HashSet<Bytes>,
    violations: Vec<MoneyViolation>,
    commits: u64,
    fences: Fences,
}

/// The commits of shards' journals, as they came.
#[derive(Clone, Debug, Default)]
pub struct Fences {
    /// The epoch of each shard.
    epochs: BTreeMap<Bytes, u64>,
    /// What was committed under another epoch than the shard had.
    violations: Vec<String>,
    tenures: u64,
    commits: u64,
    digest: u64,
}

/// One window as committed.
#[derive(Clone, Debug, Default)]
pub struct WindowState {
    /// What the window's own record says.
    pub record: Option<WindowRecord>,
    /// The reservations that are open.
    pub open: BTreeMap<ReservationId, Reservation>,
    /// Every call for which something was ever reserved, and how much. One that was refused elsewhere is given back,
    /// and reserved anew if its refusal was lost and the client repeats it.
    pub ever: BTreeMap<ReservationId, Amount>,
}

/// What must never be committed, and was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyViolation {
    /// What a window says is reserved is not what its reservations add up to.
    #[error("window {window}, span of {start}: {said:?} is said to be reserved, {found:?} is")]
    Reserved {
        /// The key of the window.
        window: String,
        /// The span.
        start: Timestamp,
        /// What its record says.
        said: Amount,
        /// The sum of its reservations.
        found: Amount,
    },
    /// More than the limit is spent or spoken for, right after a reservation.
    #[error("window {window}: {used} is spent or reserved of {limit}")]
    Overspent {
        /// The key of the window.
        window: String,
        /// What is posted, without overruns, and reserved.
        used: NanoUsd,
        /// The limit it was reserved under.
        limit: NanoUsd,
    },
    /// What a store holds does not read.
    #[error("the value at {0} does not read")]
    Unreadable(String),
}

struct WatchedTransaction {
    inner: Box<dyn Transaction>,
    store: WatchedStore,
    /// The writes that are about money, in their order.
    money: Vec<(Bytes, Option<Bytes>)>,
    /// The epochs and marks of journals.
    fences: Vec<(Bytes, Bytes)>,
    /// Of everything written.
    digest: Fnv,
}

/// FNV-1a.
#[derive(Clone, Copy, Debug)]
struct Fnv(u64);

// === impl WatchedStore ===

impl WatchedStore {
    /// Looks at the commits of `inner` from now on.
    pub fn new(inner: MemoryStore) -> Self {
        Self { inner, ledger: Arc::default() }
    }

    /// What was committed so far.
    pub fn ledger(&self) -> parking_lot::MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }
}

#[async_trait]
impl Store for WatchedStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let inner = self.inner.begin().await?;
        Ok(Box::new(WatchedTransaction::new(inner, self.clone())))
    }

    async fn begin_after(&self, known: Version) -> Result<Box<dyn Transaction>, StoreError> {
        let inner = self.inner.begin_after(known).await?;
        Ok(Box::new(WatchedTransaction::new(inner, self.clone())))
    }

    fn watch(&self, key: &[u8]) -> Watch {
        self.inner.watch(key)
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}

#[async_trait]
impl Transaction for WatchedTransaction {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(key).await
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get_snapshot(key).await
    }

    async fn range(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.inner.range(range, limit, order).await
    }

    async fn range_snapshot(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.inner.range_snapshot(range, limit, order).await
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        if Money::of(&key).is_some() {
            self.money.push((key.clone(), Some(value.clone())));
        }
        if key.starts_with(b"shard/") {
            self.fences.push((key.clone(), value.clone()));
        }
        self.digest.add(&key);
        self.digest.add(&value);
        self.inner.put(key, value);
    }

    fn put_without_conflict(&mut self, key: Bytes, value: Bytes) {
        self.digest.add(&key);
        self.digest.add(&value);
        self.inner.put_without_conflict(key, value);
    }

    fn put_stamped(&mut self, prefix: Bytes, value: Bytes) {
        self.inner.put_stamped(prefix, value);
    }

    fn delete(&mut self, key: Bytes) {
        if Money::of(&key).is_some() {
            self.money.push((key.clone(), None));
        }
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
        let Self { inner, store, money, fences, digest } = *self;
        let committed = inner.commit().await;
        let unknown = matches!(committed, Err(CommitError::UnknownResult { .. }));
        let applied = match &committed {
            Ok(_) => true,
            // Whoever commits cannot know; whoever looks can.
            Err(_) if unknown && !money.is_empty() => store.holds(&money).await?,
            Err(_) if unknown && !fences.is_empty() => {
                let puts = fences.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
                store.holds(&puts.collect::<Vec<_>>()).await?
            }
            Err(_) => false,
        };
        if applied {
            let mut ledger = store.ledger.lock();
            ledger.fences.apply(fences, digest, unknown);
            if !money.is_empty() {
                ledger.apply(money);
            }
        }
        committed
    }
}

impl WatchedStore {
    /// Whether the writes are in the store: the last one to each key decides.
    async fn holds(&self, money: &[(Bytes, Option<Bytes>)]) -> Result<bool, StoreError> {
        let last: BTreeMap<_, _> = money.iter().map(|(key, value)| (key, value)).collect();
        let mut txn = self.inner.begin().await?;
        for (key, value) in last {
            if txn.get_snapshot(key).await?.as_ref() != value.as_ref() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl WatchedTransaction {
    fn new(inner: Box<dyn Transaction>, store: WatchedStore) -> Self {
        let digest = Fnv(0xcbf2_9ce4_8422_2325);
        Self { inner, store, money: Vec::new(), fences: Vec::new(), digest }
    }
}

// === impl Fnv ===

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

// === impl Fences ===

impl Fences {
    /// What was committed under an epoch that was not the shard's.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// How many tenures began.
    pub const fn tenures(&self) -> u64 {
        self.tenures
    }

    /// How many commits there were, and a digest of all of them in their order.
    pub const fn digest(&self) -> (u64, u64) {
        (self.commits, self.digest)
    }

    /// Of a commit whose result is unknown, an epoch that is there may be another's.
    fn apply(&mut self, fences: Vec<(Bytes, Bytes)>, digest: Fnv, is_unknown: bool) {
        self.commits += 1;
        let mut all = Fnv(self.digest);
        all.add(&digest.0.to_be_bytes());
        self.digest = all.0;
        for (key, value) in fences {
            let epoch = value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            if let Some(shard) = key.strip_suffix(b"/epoch") {
                self.tenures += 1;
                let before = self.epochs.insert(Bytes::copy_from_slice(shard), epoch);
                let is_anothers = is_unknown && before == Some(epoch);
                if before.is_some_and(|before| before >= epoch) && !is_anothers {
                    self.violations.push(format!("epoch {epoch} follows {before:?} of {shard:?}"));
                }
            } else if let Some(shard) = key.strip_suffix(b"/batch") {
                let due = self.epochs.get(shard).copied();
                if due != Some(epoch) {
                    self.violations.push(format!(
                        "a commit of epoch {epoch} while {} has {due:?}",
                        shard.escape_ascii()
                    ));
                }
            }
        }
    }
}

/// What a key about money holds.
enum Money {
    Window(Bytes),
    Reservation(Bytes, ReservationId),
}

// === impl Money ===

impl Money {
    /// The window a key belongs to is named by the key without its first element.
    fn of(key: &[u8]) -> Option<Self> {
        if let Ok(rest) = of_kind("window", key) {
            return Some(Self::Window(Bytes::copy_from_slice(rest)));
        }
        let rest = of_kind("reservation", key).ok()?;
        // The call: a UUID and 16 bytes, each as an element; zero bytes are escaped, so read from the front.
        for split in (0..rest.len()).rev() {
            let (window, call) = rest.split_at(split);
            let space = Subspace::root();
            let Ok(mut parts) = space.unpack(call) else { continue };
            let (Ok(agent), Ok(action)) = (parts.uuid(), parts.bytes()) else { continue };
            let (Ok(action), true) = (<[u8; 16]>::try_from(action.as_ref()), parts.end().is_ok())
            else {
                continue;
            };
            let agent = AgentId::from_uuid(agent);
            let id = ReservationId { agent, action: ActionId::from_bytes(action) };
            return Some(Self::Reservation(Bytes::copy_from_slice(window), id));
        }
        None
    }
}

fn of_kind<'k>(kind: &str, key: &'k [u8]) -> Result<&'k [u8], ()> {
    let prefix = Subspace::root().with(kind).to_key();
    key.strip_prefix(prefix.as_ref()).ok_or(())
}

// === impl Ledger ===

impl Ledger {
    /// Every window there ever was, by the end of its key.
    pub const fn windows(&self) -> &HashMap<Bytes, WindowState> {
        &self.windows
    }

    /// What was found wrong, in the order of the commits.
    pub fn violations(&self) -> &[MoneyViolation] {
        &self.violations
    }

    /// What was committed by shards' journals.
    pub const fn fences(&self) -> &Fences {
        &self.fences
    }

    /// How many commits were about money.
    pub const fn commits(&self) -> u64 {
        self.commits
    }

    /// From now on, or no longer, the window refuses nothing.
    pub fn set_unlimited(&mut self, window: &aa_governance::spender::WindowId, unlimited: bool) {
        let key = keys::window(window);
        let Ok(name) = of_kind("window", &key) else { return };
        if unlimited {
            self.unlimited.insert(Bytes::copy_from_slice(name));
        } else {
            self.unlimited.remove(name);
        }
    }

    fn apply(&mut self, money: Vec<(Bytes, Option<Bytes>)>) {
        self.commits += 1;
        let mut touched: BTreeMap<Bytes, bool> = BTreeMap::new();
        for (key, value) in money {
            match Money::of(&key) {
                Some(Money::Window(window)) => {
                    touched.entry(window.clone()).or_default();
                    let record = value.and_then(|value| self.read(&key, &value));
                    self.windows.entry(window).or_default().record = record;
                }
                Some(Money::Reservation(window, id)) => {
                    let reserved = touched.entry(window.clone()).or_default();
                    let made = match &value {
                        Some(value) => self.read::<Reservation>(&key, value),
                        None => None,
                    };
                    let state = self.windows.entry(window.clone()).or_default();
                    match made {
                        Some(made) => {
                            *reserved = true;
                            state.ever.insert(id, made.amount);
                            state.open.insert(id, made);
                        }
                        None => drop(state.open.remove(&id)),
                    }
                }
                None => {}
            }
        }
        for (window, reserved) in touched {
            self.check(&window, reserved);
        }
    }

    fn check(&mut self, window: &Bytes, reserved: bool) {
        let Some(state) = self.windows.get(window) else { return };
        let Some(record) = &state.record else { return };
        for span in &record.spans {
            let of_span = state.open.values().filter(|held| held.span == span.start);
            let found = of_span.fold(Amount::ZERO, |sum, held| sum.saturating_add(held.amount));
            if found != span.reserved {
                let (window, start, said) = (name(window), span.start, span.reserved);
                self.violations.push(MoneyViolation::Reserved { window, start, said, found });
            }
        }
        let (Some(limit), Some(span)) = (record.limits.cost, record.spans.last()) else { return };
        let used = within(span);
        if reserved && used > limit && !self.unlimited.contains(window) {
            let window = name(window);
            self.violations.push(MoneyViolation::Overspent { window, used, limit });
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&mut self, key: &[u8], value: &[u8]) -> Option<T> {
        let read = serde_json::from_slice(value).ok();
        if read.is_none() {
            self.violations.push(MoneyViolation::Unreadable(key.escape_ascii().to_string()));
        }
        read
    }
}

/// What is posted of reservations, and reserved.
fn within(span: &Span) -> NanoUsd {
    span.posted.saturating_sub(span.overrun).saturating_add(span.reserved).cost()
}

fn name(window: &[u8]) -> String {
    window.escape_ascii().to_string()
}
