//! Connections to where requests go: checked, verified, kept for the next request of the same agent.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::{
    body::Body,
    breaker::{Breakers, Open},
    dial::{DialError, Dialer},
    target::{Authority, Scheme},
    tls::{Alpn, UpstreamError as UpstreamTlsError, UpstreamTls},
};

/// How long each phase of a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Resolving and connecting, TLS included.
    pub connect: Duration,
    /// From the request's end to the answer's head. Models think for minutes.
    pub answer: Duration,
    /// Between two pieces of a body.
    pub silence: Duration,
    /// For a client to send a request's head.
    pub head: Duration,
    /// How long an upstream is still listened to for what a call cost, after its client went away.
    pub drain: Duration,
    /// How long a connection without requests is kept.
    pub idle: Duration,
}

/// One agent's connections.
#[derive(Clone)]
pub(crate) struct Upstreams {
    client: Client<Connector, Body>,
    connector: Connector,
    breakers: Breakers,
    timeouts: Timeouts,
}

/// Makes connections, at most so many at once.
#[derive(Clone)]
pub(crate) struct Connector {
    dialer: Arc<Dialer>,
    tls: Arc<UpstreamTls>,
    room: Arc<Semaphore>,
    timeout: Duration,
}

/// A connection to an upstream. Its place among the agent's connections is free again once it is dropped.
pub(crate) struct UpstreamStream {
    io: UpstreamIo,
    _place: OwnedSemaphorePermit,
}

enum UpstreamIo {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// No address of it answered, or none may be dialled.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It did not prove who it is.
    #[error(transparent)]
    Tls(#[from] UpstreamTlsError),
    /// It took too long.
    #[error("{upstream} did not complete a connection within {} ms", waited.as_millis())]
    Timeout { upstream: Authority, waited: Duration },
    /// The agent has too many connections open.
    #[error(
        "all connections that the agent may have at once are in use, and none became free within {} ms",
        waited.as_millis()
    )]
    NoRoom { waited: Duration },
    /// The request's URL names no upstream.
    #[error("the URL names no upstream")]
    NoUpstream,
}

/// The same, as it comes through the pool and is taken out again.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct NotConnected(Arc<ConnectError>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// It is not asked just now.
    #[error(transparent)]
    Open(#[from] Open),
    /// It could not be reached. Nothing of the request was sent.
    #[error(transparent)]
    Connect(Arc<ConnectError>),
    /// It took the request and said nothing.
    #[error("{upstream} did not answer within {} s", waited.as_secs())]
    Timeout { upstream: Authority, waited: Duration },
    /// The connection broke before the answer.
    #[error("the connection to {upstream} broke before it answered: {problem}")]
    Broken { upstream: Authority, problem: String },
}

// === impl Upstreams ===

