//! The machine's own certificate authority, made on first start, and the server certificates it issues.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aa_relay::NodeIdentity;
use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::secrets::{SECRETS, SecretError, read_secret, write_public, write_secret};

/// How long a server certificate stands.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3_600);

/// How often a running server takes a new one.
pub const RENEW_EVERY_DAYS: u32 = 30;

/// The authority's certificate in the data directory.
pub(crate) const CERTIFICATE: &str = "ca.pem";

/// The authority's key among the secrets of the data directory.
pub(crate) const CA_KEY: &str = "ca.key";

const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// The certificate authority of one data directory, or of a cluster.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_file: PathBuf,
}

/// An authority as it is kept: PEM.
pub struct AuthorityPem {
    /// Its key.
    pub key: Zeroizing<String>,
    /// Its certificate.
    pub certificate: String,
}

/// The server certificate in use; it is replaced while the server runs.
#[derive(Debug)]
pub struct ServerCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

/// Why no certificate could be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A key or certificate could not be made or read.
    #[error("the certificate authority in {path} is not usable: {error}")]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        error: rcgen::Error,
    },
    /// The authority's certificate does not read.
    #[error("{path} is no certificate ({problem}); restore it from a backup")]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The TLS library does not take the key.
    #[error("the server's key is not usable: {0}")]
    Key(#[from] rustls::Error),
}

// === impl Authority ===

impl Authority {
    /// Reads the authority of `directory` (`ca.pem` and `secrets/ca.key`), making it first when there is
    /// none.
    ///
    /// # Errors
    /// A file cannot be read or written, or is not what it should be.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let certificate_file = directory.join(CERTIFICATE);
        let key_file = directory.join(SECRETS).join(CA_KEY);
        let failed = |error| PkiError::Certificate { path: certificate_file.clone(), error };
        let key = match read_secret(&key_file)? {
            Some(pem) => KeyPair::from_pem(&String::from_utf8_lossy(&pem)).map_err(failed)?,
            None => KeyPair::generate().map_err(failed)?,
        };
        if !certificate_file.exists() {
            write_secret(&key_file, key.serialize_pem().as_bytes())?;
            let certificate = authority_params().self_signed(&key).map_err(failed)?;
            write_public(&certificate_file, certificate.pem().as_bytes())?;
        }
        let pem = std::fs::read_to_string(&certificate_file).map_err(|error| SecretError::Io {
            path: certificate_file.clone(),
            what: "read",
            error,
        })?;
        Self::of(key, &pem, certificate_file)
    }

    /// The authority of a cluster. Its certificate is written to `directory`, where this node's clients look for it;
    /// its key is kept in the cluster's store only.
    ///
    /// # Errors
    /// The file cannot be written, or the authority is not what it should be.
    pub fn of_cluster(directory: &Path, pem: &AuthorityPem) -> Result<Self, PkiError> {
        let certificate_file = directory.join(CERTIFICATE);
        let failed = |error| PkiError::Certificate { path: certificate_file.clone(), error };
        let key = KeyPair::from_pem(&pem.key).map_err(failed)?;
        write_public(&certificate_file, pem.certificate.as_bytes())?;
        Self::of(key, &pem.certificate, certificate_file)
    }

    fn of(key: KeyPair, pem: &str, certificate_file: PathBuf) -> Result<Self, PkiError> {
        let unusable =
            |problem: String| PkiError::Unusable { path: certificate_file.clone(), problem };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| unusable(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| PkiError::Certificate { path: certificate_file.clone(), error })?;
        Ok(Self { issuer, certificate, certificate_file })
    }

    /// What tells the authority from every other: the SHA-256 of its certificate, as `sha256:` and 64 hexadecimal
    /// digits.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(&self.certificate);
        let digits = digest.iter().map(|byte| format!("{byte:02x}"));
        std::iter::once("sha256:".to_owned()).chain(digits).collect()
    }

    /// The authority's certificate.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A new certificate for a node of a cluster, with which it calls other nodes and is called by them.
    ///
    /// # Errors
    /// The key or certificate cannot be made.
    pub fn issue_to_node(&self, node: &NodeIdentity) -> Result<CertifiedKey, PkiError> {
        let failed = |error| PkiError::Certificate { path: self.certificate_file.clone(), error };
        let mut params = CertificateParams::default();
        let uri = node.to_string().try_into().map_err(failed)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.distinguished_name = named(node.node());
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// The file with the authority's certificate, which clients trust.
    pub fn certificate_file(&self) -> &Path {
        &self.certificate_file
    }

    /// A new server certificate for this machine's names, the addresses it listens on, and the host under which others
    /// reach it.
    ///
    /// # Errors
    /// The key or certificate cannot be made.
    pub fn issue(
        &self,
        addresses: &[IpAddr],
        host: Option<&str>,
    ) -> Result<CertifiedKey, PkiError> {
        let failed = |error| PkiError::Certificate { path: self.certificate_file.clone(), error };
        let mut names = server_names();
        let host_address: Option<IpAddr> = host.and_then(|host| host.parse().ok());
        let host_name = host.filter(|_| host_address.is_none()).map(str::to_ascii_lowercase);
        names.extend(host_name.filter(|name| !names.contains(name)));
        let mut params = CertificateParams::new(names).map_err(failed)?;
        let loopback = ["127.0.0.1", "::1"].iter().filter_map(|address| address.parse().ok());
        let mut all: Vec<IpAddr> = loopback.collect();
        let others = addresses.iter().copied().chain(host_address);
        all.extend(others.filter(|address| !address.is_unspecified()));
        all.sort_unstable();
        all.dedup();
        params.subject_alt_names.extend(all.into_iter().map(SanType::IpAddress));
        params.distinguished_name = named("Agent Assembly gateway");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<CertifiedKey, PkiError> {
        let failed = |error| PkiError::Certificate { path: self.certificate_file.clone(), error };
        let key = KeyPair::generate().map_err(failed)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, CERTIFICATE_LIFETIME);
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(CertifiedKey::new(vec![certificate.der().clone()], any_supported_type(&der)?))
    }
}

// === impl AuthorityPem ===

impl AuthorityPem {
    /// A new authority.
    ///
    /// # Errors
    /// No key can be made.
    pub fn generate() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = authority_params().self_signed(&key)?.pem();
        Ok(Self { key: Zeroizing::new(key.serialize_pem()), certificate })
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Agent Assembly local CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_LIFETIME);
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Valid from an hour ago, for peers whose clocks run behind.
fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - Duration::from_secs(3_600);
    params.not_after = now + lifetime;
}

fn server_names() -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    if let Ok(host) = std::fs::read_to_string("/etc/hostname") {
        let host = host.trim().to_ascii_lowercase();
        let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
        if !host.is_empty() && plain && host != "localhost" {
            names.push(host);
        }
    }
    names
}

// === impl ServerCertificate ===

impl ServerCertificate {
    /// Starts with `certificate`.
    pub fn new(certificate: CertifiedKey) -> Self {
        Self { current: RwLock::new(Arc::new(certificate)) }
    }

    /// Serves `certificate` to connections from now on.
    pub fn replace(&self, certificate: CertifiedKey) {
        *self.current.write() = Arc::new(certificate);
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}
