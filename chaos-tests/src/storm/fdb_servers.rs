//! A FoundationDB cluster of several machines, one server each.

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::network::{Host, Network};

/// The servers. They end with this.
pub(super) struct FdbServers {
    server: PathBuf,
    directory: PathBuf,
    coordinators: String,
    machines: Vec<(Host, Option<Child>)>,
}

const PORT: u16 = 4_500;

/// How long the cluster may take to be ready.
const READY: Duration = Duration::from_secs(120);

// === impl FdbServers ===

impl FdbServers {
    /// Starts a server on each machine, all of them coordinators, every record on two; in an empty directory.
    ///
    /// # Errors
    /// A server does not start, or the cluster is not ready in time.
    pub(super) fn start(
        server: &Path,
        cli: &Path,
        network: &Network,
        hosts: &[Host],
        directory: &Path,
    ) -> Result<Self, String> {
        let address = |host: &Host| socket(network.address(*host));
        let coordinators = hosts.iter().map(address).collect::<Vec<_>>().join(",");
        let mut servers = Self {
            server: server.to_owned(),
            directory: directory.to_owned(),
            coordinators,
            machines: hosts.iter().map(|host| (*host, None)).collect(),
        };
        for number in 0..hosts.len() {
            servers.launch(network, number)?;
        }
        servers.configure(cli)?;
        Ok(servers)
    }

    /// How many servers there are.
    pub(super) fn count(&self) -> usize {
        self.machines.len()
    }

    /// Starts a server, or starts it again on its data.
    pub(super) fn launch(&mut self, network: &Network, number: usize) -> Result<(), String> {
        let said = |error: io::Error| format!("FoundationDB server {number}: {error}");
        let directory = self.directory.join(format!("fdb-{number}"));
        std::fs::create_dir_all(&directory).map_err(said)?;
        let cluster_file = self.cluster_file(&format!("fdb-{number}")).map_err(said)?;
        let log = File::options().create(true).append(true).open(directory.join("output.log"));
        let log = log.map_err(said)?;
        let Some((host, process)) = self.machines.get_mut(number) else { return Ok(()) };
        let address = socket(network.address(*host));
        let child = network
            .command(*host, &self.server)
            .args(["--public-address", &address, "--listen-address", "public"])
            .args(["--memory", "2GiB", "--cache-memory", "128MiB"])
            // A machine each, as far as the placing of copies goes.
            .args(["--machine-id", &format!("{:016x}", number + 1)])
            .arg("--cluster-file")
            .arg(&cluster_file)
            .arg("--datadir")
            .arg(directory.join("data"))
            .arg("--logdir")
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(said)?)
            .stderr(log)
            .spawn()
            .map_err(said)?;
        *process = Some(child);
        Ok(())
    }

    /// `kill -9` of a server.
    pub(super) fn kill(&mut self, number: usize) -> Result<(), String> {
        let killed = self.machines.get_mut(number).and_then(|(_, process)| process.take());
        let Some(mut process) = killed else { return Ok(()) };
        process.kill().and_then(|()| process.wait()).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// A server that has ended by itself, and what it said.
    pub(super) fn ended(&mut self) -> Option<String> {
        for (number, (_, process)) in self.machines.iter_mut().enumerate() {
            if let Some(Ok(Some(status))) = process.as_mut().map(Child::try_wait) {
                return Some(format!("FoundationDB server {number} has ended by itself: {status}"));
            }
        }
        None
    }

    /// A cluster file of somebody's own, for clients and servers rewrite theirs.
    pub(super) fn cluster_file(&self, whose: &str) -> io::Result<PathBuf> {
        let file = self.directory.join(format!("{whose}.cluster"));
        if !file.exists() {
            std::fs::write(&file, format!("storm:storm@{}", self.coordinators))?;
        }
        Ok(file)
    }

    /// Makes the servers a database.
    fn configure(&mut self, cli: &Path) -> Result<(), String> {
        let file = self.cluster_file("cli").map_err(|error| error.to_string())?;
        let exec = |command: &str| {
            let output = Command::new(cli)
                .args(["--timeout", "10", "--exec", command])
                .arg("-C")
                .arg(&file)
                .output();
            let output = output.map_err(|error| format!("{}: {error}", cli.display()))?;
            Ok::<_, String>(
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            )
        };
        let begun = Instant::now();
        let mut is_made = false;
        loop {
            // Of an attempt that timed out, the next may find the result.
            let said =
                if is_made { exec("status minimal")? } else { exec("configure new double ssd-2")? };
            is_made |= said.contains("Database created") || said.contains("already exists");
            if said.contains("is available") {
                return Ok(());
            }
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            if begun.elapsed() > READY {
                return Err(format!("FoundationDB is not ready within {READY:?}: {said}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for FdbServers {
    fn drop(&mut self) {
        for number in 0..self.machines.len() {
            // It may have ended by itself.
            let _ = self.kill(number);
        }
    }
}

fn socket(address: Ipv4Addr) -> String {
    format!("{address}:{PORT}")
}
