//! The store as one node reaches it, and the other nodes' addresses as it is told them.

use std::{sync::Arc, time::Duration};

use aa_store::{
    CommitError, KeyRange, Order, Store, StoreCounters, StoreError, Transaction, Version, Watch,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

/// One node's way to the store that all share. Clones are the same way.
#[derive(Clone)]
pub(super) struct NodeStore {
    inner: Arc<dyn Store>,
    way: Arc<Way>,
}

/// What happens on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Reach {
    /// Nothing.
    #[default]
    Whole,
    /// Every call fails.
    Cut,
    /// No call comes back until this ends.
    Stalled,
    /// A call takes up to so long.
    Slow(Duration),
    /// Some commits are refused as conflicts, and of some it is not known whether they were applied.
    Lying,
}

struct Way {
    reach: watch::Sender<Reach>,
    chance: Mutex<fastrand::Rng>,
    /// Addresses of nodes as they are on record, and those by which this node reaches them.
    names: Vec<(String, String)>,
    /// Held by whoever commits: those who look at the commits see them in their order.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct NodeTransaction {
    inner: Box<dyn Transaction>,
    way: Arc<Way>,
    /// One that only reads always commits.
    writes: bool,
}

/// Where nodes put themselves on record.
const NODES: &[u8] = b"node/";

/// How likely each fault of a lying store is per commit.
const LIE: f64 = 0.08;

// === impl NodeStore ===

impl NodeStore {
    /// A way to `store` on which `names` replace what is on record of nodes' addresses. Each pair is of one length.
    /// `turn` is the same for all nodes.
    pub(super) fn new(
        store: Arc<dyn Store>,
        names: Vec<(String, String)>,
        turn: Arc<tokio::sync::Mutex<()>>,
        seed: u64,
    ) -> Self {
        let chance = Mutex::new(fastrand::Rng::with_seed(seed));
        let way = Way { reach: watch::Sender::default(), chance, names, turn };
        Self { inner: store, way: Arc::new(way) }
    }

    /// Changes what happens on the way, also to calls that are on it.
    pub(super) fn set(&self, reach: Reach) {
        self.way.reach.send_replace(reach);
    }
}

#[async_trait]
impl Store for NodeStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.way.travel().await?;
        let inner = self.inner.begin().await?;
        self.way.travel().await?;
        Ok(Box::new(NodeTransaction { inner, way: Arc::clone(&self.way), writes: false }))
    }

    async fn begin_after(&self, known: Version) -> Result<Box<dyn Transaction>, StoreError> {
        let inner = self.inner.begin_after(known).await?;
        Ok(Box::new(NodeTransaction { inner, way: Arc::clone(&self.way), writes: false }))
    }

    fn watch(&self, key: &[u8]) -> Watch {
        self.inner.watch(key)
    }

    fn counters(&self) -> StoreCounters {
        self.inner.counters()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}

// === impl NodeTransaction ===

#[async_trait]
impl Transaction for NodeTransaction {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.way.travel().await?;
        let value = self.inner.get(key).await?;
        self.way.travel().await?;
        Ok(value.map(|value| self.way.renamed(key, value)))
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.way.travel().await?;
        let value = self.inner.get_snapshot(key).await?;
        self.way.travel().await?;
        Ok(value.map(|value| self.way.renamed(key, value)))
    }

    async fn range(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.way.travel().await?;
        let pairs = self.inner.range(range, limit, order).await?;
        self.way.travel().await?;
        Ok(self.way.all_renamed(pairs))
    }

    async fn range_snapshot(
        &mut self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.way.travel().await?;
        let pairs = self.inner.range_snapshot(range, limit, order).await?;
        self.way.travel().await?;
        Ok(self.way.all_renamed(pairs))
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.writes = true;
        self.inner.put(key, value);
    }

    fn put_without_conflict(&mut self, key: Bytes, value: Bytes) {
        self.writes = true;
        self.inner.put_without_conflict(key, value);
    }

    fn put_stamped(&mut self, prefix: Bytes, value: Bytes) {
        self.writes = true;
        self.inner.put_stamped(prefix, value);
    }

    fn delete(&mut self, key: Bytes) {
        self.writes = true;
        self.inner.delete(key);
    }

    fn delete_range(&mut self, range: KeyRange) {
        self.writes = true;
        self.inner.delete_range(range);
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        self.inner.add_read_conflict(range);
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        self.writes = true;
        self.inner.add_write_conflict(range);
    }

    async fn commit(self: Box<Self>) -> Result<Version, CommitError> {
        let Self { inner, way, writes } = *self;
        // Before it got there, nothing happened; afterwards, nobody knows.
        way.travel().await?;
        let lies = writes && *way.reach.borrow() == Reach::Lying;
        let lie = lies.then(|| way.chance.lock().f64());
        match lie {
            Some(point) if point < LIE => return Err(CommitError::Conflict),
            Some(point) if point < 2.0 * LIE => return Err(CommitError::UnknownResult(silent())),
            _ => {}
        }
        let committed = {
            let _turn = way.turn.lock().await;
            inner.commit().await?
        };
        way.travel().await.map_err(CommitError::UnknownResult)?;
        match lie {
            Some(point) if point < 3.0 * LIE => Err(CommitError::UnknownResult(silent())),
            _ => Ok(committed),
        }
    }
}

// === impl Way ===

