//! A node of a cluster: how it is named and reached, and what it has besides what a control plane by itself has.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aa_relay::{GrpcTransport, NodeIdentity, NodeTls, RelayOptions, RelayServer, TlsError};
use aa_runtime::{Clock, ClusterOptions, Entropy, Node, PROTOCOLS, Transport};
use aa_store::Store;
use tokio::net::TcpListener;

use super::{StartError, listen};
use crate::pki::Authority;

/// How a control plane takes part in a cluster.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// The cluster's name: 1 to 64 letters, digits, `-`, `_` and `.`. The first node gives it to the store.
    pub cluster: String,
    /// The node's name, of the same characters, unique in the cluster.
    pub node: String,
    /// Where the node stands, for people: at most 64 characters.
    pub zone: String,
    /// Where the node takes other nodes' calls; port 0 takes a free one.
    pub relay: SocketAddr,
    /// Under which host other nodes and clients reach this one, and other nodes its relay: `host` or
    /// `host:port`. That of `relay` if not said.
    pub advertise: Option<String>,
    /// How long other nodes wait before they take over from this one when it is silent: [`LEASES`].
    pub lease: Duration,
    /// How far the clocks of nodes may be apart: [`SKEWS`].
    pub max_clock_skew: Duration,
}

/// A name, an address or a time that no node can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinOptionError {
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] aa_relay::NameError),
    /// The zone is not a short text.
    #[error("a zone has 1 to {MAX_ZONE} characters, none of them control; correct --zone")]
    Zone,
    /// Other nodes cannot call all addresses of a machine.
    #[error(
        "other nodes cannot reach this one at {0}; say with --advertise which host name or address they use"
    )]
    Everywhere(SocketAddr),
    /// The advertised address does not read.
    #[error(
        "`{0}` is no address that others can reach; use host or host:port, such as node-1.example:7445"
    )]
    Advertise(String),
    /// A time is out of bounds.
    #[error("{what} {given:?} is out of bounds: {shortest:?} to {longest:?}")]
    Bounds {
        /// `--lease` or `--max-clock-skew`.
        what: &'static str,
        /// What was given.
        given: Duration,
        /// The least.
        shortest: Duration,
        /// The most.
        longest: Duration,
    },
}

/// The bounds of a lease. A shorter one would lapse in a pause of the machine, a longer one is an outage.
pub const LEASES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(60)];

/// The bounds of how far clocks may be apart.
pub const SKEWS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(600)];

/// The longest zone, in characters.
const MAX_ZONE: usize = 64;

/// The longest host name (RFC 1035).
const MAX_HOST: usize = 253;

/// How long the calls of other nodes have to be answered once this one stops.
const STOP_RELAY: Duration = Duration::from_secs(10);

/// A node that listens for others and has not joined yet.
pub(super) struct Joining {
    options: JoinOptions,
    identity: NodeIdentity,
    listener: TcpListener,
    host: String,
    address: String,
}

/// What a node of a cluster has besides.
pub(super) struct Joined {
    pub(super) links: Arc<GrpcTransport>,
    tls: Arc<NodeTls>,
    identity: NodeIdentity,
    server: RelayServer,
}

// === impl JoinOptions ===

impl JoinOptions {
    /// Checks everything that can be checked without a store: who the node is then.
    ///
    /// # Errors
    /// See [`JoinOptionError`].
    pub fn check(&self) -> Result<NodeIdentity, JoinOptionError> {
        let identity = NodeIdentity::new(&self.cluster, &self.node)?;
        let length = self.zone.chars().count();
        if !(1..=MAX_ZONE).contains(&length) || self.zone.chars().any(char::is_control) {
            return Err(JoinOptionError::Zone);
        }
        let bounded = |what, given, [shortest, longest]: [Duration; 2]| {
            if (shortest..=longest).contains(&given) {
                return Ok(());
            }
            Err(JoinOptionError::Bounds { what, given, shortest, longest })
        };
        bounded("--lease", self.lease, LEASES)?;
        bounded("--max-clock-skew", self.max_clock_skew, SKEWS)?;
        Ok(identity)
    }

    /// The host, and the host and port, at which others reach the relay that listens at `bound`.
    fn advertised(&self, bound: SocketAddr) -> Result<(String, String), JoinOptionError> {
        let Some(given) = &self.advertise else {
            if bound.ip().is_unspecified() {
                return Err(JoinOptionError::Everywhere(bound));
            }
            return Ok((bound.ip().to_string(), bound.to_string()));
        };
        let refused = || JoinOptionError::Advertise(given.chars().take(MAX_HOST).collect());
        if let Ok(address) = given.parse::<SocketAddr>() {
            return Ok((address.ip().to_string(), address.to_string()));
        }
        if let Ok(ip) = given.parse() {
            let address = SocketAddr::new(ip, bound.port());
            return Ok((ip.to_string(), address.to_string()));
        }
        let (host, port) = match given.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| refused())?),
            None => (given.as_str(), bound.port()),
        };
        let is_label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if host.len() > MAX_HOST || !host.split('.').all(is_label) || port == 0 {
            return Err(refused());
        }
        Ok((host.to_owned(), format!("{host}:{port}")))
    }
}

// === impl Joining ===

