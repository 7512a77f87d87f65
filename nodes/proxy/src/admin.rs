//! Health and metrics, for operators on this machine.

use std::{convert::Infallible, sync::Arc};

use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::{body::Incoming, service::service_fn};
use tokio::net::TcpListener;

use crate::{
    body::{Body, full},
    proxy::Proxy,
    serve::serve_http,
};

/// Answers until the proxy drains.
pub(crate) async fn serve(proxy: Arc<Proxy>, socket: TcpListener) {
    let mut draining = proxy.draining();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = draining.ended() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::task::yield_now().await;
            continue;
        };
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            let answering = Arc::clone(&proxy);
            let service = service_fn(move |request| {
                let response = answer(&answering, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            // Whoever asks for metrics and goes away has what it wanted.
            let _ = serve_http(&proxy, stream, service).await;
        });
    }
}

fn answer(proxy: &Proxy, request: &Request<Incoming>) -> Response<Body> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            (StatusCode::OK, "text/plain; version=0.0.4", proxy.metrics.render())
        }
        (&Method::GET, "/health") => health(proxy),
        (&Method::GET, "/ca.pem") => match proxy.leaves.bundle() {
            Ok(bundle) => (StatusCode::OK, "application/x-pem-file", bundle),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        },
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "there is /health, /metrics and /ca.pem\n".to_owned(),
        ),
    };
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// The proxy can do its work while every agent that called has its session.
fn health(proxy: &Proxy) -> (StatusCode, &'static str, String) {
    let without: Vec<String> = proxy
        .fleet
        .registered()
        .iter()
        .filter(|governed| !governed.agent.is_connected())
        .map(|governed| governed.name.to_string())
        .collect();
    let status = if without.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "status": if without.is_empty() { "ok" } else { "no gateway" },
        "agents_without_session": without,
    });
    (status, "application/json", format!("{body}\n"))
}
