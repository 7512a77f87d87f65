//! Durable decisions per second, beside a bare echo of equal messages.
//!
//! `throughput [SECONDS [SHAPE…]]` runs, for several numbers of agents and actions in flight, the echo and
//! the gateway in turn, each a process of its own over the same TLS, driven by the same client in this one.
//! A shape is `64x16` for sessions, or `64u` for one unary call after the other on each of 64 connections'
//! tasks. Three rounds each; it prints every round's rate and the median, and beside the rates what one
//! decision costs of processor time in the process that answers, which a busy machine changes less.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    load::{self, Measured},
    peer::{Answered, ORDINARY, Peer, PeerError, Session, tool_call},
    process::ControlPlaneProcess,
    vitals::machine,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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

#[tokio::main]
async fn main() -> Result<(), PeerError> {
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
        let (echo, decision) = (Measured::median(&echoes), Measured::median(&decisions));
        say(
            &mut out,
            &format!(
                "{name:>7} | {:>7.0} ({}) · {:.1} µs | {:>7.0} ({}) · {:.1} µs | {:>4.0} % | {} µs, {} µs ({} µs)",
                echo.per_second,
                Measured::rates(&echoes),
                echo.cpu_us,
                decision.per_second,
                Measured::rates(&decisions),
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

fn shape(name: &str) -> Result<(usize, Way), PeerError> {
    let wrong = || format!("`{name}` is no shape; write `64x16` or `64u`");
    if let Some(agents) = name.strip_suffix('u') {
        return Ok((agents.parse().map_err(|_| wrong())?, Way::Unary));
    }
    let (agents, in_flight) = load::shape(name).ok_or_else(wrong)?;
    Ok((agents, Way::Session(in_flight)))
}

async fn measure(
    process: &ControlPlaneProcess,
    agents: usize,
    way: Way,
    duration: Duration,
) -> Result<Measured, PeerError> {
    match way {
        Way::Session(in_flight) => {
            let drive = |peer, stop| drive(peer, in_flight, stop);
            load::measure(process, agents, "", duration, drive).await
        }
        Way::Unary => load::measure(process, agents, "", duration, call).await,
    }
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

/// Makes one unary call after the other; returns each one's latency in microseconds.
async fn call(peer: Peer, stop: Arc<AtomicBool>) -> Result<Vec<u64>, PeerError> {
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        peer.check(tool_call(ORDINARY)).await?;
        latencies.push(sent.elapsed().as_micros() as u64);
    }
    Ok(latencies)
}

/// Keeps `in_flight` actions under way on one session; returns each one's latency in microseconds.
async fn drive(peer: Peer, in_flight: usize, stop: Arc<AtomicBool>) -> Result<Vec<u64>, PeerError> {
    let mut session = peer.session().await?;
    let mut sent = HashMap::new();
    let mut last = 0;
    let mut latencies = Vec::new();
    let mut send = |session: &Session, sent: &mut HashMap<u64, Instant>| {
        last += 1;
        sent.insert(last, Instant::now());
        let goes_on = session.check(last, tool_call(ORDINARY));
        if goes_on { Ok(()) } else { Err("the session ended") }
    };
    for _ in 0..in_flight {
        send(&session, &mut sent)?;
    }
    while !sent.is_empty() {
        let (tag, answered) = session.answer().await?;
        let Some(at) = sent.remove(&tag) else { return Err("an unknown tag".into()) };
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
