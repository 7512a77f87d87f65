//! What a quiet agent notices of an attack beside it.
//!
//! `neighbours [SECONDS] [ATTACK…]` measures one agent's decisions, one at a time and paced: alone, and beside
//! each attack. Control plane and attacker are processes of their own on this machine, so the attacker's own
//! work takes processor time too: the row `busy` shows what that costs, with an attacker that only computes.
//! Three rounds, in turn with the baseline; the table has the median of the rounds and their spread.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    peer::{ORDINARY, Peer, PeerError, Session, connect, tool_call},
    process::{ControlPlaneProcess, Environment},
};
use aa_control_plane::token::TokenKey;
use aa_protocol::{Timestamp, WorkspaceId, wire::v1};
use futures::StreamExt;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
};

const ATTACKS: [&str; 9] =
    ["busy", "flood", "unread", "deep", "large", "uploads", "exports", "failures", "idle"];

const ROUNDS: usize = 3;

/// Between two decisions of the quiet agent.
const PACE: Duration = Duration::from_millis(5);

/// How long an attack may take to be under way.
const READY: Duration = Duration::from_secs(120);

/// The quiet agent's latencies of one round, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Round {
    p50: u64,
    p99: u64,
    longest: u64,
}

/// An attack under way in a process of its own.
struct Attack {
    _child: Child,
    /// How much it did, as of its latest line.
    done: watch::Receiver<u64>,
}

#[tokio::main]
async fn main() -> Result<(), PeerError> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [command, name, data] if command == "attack" => attack(name, Path::new(data)).await,
        [] => measure(5, &ATTACKS).await,
        [seconds] => measure(seconds.parse()?, &ATTACKS).await,
        [seconds, attacks @ ..] => {
            let attacks: Vec<&str> = attacks.iter().map(String::as_str).collect();
            measure(seconds.parse()?, &attacks).await
        }
    }
}

// --- measuring

async fn measure(seconds: u64, attacks: &[&str]) -> Result<(), PeerError> {
    let directory = tempfile::tempdir_in(".")?;
    let data = directory.path().join("data");
    let victim = std::env::current_exe()?.with_file_name("victim");
    let any = "127.0.0.1:0".parse()?;
    let process = ControlPlaneProcess::start(&victim, &data, any, any).await?;
    let pid = process.pid().ok_or("the control plane is gone")?;
    let peer = Peer::register(connect(&process.env).await?, &process.env, "quiet").await?;
    let mut session = peer.session().await?;
    let length = Duration::from_secs(seconds);
    quiet(&mut session, Duration::from_secs(1)).await?;

    let mut out = io::stdout();
    writeln!(out, "{}", machine())?;
    writeln!(
        out,
        "one agent, a decision every {} ms, {ROUNDS} rounds of {seconds} s: median (rounds), µs",
        PACE.as_millis()
    )?;
    writeln!(
        out,
        "{:<10} {:<30} {:<30} {:<30} {:>9} {:>12} {:>10}",
        "beside", "p50 alone", "p50 beside", "p99 alone → beside", "longest", "attack/s", "memory"
    )?;
    for name in attacks {
        let (mut alone, mut beside, mut rates, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            alone.push(quiet(&mut session, length).await?);
            forget_peak(pid)?;
            let attack = Attack::start(name, &data).await?;
            let before = attack.count()?;
            let started = Instant::now();
            beside.push(quiet(&mut session, length).await?);
            let done = attack.count()?.saturating_sub(before);
            rates.push(done as f64 / started.elapsed().as_secs_f64());
            peak = peak.max(memory(pid, "VmHWM")?);
        }
        writeln!(
            out,
            "{name:<10} {:<30} {:<30} {:<30} {:>9} {:>12.0} {:>6} MiB",
            spread(&alone, |round| round.p50),
            spread(&beside, |round| round.p50),
            format!(
                "{} → {}",
                median(&alone, |round| round.p99),
                spread(&beside, |round| round.p99)
            ),
            beside.iter().map(|round| round.longest).max().unwrap_or_default(),
            rates.iter().sum::<f64>() / rates.len() as f64,
            peak >> 20,
        )?;
        out.flush()?;
    }
    writeln!(out, "memory at the end: {} MiB", memory(pid, "VmRSS")? >> 20)?;
    Ok(())
}

