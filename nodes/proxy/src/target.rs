//! Where a request goes, by everything in it that says so.

use std::{fmt, str::FromStr};

use http::{HeaderMap, Uri, header::HOST, request::Parts, uri::Scheme as UriScheme};

use aa_reach::{Host, HostError};

/// Host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The host, in its one spelling.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// How the target is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// Where requests of a connection go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Where it is.
    pub authority: Authority,
}

/// A text that names no host and port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is no host in it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It holds other bytes than text.
    #[error("is not made of visible ASCII characters")]
    Bytes,
    /// The port is none.
    #[error("has no port between 1 and 65535")]
    Port,
    /// There is a user in it.
    #[error("carries user information, which is refused: RFC 9110, section 4.2.4")]
    UserInformation,
}

/// A request that does not say in one voice where it goes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// HTTP/1.1 needs one.
    #[error("there is no Host header")]
    NoHost,
    /// Two hosts are one too many.
    #[error("there are {0} Host headers")]
    SeveralHosts(usize),
    /// The header's value cannot be read.
    #[error("the Host header {0}")]
    HostHeader(AuthorityError),
    /// The request's target cannot be read.
    #[error("the request's target {0}")]
    Target(AuthorityError),
    /// The connection was opened to one host and the request is for another.
    #[error("the request is for {requested}, the connection for {connected}")]
    OtherHost {
        /// What the request says.
        requested: String,
        /// What the connection was opened to.
        connected: String,
    },
    /// Something other than HTTP.
    #[error("the scheme `{0}` is neither http nor https")]
    Scheme(String),
    /// No proxy's request.
    #[error("the request names no host; this is a proxy, set it as HTTPS_PROXY and HTTP_PROXY")]
    NotForAProxy,
    /// Longer than what is read.
    #[error("the request's target is {bytes} bytes long and at most {limit} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
}

// === impl Scheme ===

impl Scheme {
    /// The port that need not be written.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// As it stands in URLs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

// === impl Authority ===

impl Authority {
    /// Reads `host` or `host:port`; the port is `default` when there is none.
    ///
    /// # Errors
    /// It is neither, or carries user information.
    pub fn parse(text: &str, default: u16) -> Result<Self, AuthorityError> {
        if text.contains('@') {
            return Err(AuthorityError::UserInformation);
        }
        let (host, port) = match text.rfind(':') {
            // An IPv6 address has colons of its own.
            Some(colon) if !text[colon..].contains(']') => {
                (&text[..colon], Some(&text[colon + 1..]))
            }
            _ => (text, None),
        };
        let port = match port {
            None => default,
            Some(port) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().map_err(|_| AuthorityError::Port)?
            }
            Some(_) => return Err(AuthorityError::Port),
        };
        if port == 0 {
            return Err(AuthorityError::Port);
        }
        Ok(Self { host: host.parse()?, port })
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    /// Reads `host:port`.
    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        // No port is ever 0, so a missing one is told.
        Self::parse(text, 0)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host.with_port(self.port))
    }
}

// === impl Origin ===

impl Origin {
    /// Where a request goes that came over the proxy's own port: an absolute target (RFC 9112, section 3.2.2).
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn of_absolute(parts: &Parts, max_uri: usize) -> Result<Self, TargetError> {
        check_length(&parts.uri, max_uri)?;
        let (Some(scheme), Some(authority)) = (parts.uri.scheme(), parts.uri.authority()) else {
            return Err(TargetError::NotForAProxy);
        };
        let scheme = if *scheme == UriScheme::HTTP {
            Scheme::Http
        } else if *scheme == UriScheme::HTTPS {
            Scheme::Https
        } else {
            return Err(TargetError::Scheme(scheme.as_str().to_owned()));
        };
        let authority = Authority::parse(authority.as_str(), scheme.default_port())
            .map_err(TargetError::Target)?;
        let origin = Self { scheme, authority };
        origin.check_host(&parts.headers)?;
        Ok(origin)
    }

    /// Whether a request that came over a connection to this origin is for it.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn check(&self, parts: &Parts, max_uri: usize) -> Result<(), TargetError> {
        check_length(&parts.uri, max_uri)?;
        let named = parts.uri.authority();
        if let Some(named) = named {
            let named = Authority::parse(named.as_str(), self.scheme.default_port())
                .map_err(TargetError::Target)?;
            self.check_same(&named)?;
        }
        if parts.headers.contains_key(HOST) || named.is_none() {
            self.check_host(&parts.headers)?;
        }
        Ok(())
    }

    fn check_host(&self, headers: &HeaderMap) -> Result<(), TargetError> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().ok_or(TargetError::NoHost)?;
        let further = hosts.count();
        if further > 0 {
            return Err(TargetError::SeveralHosts(further + 1));
        }
        let host = host.to_str().map_err(|_| TargetError::HostHeader(AuthorityError::Bytes))?;
        let named =
            Authority::parse(host, self.scheme.default_port()).map_err(TargetError::HostHeader)?;
        self.check_same(&named)
    }

    fn check_same(&self, named: &Authority) -> Result<(), TargetError> {
        if *named == self.authority {
            return Ok(());
        }
        Err(TargetError::OtherHost {
            requested: named.to_string(),
            connected: self.authority.to_string(),
        })
    }

    /// The URL of a path below this origin.
    pub(crate) fn uri(
        &self,
        path_and_query: Option<&http::uri::PathAndQuery>,
    ) -> Result<Uri, http::Error> {
        Uri::builder()
            .scheme(self.scheme.as_str())
            .authority(self.authority.to_string().as_str())
            .path_and_query(path_and_query.map_or("/", http::uri::PathAndQuery::as_str))
            .build()
    }

    /// What its `Host` header says: the port only where it is not the scheme's.
    pub(crate) fn host_header(&self) -> String {
        let full = self.authority.to_string();
        match full.rsplit_once(':') {
            Some((host, _)) if self.authority.port == self.scheme.default_port() => host.to_owned(),
            _ => full,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host_header())
    }
}

fn check_length(uri: &Uri, limit: usize) -> Result<(), TargetError> {
    let bytes = uri.path_and_query().map_or(0, |path| path.as_str().len());
    if bytes > limit {
        return Err(TargetError::TooLong { bytes, limit });
    }
    Ok(())
}
