//! A node: takes shards, keeps their leases, and starts each anew after a failure.

use std::{sync::Arc, time::Duration};

use aa_store::{CommitError, Store, StoreError};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use ractor::Actor;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    clock::{Clock, Entropy},
    journal::{Journal, JournalStats},
    lease::{self, LeaseError},
    shard::{Children, LiveShard, ShardId, ShardSupervisor},
};

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// How a node runs.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The node's name, unique among the processes that share a store.
    pub name: String,
    /// How many shards a new store is laid out in. An existing store keeps its own number.
    pub shards: u16,
    /// How long a lease stands without renewal; it is renewed three times as often.
    pub lease: Duration,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commit did not succeed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A shard could not be taken.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The store's layout record does not read.
    #[error("the store's shard count is damaged; restore the store from a backup")]
    DamagedLayout,
    /// A supervisor did not start.
    #[error("the supervisor of shard {0} did not start: {1}")]
    Supervisor(ShardId, String),
}

struct Inner {
    options: NodeOptions,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    shards: Vec<ArcSwapOption<LiveShard>>,
    stopping: watch::Sender<bool>,
    stopped: watch::Sender<usize>,
}

const LAYOUT_KEY: &[u8] = b"layout/shards";

// === impl NodeOptions ===

impl NodeOptions {
    /// One machine with an embedded store: a few shards, because every one of them appends at a place
    /// of its own, which the store writes as a page of its own.
    pub fn embedded() -> Self {
        Self { name: "embedded".to_owned(), shards: 4, lease: Duration::from_secs(10) }
    }
}

// === impl Node ===

impl Node {
    /// Takes every shard of the store and keeps it.
    ///
    /// # Errors
    /// Whatever keeps the first taking of a shard from succeeding; see [`NodeError`].
    pub async fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        options: NodeOptions,
    ) -> Result<Self, NodeError> {
        let shards = layout(&*store, options.shards).await?;
        let inner = Inner {
            options,
            store,
            clock,
            entropy,
            shards: (0..shards).map(|_| ArcSwapOption::empty()).collect(),
            stopping: watch::Sender::new(false),
            stopped: watch::Sender::new(0),
        };
        let node = Self { inner: Arc::new(inner) };
        for shard in (0..shards).map(ShardId) {
            let tenure = node.begin_tenure(shard).await?;
            tokio::spawn(node.clone().keep_shard(shard, tenure));
        }
        tokio::spawn(node.clone().keep_leases());
        Ok(node)
    }

    /// The shard, while this node holds it.
    pub fn live(&self, shard: ShardId) -> Option<Arc<LiveShard>> {
        self.inner.shards.get(usize::from(shard.0))?.load_full()
    }

    /// How many shards the store is laid out in.
    pub fn shard_count(&self) -> u16 {
        self.inner.shards.len() as u16
    }

    /// The store.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.inner.store)
    }

    /// The clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.clock)
    }

    /// The source of randomness.
    pub fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::clone(&self.inner.entropy)
    }

    /// The journals' counts, summed over the shards this node holds.
    pub fn journal_stats(&self) -> JournalStats {
        let live = self.inner.shards.iter().filter_map(ArcSwapOption::load_full);
        live.fold(JournalStats::default(), |sum, shard| {
            let stats = shard.journal.stats();
            JournalStats {
                commits: sum.commits + stats.commits,
                records: sum.records + stats.records,
            }
        })
    }

    /// Ends every tenure after what is in the journals is committed. Nothing is served afterwards.
    pub async fn stop(&self) {
        for shard in self.inner.shards.iter().filter_map(ArcSwapOption::load_full) {
            // A journal that has failed has nothing left to commit.
            let _ = shard.journal.barrier().await;
        }
        self.inner.stopping.send_replace(true);
        let all = self.inner.shards.len();
        let mut stopped = self.inner.stopped.subscribe();
        // The sender lives in `self`, so the wait cannot be cut short.
        let _ = stopped.wait_for(|count| *count == all).await;
    }

    /// One shard's life on this node: tenure after tenure until the node stops.
    async fn keep_shard(self, shard: ShardId, first: Tenure) {
        let mut stopping = self.inner.stopping.subscribe();
        let mut tenure = Some(first);
        let mut failures = 0_u32;
        while !*stopping.borrow() {
            let current = match tenure.take() {
                Some(current) => current,
                None => match self.begin_tenure(shard).await {
                    Ok(current) => current,
                    Err(error) => {
                        failures = failures.saturating_add(1);
                        tracing::error!(shard = shard.0, %error, "a shard could not be taken");
                        let pause = Duration::from_millis(50 << failures.min(8));
                        tokio::select! {
                            () = self.inner.clock.sleep(pause) => {}
                            _ = stopping.wait_for(|stop| *stop) => {}
                        }
                        continue;
                    }
                },
            };
            failures = 0;
            current.last_until_failure(&mut stopping).await;
            self.inner.shards[usize::from(shard.0)].store(None);
            current.end().await;
        }
        self.inner.stopped.send_modify(|count| *count += 1);
    }

    async fn begin_tenure(&self, shard: ShardId) -> Result<Tenure, NodeError> {
        let Inner { options, store, clock, .. } = &*self.inner;
        let epoch =
            lease::acquire(&**store, shard, &options.name, clock.now(), options.lease).await?;
        let children = Arc::new(Children::default());
        let (supervisor, supervision) = Actor::spawn(None, ShardSupervisor, Arc::clone(&children))
            .await
            .map_err(|error| NodeError::Supervisor(shard, error.to_string()))?;
        let journal = Journal::new(shard, epoch, Arc::clone(store), self.withdrawal(shard, epoch));
        let live = Arc::new(LiveShard {
            id: shard,
            epoch,
            journal: journal.clone(),
            supervisor,
            children,
            failed: watch::Sender::new(false),
        });
        self.inner.shards[usize::from(shard.0)].store(Some(Arc::clone(&live)));
        // A supervisor or a committer that ends takes the tenure with it.
        let supervision = tokio::spawn({
            let live = Arc::clone(&live);
            async move {
                let _guard = FailOnDrop(&live);
                if let Err(error) = supervision.await {
                    tracing::error!(shard = live.id.0, %error, "a supervisor panicked");
                }
            }
        });
        let committer = tokio::spawn({
            let live = Arc::clone(&live);
            async move {
                let _guard = FailOnDrop(&live);
                if let Err(fault) = journal.run().await {
                    tracing::error!(shard = live.id.0, %fault, "a journal failed");
                }
            }
        });
        tracing::debug!(shard = shard.0, epoch, "shard taken");
        Ok(Tenure { live, supervision, committer })
    }

    /// What takes one tenure of a shard out of service.
    fn withdrawal(&self, shard: ShardId, epoch: u64) -> impl Fn() + Send + Sync + 'static {
        let inner = Arc::downgrade(&self.inner);
        move || {
            let Some(inner) = inner.upgrade() else { return };
            let slot = &inner.shards[usize::from(shard.0)];
            if slot.load().as_ref().is_some_and(|live| live.epoch == epoch) {
                slot.store(None);
            }
        }
    }

    async fn keep_leases(self) {
        let mut stopping = self.inner.stopping.subscribe();
        let Inner { options, store, clock, .. } = &*self.inner;
        loop {
            tokio::select! {
                () = clock.sleep(options.lease / 3) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            let live: Vec<_> =
                self.inner.shards.iter().filter_map(ArcSwapOption::load_full).collect();
            let held: Vec<_> = live.iter().map(|shard| (shard.id, shard.epoch)).collect();
            let renewed =
                lease::renew(&**store, &held, &options.name, clock.now(), options.lease).await;
            match renewed {
                Ok(()) => {}
                Err(LeaseError::Held { shard, .. }) => {
                    tracing::warn!(shard = shard.0, "a shard was taken by another node");
                    live.iter().filter(|live| live.id == shard).for_each(|live| live.fail());
                }
                // The epoch protects the data; the lease is tried again soon.
                Err(error) => tracing::warn!(%error, "the leases were not renewed"),
            }
        }
    }
}

