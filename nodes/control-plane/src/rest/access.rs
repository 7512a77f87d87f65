//! Who asks, and whether they may.

use std::sync::Arc;

use aa_governance::{Permit, Principal, api_key::ApiKey, permission::Operation};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
};

use super::{
    ApiState, PeerAddress,
    problem::{Problem, ProblemKind, whole_seconds},
};

/// The permit of the caller. A handler that takes it cannot run without one.
pub(crate) struct Authorized<O>(pub(crate) Permit<O>);

// === impl Authorized ===

impl<O: Operation> FromRequestParts<Arc<ApiState>> for Authorized<O> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<ApiState>) -> Result<Self, Problem> {
        let principal = match authenticate(&parts.headers, state).await {
            Err(problem) if problem.status == StatusCode::UNAUTHORIZED => {
                let peer = parts.extensions.get().copied();
                return Err(counted_failure(problem, peer, state));
            }
            authenticated => authenticated?,
        };
        Ok(Self(principal.authorize()?))
    }
}

/// Counts a failed authentication, and replaces what is said of it past the peer's rate.
pub(crate) fn counted_failure(
    problem: Problem,
    peer: Option<PeerAddress>,
    state: &ApiState,
) -> Problem {
    let Some(PeerAddress(peer)) = peer else { return problem };
    match state.throttle.failed(peer) {
        Ok(()) => problem,
        Err(past) => Problem::new(ProblemKind::TooManyFailures, past.to_string())
            .retry_after(whole_seconds(past.retry_after)),
    }
}

async fn authenticate(headers: &HeaderMap, state: &ApiState) -> Result<Principal, Problem> {
    let key = bearer(headers).ok_or_else(|| {
        unauthenticated("send the header `Authorization: Bearer <API key>`, once")
    })?;
    let refused = || unauthenticated("this API key is unknown or revoked");
    let key = ApiKey::parse(key).ok_or_else(refused)?;
    state.governance.authenticate(&key).await?.ok_or_else(refused)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut presented = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (presented.next(), presented.next()) else { return None };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn unauthenticated(detail: &str) -> Problem {
    Problem::new(ProblemKind::Unauthenticated, detail)
}
