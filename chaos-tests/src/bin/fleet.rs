//! What a cluster does for its nodes: decisions per second with one, two and three, beside one on its embedded store, and
//! how long agents wait when one is killed.
//!
//! `fleet STORE [SECONDS [AGENTS]]` runs `aasm up` as processes of this machine: the program that `AA_AASM` names, or the one
//! beside this. `STORE` is a FoundationDB cluster, `fdb:///…/fdb.cluster`; every run takes a prefix of its own and
//! leaves it behind. All share the machine's processors with the FoundationDB servers, so more nodes share the same work.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    load::Measured,
    operator::Operator,
    peer::{Answered, ORDINARY, Peer, PeerError, Session, connect, tool_call},
    process::Environment,
    vitals::machine,
};
use aa_governance::agent::{AgentActor, AgentKeyId};
use aa_protocol::AgentId;
use aa_runtime::{Entity, ShardId};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Agents and what each has under way.
const SHAPES: [(usize, usize); 3] = [(1, 1), (64, 1), (64, 16)];
const ROUNDS: usize = 3;
const SHARDS: u16 = 256;
const PATIENCE: Duration = Duration::from_secs(60);

/// `aasm up` in a process.
struct Node {
    name: String,
    child: Child,
    env: Environment,
    operator: Operator,
}

/// A way to start nodes.
struct Fleet {
    program: PathBuf,
    directory: tempfile::TempDir,
    store: String,
    runs: usize,
}

#[tokio::main]
async fn main() -> Result<(), PeerError> {
    let mut arguments = std::env::args().skip(1);
    let store =
        arguments.next().ok_or("name the store: fleet fdb:///etc/foundationdb/fdb.cluster")?;
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let agents = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    let beside = || std::env::current_exe().map(|here| here.with_file_name("aasm"));
    let program = std::env::var_os("AA_AASM").map_or_else(beside, |path| Ok(path.into()))?;
    let directory = tempfile::tempdir_in(".")?;
    let mut fleet = Fleet { program, directory, store, runs: 0 };
    say(&machine())?;
    say("decisions/s: every round, median; p50, p99")?;
    let duration = Duration::from_secs(seconds);
    let alone = vec![fleet.start_alone().await?];
    measure_all("redb, 1 node", &alone, duration).await?;
    drop(alone);
    for count in 1..=3 {
        let nodes = fleet.start(count).await?;
        measure_all(&format!("FoundationDB, {count} nodes"), &nodes, duration).await?;
    }
    let nodes = fleet.start(3).await?;
    fail_over(nodes, agents).await
}

fn say(line: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}

// === impl Fleet ===

impl Fleet {
    async fn start_alone(&self) -> Result<Node, PeerError> {
        self.launch("alone", &self.directory.path().join("alone"), &[]).await
    }

