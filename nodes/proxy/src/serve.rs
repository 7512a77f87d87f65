//! Listens, and finds out of each connection where it goes and whose it is.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use aa_dialect::refuse_plain;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header::PROXY_AUTHENTICATE,
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    pin,
    time::sleep,
};

use crate::{
    agents::Governed,
    body::{Body, empty},
    caller::{CallerError, Seen},
    decide::unavailable,
    exchange::{Arrival, answer_of, handle},
    proxy::Proxy,
    refusal,
    socket_owner::SocketOwner,
    target::{Authority, Origin},
    tunnel,
    upstream::{MAX_HEADER_BYTES, MAX_HEADERS},
};

/// One listener, as configured.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its connections are.
    pub mode: Mode,
    /// Whose they are, if it is for one agent only.
    pub agent: Option<Arc<str>>,
}

/// What the connections of a listener are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Those of clients that know of the proxy: CONNECT and absolute targets.
    Forward,
    /// Those of clients that do not: redirected here by the packet filter.
    Transparent,
    /// Those of clients that take it for a provider: all go to one origin, below a path.
    Reverse {
        /// The provider.
        upstream: Origin,
        /// What stands before every request's path; begins with `/` or is empty, and does not end with it.
        path: String,
    },
}

/// One connection of a client.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) seen: Seen,
}

