//! Hosts and the globs that match them.
//!
//! Both sides are brought to one form first: lower case, IDNA to ASCII (UTS 46), without port and
//! trailing dot, IP literals canonical. What cannot be brought to it is no host and matches nothing.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use idna::{
    AsciiDenyList,
    uts46::{DnsLength, Hyphens, Uts46},
};

/// A host in its normal form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name in ASCII.
    Name(String),
    /// An IP literal.
    Ip(IpAddr),
}

/// One compiled entry of an allowlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostGlob {
    /// `*`: every host.
    Any,
    /// An IP literal or a name without a wildcard.
    Exact(Host),
    /// `*.slack.com`: the part after the `*.`; matches any depth below it.
    Below(String),
    /// Labels with wildcards inside; `any_depth` when the first label is a lone `*`.
    Labels {
        /// The labels after a leading `*.`, or all.
        labels: Vec<String>,
        /// Whether one label or more may come before.
        any_depth: bool,
    },
}

/// Why an entry can match no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct HostGlobError {
    problem: &'static str,
    /// The host that was probably meant.
    pub host: Option<String>,
}

const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

// === impl Host ===

impl Host {
    /// Normalises a host as an action names it; `None` when no such host can exist.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 4 * MAX_HOST {
            return None;
        }
        if let Some(bracketed) = text.strip_prefix('[') {
            let (literal, port) = bracketed.split_once(']')?;
            let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            let literal = literal.parse::<Ipv6Addr>().ok().filter(|_| is_port)?;
            return Some(Self::Ip(literal.into()));
        }
        if let Ok(literal) = text.parse::<Ipv6Addr>() {
            return Some(Self::Ip(literal.into()));
        }
        let name = match text.rsplit_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return None,
            None => text,
        };
        let name = normal_name(name)?;
        if ends_in_number(&name) {
            // `127.1` or `0x7f000001` reach an address that no entry names, so they are no names.
            return name.parse::<Ipv4Addr>().ok().map(|literal| Self::Ip(literal.into()));
        }
        name.split('.').all(is_label).then(|| Self::Name(name.into_owned()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(literal) => write!(f, "{literal}"),
        }
    }
}

// === impl HostGlob ===

impl HostGlob {
    /// Compiles an allowlist entry.
    ///
    /// # Errors
    /// When the entry can match no host: a scheme, port, path or space in it, or an impossible name.
    pub fn parse(text: &str) -> Result<Self, HostGlobError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(problem) = foreign_part(text) {
            return Err(HostGlobError { problem, host: meant_host(text) });
        }
        let impossible = HostGlobError { problem: "no host has such a name", host: None };
        if !text.contains('*') {
            return Host::parse(text).map(Self::Exact).ok_or(impossible);
        }
        let name = normal_name(text).ok_or_else(|| impossible.clone())?;
        let labels: Vec<&str> = name.split('.').collect();
        if labels.iter().any(|label| label.is_empty() || label.len() > MAX_LABEL) {
            return Err(impossible);
        }
        let is_address = name.bytes().all(|b| b.is_ascii_digit() || b"*.".contains(&b))
            && name.bytes().any(|b| b.is_ascii_digit());
        if is_address || ends_in_number(&name) {
            return Err(HostGlobError {
                problem: "an IP address is matched by an identical literal only",
                host: None,
            });
        }
        match labels.split_first() {
            Some((&"*", rest)) if rest.iter().all(|label| !label.contains('*')) => {
                Ok(Self::Below(rest.join(".")))
            }
            Some((&"*", rest)) => Ok(Self::Labels {
                labels: rest.iter().map(|&l| l.to_owned()).collect(),
                any_depth: true,
            }),
            _ => Ok(Self::Labels {
                labels: labels.iter().map(|&label| label.to_owned()).collect(),
                any_depth: false,
            }),
        }
    }

    /// Whether a host matches.
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Exact(exact), host) => exact == host,
            (_, Host::Ip(_)) => false,
            (Self::Below(parent), Host::Name(name)) => is_below(name, parent),
            (Self::Labels { labels, any_depth }, Host::Name(name)) => {
                match_labels(labels, *any_depth, name)
            }
        }
    }

    /// Whether every host that `other` matches is matched by this one too. May miss some pairs of globs
    /// with several wildcards.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (glob, Self::Exact(host)) => glob.matches(host),
            (Self::Below(wide), Self::Below(narrow)) => wide == narrow || is_below(narrow, wide),
            (Self::Below(parent), Self::Labels { labels, .. }) => {
                let tail = labels.iter().rposition(|l| l.contains('*')).map_or(0, |at| at + 1);
                let literal = labels[tail..].join(".");
                literal == *parent && tail > 0 || is_below(&literal, parent)
            }
            (a, b) => a == b,
        }
    }
}

