//! Load that is meant to hurt: floods, peers that do not read, crowds, and clients that come and go. The
//! control plane is a process of its own, so its memory and files are its own too.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what was measured is of interest when a bound is passed")]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    peer::{Answered, ORDINARY, Peer, Session, connect, tool_call},
    process::{ControlPlaneProcess, Environment},
};
use aa_protocol::wire::v1;
use futures::{Stream, StreamExt, stream};
use tonic::Code;

/// How long a test waits for what must come, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const MIB: u64 = 1 << 20;

struct Victim {
    process: ControlPlaneProcess,
    proc: PathBuf,
    _directory: tempfile::TempDir,
}

impl Victim {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_victim"));
        let any = "127.0.0.1:0".parse().unwrap();
        let process =
            ControlPlaneProcess::start(program, directory.path(), any, any).await.unwrap();
        let proc = PathBuf::from(format!("/proc/{}", process.pid().unwrap()));
        Self { process, proc, _directory: directory }
    }

    fn env(&self) -> &Environment {
        &self.process.env
    }

    async fn peer(&self, name: &str) -> Peer {
        Peer::register(connect(self.env()).await.unwrap(), self.env(), name).await.unwrap()
    }

    /// A field of the process's status, in bytes.
    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(self.proc.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        kib * 1_024
    }

    /// The most memory it had since the last call of [`Self::forget_peak`].
    fn peak(&self) -> u64 {
        self.status("VmHWM")
    }

    fn forget_peak(&self) -> u64 {
        std::fs::write(self.proc.join("clear_refs"), "5").unwrap();
        self.status("VmRSS")
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.proc.join("fd")).unwrap().count()
    }

    /// Waits until the process is back at this many open files.
    async fn until_files(&self, at_most: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.files() > at_most {
            assert!(Instant::now() < deadline, "{} files are open", self.files());
            tokio::task::yield_now().await;
        }
    }
}

/// Decisions of an agent that does nothing wrong, one at a time; each must come.
async fn decides(peer: &Peer, times: usize) {
    for _ in 0..times {
        let decision = tokio::time::timeout(PATIENCE, peer.check(tool_call(ORDINARY))).await;
        decision.expect("a decision comes").expect("it is a decision");
    }
}

