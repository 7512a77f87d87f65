//! A cluster of processes: `aasm up` and `fdbserver` on machines of a network of our own.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{
    LEASE,
    fdb_servers::FdbServers,
    network::{Degraded, Host, Network},
    site::{Fault, Kind, Site},
};
use crate::process::Environment;

/// The programs that a cluster of processes takes.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    aasm: PathBuf,
    fdbserver: PathBuf,
    fdbcli: PathBuf,
}

pub(super) struct Processes {
    network: Network,
    programs: Programs,
    store: Mutex<FdbServers>,
    stores: Vec<Host>,
    members: Vec<Member>,
    _directory: tempfile::TempDir,
}

struct Member {
    name: String,
    host: Host,
    data: PathBuf,
    cluster_file: PathBuf,
    environment: Environment,
    process: Mutex<Option<Child>>,
}

/// Servers of the store.
const STORES: usize = 3;

const GATEWAY_PORT: u16 = 7_443;
const API_PORT: u16 = 7_444;
const RELAY_PORT: u16 = 7_445;

/// How long `aasm` may look for a store that is not there.
const PROBE: Duration = Duration::from_secs(10);

/// How long a node may take to start, attempts included.
const START: Duration = Duration::from_secs(90);

/// How long a node may take to end in order.
const STOP: Duration = Duration::from_secs(60);

const KINDS: &[Kind] = &[
    Kind::Kill,
    Kind::Kill,
    Kind::Stop,
    Kind::Pause,
    Kind::Partition,
    Kind::OneWay,
    Kind::Isolation,
    Kind::LossyLinks,
    Kind::SlowLinks,
    Kind::NoStore,
    Kind::KillStore,
    Kind::Moves,
    Kind::Drain,
];

// === impl Programs ===

impl Programs {
    /// Looks for the programs in the environment (`AA_AASM`, `AA_FDBSERVER`, `AA_FDBCLI`), beside this one and on the
    /// path.
    ///
    /// # Errors
    /// Which are missing, and how to name them.
    pub(super) fn find() -> Result<Self, Vec<String>> {
        let beside = env::current_exe().ok();
        let beside = beside.iter().flat_map(|program| program.ancestors().skip(1).take(2));
        let aasm = found("AA_AASM", "aasm", beside.map(Path::to_path_buf).collect());
        let fdbserver = found("AA_FDBSERVER", "fdbserver", Vec::new());
        let beside = fdbserver.as_ref().ok().and_then(|server| server.parent());
        let beside = beside.map(Path::to_path_buf).into_iter().collect();
        let fdbcli = found("AA_FDBCLI", "fdbcli", beside);
        match (aasm, fdbserver, fdbcli) {
            (Ok(aasm), Ok(fdbserver), Ok(fdbcli)) => {
                let programs = Self { aasm, fdbserver, fdbcli };
                programs.check().map_err(|problem| vec![problem])?;
                Ok(programs)
            }
            (aasm, fdbserver, fdbcli) => {
                Err([aasm.err(), fdbserver.err(), fdbcli.err()].into_iter().flatten().collect())
            }
        }
    }

