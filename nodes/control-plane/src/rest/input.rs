//! Reading requests: strictly, bounded, and with refusals that say what was expected.

use std::time::Duration;

use aa_protocol::parse_json;
use aa_vault::{MAX_SECRET_BYTES, SecretValue};
use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, header, request::Parts},
};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use zeroize::Zeroize;

use super::problem::{Problem, ProblemKind};

/// Query parameters; unknown ones are refused where `T` refuses them.
pub(crate) struct Params<T>(pub(crate) T);

/// The variable part of the path.
pub(crate) struct PathPart<T>(pub(crate) T);

/// A JSON body of at most `MAX` bytes without duplicate keys.
pub(crate) struct JsonBody<T, const MAX: usize = MAX_JSON>(pub(crate) T);

/// A [`JsonBody`] of the usual size, the default when there is no body.
pub(crate) struct OptionalJson<T>(pub(crate) T);

/// A policy document as it is in the operator's file.
pub(crate) struct DocumentBody(pub(crate) Bytes);

/// A body of any type as it is, of at most `MAX` bytes.
pub(crate) struct RawBody<const MAX: usize>(pub(crate) Bytes);

/// A secret as it is, of any bytes.
pub(crate) struct SecretBody(pub(crate) SecretValue);

/// JSON bodies are small, with few exceptions.
const MAX_JSON: usize = 64 << 10;

/// A document may have 1 MiB. A little more is read, so that one just past the bound is refused by the
/// check, which says so like every other error of a document.
const MAX_DOCUMENT: usize = (1 << 20) + (64 << 10);

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

// === impl Params ===

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(invalid(rejection.body_text())),
        }
    }
}

// === impl PathPart ===

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathPart<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(part)) => Ok(Self(part)),
            Err(rejection) => Err(invalid(rejection.body_text())),
        }
    }
}

// === impl JsonBody ===

impl<T: DeserializeOwned, const MAX: usize, S: Send + Sync> FromRequest<S> for JsonBody<T, MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        check_type(request.headers(), &["application/json"])?;
        let body = read(request.into_body(), MAX).await?;
        parse(&body).map(Self)
    }
}

// === impl OptionalJson ===

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let checked = check_type(request.headers(), &["application/json"]);
        let body = read(request.into_body(), MAX_JSON).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        checked?;
        parse(&body).map(Self)
    }
}

// === impl DocumentBody ===

impl<S: Send + Sync> FromRequest<S> for DocumentBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        const TYPES: [&str; 6] = [
            "application/yaml",
            "application/json",
            "application/x-yaml",
            "text/yaml",
            "text/plain",
            "application/octet-stream",
        ];
        if request.headers().contains_key(header::CONTENT_TYPE) {
            check_type(request.headers(), &TYPES)?;
        }
        Ok(Self(read(request.into_body(), MAX_DOCUMENT).await?))
    }
}

// === impl RawBody ===

impl<const MAX: usize, S: Send + Sync> FromRequest<S> for RawBody<MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        Ok(Self(read(request.into_body(), MAX).await?))
    }
}

// === impl SecretBody ===

impl<S: Send + Sync> FromRequest<S> for SecretBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        check_type(request.headers(), &["application/octet-stream"])?;
        let body = read(request.into_body(), MAX_SECRET_BYTES).await?;
        let value = SecretValue::copy_of(&body).map_err(|error| invalid(error.to_string()));
        // What the connection has buffered besides, nobody can wipe from here.
        if let Ok(mut body) = body.try_into_mut() {
            body.as_mut().zeroize();
        }
        Ok(Self(value?))
    }
}

fn check_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.map(|given| given.split(';').next().unwrap_or(given).trim());
    if essence.is_some_and(|essence| {
        accepted.iter().any(|accepted| essence.eq_ignore_ascii_case(accepted))
    }) {
        return Ok(());
    }
    let given = given.map_or("without a content type".to_owned(), |given| format!("`{given}`"));
    let detail = format!("the body is {given}; send it as {}", accepted.join(", "));
    Err(Problem::new(ProblemKind::UnsupportedMediaType, detail))
}

async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body has more than {limit} bytes, the most that is read here");
        Problem::new(ProblemKind::BodyTooLarge, detail)
    };
    // What says beforehand that it is too large is not waited for.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if is_too_large(&*error) => Err(too_large()),
        Ok(Err(_)) => Err(invalid("the body broke off".to_owned())),
        Err(_elapsed) => Err(Problem::new(
            ProblemKind::RequestTimeout,
            format!("the body did not arrive within {BODY_TIMEOUT:?}"),
        )),
    }
}

fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(<dyn std::error::Error>::is::<LengthLimitError>)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let text =
        std::str::from_utf8(body).map_err(|_| invalid("the body is not UTF-8".to_owned()))?;
    let value = parse_json(text).map_err(|error| invalid(format!("the body: {error}")))?;
    // An array would be taken for the members in their order, and an empty one for all their defaults.
    if !value.is_object() {
        return Err(invalid("the body: it must be a JSON object".to_owned()));
    }
    serde_json::from_value(value).map_err(|error| invalid(format!("the body: {error}")))
}

pub(crate) fn invalid(detail: String) -> Problem {
    Problem::new(ProblemKind::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let never = futures::stream::pending::<Result<Bytes, std::convert::Infallible>>();
        let problem = read(Body::from_stream(never), MAX_JSON).await.unwrap_err();
        assert_eq!((problem.status, problem.name()), (408, "request-timeout"));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_refused() {
        let broken = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("reset"))]);
        let problem = read(Body::from_stream(broken), MAX_JSON).await.unwrap_err();
        assert_eq!((problem.status, problem.name()), (400, "invalid-request"));
    }
}
