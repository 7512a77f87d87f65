//! Many agents: registering them, and a part of them at work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    latencies::Latencies,
    peer::{ORDINARY, Peer, connect, tool_call},
    process::{ControlPlaneProcess, Environment},
    vitals::{Observed, Vitals, stored_bytes},
};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{Error, MIB, restarts, say};

/// Connections, each with several requests under way.
const CHANNELS: usize = 16;
const PER_CHANNEL: usize = 8;

/// Lines of each table.
const WINDOWS: u64 = 10;

/// How often the count is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How often a caller hands over its latencies, so that the callers do not wait for each other.
const HAND_OVER: Duration = Duration::from_millis(50);

pub(crate) async fn run(registered: u64, active: u64, seconds: u64) -> Result<(), Error> {
    let active = active.min(registered);
    let program = std::env::current_exe()?.with_file_name("victim");
    let directory = tempfile::Builder::new().prefix("crowd-").tempdir_in(".")?;
    let data = directory.path().join("data");
    let any = "127.0.0.1:0".parse()?;
    let process = ControlPlaneProcess::start(&program, &data, any, any).await?;
    let observed = Observed::new(process.pid().ok_or("the process has ended")?);
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        channels.push(connect(&process.env).await?);
    }
    say(&format!(
        "crowd: {registered} agents registered over {CHANNELS} connections, {active} of them active"
    ))?;
    say(
        "  registered | per second |   p50     p99 µs | CPU µs each |   RSS   own  peak MiB | store MiB",
    )?;
    let held = |vitals: &Vitals| {
        let mib = |bytes: u64| bytes as f64 / MIB;
        format!(
            "{:>5.0} {:>5.0} {:>5.0}     | {:>9.0}",
            mib(vitals.resident),
            mib(vitals.anonymous),
            mib(vitals.peak),
            mib(stored_bytes(&data))
        )
    };
    let line = |count: u64,
                total: u64,
                elapsed: Duration,
                latencies: &Latencies,
                cpu_ms: u64,
                vitals: &Vitals| {
        say(&format!(
            "{total:>12} | {:>10.0} | {:>6} {:>7}    | {:>11.1} | {}",
            count as f64 / elapsed.as_secs_f64(),
            latencies.percentile_us(50),
            latencies.percentile_us(99),
            cpu_ms as f64 * 1_000.0 / count.max(1) as f64,
            held(vitals),
        ))
    };

    let mut peers = Vec::with_capacity(active as usize);
    let mut before = observed.vitals()?;
    for window in 0..WINDOWS {
        let (from, until) = (registered * window / WINDOWS, registered * (window + 1) / WINDOWS);
        let start = Instant::now();
        let (latencies, new) = register(&channels, &process.env, from..until, active).await?;
        peers.extend(new);
        let vitals = observed.vitals()?;
        line(
            until - from,
            until,
            start.elapsed(),
            &latencies,
            vitals.cpu_ms - before.cpu_ms,
            &vitals,
        )?;
        before = vitals;
    }
    let peers: Arc<[Peer]> = peers.into();
    let Some(peer) = peers.first() else { return Ok(()) };

    say(&format!(
        "{} active agents, one call each in turn, {} calls under way",
        peers.len(),
        CHANNELS * PER_CHANNEL
    ))?;
    say(
        "   decisions | per second |   p50     p99 µs | CPU µs each |   RSS   own  peak MiB | store MiB",
    )?;
    let work = Arc::new(Work::default());
    let mut tasks = JoinSet::new();
    for _ in 0..CHANNELS * PER_CHANNEL {
        tasks.spawn(decide(Arc::clone(&peers), Arc::clone(&work)));
    }
    // First everyone once, which brings each agent's state into memory; then windows of equal time.
    let (mut decided, first) = (0, Instant::now());
    while work.done.load(Ordering::Relaxed) < peers.len() as u64 {
        fails_early(&mut tasks)?;
        tokio::time::sleep(LOOK).await;
    }
    let mut start = first;
    for window in 0..=WINDOWS {
        if window > 0 {
            start = Instant::now();
            tokio::time::sleep(Duration::from_millis(seconds * 1_000 / WINDOWS)).await;
            fails_early(&mut tasks)?;
        }
        let total = work.done.load(Ordering::Relaxed);
        let latencies = work.take();
        let vitals = observed.vitals()?;
        line(
            total - decided,
            total,
            start.elapsed(),
            &latencies,
            vitals.cpu_ms - before.cpu_ms,
            &vitals,
        )?;
        (before, decided) = (vitals, total);
    }
    restarts::run(&program, &data, process, peer).await?;
    tasks.shutdown().await;
    Ok(())
}

/// What the callers have done.
#[derive(Default)]
struct Work {
    next: AtomicU64,
    done: AtomicU64,
    window: std::sync::Mutex<Latencies>,
}

/// Registers agents of these numbers; returns the ones among them that will be active.
async fn register(
    channels: &[Channel],
    env: &Environment,
    numbers: std::ops::Range<u64>,
    active: u64,
) -> Result<(Latencies, Vec<Peer>), Error> {
    let next = Arc::new(AtomicU64::new(numbers.start));
    let mut tasks = JoinSet::new();
    for channel in channels.iter().cycle().take(channels.len() * PER_CHANNEL) {
        let (next, env, end) = (Arc::clone(&next), env.clone(), numbers.end);
        let channel = channel.clone();
        tasks.spawn(async move {
            let (mut latencies, mut peers) = (Latencies::default(), Vec::new());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return Ok::<_, Error>((latencies, peers));
                }
                let start = Instant::now();
                let peer =
                    Peer::register(channel.clone(), &env, &format!("crowd-{number:07}")).await?;
                latencies.add(start.elapsed());
                if number < active {
                    peers.push(peer);
                }
            }
        });
    }
    let (mut latencies, mut peers) = (Latencies::default(), Vec::new());
    while let Some(ended) = tasks.join_next().await {
        let (of_task, new) = ended??;
        latencies.merge(&of_task);
        peers.extend(new);
    }
    Ok((latencies, peers))
}

/// One call after the other, each for the next agent, for as long as the process answers.
async fn decide(peers: Arc<[Peer]>, work: Arc<Work>) -> Result<(), Error> {
    let (mut own, mut handed) = (Latencies::default(), Instant::now());
    loop {
        let turn = work.next.fetch_add(1, Ordering::Relaxed) as usize % peers.len();
        let Some(peer) = peers.get(turn) else { return Ok(()) };
        let start = Instant::now();
        peer.check(tool_call(ORDINARY)).await?;
        own.add(start.elapsed());
        work.done.fetch_add(1, Ordering::Relaxed);
        if handed.elapsed() >= HAND_OVER {
            work.merge(&std::mem::take(&mut own));
            handed = Instant::now();
        }
    }
}

fn fails_early(tasks: &mut JoinSet<Result<(), Error>>) -> Result<(), Error> {
    match tasks.try_join_next() {
        Some(ended) => ended?.and(Err("a caller ended early".into())),
        None => Ok(()),
    }
}

// === impl Work ===

impl Work {
    fn merge(&self, more: &Latencies) {
        self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner).merge(more);
    }

    fn take(&self) -> Latencies {
        std::mem::take(&mut *self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
