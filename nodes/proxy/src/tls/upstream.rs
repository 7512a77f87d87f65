//! Verified TLS to upstreams.

mod client_certificate;
mod pin;
mod problem;
mod trust;

use std::{collections::HashMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use aa_reach::Host;
use parking_lot::RwLock;
use rustls::{
    ClientConfig, SupportedProtocolVersion,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    time_provider::{DefaultTimeProvider, TimeProvider},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use self::{
    client_certificate::{ClientCertificate, ClientCertificateError},
    pin::{Pin, PinError},
    problem::UpstreamProblem,
    trust::{Revocation, RevocationDepth, TrustError},
};
use self::{pin::Pinned, trust::Trust};
use super::{Alpn, server_name};

/// TLS to upstreams: their certificates are verified for their host, against trusted roots, lists of revoked ones and
/// pins. There is no way to switch that off.
///
/// Sessions are resumed within what was verified alike; a resumed session does not look at the certificate again, for as
/// long as the upstream takes its ticket (at most seven days, RFC 8446 §4.6.1). To apply new roots, lists or pins at
/// once, make a new one of these.
pub struct UpstreamTls {
    handshake: Duration,
    tls12: bool,
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    trust: Trust,
    verifier: Arc<WebPkiServerVerifier>,
    sessions: Resumption,
    others: Configs,
    hosts: RwLock<HashMap<Host, OfHost>>,
}

/// How upstreams are verified.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// Whether the roots that the system trusts are.
    pub system_roots: bool,
    /// Files with more roots, in PEM.
    pub roots: Vec<PathBuf>,
    /// Whether TLS 1.2 is spoken with upstreams that have no 1.3.
    pub tls12: bool,
    /// How revoked certificates are known; none: they are not.
    pub revocation: Option<Revocation>,
    /// What is particular to some hosts.
    pub hosts: Vec<HostTls>,
    /// How long a handshake may take.
    pub handshake: Duration,
}

/// What is particular to a host.
#[derive(Clone, Debug)]
pub struct HostTls {
    /// The host, by the name or address it is called by.
    pub host: Host,
    /// Of its chain, one certificate has one of these keys: the leaf, or an authority above it. None: it is not pinned.
    pub pins: Vec<Pin>,
    /// With what the proxy identifies itself to it.
    pub client: Option<ClientCertificate>,
}

/// Why upstreams cannot be verified as they should be.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamOptionsError {
    /// There is nothing to verify by.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A host is there twice.
    #[error("{0} is configured twice; put its pins and client certificate together")]
    Twice(Host),
    /// The TLS library does not take it.
    #[error("TLS cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Why there is no TLS with an upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} {problem}")]
pub struct UpstreamError {
    /// The upstream.
    pub host: Host,
    /// What is wrong.
    pub problem: UpstreamProblem,
}

struct OfHost {
    verifier: Arc<dyn ServerCertVerifier>,
    configs: Configs,
}

/// One for each [`Alpn`], in the order of [`Alpn::ALL`].
type Configs = [Arc<ClientConfig>; Alpn::ALL.len()];

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];
/// Of so many upstreams sessions are kept.
const MAX_SESSIONS: usize = 1_024;

// === impl UpstreamOptions ===

/// The system's roots, and TLS 1.2 where there is no 1.3.
impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            system_roots: true,
            roots: Vec::new(),
            tls12: true,
            revocation: None,
            hosts: Vec::new(),
            handshake: Duration::from_secs(10),
        }
    }
}

// === impl UpstreamTls ===

impl UpstreamTls {
    /// Reads roots and lists; it blocks while it does.
    ///
    /// # Errors
    /// A file does not read, there are no roots, or a host is configured twice.
    pub fn new(options: UpstreamOptions) -> Result<Self, UpstreamOptionsError> {
        Self::with_time(options, Arc::new(DefaultTimeProvider))
    }