impl Way {
    /// One way of a call.
    async fn travel(&self) -> Result<(), StoreError> {
        let mut reach = self.reach.subscribe();
        loop {
            let now = *reach.borrow_and_update();
            match now {
                Reach::Whole | Reach::Lying => return Ok(()),
                Reach::Cut => return Err(silent()),
                Reach::Stalled => {
                    // The sender lives as long as `self`.
                    let _ = reach.changed().await;
                }
                Reach::Slow(longest) => {
                    let part = self.chance.lock().f64();
                    tokio::time::sleep(longest.mul_f64(part / 2.0)).await;
                    return if *self.reach.borrow() == Reach::Cut { Err(silent()) } else { Ok(()) };
                }
            }
        }
    }

    fn all_renamed(&self, pairs: Vec<(Bytes, Bytes)>) -> Vec<(Bytes, Bytes)> {
        let renamed = pairs.into_iter().map(|(key, value)| {
            let value = self.renamed(&key, value);
            (key, value)
        });
        renamed.collect()
    }

    /// What is on record of a node, with the address by which this one reaches it.
    fn renamed(&self, key: &[u8], value: Bytes) -> Bytes {
        if !key.starts_with(NODES) {
            return value;
        }
        let Ok(text) = std::str::from_utf8(&value) else { return value };
        for (recorded, reached) in &self.names {
            if text.contains(recorded.as_str()) {
                return text.replace(recorded.as_str(), reached).into();
            }
        }
        value
    }
}

const fn silent() -> StoreError {
    StoreError::Unavailable {
        kind: "memory",
        why: std::borrow::Cow::Borrowed("the way to it is disturbed"),
    }
}

#[cfg(test)]
mod tests {
    use aa_store::MemoryStore;

    use super::*;

    fn store(memory: &MemoryStore, names: &[(&str, &str)]) -> NodeStore {
        let names = names.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned()));
        NodeStore::new(Arc::new(memory.clone()), names.collect(), Arc::default(), 7)
    }

    async fn put(
        store: &dyn Store,
        key: &'static str,
        value: &'static str,
    ) -> Result<(), CommitError> {
        let mut txn = store.begin().await?;
        txn.put(key.into(), value.into());
        txn.commit().await.map(drop)
    }

    async fn get(store: &dyn Store, key: &str) -> Result<Option<Bytes>, StoreError> {
        store.begin().await?.get(key.as_bytes()).await
    }

    #[tokio::test]
    async fn a_node_that_is_cut_off_is_told_so_and_what_was_on_its_way_is_unknown() {
        let memory = MemoryStore::new();
        let node = store(&memory, &[]);
        put(&node, "a", "1").await.unwrap();
        let mut begun = node.begin().await.unwrap();
        begun.put("a".into(), "2".into());
        node.set(Reach::Cut);
        assert!(begun.get(b"a").await.is_err());
        assert!(matches!(begun.commit().await, Err(CommitError::Store(_))));
        assert!(get(&node, "a").await.is_err());
        assert_eq!(get(&memory, "a").await.unwrap().unwrap(), "1");
    }

    #[tokio::test]
    async fn a_stalled_commit_happens_once_the_stall_is_over() {
        let memory = MemoryStore::new();
        let node = store(&memory, &[]);
        let mut begun = node.begin().await.unwrap();
        begun.put("a".into(), "1".into());
        node.set(Reach::Stalled);
        let committing = tokio::spawn(begun.commit());
        tokio::task::yield_now().await;
        assert_eq!(get(&memory, "a").await.unwrap(), None);
        node.set(Reach::Whole);
        committing.await.unwrap().unwrap();
        assert_eq!(get(&memory, "a").await.unwrap().unwrap(), "1");
    }

    #[tokio::test]
    async fn a_lying_store_refuses_only_what_it_did_not_do() {
        let memory = MemoryStore::new();
        let node = store(&memory, &[]);
        node.set(Reach::Lying);
        let (mut conflicts, mut lost, mut applied) = (0, 0, 0);
        for number in 0..400_u32 {
            let key = Bytes::copy_from_slice(&number.to_be_bytes());
            let mut txn = node.begin().await.unwrap();
            txn.put(key.clone(), "1".into());
            let committed = txn.commit().await;
            let is_there = memory.begin().await.unwrap().get(&key).await.unwrap().is_some();
            match (committed, is_there) {
                (Ok(_), true) => {}
                (Err(CommitError::Conflict), false) => conflicts += 1,
                (Err(CommitError::UnknownResult(_)), true) => applied += 1,
                (Err(CommitError::UnknownResult(_)), false) => lost += 1,
                (other, is_there) => panic!("{other:?} though {is_there}"),
            }
        }
        assert!(conflicts > 5 && lost > 5 && applied > 5, "{conflicts} {lost} {applied}");
        for _ in 0..100 {
            node.begin().await.unwrap().commit().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_node_reads_of_others_where_it_reaches_them() {
        let memory = MemoryStore::new();
        put(&memory, "node/b", r#"{"address":"127.0.0.1:11111"}"#).await.unwrap();
        put(&memory, "else", "127.0.0.1:11111").await.unwrap();
        let node = store(&memory, &[("127.0.0.1:11111", "127.0.0.1:22222")]);
        let told = r#"{"address":"127.0.0.1:22222"}"#;
        assert_eq!(get(&node, "node/b").await.unwrap().unwrap(), told);
        let mut txn = node.begin().await.unwrap();
        let range = KeyRange::prefix(NODES);
        assert_eq!(txn.range_snapshot(&range, 9, Order::Forward).await.unwrap()[0].1, told);
        assert_eq!(get(&node, "else").await.unwrap().unwrap(), "127.0.0.1:11111");
    }
}
