//! A FoundationDB server for tests: one process on loopback that keeps its data in memory.

use std::{
    env,
    ffi::OsString,
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::FdbUrl;

/// A cluster of one process, which ends with this.
#[derive(Debug)]
pub struct FdbServer {
    process: Child,
    directory: TempDir,
}

/// The time a cluster takes to be ready on a busy machine, at most.
const PATIENCE: Duration = Duration::from_secs(60);
const SERVER_VARIABLE: &str = "AA_FDBSERVER";
const CLI_VARIABLE: &str = "AA_FDBCLI";

// === impl FdbServer ===

impl FdbServer {
    /// Starts a server, or says why none is to be had: neither does the environment's `AA_FDBSERVER` name
    /// one, nor is an `fdbserver` on the path. The `fdbcli` that sets it up is `AA_FDBCLI` or stands beside it.
    ///
    /// # Errors
    /// One was found and does not start.
    pub fn start() -> io::Result<Result<Self, String>> {
        let Some(server) = find(SERVER_VARIABLE, "fdbserver", None) else {
            let why = "no fdbserver is on the path, and AA_FDBSERVER names none";
            return Ok(Err(why.to_owned()));
        };
        let Some(cli) = find(CLI_VARIABLE, "fdbcli", server.parent()) else {
            let why = format!("no fdbcli is beside {}, and AA_FDBCLI names none", server.display());
            return Ok(Err(why));
        };
        let directory = tempfile::tempdir()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let cluster_file = directory.path().join("fdb.cluster");
        std::fs::write(&cluster_file, format!("test:test@{address}"))?;
        let log = std::fs::File::create(directory.path().join("server.log"))?;
        let process = Command::new(server)
            .args(["--public-address", &address, "--listen-address", "public"])
            .args(["--memory", "2GiB", "--storage-memory", "512MiB", "--cache-memory", "256MiB"])
            .arg("--cluster-file")
            .arg(&cluster_file)
            .arg("--datadir")
            .arg(directory.path().join("data"))
            .arg("--logdir")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let started = Self { process, directory };
        started.configure(&cli)?;
        Ok(Ok(started))
    }

    /// Its cluster, under a prefix.
    pub fn url(&self, prefix: &str) -> FdbUrl {
        let mut url = FdbUrl::new(self.cluster_file());
        url.prefix = prefix.as_bytes().to_vec().into();
        url
    }

    /// Its cluster file.
    pub fn cluster_file(&self) -> PathBuf {
        self.directory.path().join("fdb.cluster")
    }

    /// Lets the process stand still, as if it were unreachable.
    ///
    /// # Errors
    /// The system's.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(rustix::process::Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The system's.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(rustix::process::Signal::CONT)
    }

    fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        let process = rustix::process::Pid::from_child(&self.process);
        Ok(rustix::process::kill_process(process, signal)?)
    }

    /// Makes the process a database.
    fn configure(&self, cli: &Path) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            let output = Command::new(cli)
                .args(["--timeout", "5", "--exec", "configure new single memory"])
                .arg("-C")
                .arg(self.cluster_file())
                .output()?;
            let said =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            // Of an attempt that timed out, the next may find the result.
            if said.contains("Database created") || said.contains("already exists") {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("fdbcli does not set up the server: {said}")));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for FdbServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program that the environment names, else one in `beside`, else one on the path.
fn find(variable: &str, name: &str, beside: Option<&Path>) -> Option<PathBuf> {
    if let Some(named) = env::var_os(variable) {
        return Some(named.into());
    }
    let path: OsString = env::var_os("PATH").unwrap_or_default();
    let directories = beside.map(Path::to_path_buf).into_iter().chain(env::split_paths(&path));
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}
