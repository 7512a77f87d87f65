//! Many decisions: whether the last come as quickly as the first.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    latencies::Latencies,
    peer::{ORDINARY, Peer, connect, tool_call},
    process::ControlPlaneProcess,
    vitals::{Observed, stored_bytes},
};
use tokio::task::JoinSet;

use crate::{Error, MIB, restarts, say};

/// What the sessions have done.
#[derive(Default)]
struct Done {
    decisions: AtomicU64,
    window: Mutex<Latencies>,
}

/// Lines of the table.
const WINDOWS: u64 = 10;

/// Connections that the agents share.
const CHANNELS: u64 = 4;

/// How often the count is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Without a decision for this long, the run has come to a stop.
const STALL: Duration = Duration::from_secs(60);

/// How often a session hands over its latencies, so that the sessions do not wait for each other.
const HAND_OVER: Duration = Duration::from_millis(50);

pub(crate) async fn run(decisions: u64, agents: u64, in_flight: u64) -> Result<(), Error> {
    let program = std::env::current_exe()?.with_file_name("victim");
    let directory = tempfile::Builder::new().prefix("drift-").tempdir_in(".")?;
    let data = directory.path().join("data");
    let any = "127.0.0.1:0".parse()?;
    let process = ControlPlaneProcess::start(&program, &data, any, any).await?;
    let observed = Observed::new(process.pid().ok_or("the process has ended")?);
    let mut channels = Vec::new();
    for _ in 0..CHANNELS.min(agents) {
        channels.push(connect(&process.env).await?);
    }
    let mut peers = Vec::new();
    for number in 0..agents {
        let channel = channels[number as usize % channels.len()].clone();
        peers.push(Peer::register(channel, &process.env, &format!("drift-{number}")).await?);
    }
    say(&format!(
        "drift: {decisions} durable decisions, {agents} sessions × {in_flight} in flight"
    ))?;
    say(
        "  decisions | per second |   p50     p99     max µs | CPU µs each |   RSS   own  peak MiB | files | store MiB, bytes each",
    )?;
    let done = Arc::new(Done::default());
    let mut sessions = JoinSet::new();
    for peer in peers.iter().cloned() {
        sessions.spawn(drive(peer, in_flight, Arc::clone(&done)));
    }
    let (mut rates, mut p99s) = (Vec::new(), Vec::new());
    let mut before = observed.vitals()?;
    for window in 1..=WINDOWS {
        let start = Instant::now();
        let from = done.decisions.load(Ordering::Relaxed);
        let until = decisions * window / WINDOWS;
        reach(&done, until, &mut sessions).await?;
        let elapsed = start.elapsed();
        let now = done.decisions.load(Ordering::Relaxed);
        let latencies =
            std::mem::take(&mut *done.window.lock().unwrap_or_else(PoisonError::into_inner));
        let vitals = observed.vitals()?;
        let count = (now - from).max(1) as f64;
        let rate = count / elapsed.as_secs_f64();
        let stored = stored_bytes(&data);
        say(&format!(
            "{now:>11} | {rate:>10.0} | {:>6} {:>7} {:>9} | {:>11.1} | {:>5.0} {:>5.0} {:>5.0}     | {:>5} | {:>9.0}, {:.0}",
            latencies.percentile_us(50),
            latencies.percentile_us(99),
            latencies.longest_us(),
            (vitals.cpu_ms - before.cpu_ms) as f64 * 1_000.0 / count,
            vitals.resident as f64 / MIB,
            vitals.anonymous as f64 / MIB,
            vitals.peak as f64 / MIB,
            vitals.files,
            stored as f64 / MIB,
            stored as f64 / now.max(1) as f64,
        ))?;
        before = vitals;
        rates.push(rate);
        p99s.push(latencies.percentile_us(99));
    }
    if let ([first, .., last], [first_p99, .., last_p99]) = (rates.as_slice(), p99s.as_slice()) {
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        say(&format!(
            "median {median:.0}/s; the last tenth ran at {:.0} % of the first, p99 {first_p99} µs → {last_p99} µs",
            100.0 * last / first
        ))?;
    }
    let Some(peer) = peers.first() else { return Ok(()) };
    restarts::run(&program, &data, process, peer).await?;
    // The sessions ended with the process they were on.
    sessions.shutdown().await;
    Ok(())
}

async fn reach(
    done: &Done,
    until: u64,
    sessions: &mut JoinSet<Result<(), Error>>,
) -> Result<(), Error> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = done.decisions.load(Ordering::Relaxed);
        if now >= until {
            return Ok(());
        }
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > STALL {
            return Err(format!("nothing was decided for {STALL:?} after {now} decisions").into());
        }
        if let Some(ended) = sessions.try_join_next() {
            ended??;
            return Err("a session ended early".into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Keeps `in_flight` actions under way for as long as the session lasts.
async fn drive(peer: Peer, in_flight: u64, done: Arc<Done>) -> Result<(), Error> {
    let mut session = peer.session().await?;
    let mut sent = HashMap::new();
    let mut tag = 0;
    let (mut own, mut handed) = (Latencies::default(), Instant::now());
    loop {
        while (sent.len() as u64) < in_flight {
            tag += 1;
            sent.insert(tag, Instant::now());
            if !session.check(tag, tool_call(ORDINARY)) {
                return Err("the session takes no more".into());
            }
        }
        let (answered, how) = session.answer().await?;
        let at = sent.remove(&answered).ok_or("an unknown tag")?;
        if how != aa_chaos_tests::peer::Answered::Decided {
            return Err(format!("an action was answered {how:?}").into());
        }
        own.add(at.elapsed());
        done.decisions.fetch_add(1, Ordering::Relaxed);
        if handed.elapsed() >= HAND_OVER {
            handed = Instant::now();
            let mut window = done.window.lock().unwrap_or_else(PoisonError::into_inner);
            window.merge(&std::mem::take(&mut own));
        }
    }
}
