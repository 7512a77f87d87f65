//! The cluster that is simulated: nodes, their clocks, the network and the store.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aa_governance::{
    AuditKeys, Governance, GovernanceOptions, Grant, Permit, Principal, agent::AgentKeyId,
    permission::Operation,
};
use aa_ledger::MacKey;
use aa_protocol::{
    ActionId, AgentFacts, AgentId, EventId, GovernanceLevel, Timestamp, Verdict, WorkspaceId,
};
use aa_runtime::{
    ClusterOptions, Node, NodeError, Protocols, SeededEntropy, ShardId,
    sim::{SimClock, SimNet, SimStore},
};
use aa_store::{FaultRates, Faults, MemoryStore, Store, StoreClock};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{Outcome, Size};
use crate::money::WatchedStore;

/// Everything there is in a run.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) size: Size,
    /// The true time.
    pub(super) clock: SimClock,
    pub(super) store: WatchedStore,
    pub(super) faults: Faults,
    pub(super) net: SimNet,
    pub(super) nodes: Mutex<BTreeMap<String, Running>>,
    pub(super) workspaces: [WorkspaceId; 2],
    pub(super) outcome: Mutex<Outcome>,
    pub(super) told: Mutex<Vec<Told>>,
    /// What operators were told is in force: when that was, by true time, and which revision.
    pub(super) in_force: Mutex<Vec<InForce>>,
    /// What was found wrong while it ran.
    pub(super) violation: Mutex<Option<String>>,
    ended: AtomicBool,
    lives: AtomicU64,
    /// How often the program of each node was replaced by its next version.
    pub(super) versions: Mutex<BTreeMap<String, u32>>,
    /// What clients and operators wait for, for those who find them stuck.
    pub(super) waiting: Mutex<BTreeMap<String, String>>,
}

/// A node while it runs.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) node: Node,
    pub(super) governance: Governance,
    pub(super) store: SimStore,
    pub(super) clock: SimClock,
    /// No new clients are given to it: it is about to stop.
    pub(super) leaves: Arc<AtomicBool>,
}

/// A decision that a client was told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) workspace: WorkspaceId,
    pub(super) action: ActionId,
    pub(super) event: EventId,
    pub(super) verdict: Verdict,
    /// When the client first asked, by true time.
    pub(super) asked: Duration,
    /// The tool that it asked for.
    pub(super) tool: Option<usize>,
}

/// A revision of a workspace's policy, as an operator was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct InForce {
    pub(super) workspace: WorkspaceId,
    pub(super) since: Duration,
    pub(super) revision: u64,
    /// The tool that it forbids.
    pub(super) forbids: usize,
}

/// The store's clock: the true time.
struct TrueTime(tokio::time::Instant);

/// Tools of which each revision of a policy forbids one, in turn.
pub(super) const TOOLS: usize = 4;

/// The shards of the cluster: fewer than usual, to make more of each.
const SHARDS: u16 = 24;

const START: &str = "2026-11-23T12:00:00Z";

impl StoreClock for TrueTime {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

impl World {
    /// A cluster that is whole, with workspaces, policies, budgets and agents.
    pub(super) async fn begin(seed: u64, size: Size) -> Result<Self, String> {
        let start: Timestamp = START.parse().map_err(|_| "the start is no time")?;
        let faults = Faults::seeded(seed, FaultRates::default());
        let time = Arc::new(TrueTime(tokio::time::Instant::now()));
        let store = WatchedStore::new(MemoryStore::with(time, faults.clone()));
        let mut txn = store.begin().await.map_err(|error| error.to_string())?;
        let layout = Bytes::copy_from_slice(&SHARDS.to_be_bytes());
        txn.put(Bytes::from_static(b"layout/shards"), layout);
        txn.commit().await.map_err(|error| error.to_string())?;
        let ids =
            ["ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890", "ws-b1b2c3d4-e5f6-7890-abcd-ef1234567890"];
        let workspaces = ids.map(|id| id.parse().expect("it is an id"));
        let world = Self {
            seed,
            size,
            clock: SimClock::new(start),
            store,
            faults,
            net: SimNet::new(seed),
            nodes: Mutex::default(),
            workspaces,
            outcome: Mutex::default(),
            told: Mutex::default(),
            in_force: Mutex::default(),
            violation: Mutex::default(),
            ended: AtomicBool::new(false),
            lives: AtomicU64::new(0),
            versions: Mutex::default(),
            waiting: Mutex::default(),
        };
        for number in 0..size.nodes {
            let name = node_name(number);
            world.start(&name).await.map_err(|error| error.to_string())?;
        }
        world.until_served().await?;
        for workspace in workspaces {
            let governance = world.any_governance(&mut fastrand::Rng::with_seed(seed));
            let governance = governance.ok_or("no node runs")?;
            let set_up = governance.set_up_workspace(workspace, "sim").await;
            set_up.map_err(|error| error.to_string())?;
            super::operators::set_up(&world, &governance, workspace).await?;
            for number in 0..size.agents {
                world.register(&governance, workspace, number).await?;
            }
        }
        Ok(world)
    }

