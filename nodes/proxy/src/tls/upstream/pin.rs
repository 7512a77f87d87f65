//! Pins: upstreams that are taken only with a certain key.

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    CertificateError, DigitallySignedStruct, Error as RustlsError, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::WebPkiSupportedAlgorithms,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

/// The SHA-256 of a public key (SubjectPublicKeyInfo, RFC 7469 §2.4). Text form: `sha256/` and its base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

/// A text that is no pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no pin; use sha256/ and the 44 characters of the base64 of a public key's SHA-256"
)]
pub struct PinError(String);

/// The certificate verifies, and no pinned key is in its chain.
#[derive(Debug, thiserror::Error)]
#[error("none of the pinned keys is in the chain")]
pub(super) struct NotPinned {
    /// The leaf's.
    pub(super) found: Option<Pin>,
}

/// Verifies as always, and that the leaf has a pinned key or was issued below a pinned authority.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) verifier: Arc<WebPkiServerVerifier>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) pins: Vec<Pin>,
    /// Those of the trusted roots that have a pinned key.
    pub(super) roots: RootCertStore,
}

const PREFIX: &str = "sha256/";

// === impl Pin ===

impl Pin {
    /// The pin of a certificate's key; none when the certificate does not read.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        Some(Self(Sha256::digest(parsed.subject_public_key_info()).into()))
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let digest = text.strip_prefix(PREFIX).and_then(|digits| STANDARD.decode(digits).ok());
        let digest = digest.and_then(|digest| digest.try_into().ok());
        digest.map(Self).ok_or_else(|| PinError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Pinned ===

impl Pinned {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        Pin::of(certificate).is_some_and(|pin| self.pins.contains(&pin))
    }

    /// Whether a chain leads from the leaf to a pinned authority. That such a certificate was sent along is not enough:
    /// anybody can send it.
    fn is_below_pinned(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> bool {
        let mut roots = self.roots.clone();
        for intermediate in intermediates.iter().filter(|one| self.is_pinned(one)) {
            // One that does not read leads nowhere.
            let _ = roots.add(intermediate.clone().into_owned());
        }
        let Ok(leaf) = ParsedCertificate::try_from(leaf) else { return false };
        let all = self.algorithms.all;
        !roots.is_empty()
            && verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, now, all)
                .is_ok()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        let verified = self.verifier.verify_server_cert(leaf, intermediates, name, ocsp, now)?;
        if self.is_pinned(leaf) || self.is_below_pinned(leaf, intermediates, now) {
            return Ok(verified);
        }
        let not_pinned = OtherError(Arc::new(NotPinned { found: Pin::of(leaf) }));
        Err(CertificateError::Other(not_pinned).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
