//! What holds for every request: bounds, headers, and that errors leave as problem documents.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;

use super::{
    ApiState,
    problem::{PROBLEM_JSON, Problem, ProblemKind},
};

/// The longest a request may take until its response begins.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Nothing here is for caches, frames or guessing types, and nothing is ever plain HTTP.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];

pub(crate) async fn guard(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = bounded(&state, request, next).await;
    if is_bare_error(&response) {
        response = explain(response.status(), &method, &path);
    }
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, value);
    }
    response
}

async fn bounded(state: &ApiState, request: Request, next: Next) -> Response {
    let Ok(_held) = state.requests.try_acquire() else {
        let detail = "too many requests are being answered; try again";
        return Problem::new(ProblemKind::Overloaded, detail).retry_after(1).into_response();
    };
    // A panic would otherwise end the connection, and with it the other requests on it.
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => {
            tracing::error!("a handler of the operator API panicked");
            let detail = "the request failed; the server's log says why";
            Problem::new(ProblemKind::Internal, detail).into_response()
        }
        Err(_elapsed) => {
            let detail = format!("no answer was ready within {REQUEST_TIMEOUT:?}; try again");
            Problem::new(ProblemKind::Unavailable, detail).retry_after(1).into_response()
        }
    }
}

/// Whether the router refused the request before a handler could.
fn is_bare_error(response: &Response) -> bool {
    let status = response.status();
    let is_problem = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes() == PROBLEM_JSON.as_bytes());
    (status.is_client_error() || status.is_server_error()) && !is_problem
}

fn explain(status: StatusCode, method: &Method, path: &str) -> Response {
    let detail = match status {
        StatusCode::NOT_FOUND => {
            format!("there is nothing at `{path}`; /api/v1/openapi.json lists what there is")
        }
        // The router adds the header `Allow` once this has passed.
        StatusCode::METHOD_NOT_ALLOWED => {
            format!("`{path}` does not take {method}; the header `Allow` says what it takes")
        }
        _ => status.canonical_reason().unwrap_or("the request was refused").to_lowercase(),
    };
    let mut problem = Problem::new(ProblemKind::of_status(status), detail);
    problem.status = status.as_u16();
    problem.into_response()
}
