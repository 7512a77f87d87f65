//! Who belongs to a cluster: the records of nodes, and what a node checks before it joins.
//!
//! A node's record is its lease. It writes it anew several times within the lease's length; whoever sees no new
//! writing for that long, by its own clock's passing and not by any clock's reading, takes it for gone. So
//! clocks need to run at about one speed, and need not agree; that they nearly agree is checked for other
//! reasons, since budgets and tokens go by the time of day.

use std::time::Duration;

use aa_protocol::Timestamp;
use aa_store::{CommitError, Order, Store, Transaction};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{clock::Clock, lease::NodeLife, news::Stamp, node::NodeError};

/// The schema of the store that this program writes.
pub const SCHEMA: u32 = 1;

/// The protocol between nodes that this program speaks.
pub const PROTOCOLS: Protocols = Protocols { lowest: 1, highest: 1 };

/// The most nodes a cluster has.
pub const MAX_NODES: usize = 1_000;

/// How a node takes part in a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The cluster's name. A store holds one cluster.
    pub cluster: String,
    /// What tells this cluster from another of the same name: the fingerprint of its certificate authority.
    pub identity: String,
    /// Where other nodes reach this one's relay, as `host:port`.
    pub address: String,
    /// Where the node stands, for people.
    pub zone: String,
    /// The program's version.
    pub version: String,
    /// The protocols it speaks with other nodes.
    pub protocols: Protocols,
    /// How long other nodes wait before they take over from a silent one. A node that cannot reach the store
    /// serves nothing after 85 % of it.
    pub lease: Duration,
    /// How far the node's time of day may be from that of the others.
    pub max_skew: Duration,
}

/// The protocols between nodes that a program speaks, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocols {
    /// The oldest.
    pub lowest: u32,
    /// The newest.
    pub highest: u32,
}

/// What the store holds of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its name.
    pub name: String,
    /// The fingerprint of its certificate authority.
    pub identity: String,
    /// The schema of what is stored.
    pub schema: u32,
    /// When the first node started.
    pub created_at: Timestamp,
}

/// What the store holds of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Which node, in which of its lives.
    #[serde(flatten)]
    pub life: NodeLife,
    /// Where its relay listens.
    pub address: String,
    /// Where it stands.
    pub zone: String,
    /// Its program's version.
    pub version: String,
    /// The protocols it speaks.
    pub protocols: Protocols,
    /// How long it may be silent, in milliseconds.
    pub lease_ms: u64,
    /// Counts the writings of this record.
    pub renewals: u64,
    /// The node's time of day at this writing.
    pub wall: Timestamp,
    /// When this life began.
    pub started_at: Timestamp,
    /// Whether it hands its shards to others and takes none.
    pub draining: bool,
    /// How far it has taken note of the news.
    #[serde(default)]
    pub knows: Stamp,
    /// Records per second of its shards, where there were any lately.
    #[serde(default)]
    pub loads: Vec<(u16, u32)>,
}

/// The longest time from beat to beat.
const LONGEST_BEAT: Duration = Duration::from_secs(5);

const CLUSTER_KEY: &[u8] = b"layout/cluster";
const NODES: &[u8] = b"node/";
const DRAINS: &[u8] = b"node_drain/";

// === impl ClusterOptions ===

impl ClusterOptions {
    /// The lease that nodes have unless told otherwise.
    pub const LEASE: Duration = Duration::from_secs(2);

    /// The difference between clocks that is borne unless told otherwise.
    pub const MAX_SKEW: Duration = Duration::from_secs(5);

    /// How often a node renews its lease and looks at the others.
    pub(crate) fn beat(&self) -> Duration {
        beat_of(self.lease)
    }

    /// How long after the beginning of a successful renewal the node serves. What is left to the end of the lease
    /// is for clocks that run at different speeds.
    pub(crate) fn serves_for(&self) -> Duration {
        self.lease * 85 / 100
    }
}

