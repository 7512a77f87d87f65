//! What a machine does to a process: full and read-only disks, damaged files, stalls, clocks that jump, memory
//! that ends. Whatever happens, nothing that was acknowledged is lost, and a store that cannot be trusted
//! refuses to start and says what, where and how to go on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what was skipped or found is of interest")]

use std::{
    fs,
    future::Future,
    io::Read,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    invariants::{Acknowledged, Recorded, check_export, check_export_file},
    operator::Operator,
    peer::{ORDINARY, Peer, connect, tool_call},
    process::ControlPlaneProcess,
};
use aa_control_plane::{ControlPlane, Options};
use aa_governance::{
    AuditKeys, Governance, GovernanceOptions, Grant,
    agent::{AgentKeyId, Check, Request},
    audit::ExportFormat,
    permission::{ManagePolicies, ReadAudit, RegisterAgents},
};
use aa_ledger::MacKey;
use aa_protocol::{Action, ActionId, AgentFacts, AgentId, Timestamp, Verdict, WorkspaceId};
use aa_runtime::{Clock, Node, NodeOptions, Reply, SystemClock, SystemEntropy};
use aa_store::MemoryStore;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// How long a test waits for what must come, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const VICTIM: &str = env!("CARGO_BIN_EXE_victim");

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn start(program: impl AsRef<Path>, data: &Path) -> ControlPlaneProcess {
    ControlPlaneProcess::start(program.as_ref(), data, any(), any()).await.unwrap()
}

/// Asks for decisions, at most `count`, until one is refused; what was told.
async fn decisions(peer: &Peer, count: usize) -> Vec<Acknowledged> {
    let mut told = Vec::new();
    for _ in 0..count {
        let message = tool_call(ORDINARY);
        let action = ActionId::from_bytes(message.id.as_ref().try_into().unwrap());
        let asked = tokio::time::timeout(PATIENCE, peer.check(message)).await;
        let Ok(decision) = asked.expect("an answer or a refusal comes") else { break };
        let verdict = Some(decision.to_decision().unwrap().verdict);
        told.push(Acknowledged { action, event: decision.event_id.parse().unwrap(), verdict });
    }
    told
}

async fn agent(process: &ControlPlaneProcess, name: &str) -> Peer {
    Peer::register(connect(&process.env).await.unwrap(), &process.env, name).await.unwrap()
}

/// Everything that was told is in the log of a process on this data, once, and the log verifies.
async fn nothing_is_lost(data: &Path, told: &[Acknowledged]) -> Recorded {
    let process = start(VICTIM, data).await;
    let operator = Operator::owner(&process.env, PATIENCE).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("export.jsonl");
    operator.export(&file).await.unwrap();
    let recorded = check_export_file(&file, told).unwrap();
    // It takes new work, too.
    assert_eq!(decisions(&agent(&process, "afterwards").await, 3).await.len(), 3);
    process.interrupt().await.unwrap();
    recorded
}

