//! Starts everything of a control plane: store, actors, links to other nodes, gateway, API; and stops it in order.

mod api;
mod files;
mod grpc;
mod join;
mod kept;
mod renewal;
mod setup;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aa_governance::{Governance, GovernanceError, GovernanceOptions, Outside};
use aa_notify::{AllowedDestination, Guard, Roots, SendLimits, Sender, SenderError, SystemLookup};
use aa_relay::TlsError;
use aa_runtime::{Clock, Entropy, Node, NodeError, NodeOptions, SystemClock, SystemEntropy};
use aa_store::{
    OpenError, OpenedStore, STORE_FILE, Store, StoreError, StoreUrl,
    copy::{IncompleteCopy, check_complete},
};
use aa_vault::MasterKey;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub use self::{
    files::FilesError,
    join::{JoinOptionError, JoinOptions, LEASES, SKEWS},
};
use self::{
    join::{Joined, Joining},
    kept::KeptSecrets,
    renewal::Renewal,
    setup::{Pending, Setup},
};
use crate::{
    admission::Limits,
    cluster_secrets::{ClusterSecretError, ClusterSecrets},
    gateway::Gateway,
    pki::{PkiError, ServerCertificate},
    receiving::ReceiveLayer,
    rest,
    secrets::{SECRETS, SecretError, make_private_directory},
    throttle::{FailureThrottle, ThrottleLayer},
    tls::{ConnectionLimits, TlsListener},
    vault_key::{CONFIG, VaultConfig, VaultKeyError},
};

/// What to start, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory; it is made on first start.
    pub data: PathBuf,
    /// Where the store is; in the data directory if not said.
    pub store: Option<StoreUrl>,
    /// Where the gateway listens; port 0 takes a free one.
    pub gateway: SocketAddr,
    /// Where the REST API listens; port 0 takes a free one.
    pub api: SocketAddr,
    /// The name of the workspace made on first start.
    pub workspace_name: String,
    /// What alerts may be sent to besides public addresses over TLS.
    pub allowed_destinations: Vec<AllowedDestination>,
    /// The cluster to be a node of. Without, the control plane has the store for itself.
    pub cluster: Option<JoinOptions>,
}

/// What was started.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Whether the data directory was new.
    pub first_run: bool,
    /// The workspace.
    pub workspace_id: String,
    /// Its name.
    pub workspace_name: String,
    /// Where agents connect.
    pub gateway_url: String,
    /// Where operators connect.
    pub api_url: String,
    /// The data directory.
    pub data: PathBuf,
    /// The certificate that clients trust.
    pub ca_file: PathBuf,
    /// What a client's shell sources.
    pub client_env: PathBuf,
    /// What an operator's shell sources.
    pub operator_env: PathBuf,
    /// The cluster it is a node of.
    pub membership: Option<Membership>,
    /// Why `client_env` and `operator_env` are not there yet: a node that this one does not reach makes their keys. They
    /// are written as soon as it does.
    pub pending: Option<String>,
}

/// Which node of which cluster a control plane is.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The cluster's name.
    pub cluster: String,
    /// The node's.
    pub node: String,
    /// Where other nodes reach it.
    pub relay: String,
}

