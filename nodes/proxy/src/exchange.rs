//! One request: from its head to its answer's.
//!
//! ```text
//! head ─ target ─ caller ─┬─ recognised: body read, actions ──► decide ─► call (answer read, screened, settled)
//!                         └─ anything else: network_connect ──► decide ─► forward
//! ```

use std::{sync::Arc, time::Instant};

use aa_dialect::{Head, Operation, Refusal, RefusalCode, refuse_plain};
use aa_protocol::Action;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::HOST, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};

use crate::{
    agents::Governed,
    body::{Body, Timed, full},
    call::{self, Call},
    decide::decide,
    headers,
    intake::{Intake, read_body},
    proxy::Proxy,
    refusal,
    settings::Settings,
    target::{Origin, TargetError},
    trace::Trace,
    upgrade,
    upstream::UpstreamError,
};

/// What is known of a request before it is read.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// Where it goes.
    pub(crate) origin: Origin,
    /// Whose it is.
    pub(crate) governed: Arc<Governed>,
}

/// One request on its way.
pub(crate) struct Exchange {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) origin: Origin,
    pub(crate) governed: Arc<Governed>,
    pub(crate) trace: Option<Trace>,
    /// The agent's place among its requests under way.
    pub(crate) place: OwnedSemaphorePermit,
}

/// Answers a request that came over a connection to `arrival.origin`.
pub(crate) async fn handle(
    proxy: Arc<Proxy>,
    arrival: Arrival,
    request: Request<Incoming>,
) -> Response<Body> {
    let settings = proxy.settings();
    let (parts, body) = request.into_parts();
    if let Err(error) = arrival.origin.check(&parts, settings.limits.uri_bytes) {
        return malformed(&proxy, &arrival, &parts, &error);
    }
    let place = match Arc::clone(&arrival.governed.places).try_acquire_owned() {
        Ok(place) => place,
        Err(TryAcquireError::Closed | TryAcquireError::NoPermits) => {
            return refuse(None, &parts, &refusal::too_many_requests());
        }
    };
    let Arrival { origin, governed } = arrival;
    let trace = Trace::of(&parts.headers);
    let exchange = Exchange { proxy, settings, origin, governed, trace, place };
    exchange.run(parts, body).await
}

impl Exchange {
    async fn run(self, parts: Parts, body: Incoming) -> Response<Body> {
        let host = self.origin.authority.host.to_string();
        let head = Head {
            method: &parts.method,
            host: &host,
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        };
        if let Some(operation) = self.settings.dialects.recognise(&head) {
            return self.recognised(operation, parts, body).await;
        }
        let action = Action::NetworkConnect { host, port: self.origin.authority.port };
        if let Err(refused) = self.decided(&action).await {
            return refuse(None, &parts, &refused);
        }
        if upgrade::is_asked_for(&parts) {
            return upgrade::forward(self, parts, body).await;
        }
        self.forward(parts, body).await
    }

    /// Has an action decided and counts it.
    pub(crate) async fn decided(
        &self,
        action: &Action,
    ) -> Result<aa_client::Checked, Box<Refusal>> {
        let start = Instant::now();
        let decision = decide(&self.governed, action, self.trace, self.settings.patience).await;
        let metrics = &self.proxy.metrics;
        metrics.decision_time.observe(start.elapsed());
        if let Err(refused) = &decision {
            let counter = match refused.code {
                RefusalCode::Unavailable => &metrics.without_decision,
                _ => &metrics.refused,
            };
            counter.increment();
            tracing::info!(
                agent = %self.governed.name,
                upstream = %self.origin,
                code = refused.code.as_str(),
                rule = refused.rule.as_deref().unwrap_or_default(),
                event = refused.event_id.as_deref().unwrap_or_default(),
                "refused"
            );
        }
        decision
    }

    /// A request that nothing more is known of than where it goes.
    async fn forward(self, parts: Parts, body: Incoming) -> Response<Body> {
        let version = parts.version;
        let is_grpc = refusal::is_grpc(&parts.headers);
        let request =
            match self.upstream_request(parts, body.map_err(Into::into).boxed_unsync()).await {
                Ok(request) => request,
                Err(refused) => return answer_of(refuse_plain(&refused)),
            };
        match self.governed.upstreams.send(&self.origin.authority, request).await {
            Ok(response) => {
                let (mut parts, body) = response.into_parts();
                headers::end_hop(&mut parts.headers);
                parts.version = version;
                let silence = self.settings.timeouts.silence;
                Response::from_parts(parts, Timed::new(body, silence, self.place).boxed_unsync())
            }
            Err(error) => {
                let refused = self.upstream_failed(&error);
                if is_grpc { refusal::grpc(&refused) } else { answer_of(refuse_plain(&refused)) }
            }
        }
    }