/// Frames without end, and how many were taken.
fn flood(args: String) -> (impl Stream<Item = v1::ClientFrame> + Send + 'static, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let frames = stream::iter(1..1_000_000_u64).map(move |tag| {
        counter.fetch_add(1, Ordering::Relaxed);
        let body = v1::client_frame::Body::Check(tool_call(args.clone()));
        v1::ClientFrame { tag, body: Some(body) }
    });
    (frames, taken)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_agents_that_never_read_is_held_back_on_its_own_stream() {
    let victim = Victim::start().await;
    let quiet = victim.peer("quiet").await;
    decides(&quiet, 20).await;
    let before = victim.forget_peak();
    let attacker = victim.peer("attacker").await;
    let mut floods = Vec::new();
    for _ in 0..8 {
        let (frames, taken) = flood(ORDINARY.to_owned());
        floods.push((attacker.session_of(frames).await.unwrap(), taken));
    }
    decides(&quiet, 100).await;
    let grown = victim.peak().saturating_sub(before);
    for (_answers, taken) in &floods {
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken < 100_000, "{taken} frames were taken from a peer that never reads");
    }
    println!("8 floods of 1 M frames, unread: {} more", mib(grown));
    assert!(grown < 96 * MIB, "{}", mib(grown));
    drop(floods);
    decides(&quiet, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_sent_is_decided_or_refused_with_a_hint_and_nothing_is_lost() {
    const SESSIONS: u64 = 3;
    const ACTIONS: u64 = 400;
    let victim = Victim::start().await;
    let agent = victim.peer("eager").await;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(agent.session().await.unwrap());
    }
    for session in &sessions {
        for tag in 1..=ACTIONS {
            assert!(session.check(tag, tool_call(ORDINARY)));
        }
    }
    let (mut decided, mut refused) = (0, 0);
    for session in &mut sessions {
        for _ in 0..ACTIONS {
            let answer = tokio::time::timeout(PATIENCE, session.answer());
            match answer.await.expect("an answer comes").unwrap().1 {
                Answered::Decided => decided += 1,
                Answered::Refused(code, wait) => {
                    assert_eq!(code, Code::ResourceExhausted as i32);
                    assert!(wait > 0, "a refusal says when to come back");
                    refused += 1;
                }
            }
        }
    }
    println!("{decided} decided, {refused} refused");
    assert_eq!(decided + refused, SESSIONS * ACTIONS);
    assert!(decided > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end_hold_little_memory_and_none_without_a_token() {
    use v1::client_frame::Body::Check;
    let victim = Victim::start().await;
    let quiet = victim.peer("quiet").await;
    decides(&quiet, 20).await;
    let stranger = victim.peer("stranger").await.with_credential("nonsense").unwrap();
    let before = victim.forget_peak();
    let large = || tool_call(format!("{{\"k\":\"{}\"}}", "x".repeat(3 << 20)));
    let refused = stranger.check(large()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");

    // Many at once from one agent: some are decided, the rest is told to come back.
    let agent = victim.peer("large").await;
    let asked = (0..32).map(|_| agent.check(large()));
    let all = tokio::time::timeout(PATIENCE, futures::future::join_all(asked));
    let (mut decided, mut refused) = (0, 0);
    for answer in all.await.expect("all are answered") {
        match answer {
            Ok(_decision) => decided += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(status.metadata().contains_key("retry-after-ms"), "{status}");
                refused += 1;
            }
        }
    }
    println!("32 calls of 3 MiB: {decided} decided, {refused} refused");
    assert!(decided > 0);
    // On a session as well: what there is room for is decided, the rest told to come back, and it goes on.
    let frames = stream::iter((1..=12_u64).map(move |tag| v1::ClientFrame {
        tag,
        body: Some(Check(tool_call(format!("{{\"k\":\"{}\"}}", "x".repeat(3 << 20))))),
    }));
    let mut answers = agent.session_of(frames.chain(stream::pending())).await.unwrap();
    let mut decided = 0;
    for _ in 0..12 {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await;
        match answer.expect("an answer comes").unwrap().unwrap().body {
            Some(v1::server_frame::Body::Decision(_)) => decided += 1,
            Some(v1::server_frame::Body::Refusal(refusal)) => {
                assert_eq!(refusal.code, Code::ResourceExhausted as i32, "{refusal:?}");
                assert!(refusal.retry_after_ms > 0, "{refusal:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(decided > 0);
    decides(&quiet, 20).await;
    let grown = victim.peak().saturating_sub(before);
    println!("large messages: {} more", mib(grown));
    assert!(grown < 384 * MIB, "{}", mib(grown));
}

/// JSON that is small on the wire and large in memory, as much of it as one session takes in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "heavy: `make attack`"]
async fn wide_arguments_in_flight_hold_bounded_memory() {
    let victim = Victim::start().await;
    let quiet = victim.peer("quiet").await;
    decides(&quiet, 20).await;
    let before = victim.forget_peak();
    let agent = victim.peer("wide").await;
    const ACTIONS: u64 = 128;
    let args = format!("{{\"k\":[{}0]}}", "0,".repeat(2_000_000));
    let frames = stream::iter((1..=ACTIONS).map(move |tag| v1::ClientFrame {
        tag,
        body: Some(v1::client_frame::Body::Check(tool_call(args.clone()))),
    }));
    let mut answers = agent.session_of(frames.chain(stream::pending())).await.unwrap();
    for _ in 0..ACTIONS {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await;
        answer.expect("an answer comes").unwrap().unwrap();
    }
    let grown = victim.peak().saturating_sub(before);
    println!("{ACTIONS} actions of 4 MB of small numbers in flight: {} more", mib(grown));
    assert!(grown < 512 * MIB, "{}", mib(grown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_leave_nothing_behind() {
    let victim = Victim::start().await;
    let quiet = victim.peer("quiet").await;
    decides(&quiet, 20).await;
    let files = victim.files();
    let agent = victim.peer("fickle").await;
    for _ in 0..20 {
        let passing = agent.reconnected(victim.env()).await.unwrap();
        let session = passing.session().await.unwrap();
        for tag in 1..=10 {
            assert!(session.check(tag, tool_call(ORDINARY)));
        }
        // Gone without reading a single answer.
    }
    drop(agent);
    decides(&quiet, 20).await;
    victim.until_files(files + 2).await;
}

/// Opens idle sessions over connections of `per_connection` each.
async fn crowd(
    victim: &Victim,
    agents: &[Peer],
    sessions: usize,
    per_connection: usize,
) -> Vec<Session> {
    let mut open = Vec::with_capacity(sessions);
    for connection in 0..sessions.div_ceil(per_connection) {
        let agent = &agents[connection % agents.len()];
        let peer = agent.reconnected(victim.env()).await.unwrap();
        let opened = (0..per_connection).map(|_| peer.session());
        open.extend(futures::future::join_all(opened).await.into_iter().map(Result::unwrap));
    }
    open
}

async fn idle_sessions(sessions: usize, per_connection: usize, each: u64) {
    let victim = Victim::start().await;
    let quiet = victim.peer("quiet").await;
    let mut agents = Vec::new();
    for number in 0..16 {
        agents.push(victim.peer(&format!("idle-{number}")).await);
    }
    decides(&quiet, 20).await;
    let before = victim.forget_peak();
    let files = victim.files();
    let mut peaks = Vec::new();
    for _ in 0..2 {
        let mut open = crowd(&victim, &agents, sessions, per_connection).await;
        decides(&quiet, 50).await;
        // They are alive, not merely there.
        let some = sessions / 7;
        for session in open.iter_mut().step_by(some.max(1)) {
            assert!(session.check(1, tool_call(ORDINARY)));
            let answer = tokio::time::timeout(PATIENCE, session.answer()).await;
            assert_eq!(answer.expect("an answer comes").unwrap(), (1, Answered::Decided));
        }
        peaks.push(victim.peak().saturating_sub(before));
        drop(open);
        victim.until_files(files + 2).await;
        decides(&quiet, 20).await;
    }
    let [first, second] = peaks[..] else { panic!() };
    println!(
        "{sessions} idle sessions over {} connections: {} more, {} bytes each; again: {}",
        sessions.div_ceil(per_connection),
        mib(first),
        first / sessions as u64,
        mib(second),
    );
    assert!(first / (sessions as u64) < each, "{} bytes each", first / sessions as u64);
    assert!(second < first + first / 3 + 8 * MIB, "it came back: {} {}", mib(first), mib(second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_sessions_cost_little_and_give_it_back() {
    idle_sessions(300, 50, 64 << 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "heavy: `make attack`"]
async fn ten_thousand_idle_sessions_over_two_thousand_connections() {
    raise_file_limit();
    idle_sessions(10_000, 5, 64 << 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "heavy: `make attack`"]
async fn a_million_frames_on_one_stream_are_all_answered_within_bounds() {
    let victim = Victim::start().await;
    let quiet = victim.peer("quiet").await;
    decides(&quiet, 20).await;
    let before = victim.forget_peak();
    let attacker = victim.peer("attacker").await;
    let (frames, _taken) = flood(ORDINARY.to_owned());
    let mut answers = attacker.session_of(frames.chain(stream::pending())).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut decided = 0_u64;
        while decided < 999_999 {
            match answers.message().await.unwrap().unwrap().body {
                Some(v1::server_frame::Body::Decision(_)) => decided += 1,
                Some(v1::server_frame::Body::Refusal(refusal)) => panic!("{refusal:?}"),
                _ => {}
            }
        }
    });
    while !reading.is_finished() {
        decides(&quiet, 50).await;
        let grown = victim.peak().saturating_sub(before);
        assert!(grown < 512 * MIB, "{}", mib(grown));
    }
    reading.await.unwrap();
    println!("a million frames: {} more", mib(victim.peak().saturating_sub(before)));
}

fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}
