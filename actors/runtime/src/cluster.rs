//! A node's life in a cluster: it renews its lease, watches the others, and takes, keeps and hands over shards.
//!
//! Everything that nodes agree on is in the store, and each acts by itself on what it reads there in every
//! **beat**: one transaction that reads all nodes and owners and renews the node's own lease. There is no leader
//! but one chore, balancing, which the owner of shard 0 does.
//!
//! What makes it safe is not here but in the journal, whose every commit reads the shard's epoch. What is here
//! makes it live, and keeps a node that is cut off from answering out of its memory.

mod chores;
mod claims;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use aa_protocol::Timestamp;
use aa_store::{CommitError, KeyRange, Order, Store, StoreError, Transaction};
use bytes::Bytes;

use crate::{
    balance,
    lease::{self, LeaseError, NodeLife, Ownership},
    membership::{self, ClusterOptions, NodeRecord, check_against, drain_key, node_key},
    news::{self, Heard, KEPT_FOR, Stamp},
    node::{Node, NodeError},
    placement::{Elsewhere, Peer},
    shard::ShardId,
};

/// A node as the others see it.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// What it writes of itself.
    pub record: NodeRecord,
    /// Whether its lease runs.
    pub is_alive: bool,
    /// How many shards it owns.
    pub shards: usize,
}

/// A shard as the store has it.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// Which.
    pub shard: ShardId,
    /// Its owner, and to whom it shall go.
    pub ownership: Option<Ownership>,
    /// Whether the owner's lease runs.
    pub is_served: bool,
}

/// The cluster as this node last read it.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// All nodes on record, by name.
    pub nodes: Vec<NodeStatus>,
    /// All shards.
    pub shards: Vec<ShardStatus>,
}

/// What one node knows of the cluster from beat to beat.
pub(crate) struct Member {
    node: Node,
    options: ClusterOptions,
    life: NodeLife,
    started_at: Timestamp,
    /// The same by [`Clock::elapsed`](crate::Clock::elapsed).
    joined: Duration,
    renewals: u64,
    draining: bool,
    /// The last writing that was seen of each node, and when by this node's own clock.
    seen: BTreeMap<String, Seen>,
    /// When the last beat succeeded.
    last_beat: Option<Duration>,
    /// What each shard's journal had committed at the last look, and when that was.
    counted: BTreeMap<ShardId, (u64, Duration)>,
    loads: BTreeMap<ShardId, u32>,
    /// How far the news are read.
    cursor: Stamp,
    /// How far the news went at moments of the past: what is older than they are kept may go.
    past_news: VecDeque<(Duration, Stamp)>,
    /// When the chores of the cluster were last done here.
    last_chores: Duration,
    /// Shards that were moved lately, and when.
    rested: BTreeMap<ShardId, Duration>,
}

/// The nodes whose leases run, by name.
type Alive = BTreeMap<String, NodeRecord>;

struct Seen {
    record: NodeRecord,
    at: Duration,
}

/// What a beat found in the store.
struct Found {
    nodes: Vec<NodeRecord>,
    owners: BTreeMap<ShardId, Ownership>,
    news: Vec<(Stamp, Bytes)>,
}

