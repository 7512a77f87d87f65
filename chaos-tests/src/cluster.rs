//! Whole clusters under fire, in one process on one thread: nodes crash and come back, are replaced by those of later
//! versions, are cut off from each other and from the store, clocks go wrong, shards move, the store stalls and lies; agents, operators and approvers go on
//! meanwhile. Everything follows from one seed, on simulated time.
//!
//! While it runs, every committed state of every budget window and every commit of a shard's journal is looked at, and
//! whether two nodes serve one shard. At the end everything is mended, and what clients were told is held against the
//! verified log and against the policies that were in force.

mod checks;
mod clients;
mod nemesis;
mod operators;
mod upgrades;
mod world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use self::world::World;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes.
    pub nodes: usize,
    /// Agents of each of the two workspaces.
    pub agents: usize,
    /// For how long faults happen, in simulated time.
    pub lasts: Duration,
}

/// What a run did, for people. Two runs of one seed are equal in all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Decisions that clients were told.
    pub told: u64,
    /// Of them, those that let an action go.
    pub allowed: u64,
    /// How often a client had to send an action again.
    pub retries: u64,
    /// The longest that a client waited for a decision, all its attempts together.
    pub slowest: Duration,
    /// Decisions in the logs that nobody was told.
    pub untold: u64,
    /// Entries in the logs.
    pub entries: u64,
    /// Approvals that were answered.
    pub approvals: u64,
    /// Changes of policies and budgets.
    pub changes: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Tenures of shards.
    pub tenures: u64,
    /// Messages that went over the network.
    pub delivered: u64,
    /// Commits, and a digest of what all of them wrote, in their order.
    pub commits: u64,
    /// See [`Self::commits`].
    pub digest: u64,
}

impl Default for Size {
    fn default() -> Self {
        Self { nodes: 4, agents: 12, lasts: Duration::from_secs(60) }
    }
}

/// What happens to the cluster in a run.
#[derive(Clone, Copy, Debug)]
enum Course {
    /// Whatever can go wrong, until the time is over.
    Faults,
    /// It is brought from one protocol to the next, node by node, and nothing else happens.
    Upgrade,
}

/// How long a cluster may take to be whole again once everything is mended.
const MENDED_WITHIN: Duration = Duration::from_secs(90);

/// The seeds that ever failed.
pub fn failed_before() -> Vec<u64> {
    let lines = include_str!("../seeds/cluster.txt").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

/// One run.
///
/// # Errors
/// What is wrong, with the seed it is reached by.
///
/// # Panics
/// When no runtime can be made.
pub fn run(seed: u64, size: Size) -> Result<Outcome, String> {
    simulated(seed, size, Course::Faults)
}

/// One run in which every node is replaced by one that speaks the next protocol besides its own, and then by one that
/// speaks the next only. It takes as long as that takes.
///
/// # Errors
/// What is wrong, with the seed it is reached by.
///
/// # Panics
/// When no runtime can be made.
pub fn upgrade(seed: u64, size: Size) -> Result<Outcome, String> {
    simulated(seed, size, Course::Upgrade)
}

fn simulated(seed: u64, size: Size, course: Course) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(simulate(seed, size, course));
    // What is left of the nodes waits for messages that never come.
    runtime.shutdown_background();
    outcome.map_err(|problem| format!("seed {seed}: {problem}"))
}

async fn simulate(seed: u64, size: Size, course: Course) -> Result<Outcome, String> {
    let world = Arc::new(World::begin(seed, size).await?);
    let watching = tokio::spawn(checks::watch_owners(Arc::clone(&world)));
    let mut busy = tokio::task::JoinSet::new();
    for number in 0..world.clients() {
        busy.spawn(clients::live(Arc::clone(&world), number));
    }
    busy.spawn(operators::live(Arc::clone(&world)));
    match course {
        Course::Faults => {
            let nemesis = tokio::spawn(nemesis::live(Arc::clone(&world)));
            let upgrades = tokio::spawn(upgrades::live(Arc::clone(&world)));
            tokio::time::sleep(size.lasts).await;
            world.end();
            nemesis.await.map_err(|error| error.to_string())?;
            upgrades.await.map_err(|error| error.to_string())?;
        }
        Course::Upgrade => {
            upgrades::all(&world).await?;
            world.end();
        }
    }
    if let Some(violation) = world.found() {
        return Err(violation);
    }
    world.mend().await?;
    let finishing = async {
        while let Some(done) = busy.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        Ok::<_, String>(())
    };
    let finished = tokio::time::timeout(MENDED_WITHIN, finishing).await;
    if let Some(violation) = world.found() {
        return Err(violation);
    }
    finished.map_err(|_| world.stuck("clients wait though everything is mended"))??;
    watching.abort();
    checks::at_rest(&world).await
}
