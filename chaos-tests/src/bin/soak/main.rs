//! A long run of mixed load with restarts: `soak [MINUTES [SEED [DECISIONS_PER_SECOND]]]`.
//!
//! A control plane runs as a process of its own under agents on sessions, agents that call, that flood, that
//! reconnect, that send what is malformed and that say nothing, beside operators who change policies, suspend
//! agents and read the log. It is killed and stopped again and again, except for one life of half the run.
//! A line every ten seconds says what the process holds and how it answers; `soak.csv` gets the same. At the
//! end the log is exported and held against everything that was told, every decision is decided again, and
//! each process's memory, files and threads must have been flat. The exit code is 0 only if all of it holds.

mod actions;
mod agents;
mod operators;
mod samples;
mod world;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    invariants::{Replay, ShardWatch, Violation, check_export_file, shard_states},
    operator::Operator,
    peer::connect,
    process::ControlPlaneProcess,
    vitals::{Observed, machine, stored_bytes},
};
use aa_store::{RedbOptions, RedbStore, Store};
use tokio::task::JoinSet;

use self::{actions::Actions, agents::Manners, samples::Sample, world::World};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How a process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// `kill -9`.
    Kill,
    /// An interrupt, after which it ends by itself.
    Interrupt,
}

/// One process's time.
#[derive(Clone, Copy, Debug)]
struct Life {
    time: Duration,
    end: End,
}

/// Agents that decide, without those that flood.
const SESSIONS: u64 = 72;
const CALLERS: u64 = 16;
const RECONNECTORS: u64 = 6;
const MALFORMED: u64 = 4;
const FLOODS: u64 = 2;
const IDLE: u64 = 60;

/// Connections that agents share, as those on one host do.
const CHANNELS: usize = 6;

/// How many times a flood's burst passes what one agent may have in flight.
const BURST: u64 = 1_000;

/// How far a change of policy and a decision may seem swapped on a busy machine.
const LAG: Duration = Duration::from_secs(10);

/// How long agents may take to get what they are owed when the run ends.
const DRAIN: Duration = Duration::from_secs(120);

/// How long an operator waits for each piece of an answer.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let mut arguments = std::env::args().skip(1);
    let minutes: f64 = arguments.next().map_or(Ok(30.0), |text| text.parse())?;
    let seed: u64 =
        arguments.next().map_or_else(|| Ok(fastrand::u64(..1 << 32)), |text| text.parse())?;
    let rate: f64 = arguments.next().map_or(Ok(1_500.0), |text| text.parse())?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", machine())?;
    writeln!(out, "soak of {minutes} minutes at about {rate} decisions/s, seed {seed}")?;

    let program = std::env::current_exe()?.with_file_name("victim");
    let directory = tempfile::Builder::new().prefix("soak-").tempdir_in(".")?;
    let data = directory.path().join("data");
    let mut run = Run::start(program, data, minutes, seed, out).await?;
    let tasks = people(&run.world, rate).await?;
    let lives = lives(Duration::from_secs_f64(minutes * 60.0), &mut fastrand::Rng::with_seed(seed));
    for (index, life) in lives.iter().enumerate() {
        run.live(*life, index + 1 == lives.len()).await?;
    }
    let intact = run.finish(tasks, directory.path()).await?;
    if !intact {
        let kept = directory.keep();
        writeln!(std::io::stdout(), "data, log and export are kept in {}", kept.display())?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Short lives, one long one, and short ones again.
fn lives(total: Duration, random: &mut fastrand::Rng) -> Vec<Life> {
    let mut lives = Vec::new();
    let fill = |part: Duration, lives: &mut Vec<Life>, random: &mut fastrand::Rng| {
        let mut left = part;
        while left > Duration::ZERO {
            let most = (part / 2).min(Duration::from_secs(45));
            let time = most.mul_f64(0.2 + 0.8 * random.f64()).min(left);
            let end = if random.u8(..3) == 0 { End::Interrupt } else { End::Kill };
            lives.push(Life { time, end });
            left = left.saturating_sub(time.max(Duration::from_millis(500)));
        }
    };
    fill(total.mul_f64(0.3), &mut lives, random);
    lives.push(Life { time: total.mul_f64(0.5), end: End::Kill });
    fill(total.mul_f64(0.2), &mut lives, random);
    lives
}

/// Starts everybody who uses the control plane.
async fn people(world: &Arc<World>, rate: f64) -> Result<JoinSet<()>, Error> {
    let mut tasks = JoinSet::new();
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        channels.push(connect(&world.env).await?);
    }
    let channel = |number: u64| channels[number as usize % channels.len()].clone();
    let paced = (SESSIONS + CALLERS + RECONNECTORS + MALFORMED) as f64;
    let every = Duration::from_secs_f64(paced / rate);
    let manners = Manners { in_flight: 1, every, reconnects_after: None, malformed: false };
    let mut number = 0;
    let mut next = || {
        number += 1;
        number - 1
    };
    for index in 0..SESSIONS {
        // Several in flight, from one to sixteen.
        let manners = Manners { in_flight: 1 + (index as usize * 5) % 16, ..manners };
        let number = next();
        tasks.spawn(agents::on_sessions(Arc::clone(world), channel(number), number, manners));
    }
    for _ in 0..RECONNECTORS {
        let manners = Manners { in_flight: 8, reconnects_after: Some(60), ..manners };
        let number = next();
        tasks.spawn(agents::on_sessions(Arc::clone(world), channel(number), number, manners));
    }
    for _ in 0..MALFORMED {
        let manners = Manners { in_flight: 4, malformed: true, ..manners };
        let number = next();
        tasks.spawn(agents::on_sessions(Arc::clone(world), channel(number), number, manners));
    }
    for _ in 0..CALLERS {
        let number = next();
        tasks.spawn(agents::one_by_one(Arc::clone(world), channel(number), number, every));
    }
    for _ in 0..FLOODS {
        tasks.spawn(agents::floods(Arc::clone(world), next(), BURST, Duration::from_secs(20)));
    }
    for number in 0..IDLE {
        tasks.spawn(agents::idles(Arc::clone(world), channel(number), number));
    }
    tasks.spawn(agents::strangers(Arc::clone(world), Duration::from_millis(700)));
    let operator = Operator::owner(&world.env, PATIENCE)?;
    tasks.spawn(operators::operates(
        Arc::clone(world),
        operator,
        SESSIONS,
        Duration::from_millis(1_200),
    ));
    Ok(tasks)
}

