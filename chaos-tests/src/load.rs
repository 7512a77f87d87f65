//! Load for a while: many agents that ask again and again, and what their answers take.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    peer::{Peer, PeerError, connect},
    process::ControlPlaneProcess,
    vitals::Observed,
};

/// What one round of load measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Answers per second.
    pub per_second: f64,
    /// Half of the answers took at most so long, in microseconds.
    pub p50_us: u64,
    /// Of a hundred answers 99 took at most so long, in microseconds.
    pub p99_us: u64,
    /// Processor time of the server per answer, user and system, in microseconds.
    pub cpu_us: f64,
}

impl Measured {
    /// The round in the middle, by rate; of none, zeros.
    pub fn median(rounds: &[Self]) -> Self {
        let mut rounds: Vec<_> = rounds.iter().collect();
        rounds.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
        rounds.get(rounds.len() / 2).copied().cloned().unwrap_or_default()
    }

    /// Every round's rate, from the slowest, with spaces between.
    pub fn rates(rounds: &[Self]) -> String {
        let mut rates: Vec<_> = rounds.iter().map(|round| round.per_second).collect();
        rates.sort_by(f64::total_cmp);
        let rates: Vec<_> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
        rates.join(" ")
    }
}

/// The numbers of agents and of actions each has under way, of a shape such as `64x16`.
pub fn shape(name: &str) -> Option<(usize, usize)> {
    let (agents, in_flight) = name.split_once('x')?;
    Some((agents.parse().ok()?, in_flight.parse().ok()?))
}

/// Lets so many agents of a team (`""` for none) ask for a while. `drive` asks for one of them until it is told to
/// stop, and returns how many microseconds each answer took.
///
/// # Errors
/// An agent is refused, or the process has ended.
pub async fn measure<D, F>(
    process: &ControlPlaneProcess,
    agents: usize,
    team: &str,
    duration: Duration,
    drive: D,
) -> Result<Measured, PeerError>
where
    D: Fn(Peer, Arc<AtomicBool>) -> F,
    F: Future<Output = Result<Vec<u64>, PeerError>> + Send + 'static,
{
    let env = &process.env;
    let stop = Arc::new(AtomicBool::new(false));
    // As many connections as a host of many agents would use.
    let mut channels = Vec::new();
    for _ in 0..agents.min(4) {
        channels.push(connect(env).await?);
    }
    let mut peers = Vec::new();
    for number in 0..agents {
        let channel = channels[number % channels.len()].clone();
        peers.push(Peer::register_in(channel, env, &format!("load-{number}"), team).await?);
    }
    let observed = Observed::new(process.pid().ok_or("the process has ended")?);
    let cpu_before = observed.vitals()?.cpu_ms;
    let start = Instant::now();
    let tasks: Vec<_> =
        peers.into_iter().map(|peer| tokio::spawn(drive(peer, Arc::clone(&stop)))).collect();
    tokio::time::sleep(duration).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let cpu_us = (observed.vitals()?.cpu_ms - cpu_before) as f64 * 1_000.0;
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied();
    Ok(Measured {
        per_second: latencies.len() as f64 / elapsed,
        p50_us: at(50).unwrap_or_default(),
        p99_us: at(99).unwrap_or_default(),
        cpu_us: cpu_us / latencies.len().max(1) as f64,
    })
}