/// How often a node with such a lease beats: six times in a lease, and no less often for a long one, because balancing and
/// whoever was not told of a change wait for beats.
pub(crate) fn beat_of(lease: Duration) -> Duration {
    (lease / 6).min(LONGEST_BEAT)
}

// === impl Protocols ===

impl Protocols {
    /// The newest protocol that both speak.
    pub fn common(self, other: Self) -> Option<u32> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }

    /// What is to be done so that a program which speaks `ours` can talk to `node`, which speaks this.
    pub fn advice(self, ours: Self, node: &str) -> String {
        if ours.highest < self.lowest {
            return "this program is too old for the cluster: run the version of the other nodes, or the one before it"
                .to_owned();
        }
        format!(
            "bring `{node}` to a version that speaks protocol {} first; upgrade by one version at a time, all nodes \
             before the next",
            ours.lowest
        )
    }
}

// === impl NodeRecord ===

impl NodeRecord {
    /// How long the node may be silent.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    pub(crate) fn put(&self, txn: &mut dyn Transaction) {
        // A struct of strings and numbers always serializes.
        txn.put(node_key(&self.life.node), serde_json::to_vec(self).unwrap_or_default().into());
    }
}

pub(crate) fn node_key(name: &str) -> Bytes {
    [NODES, name.as_bytes()].concat().into()
}

pub(crate) fn drain_key(name: &str) -> Bytes {
    [DRAINS, name.as_bytes()].concat().into()
}

/// The records of all nodes that ever joined and were not forgotten, by name. Those that do not read are left
/// out: they are of no node that this one could talk to.
///
/// # Errors
/// The store does not answer.
pub async fn read_nodes(
    txn: &mut dyn Transaction,
) -> Result<Vec<NodeRecord>, aa_store::StoreError> {
    let range = aa_store::KeyRange::prefix(NODES);
    let stored = txn.range_snapshot(&range, MAX_NODES, Order::Forward).await?;
    let records = stored.iter().filter_map(|(key, value)| {
        let read = serde_json::from_slice(value);
        if let Err(error) = &read {
            tracing::warn!(key = %key.escape_ascii(), %error, "a node's record does not read");
        }
        read.ok()
    });
    Ok(records.collect())
}

/// Checks that this node belongs to the cluster in `store`, whose first node makes it; and that nobody else goes
/// by its name.
///
/// # Errors
/// [`NodeError`] says which of these is not so, and what to do.
pub(crate) async fn join(
    store: &dyn Store,
    clock: &dyn Clock,
    options: &ClusterOptions,
    name: &str,
) -> Result<ClusterRecord, NodeError> {
    let (record, nodes) = contended(|| admission(store, clock, options)).await?;
    let Some(namesake) = nodes.iter().find(|node| node.life.node == name) else {
        return Ok(record);
    };
    // A process that starts again where the former one was has its address, so that one is gone.
    if namesake.address != options.address {
        wait_for_silence(store, clock, namesake).await?;
    }
    Ok(record)
}

/// So often a step is done again that others are in the way of: each time, another one's was done.
const ATTEMPTS: usize = 32;

/// Nodes of one cluster often start together, and all of them write what a new store has not yet: what conflicts with
/// another's write, or may not have been written, is done again.
pub(crate) async fn contended<T, F>(step: impl Fn() -> F) -> Result<T, NodeError>
where
    F: Future<Output = Result<T, NodeError>>,
{
    for _ in 1..ATTEMPTS {
        match step().await {
            Err(NodeError::Commit(CommitError::Conflict | CommitError::UnknownResult(_))) => {}
            outcome => return outcome,
        }
    }
    step().await
}

