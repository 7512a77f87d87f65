//! Hosts in one form.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::Deref,
    str::FromStr,
    sync::Arc,
};

/// A host in its one form; two spellings of a host are equal. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A DNS name.
    Name(HostName),
    /// An address. As read from text it is never an IPv6 address that stands for an IPv4 one (RFC 4291 §2.5.5.2).
    Address(IpAddr),
}

/// A DNS name in its one form: lower case, ASCII after IDNA (UTS 46), without the root's dot; at most 253 bytes in labels
/// of 1 to 63 letters, digits, hyphens and underscores, the last of which is no number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// A text that is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} is no host: {problem}; use a name such as api.example.com, or an address")]
pub struct HostError {
    shown: String,
    problem: &'static str,
}

/// Beyond this no text is looked at; IDNA can shorten a name to a quarter.
const MAX_TEXT: usize = 4 * MAX_NAME;
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// As much of a refused text is shown.
const MAX_SHOWN: usize = 80;

// === impl Host ===

impl Host {
    /// Reads a host without port the way URLs do (WHATWG URL, "host parsing"), so that `127.1`, `0x7f000001` and
    /// `2130706433` are the address that resolvers take them for. An IPv6 address may stand in brackets or without.
    ///
    /// # Errors
    /// Nothing can be reached under the text: it holds more than a host (a port, user, path, zone, escape, space), is
    /// no name that DNS can hold, or ends in a number and is no address.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let refuse = |problem| Err(HostError::new(text, problem));
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > MAX_TEXT {
            return refuse("it is too long");
        }
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = bracketed.unwrap_or(text).parse::<Ipv6Addr>() {
            return Ok(IpAddr::from(address).into());
        }
        // Escapes would be decoded into what was checked for here.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || "/\\?#@:[]%".contains(c)) {
            return refuse("it holds more than a host");
        }
        match url::Host::parse(text) {
            Ok(url::Host::Domain(name)) => match HostName::checked(&name) {
                Ok(name) => Ok(Self::Name(name)),
                Err(problem) => refuse(problem),
            },
            Ok(url::Host::Ipv4(address)) => Ok(IpAddr::from(address).into()),
            Ok(url::Host::Ipv6(address)) => Ok(IpAddr::from(address).into()),
            Err(url::ParseError::InvalidIpv4Address) => {
                refuse("it ends in a number and is no IPv4 address")
            }
            Err(_) => refuse("no such name can exist"),
        }
    }

    /// The name, unless it is an address.
    pub const fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }

    /// Host and port as an authority (RFC 3986 §3.2): IPv6 addresses in brackets.
    pub fn with_port(&self, port: u16) -> String {
        match self {
            Self::Name(name) => format!("{name}:{port}"),
            Self::Address(address) => SocketAddr::new(*address, port).to_string(),
        }
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::parse(text)
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

/// An IPv6 address is shown without brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

// === impl HostName ===

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn checked(name: &str) -> Result<Self, &'static str> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.len() > MAX_NAME {
            return Err("it is too long");
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        for label in name.split('.') {
            if label.is_empty() {
                return Err("a part of it is empty");
            }
            if label.len() > MAX_LABEL {
                return Err("a part of it is longer than 63 bytes");
            }
            if !label.bytes().all(is_plain) {
                return Err("no such name can exist");
            }
        }
        Ok(Self(name.into()))
    }
}

impl Deref for HostName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl HostError ===

impl HostError {
    fn new(text: &str, problem: &'static str) -> Self {
        Self { shown: text.chars().take(MAX_SHOWN).collect(), problem }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        Host::parse(text).map_or_else(|error| error.problem.to_owned(), |host| host.to_string())
    }

    #[test]
    fn every_spelling_of_a_host_has_one_form() {
        let table = [
            ("API.OpenAI.com", "api.openai.com"),
            ("api.openai.com.", "api.openai.com"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("\u{ff45}xample.com", "example.com"),
            ("my_service.internal", "my_service.internal"),
            ("localhost", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("0x7f000001", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("017700000001", "127.0.0.1"),
            ("0177.0.0.01", "127.0.0.1"),
            ("127\u{3002}0\u{3002}0\u{3002}1", "127.0.0.1"),
            ("\u{2460}\u{2461}\u{2466}.1", "127.0.0.1"),
            ("[::ffff:127.0.0.1]", "127.0.0.1"),
            ("::ffff:7f00:1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("2001:DB8::0:1", "2001:db8::1"),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_the_reason() {
        let long_label = format!("{}.com", "a".repeat(64));
        let long_name = vec!["a".repeat(60); 5].join(".");
        let table = [
            ("", "it is empty"),
            (".", "a part of it is empty"),
            ("a..b", "a part of it is empty"),
            ("example.com..", "a part of it is empty"),
            ("example.com:443", "it holds more than a host"),
            ("user@example.com", "it holds more than a host"),
            ("example.com/path", "it holds more than a host"),
            ("exa mple.com", "it holds more than a host"),
            ("%31%32%37.1", "it holds more than a host"),
            ("[fe80::1%eth0]", "it holds more than a host"),
            ("[[::1]]", "it holds more than a host"),
            ("[127.0.0.1]", "it holds more than a host"),
            ("[::1", "it holds more than a host"),
            ("*.example.com", "no such name can exist"),
            ("xn--a.example", "no such name can exist"),
            ("256.1.1.1", "it ends in a number and is no IPv4 address"),
            ("1.2.3.4.5", "it ends in a number and is no IPv4 address"),
            ("example.123", "it ends in a number and is no IPv4 address"),
            (&long_label, "a part of it is longer than 63 bytes"),
            (&long_name, "it is too long"),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text), expected, "{text}");
        }
        let error = Host::parse(&format!("{}/", "x".repeat(500))).unwrap_err().to_string();
        assert!(error.len() < 250, "{error}");
    }

    #[test]
    fn an_authority_has_addresses_in_brackets() {
        assert_eq!(Host::parse("::1").unwrap().with_port(443), "[::1]:443");
        assert_eq!(Host::parse("127.1").unwrap().with_port(443), "127.0.0.1:443");
        assert_eq!(Host::parse("a.example").unwrap().with_port(8443), "a.example:8443");
    }

    proptest! {
        #[test]
        fn the_one_form_reads_as_itself(text in "\\PC{0,40}|[a-z0-9.x_-]{1,40}") {
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()).unwrap(), host);
            }
        }

        #[test]
        fn every_way_to_write_an_address_is_that_address(bits: u32) {
            let address = std::net::Ipv4Addr::from_bits(bits);
            let [a, b, c, d] = address.octets();
            let low = bits & 0xff_ffff;
            let forms = [
                format!("{bits}"), format!("{bits:#x}"), format!("0{bits:o}"), format!("{a}.{low}"),
                format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"), format!("0{a:o}.{b}.{}", bits & 0xffff),
                format!("{a}.{b}.{c}.{d}."), format!("[::ffff:{address}]"), format!("::ffff:{address}"),
                format!("{a}\u{ff0e}{b}\u{3002}{c}\u{ff61}{d}"),
            ];
            for form in forms {
                prop_assert_eq!(Host::parse(&form), Ok(Host::Address(address.into())), "{}", form);
            }
        }
    }
}