/// A shard while this node holds it, with the tasks that serve it.
struct Tenure {
    live: Arc<LiveShard>,
    supervision: JoinHandle<()>,
    committer: JoinHandle<()>,
}

/// Ends the tenure however its task ends, by a panic too.
struct FailOnDrop<'l>(&'l LiveShard);

impl Drop for FailOnDrop<'_> {
    fn drop(&mut self) {
        self.0.fail();
    }
}

// === impl Tenure ===

impl Tenure {
    async fn last_until_failure(&self, stopping: &mut watch::Receiver<bool>) {
        let mut failed = self.live.failed.subscribe();
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => {}
            _ = failed.wait_for(|failed| *failed) => {}
        }
    }

    async fn end(self) {
        self.live.journal.close();
        self.live.supervisor.stop_children(None);
        self.live.supervisor.stop(None);
        for task in [self.committer, self.supervision] {
            if let Err(error) = task.await {
                tracing::error!(shard = self.live.id.0, %error, "a task of a shard panicked");
            }
        }
    }
}

async fn layout(store: &dyn Store, wanted: u16) -> Result<u16, NodeError> {
    let mut txn = store.begin().await?;
    if let Some(stored) = txn.get(LAYOUT_KEY).await? {
        let bytes = stored.as_ref().try_into().map_err(|_| NodeError::DamagedLayout)?;
        return Ok(u16::from_be_bytes(bytes));
    }
    let shards = wanted.max(1);
    txn.put(Bytes::from_static(LAYOUT_KEY), Bytes::copy_from_slice(&shards.to_be_bytes()));
    txn.commit().await?;
    Ok(shards)
}
