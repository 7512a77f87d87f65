//! A control plane as a process of its own, to be killed.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use aa_client::{ApiKey, Config, GatewayUrls, OnUnreachable};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlaneProcess {
    child: Child,
    /// What it told about itself.
    pub env: Environment,
}

/// What clients and operators need, as the data directory's files have it.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Where agents connect.
    pub gateway_url: String,
    /// Where operators connect.
    pub api_url: String,
    /// The certificate to trust.
    pub ca_file: PathBuf,
    workspace_id: String,
    agent_key: String,
    owner_key: String,
}

/// How long a start may take.
const START: Duration = Duration::from_secs(60);

impl ControlPlaneProcess {
    /// Starts `program DATA GATEWAY API` and waits until it serves.
    ///
    /// # Errors
    /// It does not start, or not in time.
    pub async fn start(
        program: &Path,
        data: &Path,
        gateway: SocketAddr,
        api: SocketAddr,
    ) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg(data)
            .arg(gateway.to_string())
            .arg(api.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
        let mut lines = BufReader::new(output).lines();
        let ready = tokio::time::timeout(START, lines.next_line());
        let ready = ready.await.map_err(|_| io::Error::other("it did not start in time"))??;
        if ready.as_deref() != Some("ready") {
            return Err(io::Error::other(format!("it said {ready:?} instead of `ready`")));
        }
        Ok(Self { env: Environment::read(data)?, child })
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn kill(mut self) -> io::Result<ExitStatus> {
        self.child.start_kill()?;
        self.child.wait().await
    }

    /// Asks it to end, as a terminal's interrupt does, and waits until it has.
    ///
    /// # Errors
    /// The system refuses, or it goes on for longer than a start may take.
    pub async fn interrupt(mut self) -> io::Result<ExitStatus> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("it has ended already"))?;
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let ended = tokio::time::timeout(START, self.child.wait()).await;
        ended.map_err(|_| io::Error::other("it did not end in time"))?
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// The system refuses.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

impl Environment {
    /// Reads `client.env` and `operator.env`.
    ///
    /// # Errors
    /// A file or a variable is missing.
    pub fn read(data: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(data.join("client.env"))?
            + &std::fs::read_to_string(data.join("operator.env"))?;
        let value = |name: &str| {
            let prefix = format!("export {name}='");
            let found =
                text.lines().find_map(|line| line.strip_prefix(&prefix)?.strip_suffix('\''));
            found.map(ToOwned::to_owned).ok_or_else(|| io::Error::other(format!("no {name}")))
        };
        Ok(Self {
            gateway_url: value("AAA_GATEWAY_URL")?,
            api_url: value("AASM_API_URL")?,
            ca_file: value("AAA_CA_FILE")?.into(),
            workspace_id: value("AAA_WORKSPACE_ID")?,
            agent_key: value("AAA_API_KEY")?,
            owner_key: value("AASM_API_KEY")?,
        })
    }

    /// A client's configuration that waits `patience` for each answer.
    ///
    /// # Errors
    /// The files hold something else than they should.
    pub fn client(&self, patience: Duration) -> io::Result<Config> {
        Ok(Config {
            workspace_id: self.workspace_id.parse().map_err(io::Error::other)?,
            api_key: ApiKey::new(&self.agent_key).map_err(io::Error::other)?,
            gateway_urls: self.gateway_url.parse::<GatewayUrls>().map_err(io::Error::other)?,
            ca_file: Some(self.ca_file.clone()),
            on_unreachable: OnUnreachable::Deny,
            request_timeout: patience,
            connect_timeout: Duration::from_secs(5),
        })
    }

    /// The workspace.
    pub fn workspace_id(&self) -> &str {
        &self.workspace_id
    }

    /// The key that registers agents.
    pub fn agent_key(&self) -> &str {
        &self.agent_key
    }

    /// The key of an owner.
    pub fn owner_key(&self) -> &str {
        &self.owner_key
    }

    /// Where a restarted process must listen for its clients to find it.
    ///
    /// # Errors
    /// A URL has no address.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let address = |url: &str| {
            url.trim_start_matches("https://").parse::<SocketAddr>().map_err(io::Error::other)
        };
        Ok((address(&self.gateway_url)?, address(&self.api_url)?))
    }
}