impl Joining {
    /// Checks the options and listens for other nodes.
    pub(super) async fn listen(options: JoinOptions) -> Result<Self, StartError> {
        let identity = options.check()?;
        let listener = listen("relay", options.relay).await?;
        let bound = listener.local_addr().unwrap_or(options.relay);
        let (host, address) = options.advertised(bound)?;
        Ok(Self { options, identity, listener, host, address })
    }

    /// The host at which others reach this node.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Where other nodes reach its relay.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) const fn options(&self) -> &JoinOptions {
        &self.options
    }

    /// Joins the cluster, whose authority it is, and takes calls of its nodes.
    pub(super) async fn join(
        self,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        authority: &Authority,
    ) -> Result<(Node, Joined), StartError> {
        let Self { options, identity, listener, address, .. } = self;
        let certificate = authority.issue_to_node(&identity)?;
        let tls = Arc::new(NodeTls::new(certificate, &[authority.certificate().clone()])?);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let relay =
            RelayOptions { max_skew: options.max_clock_skew, ..RelayOptions::new(version.clone()) };
        let links = Arc::new(GrpcTransport::new(Arc::clone(&tls), Arc::clone(&clock), relay));
        let cluster = ClusterOptions {
            cluster: options.cluster,
            identity: authority.fingerprint(),
            address,
            zone: options.zone,
            version,
            protocols: PROTOCOLS,
            lease: options.lease,
            max_skew: options.max_clock_skew,
        };
        let transport = Arc::clone(&links) as Arc<dyn Transport>;
        let node = Node::join(store, clock, entropy, options.node, cluster, transport).await?;
        let server = RelayServer::start(listener, &links, node.relay().clone())
            .map_err(|error| StartError::Listen { what: "relay", address: options.relay, error })?;
        Ok((node, Joined { links, tls, identity, server }))
    }
}

// === impl Joined ===

impl Joined {
    /// What renews the certificate that the node shows to others.
    pub(super) fn certificate(&self) -> NodeCertificate {
        NodeCertificate { tls: Arc::clone(&self.tls), identity: self.identity.clone() }
    }

    /// Answers what other nodes have sent, within a bound, and takes no more.
    pub(super) async fn stop(self) {
        self.server.stop(STOP_RELAY).await;
    }
}

/// The certificate that a node shows to others, which can be replaced.
pub(super) struct NodeCertificate {
    tls: Arc<NodeTls>,
    identity: NodeIdentity,
}

// === impl NodeCertificate ===

impl NodeCertificate {
    pub(super) fn renew(&self, authority: &Authority) -> Result<(), RenewalError> {
        let certificate = authority.issue_to_node(&self.identity)?;
        Ok(self.tls.replace(certificate, &[authority.certificate().clone()])?)
    }
}

/// A certificate between nodes could not be renewed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenewalError {
    #[error(transparent)]
    Pki(#[from] crate::pki::PkiError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> JoinOptions {
        JoinOptions {
            cluster: "prod".to_owned(),
            node: "node-1".to_owned(),
            zone: "eu-1a".to_owned(),
            relay: "10.0.0.1:7445".parse().unwrap(),
            advertise: None,
            lease: ClusterOptions::LEASE,
            max_clock_skew: ClusterOptions::MAX_SKEW,
        }
    }

    fn advertised(given: Option<&str>, bound: &str) -> Result<String, JoinOptionError> {
        let options = JoinOptions { advertise: given.map(str::to_owned), ..options() };
        options
            .advertised(bound.parse().unwrap())
            .map(|(host, address)| format!("{host} {address}"))
    }

    #[test]
    fn others_reach_a_node_where_it_says_or_else_where_it_listens() {
        let bound = "10.0.0.1:7445";
        for (given, expected) in [
            (None, "10.0.0.1 10.0.0.1:7445"),
            (Some("10.9.9.9"), "10.9.9.9 10.9.9.9:7445"),
            (Some("10.9.9.9:99"), "10.9.9.9 10.9.9.9:99"),
            (Some("node-1.example"), "node-1.example node-1.example:7445"),
            (Some("node-1.example:99"), "node-1.example node-1.example:99"),
            (Some("::1"), "::1 [::1]:7445"),
            (Some("[::1]:99"), "::1 [::1]:99"),
        ] {
            assert_eq!(advertised(given, bound).unwrap(), expected);
        }
        let everywhere = advertised(None, "0.0.0.0:7445").unwrap_err();
        assert!(everywhere.to_string().contains("--advertise"), "{everywhere}");
        for bad in ["", "a b", "https://a", "a:0", "a:70000", "a..b", "node_1!", &"x".repeat(300)] {
            assert!(advertised(Some(bad), bound).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_no_node_can_have_is_refused_with_what_it_should_be() {
        assert!(options().check().is_ok());
        let wrong = [
            (JoinOptions { cluster: "a b".to_owned(), ..options() }, "cluster"),
            (JoinOptions { node: String::new(), ..options() }, "node"),
            (JoinOptions { zone: "x".repeat(65), ..options() }, "--zone"),
            (JoinOptions { lease: Duration::from_millis(10), ..options() }, "--lease"),
            (JoinOptions { max_clock_skew: Duration::ZERO, ..options() }, "--max-clock-skew"),
        ];
        for (options, says) in wrong {
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
