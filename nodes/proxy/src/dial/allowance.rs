//! What an operator allows to be dialled beyond public addresses.

use std::{fmt, net::IpAddr, str::FromStr};

use aa_reach::{Host, HostName, Reach};
use ipnet::IpNet;

/// Something that may be dialled although it is not public. Text form, where the port may be left out for all:
///
/// - `10.1.0.0/16`, `10.1.2.3:443`, `[fd00::1]:443`: a network, or an address with a port. It holds for names that
///   resolve to it too.
/// - `internal-api.corp:443`, `*.corp`: a name, or all below one, at whatever internal address it resolves to: private,
///   loopback or shared, never link-local or reserved ones.
/// - `internal-api.corp:443=10.1.0.0/16`: a name, at addresses of the network alone.
///
/// Addresses at which clouds serve credentials are admitted only when they are given as an address, never as a part of a
/// network or by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    name: Option<NamePattern>,
    port: Option<u16>,
    /// At least one of name and network is there.
    network: Option<IpNet>,
}

/// A text that names nothing to allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{shown:?} is nothing to allow: {problem}; use a network such as 10.1.0.0/16, an address, a name such as \
     internal-api.corp:443, or internal-api.corp:443=10.1.0.0/16"
)]
pub struct AllowanceError {
    shown: String,
    problem: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NamePattern {
    Exact(HostName),
    /// All below it, and not itself.
    Below(HostName),
}

// === impl Allowance ===

impl Allowance {
    /// Whether it admits `address`, which is none of the public ones, for `host`.
    pub(super) fn admits(&self, host: &Host, port: u16, address: IpAddr, reach: Reach) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        if self.name.as_ref().is_some_and(|name| !name.matches(host)) {
            return false;
        }
        match &self.network {
            None => reach.is_internal(),
            Some(network) => {
                let holds = network.contains(&address.to_canonical());
                holds && (reach != Reach::Metadata || is_one(network))
            }
        }
    }
}

impl FromStr for Allowance {
    type Err = AllowanceError;

    fn from_str(text: &str) -> Result<Self, AllowanceError> {
        let failed =
            |problem: String| AllowanceError { shown: text.chars().take(80).collect(), problem };
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self { name: None, port: None, network: Some(network.trunc()) });
        }
        let (place, network) = match text.split_once('=') {
            None => (text, None),
            Some((place, network)) => {
                let problem = || failed(format!("{network:?} is no network or address"));
                (place, Some(read_network(network).ok_or_else(problem)?))
            }
        };
        let (host, port) = split_port(place).ok_or_else(|| {
            failed("what follows the colon is no port from 1 to 65535".to_owned())
        })?;
        let (is_below, host) =
            host.strip_prefix("*.").map_or((false, host), |parent| (true, parent));
        let host = Host::parse(host).map_err(|error| failed(error.to_string()))?;
        match host {
            Host::Name(name) => {
                let pattern =
                    if is_below { NamePattern::Below(name) } else { NamePattern::Exact(name) };
                Ok(Self { name: Some(pattern), port, network })
            }
            Host::Address(address) if !is_below && network.is_none() => {
                Ok(Self { name: None, port, network: Some(address.into()) })
            }
            Host::Address(_) => Err(failed("an address stands by itself".to_owned())),
        }
    }
}

/// In the form it is read from.
impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(name) = &self.name else {
            return match (&self.network, self.port) {
                (Some(network), Some(port)) => Host::from(network.addr()).with_port(port).fmt(f),
                (Some(network), None) => write_network(f, network),
                (None, _) => Ok(()),
            };
        };
        name.fmt(f)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        let Some(network) = &self.network else { return Ok(()) };
        f.write_str("=")?;
        write_network(f, network)
    }
}

fn write_network(f: &mut fmt::Formatter<'_>, network: &IpNet) -> fmt::Result {
    if is_one(network) { write!(f, "{}", network.addr()) } else { write!(f, "{network}") }
}

/// Whether a network is a single address.
fn is_one(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

fn read_network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok().map(|network| network.trunc());
    network.or_else(|| text.parse::<IpAddr>().ok().map(|address| address.to_canonical().into()))
}

/// Host and port, of which the latter may be missing.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    // An IPv6 address without brackets has no port.
    let is_bare = text.matches(':').count() > 1 && !text.starts_with('[');
    match text.rsplit_once(':') {
        Some((host, port)) if !is_bare && !text.ends_with(']') => {
            let is_plain = port.bytes().all(|byte| byte.is_ascii_digit());
            let port = port.parse().ok().filter(|port| *port != 0 && is_plain)?;
            Some((host, Some(port)))
        }
        _ => Some((text, None)),
    }
}

// === impl NamePattern ===

