//! Brings one link up: connection, handshake, greeting.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as TaskContext, Poll},
};

use aa_protocol::wire::relay::{
    FromCaller, Hello, ToCaller, Welcome, from_caller, relay_client::RelayClient, to_caller,
};
use aa_runtime::Peer;
use futures::Stream;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Code, Streaming, body::Body};

use crate::{
    identity::NodeIdentity,
    limits::MAX_MESSAGE,
    message,
    stats::HandshakeFailure,
    tls::{self, TlsError},
    transport::Context,
};

/// Why there is no link to a node.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens there.
    #[error("node `{node}` cannot be reached at {address}: {error}")]
    Unreachable {
        /// The node.
        node: String,
        /// Where it should be.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// It takes too long.
    #[error("node `{node}` at {address} did not answer within {within:?}")]
    TimedOut {
        /// The node.
        node: String,
        /// Where it should be.
        address: String,
        /// How long was waited.
        within: std::time::Duration,
    },
    /// A certificate is not of the cluster's authority.
    #[error(
        "node `{node}` at {address} and this one do not trust each other's certificates ({error}); {remedy}"
    )]
    Certificate {
        /// The node.
        node: String,
        /// Where it is.
        address: String,
        /// What TLS says.
        error: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Its certificate names no node.
    #[error(
        "node `{node}` at {address} presents a certificate that names no node: {error}; let it take a certificate of the cluster"
    )]
    Nameless {
        /// The node.
        node: String,
        /// Where it is.
        address: String,
        /// What is wrong with it.
        error: TlsError,
    },
    /// It is another node, or of another cluster.
    #[error(
        "{found} answers at {address}, where {wanted} should be; correct what the nodes advertise, and give every cluster addresses of its own"
    )]
    OtherNode {
        /// Who is there.
        found: NodeIdentity,
        /// Who should be.
        wanted: NodeIdentity,
        /// Where.
        address: String,
    },
    /// It does not talk to this one.
    #[error("node `{node}` at {address} refuses this one: {why}")]
    Refused {
        /// The node.
        node: String,
        /// Where it is.
        address: String,
        /// Its words.
        why: String,
        /// What kind of refusal.
        reason: HandshakeFailure,
    },
    /// It speaks something else.
    #[error("node `{node}` at {address} does not speak the relay's protocol: {why}")]
    Protocol {
        /// The node.
        node: String,
        /// Where it is.
        address: String,
        /// What it did.
        why: String,
    },
}

/// A link that is up, and comes down when this is dropped.
pub(crate) struct Connection {
    pub(crate) inbound: Streaming<ToCaller>,
    _driver: AbortOnDrop,
}

/// Ends a task with its owner.
pub(crate) struct AbortOnDrop(pub(crate) tokio::task::AbortHandle);

/// A connection that notes when the peer refuses this node's certificate. In TLS 1.3 that comes after the
/// handshake, to whoever reads first, and HTTP/2 keeps no more of it than a text.
struct Watched {
    stream: TlsStream<TcpStream>,
    is_distrusted: Arc<AtomicBool>,
}

/// Makes requests on one connection.
#[derive(Clone)]
struct Requests(http2::SendRequest<Body>);

/// How much a stream may carry before the other side has read it, and all streams of a connection together.
pub(crate) const STREAM_WINDOW: u32 = 16 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 32 << 20;

/// The largest HTTP/2 frame.
pub(crate) const FRAME: u32 = 256 << 10;

/// What is taken from a stream before the socket has taken it.
pub(crate) const SEND_BUFFER: usize = 1 << 20;

const OTHER_AUTHORITY: &str =
    "both must take their certificates from the store of one cluster; start them again on it";
const OTHER_TIME: &str = "the clocks disagree; set them, by NTP for example";

/// Brings a link to `peer` up. `outbound` gives its frames, the greeting first.
pub(crate) async fn connect(
    context: &Context,
    peer: &Peer,
    outbound: impl Stream<Item = FromCaller> + Send + 'static,
) -> Result<Connection, LinkError> {
    let within = context.options.limits.connect;
    match tokio::time::timeout(within, bring_up(context, peer, outbound)).await {
        Ok(connected) => connected,
        Err(_) => {
            let (node, address) = (peer.name.to_string(), peer.address.to_string());
            Err(LinkError::TimedOut { node, address, within })
        }
    }
}

/// This node's greeting for `peer`.
pub(crate) fn hello(context: &Context, peer: &Peer) -> FromCaller {
    let identity = context.tls.identity();
    message::from_caller(from_caller::Frame::Hello(Hello {
        cluster: identity.cluster().to_owned(),
        node: identity.node().to_owned(),
        to: peer.name.to_string(),
        lowest_protocol: context.options.protocols.lowest,
        highest_protocol: context.options.protocols.highest,
        version: context.options.version.clone(),
    }))
}