    /// Whether `aasm` was built for clusters: one that was has nothing to say of how it was built.
    fn check(&self) -> Result<(), String> {
        let said = |error: io::Error| format!("{} does not run: {error}", self.aasm.display());
        let directory = tempfile::tempdir().map_err(said)?;
        let nowhere = directory.path().join("nowhere.cluster");
        let mut probe = std::process::Command::new(&self.aasm)
            .args(["up", "--cluster", "probe", "--relay", "127.0.0.1:0"])
            .args(["--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0"])
            .args(["--store", &format!("fdb://{}", nowhere.display())])
            .arg("--data")
            .arg(directory.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(said)?;
        let begun = Instant::now();
        while probe.try_wait().map_err(said)?.is_none() && begun.elapsed() < PROBE {
            std::thread::sleep(Duration::from_millis(20));
        }
        // It may have ended by itself.
        let _ = probe.kill();
        let output = probe.wait_with_output().map_err(said)?;
        if String::from_utf8_lossy(&output.stderr).contains("--features foundationdb") {
            return Err(format!(
                "{} was built without FoundationDB; build it with `--features foundationdb`, or name another with AA_AASM",
                self.aasm.display()
            ));
        }
        Ok(())
    }
}

/// The program that the environment names, else one in `beside`, else one on the path.
fn found(variable: &str, name: &str, beside: Vec<PathBuf>) -> Result<PathBuf, String> {
    if let Some(named) = env::var_os(variable) {
        let named = PathBuf::from(named);
        let missing = || format!("{variable} names {}, which is no file", named.display());
        return if named.is_file() { Ok(named) } else { Err(missing()) };
    }
    let path: OsString = env::var_os("PATH").unwrap_or_default();
    let directories = beside.into_iter().chain(env::split_paths(&path));
    let found = directories.map(|directory| directory.join(name)).find(|program| program.is_file());
    found.ok_or_else(|| format!("there is no {name} on the path, and {variable} names none"))
}

// === impl Processes ===

impl Processes {
    /// A cluster of so many nodes that all serve, in this process's own network namespace.
    ///
    /// # Errors
    /// What does not start, and why.
    pub(super) async fn begin(programs: Programs, nodes: usize) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let stores = (0..STORES).map(|number| format!("store-{number}"));
        let names: Vec<_> = stores.chain((0..nodes).map(|node| format!("node-{node}"))).collect();
        let network = Network::build(&names).map_err(|error| error.to_string())?;
        let hosts: Vec<_> = network.hosts().collect();
        let (stores, machines) = hosts.split_at(STORES.min(hosts.len()));
        let store = FdbServers::start(
            &programs.fdbserver,
            &programs.fdbcli,
            &network,
            stores,
            directory.path(),
        )?;
        let mut members = Vec::new();
        for (node, host) in machines.iter().enumerate() {
            let name = format!("node-{node}");
            let data = directory.path().join(&name);
            let key = directory.path().join("master-key.json");
            let said = |error: io::Error| format!("{name}: {error}");
            std::fs::DirBuilder::new().mode(0o700).create(&data).map_err(said)?;
            let config = format!("[master_key]\nprovider = \"file\"\npath = {key:?}\n");
            std::fs::write(data.join("vault.toml"), config).map_err(said)?;
            let cluster_file = store.cluster_file(&name).map_err(said)?;
            let launch = Launch {
                network: &network,
                program: &programs.aasm,
                name: &name,
                host: *host,
                data: &data,
                cluster_file: &cluster_file,
            };
            let process = launch.until_it_serves().await?;
            let environment = Environment::read(&data).map_err(said)?;
            let process = Mutex::new(Some(process));
            members.push(Member { name, host: *host, data, cluster_file, environment, process });
        }
        let (stores, store) = (stores.to_vec(), Mutex::new(store));
        Ok(Self { network, programs, store, stores, members, _directory: directory })
    }

    fn set_way(&self, from: Host, to: Host, is_open: bool) -> Result<(), String> {
        self.network.set_way(from, to, is_open).map_err(|error| error.to_string())
    }

    fn set_both_ways(&self, one: Host, other: Host, is_open: bool) -> Result<(), String> {
        self.set_way(one, other, is_open)?;
        self.set_way(other, one, is_open)
    }

    /// Does what a fault does to links, or ends it.
    fn set_fault(&self, fault: Fault, lasts: bool) -> Result<(), String> {
        let (host, other) = (self.members[fault.node].host, self.members[fault.other].host);
        let others = self.members.iter().map(|member| member.host).filter(|known| *known != host);
        match fault.kind {
            Kind::Partition => self.set_both_ways(host, other, !lasts),
            Kind::OneWay => self.set_way(host, other, !lasts),
            Kind::Isolation => {
                let mut others = others;
                others.try_for_each(|other| self.set_both_ways(host, other, !lasts))
            }
            Kind::NoStore => {
                let mut stores = self.stores.iter();
                stores.try_for_each(|store| self.set_both_ways(host, *store, !lasts))
            }
            Kind::SlowLinks | Kind::LossyLinks => {
                let is_lossy = fault.kind == Kind::LossyLinks;
                let how = if is_lossy { Degraded::Lossy } else { Degraded::Late };
                let done = if lasts {
                    self.network.degrade(host, how).map(drop)
                } else {
                    self.network.restore(host)
                };
                done.map_err(|error| error.to_string())
            }
            _ => Ok(()),
        }
    }

    fn signal(&self, node: usize, signal: Signal) -> Result<(), String> {
        let process = self.members[node].process.lock();
        let pid = process.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { return Ok(()) };
        kill_process(pid, signal).map_err(|error| error.to_string())
    }

    async fn launch(&self, node: usize) -> Result<(), String> {
        let member = &self.members[node];
        let launch = Launch {
            network: &self.network,
            program: &self.programs.aasm,
            name: &member.name,
            host: member.host,
            data: &member.data,
            cluster_file: &member.cluster_file,
        };
        let process = launch.until_it_serves().await?;
        *member.process.lock() = Some(process);
        Ok(())
    }

    /// One server of the store is killed at a time: the others have every record.
    fn store_of(&self, fault: Fault) -> usize {
        fault.node % self.store.lock().count().max(1)
    }
}

#[async_trait]
impl Site for Processes {
    fn nodes(&self) -> usize {
        self.members.len()
    }

    fn name(&self, node: usize) -> String {
        self.members[node].name.clone()
    }

    fn environment(&self, node: usize) -> Environment {
        self.members[node].environment.clone()
    }