fn match_labels(labels: &[String], any_depth: bool, name: &str) -> bool {
    let count = name.split('.').count();
    let fits = if any_depth { count > labels.len() } else { count == labels.len() };
    fits && labels
        .iter()
        .rev()
        .zip(name.rsplit('.'))
        .all(|(glob, label)| match_label(glob.as_bytes(), label.as_bytes()))
}

/// `*` matches any run of characters. Only the last star is ever revisited, so the cost is at most
/// the product of both lengths.
fn match_label(glob: &[u8], label: &[u8]) -> bool {
    let (mut g, mut l) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while l < label.len() {
        match (glob.get(g), star) {
            (Some(b'*'), _) => {
                star = Some((g + 1, l));
                g += 1;
            }
            (Some(byte), _) if *byte == label[l] => {
                g += 1;
                l += 1;
            }
            (_, Some((after_star, from))) => {
                star = Some((after_star, from + 1));
                g = after_star;
                l = from + 1;
            }
            _ => return false,
        }
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// Lower case, IDNA to ASCII, one trailing dot off.
fn normal_name(name: &str) -> Option<Cow<'_, str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let already = name.bytes().all(|b| {
        b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_' | b'*')
    });
    // Labels that claim to be Punycode still have to be valid.
    let ascii = if already && !name.contains("xn--") {
        Cow::Borrowed(name)
    } else {
        Uts46::new()
            .to_ascii(name.as_bytes(), AsciiDenyList::URL, Hyphens::Allow, DnsLength::Ignore)
            .ok()?
    };
    // Full-width dots become dots only here.
    let ascii = match ascii {
        Cow::Owned(owned) if owned.ends_with('.') => {
            Cow::Owned(owned.trim_end_matches('.').to_owned())
        }
        other => other,
    };
    (!ascii.is_empty() && ascii.len() <= MAX_HOST).then_some(ascii)
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= MAX_LABEL
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Whether resolvers read the name as a number (WHATWG URL, "ends in a number").
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit())
}

fn foreign_part(text: &str) -> Option<&'static str> {
    let ip_literal = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if text.contains("://") {
        Some("a host has no scheme")
    } else if text.contains('/') {
        Some("a host has no path, and address ranges are not taken")
    } else if text.contains(char::is_whitespace) {
        Some("a host has no spaces")
    } else if text.contains('@') {
        Some("a host has no user")
    } else if text.contains(':') && !ip_literal {
        Some("the entry is matched without a port")
    } else {
        None
    }
}