/// Starts a process that must refuse: it ends with an exit code that is no success and never says `ready`.
/// Returns the words that a person gets.
async fn refusal(data: &Path) -> String {
    let mut child = Command::new(VICTIM)
        .arg(data)
        .args(["127.0.0.1:0", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it neither starts nor refuses");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(!status.success() && status.code().is_some(), "it ended with {status}");
    assert!(!output.contains("ready"), "{output}");
    let options = Options {
        data: data.to_owned(),
        store: None,
        gateway: any(),
        api: any(),
        workspace_name: "x".to_owned(),
        allowed_destinations: Vec::new(),
        cluster: None,
    };
    match ControlPlane::start(options).await {
        Ok(_) => panic!("it starts after all"),
        Err(error) => error.to_string(),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            fs::copy(item.path(), &target).unwrap();
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}

/// A program that becomes the victim under limits that the shell sets.
fn limited(directory: &Path, limits: &str) -> PathBuf {
    let path = directory.join("limited");
    fs::write(&path, format!("#!/bin/sh\n{limits}\nexec '{VICTIM}' \"$@\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The log's segments, in the order they were made.
fn segments(data: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(data.join("store.redb.wal"))
        .unwrap()
        .map(|item| item.unwrap().path())
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_and_foreign_files_are_refused_by_name_and_the_originals_start_again() {
    let directory = tempfile::tempdir().unwrap();
    let sound = directory.path().join("sound");
    let process = start(VICTIM, &sound).await;
    let told = decisions(&agent(&process, "before").await, 200).await;
    assert_eq!(told.len(), 200);
    process.kill().await.unwrap();

    let store = |data: &Path| data.join("store.redb");
    let segment = |data: &Path| segments(data).remove(0);
    let truncate = |path: PathBuf, part: u64| {
        let length = fs::metadata(&path).unwrap().len();
        fs::File::options().write(true).open(path).unwrap().set_len(length / part).unwrap();
    };
    let overwrite = |path: PathBuf, at: usize, bytes: &[u8]| {
        let mut content = fs::read(&path).unwrap();
        content[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(path, content).unwrap();
    };
    type Damage<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);
    let damages: Vec<Damage<'_>> = vec![
        ("the store cut in half", Box::new(|data| truncate(store(data), 2))),
        ("the store emptied", Box::new(|data| fs::write(store(data), b"").unwrap())),
        (
            "the store another file",
            Box::new(|data| fs::write(store(data), b"dear diary, ".repeat(9_000)).unwrap()),
        ),
        ("the store's first bytes changed", Box::new(|data| overwrite(store(data), 0, b"REDB"))),
        ("the store gone and its log left", Box::new(|data| fs::remove_file(store(data)).unwrap())),
        ("the log gone", Box::new(|data| fs::remove_dir_all(data.join("store.redb.wal")).unwrap())),
        (
            "the segment's description changed",
            Box::new(|data| overwrite(segment(data), 40, &[0xff; 8])),
        ),
        ("the segment cut in half", Box::new(|data| truncate(segment(data), 2))),
        (
            "a byte of a committed record changed",
            Box::new(|data| {
                let path = segment(data);
                let at = 30_000;
                let changed = fs::read(&path).unwrap()[at] ^ 0x10;
                overwrite(path, at, &[changed]);
            }),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, damage) in &damages {
        let data = directory.path().join("damaged");
        copy(&sound, &data);
        damage(&data);
        let started = ControlPlaneProcess::start(Path::new(VICTIM), &data, any(), any()).await;
        match started {
            Err(_) => {
                let said = refusal(&data).await;
                println!("{name}: {said}");
                if !said.contains("damaged/") {
                    wrong.push(format!("{name}: it does not say where: {said}"));
                }
                if !["restore", "choose another", "move it away", "newer"]
                    .iter()
                    .any(|way| said.contains(way))
                {
                    wrong.push(format!("{name}: it does not say how to go on: {said}"));
                }
            }
            Ok(process) => {
                // What can be mended without a loss may start.
                let operator = Operator::owner(&process.env, PATIENCE).unwrap();
                let file = directory.path().join("export.jsonl");
                let exported = operator.export(&file).await.map_err(|error| error.to_string());
                let held = exported.and_then(|_| {
                    check_export_file(&file, &told).map_err(|error| error.to_string())
                });
                match held {
                    Ok(recorded) => println!("{name}: it starts, and all is there: {recorded:?}"),
                    Err(error) => wrong.push(format!("{name}: it starts although: {error}")),
                }
                process.kill().await.unwrap();
            }
        }
        fs::remove_dir_all(&data).unwrap();
    }
    nothing_is_lost(&sound, &told).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_data_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let first = start(VICTIM, directory.path()).await;
    let peer = agent(&first, "steady").await;
    let mut told = decisions(&peer, 20).await;
    let said = refusal(directory.path()).await;
    assert!(said.contains("in use by another process") && said.contains("stop that one"), "{said}");
    told.extend(decisions(&peer, 20).await);
    assert_eq!(told.len(), 40);
    first.kill().await.unwrap();
    nothing_is_lost(directory.path(), &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_grow_ends_the_process_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    // Files of at most 8 MiB: the next segment does not fit. Its signal is ignored, so that the write fails.
    let program = limited(directory.path(), "trap '' XFSZ\nulimit -f 8192");
    let mut process = start(program, &data).await;
    let peer = agent(&process, "writer").await;
    let mut told = Vec::new();
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "{} were told and no file was full", told.len());
        let lots = (0..8).map(|_| decisions(&peer, 50));
        let lots = futures::future::join_all(lots).await;
        let full = lots.iter().any(|lot| lot.len() < 50);
        told.extend(lots.into_iter().flatten());
        if full {
            break;
        }
    }
    let status = loop {
        assert!(Instant::now() < deadline, "it neither decides nor ends");
        if let Some(status) = process.ended().unwrap() {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    println!("{} told, then it ended with {status}", told.len());
    assert!(!status.success());
    let recorded = nothing_is_lost(&data, &told).await;
    println!("{recorded:?}");
}

/// A file system of its own for one test; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, said aloud, where mounting is not ours to do.
    fn new(path: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let options = format!("size={size},mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        println!("SKIPPED: a file system cannot be mounted here; run it as root");
        None
    }

    fn remount(&self, options: &str) {
        let done =
            Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a test that fails may leave a process on it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_or_read_only_disk_refuses_says_so_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(directory.path().join("disk"), "40m") else { return };
    let data = disk.0.join("data");
    let mut process = start(VICTIM, &data).await;
    let peer = agent(&process, "writer").await;
    let mut told = decisions(&peer, 50).await;
    // Somebody else fills it to the last block.
    let filler = disk.0.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4_096]).is_ok() {}
    drop(file);
    let deadline = Instant::now() + 2 * PATIENCE;
    while process.ended().unwrap().is_none() {
        let lots = futures::future::join_all((0..8).map(|_| decisions(&peer, 100))).await;
        let full = lots.iter().any(|lot| lot.len() < 100);
        told.extend(lots.into_iter().flatten());
        if full || told.len() > 20_000 {
            break;
        }
        assert!(Instant::now() < deadline, "{} told", told.len());
    }
    println!("{} told on the full disk", told.len());
    process.kill().await.unwrap();

    fs::remove_file(&filler).unwrap();
    nothing_is_lost(&data, &told).await;
    disk.remount("ro");
    let said = refusal(&data).await;
    println!("{said}");
    assert!(said.contains("disk/data"), "it says where: {said}");
    disk.remount("rw");
    nothing_is_lost(&data, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_process_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let process = start(VICTIM, directory.path()).await;
    let peer = agent(&process, "patient").await;
    let pid = Pid::from_raw(process.pid().unwrap() as i32).unwrap();
    let load = tokio::spawn(async move { decisions(&peer, 300).await });
    kill_process(pid, Signal::STOP).unwrap();
    // The stall itself.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    kill_process(pid, Signal::CONT).unwrap();
    let told = tokio::time::timeout(PATIENCE, load).await.unwrap().unwrap();
    assert_eq!(told.len(), 300, "none was refused");
    process.kill().await.unwrap();
    nothing_is_lost(directory.path(), &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_into_too_little_memory_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = start(VICTIM, directory.path()).await;
    let peer = agent(&process, "modest").await;
    let told = decisions(&peer, 100).await;
    let raw = process.pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{raw}/status")).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size = size.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    let room = Some(size + (24 << 20));
    let pid = Pid::from_raw(raw as i32);
    prlimit(pid, Resource::As, Rlimit { current: room, maximum: room }).unwrap();
    let flood = (0..24).map(|_| {
        let peer = peer.clone();
        async move { peer.check(tool_call(format!("{{\"k\":\"{}\"}}", "x".repeat(3 << 20)))).await }
    });
    let answers = tokio::time::timeout(PATIENCE, futures::future::join_all(flood)).await;
    let answers = answers.expect("all are answered or cut off");
    let decided = answers.iter().filter(|answer| answer.is_ok()).count();
    let ended = process.ended().unwrap();
    println!("24 × 3 MiB into 24 MiB: {decided} decided, the process ended: {ended:?}");
    process.kill().await.unwrap();
    nothing_is_lost(directory.path(), &told).await;
}

/// The machine's clock, set forward or back at will.
#[derive(Debug, Default)]
struct JumpingClock(AtomicI64);

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        let real = SystemClock.now().as_micros();
        Timestamp::from_micros(real + self.0.load(Ordering::Relaxed) * 1_000_000)
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        SystemClock.sleep(duration)
    }
}

#[tokio::test]
async fn a_clock_that_jumps_breaks_no_chain_and_lets_no_limit_be_passed() {
    const HOUR: i64 = 3_600;
    let clock = Arc::new(JumpingClock::default());
    let store = Arc::new(MemoryStore::new());
    let node = Node::start(
        store,
        Arc::clone(&clock) as Arc<dyn Clock>,
        Arc::new(SystemEntropy),
        NodeOptions::embedded(),
    );
    let mac = MacKey::new("k1", &[7; 32]).unwrap();
    let keys = AuditKeys { log_seed: [9; 32].into(), mac };
    let governance = Governance::start(
        node.await.unwrap(),
        keys,
        aa_chaos_tests::outside::outside(),
        GovernanceOptions::default(),
    );
    let workspace = WorkspaceId::from_uuid(uuid::Uuid::new_v4());
    governance.set_up_workspace(workspace, "clocks").await.unwrap();
    let (_, key) = governance.set_up_key(workspace, "owner", Grant::Owner).await.unwrap();
    let principal = governance.authenticate(&key).await.unwrap().unwrap();
    let facts: AgentFacts = serde_json::from_value(
        serde_json::json!({"id": AgentId::of_name(workspace, "a").to_string(), "name": "a"}),
    )
    .unwrap();
    let permit = principal.authorize::<RegisterAgents>().unwrap();
    let agent = governance.register(&permit, facts, "key".to_owned()).await.unwrap().id;
    let permit = principal.authorize::<ManagePolicies>().unwrap();
    let limit = "scope: global\ntools: {bash: {limit_per_hour: 5}}";
    governance.apply_policy(&permit, limit.into(), "limit".to_owned(), false).await.unwrap();

    let action: Action = serde_json::from_str(r#"{"kind":"tool_call","tool":"bash"}"#).unwrap();
    let mut told = Vec::new();
    let mut allowed = Vec::new();
    for jump in [0, -2 * HOUR, 30, -24 * HOUR, HOUR / 2, 3 * HOUR] {
        clock.0.store(jump, Ordering::Relaxed);
        let mut admitted = 0;
        for _ in 0..8 {
            let id = ActionId::from_bytes(uuid::Uuid::new_v4().into_bytes());
            let (reply, answer) = Reply::channel();
            let request = Request::new(id, action.clone(), clock.now());
            governance.check_all(&AgentKeyId { workspace, agent }, vec![Check { request, reply }]);
            let answer =
                tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap().unwrap();
            let verdict = answer.decision.verdict;
            admitted += usize::from(verdict == Verdict::Allow);
            told.push(Acknowledged { action: id, event: answer.event, verdict: Some(verdict) });
        }
        allowed.push(admitted);
    }
    // Set back, time stands still: nobody gets an hour's calls twice. Only the last jump ends the hour.
    assert_eq!(allowed, [5, 0, 0, 0, 0, 5]);
    let permit = principal.authorize::<ReadAudit>().unwrap();
    let mut export =
        governance.export(&permit, ExportFormat::JsonLines, None, "test").await.unwrap();
    let mut text = Vec::new();
    while let Some(chunk) = export.chunks.recv().await {
        text.extend_from_slice(&chunk.unwrap());
    }
    let recorded = check_export(&text, &told).unwrap();
    assert_eq!((recorded.decisions, recorded.untold), (48, 0));
}