    /// A new cluster of so many nodes, which share its shards from the beginning.
    async fn start(&mut self, count: usize) -> Result<Vec<Node>, PeerError> {
        self.runs += 1;
        let run = self.directory.path().join(format!("run-{}", self.runs));
        let mark = if self.store.contains('?') { '&' } else { '?' };
        let id = uuid::Uuid::new_v4().simple().to_string();
        let store = format!("{}{mark}prefix=fleet-{}-{}/", self.store, self.runs, &id[..8]);
        let key = self.directory.path().join("alone/secrets/master-key.json");
        let mut starting = Vec::new();
        for number in 0..count {
            let (name, data) = (format!("node-{number}"), run.join(format!("node-{number}")));
            let secrets = data.join("secrets");
            std::fs::create_dir_all(&secrets)?;
            // The same master key for all.
            std::fs::copy(&key, secrets.join("master-key.json"))?;
            let options = [
                "--store",
                &store,
                "--cluster",
                "fleet",
                "--node",
                &name,
                "--relay",
                "127.0.0.1:0",
            ]
            .map(str::to_owned);
            let fleet = &*self;
            starting.push(async move { fleet.launch(&name, &data, &options).await });
        }
        let nodes = futures::future::try_join_all(starting).await?;
        let began = Instant::now();
        while !is_balanced(&nodes[0].operator, count).await? {
            if began.elapsed() > PATIENCE {
                return Err("the cluster did not settle".into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(nodes)
    }

    async fn launch(&self, name: &str, data: &Path, options: &[String]) -> Result<Node, PeerError> {
        let any = "127.0.0.1:0";
        let mut child = Command::new(&self.program)
            .args(["up", "--format", "json", "--gateway", any, "--api", any, "--data"])
            .arg(data)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("it has no output")?;
        let mut lines = BufReader::new(output).lines();
        let started = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
        started.ok_or("`aasm up` did not start")?;
        let env = Environment::read(data)?;
        let operator = Operator::owner(&env, PATIENCE)?;
        Ok(Node { name: name.to_owned(), child, env, operator })
    }
}

/// Whether every shard is served, and none of so many nodes has less than half of its share.
async fn is_balanced(operator: &Operator, count: usize) -> Result<bool, PeerError> {
    let owners = owners(operator).await?;
    let share = usize::from(SHARDS) / count / 2;
    let mut of: HashMap<&str, usize> = HashMap::new();
    owners.values().for_each(|owner| *of.entry(owner.as_str()).or_default() += 1);
    Ok(owners.len() == usize::from(SHARDS) && of.len() == count && of.values().all(|n| *n >= share))
}

/// The owner of each shard that is served and at rest.
async fn owners(operator: &Operator) -> Result<HashMap<u16, String>, PeerError> {
    let shards = operator.get("/cluster/shards").await?;
    let shards = shards["shards"].as_array().ok_or("no shards")?;
    let at_rest = shards.iter().filter(|s| s["served"] == true && s["moving_to"].is_null());
    let owner = |shard: &serde_json::Value| {
        Some((shard["shard"].as_u64()? as u16, shard["owner"].as_str()?.to_owned()))
    };
    Ok(at_rest.filter_map(owner).collect())
}

// --- decisions per second

async fn measure_all(what: &str, nodes: &[Node], duration: Duration) -> Result<(), PeerError> {
    for (agents, in_flight) in SHAPES {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(measure(nodes, agents, in_flight, duration).await?);
        }
        let median = Measured::median(&rounds);
        say(&format!(
            "{what:>24} | {agents:>2}x{in_flight:<2} | {:>7.0} ({}) | {} µs, {} µs",
            median.per_second,
            Measured::rates(&rounds),
            median.p50_us,
            median.p99_us,
        ))?;
    }
    Ok(())
}

async fn measure(
    nodes: &[Node],
    agents: usize,
    in_flight: usize,
    duration: Duration,
) -> Result<Measured, PeerError> {
    let mut peers = Vec::new();
    for number in 0..agents {
        let env = &nodes[number % nodes.len()].env;
        peers.push(Peer::register(connect(env).await?, env, &format!("load-{number}")).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let tasks: Vec<_> = peers
        .into_iter()
        .map(|peer| tokio::spawn(drive(peer, in_flight, Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(duration).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let per_second = latencies.len() as f64 / start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let [p50_us, p99_us] = [50, 99].map(|part| percentile(&latencies, part));
    Ok(Measured { per_second, p50_us, p99_us, cpu_us: 0.0 })
}

fn percentile(sorted: &[u64], part: usize) -> u64 {
    sorted.get(sorted.len() * part / 100).or(sorted.last()).copied().unwrap_or_default()
}

/// Keeps `in_flight` actions under way on one session; returns each one's latency in microseconds.
async fn drive(peer: Peer, in_flight: usize, stop: Arc<AtomicBool>) -> Result<Vec<u64>, PeerError> {
    let mut session = peer.session().await?;
    let (mut sent, mut last, mut latencies) = (HashMap::new(), 0, Vec::new());
    let mut send = |session: &Session, sent: &mut HashMap<u64, Instant>| {
        last += 1;
        sent.insert(last, Instant::now());
        session.check(last, tool_call(ORDINARY)).then_some(()).ok_or("the session ended")
    };
    for _ in 0..in_flight {
        send(&session, &mut sent)?;
    }
    while !sent.is_empty() {
        let (tag, answered) = session.answer().await?;
        let at = sent.remove(&tag).ok_or("an unknown tag")?;
        if let Answered::Refused(code, _) = answered {
            return Err(format!("refused with code {code}").into());
        }
        latencies.push(at.elapsed().as_micros() as u64);
        if !stop.load(Ordering::Relaxed) {
            send(&session, &mut sent)?;
        }
    }
    Ok(latencies)
}

// --- failover

/// Kills one of three nodes and lets every agent ask at once through the others.
async fn fail_over(mut nodes: Vec<Node>, agents: usize) -> Result<(), PeerError> {
    let victim = nodes.pop().ok_or("no node")?;
    let mut channels = Vec::new();
    for node in &nodes {
        for _ in 0..16 {
            channels.push((connect(&node.env).await?, &node.env));
        }
    }
    let mut peers = Vec::new();
    for first in (0..agents).step_by(256) {
        let some = (first..agents.min(first + 256)).map(|number| {
            let (channel, env) = &channels[number % channels.len()];
            let channel = channel.clone();
            async move {
                let name = format!("agent-{number}");
                let peer = Peer::register(channel, env, &name).await?;
                peer.check(tool_call(ORDINARY)).await?;
                Ok::<_, PeerError>((name, peer))
            }
        });
        peers.extend(futures::future::try_join_all(some).await?);
    }
    let owners = owners(&nodes[0].operator).await?;
    let workspace = nodes[0].env.workspace_id().parse()?;
    let is_of_victim = |name: &str| {
        let id = AgentKeyId { workspace, agent: AgentId::of_name(workspace, name) };
        let shard = ShardId::of(AgentActor::KIND, &AgentActor::shard_key(&id), SHARDS);
        owners.get(&shard.0) == Some(&victim.name)
    };
    let (orphans, others): (Vec<_>, Vec<_>) =
        peers.into_iter().partition(|(name, _)| is_of_victim(name));
    let Node { mut child, .. } = victim;
    child.start_kill()?;
    let killed = Instant::now();
    let asked = [orphans, others].map(|peers| {
        let asking = peers.into_iter().map(|(_, peer)| tokio::spawn(until_decided(peer, killed)));
        asking.collect::<Vec<_>>()
    });
    for (what, tasks) in ["of the killed node", "of the others"].into_iter().zip(asked) {
        let mut waited = Vec::new();
        for task in tasks {
            waited.push(task.await??.as_millis() as u64);
        }
        waited.sort_unstable();
        let [p50, p90, p99, most] = [50, 90, 99, 100].map(|part| percentile(&waited, part));
        say(&format!(
            "failover, {} agents {what}: first decision after the kill, p50 {p50} ms, p90 {p90} ms, p99 {p99} ms, \
             longest {most} ms",
            waited.len()
        ))?;
    }
    Ok(())
}

/// Asks under one id until it is decided.
async fn until_decided(peer: Peer, since: Instant) -> Result<Duration, PeerError> {
    let action = tool_call(ORDINARY);
    let mut problem = String::new();
    while since.elapsed() < PATIENCE {
        match peer.check(action.clone()).await {
            Ok(_) => return Ok(since.elapsed()),
            Err(status) => problem = status.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("never decided: {problem}").into())
}