    async fn register(
        &self,
        governance: &Governance,
        workspace: WorkspaceId,
        number: usize,
    ) -> Result<(), String> {
        let id = agent_id(workspace, number);
        let facts = AgentFacts {
            id: id.agent,
            name: agent_name(number),
            org: None,
            team: Some(format!("team-{}", number % 2)),
            governance_level: GovernanceLevel::L0,
            labels: BTreeMap::new(),
        };
        let registered = governance.register(&self.permit(workspace), facts, "key".into()).await;
        registered.map(drop).map_err(|error| error.to_string())
    }

    /// How many clients there are, one for each agent.
    pub(super) fn clients(&self) -> usize {
        self.size.agents * self.workspaces.len()
    }

    /// The agent of a client.
    pub(super) fn agent_of(&self, client: usize) -> AgentKeyId {
        let workspace = self.workspaces[client % self.workspaces.len()];
        agent_id(workspace, client / self.workspaces.len())
    }

    pub(super) fn permit<O: Operation>(&self, workspace: WorkspaceId) -> Permit<O> {
        self.permit_of("operator", workspace)
    }

    pub(super) fn permit_of<O: Operation>(&self, key: &str, workspace: WorkspaceId) -> Permit<O> {
        let principal = Principal { workspace, key_id: key.into(), grant: Grant::Owner };
        principal.authorize().expect("an owner may")
    }

    /// Starts a node under a name, in its version of the moment, with a true clock and a whole network.
    pub(super) async fn start(&self, name: &str) -> Result<(), NodeError> {
        loop {
            let version = self.version(name);
            let running = self.start_as(name, protocols(version)).await?;
            // One that was replaced while it started is not what is wanted.
            if self.version(name) == version {
                if version > 0 {
                    self.net.set_later(name);
                }
                self.net.plug_in(name, running.node.incarnation(), running.node.relay().clone());
                self.nodes.lock().insert(name.to_owned(), running);
                return Ok(());
            }
            running.store.set_cut(true);
            running.node.crash();
        }
    }

    /// How often the node's program was replaced by its next version.
    pub(super) fn version(&self, name: &str) -> u32 {
        self.versions.lock().get(name).copied().unwrap_or_default()
    }

    /// Joins under a name with these protocols.
    pub(super) async fn start_as(
        &self,
        name: &str,
        protocols: Protocols,
    ) -> Result<Running, NodeError> {
        // Every life of a node draws its own numbers.
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let own = self.seed ^ (life + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let clock = self.clock.another();
        let store = SimStore::new(Arc::new(self.store.clone()), own);
        let options = ClusterOptions {
            cluster: "sim".to_owned(),
            identity: "authority".to_owned(),
            address: format!("{name}:7100"),
            zone: String::new(),
            version: "1.0.0".to_owned(),
            protocols,
            lease: ClusterOptions::LEASE,
            max_skew: ClusterOptions::MAX_SKEW,
        };
        let node = Node::join(
            Arc::new(store.clone()),
            Arc::new(clock.clone()),
            Arc::new(SeededEntropy::new(own)),
            name.to_owned(),
            options,
            self.net.transport(name),
        )
        .await?;
        let keys = AuditKeys {
            log_seed: Zeroizing::new([9; 32]),
            mac: MacKey::new("k1", &[3; 32]).expect("a key"),
        };
        let governance_options = GovernanceOptions {
            agent_idle: Duration::from_secs(20),
            checkpoint_every: Duration::from_secs(5),
            verify_every: Duration::from_secs(1_000_000_000),
        };
        let governance =
            Governance::start(node.clone(), keys, crate::outside::outside(), governance_options);
        Ok(Running { node, governance, store, clock, leaves: Arc::default() })
    }

    /// The node is gone from one moment to the next.
    pub(super) fn crash(&self, name: &str) {
        let Some(gone) = self.nodes.lock().remove(name) else { return };
        gone.store.set_cut(true);
        self.net.pull_out(name);
        gone.node.crash();
    }

    /// The names of all nodes there ever are.
    pub(super) fn names(&self) -> Vec<String> {
        (0..self.size.nodes).map(node_name).collect()
    }

    pub(super) fn running(&self, name: &str) -> Option<Running> {
        self.nodes.lock().get(name).cloned()
    }

    /// A node that a client happens to be connected to.
    pub(super) fn any_governance(&self, chance: &mut fastrand::Rng) -> Option<Governance> {
        let nodes = self.nodes.lock();
        let takes = |running: &&Running| !running.leaves.load(Ordering::Relaxed);
        let open: Vec<_> = nodes.values().filter(takes).collect();
        let at = chance.usize(..open.len().max(1));
        open.get(at).map(|running| running.governance.clone())
    }

    /// What was found wrong while it ran.
    pub(super) fn found(&self) -> Option<String> {
        self.violation.lock().clone()
    }

    /// The true time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        aa_runtime::Clock::elapsed(&self.clock)
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.violation.lock().is_some()
    }

