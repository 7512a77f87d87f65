//! Control planes as the nodes of a cluster, over one store in memory, and as their operators and agents meet them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peer;

use std::{
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aa_control_plane::{ControlPlane, JoinOptions, Options, StartError, admission::Limits};
use aa_protocol::wire::v1;
use aa_store::{MemoryStore, Store};
use bytes::Bytes;
use peer::{BASH, PATIENCE, Peer, action, options};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

const SHARDS: u16 = 8;

/// What the nodes of a cluster have in common.
struct World {
    store: MemoryStore,
    master: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let store = MemoryStore::new();
        let mut txn = store.begin().await.unwrap();
        let shards = Bytes::copy_from_slice(&SHARDS.to_be_bytes());
        txn.put(Bytes::from_static(b"layout/shards"), shards);
        txn.commit().await.unwrap();
        Self { store, master: tempfile::tempdir().unwrap() }
    }

    fn master_key(&self) -> PathBuf {
        self.master.path().join("master-key.json")
    }

    /// What a node of the cluster `test` is started with, its data in `directory`.
    fn options(&self, directory: &tempfile::TempDir, node: &str) -> Options {
        let data = directory.path().join("data");
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700).create(&data).unwrap();
        let config = format!("[master_key]\nprovider = \"file\"\npath = {:?}\n", self.master_key());
        std::fs::write(data.join("vault.toml"), config).unwrap();
        let join = JoinOptions {
            cluster: "test".to_owned(),
            node: node.to_owned(),
            zone: "here".to_owned(),
            relay: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            lease: Duration::from_millis(1_500),
            max_clock_skew: Duration::from_secs(5),
        };
        Options { cluster: Some(join), ..options(directory) }
    }

    async fn start(&self, options: Options) -> Result<ControlPlane, StartError> {
        let store = Arc::new(self.store.clone());
        let starting = ControlPlane::start_on(store, options, Limits::default());
        tokio::time::timeout(PATIENCE, starting).await.expect("it starts or is refused")
    }

    async fn join(&self, node: &str) -> Peer {
        let directory = tempfile::tempdir().unwrap();
        let control_plane = self.start(self.options(&directory, node)).await.unwrap();
        Peer::of(directory, control_plane).await
    }

    /// A cluster of these nodes in which each has shards.
    async fn of<const N: usize>(names: [&str; N]) -> (Self, [Peer; N]) {
        let world = Self::new().await;
        let mut peers = Vec::new();
        for name in names {
            peers.push(world.join(name).await);
        }
        for (at, name) in names.iter().enumerate().skip(1) {
            for shard in (0..SHARDS).filter(|shard| usize::from(*shard) % N == at) {
                give(&peers[0], shard, name).await;
            }
        }
        settled(&peers[0], |nodes| nodes.iter().all(|node| shards_of(node) > 0)).await;
        (world, peers.try_into().ok().unwrap())
    }
}

