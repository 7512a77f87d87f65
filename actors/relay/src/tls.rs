//! Mutual TLS between nodes: who may talk, and as whom.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
        verify_tls13_signature,
    },
    server::{ParsedCertificate, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

use crate::identity::{NameError, NodeIdentity};

/// A node's certificate, and the authorities whose certificates it takes. Both can be replaced while links are up:
/// new links use what is there when they begin.
pub struct NodeTls {
    identity: NodeIdentity,
    current: ArcSwap<Configs>,
}

/// A certificate that cannot be used between nodes.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate was presented, or none was given.
    #[error("there is no certificate")]
    NoCertificate,
    /// It does not read.
    #[error("the certificate does not read: {0}")]
    Unreadable(String),
    /// It has not exactly one name of a node.
    #[error("the certificate names {0} nodes, and must name one, as aasm://<cluster>/node/<name>")]
    Nameless(usize),
    /// The name is not one.
    #[error("the certificate's name is not usable: {0}")]
    Name(#[from] NameError),
    /// The new certificate is not this node's.
    #[error("the new certificate is of {found}, and this node is {wanted}")]
    OtherNode {
        /// Whose it is.
        found: NodeIdentity,
        /// Whose it should be.
        wanted: NodeIdentity,
    },
    /// The TLS library does not take it.
    #[error("the certificate is not usable: {0}")]
    Rustls(#[from] RustlsError),
    /// An authority's certificate does not verify clients.
    #[error("the authority's certificate is not usable: {0}")]
    Authority(#[from] rustls::server::VerifierBuilderError),
}

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Checks that a certificate is of one of the authorities. Which node's it is, is checked once the handshake is
/// done: nodes have no DNS names in their certificates, because they are who they are wherever they run.
#[derive(Debug)]
struct OfAuthority {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What is spoken on top.
const ALPN: &[u8] = b"h2";

// === impl NodeTls ===

impl NodeTls {
    /// The node that `certificate` names, which talks to nodes whose certificates are of `authorities`.
    ///
    /// # Errors
    /// The certificate names no node, or one of them is not usable.
    pub fn new(
        certificate: CertifiedKey,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Self, TlsError> {
        let identity = identity_of(&certificate.cert)?;
        let current = ArcSwap::from_pointee(Configs::new(certificate, authorities)?);
        Ok(Self { identity, current })
    }

    /// Uses these from the next link on.
    ///
    /// # Errors
    /// As for [`Self::new`], or the certificate is another node's; what was there stays then.
    pub fn replace(
        &self,
        certificate: CertifiedKey,
        authorities: &[CertificateDer<'static>],
    ) -> Result<(), TlsError> {
        let found = identity_of(&certificate.cert)?;
        if found != self.identity {
            return Err(TlsError::OtherNode { found, wanted: self.identity.clone() });
        }
        self.current.store(Arc::new(Configs::new(certificate, authorities)?));
        Ok(())
    }

    /// Who this node is.
    pub const fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.load().client)
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().server)
    }
}

impl fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTls").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Whose a certificate is.
pub(crate) fn identity_of(chain: &[CertificateDer<'_>]) -> Result<NodeIdentity, TlsError> {
    let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
    let unreadable = |error: String| TlsError::Unreadable(error);
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|error| unreadable(error.to_string()))?;
    let names = certificate.extensions().iter().filter_map(|extension| {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        }
    });
    let uris: Vec<&str> = names
        .flatten()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [uri] => Ok(uri.parse()?),
        uris => Err(TlsError::Nameless(uris.len())),
    }
}

// === impl Configs ===

impl Configs {
    fn new(
        certificate: CertifiedKey,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        certificate.keys_match()?;
        let own = Arc::new(SingleCertAndKey::from(certificate));
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone())?;
        }
        let roots = Arc::new(roots);
        let client = client(&provider, Arc::clone(&own), Arc::clone(&roots))?;
        let server = server(&provider, own, roots)?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

fn client(
    provider: &Arc<CryptoProvider>,
    own: Arc<SingleCertAndKey>,
    roots: Arc<RootCertStore>,
) -> Result<ClientConfig, TlsError> {
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(OfAuthority { roots, algorithms });
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(own);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    // A link that begins after certificates were replaced is checked against the new ones.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server(
    provider: &Arc<CryptoProvider>,
    own: Arc<SingleCertAndKey>,
    roots: Arc<RootCertStore>,
) -> Result<ServerConfig, TlsError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(own);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

// === impl OfAuthority ===

impl ServerCertVerifier for OfAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether a handshake failed because of a certificate, on this side or the other.
pub(crate) fn is_about_certificates(error: &std::io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>());
    matches!(
        inner,
        Some(
            RustlsError::InvalidCertificate(_)
                | RustlsError::NoCertificatesPresented
                | RustlsError::AlertReceived(
                    Alert::UnknownCA
                        | Alert::BadCertificate
                        | Alert::CertificateExpired
                        | Alert::CertificateRequired
                        | Alert::CertificateUnknown
                        | Alert::DecryptError
                        | Alert::UnsupportedCertificate
                )
        )
    )
}

/// Whether the certificate's time is not now: most likely a clock is wrong.
pub(crate) fn is_about_time(error: &std::io::Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>());
    matches!(
        inner,
        Some(RustlsError::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        ))
    )
}
