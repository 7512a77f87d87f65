//! Refusals that no decision is behind, and the shape that gRPC clients understand.

use std::time::Duration;

use aa_dialect::{Refusal, RefusalCode, Unreadable};
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{
    body::{Body, empty},
    breaker::Open,
    dial::DialError,
    upstream::{ConnectError, UpstreamError},
};

/// What `grpc-message` may not hold as it is (gRPC over HTTP/2, "Responses").
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

pub(crate) fn new(code: RefusalCode, message: impl Into<String>, next: &str) -> Box<Refusal> {
    Box::new(Refusal {
        code,
        rule: None,
        message: message.into(),
        next: next.to_owned(),
        event_id: None,
        retry_after: None,
    })
}

pub(crate) fn bad_request(message: impl Into<String>) -> Box<Refusal> {
    new(RefusalCode::BadRequest, message, "mend the request; the same one is refused again")
}

pub(crate) fn unreadable(error: &Unreadable) -> Box<Refusal> {
    bad_request(error.to_string())
}

pub(crate) fn too_large(message: impl Into<String>) -> Box<Refusal> {
    new(
        RefusalCode::TooLarge,
        message,
        "send less at once, or have the proxy's operator raise limits.call_bytes",
    )
}

pub(crate) fn timed_out(message: impl Into<String>) -> Box<Refusal> {
    new(RefusalCode::TimedOut, message, "send the request again, without pauses within it")
}

pub(crate) fn internal() -> Box<Refusal> {
    new(
        RefusalCode::UpstreamFailed,
        "the proxy failed on this request; what was reserved for it is charged in full when it expires",
        "tell the proxy's operator; its log has more",
    )
}

pub(crate) fn too_many_requests() -> Box<Refusal> {
    let mut refused = new(
        RefusalCode::RateLimited,
        "the agent has as many requests under way as it may",
        "wait for one of them to end, or have the proxy's operator raise the agent's max_requests",
    );
    refused.retry_after = Some(Duration::from_secs(1));
    refused
}

/// A stream in which a pattern matched.
pub(crate) fn cut() -> Box<Refusal> {
    new(
        RefusalCode::SensitiveData,
        "the answer was cut: a sensitive pattern of the policy matched in it",
        "ask for an answer without sensitive data, or have the policy's owner look at spec.data",
    )
}

pub(crate) fn upstream_unreadable(message: impl Into<String>) -> Box<Refusal> {
    new(
        RefusalCode::UpstreamFailed,
        message,
        "the upstream answered in an encoding that cannot be looked into; nothing of it was passed on",
    )
}

/// An answer that did not come to its end.
pub(crate) fn answer_broke_off(error: &dyn std::error::Error) -> Box<Refusal> {
    new(
        RefusalCode::UpstreamFailed,
        format!("the upstream's answer broke off: {error}"),
        "it was acted on and may cost; check before the same is sent again",
    )
}

/// An upstream that did not answer.
pub(crate) fn upstream(error: &UpstreamError) -> Box<Refusal> {
    let (code, next, retry_after) = match error {
        UpstreamError::Open(Open { retry_after, .. }) => (
            RefusalCode::Unavailable,
            "try again after the time told, or use another upstream",
            Some(*retry_after),
        ),
        UpstreamError::Connect(error) if is_refused(error) => (
            RefusalCode::Denied,
            "the address is internal: have the proxy's operator list it under hosts.allow_internal, if it is meant",
            None,
        ),
        UpstreamError::Connect(error) if matches!(**error, ConnectError::NoRoom { .. }) => (
            RefusalCode::RateLimited,
            "wait for requests under way to end, or have the proxy's operator raise the agent's max_connections",
            Some(Duration::from_secs(1)),
        ),
        UpstreamError::Connect(error) if matches!(**error, ConnectError::Tls(_)) => (
            RefusalCode::UpstreamFailed,
            "the upstream did not prove who it is, so nothing was sent; look at its certificate and the proxy's [upstream] settings",
            None,
        ),
        UpstreamError::Connect(_) => (
            RefusalCode::Unavailable,
            "nothing was sent; try again, and check that the host exists and answers",
            None,
        ),
        UpstreamError::Timeout { .. } => (
            RefusalCode::TimedOut,
            "it may have been acted on; check before the same is sent again",
            None,
        ),
        UpstreamError::Broken { .. } => (
            RefusalCode::UpstreamFailed,
            "it may have been acted on; check before the same is sent again",
            None,
        ),
    };
    let mut refused = new(code, error.to_string(), next);
    refused.retry_after = retry_after;
    refused
}

fn is_refused(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Dial(DialError::Refused { .. }))
}

/// Whether the client speaks gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// A refusal as gRPC's trailers without an answer.
pub(crate) fn grpc(refused: &Refusal) -> Response<Body> {
    let status = match refused.code {
        RefusalCode::Denied | RefusalCode::ApprovalRequired { .. } | RefusalCode::SensitiveData => {
            "7"
        }
        RefusalCode::BudgetExceeded | RefusalCode::RateLimited | RefusalCode::TooLarge => "8",
        RefusalCode::BadRequest => "3",
        RefusalCode::TimedOut => "4",
        RefusalCode::Unavailable | RefusalCode::UpstreamFailed => "14",
        RefusalCode::UnknownCaller => "16",
    };
    let mut response = Response::new(empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(status));
    let message = format!("{}; {}", refused.message, refused.next);
    let message = utf8_percent_encode(&message, GRPC_MESSAGE).to_string();
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert("grpc-message", message);
    }
    if let Some(event) =
        refused.event_id.as_deref().and_then(|event| HeaderValue::from_str(event).ok())
    {
        headers.insert("agent-assembly-event", event);
    }
    response
}

/// Somebody of whom nothing says who it is.
pub(crate) fn unknown_caller(message: impl Into<String>) -> Box<Refusal> {
    new(RefusalCode::UnknownCaller, message, "say which agent this is")
}
