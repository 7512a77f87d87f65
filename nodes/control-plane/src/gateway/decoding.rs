//! Messages that cannot be decoded never reach a handler. This layer sees them go by: it gives them a
//! precise status and an audit entry, like everything else that an agent sends and the gateway refuses.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::{Gateway, presented};

/// Puts [`AuditDecoding`] around the gateway's service.
#[derive(Clone)]
pub struct DecodingLayer(Gateway);

/// A service whose decoding failures are audited.
#[derive(Clone)]
pub struct AuditDecoding<S> {
    inner: S,
    gateway: Gateway,
}

/// The status and the audit code of a message that could not be decoded; `None` for every other outcome.
/// The codec says OUT_OF_RANGE when a message is too large, and INTERNAL, which is the gateway's own
/// fault by its meaning, when one is not the protobuf message it should be.
pub(super) fn decoding_failure(status: &Status) -> Option<(Status, &'static str)> {
    match status.code() {
        Code::OutOfRange => Some((Status::out_of_range(status.message()), "message_too_large")),
        Code::Internal if status.message().contains("decode") => {
            let message = format!("the message is not valid protobuf: {}", status.message());
            Some((Status::invalid_argument(message), "undecodable_message"))
        }
        _ => None,
    }
}

// === impl DecodingLayer ===

impl DecodingLayer {
    /// A layer that records what it sees through `gateway`.
    pub const fn new(gateway: Gateway) -> Self {
        Self(gateway)
    }
}

impl<S> Layer<S> for DecodingLayer {
    type Service = AuditDecoding<S>;

    fn layer(&self, inner: S) -> AuditDecoding<S> {
        AuditDecoding { inner, gateway: self.0.clone() }
    }
}

// === impl AuditDecoding ===

impl<S, B, R> Service<Request<B>> for AuditDecoding<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let authorization = request.headers().get(http::header::AUTHORIZATION).cloned();
        let gateway = self.gateway.clone();
        let answering = self.inner.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            // A refusal without a message carries its status in the headers.
            let refused = Status::from_header_map(response.headers());
            let failure = refused.as_ref().and_then(decoding_failure);
            if let Some((status, code)) = failure {
                gateway.audit_of_bearer(authorization, code, &status).await;
                restate(&mut response, &status);
            }
            Ok(response)
        })
    }
}

impl Gateway {
    /// Audits a refusal where the request's token names an agent; without one there is nobody to name.
    async fn audit_of_bearer(
        &self,
        authorization: Option<HeaderValue>,
        code: &'static str,
        status: &Status,
    ) {
        let Some(token) = authorization.as_ref().and_then(presented) else { return };
        // A token that is refused has been audited as such.
        if let Ok(caller) = self.caller_of(token).await {
            self.audit_refusal(&caller.id, code, bounded(status.message())).await;
        }
    }
}

/// The codec's own words, cut to what an entry should hold.
pub(super) fn bounded(message: &str) -> String {
    message.chars().take(256).collect()
}

fn restate<R>(response: &mut Response<R>, status: &Status) {
    let headers = response.headers_mut();
    // A status made of a code and a printable message always fits headers.
    let _ = status.add_header(headers);
}