    /// The same by a clock of the caller's.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_time(
        options: UpstreamOptions,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, UpstreamOptionsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let trust = Trust::read(options.system_roots, &options.roots)?;
        let verifier = trust.verifier(options.revocation.as_ref(), &provider)?;
        let sessions = Resumption::in_memory_sessions(MAX_SESSIONS);
        let plain = Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>;
        let others = configs(&provider, &time, options.tls12, &sessions, &plain, None)?;
        let upstream = Self {
            handshake: options.handshake,
            tls12: options.tls12,
            provider,
            time,
            trust,
            verifier,
            sessions,
            others,
            hosts: RwLock::default(),
        };
        for HostTls { host, pins, client } in options.hosts {
            let of_host = upstream.of_host(upstream.pinned(pins), client.as_ref())?;
            if upstream.hosts.write().insert(host.clone(), of_host).is_some() {
                return Err(UpstreamOptionsError::Twice(host));
            }
        }
        Ok(upstream)
    }

    /// Identifies the proxy to a host with `client` from now on, or with nothing. Pins of the host stay; connections that
    /// are up do too.
    ///
    /// # Errors
    /// The TLS library does not take it; what was there stays then.
    pub fn set_client_certificate(
        &self,
        host: &Host,
        client: Option<&ClientCertificate>,
    ) -> Result<(), UpstreamOptionsError> {
        let mut hosts = self.hosts.write();
        let verifier = hosts.get(host).map(|of_host| Arc::clone(&of_host.verifier));
        let verifier = verifier.unwrap_or_else(|| Arc::clone(&self.verifier) as _);
        let of_host = self.of_host(verifier, client)?;
        hosts.insert(host.clone(), of_host);
        Ok(())
    }

    /// The configuration for connections to a host.
    pub fn client_config(&self, host: &Host, alpn: Alpn) -> Arc<ClientConfig> {
        let hosts = self.hosts.read();
        let configs = hosts.get(host).map_or(&self.others, |of_host| &of_host.configs);
        Arc::clone(&configs[alpn.index()])
    }

    /// Does the handshake with a host over a connection to it. Which protocol the host chose is for the caller to look
    /// at: one that knows no ALPN chooses none, and speaks HTTP/1.1.
    ///
    /// # Errors
    /// The host's certificate does not verify, or the handshake fails or takes too long.
    pub async fn connect<S>(
        &self,
        host: &Host,
        alpn: Alpn,
        stream: S,
    ) -> Result<TlsStream<S>, UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |problem| UpstreamError { host: host.clone(), problem };
        let name = server_name(host).map_err(|_| failed(UpstreamProblem::Name))?;
        let connector = TlsConnector::from(self.client_config(host, alpn));
        match tokio::time::timeout(self.handshake, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(failed(UpstreamProblem::of(&error))),
            Err(_) => Err(failed(UpstreamProblem::TimedOut(self.handshake))),
        }
    }

    fn pinned(&self, pins: Vec<Pin>) -> Arc<dyn ServerCertVerifier> {
        if pins.is_empty() {
            return Arc::clone(&self.verifier) as _;
        }
        Arc::new(Pinned {
            verifier: Arc::clone(&self.verifier),
            algorithms: self.provider.signature_verification_algorithms,
            roots: self.trust.pinned(&pins),
            pins,
        })
    }

    fn of_host(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
        client: Option<&ClientCertificate>,
    ) -> Result<OfHost, rustls::Error> {
        let Self { provider, time, tls12, sessions, .. } = self;
        let configs = configs(provider, time, *tls12, sessions, &verifier, client)?;
        Ok(OfHost { verifier, configs })
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("roots", &self.trust.store.len())
            .field("tls12", &self.tls12)
            .finish_non_exhaustive()
    }
}

/// Sessions of one verifier and client certificate are never resumed with another: the TLS library looks at that.
fn configs(
    provider: &Arc<CryptoProvider>,
    time: &Arc<dyn TimeProvider>,
    tls12: bool,
    sessions: &Resumption,
    verifier: &Arc<dyn ServerCertVerifier>,
    client: Option<&ClientCertificate>,
) -> Result<Configs, rustls::Error> {
    let (provider, time) = (Arc::clone(provider), Arc::clone(time));
    let config = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(if tls12 { BOTH } else { NEWEST })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier));
    let mut config = match client {
        Some(client) => config.with_client_cert_resolver(Arc::clone(&client.0) as _),
        None => config.with_no_client_auth(),
    };
    config.resumption = sessions.clone();
    Ok(Alpn::ALL.map(|alpn| {
        let mut config = config.clone();
        config.alpn_protocols = alpn.protocols();
        Arc::new(config)
    }))
}

#[cfg(test)]
mod tests;
