//! A client before the gateways of several nodes, of which some go: real nodes of one cluster in this process, over one
//! store, each with a gateway that speaks TLS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    door::Door,
    invariants::{Acknowledged, check_export},
    outside::outside,
};
use aa_client::{AgentSpec, Client, Config};
use aa_control_plane::{
    admission::Limits,
    gateway::Gateway,
    pki::{Authority, ServerCertificate},
    tls::TlsListener,
    token::TokenKey,
};
use aa_governance::{
    AuditKeys, Governance, GovernanceOptions, Grant, Principal, audit::ExportFormat,
};
use aa_ledger::MacKey;
use aa_protocol::{Action, WorkspaceId, wire::v1::gateway_server::GatewayServer};
use aa_runtime::{
    ClusterOptions, Node, PROTOCOLS, ShardId, SystemClock, SystemEntropy, cluster,
    sim::{SimNet, SimStore},
};
use aa_store::{MemoryStore, Store};
use bytes::Bytes;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

/// Every wait ends by it.
const PATIENCE: Duration = Duration::from_secs(60);

const WORKSPACE: &str = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890";
const SHARDS: u16 = 12;

struct Cluster {
    directory: tempfile::TempDir,
    authority: Authority,
    net: SimNet,
    nodes: Vec<ClusterNode>,
    api_key: String,
}

struct ClusterNode {
    name: String,
    node: Node,
    governance: Governance,
    /// Its way to the store.
    store: SimStore,
    front: Front,
}

/// A gateway as its clients see it.
struct Front {
    door: Door,
    drain: watch::Sender<bool>,
}

/// Agents that ask all the time, and what they were told.
struct Load {
    agents: JoinSet<()>,
    told: Arc<Mutex<Vec<Acknowledged>>>,
    count: Arc<AtomicU64>,
    longest_us: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    in_flight: usize,
}

// === impl Cluster ===

impl Cluster {
    async fn of(size: usize) -> Self {
        Self::with_lease(size, ClusterOptions::LEASE).await
    }

    async fn with_lease(size: usize, lease: Duration) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("secrets")).unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let mut txn = store.begin().await.unwrap();
        txn.put(
            Bytes::from_static(b"layout/shards"),
            Bytes::copy_from_slice(&SHARDS.to_be_bytes()),
        );
        txn.commit().await.unwrap();
        let net = SimNet::new(7);
        let mut nodes = Vec::new();
        for number in 0..size {
            let own = SimStore::new(Arc::clone(&store), number as u64);
            let name = format!("node-{number}");
            nodes.push(ClusterNode::join(name, own, lease, &net, &authority).await);
        }
        let cluster = Self { directory, authority, net, nodes, api_key: String::new() };
        cluster.until_served().await;
        let governance = &cluster.nodes[0].governance;
        governance.set_up_workspace(workspace(), "test").await.unwrap();
        let (_, key) = governance.set_up_key(workspace(), "sdk", Grant::Agent).await.unwrap();
        Self { api_key: key.expose().to_owned(), ..cluster }
    }

    async fn until_served(&self) {
        let is_served =
            |shard| self.nodes.iter().any(|node| node.node.live(ShardId(shard)).is_some());
        let all = async {
            while !(0..SHARDS).all(is_served) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("every shard is served");
    }

    fn config(&self, fronts: &[&Front], request_timeout: Duration) -> Config {
        let urls: Vec<_> =
            fronts.iter().map(|front| format!("https://{}", front.door.address())).collect();
        let ca_file: PathBuf = self.directory.path().join("ca.pem");
        let mut config = Config::from_settings(|name| match name {
            "AAA_WORKSPACE_ID" => Some(WORKSPACE.to_owned()),
            "AAA_API_KEY" => Some(self.api_key.clone()),
            "AAA_GATEWAY_URL" => Some(urls.join(" ")),
            "AAA_CA_FILE" => Some(ca_file.display().to_string()),
            _ => None,
        })
        .unwrap();
        config.request_timeout = request_timeout;
        config
    }

    fn fronts(&self) -> Vec<&Front> {
        self.nodes.iter().map(|node| &node.front).collect()
    }

    /// A node is gone from one moment to the next, and its gateway with it.
    async fn crash(&mut self, at: usize) {
        let mut gone = self.nodes.remove(at);
        gone.store.set_cut(true);
        gone.front.door.shut().await;
        self.net.pull_out(&gone.name);
        gone.node.crash();
    }

    /// Every decision that was told is recorded, once, and none besides.
    async fn check(&self, told: &[Acknowledged]) -> u64 {
        let principal =
            Principal { workspace: workspace(), key_id: "test".into(), grant: Grant::Owner };
        let permit = principal.authorize().unwrap();
        let governance = &self.nodes[0].governance;
        let export = governance.export(&permit, ExportFormat::JsonLines, None, "test").await;
        let mut chunks = export.unwrap().chunks;
        let mut text = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        let recorded = check_export(&text, told).unwrap();
        // The load never gives up on an action.
        assert_eq!(recorded.untold, 0);
        recorded.decisions
    }
}