/// Why a beat did not succeed.
#[derive(Debug, thiserror::Error)]
enum BeatError {
    /// The record under this node's name is of another life.
    #[error("another process joined under this node's name")]
    Replaced,
    #[error("the store did not answer in time")]
    TimedOut,
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// How often the owner of shard 0 looks whether the load is fair and who is gone for good.
const CHORES_EVERY: Duration = Duration::from_secs(5);

// === impl Member ===

impl Member {
    /// Joins the cluster: checks that it may, and makes the first beat.
    pub(crate) async fn join(node: Node, options: ClusterOptions) -> Result<Self, NodeError> {
        let clock = node.clock();
        let store = node.store();
        membership::join(&*store, &*clock, &options, node.name()).await?;
        let mut random = [0; 8];
        node.entropy().fill(&mut random);
        let life = NodeLife {
            node: node.name().to_owned(),
            incarnation: u64::from_be_bytes(random) >> 11,
        };
        let started_at = clock.now();
        let mut member = Self {
            node,
            life,
            started_at,
            joined: clock.elapsed(),
            options,
            renewals: 0,
            draining: false,
            seen: BTreeMap::new(),
            last_beat: None,
            counted: BTreeMap::new(),
            loads: BTreeMap::new(),
            cursor: Stamp::default(),
            past_news: VecDeque::new(),
            last_chores: clock.elapsed(),
            rested: BTreeMap::new(),
        };
        let known = member.survey().await?;
        // INVARIANT: this writes the record of the life, whoever's was there; beats only renew it.
        let first = &member;
        member.cursor = membership::contended(|| first.first_record()).await?;
        member.node.know(member.cursor);
        member.check_newcomers(&known).await?;
        Ok(member)
    }

    /// Puts the node on record, and tells from where on it reads the news: nothing was read of the store yet that older
    /// ones could tell of.
    async fn first_record(&self) -> Result<Stamp, NodeError> {
        let store = self.node.store();
        let mut txn = store.begin().await?;
        txn.get(&node_key(&self.life.node)).await?;
        let cursor = news::latest(&mut *txn).await?;
        self.record(self.node.clock().now()).put(&mut *txn);
        txn.commit().await?;
        Ok(cursor)
    }

    /// Checks this node against those that joined while it did. Of two that did not see each other in their surveys, one
    /// sees the other here.
    async fn check_newcomers(&self, known: &[NodeRecord]) -> Result<(), NodeError> {
        let store = self.node.store();
        let mut txn = store.begin().await?;
        let mut others = membership::read_nodes(&mut *txn).await?;
        others.retain(|record| {
            record.life.node != self.life.node && known.iter().all(|old| old.life != record.life)
        });
        if let Err(refused) = membership::check_protocols(&others, self.options.protocols) {
            txn.delete(node_key(&self.life.node));
            txn.commit().await?;
            return Err(refused);
        }
        Ok(())
    }

    pub(crate) const fn incarnation(&self) -> u64 {
        self.life.incarnation
    }

    /// Looks at who is alive, by looking twice, and whether this node fits in. Gives the records of all, dead or alive.
    async fn survey(&mut self) -> Result<Vec<NodeRecord>, NodeError> {
        let store = self.node.store();
        let before = membership::read_nodes(&mut *store.begin().await?).await?;
        let others = before.iter().any(|record| record.life.node != self.life.node);
        if !others {
            return Ok(before);
        }
        // Within two beats, whoever is alive has written.
        let beats = before.iter().map(|record| 2 * membership::beat_of(record.lease()));
        self.node.clock().sleep(beats.max().unwrap_or_default()).await;
        let after = membership::read_nodes(&mut *store.begin().await?).await?;
        let was_written = |record: &&NodeRecord| {
            record.life.node != self.life.node
                && before
                    .iter()
                    .any(|old| old.life == record.life && old.renewals < record.renewals)
        };
        let alive: Vec<_> = after.iter().filter(was_written).cloned().collect();
        check_against(&alive, &self.options, self.node.clock().now())?;
        Ok(before)
    }

    fn record(&self, now: Timestamp) -> NodeRecord {
        NodeRecord {
            life: self.life.clone(),
            address: self.options.address.clone(),
            zone: self.options.zone.clone(),
            version: self.options.version.clone(),
            protocols: self.options.protocols,
            lease_ms: self.options.lease.as_millis() as u64,
            renewals: self.renewals,
            wall: now,
            started_at: self.started_at,
            draining: self.draining,
            knows: self.node.knows(),
            loads: self.loads.iter().map(|(shard, load)| (shard.0, *load)).collect(),
        }
    }

