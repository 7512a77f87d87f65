//! One HTTP request and what its answer means.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use aa_protocol::Timestamp;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use reqwest::{Method, Request, Response, Url};

use super::{CHECK_RECEIVER, Failure, SET_ANEW, SendError, Sender, Sent, WAIT};
use crate::{guard::GuardError, text::plain};

/// How much is read of an answer of Slack's, in bytes, for the word that says what is wrong.
const MAX_WORD_BYTES: usize = 64;

// === impl Sender ===

impl Sender {
    pub(super) async fn post(
        &self,
        url: Url,
        headers: HeaderMap,
        body: Vec<u8>,
        place: &str,
        now: Timestamp,
        is_slack: bool,
    ) -> Result<Sent, SendError> {
        // The client looks names up under the guard, but dials an address as it stands in a URL.
        let url = self.guard.admit_url(url.as_str());
        let url = url.map_err(|error| SendError::guarded(place, &error))?;
        let mut request = Request::new(Method::POST, url);
        *request.headers_mut() = headers;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        *request.body_mut() = Some(body.into());
        let response = self.client.execute(request).await;
        let response = response.map_err(|error| self.unanswered(place, &error))?;
        let status = response.status();
        if status.is_success() {
            // Its body says nothing to us: it is not read, however long it is.
            return Ok(Sent { code: status.as_u16() });
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| wish(value, now));
        let word = if is_slack { word(response).await } else { None };
        let word = word.map(|word| format!(" ({word})")).unwrap_or_default();
        let (failure, remedy) = meaning(status, retry_after);
        let problem = format!("answered {}{word}", status.as_u16());
        let (place, remedy) = (place.to_owned(), remedy.into());
        Err(SendError { place, problem, remedy, failure })
    }

    fn unanswered(&self, place: &str, error: &reqwest::Error) -> SendError {
        if let Some(error) = guard_error(error) {
            return SendError::guarded(place, error);
        }
        if error.is_timeout() {
            return SendError::late(place, self.limits.http);
        }
        let problem = format!("could not be reached: {}", causes(error));
        SendError::for_now(place, problem, CHECK_RECEIVER)
    }
}

/// What a status other than a success means.
fn meaning(status: StatusCode, retry_after: Option<Duration>) -> (Failure, &'static str) {
    match status.as_u16() {
        300..=399 => (Failure::ForGood, "redirects are not followed; set the URL it redirects to"),
        410 => (Failure::Gone, "it wants no more messages; remove or change the destination"),
        401 | 403 => {
            (Failure::ForGood, "see that it checks signatures with the secret of the destination")
        }
        408 | 425 | 429 => (Failure::ForNow { retry_after }, WAIT),
        400..=499 => (Failure::ForGood, SET_ANEW),
        _ => (Failure::ForNow { retry_after }, WAIT),
    }
}

/// How long `Retry-After` asks to wait: seconds, or a date (RFC 9110 §10.2.3).
fn wish(value: &HeaderValue, now: Timestamp) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    let at = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let now = Duration::from_micros(now.as_micros().max(0).unsigned_abs());
    Some(at.saturating_sub(now))
}

/// What Slack says is wrong, such as `channel_is_archived`.
async fn word(mut response: Response) -> Option<String> {
    let chunk = response.chunk().await.ok()??;
    let text = std::str::from_utf8(&chunk).ok()?.trim();
    let is_word = (1..=MAX_WORD_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_word.then(|| text.to_owned())
}

fn guard_error(error: &reqwest::Error) -> Option<&GuardError> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The innermost cause of an error. The outer ones tell the URL.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut innermost: Option<&dyn Error> = error.source();
    while let Some(cause) = innermost.and_then(Error::source) {
        innermost = Some(cause);
    }
    let text = innermost.map(ToString::to_string);
    plain(text.as_deref().unwrap_or("no answer"), 200)
}
