//! Where gateways listen, as their owner wrote it down.

use std::{collections::HashSet, fmt, net::IpAddr, str::FromStr};

use crate::config::ConfigError;

/// One gateway's address: `https://host[:port]`, or `http://` on a loopback host. The port is 443, or 80,
/// unless said. Host names are compared without regard to case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GatewayUrl {
    tls: bool,
    host: String,
    port: u16,
}

/// The addresses of gateways that serve the same workspace, such as the nodes of one cluster: 1 to 64,
/// none twice.
///
/// Written down they are separated by commas, by whitespace or by both. The order they are written in does
/// not matter: each [`Client`](crate::Client) puts them into a random order of its own, which spreads
/// clients over gateways, and those of a gateway that fails over the others.
#[derive(Clone, PartialEq, Eq)]
pub struct GatewayUrls(Vec<GatewayUrl>);

/// What is wrong with an address; the sentence goes on from "is not usable: ".
type Problem = String;

pub(crate) const GATEWAY_URL: &str = "AAA_GATEWAY_URL";
pub(crate) const DEFAULT_GATEWAY_URL: &str = "https://127.0.0.1:7443";
const MAX_GATEWAYS: usize = 64;
/// How many addresses a message to people names.
const NAMED: usize = 3;

// === impl GatewayUrl ===

impl GatewayUrl {
    pub(crate) const fn tls(&self) -> bool {
        self.tls
    }

    /// The host without the brackets of an IPv6 literal.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Reads an address. What it says of a bad one does not repeat it: somebody may have put a password in.
    fn read(text: &str) -> Result<Self, Problem> {
        let wrong_form =
            || format!("write it as https://host:port, for example {DEFAULT_GATEWAY_URL}");
        let uri: http::Uri = text.parse().map_err(|_| wrong_form())?;
        let authority = uri.authority().ok_or_else(wrong_form)?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if !bare || authority.as_str().contains('@') {
            return Err(wrong_form());
        }
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong_form()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let host = host.to_ascii_lowercase();
        if host.is_empty() {
            return Err(wrong_form());
        }
        if !tls && !is_loopback(&host) {
            return Err(format!(
                "http:// would send the API key to `{host}` in the clear; write https://"
            ));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port })
    }
}

impl FromStr for GatewayUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::read(text).map_err(malformed)
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl GatewayUrls ===

impl GatewayUrls {
    /// Takes addresses.
    ///
    /// # Errors
    /// There is none, there are more than 64, or one is there twice.
    pub fn new(urls: impl IntoIterator<Item = GatewayUrl>) -> Result<Self, ConfigError> {
        // One more than may be, so that an endless iterator ends too.
        let urls: Vec<_> = urls.into_iter().take(MAX_GATEWAYS + 1).collect();
        if urls.is_empty() {
            return Err(malformed("it names no gateway; write one address or several".to_owned()));
        }
        if urls.len() > MAX_GATEWAYS {
            return Err(malformed(format!(
                "it names more than {MAX_GATEWAYS} gateways; write at most so many, or a name that \
                 stands for all of them"
            )));
        }
        let mut known = HashSet::new();
        if let Some(twice) = urls.iter().find(|url| !known.insert(*url)) {
            return Err(malformed(format!("it names {twice} twice; write each address once")));
        }
        Ok(Self(urls))
    }

    /// The addresses, in the order they were written in.
    pub fn as_slice(&self) -> &[GatewayUrl] {
        &self.0
    }

    /// Them, or the first few, in a sentence.
    pub(crate) fn summary(&self) -> String {
        let named: Vec<_> = self.0.iter().take(NAMED).map(ToString::to_string).collect();
        let (gateways, named) =
            (if named.len() == 1 { "gateway" } else { "gateways" }, named.join(", "));
        match self.0.len().saturating_sub(NAMED) {
            0 => format!("the {gateways} at {named}"),
            more => format!("the {gateways} at {named} and {more} more"),
        }
    }
}

impl From<GatewayUrl> for GatewayUrls {
    fn from(url: GatewayUrl) -> Self {
        Self(vec![url])
    }
}