/// The cluster's record, made if there is none, and the nodes on record.
async fn admission(
    store: &dyn Store,
    clock: &dyn Clock,
    options: &ClusterOptions,
) -> Result<(ClusterRecord, Vec<NodeRecord>), NodeError> {
    let mut txn = store.begin().await?;
    let record = match txn.get(CLUSTER_KEY).await? {
        Some(stored) => serde_json::from_slice(&stored).map_err(|_| NodeError::DamagedLayout)?,
        None => {
            let record = ClusterRecord {
                name: options.cluster.clone(),
                identity: options.identity.clone(),
                schema: SCHEMA,
                created_at: clock.now(),
            };
            let value = serde_json::to_vec(&record).unwrap_or_default();
            txn.put(Bytes::from_static(CLUSTER_KEY), value.into());
            record
        }
    };
    let ClusterRecord { name: found, identity, schema, .. } = &record;
    if *schema > SCHEMA {
        return Err(NodeError::NewerSchema { found: *schema });
    }
    if *found != options.cluster {
        let (found, wanted) = (found.clone(), options.cluster.clone());
        return Err(NodeError::OtherCluster { found, wanted });
    }
    if *identity != options.identity {
        return Err(NodeError::OtherAuthority { cluster: found.clone() });
    }
    let nodes = read_nodes(&mut *txn).await?;
    txn.commit().await?;
    Ok((record, nodes))
}

/// Waits until a node has been silent for the length of its lease.
async fn wait_for_silence(
    store: &dyn Store,
    clock: &dyn Clock,
    node: &NodeRecord,
) -> Result<(), NodeError> {
    clock.sleep(node.lease() + node.lease() / 10).await;
    let mut txn = store.begin().await?;
    let nodes = read_nodes(&mut *txn).await?;
    let is_same = |other: &&NodeRecord| other.life == node.life && other.renewals == node.renewals;
    let name = &node.life.node;
    let is_gone =
        nodes.iter().find(is_same).is_some() || !nodes.iter().any(|other| other.life.node == *name);
    if is_gone {
        return Ok(());
    }
    Err(NodeError::NameTaken { name: name.clone(), address: node.address.clone() })
}

/// Checks the versions and clocks of the other nodes against this one's. `others` are such whose records were
/// written within the last beat or two.
///
/// # Errors
/// [`NodeError::NoCommonProtocol`] or [`NodeError::ClockOff`].
pub(crate) fn check_against(
    others: &[NodeRecord],
    options: &ClusterOptions,
    now: Timestamp,
) -> Result<(), NodeError> {
    check_protocols(others, options.protocols)?;
    let offsets: Vec<i64> =
        others.iter().map(|other| now.as_micros() - other.wall.as_micros()).collect();
    check_clock(&offsets, options.max_skew)
}

/// Checks whether this node can talk to each of the others.
///
/// # Errors
/// [`NodeError::NoCommonProtocol`].
pub(crate) fn check_protocols(others: &[NodeRecord], ours: Protocols) -> Result<(), NodeError> {
    let foreign = others.iter().find(|other| ours.common(other.protocols).is_none());
    foreign.map_or(Ok(()), |other| {
        let (node, theirs) = (other.life.node.clone(), other.protocols);
        Err(NodeError::NoCommonProtocol { node, theirs, ours })
    })
}

/// Checks by how many microseconds this node's clock is ahead of each of the others.
///
/// # Errors
/// [`NodeError::ClockOff`] when most of them are further away than is borne.
pub(crate) fn check_clock(offsets: &[i64], borne: Duration) -> Result<(), NodeError> {
    let is_far = |offset: &&i64| u128::from(offset.unsigned_abs()) > borne.as_micros();
    let mut far: Vec<i64> = offsets.iter().filter(is_far).copied().collect();
    if far.len() * 2 <= offsets.len() {
        return Ok(());
    }
    far.sort_unstable();
    let median = far[far.len() / 2];
    Err(NodeError::ClockOff {
        by: Duration::from_micros(median.unsigned_abs()),
        ahead: median > 0,
        nodes: offsets.len(),
        borne,
    })
}
