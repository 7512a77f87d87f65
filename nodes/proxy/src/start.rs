//! Starting, changing and ending the proxy.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aa_client::{Client, ClientError};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};

use crate::{
    admin,
    config::Config,
    proxy::Proxy,
    serve::accept,
    settings::Settings,
    tls::{
        Authority, LeafError, LeafOptions, Leaves,
        authority::{AuthorityError, AuthorityOptions},
    },
};

/// A proxy that serves. It ends with [`Running::stop`].
pub struct Running {
    proxy: Arc<Proxy>,
    draining: watch::Sender<bool>,
    accepting: Vec<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The CA cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// There is no randomness.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The gateway's settings cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A port is taken, or may not be used.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
}

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Starts serving. Must be called within a Tokio runtime.
///
/// # Errors
/// See [`StartError`].
pub async fn start(config: Config) -> Result<Running, StartError> {
    let authority =
        Authority::open(&config.ca_directory, &AuthorityOptions::default(), SystemTime::now())?;
    let leaves = Leaves::new(authority, LeafOptions::default())?;
    let client = Client::connect(config.gateway)?;
    let (draining, drained) = watch::channel(false);
    let proxy = Proxy::new(config.settings, client, leaves, drained);
    let mut accepting = Vec::new();
    let mut addresses = Vec::new();
    for listener in config.listeners {
        let socket = listen(listener.address)?;
        addresses.push(local(&socket, listener.address)?);
        accepting.push(tokio::spawn(accept(proxy.clone(), socket, listener)));
    }
    let mut admin = None;
    if let Some(address) = config.admin {
        let socket = listen(address)?;
        admin = Some(local(&socket, address)?);
        accepting.push(tokio::spawn(admin::serve(proxy.clone(), socket)));
    }
    Ok(Running { proxy, draining, accepting, addresses, admin })
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listening = || {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listening().map_err(|error| StartError::Listen { address, error })
}

fn local(socket: &TcpListener, address: SocketAddr) -> Result<SocketAddr, StartError> {
    socket.local_addr().map_err(|error| StartError::Listen { address, error })
}

// === impl Running ===

impl Running {
    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where operators ask for health and metrics.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The CA's certificates, for clients to trust.
    ///
    /// # Errors
    /// The clock is wrong.
    pub fn ca_pem(&self) -> Result<String, LeafError> {
        self.proxy.leaves.bundle()
    }

    /// Goes by other settings from the next request on. Listeners, gateway and CA stay as they are.
    pub fn change(&self, settings: Settings) {
        self.proxy.change(settings);
    }

    /// Stops accepting, lets requests under way end and results be reported; `false` when that took longer than
    /// `patience`.
    pub async fn stop(self, patience: Duration) -> bool {
        // Who serves sees it even if nobody does any more.
        self.draining.send_replace(true);
        for task in self.accepting {
            // One that panicked has ended, too.
            let _ = task.await;
        }
        self.proxy.tasks.close();
        timeout(patience, self.proxy.tasks.wait()).await.is_ok()
    }
}
