//! Certificates with which the proxy identifies itself to upstreams.

use std::{fmt, sync::Arc};

use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use secrecy::{ExposeSecret, SecretSlice};

/// A client certificate with its chain and key.
#[derive(Clone)]
pub struct ClientCertificate(pub(super) Arc<SingleCertAndKey>);

/// Why it is not usable. It shows nothing of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientCertificateError {
    /// The chain does not read.
    #[error(
        "the client certificate's chain is not usable: {0}; give it in PEM, the certificate itself first"
    )]
    Chain(String),
    /// The key does not read.
    #[error("the client certificate's key is not usable; give it in PEM, unencrypted")]
    Key,
    /// They do not belong together.
    #[error(
        "the client certificate and the key do not belong together; give the key the certificate was issued for"
    )]
    Mismatch,
}

// === impl ClientCertificate ===

impl ClientCertificate {
    /// Reads a chain (the certificate itself first) and its key (PKCS #8, SEC 1 or PKCS #1), both in PEM.
    ///
    /// # Errors
    /// One of them does not read, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &SecretSlice<u8>) -> Result<Self, ClientCertificateError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = read.map_err(|error| ClientCertificateError::Chain(error.to_string()))?;
        if chain.is_empty() {
            return Err(ClientCertificateError::Chain("there is no certificate".to_owned()));
        }
        // The library's errors are not passed on: they may tell of the key.
        let key = PrivateKeyDer::from_pem_slice(key.expose_secret())
            .map_err(|_| ClientCertificateError::Key)?;
        let key =
            aws_lc_rs::sign::any_supported_type(&key).map_err(|_| ClientCertificateError::Key)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => Ok(Self(Arc::new(SingleCertAndKey::from(certified)))),
            Err(rustls::Error::InconsistentKeys(_)) => Err(ClientCertificateError::Mismatch),
            Err(error) => Err(ClientCertificateError::Chain(error.to_string())),
        }
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}
