//! Certificates as an authority holds them.

use std::time::{Duration, SystemTime};

use pem::{EncodeConfig, LineEnding, Pem};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

/// A certificate, and what of it is asked for often.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Whether it names itself as its issuer.
    pub(crate) is_self_issued: bool,
    /// The public key, as SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    pub(crate) public_key: Vec<u8>,
    /// Its subject's common name; empty when it has none.
    pub(crate) name: String,
    /// The domains it is limited to; none: it is not limited.
    pub(crate) domains: Vec<String>,
}

// === impl Held ===

impl Held {
    /// Reads an authority's certificate.
    pub(crate) fn read(der: CertificateDer<'static>) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("something follows the certificate".to_owned());
        }
        if !certificate.is_ca() {
            return Err("a certificate in it is no authority's".to_owned());
        }
        let constraints = certificate.name_constraints().map_err(|error| error.to_string())?;
        let permitted = constraints.and_then(|found| found.value.permitted_subtrees.as_ref());
        let domains = permitted.into_iter().flatten().filter_map(|subtree| match subtree.base {
            GeneralName::DNSName(name) => Some(name.to_owned()),
            _ => None,
        });
        let name = certificate.subject().iter_common_name().next();
        let name = name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned();
        Ok(Self {
            name,
            not_before: moment(certificate.validity().not_before.timestamp()),
            not_after: moment(certificate.validity().not_after.timestamp()),
            is_self_issued: certificate.issuer().as_raw() == certificate.subject().as_raw(),
            public_key: certificate.public_key().raw.to_vec(),
            domains: domains.collect(),
            der: der.clone(),
        })
    }

    pub(crate) fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// How long it is valid in all.
    pub(crate) fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// In PEM (RFC 7468).
    pub(crate) fn pem(&self) -> String {
        let line_ending = EncodeConfig::new().set_line_ending(LineEnding::LF);
        pem::encode_config(&Pem::new("CERTIFICATE", self.der.to_vec()), line_ending)
    }
}

fn moment(seconds: i64) -> SystemTime {
    let from_epoch = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH - from_epoch
    } else {
        SystemTime::UNIX_EPOCH + from_epoch
    }
}

/// The day of a moment, as people read it.
pub(crate) fn day(moment: SystemTime) -> String {
    OffsetDateTime::from(moment).date().to_string()
}