    pub(super) fn report(&self, violation: String) {
        self.violation.lock().get_or_insert(violation);
    }

    pub(super) fn count_fault(&self, kind: &'static str) {
        *self.outcome.lock().faults.entry(kind).or_default() += 1;
    }

    /// Makes everything whole and waits until it works.
    pub(super) async fn mend(&self) -> Result<(), String> {
        self.faults.set_rates(FaultRates::default());
        self.faults.set_unavailable(false);
        self.faults.release();
        self.net.heal();
        for running in self.nodes.lock().values() {
            running.store.set_cut(false);
            running.store.set_round_trip(Duration::from_millis(2));
            running.clock.set_drift(0);
            running.clock.set_right(&self.clock);
        }
        for name in self.names() {
            let store: Arc<dyn Store> = Arc::new(self.store.clone());
            let undrained = aa_runtime::cluster::order_drain(&*store, &name, false).await;
            undrained.map_err(|error| error.to_string())?;
            if self.running(&name).is_none() {
                self.start(&name).await.map_err(|error| error.to_string())?;
            }
        }
        self.until_served().await
    }

    /// Waits until every shard is served.
    pub(super) async fn until_served(&self) -> Result<(), String> {
        let all = async {
            while !(0..SHARDS).map(ShardId).all(|shard| self.owners(shard) == 1) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let served = tokio::time::timeout(super::MENDED_WITHIN, all).await;
        served.map_err(|_| {
            let unserved = Self::shards().filter(|shard| self.owners(*shard) == 0);
            let unserved: Vec<_> = unserved.map(|shard| shard.0).collect();
            self.stuck(&format!("shards {unserved:?} are not served"))
        })
    }

    /// How many nodes answer for a shard.
    pub(super) fn owners(&self, shard: ShardId) -> usize {
        self.nodes.lock().values().filter(|running| running.node.live(shard).is_some()).count()
    }

    /// Tells which nodes answer for a shard, and since when.
    pub(super) fn who_answers(&self, shard: ShardId) -> String {
        let nodes = self.nodes.lock();
        let answers = nodes.iter().filter_map(|(name, running)| {
            let live = running.node.live(shard)?;
            Some(format!("{name} under epoch {}", live.epoch))
        });
        let answers: Vec<_> = answers.collect();
        format!(
            "at {:?}, shard {shard} is answered for by {}",
            self.elapsed(),
            answers.join(" and ")
        )
    }

    pub(super) fn shards() -> impl Iterator<Item = ShardId> {
        (0..SHARDS).map(ShardId)
    }

    /// Says what stands still.
    pub(super) fn stuck(&self, what: &str) -> String {
        let nodes = self.nodes.lock();
        let share = |running: &Running| {
            let held = Self::shards().filter(|shard| running.node.live(*shard).is_some()).count();
            format!("serves: {}, shards: {held}", running.node.serves())
        };
        let nodes: Vec<_> =
            nodes.iter().map(|(name, running)| format!("{name} ({})", share(running))).collect();
        let waiting = self.waiting.lock();
        let waiting: Vec<_> = waiting.iter().map(|(who, what)| format!("{who}: {what}")).collect();
        format!("{what}. nodes: {}. waiting: {}", nodes.join(", "), waiting.join("; "))
    }
}

/// What each version of the program speaks: 1, then 1 and 2, then 2, then 2 and 3, and so on.
pub(super) const fn protocols(version: u32) -> Protocols {
    Protocols { lowest: 1 + version / 2, highest: 1 + version.div_ceil(2) }
}

pub(super) fn node_name(number: usize) -> String {
    format!("node-{number}")
}

fn agent_name(number: usize) -> String {
    format!("agent-{number}")
}

fn agent_id(workspace: WorkspaceId, number: usize) -> AgentKeyId {
    AgentKeyId { workspace, agent: AgentId::of_name(workspace, &agent_name(number)) }
}
