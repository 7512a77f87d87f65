//! The head of a request, as far as it tells which provider's call it is.

use std::borrow::Cow;

use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

/// What is known of a request before its body.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The host it goes to: lower case, without port and trailing dot.
    pub host: &'a str,
    /// The path as it is sent, percent-encoded.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// A path as servers resolve it: decoded, without empty and dot segments, so that no spelling of it goes
/// unrecognised.
#[derive(Debug)]
pub(crate) struct Route {
    segments: Vec<String>,
}

// === impl Head ===

impl Head<'_> {
    /// Whether the request calls something: a POST, or what Google takes for one.
    pub(crate) fn is_call(&self) -> bool {
        let overriding = self.header("x-http-method-override");
        *self.method == Method::POST
            || overriding.is_some_and(|method| method.eq_ignore_ascii_case("POST"))
    }

    /// A header that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The parameters of the query, decoded.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let pairs = self.query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        })
    }
}

/// Decodes a part of a query, `+` being a space.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let text = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&text).decode_utf8_lossy().into_owned())
}

// === impl Route ===

impl Route {
    pub(crate) fn of(path: &str) -> Self {
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let mut segments: Vec<String> = Vec::new();
        for segment in decoded.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    segments.pop();
                }
                segment => segments.push(segment.to_owned()),
            }
        }
        Self { segments }
    }

    pub(crate) fn segments(&self) -> &[String] {
        &self.segments
    }

    /// Whether the last segments are these, whatever their case.
    pub(crate) fn ends_with(&self, last: &[&str]) -> bool {
        let start = self.segments.len().checked_sub(last.len());
        let own = start.map(|start| &self.segments[start..]);
        own.is_some_and(|own| are_alike(own, last))
    }

    /// Whether the first segments are those of this path.
    pub(crate) fn starts_with(&self, first: &Self) -> bool {
        let first: Vec<&str> = first.segments.iter().map(String::as_str).collect();
        self.segments.get(..first.len()).is_some_and(|own| are_alike(own, &first))
    }

    /// The segment after the first of this name, whatever its case.
    pub(crate) fn after(&self, name: &str) -> Option<&str> {
        let at = self.segments.iter().position(|segment| segment.eq_ignore_ascii_case(name))?;
        self.segments.get(at + 1).map(String::as_str)
    }
}

fn are_alike(own: &[String], other: &[&str]) -> bool {
    own.len() == other.len()
        && own.iter().zip(other).all(|(own, other)| own.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_a_path_goes_unrecognised() {
        for path in [
            "/v1/chat/completions",
            "/v1/chat/completions/",
            "//v1//chat/./completions",
            "/v1/x/../chat/completions",
            "/v1/chat%2Fcompletions",
            "/v1/ch%61t/Completions",
        ] {
            assert!(Route::of(path).ends_with(&["v1", "chat", "completions"]), "{path}");
        }
        assert!(!Route::of("/v1/chat/completions/x").ends_with(&["chat", "completions"]));
    }
}
