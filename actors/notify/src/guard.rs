//! Which hosts may be dialled: what a tenant names as a destination must not reach into the operator's network.
//!
//! A name is resolved once, inside the dial, and only addresses that are admitted are dialled, so a name that resolves
//! to another address a moment later (DNS rebinding) gains nothing.

use std::{
    borrow::Cow,
    fmt, io,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use async_trait::async_trait;
use ipnet::IpNet;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use serde::{Deserialize, Serialize};

use crate::destination::{Channel, Security};
pub(crate) use aa_reach::Host;
pub use aa_reach::Reach;

/// What may be dialled: public addresses over TLS, and what an operator allowed.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Vec<AllowedDestination>,
}

/// What an operator allows beyond that. Text form: a host name, an address, or a network such as `10.1.0.0/16`.
///
/// A name admits internal addresses (private, loopback, shared) that it resolves to, but never link-local ones, and none at
/// which clouds serve credentials; an address or a network admits all in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedDestination {
    /// A host by its name, lower-case, in ASCII.
    Name(String),
    /// Addresses.
    Network(IpNet),
}

/// A text that names nothing to allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is nothing to allow; use a host name without a port, an address, or a network such as 10.1.0.0/16"
)]
pub struct AllowedError(String);

/// Why something is not dialled. It shows host and port at most: the rest of a URL may be secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum GuardError {
    /// It is no URL that can be dialled.
    #[error("is no usable URL: {0}; use https://host[:port]/path")]
    Url(Cow<'static, str>),
    /// It is no host.
    #[error("is no host; use a name such as mail.example.com, or an address")]
    Host,
    /// It would go in the clear.
    #[error("{host} would be reached unencrypted; use TLS, or have an operator allow this host")]
    Unencrypted {
        /// The host.
        host: String,
    },
    /// The port is one of another service.
    #[error(
        "port {port} of {host} is not used for this; use {usual}, or have an operator allow this host"
    )]
    Port {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What is used.
        usual: Cow<'static, str>,
    },
    /// It is an address, or a name with only such addresses, that tenants may not reach.
    #[error("{host} is at {reach}, which destinations may not reach; an operator can allow it")]
    Address {
        /// The host.
        host: String,
        /// What sort of address; the address itself is not shown, for it may tell of an internal network.
        reach: Reach,
    },
    /// The name does not resolve.
    #[error("{host} could not be resolved: {problem}")]
    Unresolved {
        /// The host.
        host: String,
        /// Why.
        problem: String,
    },
}

/// Resolves names. The system's resolver is [`SystemLookup`]; tests bring their own.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of a host.
    ///
    /// # Errors
    /// The name has none, or the resolver failed.
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

/// A lookup whose answers are guarded; what HTTP connections are dialled with.
pub(crate) struct GuardedLookup {
    pub(crate) guard: Arc<Guard>,
    pub(crate) lookup: Arc<dyn Lookup>,
}

/// More addresses of a name are not tried.
const MAX_ADDRESSES: usize = 8;
const SMTP_PORTS: [u16; 4] = [25, 465, 587, 2525];

// === impl Guard ===

impl Guard {
    /// One that admits public addresses over TLS only.
    pub fn public() -> Self {
        Self::default()
    }

    /// One that also admits what an operator allowed.
    pub fn new(allowed: impl IntoIterator<Item = AllowedDestination>) -> Self {
        Self { allowed: allowed.into_iter().collect() }
    }

    /// Whether a channel may be used, as far as can be told without resolving names. It is told again when dialled.
    ///
    /// # Errors
    /// What is wrong with its URL, host or port.
    pub fn admit(&self, channel: &Channel) -> Result<(), GuardError> {
        match channel {
            Channel::Webhook(webhook) => self.admit_url(&webhook.url).map(drop),
            // Its URL is a secret, looked at when it is used.
            Channel::Slack(_) => Ok(()),
            Channel::Email(email) => {
                self.admit_mail(&email.server, email.port, email.security).map(drop)
            }
        }
    }