/// A running control plane: of one machine, or a node of a cluster.
pub struct ControlPlane {
    summary: Summary,
    store: Arc<dyn Store>,
    node: Node,
    joined: Option<Joined>,
    drain: watch::Sender<bool>,
    gateway: JoinHandle<Result<(), tonic::transport::Error>>,
    api: JoinHandle<io::Result<()>>,
    renewal: JoinHandle<()>,
    setup: Option<JoinHandle<()>>,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken or not ours to take.
    #[error("the {what} cannot listen on {address}: {error}; choose another with --{what}")]
    Listen {
        /// `gateway`, `api` or `relay`.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The directory holds something else.
    #[error(
        "{0} holds other files and no data of Agent Assembly; choose an empty or new directory"
    )]
    Foreign(PathBuf),
    /// The store cannot be opened: in use, damaged, of another version.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store holds a copy that was not completed.
    #[error(transparent)]
    IncompleteCopy(#[from] IncompleteCopy),
    /// Every process on a shared store has to be a node of its cluster.
    #[error(
        "{0} is a store that several processes can open, so they have to form a cluster; name it with --cluster NAME"
    )]
    Shared(Box<StoreUrl>),
    /// A cluster needs a shared store.
    #[error(
        "a cluster's nodes share one store, and {0} admits one process only; use a FoundationDB cluster, --store \
         fdb:///etc/foundationdb/fdb.cluster, or leave --cluster out"
    )]
    Embedded(Box<StoreUrl>),
    /// How it should join the cluster makes no sense.
    #[error(transparent)]
    Join(#[from] JoinOptionError),
    /// What the cluster's nodes share cannot be read or made.
    #[error(transparent)]
    ClusterSecret(#[from] ClusterSecretError),
    /// The node's certificate cannot be used.
    #[error(transparent)]
    NodeTls(#[from] TlsError),
    /// The store does not answer.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
    /// The store's shards cannot be taken.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A secret cannot be read or made.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The master key of the vault cannot be used.
    #[error(transparent)]
    VaultKey(#[from] VaultKeyError),
    /// Nobody could be told anything.
    #[error("alerts cannot be sent: {0}")]
    Sender(#[from] SenderError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The workspace cannot be set up.
    #[error("the workspace could not be set up: {0}")]
    Workspace(#[from] GovernanceError),
    /// The files for clients cannot be written.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A task ended early.
    #[error("starting was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
    /// A service could not be put together.
    #[error("the gateway could not be put together: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Why serving ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The gateway ended.
    #[error("the gateway ended: {0}")]
    Gateway(String),
    /// The store takes nothing any more; what was acknowledged is in it.
    #[error(transparent)]
    Store(StoreError),
    /// The API ended.
    #[error("the API ended: {0}")]
    Api(String),
    /// Another process took the node's name.
    #[error(
        "another process joined the cluster as `{0}`, so this one serves no more; give every node a name of its own"
    )]
    Expelled(String),
}

/// How often the store's health is looked at.
const HEALTH_EVERY: Duration = Duration::from_millis(500);

/// How long a shutdown waits for connections to end before it cuts them.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Open connections of the API. Operators are few.
const API_CONNECTIONS: usize = 1_024;

/// Pings on idle connections, so that a peer that vanished is noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);

// === impl ControlPlane ===

impl ControlPlane {
    /// Opens the data directory, making it on first start, and begins to serve.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        Self::start_within(options, Limits::default()).await
    }

    /// The same with limits of the caller's own.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start_within(options: Options, limits: Limits) -> Result<Self, StartError> {
        let here = || StoreUrl::Redb(options.data.clone());
        let url = options.store.clone().unwrap_or_else(here);
        match (&url, &options.cluster) {
            (StoreUrl::Fdb(_), None) => return Err(StartError::Shared(Box::new(url))),
            (StoreUrl::Redb(_), Some(_)) => return Err(StartError::Embedded(Box::new(url))),
            (StoreUrl::Redb(_), None) | (StoreUrl::Fdb(_), Some(_)) => {}
        }
        open_data_directory(&options.data)?;
        // The store first: it tells whether another instance is at work on the same data.
        let store = OpenedStore::open(&url).await?;
        Self::start_on(store.shared(), options, limits).await
    }

    /// The same on a store that is open already, which `options.store` need not name.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start_on(
        store: Arc<dyn Store>,
        options: Options,
        limits: Limits,
    ) -> Result<Self, StartError> {
        // Another provider that a library installed first would do as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        raise_file_limit();
        open_data_directory(&options.data)?;
        make_private_directory(&options.data.join(SECRETS))?;
        check_complete(&*store).await.map_err(NodeError::from)??;
        let gateway_listener = listen("gateway", options.gateway).await?;
        let api_listener = listen("api", options.api).await?;
        let joining = match options.cluster {
            Some(join) => Some(Joining::listen(join).await?),
            None => None,
        };
        let bound = |listener: &TcpListener, fallback| listener.local_addr().unwrap_or(fallback);
        let gateway_address = bound(&gateway_listener, options.gateway);
        let api_address = bound(&api_listener, options.api);
        let host = joining.as_ref().map(|joining| joining.host().to_owned());

        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let master = open_master_key(&*store, &options.data, &clock).await?;
        // A cluster's secrets stay where they are when its store is opened by one process, copied back for example.
        let kept = if joining.is_some() || ClusterSecrets::exist(&*store).await? {
            let (store, master) = (Arc::clone(&store), Arc::clone(&master));
            let (clock, entropy) = (Arc::clone(&clock), Arc::clone(&entropy));
            let secrets = ClusterSecrets::new(store, master, clock, entropy);
            KeptSecrets::Store { secrets, data: options.data.clone() }
        } else {
            let (clock, entropy) = (Arc::clone(&clock), Arc::clone(&entropy));
            KeptSecrets::Files { data: options.data.clone(), clock, entropy }
        };
        let (authority, secrets) = kept.open().await?;
        let addresses = vec![gateway_address.ip(), api_address.ip()];
        let certificate = authority.issue(&addresses, host.as_deref())?;
        let certificate = Arc::new(ServerCertificate::new(certificate));

        let membership = joining.as_ref().map(Membership::of);
        let (node, joined) = match joining {
            Some(joining) => {
                let joined = joining.join(Arc::clone(&store), clock, entropy, &authority).await?;
                (joined.0, Some(joined.1))
            }
            None => {
                let options = NodeOptions::embedded();
                (Node::start(Arc::clone(&store), clock, entropy, options).await?, None)
            }
        };
        let sender = Arc::new(alert_sender(Guard::new(options.allowed_destinations))?);
        let outside = Outside { master_key: master, sender };
        let governance =
            Governance::start(node.clone(), secrets.audit, outside, GovernanceOptions::default());
        let (home, first_run) = governance.home_workspace().await?;
        let known = governance.workspace_record(home).await?;
        let mut summary = Summary {
            first_run,
            workspace_id: home.to_string(),
            workspace_name: known.map_or(options.workspace_name, |record| record.name),
            gateway_url: url(gateway_address, host.as_deref()),
            api_url: url(api_address, host.as_deref()),
            ca_file: authority.certificate_file().to_owned(),
            client_env: options.data.join("client.env"),
            operator_env: options.data.join("operator.env"),
            data: options.data,
            membership,
            pending: None,
        };

        let (drain, draining) = watch::channel(false);
        let protocols: (&[&str], &[&str]) = (&["h2"], &["h2", "http/1.1"]);
        let listen_error = |what, address| move |error| StartError::Listen { what, address, error };
        let gateway_tls = TlsListener::bounded(
            gateway_listener,
            certificate.clone(),
            protocols.0,
            limits.connections,
        )
        .map_err(listen_error("gateway", gateway_address))?;
        let few = ConnectionLimits { total: API_CONNECTIONS, ..limits.connections };
        let few = ConnectionLimits { per_network: few.per_network.min(few.total / 2), ..few };
        let api_tls = TlsListener::bounded(api_listener, certificate.clone(), protocols.1, few)
            .map_err(listen_error("api", api_address))?;
        let clock = node.clock();
        let receiving =
            ReceiveLayer::new(limits.receiving, secrets.token.clone(), Arc::clone(&clock));
        let throttle = Arc::new(FailureThrottle::new(limits.failures, clock));
        let throttling =
            ThrottleLayer::new(Arc::clone(&throttle), secrets.token.clone(), governance.clone());
        let gateway = Gateway::new(governance.clone(), secrets.token, limits, draining.clone());
        let layers = (throttling, receiving);
        let gateway =
            grpc::serve_gateway(gateway, layers, gateway_tls, node.clone(), draining.clone())
                .await?;
        let links = joined.as_ref().map(|joined| Arc::clone(&joined.links));
        let api = rest::Api { governance: governance.clone(), throttle, links };
        let api = api::serve_api(api, api_tls, limits.headers, draining);
        let renewal = Renewal {
            kept,
            authority,
            certificate,
            addresses,
            host,
            node: joined.as_ref().map(Joined::certificate),
            governance: governance.clone(),
        };
        let renewal = tokio::spawn(renewal.run());
        // Last: whoever waits for these files finds everything running.
        let (pending, governance) = (Pending::default(), governance.clone());
        let setup = Setup { governance, home, summary: summary.clone() }.begin(&pending).await?;
        summary.pending = pending.why();
        Ok(Self { summary, store, node, joined, drain, gateway, api, renewal, setup })
    }

    /// What was started.
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Serves until `shutdown`, then answers what is in flight, hands shards over to other nodes where there are any,
    /// commits what is decided and closes the store. Bounded: connections that do not end within ten seconds are cut.
    ///
    /// # Errors
    /// The store stopped after a failure to write, a listener ended by itself, or another process took the node's name.
    pub async fn serve_until(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let Self { store, node, joined, drain, mut gateway, mut api, renewal, setup, .. } = self;
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            stopped = store_stops(&*store) => Err(ServeError::Store(stopped)),
            () = node.expelled() => Err(ServeError::Expelled(node.name().to_owned())),
            ended = &mut gateway => Err(ServeError::Gateway(format!("{ended:?}"))),
            ended = &mut api => Err(ServeError::Api(format!("{ended:?}"))),
        };
        drain.send_replace(true);
        renewal.abort();
        setup.inspect(JoinHandle::abort);
        let (stop_gateway, stop_api) = (gateway.abort_handle(), api.abort_handle());
        let both = async {
            if !gateway.is_finished() {
                let _ = gateway.await;
            }
            if !api.is_finished() {
                let _ = api.await;
            }
        };
        if tokio::time::timeout(SHUTDOWN, both).await.is_err() {
            tracing::warn!("connections did not end in time and are cut");
            stop_gateway.abort();
            stop_api.abort();
        }
        node.stop().await;
        if let Some(joined) = joined {
            joined.stop().await;
        }
        ended
    }
}

