//! A cluster in this process: each node a whole control plane on a runtime of its own, so that it can be killed; all
//! over one store in memory, each by a way of its own; with a proxy on the link from each node to each other one.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use aa_control_plane::{ControlPlane, JoinOptions, Options, admission::Limits};
use aa_store::{MemoryStore, Store};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinHandle,
};

use super::{
    LEASE,
    node_store::{NodeStore, Reach},
    site::{Fault, Kind, Site},
};
use crate::{
    fault_proxy::{Direction, FaultProxy, Passage},
    invariants::{ShardWatch, shard_states},
    money::WatchedStore,
    process::Environment,
};

pub(super) struct OneProcess {
    store: WatchedStore,
    members: Vec<Member>,
    /// The proxies by which a node reaches each other one.
    links: Vec<Vec<Option<FaultProxy>>>,
    /// Of the nodes' data and of the key that they share.
    _directory: tempfile::TempDir,
}

/// A node, whether or not it runs.
struct Member {
    name: String,
    options: Options,
    store: NodeStore,
    environment: Environment,
    running: Mutex<Option<Running>>,
}

/// A node while it runs.
struct Running {
    /// `None` once it was killed.
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), String>>,
}

/// The cluster's shards: fewer than usual, to make more of each.
const SHARDS: u16 = 12;

/// How long a node may take to start, attempts included: one that was killed is believed to be at work until its lease
/// has ended.
const START: Duration = Duration::from_secs(60);

/// How long a node may take to end in order.
const STOP: Duration = Duration::from_secs(60);

const KINDS: &[Kind] = &[
    Kind::Kill,
    Kind::Kill,
    Kind::Stop,
    Kind::Partition,
    Kind::OneWay,
    Kind::Isolation,
    Kind::Resets,
    Kind::SlowLinks,
    Kind::NarrowLinks,
    Kind::NoStore,
    Kind::StalledStore,
    Kind::SlowStore,
    Kind::LyingStore,
    Kind::Moves,
    Kind::Drain,
];

// === impl OneProcess ===

impl OneProcess {
    /// A cluster of so many nodes that all serve.
    ///
    /// # Errors
    /// What does not start, and why.
    pub(super) async fn begin(seed: u64, nodes: usize) -> Result<Self, String> {
        let said = |error: &dyn std::error::Error| error.to_string();
        let directory = tempfile::tempdir().map_err(|error| said(&error))?;
        let memory = MemoryStore::new();
        let mut txn = memory.begin().await.map_err(|error| said(&error))?;
        let shards = Bytes::copy_from_slice(&SHARDS.to_be_bytes());
        txn.put(Bytes::from_static(b"layout/shards"), shards);
        txn.commit().await.map_err(|error| said(&error))?;
        let store = WatchedStore::new(memory);

        let mut chance = fastrand::Rng::with_seed(seed);
        let (mut links, mut all_options): (Vec<Vec<_>>, Vec<_>) = (Vec::new(), Vec::new());
        for node in 0..nodes {
            all_options.push(options(directory.path().to_owned(), node)?);
        }
        let relay = |options: &Options| {
            let join = options.cluster.as_ref();
            join.map_or_else(any, |join| join.relay)
        };
        for from in 0..nodes {
            let mut row = Vec::new();
            for (to, options) in all_options.iter().enumerate() {
                if from == to {
                    row.push(None);
                    continue;
                }
                let proxy = FaultProxy::start(any(), relay(options), chance.u64(..)).await;
                row.push(Some(proxy.map_err(|error| said(&error))?));
            }
            links.push(row);
        }

        let turn = Arc::default();
        let mut members = Vec::new();
        for (node, options) in all_options.iter().enumerate() {
            let names = links[node].iter().zip(&all_options).filter_map(|(proxy, other)| {
                Some((relay(other).to_string(), proxy.as_ref()?.address().to_string()))
            });
            let shared = Arc::new(store.clone());
            let store = NodeStore::new(shared, names.collect(), Arc::clone(&turn), chance.u64(..));
            let name = name_of(node);
            let running = start(&name, &store, options).await?;
            let environment =
                Environment::read(&options.data).map_err(|error| format!("{name}: {error}"))?;
            let running = Mutex::new(Some(running));
            members.push(Member { name, options: options.clone(), store, environment, running });
        }
        Ok(Self { store, members, links, _directory: directory })
    }