async fn quiet(session: &mut Session, length: Duration) -> Result<Round, PeerError> {
    let mut latencies = Vec::new();
    let end = Instant::now() + length;
    let mut pace = tokio::time::interval(PACE);
    // What came late is not made up for: that would be another load.
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while Instant::now() < end {
        pace.tick().await;
        let action = tool_call(ORDINARY);
        let start = Instant::now();
        if !session.check(1, action) {
            return Err("the session ended".into());
        }
        session.answer().await?;
        latencies.push(u64::try_from(start.elapsed().as_micros())?);
    }
    latencies.sort_unstable();
    let at = |percent: usize| {
        let index = latencies.len() * percent / 100;
        latencies.get(index).copied().unwrap_or_default()
    };
    let longest = latencies.last().copied().unwrap_or_default();
    Ok(Round { p50: at(50), p99: at(99), longest })
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> u64) -> u64 {
    let mut all: Vec<_> = rounds.iter().map(of).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn spread(rounds: &[Round], of: impl Fn(&Round) -> u64) -> String {
    let all: Vec<_> = rounds.iter().map(|round| of(round).to_string()).collect();
    format!("{} ({})", median(rounds, of), all.join(" "))
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load = load.split(' ').next().unwrap_or_default();
    format!("{cores} × {model}, Linux {}, load {load}", kernel.trim())
}

/// A field of a process's status, in bytes.
fn memory(pid: u32, field: &str) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other(format!("no {field}")))
}

fn forget_peak(pid: u32) -> io::Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

// === impl Attack ===

impl Attack {
    async fn start(name: &str, data: &Path) -> Result<Self, PeerError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["attack", name])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("the attacker has no output")?;
        let (latest, mut done) = watch::channel(0);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(count) = line.parse() else { return };
                latest.send_replace(count);
            }
        });
        let begun = tokio::time::timeout(READY, done.wait_for(|done| *done > 0));
        begun.await.map_err(|_| "the attack does not begin")?.map_err(|_| "the attacker ended")?;
        Ok(Self { _child: child, done })
    }

    /// How much the attacker did so far.
    ///
    /// # Errors
    /// It ended: what was measured beside it means nothing.
    fn count(&self) -> Result<u64, PeerError> {
        self.done.has_changed().map_err(|_| "the attacker ended")?;
        Ok(*self.done.borrow())
    }
}

// --- attacking

/// What every attacker has.
#[derive(Clone)]
struct Attacker {
    env: Environment,
    data: PathBuf,
    done: Arc<AtomicU64>,
}

/// Attacks until it is killed, and writes ten times a second how much it did.
async fn attack(name: &str, data: &Path) -> Result<(), PeerError> {
    let env = Environment::read(data)?;
    let attacker = Attacker { env, data: data.to_owned(), done: Arc::default() };
    let done = Arc::clone(&attacker.done);
    let running: tokio::task::JoinHandle<Result<(), PeerError>> = match name {
        "busy" => tokio::spawn(attacker.busy()),
        "flood" => tokio::spawn(attacker.flood()),
        "unread" => tokio::spawn(attacker.unread()),
        "deep" => tokio::spawn(attacker.deep()),
        "large" => tokio::spawn(attacker.large()),
        "uploads" => tokio::spawn(attacker.uploads()),
        "exports" => tokio::spawn(attacker.exports()),
        "failures" => tokio::spawn(attacker.failures()),
        "idle" => {
            attacker.idle().await?;
            tokio::spawn(std::future::pending())
        }
        other => return Err(format!("there is no attack `{other}`").into()),
    };
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut out = io::stdout();
    while !running.is_finished() {
        tick.tick().await;
        writeln!(out, "{}", done.load(Ordering::Relaxed))?;
        out.flush()?;
    }
    running.await?
}

// === impl Attacker ===