    /// A call of a model or a tool.
    async fn recognised(
        self,
        operation: Operation,
        parts: Parts,
        body: Incoming,
    ) -> Response<Body> {
        let intake = match read_body(&parts.headers, body, &self.settings).await {
            Ok(intake) => intake,
            Err(error) => return refuse(Some(&operation), &parts, &error.refusal()),
        };
        let Intake { sent, read } = intake;
        let host = self.origin.authority.host.to_string();
        let head = Head {
            method: &parts.method,
            host: &host,
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        };
        let asked = match operation.read_request(&head, &read) {
            Ok(asked) => asked,
            Err(error) => {
                self.proxy.metrics.malformed.increment();
                return refuse(Some(&operation), &parts, &refusal::unreadable(&error));
            }
        };
        drop(read);
        let mut allowed = Vec::with_capacity(asked.actions.len());
        // A call that asks for nothing in particular still goes out to a host.
        let connect = Action::NetworkConnect { host, port: self.origin.authority.port };
        let actions =
            if asked.actions.is_empty() { std::slice::from_ref(&connect) } else { &asked.actions };
        for action in actions {
            match self.decided(action).await {
                Ok(checked) => allowed.push((action.clone(), checked.action_id)),
                Err(refused) => {
                    call::not_made(&self, &allowed);
                    return refuse(Some(&operation), &parts, &refused);
                }
            }
        }
        self.proxy.metrics.calls.increment();
        let version = parts.version;
        let mut request = match self.upstream_request(parts, full(sent)).await {
            Ok(request) => request,
            Err(refused) => {
                call::not_made(&self, &allowed);
                return answer_of(operation.refuse(None, &refused));
            }
        };
        headers::ask_for_readable(request.headers_mut());
        let call = Call { exchange: self, operation, asked, allowed };
        let mut response = call.make(request).await;
        *response.version_mut() = version;
        response
    }

    /// The request as it goes on, with secrets in the place of their placeholders.
    pub(crate) async fn upstream_request(
        &self,
        parts: Parts,
        body: Body,
    ) -> Result<Request<Body>, Box<Refusal>> {
        let uri = self.origin.uri(parts.uri.path_and_query()).map_err(|error| {
            refusal::bad_request(format!("the request's target cannot be sent on: {error}"))
        })?;
        let host = HeaderValue::from_str(&self.origin.host_header()).map_err(|error| {
            refusal::bad_request(format!("the host cannot be sent on: {error}"))
        })?;
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = parts.headers;
        headers::for_upstream(request.headers_mut());
        request.headers_mut().insert(HOST, host);
        let (client, agent) = (&self.proxy.fleet.client, self.governed.agent.id());
        let host = self.origin.authority.host.to_string();
        self.proxy.releases.fill(client, agent, &host, request.headers_mut()).await?;
        Ok(request)
    }

    /// Says and counts that an upstream did not answer.
    pub(crate) fn upstream_failed(&self, error: &UpstreamError) -> Box<Refusal> {
        self.proxy.metrics.upstream_failures.increment();
        tracing::warn!(agent = %self.governed.name, upstream = %self.origin, %error, "no answer");
        refusal::upstream(error)
    }
}

fn malformed(
    proxy: &Proxy,
    arrival: &Arrival,
    parts: &Parts,
    error: &TargetError,
) -> Response<Body> {
    proxy.metrics.malformed.increment();
    tracing::warn!(agent = %arrival.governed.name, upstream = %arrival.origin, %error, "malformed request");
    let refused = refusal::bad_request(error.to_string());
    let mut response = refuse(None, parts, &refused);
    if matches!(error, TargetError::TooLong { .. }) {
        *response.status_mut() = StatusCode::URI_TOO_LONG;
    }
    response
}

/// A refusal in the shape that the client of the request understands.
pub(crate) fn refuse(
    operation: Option<&Operation>,
    parts: &Parts,
    refused: &Refusal,
) -> Response<Body> {
    if refusal::is_grpc(&parts.headers) {
        return refusal::grpc(refused);
    }
    let refused = operation
        .map_or_else(|| refuse_plain(refused), |operation| operation.refuse(None, refused));
    let mut response = answer_of(refused);
    if parts.method == Method::HEAD {
        *response.body_mut() = crate::body::empty();
    }
    response
}

pub(crate) fn answer_of(refused: aa_dialect::Refused) -> Response<Body> {
    let mut response = Response::new(full(refused.body));
    *response.status_mut() = refused.status;
    response.headers_mut().extend(refused.headers);
    response
}
