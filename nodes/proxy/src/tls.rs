//! TLS on both sides: towards agents with leaves of an authority of ours ([`Leaves`]), towards upstreams with strict
//! verification ([`UpstreamTls`]).

pub mod leaf;
#[cfg(test)]
mod testing;
pub mod upstream;

pub use aa_ca as authority;
use aa_reach::Host;
use rustls_pki_types::{InvalidDnsNameError, ServerName};

pub use self::{
    authority::Authority,
    leaf::{LeafError, LeafOptions, Leaves},
    upstream::{UpstreamError, UpstreamOptions, UpstreamTls},
};

/// Which protocols are offered or taken on a connection (ALPN, RFC 7301), best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2, else HTTP/1.1.
    Http2OrHttp1,
    /// HTTP/1.1 alone, as for WebSocket (RFC 6455).
    Http1,
    /// HTTP/2 alone.
    Http2,
}

// === impl Alpn ===

impl Alpn {
    pub(crate) const ALL: [Self; 3] = [Self::Http2OrHttp1, Self::Http1, Self::Http2];

    /// As they are put into a configuration of TLS.
    pub(crate) fn protocols(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Self::Http2OrHttp1 => &[b"h2", b"http/1.1"],
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2"],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }

    /// Its place in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// A host as TLS names it. DNS is laxer than TLS about hyphens at the ends of labels.
pub(crate) fn server_name(host: &Host) -> Result<ServerName<'static>, InvalidDnsNameError> {
    match host {
        Host::Name(name) => Ok(ServerName::try_from(name.as_str())?.to_owned()),
        Host::Address(address) => Ok(ServerName::from(*address)),
    }
}
