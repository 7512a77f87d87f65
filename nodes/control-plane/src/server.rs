//! Starts everything on one machine: store, actors, gateway, API; and stops it in order.

mod api;
mod files;

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
use aa_protocol::{WorkspaceId, wire};
use aa_runtime::{Clock, Entropy, Node, NodeError, NodeOptions, SystemClock, SystemEntropy};
use aa_store::{
    OpenError, OpenedStore, STORE_FILE, StoreError, StoreUrl,
    copy::{IncompleteCopy, check_complete},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::transport::Server;

pub use self::files::FilesError;
use crate::{
    admission::Limits,
    drain::drained,
    gateway::{DecodingLayer, Gateway, MAX_MESSAGE},
    pki::{Authority, PkiError, RENEW_EVERY_DAYS, ServerCertificate},
    receiving::ReceiveLayer,
    secrets::{SecretError, Secrets, current_mac_key, make_private_directory},
    throttle::{FailureThrottle, ThrottleLayer},
    tls::{ConnectionLimits, TlsListener},
    vault_key::{VaultConfig, VaultKeyError},
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
}

/// The control plane of one machine.
pub struct ControlPlane {
    summary: Summary,
    store: OpenedStore,
    node: Node,
    drain: watch::Sender<bool>,
    gateway: JoinHandle<Result<(), tonic::transport::Error>>,
    api: JoinHandle<io::Result<()>>,
    renewal: JoinHandle<()>,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken or not ours to take.
    #[error("the {what} cannot listen on {address}: {error}; choose another with --{what}")]
    Listen {
        /// `gateway` or `api`.
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
}

/// How often what ages is looked at.
const DAY: Duration = Duration::from_secs(24 * 3_600);

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
        // Another provider that a library installed first would do as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        raise_file_limit();
        open_data_directory(&options.data)?;
        // The store first: it tells whether another instance is at work on the same data.
        let store = open_store(&options).await?;
        let gateway_listener = listen("gateway", options.gateway).await?;
        let api_listener = listen("api", options.api).await?;
        let bound = |listener: &TcpListener, fallback| listener.local_addr().unwrap_or(fallback);
        let gateway_address = bound(&gateway_listener, options.gateway);
        let api_address = bound(&api_listener, options.api);

        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let secrets = Secrets::open(&options.data, &*clock, &*entropy)?;
        let authority = Authority::open(&options.data)?;
        let addresses = [gateway_address.ip(), api_address.ip()];
        let certificate = Arc::new(ServerCertificate::new(authority.issue(&addresses)?));

        let node = Node::start(
            store.shared(),
            clock as Arc<dyn Clock>,
            Arc::clone(&entropy) as Arc<dyn Entropy>,
            NodeOptions::embedded(),
        )
        .await?;
        let clock = node.clock();
        let has_secrets = Governance::has_secrets(&node).await?;
        let master = VaultConfig::read(&options.data)?;
        let master = master.open(&options.data, has_secrets, &clock).await?;
        let guard = Guard::new(options.allowed_destinations);
        let sender = alert_sender(guard)?;
        let outside = Outside { master_key: master, sender: Arc::new(sender) };
        let governance =
            Governance::start(node.clone(), secrets.audit, outside, GovernanceOptions::default());
        let known = governance.workspaces().await?.first().copied();
        let workspace = known.unwrap_or_else(|| WorkspaceId::from_uuid(entropy.uuid()));
        let record = governance.set_up_workspace(workspace, &options.workspace_name).await?;
        let summary = Summary {
            first_run: known.is_none(),
            workspace_id: workspace.to_string(),
            workspace_name: record.name,
            gateway_url: url(gateway_address),
            api_url: url(api_address),
            ca_file: authority.certificate_file().to_owned(),
            client_env: options.data.join("client.env"),
            operator_env: options.data.join("operator.env"),
            data: options.data,
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
        let clock = Arc::clone(&governance.services().clock);
        let receiving =
            ReceiveLayer::new(limits.receiving, secrets.token.clone(), Arc::clone(&clock));
        let throttle = Arc::new(FailureThrottle::new(limits.failures, clock));
        let throttling =
            ThrottleLayer::new(Arc::clone(&throttle), secrets.token.clone(), governance.clone());
        let gateway = Gateway::new(governance.clone(), secrets.token, limits, draining.clone());
        let layers = (throttling, receiving);
        let gateway = serve_gateway(gateway, layers, gateway_tls, draining.clone()).await?;
        let api = api::serve_api(governance.clone(), throttle, api_tls, limits.headers, draining);
        let data = summary.data.clone();
        let renewal =
            tokio::spawn(renew(authority, addresses, certificate, governance.clone(), data));
        // Last: whoever waits for these files finds everything running.
        files::write(&governance, workspace, &summary).await?;
        Ok(Self { summary, store, node, drain, gateway, api, renewal })
    }

    /// What was started.
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Serves until `shutdown`, then answers what is in flight, commits what is decided and closes the
    /// store. Bounded: connections that do not end within ten seconds are cut.
    ///
    /// # Errors
    /// The store stopped after a failure to write, or a listener ended by itself.
    pub async fn serve_until(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let Self { store, node, drain, mut gateway, mut api, renewal, .. } = self;
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            stopped = store_stops(&store) => Err(ServeError::Store(stopped)),
            ended = &mut gateway => Err(ServeError::Gateway(format!("{ended:?}"))),
            ended = &mut api => Err(ServeError::Api(format!("{ended:?}"))),
        };
        drain.send_replace(true);
        renewal.abort();
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
async fn store_stops(store: &OpenedStore) -> StoreError {
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
    if present.next().is_some() && !data.join(STORE_FILE).exists() && !data.join("secrets").exists()
    {
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

async fn open_store(options: &Options) -> Result<OpenedStore, StartError> {
    let here = || StoreUrl::Redb(options.data.clone());
    let store = OpenedStore::open(&options.store.clone().unwrap_or_else(here)).await?;
    check_complete(&store).await.map_err(NodeError::from)??;
    Ok(store)
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| StartError::Listen { what, address, error })
}

/// A URL that the certificate covers: loopback for a listener on all addresses.
fn url(address: SocketAddr) -> String {
    let port = address.port();
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => format!("https://127.0.0.1:{port}"),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => format!("https://[::1]:{port}"),
        address => format!("https://{address}"),
    }
}

async fn serve_gateway(
    gateway: Gateway,
    (throttling, receiving): (ThrottleLayer, ReceiveLayer),
    listener: TlsListener,
    mut draining: watch::Receiver<bool>,
) -> Result<JoinHandle<Result<(), tonic::transport::Error>>, StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<wire::v1::gateway_server::GatewayServer<Gateway>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let decoding = DecodingLayer::new(gateway.clone());
    let service = wire::v1::gateway_server::GatewayServer::new(gateway)
        .max_decoding_message_size(MAX_MESSAGE);
    let server = Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(1_024)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(throttling)
        .layer(decoding)
        .layer(receiving)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(service);
    let stopping = async move {
        drained(&mut draining).await;
        health.set_not_serving::<wire::v1::gateway_server::GatewayServer<Gateway>>().await;
    };
    Ok(tokio::spawn(server.serve_with_incoming_shutdown(listener, stopping)))
}

/// Replaces what ages while the server runs: the certificate well before it ends, and the key of audit
/// entries once it has served its time.
async fn renew(
    authority: Authority,
    addresses: [std::net::IpAddr; 2],
    certificate: Arc<ServerCertificate>,
    governance: Governance,
    data: PathBuf,
) {
    let mut days = 0;
    loop {
        tokio::time::sleep(DAY).await;
        days += 1;
        if days % RENEW_EVERY_DAYS == 0 {
            match authority.issue(&addresses) {
                Ok(renewed) => certificate.replace(renewed),
                Err(error) => tracing::error!(%error, "the server certificate was not renewed"),
            }
        }
        let services = governance.services();
        match current_mac_key(&data, &*services.clock, &*services.entropy) {
            Ok(key) => services.replace_mac_key(key),
            Err(error) => tracing::error!(%error, "the key of audit entries was not renewed"),
        }
    }
}
