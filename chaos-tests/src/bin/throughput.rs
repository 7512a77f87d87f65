//! Durable decisions per second, beside a bare echo of equal messages.
//!
//! `throughput [SECONDS [SHAPE…]]` runs, for several numbers of agents and actions in flight, the echo and
//! the gateway in turn, each a process of its own over the same TLS, driven by the same client in this one.
//! A shape is `64x16` for sessions, or `64u` for one unary call after the other on each of 64 connections'
//! tasks. Three rounds each; it prints every round's rate and the median, and beside the rates what one
//! decision costs of processor time in the process that answers, which a busy machine changes less.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::process::{ControlPlaneProcess, Environment};
use aa_protocol::{
    Action, ActionId,
    wire::{registration_message, v1},
};
use ed25519_dalek::{Signer, SigningKey};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Gateway = v1::gateway_client::GatewayClient<Channel>;

const SHAPES: [&str; 8] = ["1x1", "1x16", "64x1", "64x16", "1024x1", "1024x16", "1u", "64u"];
const ROUNDS: usize = 3;

/// How an agent asks.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Over a session, with so many actions in flight.
    Session(usize),
    /// One `CheckPolicy` call after the other.
    Unary,
}

#[derive(Clone, Debug, Default)]
struct Measured {
    per_second: f64,
    p50_us: u64,
    p99_us: u64,
    /// Processor time of the server per answer, user and system.
    cpu_us: f64,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let duration = Duration::from_secs(seconds);
    let asked: Vec<String> = arguments.collect();
    let shapes = if asked.is_empty() { SHAPES.map(String::from).to_vec() } else { asked };
    let here = std::env::current_exe()?;
    let program = |name: &str| here.with_file_name(name);
    let directory = tempfile::tempdir_in(".")?;
    let any = "127.0.0.1:0".parse()?;
    let victim = program("victim");
    let gateway =
        ControlPlaneProcess::start(&victim, &directory.path().join("gateway"), any, any).await?;
    let echo = program("echo");
    let echo = ControlPlaneProcess::start(&echo, &directory.path().join("echo"), any, any).await?;
    let mut out = std::io::stdout();
    say(&mut out, &fdatasync(directory.path())?)?;
    say(&mut out, &machine())?;
    say(
        &mut out,
        "  shape | echo/s (rounds) · cpu | durable decisions/s (rounds) · cpu | of echo | p50, p99 (echo p50)",
    )?;
    for name in shapes {
        let (agents, way) = shape(&name)?;
        let (mut echoes, mut decisions) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            echoes.push(measure(&echo, agents, way, duration).await?);
            decisions.push(measure(&gateway, agents, way, duration).await?);
        }
        let (echo, decision) = (median(&mut echoes), median(&mut decisions));
        let rounds = |all: &[Measured]| {
            let all: Vec<_> = all.iter().map(|one| format!("{:.0}", one.per_second)).collect();
            all.join(" ")
        };
        say(
            &mut out,
            &format!(
                "{name:>7} | {:>7.0} ({}) · {:.1} µs | {:>7.0} ({}) · {:.1} µs | {:>4.0} % | {} µs, {} µs ({} µs)",
                echo.per_second,
                rounds(&echoes),
                echo.cpu_us,
                decision.per_second,
                rounds(&decisions),
                decision.cpu_us,
                100.0 * decision.per_second / echo.per_second,
                decision.p50_us,
                decision.p99_us,
                echo.p50_us,
            ),
        )?;
    }
    Ok(())
}

fn shape(name: &str) -> Result<(usize, Way), Error> {
    let wrong = || format!("`{name}` is no shape; write `64x16` or `64u`");
    if let Some(agents) = name.strip_suffix('u') {
        return Ok((agents.parse().map_err(|_| wrong())?, Way::Unary));
    }
    let (agents, in_flight) = name.split_once('x').ok_or_else(wrong)?;
    let in_flight = in_flight.parse().map_err(|_| wrong())?;
    Ok((agents.parse().map_err(|_| wrong())?, Way::Session(in_flight)))
}

/// What it ran on.
fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("unknown");
    format!("{cpus} × {}, load {load} at the start", model.unwrap_or("unknown processor"))
}

/// Processor time of a process so far, user and system, in microseconds: Linux counts in ticks of 10 ms.
fn cpu_us(process: &ControlPlaneProcess) -> Result<f64, Error> {
    let pid = process.pid().ok_or("the process has ended")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; the fields after it are counted from the state.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
    Ok((ticks(11).unwrap_or_default() + ticks(12).unwrap_or_default()) * 10_000.0)
}

fn say(out: &mut impl std::io::Write, line: &str) -> std::io::Result<()> {
    writeln!(out, "{line}")?;
    out.flush()
}