// === impl ClusterNode ===

impl ClusterNode {
    async fn join(
        name: String,
        store: SimStore,
        lease: Duration,
        net: &SimNet,
        authority: &Authority,
    ) -> Self {
        let options = ClusterOptions {
            cluster: "test".to_owned(),
            identity: "authority".to_owned(),
            address: format!("{name}:7100"),
            zone: String::new(),
            version: "1.0.0".to_owned(),
            protocols: PROTOCOLS,
            lease,
            max_skew: ClusterOptions::MAX_SKEW,
        };
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let transport = net.transport(&name);
        let shared = Arc::new(store.clone());
        let node =
            Node::join(shared, clock, entropy, name.clone(), options, transport).await.unwrap();
        let mac = MacKey::new("k1", &[3; 32]).unwrap();
        let keys = AuditKeys { log_seed: [9; 32].into(), mac };
        let governance =
            Governance::start(node.clone(), keys, outside(), GovernanceOptions::default());
        net.plug_in(&name, node.incarnation(), node.relay().clone());

        let front = Front::before(&governance, authority).await;
        Self { name, node, governance, store, front }
    }
}

// === impl Front ===

impl Front {
    async fn before(governance: &Governance, authority: &Authority) -> Self {
        let (drain, draining) = watch::channel(false);
        let tokens = TokenKey::new(&[5; 32]);
        let gateway = Gateway::new(governance.clone(), tokens, Limits::default(), draining);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let certificate = authority.issue(&[address.ip()], None).unwrap();
        let certificate = Arc::new(ServerCertificate::new(certificate));
        let tls = TlsListener::new(listener, certificate, &["h2"], 64).unwrap();
        let server = tonic::transport::Server::builder().add_service(GatewayServer::new(gateway));
        tokio::spawn(server.serve_with_incoming(tls));
        Self { door: Door::to(address).await.unwrap(), drain }
    }
}

// === impl Load ===

impl Load {
    async fn begin(config: &Config, clients: usize, agents: usize, of_each: usize) -> Self {
        let mut load = Self {
            agents: JoinSet::new(),
            told: Arc::default(),
            count: Arc::default(),
            longest_us: Arc::default(),
            stopping: Arc::default(),
            in_flight: clients * agents * of_each,
        };
        for client_number in 0..clients {
            let client = Client::connect(config.clone()).unwrap();
            for number in 0..agents {
                let name = format!("agent-{client_number}-{number}");
                let spec = AgentSpec { name, ..AgentSpec::default() };
                let agent = client.register(spec).await.unwrap();
                for _ in 0..of_each {
                    load.ask_all_the_time(agent.clone());
                }
            }
        }
        load
    }