    /// Changes what happens on the way from one node to another.
    fn set_link(&self, from: usize, to: usize, change: impl Fn(&FaultProxy)) {
        // Requests go by the caller's link, answers come back on it.
        if let Some(proxy) = self.links[from][to].as_ref() {
            change(proxy);
        }
    }

    /// Changes what happens between a node and all others.
    fn set_links_of(&self, node: usize, passage: Passage) {
        for other in (0..self.members.len()).filter(|other| *other != node) {
            self.set_link(node, other, |proxy| proxy.set_both(passage));
            self.set_link(other, node, |proxy| proxy.set_both(passage));
        }
    }

    /// Changes what becomes of what one node sends to another, on whichever link.
    fn set_way(&self, from: usize, to: usize, passage: Passage) {
        self.set_link(from, to, |proxy| proxy.set(Direction::Toward, passage));
        self.set_link(to, from, |proxy| proxy.set(Direction::Back, passage));
    }

    /// Does what a fault does to links, or ends it.
    fn set_fault(&self, Fault { kind, node, other }: Fault, lasts: bool) {
        let passage = |passage| if lasts { passage } else { Passage::Pass };
        let reach = |reach| if lasts { reach } else { Reach::Whole };
        let way = &self.members[node].store;
        match kind {
            Kind::Partition => {
                self.set_way(node, other, passage(Passage::Drop));
                self.set_way(other, node, passage(Passage::Drop));
            }
            Kind::OneWay => self.set_way(node, other, passage(Passage::Drop)),
            Kind::Isolation => self.set_links_of(node, passage(Passage::Drop)),
            Kind::Resets => self.set_links_of(node, passage(Passage::Cut)),
            Kind::SlowLinks => {
                let (least, most) = (Duration::from_millis(20), Duration::from_millis(400));
                self.set_links_of(node, passage(Passage::Delay { least, most }));
            }
            Kind::NarrowLinks => {
                self.set_links_of(node, passage(Passage::Throttle { per_second: 20_000 }));
            }
            Kind::NoStore => way.set(reach(Reach::Cut)),
            Kind::StalledStore => way.set(reach(Reach::Stalled)),
            Kind::SlowStore => way.set(reach(Reach::Slow(Duration::from_millis(150)))),
            Kind::LyingStore => way.set(reach(Reach::Lying)),
            // Not of links and stores, or not done here.
            Kind::Kill
            | Kind::Stop
            | Kind::Pause
            | Kind::LossyLinks
            | Kind::KillStore
            | Kind::Moves
            | Kind::Drain => {}
        }
    }
}

#[async_trait]
impl Site for OneProcess {
    fn nodes(&self) -> usize {
        self.members.len()
    }

    fn name(&self, node: usize) -> String {
        self.members[node].name.clone()
    }

    fn environment(&self, node: usize) -> Environment {
        self.members[node].environment.clone()
    }

