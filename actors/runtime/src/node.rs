//! A node: takes shards, keeps them for as long as they are its own, and starts each anew after a failure.

mod keeper;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aa_store::{CommitError, Store, StoreError};
use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use ractor::Actor;
use tokio::sync::{mpsc, oneshot, watch};

use self::keeper::Keeper;
use crate::{
    clock::{Clock, Entropy},
    cluster::{ClusterView, Member, NodeStatus},
    journal::{Journal, JournalStats},
    lease::{self, LeaseError, NodeLife},
    membership::{self, ClusterOptions, PROTOCOLS, Protocols},
    news::{Heard, Stamp},
    placement::{Peer, ShardTable},
    relay::{Relay, Transport},
    shard::{Children, Heir, LiveShard, ShardId, ShardSupervisor, Standing},
    signal::Signal,
    tenure::Tenure,
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
    /// How it takes part in a cluster. Without, the store must admit one process only, and the node holds all
    /// of its shards.
    pub cluster: Option<ClusterOptions>,
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
    #[error("the store's layout is damaged; restore the store from a backup")]
    DamagedLayout,
    /// A supervisor did not start.
    #[error("the supervisor of shard {0} did not start: {1}")]
    Supervisor(ShardId, String),
    /// A later program has been here.
    #[error(
        "the store has schema {found}, this program knows schemas up to {}; run the version that wrote it, or a later one",
        crate::membership::SCHEMA
    )]
    NewerSchema {
        /// The schema of the store.
        found: u32,
    },
    /// The store is of another cluster.
    #[error(
        "the store belongs to cluster `{found}`, not to `{wanted}`; correct the name, or give each cluster a store or key prefix of its own"
    )]
    OtherCluster {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// The store is of a cluster of the same name with another certificate authority.
    #[error(
        "the store belongs to a cluster `{cluster}` with another certificate authority; copy the authority of that cluster here, or give each cluster a store or key prefix of its own"
    )]
    OtherAuthority {
        /// The cluster's name.
        cluster: String,
    },
    /// Another process runs under the name.
    #[error(
        "another node named `{name}` is at work at {address}; give every node a name of its own"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Where the other one's relay listens.
        address: String,
    },
    /// No protocol is spoken by both.
    #[error(
        "node `{node}` speaks protocols {} to {}, this program {} to {}, so they could not talk; {}",
        theirs.lowest, theirs.highest, ours.lowest, ours.highest, theirs.advice(*ours, node)
    )]
    NoCommonProtocol {
        /// The other node.
        node: String,
        /// What it speaks.
        theirs: Protocols,
        /// What this program speaks.
        ours: Protocols,
    },
    /// The time of day is not what the others say.
    #[error(
        "this node's clock is {by:?} {} the clocks of {nodes} other nodes, and {borne:?} are borne; set it, by NTP for example",
        if *ahead { "ahead of" } else { "behind" }
    )]
    ClockOff {
        /// By how much.
        by: Duration,
        /// Whether it is ahead.
        ahead: bool,
        /// How many nodes were asked.
        nodes: usize,
        /// What is borne.
        borne: Duration,
    },
}

/// Work that was given to another thread ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked")]
pub struct OffloadError;

struct Inner {
    options: NodeOptions,
    /// Whether everything happens on one thread, in one order.
    is_simulated: bool,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    table: Arc<ShardTable>,
    relay: Relay,
    /// The shards whose owner on record this node was at the last look.
    mine: Mutex<BTreeSet<ShardId>>,
    /// The shards with a task that keeps them.
    keepers: Mutex<BTreeSet<ShardId>>,
    /// How many there are.
    kept: watch::Sender<usize>,
    view: ArcSwap<ClusterView>,
    incarnation: AtomicU64,
    tenures: AtomicU64,
    /// Who takes note of the news.
    reader: Mutex<Option<mpsc::UnboundedSender<Heard>>>,
    knows: Mutex<Stamp>,
    leaving: AtomicBool,
    expelled: Signal,
    stopping: Arc<Signal>,
}