    /// Beats until the node stops, or is no member any more.
    pub(crate) async fn live(mut self) {
        let clock = self.node.clock();
        let stopping = self.node.stopping();
        loop {
            let begun = clock.elapsed();
            match self.beat().await {
                Ok(found) => self.act_on(found, begun).await,
                Err(BeatError::Replaced) => {
                    tracing::error!(
                        node = self.life.node,
                        "another process joined under this node's name; this one serves no more. \
                         Give every node a name of its own"
                    );
                    self.node.leave_cluster();
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the lease was not renewed; it is tried again");
                }
            }
            // As long a pause after a slow beat as after a fast one would let the lease lapse.
            let spent = clock.elapsed().saturating_sub(begun);
            let pause = self.options.beat().saturating_sub(spent).max(self.options.beat() / 8);
            let in_doubt = tokio::select! {
                biased;
                () = stopping.wait() => return,
                () = self.node.table().doubted() => true,
                () = clock.sleep(pause) => false,
            };
            // Many notice at once; one look does for all.
            if in_doubt {
                clock.sleep(self.options.beat() / 32).await;
            }
        }
    }

    async fn beat(&mut self) -> Result<Found, BeatError> {
        let clock = self.node.clock();
        let within = clock.sleep(self.options.lease / 2);
        tokio::select! {
            biased;
            found = self.exchange() => found,
            () = within => Err(BeatError::TimedOut),
        }
    }

    /// Reads what the others wrote, and renews this node's own record.
    async fn exchange(&mut self) -> Result<Found, BeatError> {
        let store = self.node.store();
        let mut txn = store.begin().await?;
        let own = txn.get(&node_key(&self.life.node)).await?;
        let is_own = own.is_some_and(|stored| {
            serde_json::from_slice::<NodeRecord>(&stored)
                .is_ok_and(|record| record.life == self.life)
        });
        if !is_own {
            return Err(BeatError::Replaced);
        }
        let drain = txn.get_snapshot(&drain_key(&self.life.node)).await?.is_some();
        let nodes = membership::read_nodes(&mut *txn).await?;
        let owners = read_owners(&mut *txn, self.node.shard_count()).await?;
        let news = news::read_on(&mut *txn, self.cursor).await?;
        self.renewals += 1;
        self.draining = drain || self.node.is_leaving();
        self.record(self.node.clock().now()).put(&mut *txn);
        txn.commit().await?;
        Ok(Found { nodes, owners, news })
    }

    /// Does what this beat's reading asks for.
    async fn act_on(&mut self, found: Found, begun: Duration) {
        let now = self.node.clock().elapsed();
        self.observe(&found.nodes, now);
        let alive = self.alive(now);
        let life = self.life.clone();
        let is_mine = |ownership: &&Ownership| ownership.owner == life;
        let mine: BTreeSet<ShardId> = found
            .owners
            .iter()
            .filter(|(_, ownership)| is_mine(ownership))
            .map(|(shard, _)| *shard)
            .collect();
        // First out of service what is not this node's any more; then the lease counts.
        self.node.keep_only(&mine);
        self.publish(&found, &alive, begun);
        // INVARIANT: after the view, so that whoever knows of news has seen the nodes that may not.
        self.tell(&found.news, now);
        if let Err(error) = self.check_clock(&alive, now) {
            tracing::error!(%error, "this node serves nothing until that is mended");
            return;
        }
        self.node.serve_until(begun + self.options.serves_for());
        for (shard, ownership) in found.owners.iter().filter(|(_, known)| is_mine(known)) {
            let heir = ownership.successor.as_ref().and_then(|name| alive.get(name));
            let heir = heir.filter(|heir| heir.life != self.life);
            let leaves =
                heir.is_some_and(|heir| self.node.hand_over(*shard, &heir.life, peer_of(heir)));
            // One that is not served yet is handed over once it is.
            if !leaves {
                self.node.take(*shard, &self.life);
            }
        }
        self.claim_orphans(&found, &alive).await;
        self.measure(now);
        if self.draining {
            let moves = balance::send_away(&self.burdens(&found, &alive), &self.life.node);
            self.order(&moves).await;
            if !moves.is_empty() {
                // They are this node's own, and it need not wait for its next beat.
                self.node.table().look_again();
            }
        }
        if mine.contains(&ShardId(0)) && now.saturating_sub(self.last_chores) >= CHORES_EVERY {
            self.last_chores = now;
            self.balance(&found, &alive, now).await;
            self.forget_the_dead(now).await;
            self.forget_old_news(now).await;
        }
        self.last_beat = Some(now);
    }