/// The run as the one who watches it has it.
struct Run {
    world: Arc<World>,
    program: PathBuf,
    data: PathBuf,
    process: Option<ControlPlaneProcess>,
    began: Instant,
    born: Instant,
    every: Duration,
    samples: Vec<Sample>,
    starts: Vec<Duration>,
    csv: std::fs::File,
    out: std::io::Stdout,
}

// === impl Run ===

impl Run {
    async fn start(
        program: PathBuf,
        data: PathBuf,
        minutes: f64,
        seed: u64,
        out: std::io::Stdout,
    ) -> Result<Self, Error> {
        let any = "127.0.0.1:0".parse()?;
        let process = ControlPlaneProcess::start(&program, &data, any, any).await?;
        let mut csv = std::fs::File::create("soak.csv")?;
        writeln!(csv, "{}", samples::CSV_HEADER)?;
        writeln!(&out, "{}", samples::TABLE_HEADER)?;
        let now = Instant::now();
        Ok(Self {
            world: World::new(process.env.clone(), Actions::new()?, seed),
            program,
            data,
            process: Some(process),
            began: now,
            born: now,
            // Short runs are watched more closely.
            every: Duration::from_secs_f64((minutes * 60.0 / 40.0).clamp(0.5, 10.0)),
            samples: Vec::new(),
            starts: Vec::new(),
            csv,
            out,
        })
    }

    /// Watches one life to its end and, unless it is the last, starts the next.
    async fn live(&mut self, life: Life, last: bool) -> Result<(), Error> {
        let ends = Instant::now() + life.time;
        let mut sampled = Instant::now();
        let mut cpu = None;
        while Instant::now() < ends {
            tokio::time::sleep(self.every.min(ends.saturating_duration_since(Instant::now())))
                .await;
            if let Some(ended) =
                self.process.as_mut().map(ControlPlaneProcess::ended).transpose()?.flatten()
            {
                self.world.surprise(format!("the process ended by itself: {ended}"));
                break;
            }
            if sampled.elapsed() >= self.every {
                self.sample(&mut sampled, &mut cpu)?;
            }
        }
        if last {
            return Ok(());
        }
        let Some(mut process) = self.process.take() else { return Err("no process".into()) };
        let (gateway, api) = process.env.addresses()?;
        self.world.goes_down();
        let had_ended = process.ended()?.is_some();
        let ending = Instant::now();
        let status = match life.end {
            End::Interrupt if !had_ended => process.interrupt().await?,
            _ => process.kill().await?,
        };
        if matches!(life.end, End::Interrupt) && !status.success() {
            self.world.surprise(format!("an interrupted process ended with {status}"));
        }
        let ended = ending.elapsed();
        let start = Instant::now();
        self.process =
            Some(ControlPlaneProcess::start(&self.program, &self.data, gateway, api).await?);
        let took = start.elapsed();
        self.born = Instant::now();
        self.starts.push(took);
        self.world.is_up_again();
        writeln!(
            self.out,
            "        {:?} ({status}) took {ended:.2?}; ready again in {took:.2?}",
            life.end
        )?;
        Ok(())
    }

    fn sample(&mut self, sampled: &mut Instant, cpu: &mut Option<u64>) -> Result<(), Error> {
        let Some(pid) = self.process.as_ref().and_then(ControlPlaneProcess::pid) else {
            return Ok(());
        };
        let vitals = Observed::new(pid).vitals()?;
        let window = sampled.elapsed();
        let sample = Sample {
            at: self.began.elapsed(),
            life: self.world.phase().life,
            age: self.born.elapsed(),
            window,
            vitals,
            stored: stored_bytes(&self.data),
            latencies: self.world.take_window(),
        };
        let used = cpu.map_or(0, |before| vitals.cpu_ms.saturating_sub(before));
        writeln!(self.csv, "{}", sample.csv(used as f64 / window.as_secs_f64() / 10.0))?;
        writeln!(self.out, "{sample}")?;
        self.out.flush()?;
        self.samples.push(sample);
        *sampled = Instant::now();
        *cpu = Some(vitals.cpu_ms);
        Ok(())
    }

