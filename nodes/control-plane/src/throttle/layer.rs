//! The throttle in front of the gateway's services.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use aa_governance::{Governance, api_key::ApiKey};
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use tonic::{Code, Status, transport::server::TcpConnectInfo};
use tower::{Layer, Service};

use super::{FailureThrottle, TooManyFailures};
use crate::{gateway, token::TokenKey};

/// Puts [`Throttled`] around a service.
#[derive(Clone)]
pub struct ThrottleLayer(Arc<Shared>);

/// A service whose failed authentications are counted, and refused past their rate.
#[derive(Clone)]
pub struct Throttled<S> {
    inner: S,
    shared: Arc<Shared>,
}

struct Shared {
    throttle: Arc<FailureThrottle>,
    tokens: TokenKey,
    governance: Governance,
}

// === impl ThrottleLayer ===

impl ThrottleLayer {
    /// A layer that counts by `throttle` and tells valid credentials by `tokens` and `governance`.
    pub fn new(throttle: Arc<FailureThrottle>, tokens: TokenKey, governance: Governance) -> Self {
        Self(Arc::new(Shared { throttle, tokens, governance }))
    }
}

impl<S> Layer<S> for ThrottleLayer {
    type Service = Throttled<S>;

    fn layer(&self, inner: S) -> Throttled<S> {
        Throttled { inner, shared: Arc::clone(&self.0) }
    }
}

// === impl Throttled ===

impl<S, B, R> Service<Request<B>> for Throttled<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(peer) = peer_of(&request) else { return Box::pin(self.inner.call(request)) };
        let shared = Arc::clone(&self.shared);
        let Some(past) = shared.throttle.past(peer) else {
            let answering = self.inner.call(request);
            return Box::pin(async move { Ok(shared.counted(peer, answering.await?)) });
        };
        // What was made ready is what is called; its clone is made ready anew.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            // Without a credential nothing is looked up and nothing recorded: the handler's own refusal
            // costs least, and what needs no credential goes on.
            let presented = request.headers().get(AUTHORIZATION).cloned();
            if let Some(presented) = presented
                && !shared.is_valid(&presented).await
            {
                // Meanwhile there may be room again; the answer stands all the same.
                let past = shared.throttle.failed(peer).err().unwrap_or(past);
                return Ok(status(past).into_http());
            }
            Ok(shared.counted(peer, inner.call(request).await?))
        })
    }
}

// === impl Shared ===

impl Shared {
    /// Counts an answer that says the caller did not authenticate, and replaces it past the rate.
    fn counted<R: Default>(&self, peer: IpAddr, answer: Response<R>) -> Response<R> {
        let is_failure = Status::from_header_map(answer.headers())
            .is_some_and(|status| status.code() == Code::Unauthenticated);
        if !is_failure {
            return answer;
        }
        match self.throttle.failed(peer) {
            Ok(()) => answer,
            Err(past) => status(past).into_http(),
        }
    }

    /// Whether a credential would be accepted; where that cannot be told now, the handler shall say so.
    async fn is_valid(&self, presented: &HeaderValue) -> bool {
        let Some(text) = gateway::presented(presented) else { return false };
        match ApiKey::parse(text) {
            Some(key) => !matches!(self.governance.authenticate(&key).await, Ok(None)),
            None => self.tokens.verify(text, self.throttle.clock.now()).is_ok(),
        }
    }
}

fn peer_of<B>(request: &Request<B>) -> Option<IpAddr> {
    Some(request.extensions().get::<TcpConnectInfo>()?.remote_addr()?.ip())
}

fn status(past: TooManyFailures) -> Status {
    let wait = u64::try_from(past.retry_after.as_millis()).unwrap_or(u64::MAX).max(1);
    gateway::with_retry(Status::resource_exhausted(past.to_string()), wait)
}