/// What tells people. A machine that trusts no certificate at all decides and records like any other.
fn alert_sender(guard: Guard) -> Result<Sender, SenderError> {
    let (lookup, limits) = (Arc::new(SystemLookup), SendLimits::default());
    match Sender::new(guard.clone(), Arc::clone(&lookup) as _, &Roots::System, limits) {
        Err(SenderError::Roots(why)) => {
            tracing::warn!(why, "alerts over TLS will fail: install the CA certificates");
            Sender::new(guard, lookup, &Roots::Only(Vec::new()), limits)
        }
        made => made,
    }
}

/// Completes when the store has stopped. A process that can record nothing decides nothing, so it ends
/// and leaves starting again to whoever looks after it.
async fn store_stops(store: &dyn Store) -> StoreError {
    loop {
        if let Err(stopped) = store.health() {
            return stopped;
        }
        tokio::time::sleep(HEALTH_EVERY).await;
    }
}

/// Makes the data directory, or makes sure that an existing one is ours or empty: a mistyped path must
/// not get a database and keys among somebody's files.
fn open_data_directory(data: &Path) -> Result<(), StartError> {
    let mut present = match std::fs::read_dir(data) {
        Ok(present) => present,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(make_private_directory(data)?);
        }
        Err(error) => {
            return Err(SecretError::Io { path: data.to_owned(), what: "read", error }.into());
        }
    };
    let is_ours = [STORE_FILE, SECRETS, CONFIG].iter().any(|ours| data.join(ours).exists());
    if present.next().is_some() && !is_ours {
        return Err(StartError::Foreign(data.to_owned()));
    }
    Ok(())
}