/// A shard that a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldShard {
    /// Which.
    pub shard: ShardId,
    /// Counts the tenures that the shard had, on any node.
    pub epoch: u64,
    /// What its journal did in this tenure.
    pub journal: JournalStats,
}

const LAYOUT_KEY: &[u8] = b"layout/shards";

/// How long a node that stops waits for others to take its shards.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

// === impl NodeOptions ===

impl NodeOptions {
    /// The shards of a new embedded store.
    pub const EMBEDDED_SHARDS: u16 = 4;

    /// The shards of a new cluster's store.
    pub const CLUSTER_SHARDS: u16 = 256;

    /// One machine with an embedded store: a few shards, because every one of them appends at a place
    /// of its own, which the store writes as a page of its own.
    pub fn embedded() -> Self {
        Self { name: "embedded".to_owned(), shards: Self::EMBEDDED_SHARDS, cluster: None }
    }

    /// A node of a cluster.
    pub fn clustered(name: String, cluster: ClusterOptions) -> Self {
        Self { name, shards: Self::CLUSTER_SHARDS, cluster: Some(cluster) }
    }
}

// === impl Node ===

impl Node {
    /// Starts a node by itself: takes every shard of the store and keeps it.
    ///
    /// # Errors
    /// Whatever keeps the first taking of a shard from succeeding; see [`NodeError`].
    pub async fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        options: NodeOptions,
    ) -> Result<Self, NodeError> {
        let options = NodeOptions { cluster: None, ..options };
        let node = Self::new(store, clock, entropy, options, None).await?;
        node.serve_until(Duration::MAX);
        for shard in (0..node.shard_count()).map(ShardId) {
            let tenure = node.begin_tenure(shard, None).await?;
            node.serve(&tenure);
            node.keep(shard, None, Some(tenure));
        }
        Ok(node)
    }

    /// Starts a node of a cluster: joins it, and takes, keeps and hands over shards from then on.
    ///
    /// # Errors
    /// Whatever keeps the node from joining; see [`NodeError`].
    pub async fn join(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        name: String,
        cluster: ClusterOptions,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, NodeError> {
        let options = NodeOptions::clustered(name, cluster.clone());
        let node = Self::new(store, clock, entropy, options, Some(transport)).await?;
        let member = Member::join(node.clone(), cluster).await?;
        node.inner.incarnation.store(member.incarnation(), Ordering::Release);
        tokio::spawn(member.live());
        Ok(node)
    }

    async fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        options: NodeOptions,
        transport: Option<Arc<dyn Transport>>,
    ) -> Result<Self, NodeError> {
        let shards = layout(&*store, options.shards).await?;
        let table = Arc::new(ShardTable::new(shards, Arc::clone(&clock)));
        let name = options.name.clone();
        let relay = Relay::new(name, Arc::clone(&table), transport, Arc::clone(&clock));
        let inner = Inner {
            is_simulated: clock.is_simulated(),
            options,
            store,
            clock,
            entropy,
            table,
            relay,
            mine: Mutex::default(),
            keepers: Mutex::default(),
            kept: watch::Sender::new(0),
            view: ArcSwap::default(),
            incarnation: AtomicU64::new(0),
            tenures: AtomicU64::new(0),
            reader: Mutex::default(),
            knows: Mutex::default(),
            leaving: AtomicBool::new(false),
            expelled: Signal::default(),
            stopping: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The shard, while this node holds it and may answer for it.
    pub fn live(&self, shard: ShardId) -> Option<Arc<LiveShard>> {
        let live = self.inner.table.live(shard)?;
        self.serves().then_some(live)
    }

    /// Whether this node may answer for its shards: its lease runs.
    pub fn serves(&self) -> bool {
        self.inner.table.serves()
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.inner.options.name
    }

    /// Which life of the node this is, in a cluster.
    pub fn incarnation(&self) -> u64 {
        self.inner.incarnation.load(Ordering::Acquire)
    }

    /// How many shards the store is laid out in.
    pub fn shard_count(&self) -> u16 {
        self.inner.table.shard_count()
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

    /// What carries messages to other nodes, and takes theirs.
    pub fn relay(&self) -> &Relay {
        &self.inner.relay
    }

    /// Whether the node is one of a cluster.
    pub fn is_clustered(&self) -> bool {
        self.inner.options.cluster.is_some()
    }

    /// The name of the cluster that the node is one of.
    pub fn cluster(&self) -> Option<&str> {
        self.inner.options.cluster.as_ref().map(|options| options.cluster.as_str())
    }

    /// The newest protocol that every node speaks whose lease runs. What an older one does not know is not sent, and not
    /// written to the store, before this says so. One by itself speaks its own.
    pub fn protocol(&self) -> u32 {
        let Some(options) = &self.inner.options.cluster else { return PROTOCOLS.highest };
        let view = self.view();
        let alive = view.nodes.iter().filter(|node| node.is_alive);
        let spoken = alive.map(|node| node.record.protocols.highest).min();
        // Of the others nothing is known before the first look at them.
        spoken.map_or(options.protocols.lowest, |spoken| spoken.min(options.protocols.highest))
    }

    /// Completes when another process has joined under this node's name: this one serves nothing from then on.
    pub async fn expelled(&self) {
        self.inner.expelled.wait().await;
    }

    /// The cluster as this node last read it. Empty for a node by itself.
    pub fn view(&self) -> Arc<ClusterView> {
        self.inner.view.load_full()
    }

    /// The other nodes whose leases run.
    pub fn peers(&self) -> Vec<Peer> {
        self.inner.table.peers()
    }

    /// How many tenures of shards have begun here.
    pub fn tenures(&self) -> u64 {
        self.inner.tenures.load(Ordering::Acquire)
    }

    /// Completes once more than `seen` tenures have begun, or the node has stopped.
    pub async fn wait_for_tenure(&self, seen: u64) {
        let has_more = || (self.tenures() > seen || self.has_stopped()).then_some(());
        self.inner.table.until(has_more).await;
    }

    /// Whether the node has stopped, or is about to.
    pub fn has_stopped(&self) -> bool {
        self.inner.stopping.is_raised()
    }

    /// The shards that this node holds, in order.
    pub fn held_shards(&self) -> Vec<HeldShard> {
        let held = self.inner.table.all_live().map(|live| HeldShard {
            shard: live.id,
            epoch: live.epoch,
            journal: live.journal.stats(),
        });
        held.collect()
    }

    /// The journals' counts, summed over the shards this node holds.
    pub fn journal_stats(&self) -> JournalStats {
        self.held_shards().iter().fold(JournalStats::default(), |sum, held| JournalStats {
            commits: sum.commits + held.journal.commits,
            records: sum.records + held.journal.records,
        })
    }

    /// Hands all shards over to other nodes, where there are any, and ends the rest after what is in their journals
    /// is committed. Nothing is served afterwards.
    pub async fn stop(&self) {
        let mut kept = self.inner.kept.subscribe();
        if !self.inner.table.peers().is_empty() {
            self.inner.leaving.store(true, Ordering::Release);
            self.inner.table.look_again();
            let handed_over = kept.wait_for(|kept| *kept == 0);
            tokio::select! {
                biased;
                _ = handed_over => {}
                () = self.inner.clock.sleep(LEAVE_WITHIN) => {
                    tracing::warn!("not all shards were handed over in time; others take them soon");
                }
            }
        }
        for shard in self.inner.table.all_live() {
            // A journal that has failed has nothing left to commit.
            let _ = shard.journal.barrier().await;
        }
        self.inner.stopping.raise();
        self.inner.table.tell();
        // The sender lives in `self`, so the wait cannot be cut short.
        let _ = kept.wait_for(|kept| *kept == 0).await;
    }

    /// Ends at once, as by a crash: nothing more is handed over, committed or answered.
    #[cfg(feature = "sim")]
    pub fn crash(&self) {
        self.inner.table.serve_until(Duration::ZERO);
        for live in self.inner.table.all_live() {
            live.journal.close();
        }
        self.inner.stopping.raise();
        self.inner.table.tell();
    }

    /// Does work that takes long on another thread; in a simulation at once, so that it repeats.
    ///
    /// # Errors
    /// [`OffloadError`] when the work panics. It goes on even if nobody waits for it.
    pub fn offload<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, OffloadError>> + Send + use<T, W> {
        let (done, result) = oneshot::channel();
        let work = move || {
            // Who asked may have gone.
            let _ = done.send(work());
        };
        if self.inner.is_simulated {
            work();
        } else {
            tokio::task::spawn_blocking(work);
        }
        async { result.await.map_err(|_| OffloadError) }
    }

    /// Completes a task that waits for the store and works on what comes, on another thread; in a simulation on the
    /// only one there is.
    ///
    /// # Errors
    /// [`OffloadError`] when the task panics. It goes on even if nobody waits for it.
    pub async fn offload_task<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, OffloadError> {
        let handle = if self.inner.is_simulated {
            tokio::spawn(task)
        } else {
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || runtime.block_on(task))
        };
        handle.await.map_err(|_| OffloadError)
    }

    // --- news

    /// The news from now on, for the one reader of this node: it calls [`Node::know`] once it has taken note.
    /// Without a reader, the node knows at once whatever it hears.
    pub fn read_news(&self) -> mpsc::UnboundedReceiver<Heard> {
        let (sender, reader) = mpsc::unbounded_channel();
        *self.inner.reader.lock() = Some(sender);
        reader
    }

    /// What this node holds is as new as the news up to there.
    pub fn know(&self, stamp: Stamp) {
        let mut knows = self.inner.knows.lock();
        if stamp > *knows {
            *knows = stamp;
            // Who waits for it need not wait for the next beat.
            self.inner.table.look_again();
        }
    }

    pub(crate) fn knows(&self) -> Stamp {
        *self.inner.knows.lock()
    }

    pub(crate) fn tell(&self, heard: Heard) {
        let stamp = match &heard {
            Heard::News { stamp, .. } => Some(*stamp),
            Heard::Missed => None,
        };
        let unread = match &*self.inner.reader.lock() {
            Some(reader) => reader.send(heard).is_err(),
            None => true,
        };
        if let Some(stamp) = stamp.filter(|_| unread) {
            self.know(stamp);
        }
    }

    /// Lets all other nodes look for news now.
    pub fn announce(&self) {
        self.inner.table.look_again();
        for peer in self.inner.table.peers() {
            self.inner.relay.nudge(&peer);
        }
    }

    /// Waits until every node that serves has taken note of the news up to `stamp`. A node that does not is waited for
    /// until its lease ends.
    pub async fn until_all_know(&self, stamp: Stamp) {
        let looks = Duration::from_millis(20);
        loop {
            let view = self.view();
            let own = self.incarnation();
            let knows = |status: &NodeStatus| {
                !status.is_alive
                    || status.record.life.incarnation == own
                    || status.record.knows >= stamp
            };
            if self.knows() >= stamp && view.nodes.iter().all(knows) {
                return;
            }
            self.inner.table.look_again();
            self.inner.clock.sleep(looks).await;
        }
    }

    // --- for the cluster

    pub(crate) fn table(&self) -> &ShardTable {
        &self.inner.table
    }

    pub(crate) fn stopping(&self) -> Arc<Signal> {
        Arc::clone(&self.inner.stopping)
    }

    /// Whether the node is on its way to a planned end.
    pub(crate) fn is_leaving(&self) -> bool {
        self.inner.leaving.load(Ordering::Acquire)
    }

    pub(crate) fn show_view(&self, view: ClusterView) {
        self.inner.view.store(Arc::new(view));
    }

    /// From now until then, by [`Clock::elapsed`], the node may answer for its shards.
    pub(crate) fn serve_until(&self, until: Duration) {
        self.inner.table.serve_until(until);
    }

    /// The node is no member any more and serves nothing.
    pub(crate) fn leave_cluster(&self) {
        self.inner.table.serve_until(Duration::ZERO);
        self.keep_only(&BTreeSet::new());
        self.inner.expelled.raise();
    }

    /// Ends the tenures of all other shards: they are not this node's any more.
    pub(crate) fn keep_only(&self, mine: &BTreeSet<ShardId>) {
        mine.clone_into(&mut self.inner.mine.lock());
        for live in self.inner.table.all_live().filter(|live| !mine.contains(&live.id)) {
            tracing::warn!(shard = live.id.0, "a shard was taken by another node");
            // INVARIANT: at once, and not when its task comes to it: the lease is about to be extended.
            self.inner.table.leave(live.id, live.epoch);
            live.end(Standing::Lost);
        }
    }

    /// Begins to keep a shard of which `life` is the owner on record, unless that is being done.
    pub(crate) fn take(&self, shard: ShardId, life: &NodeLife) {
        self.inner.mine.lock().insert(shard);
        self.keep(shard, Some(life.clone()), None);
    }

    /// Hands a shard over to another node. False when it is not served here.
    pub(crate) fn hand_over(&self, shard: ShardId, life: &NodeLife, peer: Peer) -> bool {
        let live = self.inner.table.live(shard);
        if let Some(live) = &live {
            live.end(Standing::Leaves(Heir { life: life.clone(), peer }));
        }
        live.is_some()
    }

    // --- the life of a shard on this node

    fn keep(&self, shard: ShardId, life: Option<NodeLife>, first: Option<Tenure>) {
        let mut keepers = self.inner.keepers.lock();
        if keepers.insert(shard) {
            self.inner.kept.send_replace(keepers.len());
            drop(keepers);
            let keeper = Keeper { node: self.clone(), shard };
            tokio::spawn(keeper.keep(life, first));
        }
    }

    async fn begin_tenure(
        &self,
        shard: ShardId,
        life: Option<&NodeLife>,
    ) -> Result<Tenure, NodeError> {
        let store = &self.inner.store;
        let epoch = lease::begin_tenure(&**store, shard, life).await?;
        let children = Arc::new(Children::default());
        let (supervisor, supervision) = Actor::spawn(None, ShardSupervisor, Arc::clone(&children))
            .await
            .map_err(|error| NodeError::Supervisor(shard, error.to_string()))?;
        let withdraw = {
            let table = Arc::downgrade(&self.inner.table);
            move || {
                if let Some(table) = table.upgrade() {
                    table.leave(shard, epoch);
                }
            }
        };
        let (store, clock) = (Arc::clone(store), Arc::clone(&self.inner.clock));
        let journal = Journal::new(shard, epoch, store, clock, self.is_clustered(), withdraw);
        let live = Arc::new(LiveShard {
            id: shard,
            epoch,
            journal,
            supervisor,
            children,
            standing: watch::Sender::new(Standing::Serves),
        });
        tracing::debug!(shard = shard.0, epoch, "shard taken");
        Ok(Tenure::begin(live, supervision))
    }

    /// Lets messages reach the actors of a tenure.
    fn serve(&self, tenure: &Tenure) {
        self.inner.tenures.fetch_add(1, Ordering::Release);
        self.inner.table.enter(tenure.live());
    }
}

/// How many shards a store is laid out in. A new one is laid out in `wanted`.
///
/// # Errors
/// What the store says, or [`NodeError::DamagedLayout`].
pub async fn layout(store: &dyn Store, wanted: u16) -> Result<u16, NodeError> {
    membership::contended(|| lay_out(store, wanted)).await
}

async fn lay_out(store: &dyn Store, wanted: u16) -> Result<u16, NodeError> {
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