    /// Whether a URL may be dialled, as far as can be told without resolving its host.
    ///
    /// # Errors
    /// It is none of HTTP, is unencrypted, has a user name, or its address or port is not admitted.
    pub fn admit_url(&self, text: &str) -> Result<Url, GuardError> {
        let url = parse_url(text)?;
        let host = parse_host(url.host_str().unwrap_or_default())?;
        if url.scheme() == "http" && !self.is_allowed(&host) {
            return Err(GuardError::Unencrypted { host: host.to_string() });
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let usual = port == 443 || port >= 1024 || (port == 80 && url.scheme() == "http");
        if port == 0 || !(usual || self.is_allowed(&host)) {
            let usual = "443 or one from 1024 on".into();
            return Err(GuardError::Port { host: host.to_string(), port, usual });
        }
        self.admit_literal(&host)?;
        Ok(url)
    }

    /// The same for a mail server.
    pub(crate) fn admit_mail(
        &self,
        server: &str,
        port: u16,
        security: Security,
    ) -> Result<Host, GuardError> {
        let host = parse_host(server)?;
        if security == Security::None && !self.is_allowed(&host) {
            return Err(GuardError::Unencrypted { host: host.to_string() });
        }
        if port == 0 || !(SMTP_PORTS.contains(&port) || self.is_allowed(&host)) {
            let usual = "587, 465, 25 or 2525".into();
            return Err(GuardError::Port { host: host.to_string(), port, usual });
        }
        self.admit_literal(&host)?;
        Ok(host)
    }

    /// The addresses of a host that may be dialled; at least one.
    ///
    /// # Errors
    /// It does not resolve, or to nothing that is admitted.
    pub(crate) async fn resolve(
        &self,
        host: &Host,
        lookup: &dyn Lookup,
    ) -> Result<Vec<IpAddr>, GuardError> {
        let name = match host {
            Host::Address(address) => {
                self.admit_literal(host)?;
                return Ok(vec![*address]);
            }
            Host::Name(name) => name,
        };
        let found = lookup.lookup(name).await.map_err(|error| GuardError::Unresolved {
            host: name.to_string(),
            problem: error.kind().to_string(),
        })?;
        let mut refused = None;
        let admitted: Vec<_> = found
            .into_iter()
            .filter(|address| {
                let admits = self.admits(Some(name), *address);
                if !admits {
                    refused.get_or_insert(Reach::of(*address));
                }
                admits
            })
            .take(MAX_ADDRESSES)
            .collect();
        match (admitted.is_empty(), refused) {
            (false, _) => Ok(admitted),
            (true, Some(reach)) => Err(GuardError::Address { host: name.to_string(), reach }),
            (true, None) => {
                let problem = "it has no address".to_owned();
                Err(GuardError::Unresolved { host: name.to_string(), problem })
            }
        }
    }

    fn admit_literal(&self, host: &Host) -> Result<(), GuardError> {
        match host {
            Host::Address(address) if !self.admits(None, *address) => {
                Err(GuardError::Address { host: host.to_string(), reach: Reach::of(*address) })
            }
            _ => Ok(()),
        }
    }

    fn admits(&self, name: Option<&str>, address: IpAddr) -> bool {
        let reach = Reach::of(address);
        reach == Reach::Public
            || self.is_in_allowed_network(address)
            || (reach.is_internal() && name.is_some_and(|name| self.is_allowed_name(name)))
    }

    fn is_allowed(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => self.is_allowed_name(name),
            Host::Address(address) => self.is_in_allowed_network(*address),
        }
    }

    fn is_allowed_name(&self, name: &str) -> bool {
        let is_it = |allowed: &AllowedDestination| matches!(allowed, AllowedDestination::Name(known) if known == name);
        self.allowed.iter().any(is_it)
    }

    fn is_in_allowed_network(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let holds = |allowed: &AllowedDestination| matches!(allowed, AllowedDestination::Network(network) if network.contains(&address));
        self.allowed.iter().any(holds)
    }
}

// === impl AllowedDestination ===

impl FromStr for AllowedDestination {
    type Err = AllowedError;

    fn from_str(text: &str) -> Result<Self, AllowedError> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        match parse_host(text) {
            Ok(Host::Address(address)) => Ok(Self::Network(address.into())),
            Ok(Host::Name(name)) => Ok(Self::Name(name.to_string())),
            Err(_) => Err(AllowedError(crate::text::plain(text, 64))),
        }
    }
}

impl fmt::Display for AllowedDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().fmt(f)
            }
            Self::Network(network) => network.fmt(f),
        }
    }
}

// === impl SystemLookup ===

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

// === impl GuardedLookup ===

impl Resolve for GuardedLookup {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookup) = (Arc::clone(&self.guard), Arc::clone(&self.lookup));
        Box::pin(async move {
            let host = parse_host(name.as_str())?;
            let addresses = guard.resolve(&host, &*lookup).await?;
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

/// Reads a URL of HTTP that carries no user name.
pub(crate) fn parse_url(text: &str) -> Result<Url, GuardError> {
    let url = Url::parse(text).map_err(|_| GuardError::Url("it is no URL".into()))?;
    let problem = match url.scheme() {
        "https" | "http" if !url.username().is_empty() || url.password().is_some() => {
            "it has a user name or password"
        }
        "https" | "http" if url.fragment().is_some() => "it has a fragment, which is never sent",
        "https" | "http" if !url.has_host() => "it has no host",
        "https" | "http" => return Ok(url),
        _ => "it is not of HTTPS",
    };
    Err(GuardError::Url(problem.into()))
}

/// Reads a host the way URLs do, so that `127.1` and `0x7f000001` are the address they are taken for.
pub(crate) fn parse_host(text: &str) -> Result<Host, GuardError> {
    Host::parse(text).map_err(|_| GuardError::Host)
}
