//! Real control planes under fire, in real time: nodes are killed and come back, links between them and their ways to
//! the store are cut, slowed and stalled, shards move; agents, operators and approvers go on meanwhile, through the
//! gateway and the API.
//!
//! Two sites, one storm. In one process, each node is a whole control plane on a runtime of its own, all over one store
//! in memory, with a [`FaultProxy`](crate::fault_proxy::FaultProxy) on every link: it runs everywhere. In network
//! namespaces, each node is a process of the `aasm` program and so is each server of a FoundationDB cluster: it takes
//! root and those programs.
//!
//! Where the simulator of [`crate::cluster`] repeats a seed to the last commit, here the seed repeats the faults and
//! their order, and threads, sockets and clocks are those of the machine. After each fault, every agent has to be
//! answered again within a bound. At the end everything is mended, and what clients were told is held against the
//! verified logs that the nodes export.

mod checks;
mod clients;
mod fdb_servers;
mod nemesis;
mod network;
mod node_store;
mod one_process;
mod operators;
mod processes;
mod program;
mod site;
mod world;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

pub use self::program::{main, test_main};
use self::{one_process::OneProcess, processes::Processes, site::Site, world::World};

/// What a storm is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Control planes, 2 to 9.
    pub nodes: usize,
    /// Agents.
    pub agents: usize,
    /// For how long faults happen.
    pub lasts: Duration,
}

/// What a storm did, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Decisions that clients were told.
    pub told: u64,
    /// Of them, those that let an action go.
    pub allowed: u64,
    /// How often a client had to send an action again.
    pub retries: u64,
    /// Decisions in the log that nobody was told.
    pub untold: u64,
    /// Entries in the log.
    pub entries: u64,
    /// Approvals that were answered.
    pub approvals: u64,
    /// Changes of policies and budgets.
    pub changes: u64,
    /// Looks at the health of a node without its store, each of which found it out of service.
    pub unhealthy: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// The longest that it took after a fault until every agent had an answer again.
    pub slowest: Duration,
    /// What this machine could not do as it should.
    pub lacks: Vec<String>,
}

/// What went wrong, with everything that was done before.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{problem}\nseed {seed}; what was done until then:\n{log}")]
pub struct StormError {
    /// What is wrong.
    pub problem: String,
    /// The seed of the faults.
    pub seed: u64,
    /// The faults and their times, a line each.
    pub log: String,
}

/// How long a silent node keeps its shards.
const LEASE: Duration = Duration::from_millis(1_500);

/// What a busy machine may take besides.
const MARGIN: Duration = Duration::from_secs(30);

/// How long a cluster may take to be whole again once everything is mended.
const MENDED_WITHIN: Duration = Duration::from_secs(90);

impl Default for Size {
    fn default() -> Self {
        Self { nodes: 3, agents: 8, lasts: Duration::from_secs(20) }
    }
}

// === impl Outcome ===

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.faults.iter().map(|(kind, count)| format!("{count} {kind}"));
        write!(
            f,
            "{} decisions told, {} allowed, {} entries, {} retries, {} approvals answered, {} changes; faults: {}; \
             {} looks at nodes out of service; every agent answered within {:.1?} of each",
            self.told,
            self.allowed,
            self.entries,
            self.retries,
            self.approvals,
            self.changes,
            faults.collect::<Vec<_>>().join(", "),
            self.unhealthy,
            self.slowest,
        )?;
        self.lacks.iter().try_for_each(|lacks| write!(f, "\nnot as it should be: {lacks}"))
    }
}

/// A storm over control planes in this process.
///
/// # Errors
/// See [`StormError`].
pub async fn in_one_process(seed: u64, size: Size) -> Result<Outcome, StormError> {
    let site = OneProcess::begin(seed, size.nodes).await;
    storm(site.map(|site| Arc::new(site) as Arc<dyn Site>), seed, size).await
}

/// A storm over processes in network namespaces of this process's own: for one that [`main`] has put into a network
/// where it may build them.
///
/// # Errors
/// See [`StormError`].
async fn in_namespaces(
    programs: processes::Programs,
    seed: u64,
    size: Size,
) -> Result<Outcome, StormError> {
    let site = Processes::begin(programs, size.nodes).await;
    storm(site.map(|site| Arc::new(site) as Arc<dyn Site>), seed, size).await
}

async fn storm(
    site: Result<Arc<dyn Site>, String>,
    seed: u64,
    size: Size,
) -> Result<Outcome, StormError> {
    let site = site.map_err(|problem| StormError { problem, seed, log: String::new() })?;
    let world = Arc::new(World::new(site, seed, size));
    let outcome = rage(&world).await;
    world.site.close().await;
    outcome.map_err(|problem| StormError { problem, seed, log: world.log() })
}

async fn rage(world: &Arc<World>) -> Result<Outcome, String> {
    let beginning = async {
        operators::spread(world).await?;
        operators::set_up(world).await?;
        clients::register(world).await
    };
    let begun = tokio::time::timeout(3 * MENDED_WITHIN, beginning).await;
    let agents = begun.map_err(|_| world.stuck("the cluster is not set up"))??;
    if let Some(lacks) = world.site.lacks() {
        world.outcome.lock().lacks.push(lacks);
    }

    let watching = tokio::spawn(checks::watch(Arc::clone(world)));
    let mut busy = tokio::task::JoinSet::new();
    for (number, agent) in agents.into_iter().enumerate() {
        busy.spawn(clients::live(Arc::clone(world), number, agent));
    }
    busy.spawn(operators::live(Arc::clone(world)));
    if let Err(problem) = nemesis::rage(world).await {
        world.report(problem);
    }
    world.end();
    let finishing = async {
        while let Some(done) = busy.join_next().await {
            done.map_err(|error| format!("a client panicked: {error}"))??;
        }
        Ok::<_, String>(())
    };
    let finished = tokio::time::timeout(MENDED_WITHIN, finishing).await;
    watching.abort();
    if let Some(violation) = world.found() {
        return Err(violation);
    }
    finished.map_err(|_| world.stuck("clients wait though everything is mended"))??;
    checks::at_rest(world).await
}