    /// Passes the news on to this node's readers.
    fn tell(&mut self, news: &[(Stamp, Bytes)], now: Duration) {
        if self.last_beat.is_some_and(|last| now.saturating_sub(last) > KEPT_FOR / 2) {
            self.node.tell(Heard::Missed);
        }
        for (stamp, body) in news {
            self.cursor = *stamp;
            self.node.tell(Heard::News { stamp: *stamp, body: body.clone() });
        }
        if news.len() == news::AT_ONCE {
            self.node.table().look_again();
        }
    }

    fn observe(&mut self, nodes: &[NodeRecord], now: Duration) {
        // Who did not look cannot say that nothing moved.
        let was_away =
            self.last_beat.is_none_or(|last| now.saturating_sub(last) > self.options.lease / 2);
        self.seen.retain(|name, _| nodes.iter().any(|record| record.life.node == *name));
        for record in nodes {
            let is_known = self.seen.get(&record.life.node).is_some_and(|seen| {
                seen.record.life == record.life && seen.record.renewals == record.renewals
            });
            if !is_known || was_away {
                let seen = Seen { record: record.clone(), at: now };
                self.seen.insert(record.life.node.clone(), seen);
            }
        }
    }

    /// The nodes whose leases run, this one among them.
    fn alive(&self, now: Duration) -> Alive {
        let runs = |seen: &&Seen| {
            let lease = seen.record.lease();
            seen.record.life == self.life || now.saturating_sub(seen.at) <= lease + lease / 10
        };
        let alive = self.seen.values().filter(runs);
        alive.map(|seen| (seen.record.life.node.clone(), seen.record.clone())).collect()
    }

    /// Whether this node's time of day is still that of the others. Of two nodes that disagree, it is the one whose
    /// clock was set: each knows that of itself, by what passed meanwhile.
    fn check_clock(&self, alive: &Alive, now: Duration) -> Result<(), NodeError> {
        let clock = self.node.clock();
        let wall = clock.now();
        let offsets =
            alive.values().filter(|record| record.life != self.life).filter_map(|record| {
                let age = now.saturating_sub(self.seen.get(&record.life.node)?.at);
                let theirs = record.wall.saturating_add(age);
                (age < self.options.lease / 2).then(|| wall.as_micros() - theirs.as_micros())
            });
        let offsets: Vec<i64> = offsets.collect();
        let jumped = {
            let expected = self.started_at.saturating_add(now.saturating_sub(self.joined));
            (wall.as_micros() - expected.as_micros()).unsigned_abs()
                > self.options.max_skew.as_micros() as u64 / 2
        };
        match membership::check_clock(&offsets, self.options.max_skew) {
            Err(error) if offsets.len() < 2 && !jumped => {
                tracing::warn!(%error, "or the other node's is off; both go on");
                Ok(())
            }
            checked => checked,
        }
    }