impl Upstreams {
    pub(crate) fn new(connector: Connector, breakers: Breakers, timeouts: Timeouts) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(timeouts.idle)
            .set_host(false)
            .http1_preserve_header_case(true)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_initial_stream_window_size(1 << 20)
            .http2_initial_connection_window_size(4 << 20)
            .build(connector.clone());
        Self { client, connector, breakers, timeouts }
    }

    /// Sends a request, whose URL is absolute, and waits for the answer's head. A request is sent again only when a
    /// kept connection turned out to be closed before anything of it was sent.
    pub(crate) async fn send(
        &self,
        upstream: &Authority,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        self.breakers.admit(upstream, Instant::now())?;
        // The connection's own version is negotiated; the pool refuses to send HTTP/2 requests over HTTP/1.1.
        *request.version_mut() = Version::HTTP_11;
        let waited = self.timeouts.answer;
        let outcome = match timeout(waited, self.client.request(request)).await {
            Ok(Ok(response)) => {
                self.breakers.answered(upstream);
                return Ok(response);
            }
            Ok(Err(error)) => UpstreamError::of(upstream, error),
            Err(_) => UpstreamError::Timeout { upstream: upstream.clone(), waited },
        };
        self.count(upstream, &outcome);
        Err(outcome)
    }

    /// A connection of its own, outside the pool, that speaks HTTP/1.1.
    pub(crate) async fn connect(
        &self,
        scheme: Scheme,
        upstream: &Authority,
    ) -> Result<UpstreamStream, UpstreamError> {
        self.breakers.admit(upstream, Instant::now())?;
        match self.connector.connect(scheme, upstream.clone(), Alpn::Http1).await {
            Ok(stream) => {
                self.breakers.answered(upstream);
                Ok(stream)
            }
            Err(error) => {
                let error = UpstreamError::Connect(Arc::new(error));
                self.count(upstream, &error);
                Err(error)
            }
        }
    }

    fn count(&self, upstream: &Authority, error: &UpstreamError) {
        if error.is_the_upstreams() {
            self.breakers.failed(upstream, Instant::now());
        }
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

/// Headers of one message, at most.
pub(crate) const MAX_HEADERS: usize = 128;
/// Bytes of one message's headers, at most.
pub(crate) const MAX_HEADER_BYTES: u32 = 64 << 10;

// === impl Connector ===

impl Connector {
    pub(crate) fn new(
        dialer: Arc<Dialer>,
        tls: Arc<UpstreamTls>,
        connections: usize,
        timeout: Duration,
    ) -> Self {
        Self { dialer, tls, room: Arc::new(Semaphore::new(connections)), timeout }
    }

    async fn connect(
        &self,
        scheme: Scheme,
        upstream: Authority,
        alpn: Alpn,
    ) -> Result<UpstreamStream, ConnectError> {
        let waited = self.timeout;
        let place = match timeout(waited, Arc::clone(&self.room).acquire_owned()).await {
            Ok(Ok(place)) => place,
            _ => return Err(ConnectError::NoRoom { waited }),
        };
        let connecting = async {
            let stream = self.dialer.dial(&upstream.host, upstream.port).await?.stream;
            Ok::<_, ConnectError>(match scheme {
                Scheme::Http => UpstreamIo::Plain(stream),
                Scheme::Https => {
                    let stream = self.tls.connect(&upstream.host, alpn, stream).await?;
                    UpstreamIo::Tls(Box::new(stream))
                }
            })
        };
        match timeout(waited, connecting).await {
            Ok(io) => Ok(UpstreamStream { io: io?, _place: place }),
            Err(_) => Err(ConnectError::Timeout { upstream, waited }),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<UpstreamStream>;
    type Error = NotConnected;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NotConnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotConnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let scheme = match uri.scheme_str() {
                Some("https") => Scheme::Https,
                _ => Scheme::Http,
            };
            let upstream = uri
                .authority()
                .and_then(|authority| {
                    Authority::parse(authority.as_str(), scheme.default_port()).ok()
                })
                .ok_or_else(|| NotConnected(Arc::new(ConnectError::NoUpstream)))?;
            let connected = connector.connect(scheme, upstream, Alpn::Http2OrHttp1).await;
            connected.map(TokioIo::new).map_err(|error| NotConnected(Arc::new(error)))
        })
    }
}

// === impl UpstreamStream ===

impl UpstreamStream {
    fn io(self: Pin<&mut Self>) -> &mut UpstreamIo {
        &mut self.get_mut().io
    }
}

impl Connection for UpstreamStream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        match &self.io {
            UpstreamIo::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                connected.negotiated_h2()
            }
            _ => connected,
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.io() {
            UpstreamIo::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            UpstreamIo::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.io() {
            UpstreamIo::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            UpstreamIo::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.io() {
            UpstreamIo::Plain(stream) => Pin::new(stream).poll_flush(context),
            UpstreamIo::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.io() {
            UpstreamIo::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            UpstreamIo::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.io() {
            UpstreamIo::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            UpstreamIo::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            UpstreamIo::Plain(stream) => stream.is_write_vectored(),
            UpstreamIo::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

// === impl UpstreamError ===

impl UpstreamError {
    fn of(upstream: &Authority, error: hyper_util::client::legacy::Error) -> Self {
        if error.is_connect() {
            let mut cause: Option<&(dyn StdError + 'static)> = error.source();
            while let Some(found) = cause {
                if let Some(NotConnected(error)) = found.downcast_ref() {
                    return Self::Connect(Arc::clone(error));
                }
                cause = found.source();
            }
        }
        let mut innermost: &dyn StdError = &error;
        while let Some(cause) = innermost.source() {
            innermost = cause;
        }
        Self::Broken { upstream: upstream.clone(), problem: innermost.to_string() }
    }

    /// Whether it speaks against the upstream, and not against us or the request.
    fn is_the_upstreams(&self) -> bool {
        match self {
            Self::Open(_) => false,
            Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Connect(error) => match &**error {
                ConnectError::NoRoom { .. } | ConnectError::NoUpstream => false,
                ConnectError::Dial(error) => !matches!(error, DialError::Refused { .. }),
                ConnectError::Tls(_) | ConnectError::Timeout { .. } => true,
            },
        }
    }

    /// Whether nothing of the request can have reached the upstream.
    pub(crate) const fn is_unsent(&self) -> bool {
        matches!(self, Self::Open(_) | Self::Connect(_))
    }
}