/// What the disk itself takes for one small durable append.
fn fdatasync(directory: &Path) -> std::io::Result<String> {
    use std::io::Write;
    let mut file = std::fs::File::create(directory.join("append"))?;
    let mut times = Vec::new();
    for _ in 0..500 {
        let start = Instant::now();
        file.write_all(&[7; 400])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort();
    let us = |part: usize| times[times.len() * part / 100].as_micros();
    Ok(format!("a bare 400-byte append with fdatasync: p50 {} µs, p99 {} µs", us(50), us(99)))
}

fn median(all: &mut [Measured]) -> Measured {
    all.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
    all.get(all.len() / 2).cloned().unwrap_or_default()
}

async fn measure(
    process: &ControlPlaneProcess,
    agents: usize,
    way: Way,
    duration: Duration,
) -> Result<Measured, Error> {
    let env = &process.env;
    let stop = Arc::new(AtomicBool::new(false));
    // As many connections as a host of many agents would use.
    let mut channels = Vec::new();
    for _ in 0..agents.min(4) {
        channels.push(connect(env).await?);
    }
    let mut sessions = Vec::new();
    for number in 0..agents {
        let channel = channels[number % channels.len()].clone();
        let token = register(&channel, env, &format!("load-{number}")).await?;
        let stop = Arc::clone(&stop);
        sessions.push((channel, token, stop));
    }
    let cpu_before = cpu_us(process)?;
    let start = Instant::now();
    let tasks: Vec<_> = sessions
        .into_iter()
        .map(|(channel, token, stop)| match way {
            Way::Session(in_flight) => tokio::spawn(drive(channel, token, in_flight, stop)),
            Way::Unary => tokio::spawn(call(channel, token, stop)),
        })
        .collect();
    tokio::time::sleep(duration).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = cpu_us(process)? - cpu_before;
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied();
    Ok(Measured {
        per_second: latencies.len() as f64 / elapsed,
        p50_us: at(50).unwrap_or_default(),
        p99_us: at(99).unwrap_or_default(),
        cpu_us: cpu / latencies.len().max(1) as f64,
    })
}

async fn connect(env: &Environment) -> Result<Channel, Error> {
    let ca = Certificate::from_pem(std::fs::read(&env.ca_file)?);
    let tls = ClientTlsConfig::new().ca_certificate(ca);
    let endpoint = Endpoint::from_shared(env.gateway_url.clone())?
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .tls_config(tls)?;
    Ok(endpoint.connect().await?)
}

async fn register(
    channel: &Channel,
    env: &Environment,
    name: &str,
) -> Result<MetadataValue<Ascii>, Error> {
    let mut gateway = Gateway::new(channel.clone());
    let key: MetadataValue<Ascii> = format!("Bearer {}", env.agent_key()).parse()?;
    let workspace_id = env.workspace_id().to_owned();
    let begin = v1::BeginRegistrationRequest { workspace_id: workspace_id.clone() };
    let nonce = gateway.begin_registration(authorized(begin, &key)).await?.into_inner().nonce;
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    let signing = SigningKey::from_bytes(&seed);
    let public = signing.verifying_key().to_bytes();
    let nonce_bytes: [u8; 32] = nonce.as_ref().try_into()?;
    let signed = registration_message(&nonce_bytes, &public, &workspace_id, name, "");
    let message = v1::RegisterAgentRequest {
        workspace_id,
        name: name.to_owned(),
        public_key: public.to_vec().into(),
        nonce,
        signature: signing.sign(&signed).to_bytes().to_vec().into(),
        ..Default::default()
    };
    let token = gateway.register_agent(authorized(message, &key)).await?.into_inner().token;
    Ok(format!("Bearer {token}").parse()?)
}

fn authorized<T>(message: T, value: &MetadataValue<Ascii>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", value.clone());
    request
}

fn action() -> Result<Action, Error> {
    Ok(serde_json::from_str(
        r#"{"kind":"tool_call","tool":"web_search","args":{"query":"governance of agents","limit":10}}"#,
    )?)
}

/// Makes one unary call after the other; returns each one's latency in microseconds.
async fn call(
    channel: Channel,
    token: MetadataValue<Ascii>,
    stop: Arc<AtomicBool>,
) -> Result<Vec<u64>, Error> {
    let mut gateway = Gateway::new(channel);
    let action = action()?;
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let id = ActionId::from_bytes(uuid::Uuid::new_v4().into_bytes());
        let message = v1::Action::from_parts(id, None, &action);
        let sent = Instant::now();
        gateway.check_policy(authorized(message, &token)).await?;
        latencies.push(sent.elapsed().as_micros() as u64);
    }
    Ok(latencies)
}

/// Keeps `in_flight` actions under way on one session; returns each one's latency in microseconds.
async fn drive(
    channel: Channel,
    token: MetadataValue<Ascii>,
    in_flight: usize,
    stop: Arc<AtomicBool>,
) -> Result<Vec<u64>, Error> {
    let mut gateway = Gateway::new(channel);
    let (frames, outgoing) = mpsc::channel(in_flight + 1);
    let request = authorized(ReceiverStream::new(outgoing), &token);
    let mut answers = gateway.session(request).await?.into_inner();
    let action = action()?;
    let mut sent = std::collections::HashMap::new();
    let mut tag = 0;
    let mut latencies = Vec::new();
    let frame = |tag: u64| {
        let id = ActionId::from_bytes(uuid::Uuid::new_v4().into_bytes());
        let body = v1::client_frame::Body::Check(v1::Action::from_parts(id, None, &action));
        v1::ClientFrame { tag, body: Some(body) }
    };
    for _ in 0..in_flight {
        tag += 1;
        sent.insert(tag, Instant::now());
        frames.send(frame(tag)).await?;
    }
    while !sent.is_empty() {
        let Some(answer) = answers.message().await? else { return Err("the session ended".into()) };
        match answer.body {
            Some(v1::server_frame::Body::Decision(_)) => {}
            Some(v1::server_frame::Body::Refusal(refusal)) => return Err(refusal.message.into()),
            _ => continue,
        }
        let Some(at) = sent.remove(&answer.tag) else { return Err("an unknown tag".into()) };
        latencies.push(at.elapsed().as_micros() as u64);
        if !stop.load(Ordering::Relaxed) {
            tag += 1;
            sent.insert(tag, Instant::now());
            frames.send(frame(tag)).await?;
        }
    }
    Ok(latencies)
}