    /// Waits for what is owed, then judges everything. Whether all of it holds.
    async fn finish(mut self, mut tasks: JoinSet<()>, directory: &Path) -> Result<bool, Error> {
        self.world.stop();
        let all = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended {
                    self.world.surprise(format!("somebody ended early: {error}"));
                }
            }
        };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            self.world.surprise(format!(
                "{} of the agents were still owed answers after {DRAIN:?}",
                tasks.len()
            ));
            tasks.shutdown().await;
        }
        let export = directory.join("export.jsonl");
        let operator = Operator::owner(&self.world.env, PATIENCE)?;
        let start = Instant::now();
        let bytes = operator.export(&export).await?;
        writeln!(
            self.out,
            "export of {:.1} MiB in {:.1?}",
            bytes as f64 / 1_048_576.0,
            start.elapsed()
        )?;
        let sources = operator.policy_sources().await?;
        if let Some(process) = self.process.take() {
            let status = process.interrupt().await?;
            if !status.success() {
                self.world.surprise(format!("the last process ended with {status}"));
            }
        }
        let mut holds = true;
        let told = self.world.take_acknowledged();
        let start = Instant::now();
        let recorded = check_export_file(&export, &told);
        holds &= self.say(
            "log against what was told",
            start,
            recorded.map(|recorded| format!("{} told, {recorded:?}", told.len())),
        )?;
        let start = Instant::now();
        let world = Arc::clone(&self.world);
        let replayed =
            Replay::run(&export, &sources, |summary| world.actions.summarised(summary), LAG);
        holds &= self.say(
            "every decision decided again",
            start,
            replayed.map(|replayed| format!("{replayed:?}")),
        )?;
        let start = Instant::now();
        let shards = self.shards().await?;
        holds &= self.say("shards of the store", start, shards)?;
        holds &= self.judge()?;
        Ok(holds)
    }

    /// Looks at the closed store.
    async fn shards(&self) -> Result<Result<String, Violation>, Error> {
        let workspace = self.world.env.workspace_id().parse()?;
        let store: Arc<dyn Store> =
            Arc::new(RedbStore::open(self.data.join("store.redb"), RedbOptions::default())?);
        let states = shard_states(&*store, workspace).await?;
        let mut watch = ShardWatch::default();
        Ok(states.and_then(|states| {
            let entries: u64 = states.iter().map(|state| state.end).sum();
            let epochs = states.iter().map(|state| state.epoch).max().unwrap_or_default();
            let shards = states.len();
            watch.look(states)?;
            Ok(format!(
                "{shards} shards, {entries} entries without a gap, epoch {epochs} after {} starts",
                self.starts.len() + 1
            ))
        }))
    }

    fn judge(&mut self) -> Result<bool, Error> {
        let mut holds = true;
        let trends = samples::trends(&self.samples);
        if trends.is_empty() {
            writeln!(self.out, "no process lived for long enough to judge whether it is flat")?;
        }
        for trend in &trends {
            holds &= trend.is_flat();
            writeln!(self.out, "{trend}")?;
        }
        self.starts.sort();
        if let (Some(median), Some(longest)) =
            (self.starts.get(self.starts.len() / 2), self.starts.last())
        {
            writeln!(
                self.out,
                "{} restarts: ready in {median:.2?} (median), {longest:.2?} at most",
                self.starts.len()
            )?;
        }
        let counts = &self.world.counts;
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        writeln!(
            self.out,
            "told: {} decisions, {} events; refused: {} for want of room, {} while stopping, {} malformed; {} sent again, {} sessions, {} conversations cut by restarts, {} requests of operators",
            of(&counts.decided),
            of(&counts.recorded),
            of(&counts.overloaded),
            of(&counts.unavailable),
            of(&counts.malformed),
            of(&counts.again),
            of(&counts.sessions),
            of(&counts.cut),
            of(&counts.operated),
        )?;
        let surprises = self.world.surprises();
        for (what, times) in &surprises {
            writeln!(self.out, "SURPRISE ({times}×): {what}")?;
        }
        holds &= surprises.is_empty();
        writeln!(self.out, "{}", if holds { "everything held" } else { "NOT everything held" })?;
        Ok(holds)
    }

    fn say(
        &mut self,
        what: &str,
        start: Instant,
        found: Result<String, Violation>,
    ) -> Result<bool, Error> {
        let (holds, text) = match found {
            Ok(text) => (true, text),
            Err(violation) => (false, format!("VIOLATED: {violation}")),
        };
        writeln!(self.out, "{what} ({:.1?}): {text}", start.elapsed())?;
        Ok(holds)
    }
}