    fn kinds(&self) -> &'static [Kind] {
        KINDS
    }

    fn lacks(&self) -> Option<String> {
        self.network.lacks().map(ToOwned::to_owned)
    }

    async fn strike(&self, fault: Fault) -> Result<(), String> {
        match fault.kind {
            Kind::Kill | Kind::Stop => {
                let process = self.members[fault.node].process.lock().take();
                let Some(mut process) = process else { return Ok(()) };
                let pid = process.id().and_then(|pid| i32::try_from(pid).ok());
                if let Some(pid) = pid.and_then(Pid::from_raw) {
                    let signal = if fault.kind == Kind::Kill { Signal::KILL } else { Signal::TERM };
                    kill_process(pid, signal).map_err(|error| error.to_string())?;
                }
                let name = &self.members[fault.node].name;
                let ended = tokio::time::timeout(STOP, process.wait()).await;
                let ended = ended.map_err(|_| format!("{name} does not end within {STOP:?}"))?;
                let status = ended.map_err(|error| error.to_string())?;
                if fault.kind == Kind::Stop && !status.success() {
                    return Err(format!("{name} was asked to end and did so with {status}"));
                }
                Ok(())
            }
            Kind::Pause => self.signal(fault.node, Signal::STOP),
            Kind::KillStore => {
                let number = self.store_of(fault);
                self.store.lock().kill(number)
            }
            _ => self.set_fault(fault, true),
        }
    }

    async fn mend(&self, fault: Fault) -> Result<(), String> {
        match fault.kind {
            Kind::Kill | Kind::Stop => self.launch(fault.node).await,
            Kind::Pause => self.signal(fault.node, Signal::CONT),
            Kind::KillStore => {
                let number = self.store_of(fault);
                self.store.lock().launch(&self.network, number)
            }
            _ => self.set_fault(fault, false),
        }
    }

    fn violation(&self) -> Option<String> {
        for member in &self.members {
            if let Some(Ok(Some(status))) = member.process.lock().as_mut().map(Child::try_wait) {
                let log = std::fs::read_to_string(log_of(&member.data)).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(5).collect();
                let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
                return Some(format!("{} has ended by itself, {status}: {last}", member.name));
            }
        }
        self.store.lock().ended()
    }

    async fn violation_at_rest(&self) -> Option<String> {
        self.violation()
    }

    async fn close(&self) {
        for member in &self.members {
            // Dropped, it is killed.
            *member.process.lock() = None;
        }
    }
}

/// How a node is started.
struct Launch<'s> {
    network: &'s Network,
    program: &'s Path,
    name: &'s str,
    host: Host,
    data: &'s Path,
    cluster_file: &'s Path,
}

// === impl Launch ===

impl Launch<'_> {
    /// Starts the node, again and again until it serves: one that was killed is believed to be at work until its lease
    /// has ended.
    async fn until_it_serves(&self) -> Result<Child, String> {
        let begun = Instant::now();
        loop {
            match self.once().await {
                Ok(process) => return Ok(process),
                Err(problem) if begun.elapsed() > START => {
                    return Err(format!(
                        "{} does not start within {START:?}: {problem}",
                        self.name
                    ));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    async fn once(&self) -> Result<Child, String> {
        let said = |error: io::Error| error.to_string();
        let at = |port| SocketAddr::from((self.network.address(self.host), port)).to_string();
        let log =
            File::options().create(true).append(true).open(log_of(self.data)).map_err(said)?;
        let mut command = self.network.command(self.host, self.program);
        command
            .args(["up", "--cluster", "storm", "--node", self.name, "--zone", self.name])
            .args(["--gateway", &at(GATEWAY_PORT), "--api", &at(API_PORT)])
            .args(["--relay", &at(RELAY_PORT), "--lease", &format!("{}ms", LEASE.as_millis())])
            .args(["--store", &format!("fdb://{}?prefix=storm/", self.cluster_file.display())])
            .args(["--format", "json", "--workspace", "storm"])
            .arg("--data")
            .arg(self.data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut process = Command::from(command).kill_on_drop(true).spawn().map_err(said)?;
        let output = process.stdout.take().ok_or("it has no output")?;
        let mut lines = BufReader::new(output).lines();
        let ready = tokio::time::timeout(START, lines.next_line()).await;
        match ready.map_err(|_| "it is not ready".to_owned())?.map_err(said)? {
            Some(line) if line.starts_with('{') => Ok(process),
            Some(line) => Err(format!("it said {line:?}")),
            None => {
                let log = std::fs::read_to_string(log_of(self.data)).unwrap_or_default();
                Err(log.lines().last().unwrap_or("it ended").to_owned())
            }
        }
    }
}

fn log_of(data: &Path) -> PathBuf {
    data.with_extension("log")
}