/// Lifts the soft limit of open files to the hard one: a connection is a file, and the usual soft limit of
/// 1,024 is far below what the gateway admits.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "the limit of open files stays; it bounds connections");
    }
}

/// The key that the secrets of all workspaces, and those that a cluster's nodes share, are kept under.
async fn open_master_key(
    store: &dyn Store,
    data: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn MasterKey>, StartError> {
    let is_in_use = Governance::has_secrets(store).await? || ClusterSecrets::exist(store).await?;
    Ok(VaultConfig::read(data)?.open(data, is_in_use, clock).await?)
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| StartError::Listen { what, address, error })
}

/// A URL that the certificate covers: for a listener on all addresses at the host that others use, or else loopback.
fn url(address: SocketAddr, host: Option<&str>) -> String {
    let port = address.port();
    match (address, host) {
        (address, _) if !address.ip().is_unspecified() => format!("https://{address}"),
        (_, Some(host)) if host.contains(':') => format!("https://[{host}]:{port}"),
        (_, Some(host)) => format!("https://{host}:{port}"),
        (SocketAddr::V4(_), None) => format!("https://127.0.0.1:{port}"),
        (SocketAddr::V6(_), None) => format!("https://[::1]:{port}"),
    }
}

// === impl Membership ===

impl Membership {
    fn of(joining: &Joining) -> Self {
        let JoinOptions { cluster, node, .. } = joining.options();
        let relay = joining.address().to_owned();
        Self { cluster: cluster.clone(), node: node.clone(), relay }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(data: &Path, store: Option<&str>, is_node: bool) -> Options {
        let any = "127.0.0.1:0".parse().unwrap();
        let cluster = is_node.then(|| JoinOptions {
            cluster: "prod".to_owned(),
            node: "a".to_owned(),
            zone: "here".to_owned(),
            relay: any,
            advertise: None,
            lease: LEASES[0],
            max_clock_skew: SKEWS[0],
        });
        Options {
            data: data.to_owned(),
            store: store.map(|store| store.parse().unwrap()),
            gateway: any,
            api: any,
            workspace_name: "test".to_owned(),
            allowed_destinations: Vec::new(),
            cluster,
        }
    }

    #[tokio::test]
    async fn a_store_and_a_cluster_that_do_not_go_together_are_refused_before_anything_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let fdb = Some("fdb:///etc/foundationdb/fdb.cluster");
        for (store, is_node, says) in [(fdb, false, "--cluster NAME"), (None, true, "--store fdb:")]
        {
            let refused = ControlPlane::start(options(&data, store, is_node)).await.err().unwrap();
            assert!(refused.to_string().contains(says), "{refused}");
        }
        assert!(!data.exists());
    }

    #[test]
    fn a_url_names_the_host_that_others_use_where_a_listener_has_all_addresses() {
        for (address, host, expected) in [
            ("127.0.0.1:1", None, "https://127.0.0.1:1"),
            ("10.0.0.1:1", Some("node-1"), "https://10.0.0.1:1"),
            ("0.0.0.0:1", None, "https://127.0.0.1:1"),
            ("[::]:1", None, "https://[::1]:1"),
            ("0.0.0.0:1", Some("node-1"), "https://node-1:1"),
            ("[::]:1", Some("fd00::1"), "https://[fd00::1]:1"),
        ] {
            assert_eq!(url(address.parse().unwrap(), host), expected);
        }
    }
}
