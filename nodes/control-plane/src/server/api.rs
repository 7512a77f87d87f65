//! Serves the REST API's connections: HTTP/2 or HTTP/1.1, as the peer chose in its handshake, with a bound on
//! everything a peer can make the server wait for.

use std::{io, pin::pin, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
    service::TowerToHyperService,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tower::ServiceExt;

use super::KEEPALIVE;
use crate::{
    drain::drained,
    rest::{self, PeerAddress},
    tls::{TlsConnection, TlsListener},
};

/// The most bytes of a request's headers.
const MAX_HEADERS: u32 = 16 << 10;

/// The most bytes of a connection that are buffered.
const MAX_BUFFER: usize = 128 << 10;

/// Requests under way on one HTTP/2 connection.
const MAX_STREAMS: u32 = 64;

pub(super) fn serve_api(
    api: rest::Api,
    listener: TlsListener,
    headers: Duration,
    draining: watch::Receiver<bool>,
) -> JoinHandle<io::Result<()>> {
    let info = rest::ApiInfo { version: env!("CARGO_PKG_VERSION") };
    let router = rest::router(api, info);
    tokio::spawn(serve(listener, router, headers, draining))
}

/// Serves until drained and the last connection is done. Dropping it cuts the connections.
async fn serve(
    mut listener: TlsListener,
    router: Router,
    headers: Duration,
    mut draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            connection = listener.next() => {
                let answering = answer(connection, router.clone(), headers, draining.clone());
                connections.spawn(answering);
            }
            Some(_done) = connections.join_next() => {}
            () = drained(&mut draining) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn answer(
    connection: TlsConnection,
    router: Router,
    headers: Duration,
    draining: watch::Receiver<bool>,
) {
    let peer = PeerAddress(connection.peer().ip());
    let is_http2 = connection.is_http2();
    let service = router.map_request(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        request
    });
    let (io, service) = (TokioIo::new(connection), TowerToHyperService::new(service));
    if is_http2 {
        let serving = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .serve_connection(io, service);
        until_drained(serving, draining).await;
    } else {
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(headers)
            .max_header_size(MAX_HEADERS as usize)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(io, service);
        until_drained(serving, draining).await;
    }
}

async fn until_drained(connection: impl GracefulConnection, mut draining: watch::Receiver<bool>) {
    let mut connection = pin!(connection);
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = drained(&mut draining) => connection.as_mut().graceful_shutdown(),
    }
    // How a connection ended is its peer's matter.
    let _ = connection.await;
}
