//! Which headers go on, and which end at this hop (RFC 9110, section 7.6).

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_ENCODING, CONNECTION, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
};

/// Those that are between two neighbours by their definition; `TE: trailers` goes on, for gRPC asks for it.
const OF_ONE_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// What a body may be packed in for us to look into it.
const READABLE_ENCODINGS: HeaderValue = HeaderValue::from_static("gzip, br, zstd");

/// Takes out what ends here: the listed ones, and those that `Connection` names.
pub(crate) fn end_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // Whoever names one of these would have it taken out that tells where the message goes or ends.
        .filter(|name| *name != HOST && *name != http::header::CONTENT_LENGTH)
        .collect();
    let trailers = headers.get_all(TE).iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
        })
    });
    for name in OF_ONE_HOP.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Readies a request's headers for the upstream. The body is sent at once, so nobody waits for `100 Continue`.
pub(crate) fn for_upstream(headers: &mut HeaderMap) {
    end_hop(headers);
    headers.remove(EXPECT);
}

/// Has the upstream answer in an encoding that can be looked into.
pub(crate) fn ask_for_readable(headers: &mut HeaderMap) {
    if headers.contains_key(ACCEPT_ENCODING) {
        headers.insert(ACCEPT_ENCODING, READABLE_ENCODINGS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_connection_names_ends_here() {
        let mut given = headers(&[
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("x-theirs", "2"),
            ("proxy-authorization", "Basic eA=="),
        ]);
        for_upstream(&mut given);
        assert_eq!(given, headers(&[("x-theirs", "2")]));
    }

    #[test]
    fn connection_cannot_take_out_the_host_or_the_length() {
        let mut given = headers(&[
            ("connection", "host, content-length"),
            ("host", "a"),
            ("content-length", "3"),
        ]);
        for_upstream(&mut given);
        assert_eq!(given, headers(&[("host", "a"), ("content-length", "3")]));
    }

    #[test]
    fn only_trailers_of_te_go_on() {
        let mut given = headers(&[("te", "gzip, trailers"), ("connection", "te")]);
        for_upstream(&mut given);
        assert_eq!(given, headers(&[("te", "trailers")]));
        let mut given = headers(&[("te", "gzip")]);
        for_upstream(&mut given);
        assert_eq!(given, HeaderMap::new());
    }
}
