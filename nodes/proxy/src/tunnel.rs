//! What goes on inside a connection whose target is known: TLS, looked into; HTTP in the clear; or neither.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use aa_client::{Event, Outcome};
use aa_dialect::refuse_plain;
use aa_protocol::{Action, wire::v1::action::Kind};
use aa_reach::Host;
use http::{HeaderMap, Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;

use crate::{
    agents::Governed,
    body::{Body, empty},
    decide::decide,
    exchange::{Arrival, answer_of, handle},
    prefixed::Prefixed,
    serve::{Session, serve_http},
    target::{Authority, Origin, Scheme},
    tls::Alpn,
};

/// A client that says nothing for so long after its tunnel was opened is gone.
const FIRST_BYTES: Duration = Duration::from_secs(30);
/// Enough to tell TLS from HTTP, and mostly the whole of a ClientHello.
const PEEKED: usize = 2 << 10;
const HANDSHAKE: u8 = 0x16;
const IN_BETWEEN: usize = 16 << 10;

/// Serves what comes through a connection to `target`.
pub(crate) async fn enter<I>(
    session: Session,
    governed: Arc<Governed>,
    target: Authority,
    io: I,
) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (first, io) = peek(io).await?;
    match first.first() {
        None => Ok(()),
        Some(&HANDSHAKE) => {
            let (host, stream) = match accept_tls(&session, Some(&target.host), io).await {
                Ok(accepted) => accepted,
                Err(error) => return handshake_failed(&session, &governed, &target, error),
            };
            let authority = Authority { host, port: target.port };
            let origin = Origin { scheme: Scheme::Https, authority };
            serve_origin(session, governed, origin, stream).await
        }
        Some(byte) if byte.is_ascii_uppercase() => {
            let origin = Origin { scheme: Scheme::Http, authority: target };
            serve_origin(session, governed, origin, io).await
        }
        Some(_) => {
            session.proxy.metrics.malformed.increment();
            tracing::warn!(
                agent = %governed.name,
                upstream = %target,
                "tunnel refused: it carries neither TLS nor HTTP. Its host can be listed under hosts.pass_through"
            );
            Ok(())
        }
    }
}

/// Serves a connection that the packet filter sent here: TLS tells the host by its server name, HTTP by its Host header.
pub(crate) async fn transparent(session: Session, stream: TcpStream) -> io::Result<()> {
    let meant = original_destination(&stream)?;
    let local = stream.local_addr()?;
    if meant == local {
        tracing::warn!(
            listener = %local,
            "connection refused: it was made to the transparent listener itself, not redirected to it"
        );
        return Ok(());
    }
    let governed = match session.governed(&HeaderMap::new()).await {
        Ok(governed) => governed,
        // There is nobody yet to tell: the client has not spoken.
        Err(_) => return Ok(()),
    };
    let (first, io) = peek(stream).await?;
    match first.first() {
        None => Ok(()),
        Some(&HANDSHAKE) => {
            let by_address = Authority { host: Host::from(meant.ip()), port: meant.port() };
            let (host, stream) = match accept_tls(&session, None, io).await {
                Ok(accepted) => accepted,
                Err(error) => return handshake_failed(&session, &governed, &by_address, error),
            };
            let authority = Authority { host, port: meant.port() };
            let origin = Origin { scheme: Scheme::Https, authority };
            serve_origin(session, governed, origin, stream).await
        }
        Some(_) => serve_by_host_header(session, governed, meant.port(), io).await,
    }
}

/// Passes a connection through without looking at it, which is recorded as such.
pub(crate) async fn pass_through(
    session: Session,
    governed: Arc<Governed>,
    target: Authority,
    request: Request<Incoming>,
) -> Response<Body> {
    let settings = session.proxy.settings();
    let action = Action::NetworkConnect { host: target.host.to_string(), port: target.port };
    let checked = match decide(&governed, &action, None, settings.patience).await {
        Ok(checked) => checked,
        Err(refused) => {
            session.proxy.metrics.refused.increment();
            return answer_of(refuse_plain(&refused));
        }
    };
    let mut theirs = match governed.upstreams.connect(Scheme::Http, &target).await {
        Ok(stream) => stream,
        Err(error) => {
            session.proxy.metrics.upstream_failures.increment();
            return answer_of(refuse_plain(&crate::refusal::upstream(&error)));
        }
    };
    session.proxy.metrics.unseen.increment();
    let mut draining = session.proxy.draining();
    let tasks = session.proxy.tasks.clone();
    tasks.spawn(async move {
        let start = Instant::now();
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let mut ours = TokioIo::new(upgraded);
            tokio::select! {
                _ = copy_bidirectional_with_sizes(&mut ours, &mut theirs, IN_BETWEEN, IN_BETWEEN) => {}
                () = draining.ended() => {}
            }
        }
        let event = Event {
            action: Kind::from(&action),
            action_id: checked.action_id,
            trace_id: None,
            parent_span: None,
            outcome: Outcome::Unseen,
            duration: start.elapsed(),
            occurred_at: None,
        };
        if let Err(error) = governed.agent.record_later(event) {
            tracing::error!(agent = %governed.name, %error, "an unseen connection is not recorded");
        }
    });
    Response::new(empty())
}