/// When accepting fails, most often for want of file descriptors, it is tried again after a moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A read buffer of HTTP/1.1 grows to this, so the head of a request must fit.
const MAX_BUFFER: usize = MAX_HEADER_BYTES as usize;
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Accepts until the proxy drains.
pub(crate) async fn accept(proxy: Arc<Proxy>, socket: TcpListener, listener: Listener) {
    let listener = Arc::new(listener);
    let mut draining = proxy.draining();
    loop {
        let Ok(place) = Arc::clone(&proxy.places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = draining.ended() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        proxy.metrics.connections_accepted.increment();
        let (proxy, listener) = (Arc::clone(&proxy), Arc::clone(&listener));
        let tasks = proxy.tasks.clone();
        tasks.spawn(async move {
            let present = Arc::clone(&proxy.metrics);
            let _present = present.connections.enter();
            let _place = place;
            // Small packets are an agent's tokens; they are not to wait for each other.
            let _ = stream.set_nodelay(true);
            let seen = seen(&proxy, &listener, &stream, peer).await;
            let session = Session { proxy, listener, seen };
            if let Err(error) = session.serve(stream).await {
                tracing::debug!(%peer, %error, "connection ended");
            }
        });
    }
}

/// What is known of the other end.
async fn seen(proxy: &Proxy, listener: &Listener, stream: &TcpStream, peer: SocketAddr) -> Seen {
    let mut seen = Seen { listener: listener.agent.clone(), ..Seen::default() };
    if listener.agent.is_none()
        && proxy.settings().callers.ask_for_owner()
        && let Ok(local) = stream.local_addr()
    {
        seen.owner = tokio::task::spawn_blocking(move || SocketOwner::of(peer, local))
            .await
            .unwrap_or_default();
    }
    seen
}

// === impl Session ===

impl Session {
    async fn serve(self, stream: TcpStream) -> io::Result<()> {
        match &self.listener.mode {
            Mode::Forward => self.serve_forward(stream).await,
            Mode::Transparent => tunnel::transparent(self, stream).await,
            Mode::Reverse { upstream, path } => {
                let (upstream, path): (Origin, Arc<str>) = (upstream.clone(), path.as_str().into());
                self.serve_reverse(stream, upstream, path).await
            }
        }
    }

    async fn serve_forward(self, stream: TcpStream) -> io::Result<()> {
        let proxy = Arc::clone(&self.proxy);
        let session = Arc::new(self);
        let service = service_fn(move |request| {
            let session = Arc::clone(&session);
            async move { Ok::<_, Infallible>(session.forward(request).await) }
        });
        serve_http(&proxy, stream, service).await
    }

    async fn serve_reverse(
        self,
        stream: TcpStream,
        upstream: Origin,
        path: Arc<str>,
    ) -> io::Result<()> {
        let proxy = Arc::clone(&self.proxy);
        let session = Arc::new(self);
        let service = service_fn(move |request| {
            let (session, origin) = (Arc::clone(&session), upstream.clone());
            let path = Arc::clone(&path);
            async move { Ok::<_, Infallible>(session.reverse(request, origin, &path).await) }
        });
        serve_http(&proxy, stream, service).await
    }

    /// A request to the proxy itself.
    async fn forward(&self, request: Request<Incoming>) -> Response<Body> {
        self.proxy.metrics.requests.increment();
        let _under_way = self.proxy.metrics.requests_under_way.enter();
        if request.method() == Method::CONNECT
            && request.extensions().get::<hyper::ext::Protocol>().is_none()
        {
            return self.connect(request).await;
        }
        let (parts, body) = request.into_parts();
        let origin = match Origin::of_absolute(&parts, self.proxy.settings().limits.uri_bytes) {
            Ok(origin) => origin,
            Err(error) => return self.malformed(&error.to_string()),
        };
        match self.governed(&parts.headers).await {
            Ok(governed) => {
                let arrival = Arrival { origin, governed };
                handle(Arc::clone(&self.proxy), arrival, Request::from_parts(parts, body)).await
            }
            Err(response) => *response,
        }
    }

    /// A request for a connection to somewhere.
    async fn connect(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(authority) = request.uri().authority() else {
            return self.malformed("CONNECT names no host and port");
        };
        let target: Authority = match authority.as_str().parse() {
            Ok(target) => target,
            Err(error) => {
                return self.malformed(&format!("the target of CONNECT {error}"));
            }
        };
        let governed = match self.governed(request.headers()).await {
            Ok(governed) => governed,
            Err(response) => return *response,
        };
        let settings = self.proxy.settings();
        if settings.pass_through.contain(&target.host) {
            return tunnel::pass_through(self.clone(), governed, target, request).await;
        }
        let session = self.clone();
        let tasks = self.proxy.tasks.clone();
        tasks.spawn(async move {
            match hyper::upgrade::on(request).await {
                Ok(upgraded) => {
                    let io = TokioIo::new(upgraded);
                    if let Err(error) = tunnel::enter(session, governed, target, io).await {
                        tracing::debug!(%error, "tunnel ended");
                    }
                }
                Err(error) => tracing::debug!(%error, "no tunnel came of CONNECT"),
            }
        });
        Response::new(empty())
    }

    /// A request that is meant for a provider.
    async fn reverse(
        &self,
        request: Request<Incoming>,
        origin: Origin,
        path: &str,
    ) -> Response<Body> {
        self.proxy.metrics.requests.increment();
        let _under_way = self.proxy.metrics.requests_under_way.enter();
        let (mut parts, body) = request.into_parts();
        let governed = match self.governed(&parts.headers).await {
            Ok(governed) => governed,
            Err(response) => return *response,
        };
        let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        parts.uri = match format!("{path}{target}").parse() {
            Ok(uri) => uri,
            Err(error) => return self.malformed(&format!("the request's target: {error}")),
        };
        let Ok(host) = HeaderValue::from_str(&origin.host_header()) else {
            return self.malformed("the upstream's host is no header value");
        };
        parts.headers.insert(http::header::HOST, host);
        let arrival = Arrival { origin, governed };
        handle(Arc::clone(&self.proxy), arrival, Request::from_parts(parts, body)).await
    }

    /// The agent that a request of this connection is of.
    pub(crate) async fn governed(
        &self,
        headers: &HeaderMap,
    ) -> Result<Arc<Governed>, Box<Response<Body>>> {
        let settings = self.proxy.settings();
        let entry = settings
            .callers
            .identify(&self.seen, Some(headers))
            .map_err(|error| Box::new(self.unknown_caller(&error)))?;
        self.proxy.governed(&settings, &entry).await.map_err(|error| {
            self.proxy.metrics.without_decision.increment();
            tracing::error!(agent = %entry.spec.name, %error, "cannot register the agent");
            Box::new(answer_of(refuse_plain(&unavailable(&error))))
        })
    }

    fn unknown_caller(&self, error: &CallerError) -> Response<Body> {
        self.proxy.metrics.unknown_callers.increment();
        tracing::warn!(%error, "unknown caller");
        let refused = refusal::unknown_caller(error.to_string());
        let mut response = answer_of(refuse_plain(&refused));
        if self.proxy.settings().callers.take_credentials() {
            *response.status_mut() = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
            response.headers_mut().insert(
                PROXY_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"Agent Assembly\", charset=\"UTF-8\""),
            );
        }
        response
    }

    pub(crate) fn malformed(&self, problem: &str) -> Response<Body> {
        self.proxy.metrics.malformed.increment();
        tracing::warn!(problem, "malformed request");
        answer_of(refuse_plain(&refusal::bad_request(problem)))
    }
}

/// Serves HTTP/1.1 or HTTP/2, whichever the client speaks, until it ends or the proxy drains.
pub(crate) async fn serve_http<I, S, F>(proxy: &Proxy, io: I, service: S) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<
            Request<Incoming>,
            Response = Response<Body>,
            Error = Infallible,
            Future = F,
        > + Send
        + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let settings = proxy.settings();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.timeouts.head)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER)
        .preserve_header_case(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.limits.streams)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .enable_connect_protocol();
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    pin!(connection);
    let mut draining = proxy.draining();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = draining.ended() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}
