//! The connection to a gateway: TLS 1.3 over TCP, HTTP/2 with windows sized for long prompts.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{
    config::{Config, ConfigError},
    error::ClientError,
    gateway_url::GatewayUrl,
};

/// HTTP/2's own 64 KiB would stall one long prompt for a round trip per window.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(10);

/// How to connect to one gateway, checked beforehand.
pub(crate) struct Dialer {
    url: GatewayUrl,
    endpoint: Endpoint,
    /// The name its certificate must have, and what verifies it; `None` in plaintext.
    tls: Option<(ServerName<'static>, TlsConnector)>,
    timeout: Duration,
}

// === impl Dialer ===

impl Dialer {
    /// One for each address, in their order.
    pub(crate) fn for_all(config: &Config) -> Result<Vec<Self>, ClientError> {
        let urls = config.gateway_urls.as_slice();
        let tls = urls.iter().any(GatewayUrl::tls).then(|| tls_config(config.ca_file.as_deref()));
        let tls = tls.transpose()?.map(|tls| TlsConnector::from(Arc::new(tls)));
        urls.iter().map(|url| Self::new(url, tls.as_ref(), config.connect_timeout)).collect()
    }

    fn new(
        url: &GatewayUrl,
        tls: Option<&TlsConnector>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let origin: Uri = url
            .to_string()
            .parse()
            .map_err(|_| ClientError::System(format!("{url} is no address")))?;
        // The connector below speaks TLS itself, for 1.3 only, so the endpoint itself is plain.
        let endpoint = Endpoint::from_shared(format!("http://{}", url.authority()))
            .map_err(|error| ClientError::System(error.to_string()))?
            .origin(origin)
            .connect_timeout(timeout)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_WITHIN)
            .keep_alive_while_idle(true);
        let tls = match tls.filter(|_| url.tls()) {
            Some(connector) => {
                let name = ServerName::try_from(url.host().to_owned())
                    .map_err(|error| ClientError::System(format!("{}: {error}", url.host())))?;
                Some((name, connector.clone()))
            }
            None => None,
        };
        Ok(Self { url: url.clone(), endpoint, tls, timeout })
    }

    pub(crate) const fn url(&self) -> &GatewayUrl {
        &self.url
    }

    /// A channel of its own connection, which is made on first use and again whenever it broke.
    pub(crate) fn dial(&self) -> Channel {
        let (url, timeout) = (self.url.clone(), self.timeout);
        let Some((name, connector)) = self.tls.clone() else {
            return self.endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let url = url.clone();
                async move { tcp(&url, timeout).await.map(TokioIo::new) }
            }));
        };
        self.endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (url, name, connector) = (url.clone(), name.clone(), connector.clone());
            async move {
                let socket = tcp(&url, timeout).await?;
                connector.connect(name, socket).await.map(TokioIo::new)
            }
        }))
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dialer({})", self.url)
    }
}

async fn tcp(url: &GatewayUrl, timeout: Duration) -> std::io::Result<TcpStream> {
    let connecting = TcpStream::connect((url.host(), url.port()));
    let socket = tokio::time::timeout(timeout, connecting)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn tls_config(ca_file: Option<&Path>) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| ClientError::System(error.to_string()))?;
    let roots = match ca_file {
        Some(path) => roots_of(path)?,
        None => system_roots()?,
    };
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn roots_of(path: &Path) -> Result<RootCertStore, ClientError> {
    let malformed = |problem: String| ConfigError::Malformed { variable: "AAA_CA_FILE", problem };
    let shown = path.display();
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| malformed(format!("{shown} cannot be read: {error}")))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| {
            malformed(format!("{shown} is not a PEM certificate file: {error}"))
        })?;
        roots.add(certificate).map_err(|error| {
            malformed(format!("{shown} holds an unusable certificate: {error}"))
        })?;
    }
    if roots.is_empty() {
        return Err(malformed(format!("{shown} holds no certificate")).into());
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, ClientError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(ConfigError::Missing {
            variable: "AAA_CA_FILE",
            help: "this system trusts no certificate authority; set it to the gateway's CA file, \
                   printed by `aasm up`",
        }
        .into());
    }
    Ok(roots)
}