async fn peek<I: AsyncRead + Unpin>(io: I) -> io::Result<(bytes::Bytes, Prefixed<I>)> {
    timeout(FIRST_BYTES, Prefixed::peek(io, PEEKED))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the client said nothing"))?
}

/// Speaks TLS as the host that the client means: the one it asked a tunnel to, and no other.
async fn accept_tls<I>(
    session: &Session,
    meant: Option<&Host>,
    io: I,
) -> io::Result<(Host, tokio_rustls::server::TlsStream<I>)>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        let named = start
            .client_hello()
            .server_name()
            .map(str::parse::<Host>)
            .transpose()
            .map_err(io::Error::other)?;
        let host = match (meant, named) {
            (Some(meant), None) => meant.clone(),
            (Some(meant), Some(named)) if *meant == named => named,
            (Some(meant), Some(named)) => {
                return Err(io::Error::other(format!(
                    "TLS is for {named}, the tunnel for {meant}"
                )));
            }
            (None, Some(named)) => named,
            (None, None) => {
                return Err(io::Error::other(
                    "TLS without a server name (SNI): nobody knows which host is meant",
                ));
            }
        };
        let config = session
            .proxy
            .leaves
            .server_config(&host, Alpn::Http2OrHttp1)
            .map_err(io::Error::other)?;
        Ok((host, start.into_stream(config).await?))
    };
    let patience = session.proxy.settings().timeouts.head;
    timeout(patience, handshake)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))?
}

fn handshake_failed(
    session: &Session,
    governed: &Governed,
    target: &Authority,
    error: io::Error,
) -> io::Result<()> {
    session.proxy.metrics.handshakes_failed.increment();
    tracing::warn!(
        agent = %governed.name,
        upstream = %target,
        %error,
        "TLS with the client failed. Does it trust this proxy's CA? `aasm ca export` prints it"
    );
    Ok(())
}

async fn serve_origin<I>(
    session: Session,
    governed: Arc<Governed>,
    origin: Origin,
    io: I,
) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let proxy = Arc::clone(&session.proxy);
    let arrival = Arrival { origin, governed };
    let service = service_fn(move |request| {
        let (proxy, arrival) = (Arc::clone(&session.proxy), arrival.clone());
        async move {
            let metrics = Arc::clone(&proxy.metrics);
            metrics.requests.increment();
            let _under_way = metrics.requests_under_way.enter();
            Ok::<_, Infallible>(handle(proxy, arrival, request).await)
        }
    });
    serve_http(&proxy, io, service).await
}

/// HTTP in the clear whose host only its requests tell.
async fn serve_by_host_header<I>(
    session: Session,
    governed: Arc<Governed>,
    port: u16,
    io: I,
) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let proxy = Arc::clone(&session.proxy);
    let session = Arc::new(session);
    let service = service_fn(move |request: Request<Incoming>| {
        let (session, governed) = (Arc::clone(&session), Arc::clone(&governed));
        async move {
            session.proxy.metrics.requests.increment();
            let host = request
                .headers()
                .get(http::header::HOST)
                .and_then(|host| host.to_str().ok())
                .map(|host| Authority::parse(host, port));
            let response = match host {
                Some(Ok(authority)) if authority.port == port => {
                    let origin = Origin { scheme: Scheme::Http, authority };
                    handle(Arc::clone(&session.proxy), Arrival { origin, governed }, request).await
                }
                Some(Ok(authority)) => session.malformed(&format!(
                    "the request is for port {}, the connection for port {port}",
                    authority.port
                )),
                Some(Err(error)) => session.malformed(&format!("the Host header {error}")),
                None => session.malformed("there is no Host header"),
            };
            Ok::<_, Infallible>(response)
        }
    });
    serve_http(&proxy, io, service).await
}

/// Where a redirected connection was meant to go (netfilter's SO_ORIGINAL_DST).
fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    use rustix::net::sockopt;
    let meant = if stream.local_addr()?.is_ipv4() {
        SocketAddr::V4(sockopt::ip_original_dst(stream)?)
    } else {
        SocketAddr::V6(sockopt::ipv6_original_dst(stream)?)
    };
    Ok(meant)
}
