//! Connections that become something else than HTTP: WebSocket over HTTP/1.1 (RFC 6455) and over HTTP/2 (RFC 8441).
//!
//! The upstream is always spoken to over HTTP/1.1, which every server of WebSocket understands.

use aa_dialect::refuse_plain;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
    request::Parts,
};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http1,
    ext::Protocol,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional_with_sizes, time::timeout};

use crate::{
    body::{Body, empty},
    exchange::{Exchange, answer_of},
    refusal,
    upstream::{MAX_HEADERS, UpstreamError, UpstreamStream},
};

/// Of each direction, at most so much is between client and upstream.
const IN_BETWEEN: usize = 16 << 10;

/// Whether the request asks for WebSocket.
pub(crate) fn is_asked_for(parts: &Parts) -> bool {
    let names_websocket = |headers: &HeaderMap| {
        headers.get_all(UPGRADE).iter().any(|value| {
            value.to_str().is_ok_and(|value| {
                value.split(',').any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
            })
        })
    };
    if parts.version == Version::HTTP_2 {
        return parts.method == Method::CONNECT
            && parts
                .extensions
                .get::<Protocol>()
                .is_some_and(|protocol| protocol.as_str() == "websocket");
    }
    parts.method == Method::GET && names_websocket(&parts.headers)
}

/// Forwards a request for WebSocket, and then both directions until either ends.
pub(crate) async fn forward(
    exchange: Exchange,
    mut parts: Parts,
    body: Incoming,
) -> Response<Body> {
    let version = parts.version;
    let theirs = parts.extensions.remove::<OnUpgrade>();
    drop(body);
    match open(&exchange, parts).await {
        Ok((response, ours)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let Some(theirs) = theirs else {
                let refused = refusal::bad_request("the connection cannot be upgraded");
                return answer_of(refuse_plain(&refused));
            };
            join(exchange, theirs, ours);
            switched(response, version)
        }
        Ok((response, _)) => {
            let (mut parts, body) = response.into_parts();
            crate::headers::end_hop(&mut parts.headers);
            Response::from_parts(parts, body.map_err(Into::into).boxed_unsync())
        }
        Err(error) => answer_of(refuse_plain(&exchange.upstream_failed(&error))),
    }
}

/// Asks the upstream over a connection of its own.
async fn open(
    exchange: &Exchange,
    parts: Parts,
) -> Result<(Response<Incoming>, OnUpgrade), UpstreamError> {
    let upstream = &exchange.origin.authority;
    let broken = |problem: String| UpstreamError::Broken { upstream: upstream.clone(), problem };
    let stream: UpstreamStream =
        exchange.governed.upstreams.connect(exchange.origin.scheme, upstream).await?;
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.to_string()))?;
    exchange.proxy.tasks.spawn(async move {
        // Its end is the answer's, or the upgraded connection's.
        let _ = connection.with_upgrades().await;
    });
    let request = upgrade_request(exchange, parts).await.map_err(broken)?;
    let waited = exchange.settings.timeouts.answer;
    let mut response = match timeout(waited, sender.send_request(request)).await {
        Ok(response) => response.map_err(|error| broken(error.to_string()))?,
        Err(_) => return Err(UpstreamError::Timeout { upstream: upstream.clone(), waited }),
    };
    let ours = hyper::upgrade::on(&mut response);
    Ok((response, ours))
}

/// The request for WebSocket as HTTP/1.1 has it.
async fn upgrade_request(exchange: &Exchange, parts: Parts) -> Result<Request<Body>, String> {
    let key = match parts.headers.get(SEC_WEBSOCKET_KEY) {
        Some(key) => key.clone(),
        // Over HTTP/2 there is none (RFC 8441, section 5).
        None => {
            let mut nonce = [0; 16];
            getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
            HeaderValue::from_str(&STANDARD.encode(nonce)).map_err(|error| error.to_string())?
        }
    };
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    let mut request =
        exchange.upstream_request(parts, empty()).await.map_err(|refused| refused.message)?;
    *request.method_mut() = Method::GET;
    *request.uri_mut() = path.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_KEY, key);
    headers.entry(SEC_WEBSOCKET_VERSION).or_insert_with(|| HeaderValue::from_static("13"));
    Ok(request)
}

/// The answer that lets the client go on.
fn switched(response: Response<Incoming>, version: Version) -> Response<Body> {
    let (mut parts, _) = response.into_parts();
    if version == Version::HTTP_2 {
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
            parts.headers.remove(name);
        }
        parts.status = StatusCode::OK;
    }
    parts.version = version;
    Response::from_parts(parts, empty())
}

fn join(exchange: Exchange, theirs: OnUpgrade, ours: OnUpgrade) {
    let tasks = exchange.proxy.tasks.clone();
    let mut draining = exchange.proxy.draining();
    tasks.spawn(async move {
        let both = async {
            let (theirs, ours): (Upgraded, Upgraded) = tokio::try_join!(theirs, ours)?;
            let (mut theirs, mut ours) = (TokioIo::new(theirs), TokioIo::new(ours));
            copy_bidirectional_with_sizes(&mut theirs, &mut ours, IN_BETWEEN, IN_BETWEEN).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        tokio::select! {
            ended = both => if let Err(error) = ended {
                tracing::debug!(agent = %exchange.governed.name, %error, "upgraded connection broke");
            },
            () = draining.ended() => {}
        }
    });
}