impl Attacker {
    fn count(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    async fn peer(&self, name: &str) -> Result<Peer, PeerError> {
        Peer::register(connect(&self.env).await?, &self.env, name).await
    }

    fn api(&self) -> Result<reqwest::Client, PeerError> {
        let ca = std::fs::read(&self.env.ca_file)?;
        let ca = reqwest::Certificate::from_pem(&ca)?;
        Ok(reqwest::Client::builder().tls_certs_only([ca]).build()?)
    }

    /// Only computes.
    async fn busy(self) -> Result<(), PeerError> {
        tokio::task::spawn_blocking(move || {
            loop {
                self.count();
            }
        })
        .await?
    }

    /// As many actions on one stream as the gateway takes.
    async fn flood(self) -> Result<(), PeerError> {
        let peer = self.peer("flood").await?;
        let frames = futures::stream::iter(1_u64..).map(|tag| {
            let body = v1::client_frame::Body::Check(tool_call(ORDINARY));
            v1::ClientFrame { tag, body: Some(body) }
        });
        let mut answers = peer.session_of(frames).await?;
        while answers.message().await?.is_some() {
            self.count();
        }
        Ok(())
    }

    /// The same on eight streams that are never read.
    async fn unread(self) -> Result<(), PeerError> {
        let peer = self.peer("unread").await?;
        let mut sessions = Vec::new();
        for _ in 0..8 {
            let counting = self.clone();
            let frames = futures::stream::iter(1_u64..).map(move |tag| {
                counting.count();
                let body = v1::client_frame::Body::Check(tool_call(ORDINARY));
                v1::ClientFrame { tag, body: Some(body) }
            });
            sessions.push(peer.session_of(frames).await?);
        }
        std::future::pending().await
    }

    /// Arguments far deeper than is taken: each is refused and recorded.
    async fn deep(self) -> Result<(), PeerError> {
        let peer = self.peer("deep").await?;
        let args = format!("{{\"k\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
        self.calls(peer, 64, move || tool_call(args.clone())).await
    }

    /// 10 MiB where 4 are taken.
    async fn large(self) -> Result<(), PeerError> {
        let peer = self.peer("large").await?;
        let args = format!("{{\"k\":\"{}\"}}", "x".repeat(10 << 20));
        self.calls(peer, 8, move || tool_call(args.clone())).await
    }

    /// A token that ended two hours ago.
    async fn failures(self) -> Result<(), PeerError> {
        let seed = std::fs::read(self.data.join("secrets").join("token.seed"))?;
        let tokens = TokenKey::new(seed.as_slice().try_into()?);
        let workspace: WorkspaceId = self.env.workspace_id().parse()?;
        let agent = aa_protocol::AgentId::of_name(workspace, "failures");
        let peer = self.peer("failures").await?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let past = now.saturating_sub(Duration::from_secs(7_200));
        let past = Timestamp::from_micros(i64::try_from(past.as_micros())?);
        let (expired, _) = tokens.issue(workspace, agent, past, uuid::Uuid::nil());
        let peer = peer.with_credential(&expired)?;
        self.calls(peer, 64, || tool_call(ORDINARY)).await
    }

    /// Calls, so many at a time, whatever is answered.
    async fn calls(
        self,
        peer: Peer,
        at_a_time: usize,
        action: impl Fn() -> v1::Action,
    ) -> Result<(), PeerError> {
        let calls = futures::stream::repeat_with(|| peer.check(action()));
        let mut answers = std::pin::pin!(calls.buffer_unordered(at_a_time));
        while let Some(_answer) = answers.next().await {
            self.count();
        }
        Ok(())
    }

    /// Policies of ten thousand rules, each a new revision, for a team that nobody is in.
    async fn uploads(self) -> Result<(), PeerError> {
        let api = self.api()?;
        let url = format!("{}/api/v1/policies?name=large", self.env.api_url);
        for revision in 0_u64.. {
            let mut document =
                format!("scope: 'team:elsewhere'\nversion: '{revision}'\nnetwork:\n  allowlist:\n");
            for host in 0..10_000 {
                writeln!(document, "    - host-{host}.example.com")?;
            }
            let request = api.post(&url).bearer_auth(self.env.owner_key());
            let answer =
                request.header("content-type", "application/yaml").body(document).send().await?;
            if answer.status() != 201 {
                return Err(format!("{}: {}", answer.status(), answer.text().await?).into());
            }
            self.count();
        }
        Ok(())
    }

    /// The whole log, four readers at a time.
    async fn exports(self) -> Result<(), PeerError> {
        let api = self.api()?;
        let url = format!("{}/api/v1/audit/export", self.env.api_url);
        let exports = futures::stream::repeat_with(|| async {
            let request = api.get(&url).bearer_auth(self.env.owner_key());
            Ok::<_, reqwest::Error>(request.send().await?.bytes().await?.len())
        });
        let mut exports = std::pin::pin!(exports.buffer_unordered(4));
        while let Some(length) = exports.next().await {
            length?;
            self.count();
        }
        Ok(())
    }

    /// Ten thousand sessions that say nothing.
    async fn idle(&self) -> Result<(), PeerError> {
        let agent = self.peer("idle").await?;
        let mut sessions = Vec::new();
        for _ in 0..200 {
            let peer = agent.reconnected(&self.env).await?;
            let opened = (0..50).map(|_| peer.session());
            for session in futures::future::join_all(opened).await {
                sessions.push(session?);
                self.count();
            }
        }
        // They stay open for as long as this process is.
        std::mem::forget(sessions);
        Ok(())
    }
}