impl FromStr for GatewayUrls {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut urls = Vec::new();
        for between_commas in text.split(',') {
            let mut items = between_commas.split_whitespace().peekable();
            if items.peek().is_none() {
                let nth = urls.len() + 1;
                return Err(malformed(format!(
                    "address {nth} is empty; write addresses with one comma or space between two"
                )));
            }
            for item in items {
                let nth = urls.len() + 1;
                // More are refused below, and need not be read.
                if nth > MAX_GATEWAYS + 1 {
                    break;
                }
                let is_only = text.trim() == item;
                urls.push(GatewayUrl::read(item).map_err(|problem| {
                    malformed(if is_only { problem } else { format!("address {nth}: {problem}") })
                })?);
            }
        }
        Self::new(urls)
    }
}

impl fmt::Display for GatewayUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for url in &self.0 {
            write!(f, "{separator}{url}")?;
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for GatewayUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

const fn malformed(problem: Problem) -> ConfigError {
    ConfigError::Malformed { variable: GATEWAY_URL, problem }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        text.parse::<GatewayUrls>().unwrap_err().to_string()
    }

    #[test]
    fn plaintext_is_for_loopback_only() {
        for accepted in [
            "http://127.0.0.1:1",
            "http://localhost:1",
            "http://[::1]:1",
            "https://[2001:db8::1]:1",
        ] {
            assert_eq!(accepted.parse::<GatewayUrl>().unwrap().to_string(), accepted);
        }
        let error = "http://gateway.example:1".parse::<GatewayUrl>().unwrap_err().to_string();
        assert!(error.contains("write https://"), "{error}");
        for refused in ["gateway:1", "ftp://a:1", "https://", "https://a/path", "https://u:p@a:1"] {
            assert!(refused.parse::<GatewayUrl>().is_err(), "{refused}");
        }
    }

    #[test]
    fn several_are_separated_by_commas_or_whitespace() {
        for text in [
            "https://a:1,https://b:2,http://[::1]:3",
            " https://a:1 https://B:2\n\thttp://[::1]:3 ",
            "https://a:1, https://b:2 ,http://[::1]:3/",
        ] {
            let urls: GatewayUrls = text.parse().unwrap();
            assert_eq!(urls.to_string(), "https://a:1,https://b:2,http://[::1]:3");
            assert_eq!(urls.to_string().parse::<GatewayUrls>().unwrap(), urls);
        }
    }

    #[test]
    fn a_list_with_a_mistake_is_refused_with_its_place() {
        let start = "AAA_GATEWAY_URL is not usable: ";
        assert!(problem("").starts_with(&format!("{start}address 1 is empty")));
        for (text, nth) in [("https://a:1,,https://b:2", 2), ("https://a:1 https://b:2, ", 3)] {
            let error = problem(text);
            assert!(error.starts_with(&format!("{start}address {nth} is empty")), "{error}");
        }
        let error = problem("https://a:1, ftp://b:2");
        assert!(error.starts_with(&format!("{start}address 2: write it as https://")), "{error}");
        let error = problem("https://a:1 https://user:hunter2@b:2");
        assert!(error.starts_with(&format!("{start}address 2: ")), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        let error = problem("https://a:1,http://b:2");
        assert!(error.contains("address 2: http:// would send the API key to `b`"), "{error}");
        assert_eq!(
            problem("a"),
            format!("{start}write it as https://host:port, for example https://127.0.0.1:7443")
        );
    }

    #[test]
    fn no_address_counts_twice_however_it_is_written() {
        for text in ["https://a https://a:443", "https://A:1,https://a:1/"] {
            assert!(problem(text).contains("twice; write each address once"), "{text}");
        }
        assert!(
            "https://a:1 http://localhost:1 https://localhost:1".parse::<GatewayUrls>().is_ok()
        );
    }

    #[test]
    fn there_are_64_at_most() {
        let list = |count: usize| {
            let urls: Vec<_> = (1..=count).map(|port| format!("https://a:{port}")).collect();
            urls.join(" ")
        };
        assert_eq!(list(64).parse::<GatewayUrls>().unwrap().as_slice().len(), 64);
        for count in [65, 10_000] {
            assert!(problem(&list(count)).contains("more than 64 gateways"), "{count}");
        }
        let (one, many): (GatewayUrls, GatewayUrls) =
            (list(1).parse().unwrap(), list(5).parse().unwrap());
        assert_eq!(one.summary(), "the gateway at https://a:1");
        assert_eq!(
            many.summary(),
            "the gateways at https://a:1, https://a:2, https://a:3 and 2 more"
        );
    }
}
