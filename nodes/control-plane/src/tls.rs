//! TLS 1.3, and only that, in front of both listeners.
//!
//! Handshakes run beside each other and are bounded in number and time, so a peer that never finishes
//! one holds up nobody. Neither does one that finishes it and then says nothing, or stops reading, or
//! opens more connections than one network may have.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::Stream;
use parking_lot::Mutex;
use rustls::{ServerConfig, server::ResolvesServerCert, version::TLS13};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, Sleep},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::network::Network;

/// How many connections there may be, and how long each may keep the listener waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// At once. Past it, peers wait in the kernel's backlog.
    pub total: usize,
    /// At once from one [`Network`]. Past it, connections are closed before their handshake.
    pub per_network: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long a peer may take for its first [`GREETING`] bytes after the handshake.
    pub silence: Duration,
    /// How long a peer may leave what it was sent unread, once its buffers are full.
    pub stall: Duration,
}

/// A listener whose connections have finished their handshake.
pub struct TlsListener {
    connections: mpsc::Receiver<TlsConnection>,
    address: SocketAddr,
}

/// A connection over TLS.
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    local: SocketAddr,
    greeting: Option<Greeting>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

/// What a peer still has to say before it counts as a client.
struct Greeting {
    missing: usize,
    until: Pin<Box<Sleep>>,
}

/// One connection's place among all, and among those of its network.
struct Place {
    _of_all: OwnedSemaphorePermit,
    network: Network,
    networks: Arc<Networks>,
}

/// Connections by network.
#[derive(Default)]
struct Networks(Mutex<HashMap<Network, usize>>);

/// Warnings that a peer can provoke appear at most this often.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// An HTTP/2 client begins with 24 bytes (RFC 9113, section 3.4); no HTTP/1.1 request that is answered here
/// is shorter.
pub const GREETING: usize = 24;

// === impl ConnectionLimits ===

impl ConnectionLimits {
    /// Limits for `total` connections. Half of them may come from one network: enough for a proxy before
    /// all clients, and too few to shut everybody else out.
    pub const fn of(total: usize) -> Self {
        Self {
            total,
            per_network: total.div_ceil(2),
            handshake: Duration::from_secs(10),
            silence: Duration::from_secs(10),
            stall: Duration::from_secs(60),
        }
    }
}

// === impl TlsListener ===

impl TlsListener {
    /// Accepts on `listener` with certificates from `certificates`, offering `protocols` (ALPN), at most
    /// `connections` at once.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn new(
        listener: TcpListener,
        certificates: Arc<dyn ResolvesServerCert>,
        protocols: &[&str],
        connections: usize,
    ) -> io::Result<Self> {
        Self::bounded(listener, certificates, protocols, ConnectionLimits::of(connections))
    }

    /// The same within limits of the caller's own.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn bounded(
        listener: TcpListener,
        certificates: Arc<dyn ResolvesServerCert>,
        protocols: &[&str],
        limits: ConnectionLimits,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let mut config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols =
            protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (accepted, connections) = mpsc::channel(64);
        tokio::spawn(accept(listener, acceptor, limits, accepted));
        Ok(Self { connections, address })
    }

    /// The next connection; never, once the accepting task ended with its runtime.
    pub async fn next(&mut self) -> TlsConnection {
        match self.connections.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: ConnectionLimits,
    accepted: mpsc::Sender<TlsConnection>,
) {
    let places = Arc::new(Semaphore::new(limits.total));
    let networks = Arc::new(Networks::default());
    let mut warned = None;
    loop {
        // Without a place the kernel's backlog holds the next peers back.
        let Ok(of_all) = Arc::clone(&places).acquire_owned().await else { return };
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            () = accepted.closed() => return,
        };
        let (stream, peer) = match connection {
            Ok(connection) => connection,
            Err(error) => {
                if is_due(&mut warned) {
                    tracing::warn!(%error, "a connection could not be accepted");
                }
                // Out of file descriptors, most likely: give others time to close theirs.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let network = Network::of(peer.ip());
        let Some(place) = networks.place(network, of_all, limits.per_network) else {
            if is_due(&mut warned) {
                let limit = limits.per_network;
                tracing::warn!(%network, limit, "a network has all the connections it may have");
            }
            continue;
        };
        let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
        tokio::spawn(async move {
            let Ok(local) = stream.local_addr() else { return };
            // Answers are small and awaited; Nagle would only delay them.
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let until = Box::pin(tokio::time::sleep(limits.silence));
                    let connection = TlsConnection {
                        stream,
                        peer,
                        local,
                        greeting: Some(Greeting { missing: GREETING, until }),
                        stall: limits.stall,
                        stalled: None,
                        _place: place,
                    };
                    // Nobody takes it when the server is stopping.
                    let _ = accepted.send(connection).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
        });
    }
}

/// Whether a warning may appear again; notes that it did.
fn is_due(warned: &mut Option<Instant>) -> bool {
    let is_due = warned.is_none_or(|at| at.elapsed() >= WARN_EVERY);
    if is_due {
        *warned = Some(Instant::now());
    }
    is_due
}

impl Stream for TlsListener {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

// === impl Networks ===

impl Networks {
    /// A place for one more connection of a network, unless it has all it may have.
    fn place(
        self: &Arc<Self>,
        network: Network,
        of_all: OwnedSemaphorePermit,
        limit: usize,
    ) -> Option<Place> {
        let mut networks = self.0.lock();
        let connections = networks.entry(network).or_default();
        if *connections >= limit {
            return None;
        }
        *connections += 1;
        Some(Place { _of_all: of_all, network, networks: Arc::clone(self) })
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let mut networks = self.networks.0.lock();
        let Some(connections) = networks.get_mut(&self.network) else { return };
        *connections -= 1;
        if *connections == 0 {
            networks.remove(&self.network);
        }
    }
}

// === impl TlsConnection ===

impl Connected for TlsConnection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: Some(self.local), remote_addr: Some(self.peer) }
    }
}

impl TlsConnection {
    /// Who is at the other end.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the peer chose HTTP/2 (ALPN).
    pub fn is_http2(&self) -> bool {
        self.stream.get_ref().1.alpn_protocol() == Some(b"h2")
    }

    /// Gives a write up that makes no progress for too long.
    fn unless_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let stall = self.stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(greeting) = &mut self.greeting else { return read };
        if read.is_pending() {
            ready!(greeting.until.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        greeting.missing = greeting.missing.saturating_sub(buffer.filled().len() - before);
        if greeting.missing == 0 {
            self.greeting = None;
        }
        read
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_stalled(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unless_stalled(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.unless_stalled(cx, shut)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.unless_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
