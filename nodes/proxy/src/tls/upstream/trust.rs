//! Whose certificates are taken: roots, and lists of what was revoked.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore,
    client::WebPkiServerVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
    server::VerifierBuilderError,
};

use super::pin::Pin;

/// How it is found out whether a certificate was revoked (RFC 5280 §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Files with lists of revoked certificates, in PEM or DER. They are read once.
    pub lists: Vec<PathBuf>,
    /// Which certificates are looked for in them.
    pub depth: RevocationDepth,
    /// Whether a certificate is taken whose issuer is in no list.
    pub allow_unknown: bool,
    /// Whether a list is used past the time at which its next update was due.
    pub allow_expired_lists: bool,
}

/// Which certificates of a chain are looked for in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationDepth {
    /// All but the root.
    Chain,
    /// The leaf alone.
    Leaf,
}

/// Why there is nothing to verify upstreams by.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file could not be read.
    #[error("could not read {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is larger than any of its kind.
    #[error("{path} is larger than {MAX_BYTES} bytes; see whether it is the right file")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file has no root certificate.
    #[error("{path} has no root certificate in PEM ({problem})")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file has no list.
    #[error(
        "{path} has no list of revoked certificates that can be used ({problem}); use one in PEM or DER"
    )]
    Lists {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The system trusts no roots, and no others are given.
    #[error(
        "this system trusts no root certificates ({problem}); install its ca-certificates package, or give files of roots"
    )]
    NoRoots {
        /// What was found.
        problem: String,
    },
    /// Revocation is to be looked at, and there is no list.
    #[error(
        "revocation is configured without a list of revoked certificates; give one, or leave it out"
    )]
    NoLists,
}

/// Roots, and the keys of those that can be pinned.
pub(super) struct Trust {
    pub(super) store: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
}

/// The largest file that is read; the largest lists in use are of some ten megabytes.
const MAX_BYTES: u64 = 64 * 1_024 * 1_024;

// === impl Trust ===

impl Trust {
    /// The system's roots, if wanted, and those of files.
    pub(super) fn read(with_system: bool, files: &[PathBuf]) -> Result<Self, TrustError> {
        let (mut store, mut certificates) = (RootCertStore::empty(), Vec::new());
        let mut problem = "they are not used".to_owned();
        if with_system {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "some of the system's root certificates do not read");
            }
            problem =
                found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
            // Some systems have ones that nobody can use.
            for certificate in found.certs {
                if store.add(certificate.clone()).is_ok() {
                    certificates.push(certificate);
                }
            }
        }
        for path in files {
            let roots = |problem| TrustError::Roots { path: path.clone(), problem };
            let text = read(path)?;
            let before = certificates.len();
            for certificate in CertificateDer::pem_slice_iter(&text) {
                let certificate = certificate.map_err(|error| roots(error.to_string()))?;
                store.add(certificate.clone()).map_err(|error| roots(error.to_string()))?;
                certificates.push(certificate);
            }
            if certificates.len() == before {
                return Err(roots("there is none in it".to_owned()));
            }
        }
        if store.is_empty() {
            return Err(TrustError::NoRoots { problem });
        }
        Ok(Self { store: Arc::new(store), certificates })
    }

    /// The roots with one of these keys.
    pub(super) fn pinned(&self, pins: &[Pin]) -> RootCertStore {
        let mut pinned = RootCertStore::empty();
        for root in &self.certificates {
            if Pin::of(root).is_some_and(|pin| pins.contains(&pin)) {
                // It was added to the others already.
                let _ = pinned.add(root.clone());
            }
        }
        pinned
    }

    /// What verifies chains to these roots.
    pub(super) fn verifier(
        &self,
        revocation: Option<&Revocation>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<WebPkiServerVerifier>, TrustError> {
        let mut builder = WebPkiServerVerifier::builder_with_provider(
            Arc::clone(&self.store),
            Arc::clone(provider),
        );
        let no_roots =
            |error: VerifierBuilderError| TrustError::NoRoots { problem: error.to_string() };
        let Some(revocation) = revocation else { return builder.build().map_err(no_roots) };
        if revocation.lists.is_empty() {
            return Err(TrustError::NoLists);
        }
        for path in &revocation.lists {
            let lists = |problem| TrustError::Lists { path: path.clone(), problem };
            let found = read_lists(&read(path)?).map_err(lists)?;
            // By itself, so that the error can name the file.
            self.check_lists(found.clone(), provider).map_err(|error| lists(error.to_string()))?;
            builder = builder.with_crls(found);
        }
        if revocation.depth == RevocationDepth::Leaf {
            builder = builder.only_check_end_entity_revocation();
        }
        if revocation.allow_unknown {
            builder = builder.allow_unknown_revocation_status();
        }
        if !revocation.allow_expired_lists {
            builder = builder.enforce_revocation_expiration();
        }
        builder.build().map_err(no_roots)
    }

    fn check_lists(
        &self,
        lists: Vec<CertificateRevocationListDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), VerifierBuilderError> {
        let (store, provider) = (Arc::clone(&self.store), Arc::clone(provider));
        let builder = WebPkiServerVerifier::builder_with_provider(store, provider);
        builder.with_crls(lists).build().map(drop)
    }
}

fn read_lists(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    let lists = lists.map_err(|error| error.to_string())?;
    if !lists.is_empty() {
        return Ok(lists);
    }
    // DER begins with a sequence.
    match bytes.first() {
        Some(0x30) => Ok(vec![bytes.to_vec().into()]),
        _ => Err("there is none in it".to_owned()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    let failed = |error| TrustError::Io { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(TrustError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}