    /// Lets everybody on this node know where the shards are.
    fn publish(&self, found: &Found, alive: &Alive, begun: Duration) {
        let others = alive.values().filter(|record| record.life != self.life);
        let peers = others.map(|record| (Arc::from(record.life.node.as_str()), peer_of(record)));
        let owner = |(shard, ownership): (&ShardId, &Ownership)| {
            let record = alive.get(&ownership.owner.node)?;
            let is_other = record.life == ownership.owner && record.life != self.life;
            is_other.then(|| (*shard, peer_of(record)))
        };
        let owners = found.owners.iter().filter_map(owner).collect();
        let read = Elsewhere { owners, peers: peers.collect(), ..Elsewhere::default() };
        self.node.table().replace(read, begun);

        let owned = |life: &NodeLife| {
            found.owners.values().filter(|ownership| ownership.owner == *life).count()
        };
        let nodes = found.nodes.iter().map(|record| NodeStatus {
            is_alive: alive.get(&record.life.node).is_some_and(|known| known.life == record.life),
            shards: owned(&record.life),
            record: record.clone(),
        });
        let shards = (0..self.node.shard_count()).map(ShardId).map(|shard| {
            let ownership = found.owners.get(&shard).cloned();
            let is_served = ownership.as_ref().is_some_and(|ownership| {
                alive.get(&ownership.owner.node).is_some_and(|node| node.life == ownership.owner)
            });
            ShardStatus { shard, ownership, is_served }
        });
        let view = ClusterView { nodes: nodes.collect(), shards: shards.collect() };
        self.node.show_view(view);
    }
}

/// Who owns which shard. A record that does not read, or of a shard that there is not, is of somebody who edited the
/// table: it counts as none. Nothing depends on it but who takes the shard; the epoch keeps out who should not.
async fn read_owners(
    txn: &mut dyn Transaction,
    shards: u16,
) -> Result<BTreeMap<ShardId, Ownership>, StoreError> {
    let range = KeyRange::prefix(lease::OWNERS);
    let stored = txn.range_snapshot(&range, usize::from(u16::MAX), Order::Forward).await?;
    let mut owners = BTreeMap::new();
    for (key, value) in &stored {
        let shard = lease::shard_of_key(key).filter(|shard| shard.0 < shards);
        match shard.map(|shard| (shard, lease::decode_owner(shard, value))) {
            Some((shard, Ok(ownership))) => drop(owners.insert(shard, ownership)),
            Some((_, Err(error))) => {
                tracing::warn!(%error, "the record of a shard's owner is written anew");
            }
            None => tracing::warn!(key = %key.escape_ascii(), "there is no such shard"),
        }
    }
    Ok(owners)
}

fn peer_of(record: &NodeRecord) -> Peer {
    Peer {
        name: Arc::from(record.life.node.as_str()),
        incarnation: record.life.incarnation,
        address: Arc::from(record.address.as_str()),
    }
}

/// Writes down to which nodes shards shall go; their owners see to it.
///
/// # Errors
/// One of them has no owner, or the store does not answer; nothing is written then.
pub async fn order_moves(store: &dyn Store, moves: &[(ShardId, &str)]) -> Result<(), LeaseError> {
    let mut txn = store.begin().await?;
    let owners = read_owners(&mut *txn, u16::MAX).await?;
    for (shard, to) in moves {
        let Some(known) = owners.get(shard) else {
            return Err(LeaseError::Held { shard: *shard, owner: "none".to_owned() });
        };
        let successor = (known.owner.node != *to).then(|| (*to).to_owned());
        if known.successor == successor {
            continue;
        }
        txn.add_read_conflict(KeyRange::single(&lease::owner_key(*shard)));
        lease::put_owner(&mut *txn, *shard, &Ownership { successor, ..known.clone() });
    }
    txn.commit().await?;
    Ok(())
}

/// Writes down that a node shall hand over all its shards and take none, or that it shall take some again.
///
/// # Errors
/// The store does not answer.
pub async fn order_drain(store: &dyn Store, node: &str, drain: bool) -> Result<(), LeaseError> {
    let mut txn = store.begin().await?;
    if drain {
        txn.put(drain_key(node), Bytes::from_static(b"1"));
    } else {
        txn.delete(drain_key(node));
    }
    txn.commit().await?;
    Ok(())
}