async fn request(peer: &Peer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let url = format!("{}/api/v1/{path}", peer.api_url);
    let request = peer.api.request(method.parse().unwrap(), url).bearer_auth(&peer.owner_key);
    let answer = request.json(&body).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

async fn give(peer: &Peer, shard: u16, to: &str) {
    settled(peer, |nodes| nodes.iter().any(|node| node["node"] == to)).await;
    let path = format!("cluster/shards/{shard}/move");
    let (status, answer) = request(peer, "POST", &path, json!({ "to": to })).await;
    assert_eq!(status, 202, "{answer}");
}

fn shards_of(node: &Value) -> u64 {
    node["shards"].as_u64().unwrap()
}

/// Waits until every shard is served and at rest, and the nodes are as wanted.
async fn settled(peer: &Peer, wanted: impl Fn(&[Value]) -> bool) {
    let settling = async {
        loop {
            let summary = peer.get("cluster").await;
            let nodes = peer.get("cluster/nodes").await;
            let is_at_rest = summary["status"] == "ok" && summary["shards_moving"] == 0;
            if is_at_rest && wanted(nodes["nodes"].as_array().unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settling).await.expect("the cluster settles");
}

/// Agents that act without pause, through the gateways given.
struct Load {
    stop: Arc<AtomicBool>,
    decided: Arc<AtomicU64>,
    agents: Vec<tokio::task::JoinHandle<u64>>,
}

impl Load {
    /// One agent for each of `tokens`, in turn through each of `peers`.
    fn begin(peers: &[&Peer], tokens: &[String]) -> Self {
        let (stop, decided) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let agents = tokens.iter().enumerate().map(|(at, token)| {
            let gateways: Vec<_> = peers.iter().map(|peer| peer.gateway.clone()).collect();
            let (stop, decided) = (Arc::clone(&stop), Arc::clone(&decided));
            let token = token.clone();
            tokio::spawn(async move {
                let mut done = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let mut gateway = gateways[done as usize % gateways.len()].clone();
                    let number = (at as u128 + 1) << 64 | u128::from(done);
                    let request = peer::bearing(action(number, BASH), &token);
                    let answer = gateway.check_policy(request).await.unwrap().into_inner();
                    assert_eq!(answer.verdict(), v1::Verdict::Allow);
                    assert!(!answer.repeated_action);
                    done += 1;
                    decided.fetch_add(1, Ordering::Relaxed);
                }
                done
            })
        });
        let agents = agents.collect();
        Self { stop, decided, agents }
    }

    async fn go_on(&self) {
        let target = self.decided.load(Ordering::Relaxed) + 10 * self.agents.len() as u64;
        let going = async {
            while self.decided.load(Ordering::Relaxed) < target {
                assert!(self.agents.iter().all(|agent| !agent.is_finished()), "an agent failed");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, going).await.expect("decisions go on");
    }

    async fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut counts = Vec::new();
        for agent in self.agents {
            counts.push(tokio::time::timeout(PATIENCE, agent).await.unwrap().unwrap());
        }
        counts
    }
}

/// As many entries as decisions were answered, for each of the agents named `agent-0` and so on.
async fn assert_recorded(peer: &Peer, counts: &[u64]) {
    for (at, count) in counts.iter().enumerate() {
        let agent = peer.agent(&format!("agent-{at}"));
        let status = peer.get(&format!("agents/{agent}")).await;
        let decided = status["decisions"].as_u64();
        if let Some(decided) = decided {
            assert_eq!(decided, *count, "agent {at}");
        }
        let mut found = 0;
        let mut after = String::new();
        loop {
            let path = format!("audit/entries?kind=decision&agent={agent}&limit=1000{after}");
            let page = peer.get(&path).await;
            found += page["entries"].as_array().unwrap().len() as u64;
            match page["next"].as_str() {
                Some(next) => after = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, *count, "entries of agent {at}");
    }
}

/// Entries under the latest checkpoint: the second line of its note.
async fn tree_size(peer: &Peer) -> u64 {
    let url = format!("{}/api/v1/audit/checkpoint", peer.api_url);
    let answer = peer.api.get(url).bearer_auth(&peer.owner_key).send().await.unwrap();
    let note = answer.text().await.unwrap();
    note.lines().nth(1).unwrap().parse().unwrap()
}

async fn tokens(peer: &Peer, count: usize) -> Vec<String> {
    let mut tokens = Vec::new();
    for at in 0..count {
        tokens.push(peer.register(&format!("agent-{at}")).await);
    }
    tokens
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_serves_any_agent_and_a_changed_policy_holds_on_all_once_it_is_answered() {
    let (_world, [a, b, c]) = World::of(["a", "b", "c"]).await;
    assert_eq!((a.workspace, b.workspace), (b.workspace, c.workspace));
    let token = a.register("agent-0").await;
    for (number, peer) in [(1, &a), (2, &b), (3, &c)] {
        let decision = peer.check(&token, action(number, BASH)).await.unwrap();
        assert_eq!(decision.verdict(), v1::Verdict::Allow);
    }
    let again = c.check(&token, action(1, BASH)).await.unwrap();
    assert!(again.repeated_action, "the agent's memory is one, whichever node is asked");

    let deny = "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata:\n  name: starter\n  version: \"1.0.1\"\n\
                spec:\n  scope: global\n  tools:\n    bash:\n      allow: false\n";
    let (status, answer) = b.apply("", deny.as_bytes().to_vec()).await;
    assert!(status < 300, "{answer}");
    for (number, peer) in [(4, &a), (5, &b), (6, &c)] {
        let decision = peer.check(&token, action(number, BASH)).await.unwrap();
        assert_eq!(decision.verdict(), v1::Verdict::Deny);
    }
    for peer in [a, b, c] {
        peer.stop().await;
    }
}

/// The vault lives on one of the nodes: from the others the secret crosses the relay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_gets_a_secret_from_any_node_and_it_is_in_the_log_once() {
    let (_world, [a, b]) = World::of(["a", "b"]).await;
    a.register("agent-0").await;
    let url = format!("{}/api/v1/secrets/OPENAI?release_to=api.openai.com", a.api_url);
    let set = a.api.put(url).bearer_auth(&a.owner_key);
    let set = set.header("content-type", "application/octet-stream").body("sk-marker");
    assert!(set.send().await.unwrap().status().is_success());
    let role = json!({ "name": "sidecar", "role": "proxy" });
    let (status, made) = request(&b, "POST", "keys", role).await;
    assert_eq!(status, 201, "{made}");
    let key = made["secret"].as_str().unwrap();
    for (peer, host, code) in [
        (&a, "api.openai.com", None),
        (&b, "api.openai.com", None),
        (&a, "evil.example", Some(tonic::Code::PermissionDenied)),
        (&b, "evil.example", Some(tonic::Code::PermissionDenied)),
    ] {
        let asking = v1::ReleaseSecretRequest {
            workspace_id: peer.workspace.to_string(),
            agent_id: peer.agent("agent-0").to_string(),
            secret: "OPENAI".to_owned(),
            host: host.to_owned(),
        };
        let answer = peer.gateway.clone().release_secret(peer::bearing(asking, key)).await;
        match answer {
            Ok(released) => {
                assert_eq!((released.get_ref().value.as_ref(), code), (&b"sk-marker"[..], None));
            }
            Err(refused) => assert_eq!(Some(refused.code()), code, "{refused}"),
        }
    }
    let log = b.get("audit/entries?kind=secret").await;
    let log = log["entries"].as_array().unwrap().iter();
    let changes: Vec<_> = log.map(|entry| entry["detail"]["change"].clone()).collect();
    assert_eq!(changes, ["release_denied", "released", "set"]);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_recorded_on_every_node_is_soon_under_one_checkpoint() {
    let (_world, [a, b]) = World::of(["a", "b"]).await;
    let tokens = tokens(&a, 2 * usize::from(SHARDS)).await;
    // Two rounds: what a node that looks for the first time finds, and what it is told of.
    for round in 0..2 {
        let before = tree_size(&a).await;
        for (at, token) in tokens.iter().enumerate() {
            b.check(token, action(round * 1_000 + at as u128, BASH)).await.unwrap();
        }
        let growing = async {
            while tree_size(&b).await < before + tokens.len() as u64 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, growing).await.expect("the tree takes all in");
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_and_stopped_under_load_without_a_failed_decision() {
    let (_world, [a, b, c]) = World::of(["a", "b", "c"]).await;
    let tokens = tokens(&a, 12).await;
    let load = Load::begin(&[&a, &b], &tokens);
    load.go_on().await;

    let (status, node) = request(&a, "POST", "cluster/nodes/c/drain", Value::Null).await;
    assert_eq!((status, &node["status"]), (200, &json!("draining")));
    let is_empty = |node: &Value| node["node"] != "c" || shards_of(node) == 0;
    settled(&b, |nodes| nodes.iter().all(is_empty)).await;
    assert_eq!(c.get("cluster").await["nodes_draining"], 1);
    load.go_on().await;
    c.stop().await;
    load.go_on().await;

    assert_recorded(&b, &load.end().await).await;
    let log = a.get("audit/entries?kind=workspace&limit=100").await;
    let log = log["entries"].as_array().unwrap();
    let drained = log.iter().find(|entry| entry["detail"]["change"] == "node_drained").unwrap();
    assert_eq!(drained["detail"]["node"], "c");
    assert!(drained["actor"].as_str().unwrap().starts_with("key:"), "{drained}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_hands_its_shards_over_and_comes_back_under_its_name() {
    let (world, [a, b]) = World::of(["a", "b"]).await;
    let tokens = tokens(&b, 6).await;
    let load = Load::begin(&[&b], &tokens);
    load.go_on().await;
    a.stop().await;
    load.go_on().await;
    settled(&b, |nodes| nodes.iter().all(|node| node["node"] != "a" || shards_of(node) == 0)).await;
    let back = world.join("a").await;
    settled(&back, |nodes| nodes.iter().filter(|node| node["status"] == "alive").count() == 2)
        .await;
    give(&back, 0, "a").await;
    settled(&back, |nodes| nodes.iter().any(|node| node["node"] == "a" && shards_of(node) > 0))
        .await;
    load.go_on().await;
    assert_recorded(&back, &load.end().await).await;
    back.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_nodes_shards_and_numbers() {
    let (_world, [a, b]) = World::of(["a", "b"]).await;
    let summary = b.get("cluster").await;
    assert_eq!(summary["cluster"], "test");
    assert_eq!(summary["told_by"], "b");
    assert_eq!((&summary["nodes_alive"], &summary["shards_served"]), (&json!(2), &json!(SHARDS)));
    let nodes = a.get("cluster/nodes").await;
    let names: Vec<_> = nodes["nodes"].as_array().unwrap().iter().map(|n| &n["node"]).collect();
    assert_eq!(names, ["a", "b"]);
    let shards = a.get("cluster/shards").await;
    let shards = shards["shards"].as_array().unwrap();
    assert_eq!(shards.len(), usize::from(SHARDS));
    assert!(shards.iter().all(|shard| shard["served"] == true), "{shards:?}");
    assert_eq!(a.metric("aa_node_serves").await, 1);
    assert_eq!(a.metric("aa_cluster_nodes{status=\"alive\"}").await, 2);
    assert_eq!(a.metric("aa_cluster_shards_unserved").await, 0);
    let mine = shards.iter().find(|shard| shard["owner"] == "a").unwrap();
    let epoch = format!("aa_shard_epoch{{shard=\"{}\"}}", mine["shard"]);
    assert!(a.metric(&epoch).await > 0);
    assert_eq!(a.get("health").await["status"], "ok");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_to_a_cluster_is_refused_with_what_to_do() {
    let (_world, [a, b]) = World::of(["a", "b"]).await;
    let refused = async |path: &str, body: Value| {
        let (status, problem) = request(&a, "POST", path, body).await;
        (status, problem["detail"].as_str().unwrap().to_owned())
    };
    let (status, why) = refused("cluster/nodes/z/drain", Value::Null).await;
    assert!(status == 404 && why.contains("`z`"), "{why}");
    let (status, why) = refused("cluster/shards/999/move", json!({"to": "b"})).await;
    assert!(status == 404 && why.contains("0 to 7"), "{why}");
    let (status, why) = refused("cluster/shards/0/move", json!({"to": "z"})).await;
    assert!(status == 404 && why.contains("aasm cluster nodes"), "{why}");
    request(&a, "POST", "cluster/nodes/b/drain", Value::Null).await;
    settled(&a, |nodes| nodes.iter().any(|node| node["status"] == "draining")).await;
    let (status, why) = refused("cluster/shards/0/move", json!({"to": "b"})).await;
    assert!(status == 409 && why.contains("drained"), "{why}");
    let (status, why) = refused("cluster/nodes/a/drain", Value::Null).await;
    assert!(status == 409 && why.contains("start another node"), "{why}");
    let (status, _) = request(&a, "POST", "cluster/nodes/b/undrain", Value::Null).await;
    assert_eq!(status, 200);

    let admin = request(&a, "POST", "keys", json!({"name": "x", "role": "admin"})).await.1;
    let url = format!("{}/api/v1/cluster/nodes/b/drain", a.api_url);
    let key = admin["secret"].as_str().unwrap();
    let answer = a.api.post(url).bearer_auth(key).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_belong_is_told_why() {
    let (world, [a]) = World::of(["a"]).await;
    let refused = async |options: Options| {
        let error = world.start(options).await.err().expect("it is refused");
        error.to_string()
    };
    let directory = tempfile::tempdir().unwrap();
    let mut other = world.options(&directory, "b");
    other.cluster.as_mut().unwrap().cluster = "prod".to_owned();
    let why = refused(other).await;
    assert!(why.contains("belongs to cluster `test`"), "{why}");

    let directory = tempfile::tempdir().unwrap();
    let why = refused(world.options(&directory, "a")).await;
    assert!(why.contains("another node named `a` is at work"), "{why}");

    let directory = tempfile::tempdir().unwrap();
    let lost = world.options(&directory, "b");
    std::fs::remove_file(lost.data.join("vault.toml")).unwrap();
    let why = refused(lost).await;
    assert!(why.contains("no master key file"), "{why}");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_all_first_make_one_home_workspace_and_one_authority() {
    let world = World::new().await;
    // The key file is made by one of them only where they do not share it.
    let seed = tempfile::tempdir().unwrap();
    world.start(world.options(&seed, "a")).await.unwrap();
    let world = World { store: World::new().await.store, ..world };
    let (a, b, c) = tokio::join!(world.join("a"), world.join("b"), world.join("c"));
    assert_eq!((a.workspace, b.workspace), (b.workspace, c.workspace));
    let authority = |peer: &Peer| {
        std::fs::read_to_string(peer.directory.path().join("data").join("ca.pem")).unwrap()
    };
    assert_eq!(authority(&a), authority(&b));
    assert_eq!(authority(&b), authority(&c));
    let policies = c.get("policies").await;
    assert_eq!(policies["policies"].as_array().unwrap().len(), 1);
    for peer in [a, b, c] {
        peer.stop().await;
    }
}

/// An address at which a node is called. Closed, it takes connections and says nothing.
struct Gate {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
}

impl Gate {
    /// A closed gate before `target`.
    async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_open = Arc::new(AtomicBool::new(false));
        let opened = Arc::clone(&is_open);
        tokio::spawn(async move {
            let mut silent = Vec::new();
            loop {
                let (mut caller, _) = listener.accept().await.unwrap();
                if !opened.load(Ordering::Relaxed) {
                    silent.push(caller);
                    continue;
                }
                tokio::spawn(async move {
                    let mut node = TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut caller, &mut node).await;
                });
            }
        });
        Self { address, is_open }
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }
}

async fn until_health(peer: &Peer, wanted: &str) -> Value {
    let waiting = async {
        loop {
            let (status, health) = request(peer, "GET", "health", Value::Null).await;
            if status == 200 && health["status"] == wanted {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the health is as it should be")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_what_it_has_though_it_does_not_reach_a_live_one() {
    let world = World::new().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gate = Gate::before(free).await;
    let directory = tempfile::tempdir().unwrap();
    let mut options = world.options(&directory, "a");
    let join = options.cluster.as_mut().unwrap();
    (join.relay, join.advertise) = (free, Some(gate.address.to_string()));
    let a = Peer::of(directory, world.start(options).await.unwrap()).await;
    let tokens = tokens(&a, 12).await;
    let files =
        ["client.env", "operator.env"].map(|name| a.directory.path().join("data").join(name));
    let env: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();

    // Everything is on `a`, which reaches `b` and is not reached by it.
    let directory = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let started = world.start(world.options(&directory, "b")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let summary = started.summary().clone();
    assert!(summary.pending.is_some() && !summary.client_env.exists());
    let b = Peer::with_keys(directory, started, &env).await;
    let health = until_health(&b, "partial").await;
    assert_eq!(health["unreachable"][0]["node"], "a", "{health}");
    assert!(health["unreachable"][0]["why"].as_str().unwrap().contains(&gate.address.to_string()));
    assert_eq!(until_health(&a, "ok").await["unreachable"], Value::Null);
    for shard in 0..SHARDS / 2 {
        give(&a, shard, "b").await;
    }
    settled(&a, |nodes| nodes.iter().all(|node| shards_of(node) > 0)).await;

    let asking = tokens
        .iter()
        .enumerate()
        .map(|(at, token)| b.check(token, action((at as u128 + 1) << 64, BASH)));
    let (mut served, mut refused) = (Vec::new(), Vec::new());
    for (at, answer) in futures::future::join_all(asking).await.into_iter().enumerate() {
        match answer {
            Ok(decision) => {
                assert_eq!(decision.verdict(), v1::Verdict::Allow);
                served.push(at);
            }
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
                assert!(status.metadata().contains_key("retry-after-ms"), "{status:?}");
                refused.push(at);
            }
        }
    }
    assert!(!served.is_empty() && !refused.is_empty(), "{served:?} {refused:?}");

    gate.open();
    for at in refused {
        let retrying = async {
            while b.check(&tokens[at], action((at as u128 + 1) << 64, BASH)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, retrying).await.expect("what was refused is served");
    }
    until_health(&b, "ok").await;
    let written = async {
        while !(summary.client_env.exists() && summary.operator_env.exists()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("the files are written");
    let own = std::fs::read_to_string(&summary.operator_env).unwrap();
    let key = own.split("AASM_API_KEY='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    assert_ne!(key, b.owner_key);
    let url = format!("{}/api/v1/agents", b.api_url);
    assert_eq!(b.api.get(url).bearer_auth(&key).send().await.unwrap().status(), 200);
    // One key for each file: none was made in vain.
    let keys = a.get("keys").await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 4, "{keys}");
    a.stop().await;
    b.stop().await;
}