    fn kinds(&self) -> &'static [Kind] {
        KINDS
    }

    async fn strike(&self, fault: Fault) -> Result<(), String> {
        let member = &self.members[fault.node];
        let (Kind::Kill | Kind::Stop) = fault.kind else {
            self.set_fault(fault, true);
            return Ok(());
        };
        let Some(mut running) = member.running.lock().take() else { return Ok(()) };
        if fault.kind == Kind::Stop {
            // It may have ended by itself, which is seen by how it served.
            let _ = running.stop.take().map(|stop| stop.send(()));
            let served = tokio::time::timeout(STOP, &mut running.serving).await;
            let served = served.map_err(|_| format!("{} does not stop", member.name))?;
            served.map_err(|error| error.to_string())??;
        }
        if let Some(runtime) = running.runtime.take() {
            runtime.shutdown_background();
        }
        Ok(())
    }

    async fn mend(&self, fault: Fault) -> Result<(), String> {
        let (Kind::Kill | Kind::Stop) = fault.kind else {
            self.set_fault(fault, false);
            return Ok(());
        };
        let member = &self.members[fault.node];
        let running = start(&member.name, &member.store, &member.options).await?;
        *member.running.lock() = Some(running);
        Ok(())
    }

    fn violation(&self) -> Option<String> {
        for member in &self.members {
            let running = member.running.lock();
            if running.as_ref().is_some_and(|running| running.serving.is_finished()) {
                return Some(format!("{} has ended by itself", member.name));
            }
        }
        let ledger = self.store.ledger();
        let money = ledger.violations().first().map(ToString::to_string);
        money.or_else(|| ledger.fences().violations().first().cloned())
    }

    async fn violation_at_rest(&self) -> Option<String> {
        for (from, links) in self.links.iter().enumerate() {
            for (to, link) in links.iter().enumerate() {
                // Then what was done to it did nothing.
                if link.as_ref().is_some_and(|link| link.carried() == 0) {
                    let (from, to) = (self.name(from), self.name(to));
                    return Some(format!("nothing went from {from} to {to} by the link's proxy"));
                }
            }
        }
        let workspace = self.members.first()?.environment.workspace_id().parse();
        let Ok(workspace) = workspace else { return Some("the workspace has no id".to_owned()) };
        let states = match shard_states(&self.store, workspace).await {
            Ok(Ok(states)) => states,
            Ok(Err(violation)) => return Some(violation.to_string()),
            Err(error) => return Some(format!("the store cannot be read: {error}")),
        };
        let looked = ShardWatch::default().look(states);
        looked.err().map(|violation| violation.to_string()).or_else(|| self.violation())
    }

    async fn close(&self) {
        for member in &self.members {
            *member.running.lock() = None;
        }
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts a node, again and again until it serves.
async fn start(name: &str, store: &NodeStore, options: &Options) -> Result<Running, String> {
    let begun = Instant::now();
    loop {
        match start_once(name, store, options).await {
            Ok(running) => return Ok(running),
            Err(problem) if begun.elapsed() > START => {
                return Err(format!("{name} does not start within {START:?}: {problem}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn start_once(name: &str, store: &NodeStore, options: &Options) -> Result<Running, String> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let (store, options) = (Arc::new(store.clone()), options.clone());
    let (stop, stopped) = oneshot::channel();
    let (ready, started) = oneshot::channel();
    let serving = runtime.spawn(async move {
        match ControlPlane::start_on(store, options, Limits::default()).await {
            Ok(control_plane) => {
                let _ = ready.send(Ok(()));
                let stopped = async {
                    // Without whoever stops it, it goes on.
                    if stopped.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                control_plane.serve_until(stopped).await.map_err(|error| error.to_string())
            }
            Err(error) => {
                let _ = ready.send(Err(error.to_string()));
                Ok(())
            }
        }
    });
    let running = Running { runtime: Some(runtime), stop: Some(stop), serving };
    match tokio::time::timeout(START, started).await {
        Ok(Ok(Ok(()))) => Ok(running),
        Ok(Ok(Err(problem))) => Err(problem),
        Ok(Err(_)) => Err("it panicked".to_owned()),
        Err(_) => Err("it is not ready".to_owned()),
    }
}

/// What a node is started with. Its addresses are its own for as long as the storm lasts.
fn options(directory: PathBuf, node: usize) -> Result<Options, String> {
    let name = name_of(node);
    let data = directory.join(&name);
    let key = directory.join("master-key.json");
    let said = |error: std::io::Error| format!("{}: {error}", data.display());
    std::fs::DirBuilder::new().mode(0o700).create(&data).map_err(said)?;
    let config = format!("[master_key]\nprovider = \"file\"\npath = {key:?}\n");
    std::fs::write(data.join("vault.toml"), config).map_err(said)?;
    let join = JoinOptions {
        cluster: "storm".to_owned(),
        node: name,
        zone: format!("zone-{node}"),
        relay: free_address()?,
        advertise: None,
        lease: LEASE,
        max_clock_skew: Duration::from_secs(5),
    };
    Ok(Options {
        data,
        store: None,
        gateway: free_address()?,
        api: free_address()?,
        workspace_name: "storm".to_owned(),
        allowed_destinations: Vec::new(),
        cluster: Some(join),
    })
}

fn name_of(node: usize) -> String {
    format!("node-{node}")
}

/// A port that nobody listens on, out of those that the system does not give to callers: it is free again when a node
/// comes back.
fn free_address() -> Result<SocketAddr, String> {
    for _ in 0..1_000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(10_000..30_000)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err("no port is free".to_owned())
}

fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}
