//! Where shards live: what this node knows of it, and who waits to know.
//!
//! The store's records are the truth ([`crate::cluster`] reads them); this is a view of them, in memory, that
//! corrects itself: a message that reached a node in vain puts its place in doubt until the next reading.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    shard::{LiveShard, ShardId},
    signal::Changes,
};

/// Another node, in one of its lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its name.
    pub name: Arc<str>,
    /// Which of its lives: a node that starts again is another peer.
    pub incarnation: u64,
    /// Where its relay listens, as `host:port`.
    pub address: Arc<str>,
}

/// Where a shard lives, as far as this node knows.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// On this node.
    Here,
    /// On another.
    At(Peer),
    /// On none, or on its way.
    Nowhere,
}

/// The places of all shards.
pub(crate) struct ShardTable {
    clock: Arc<dyn Clock>,
    /// Until when this node may answer for its shards, in microseconds of [`Clock::elapsed`].
    serves_until: AtomicU64,
    here: Vec<ArcSwapOption<LiveShard>>,
    elsewhere: ArcSwap<Elsewhere>,
    /// Of either.
    changes: Changes,
    /// Somebody has met an owner that is not.
    doubts: Notify,
}

/// What was read of the other nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Elsewhere {
    /// The owners of shards that are not this node's, by shard; only nodes whose leases run.
    pub(crate) owners: BTreeMap<ShardId, Peer>,
    /// The other nodes whose leases run.
    pub(crate) peers: BTreeMap<Arc<str>, Peer>,
    /// To whom this node has handed over shards, and when: what was read before then does not know it.
    pub(crate) expected: BTreeMap<ShardId, (Peer, Duration)>,
}

// === impl ShardTable ===

impl ShardTable {
    pub(crate) fn new(shards: u16, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            serves_until: AtomicU64::new(0),
            here: (0..shards).map(|_| ArcSwapOption::empty()).collect(),
            elsewhere: ArcSwap::default(),
            changes: Changes::default(),
            doubts: Notify::new(),
        }
    }

    pub(crate) fn shard_count(&self) -> u16 {
        self.here.len() as u16
    }

    /// Whether this node may answer for its shards: its lease runs.
    pub(crate) fn serves(&self) -> bool {
        let until = self.serves_until.load(Ordering::Acquire);
        until == u64::MAX || self.clock.elapsed().as_micros() < u128::from(until)
    }

    /// From now until then, by [`Clock::elapsed`], this node may answer for its shards.
    pub(crate) fn serve_until(&self, until: Duration) {
        let micros = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
        let did = self.serves();
        self.serves_until.store(micros, Ordering::Release);
        if !did {
            self.tell();
        }
    }

    /// The shard, while a tenure of it runs on this node.
    pub(crate) fn live(&self, shard: ShardId) -> Option<Arc<LiveShard>> {
        self.here.get(usize::from(shard.0))?.load_full()
    }

    /// All shards with a tenure on this node.
    pub(crate) fn all_live(&self) -> impl Iterator<Item = Arc<LiveShard>> + '_ {
        self.here.iter().filter_map(ArcSwapOption::load_full)
    }

    /// A tenure begins.
    pub(crate) fn enter(&self, live: Arc<LiveShard>) {
        self.here[usize::from(live.id.0)].store(Some(live));
        self.tell();
    }

    /// The tenure of `epoch` serves no more, if it is the one that runs.
    pub(crate) fn leave(&self, shard: ShardId, epoch: u64) {
        let slot = &self.here[usize::from(shard.0)];
        if slot.load().as_ref().is_some_and(|live| live.epoch == epoch) {
            slot.store(None);
            self.tell();
        }
    }

    /// What was read of the other nodes, not before `since`.
    pub(crate) fn replace(&self, read: Elsewhere, since: Duration) {
        self.elsewhere.rcu(|known| {
            let mut next = read.clone();
            // INVARIANT: a place is not lost to a reading that is older. Who waits for a shard without one asks nobody,
            // and would wait for the next beat.
            for (shard, (peer, at)) in known.expected.iter().filter(|(_, (_, at))| *at >= since) {
                next.owners.insert(*shard, peer.clone());
                next.expected.insert(*shard, (peer.clone(), *at));
            }
            next
        });
        self.tell();
    }

    /// The other nodes whose leases run.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.elsewhere.load().peers.values().cloned().collect()
    }

    pub(crate) fn find(&self, shard: ShardId) -> Place {
        if self.live(shard).is_some() {
            // A node whose lease has lapsed answers for nothing, and is not asked.
            return if self.serves() { Place::Here } else { Place::Nowhere };
        }
        match self.elsewhere.load().owners.get(&shard) {
            Some(peer) => Place::At(peer.clone()),
            None => Place::Nowhere,
        }
    }

    /// Waits until the shard is somewhere.
    pub(crate) async fn wait_for(&self, shard: ShardId) -> Place {
        let find = || match self.find(shard) {
            Place::Nowhere => None,
            place => Some(place),
        };
        self.changes.until(find).await
    }

    /// The shard has just been handed over to `peer`.
    pub(crate) fn expect(&self, shard: ShardId, peer: Peer) {
        let now = self.clock.elapsed();
        self.elsewhere.rcu(|elsewhere| {
            let mut corrected = Elsewhere::clone(elsewhere);
            corrected.owners.insert(shard, peer.clone());
            corrected.expected.insert(shard, (peer.clone(), now));
            corrected
        });
        self.tell();
    }

    /// Something has changed, says another node: the owners are read again.
    pub(crate) fn look_again(&self) {
        self.doubts.notify_one();
    }

    /// `peer` says that it does not have the shard: nobody is sent there until the owners are read again.
    pub(crate) fn doubt(&self, shard: ShardId, peer: &Peer) {
        self.elsewhere.rcu(|elsewhere| {
            let mut corrected = Elsewhere::clone(elsewhere);
            if corrected.owners.get(&shard) == Some(peer) {
                corrected.owners.remove(&shard);
                corrected.expected.remove(&shard);
            }
            corrected
        });
        self.doubts.notify_one();
    }

    /// Completes once a place was put in doubt since the last call completed.
    pub(crate) async fn doubted(&self) {
        self.doubts.notified().await;
    }

    /// Completes once the lease of `peer` has ended, as far as this node knows.
    pub(crate) async fn wait_until_gone(&self, peer: &Peer) {
        let is_there = || self.elsewhere.load().peers.get(&peer.name) == Some(peer);
        self.changes.until(|| (!is_there()).then_some(())).await;
    }

    /// Completes once `find` finds something, looking again after every change.
    pub(crate) async fn until<T>(&self, find: impl Fn() -> Option<T>) -> T {
        self.changes.until(find).await
    }

    /// Lets all who wait look.
    pub(crate) fn tell(&self) {
        self.changes.tell();
    }
}

impl fmt::Debug for ShardTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here = self.all_live().count();
        f.debug_struct("ShardTable").field("here", &here).finish_non_exhaustive()
    }
}