/// What is left of a URL when only its host stays.
fn meant_host(text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split(['/', '?', '#']).next()?;
    let text = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let text = match text.rsplit_once(':') {
        Some((host, port)) if is_port(port) || port == "*" => host,
        _ => text,
    };
    (foreign_part(text).is_none() && HostGlob::parse(text).is_ok()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(glob: &str, host: &str) -> bool {
        let glob = HostGlob::parse(glob).unwrap();
        Host::parse(host).is_some_and(|host| glob.matches(&host))
    }

    #[test]
    fn globs_are_case_insensitive_on_the_host_without_port_or_trailing_dot() {
        assert!(allows("API.OpenAI.com", "api.openai.com"));
        assert!(allows("api.openai.com", "API.OPENAI.COM."));
        assert!(allows("api.openai.com.", "api.openai.com:443"));
        assert!(!allows("api.openai.com", "api.openai.com.evil.example"));
        assert!(!allows("api.openai.com", "xapi.openai.com"));
    }

    #[test]
    fn globs_match_after_idna_to_ascii() {
        assert!(allows("bücher.example", "xn--bcher-kva.example"));
        assert!(allows("xn--bcher-kva.example", "BÜCHER.example"));
        assert!(allows("*.bücher.example", "a.bücher.example"));
        assert!(allows("slack.com", "slack。com"));
    }

    #[test]
    fn look_alike_hosts_do_not_match() {
        assert!(!allows("slack.com", "slаck.com"), "Cyrillic а");
        assert!(!allows("*.slack.com", "a.slack.com.xn--p1ai"));
    }

    #[test]
    fn a_star_alone_matches_every_host() {
        for host in ["a.example", "localhost", "10.0.0.1", "[::1]", "::1"] {
            assert!(allows("*", host), "{host}");
        }
    }

    #[test]
    fn a_leading_star_matches_any_depth_below_and_not_the_domain_itself() {
        assert!(allows("*.slack.com", "a.slack.com"));
        assert!(allows("*.slack.com", "a.b.slack.com"));
        assert!(!allows("*.slack.com", "slack.com"));
        assert!(!allows("*.slack.com", "evilslack.com"));
    }

    #[test]
    fn a_star_elsewhere_in_a_label_matches_within_that_label_only() {
        assert!(allows("api-*.example.com", "api-eu.example.com"));
        assert!(allows("api-*.example.com", "api-.example.com"));
        assert!(!allows("api-*.example.com", "api-eu.x.example.com"));
        assert!(allows("a.*.example.com", "a.b.example.com"));
        assert!(!allows("a.*.example.com", "a.b.c.example.com"));
        assert!(allows("*.eu-*.example.com", "a.b.eu-1.example.com"));
        assert!(!allows("*.eu-*.example.com", "eu-1.example.com"));
        assert!(allows("*a*b*.example", "xxaxxbxx.example"));
    }

    #[test]
    fn an_ip_literal_matches_only_an_identical_literal() {
        assert!(allows("10.0.0.1", "10.0.0.1"));
        assert!(allows("2001:DB8::1", "[2001:db8:0:0::1]:443"));
        assert!(!allows("*.0.1.example", "10.0.0.1"));
        assert!(!allows("10.0.0.1", "10.0.0.10"));
        assert!(HostGlob::parse("10.0.0.*").is_err());
        assert_eq!(Host::parse("127.1"), None);
        assert_eq!(Host::parse("0x7f000001"), None);
        assert_eq!(Host::parse("2130706433"), None);
    }

    #[test]
    fn an_impossible_host_matches_nothing() {
        for host in ["", ".", "a..b", "a b", "http://a.example", "a/b", "a@b", "[::1", "a:b:c", "*"]
        {
            assert_eq!(Host::parse(host), None, "{host}");
        }
        assert_eq!(Host::parse(&"a".repeat(300)), None);
        assert_eq!(Host::parse(&"a".repeat(64)), None);
    }

    #[test]
    fn an_entry_that_can_match_no_host_names_the_host_to_write() {
        for (entry, host) in [
            ("https://api.openai.com/v1", Some("api.openai.com")),
            ("api.openai.com:443", Some("api.openai.com")),
            ("*.slack.com/api", Some("*.slack.com")),
            ("https://user:pw@a.example:8080/x?y#z", Some("a.example")),
            (" a.example ", Some("a.example")),
            ("a b.example", None),
            ("x y#z", None),
            ("10.0.0.0/8", Some("10.0.0.0")),
            ("a..b", None),
        ] {
            assert_eq!(HostGlob::parse(entry).unwrap_err().host.as_deref(), host, "{entry}");
        }
    }

    #[test]
    fn covering_follows_matching() {
        let glob = |text| HostGlob::parse(text).unwrap();
        assert!(glob("*").covers(&glob("*.a.example")));
        assert!(glob("*.a.example").covers(&glob("x.a.example")));
        assert!(glob("*.a.example").covers(&glob("*.b.a.example")));
        assert!(glob("*.a.example").covers(&glob("x-*.a.example")));
        assert!(glob("*.a.example").covers(&glob("x-*.b.a.example")));
        assert!(!glob("*.a.example").covers(&glob("a.example")));
        assert!(!glob("*.a.example").covers(&glob("*.example")));
        assert!(!glob("*.b.a.example").covers(&glob("*.*.a.example")));
    }
}