    fn ask_all_the_time(&mut self, agent: aa_client::Agent) {
        let (told, count) = (Arc::clone(&self.told), Arc::clone(&self.count));
        let (longest_us, stopping) = (Arc::clone(&self.longest_us), Arc::clone(&self.stopping));
        self.agents.spawn(async move {
            let action: Action =
                serde_json::from_str(r#"{"kind":"tool_call","tool":"search"}"#).unwrap();
            while !stopping.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let checked = agent.check(&action).await.expect("answered within its time");
                let took = asked.elapsed().as_micros().try_into().unwrap();
                longest_us.fetch_max(took, Ordering::Relaxed);
                told.lock().unwrap().push(Acknowledged {
                    action: checked.action_id,
                    event: checked.event_id.expect("it was governed"),
                    verdict: Some(checked.decision.verdict),
                });
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Waits until each of the askers could have been answered some times more.
    async fn goes_on(&self) {
        self.until_told(self.count.load(Ordering::Relaxed) + 3 * self.in_flight as u64).await;
    }

    /// Waits until there were as many answers as these.
    async fn until_told(&self, target: u64) {
        let reached = async {
            while self.count.load(Ordering::Relaxed) < target {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the load goes on");
    }

    /// What was told, and the longest that somebody waited.
    async fn end(mut self) -> (Vec<Acknowledged>, Duration) {
        self.stopping.store(true, Ordering::Relaxed);
        let ended = async {
            while let Some(ended) = self.agents.join_next().await {
                ended.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the load ends");
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        (told, Duration::from_micros(self.longest_us.load(Ordering::Relaxed)))
    }
}

/// The place of the gateway that has the most connections.
fn busiest(fronts: &[&Front]) -> usize {
    let busiest = fronts.iter().enumerate().max_by_key(|(_, front)| front.door.connections());
    busiest.unwrap().0
}

fn workspace() -> WorkspaceId {
    WORKSPACE.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_the_nodes_of_their_gateways() {
    let mut cluster = Cluster::of(3).await;
    // A lease of two seconds, twice if the heir goes too, and what a busy machine adds.
    let longest_outage = Duration::from_secs(10);
    let load = Load::begin(&cluster.config(&cluster.fronts(), PATIENCE), 4, 4, 16).await;
    load.goes_on().await;
    for _ in 0..2 {
        // The shards that it held are taken over, and agents of other gateways wait for that too.
        cluster.crash(busiest(&cluster.fronts())).await;
        load.goes_on().await;
        cluster.until_served().await;
    }
    load.goes_on().await;
    let (told, longest) = load.end().await;
    let decisions = cluster.check(&told).await;
    println!(
        "2 of 3 nodes lost, {decisions} decisions, each once; the longest wait was {longest:?}"
    );
    assert!(longest < longest_outage, "{longest:?}");
}

/// With a long lease, so that nobody is rescued by the next beat, and agents that have done so much that all they
/// remember comes with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_long_when_shards_move_to_another_node_and_back() {
    let cluster = Cluster::with_lease(2, Duration::from_secs(9)).await;
    // The client's own default.
    let patience = Duration::from_secs(5);
    let load = Load::begin(&cluster.config(&cluster.fronts(), patience), 3, 4, 16).await;
    load.until_told(12 * 600).await;
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        let (from, to) = (&cluster.nodes[from], &cluster.nodes[to]);
        let held = (0..SHARDS).map(ShardId).filter(|shard| from.node.live(*shard).is_some());
        let moves: Vec<_> = held.map(|shard| (shard, to.name.as_str())).collect();
        let tenures = to.node.tenures();
        cluster::order_moves(&from.store, &moves).await.unwrap();
        from.node.announce();
        // Balancing may take some of them back before the last has come.
        let moved = to.node.wait_for_tenure(tenures + moves.len() as u64 - 1);
        tokio::time::timeout(PATIENCE, moved).await.expect("the shards move");
        load.goes_on().await;
    }
    let (told, longest) = load.end().await;
    let decisions = cluster.check(&told).await;
    println!(
        "all shards moved, {decisions} decisions, each once; the longest wait was {longest:?}"
    );
    assert!(longest < patience, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_decision_is_lost_or_made_twice_when_gateways_come_and_go() {
    let cluster = Cluster::of(1).await;
    let mut fronts = Vec::new();
    for _ in 0..2 {
        fronts.push(Front::before(&cluster.nodes[0].governance, &cluster.authority).await);
    }
    // The client's own default.
    let patience = Duration::from_secs(5);
    let config = cluster.config(&fronts.iter().collect::<Vec<_>>(), patience);
    let load = Load::begin(&config, 3, 4, 32).await;
    for turn in 0..12 {
        load.goes_on().await;
        let at = busiest(&fronts.iter().collect::<Vec<_>>());
        let front = &mut fronts[at];
        match turn % 4 {
            // What is silent is noticed after two fifths of the time to answer.
            3 => front.door.freeze(),
            1 => drop(front.drain.send_replace(true)),
            _ => front.door.shut().await,
        }
        load.goes_on().await;
        front.drain.send_replace(false);
        if turn % 4 == 3 {
            front.door.shut().await;
        }
        front.door.reopen().await.unwrap();
    }
    let (told, longest) = load.end().await;
    let decisions = cluster.check(&told).await;
    println!(
        "12 gateways lost, {decisions} decisions, each once; the longest wait was {longest:?}"
    );
    assert!(longest < patience, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_lease_sends_agents_to_the_next() {
    let cluster = Cluster::of(2).await;
    let patience = Duration::from_secs(30);
    let lapsed = &cluster.nodes[0];
    lapsed.store.set_cut(true);
    let lapses = async {
        while lapsed.node.serves() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lapses).await.unwrap();
    // Half of them begin there.
    for number in 0..8 {
        let client = Client::connect(cluster.config(&cluster.fronts(), patience)).unwrap();
        let spec = AgentSpec { name: format!("agent-{number}"), ..AgentSpec::default() };
        let agent = client.register(spec).await.unwrap();
        let action: Action = serde_json::from_str(r#"{"kind":"tool_call","tool":"x"}"#).unwrap();
        agent.check(&action).await.unwrap();
        let left = async {
            while lapsed.front.door.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, left).await.expect("it was left");
    }
}