async fn bring_up(
    context: &Context,
    peer: &Peer,
    outbound: impl Stream<Item = FromCaller> + Send + 'static,
) -> Result<Connection, LinkError> {
    let (node, address) = (|| peer.name.to_string(), || peer.address.to_string());
    let protocol = |why: String| LinkError::Protocol { node: node(), address: address(), why };
    let is_distrusted = Arc::new(AtomicBool::new(false));
    let stream = secure(context, peer).await?;
    let watched = Watched { stream, is_distrusted: Arc::clone(&is_distrusted) };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(context.options.limits.keepalive)
        .keep_alive_timeout(context.options.limits.keepalive)
        .keep_alive_while_idle(true);
    let (requests, connection) = builder
        .handshake(TokioIo::new(watched))
        .await
        .map_err(|error| protocol(error.to_string()))?;
    // How the connection ends, its stream tells.
    let driver = AbortOnDrop(tokio::spawn(connection).abort_handle());
    let origin = http::Uri::from_static("https://relay");
    let mut client =
        RelayClient::with_origin(Requests(requests), origin).max_decoding_message_size(MAX_MESSAGE);
    let answered = client.link(outbound).await.map_err(|status| {
        let reason = match status.code() {
            Code::PermissionDenied => HandshakeFailure::Identity,
            Code::FailedPrecondition => HandshakeFailure::Protocol,
            _ if is_distrusted.load(Ordering::Relaxed) => HandshakeFailure::Certificate,
            _ => HandshakeFailure::Other,
        };
        let why = match reason {
            HandshakeFailure::Certificate => {
                format!("it does not take this node's certificate; {OTHER_AUTHORITY}")
            }
            _ => status.message().to_owned(),
        };
        LinkError::Refused { node: node(), address: address(), why, reason }
    })?;
    let mut inbound = answered.into_inner();
    let first = inbound.message().await.map_err(|status| protocol(status.message().to_owned()))?;
    let Some(to_caller::Frame::Welcome(welcome)) = first.and_then(|first| first.frame) else {
        return Err(protocol("its first frame is no greeting".to_owned()));
    };
    let Welcome { protocol: chosen, .. } = welcome;
    let ours = context.options.protocols;
    if !(ours.lowest..=ours.highest).contains(&chosen) {
        return Err(protocol(format!(
            "it chose protocol {chosen}, which this node does not speak"
        )));
    }
    Ok(Connection { inbound, _driver: driver })
}

/// A connection to `peer`, and to nobody else.
async fn secure(context: &Context, peer: &Peer) -> Result<TlsStream<TcpStream>, LinkError> {
    let (node, address) = (|| peer.name.to_string(), || peer.address.to_string());
    let unreachable = |error| LinkError::Unreachable { node: node(), address: address(), error };
    let tcp = TcpStream::connect(&*peer.address).await.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    // Certificates name nodes, not hosts, and no name is sent.
    let nobody =
        ServerName::try_from("relay").map_err(|error| unreachable(io::Error::other(error)))?;
    let connector = TlsConnector::from(context.tls.client());
    let stream = connector.connect(nobody, tcp).await.map_err(|error| {
        if tls::is_about_certificates(&error) {
            let remedy = if tls::is_about_time(&error) { OTHER_TIME } else { OTHER_AUTHORITY };
            return LinkError::Certificate { node: node(), address: address(), error, remedy };
        }
        unreachable(error)
    })?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let found = tls::identity_of(chain).map_err(|error| LinkError::Nameless {
        node: node(),
        address: address(),
        error,
    })?;
    let own = context.tls.identity();
    if found.cluster() == own.cluster() && found.node() == &*peer.name {
        return Ok(stream);
    }
    match NodeIdentity::new(own.cluster(), &peer.name) {
        Ok(wanted) => Err(LinkError::OtherNode { found, wanted, address: address() }),
        Err(error) => Err(LinkError::Nameless {
            node: node(),
            address: address(),
            error: TlsError::Name(error),
        }),
    }
}

// === impl LinkError ===

impl LinkError {
    /// What it counts as.
    pub const fn reason(&self) -> HandshakeFailure {
        match self {
            Self::Unreachable { .. } => HandshakeFailure::Unreachable,
            Self::TimedOut { .. } => HandshakeFailure::TimedOut,
            Self::Certificate { .. } => HandshakeFailure::Certificate,
            Self::Nameless { .. } | Self::OtherNode { .. } => HandshakeFailure::Identity,
            Self::Refused { reason, .. } => *reason,
            Self::Protocol { .. } => HandshakeFailure::Protocol,
        }
    }
}

// === impl AbortOnDrop ===

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Watched ===

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &read
            && tls::is_about_certificates(error)
        {
            self.is_distrusted.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

// === impl Requests ===

impl tower::Service<http::Request<Body>> for Requests {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