impl NamePattern {
    fn matches(&self, host: &Host) -> bool {
        let Some(name) = host.name() else { return false };
        match self {
            Self::Exact(exact) => exact == name,
            Self::Below(parent) => {
                name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Below(parent) => write!(f, "*.{parent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(allowance: &str, host: &str, port: u16, address: &str) -> bool {
        let allowance: Allowance = allowance.parse().unwrap();
        let address = address.parse().unwrap();
        allowance.admits(&Host::parse(host).unwrap(), port, address, Reach::of(address))
    }

    #[test]
    fn an_allowance_admits_what_it_says_and_nothing_else() {
        let table = [
            ("10.1.0.0/16", "10.1.2.3", 1, "10.1.2.3", true),
            ("10.1.0.0/16", "any.example", 1, "10.1.2.3", true),
            ("10.1.0.0/16", "any.example", 1, "10.2.0.1", false),
            ("10.1.0.0/16", "any.example", 1, "::ffff:10.1.2.3", true),
            ("10.1.0.0/16", "any.example", 1, "64:ff9b::10.1.2.3", false),
            ("10.1.2.3:443", "10.1.2.3", 443, "10.1.2.3", true),
            ("10.1.2.3:443", "10.1.2.3", 80, "10.1.2.3", false),
            ("[fd00::1]:443", "fd00::1", 443, "fd00::1", true),
            ("[fd00::1]:443", "fd00::1", 443, "fd00::2", false),
            ("fd00::1", "fd00::1", 443, "fd00::1", true),
            ("api.corp:443", "api.corp", 443, "10.1.2.3", true),
            ("api.corp:443", "api.corp", 443, "127.0.0.1", true),
            ("api.corp:443", "api.corp", 443, "100.64.0.1", true),
            ("api.corp:443", "api.corp", 443, "169.254.0.1", false),
            ("api.corp:443", "api.corp", 443, "169.254.169.254", false),
            ("api.corp:443", "api.corp", 443, "0.0.0.0", false),
            ("api.corp:443", "api.corp", 444, "10.1.2.3", false),
            ("api.corp:443", "b.api.corp", 443, "10.1.2.3", false),
            ("api.corp:443", "10.1.2.3", 443, "10.1.2.3", false),
            ("API.corp.", "api.corp", 1, "10.1.2.3", true),
            ("*.corp", "api.corp", 1, "10.1.2.3", true),
            ("*.corp", "a.b.corp", 1, "10.1.2.3", true),
            ("*.corp", "corp", 1, "10.1.2.3", false),
            ("*.corp", "evilcorp", 1, "10.1.2.3", false),
            ("api.corp:443=10.1.0.0/16", "api.corp", 443, "10.1.2.3", true),
            ("api.corp:443=10.1.0.0/16", "api.corp", 443, "10.2.2.3", false),
            ("api.corp=169.254.1.1", "api.corp", 443, "169.254.1.1", true),
            ("169.254.0.0/16", "x.corp", 80, "169.254.1.1", true),
            ("169.254.0.0/16", "x.corp", 80, "169.254.169.254", false),
            ("0.0.0.0/0", "x.corp", 80, "100.100.100.200", false),
            ("169.254.169.254", "x.corp", 80, "169.254.169.254", true),
            ("meta.corp=169.254.169.254", "meta.corp", 80, "169.254.169.254", true),
            ("meta.corp=169.254.169.254", "169.254.169.254", 80, "169.254.169.254", false),
        ];
        for (allowance, host, port, address, expected) in table {
            let admitted = admits(allowance, host, port, address);
            assert_eq!(admitted, expected, "{allowance} {host} {address}");
        }
    }

    #[test]
    fn the_text_form_reads_as_what_it_was_written_from() {
        let texts = [
            "10.1.0.0/16",
            "10.1.2.3",
            "10.1.2.3:443",
            "[fd00::1]:443",
            "fd00::/8",
            "api.corp",
            "api.corp:443",
            "*.corp",
            "*.corp:443=10.0.0.0/8",
            "api.corp=10.1.2.3",
        ];
        for text in texts {
            assert_eq!(text.parse::<Allowance>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_names_nothing_to_allow_is_refused_with_the_reason() {
        let table = [
            ("", "it is empty"),
            ("*", "no such name can exist"),
            (":443", "it is empty"),
            ("https://api.corp", "no port"),
            ("api.corp:0", "no port"),
            ("api.corp:https", "no port"),
            ("api.corp:+443", "no port"),
            ("10.0.0.0/33", "holds more than a host"),
            ("api.corp=corp", "is no network"),
            ("10.0.0.1=10.0.0.0/8", "an address stands by itself"),
            ("*.10.0.0.1", "an address stands by itself"),
        ];
        for (text, problem) in table {
            let error = text.parse::<Allowance>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
