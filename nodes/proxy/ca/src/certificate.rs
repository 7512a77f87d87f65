//! Certificates of authorities: made, signed by one another, and read.

use std::time::{Duration, SystemTime};

use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::authority::AuthorityOptions;

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

/// Valid from before it was made, for clients whose clocks run behind, or in another time zone.
pub(crate) const BACKDATED: Duration = Duration::from_secs(86_400);
/// Nothing is valid longer.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(3_650 * 86_400);
/// In an authority's name, what stands between the name that was given and the date.
const BEFORE_DATE: &str = " CA ";

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

    /// Its SHA-256, as `sha256:` and 64 hexadecimal digits.
    pub(crate) fn fingerprint(&self) -> String {
        let digest = Sha256::digest(&self.der);
        let digits = digest.iter().map(|byte| format!("{byte:02x}"));
        std::iter::once("sha256:".to_owned()).chain(digits).collect()
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

/// A new key and its certificate by itself.
pub(crate) fn make(
    options: &AuthorityOptions,
    now: SystemTime,
) -> Result<(KeyPair, Held, DistinguishedName), rcgen::Error> {
    let key = KeyPair::generate()?;
    // One name for each key: clients that look for an issuer by its name find one.
    let digest = Sha256::digest(key.subject_public_key_info());
    let [a, b, c, d] = [digest[0], digest[1], digest[2], digest[3]];
    let (given, on) = (&options.name, day(now));
    let name = named(&format!("{given}{BEFORE_DATE}{on} {a:02x}{b:02x}{c:02x}{d:02x}"));
    // One more may stand between it and a leaf: its successor's, during an overlap.
    let mut params = authority_params(name.clone(), 1, &options.domains);
    set_validity(&mut params, now, now + options.lifetime.min(MAX_LIFETIME));
    let certificate = params.self_signed(&key)?;
    Ok((key, held(certificate)?, name))
}

/// What was given as a name when the authority was made.
pub(crate) fn given_name(common_name: &str) -> &str {
    common_name.rsplit_once(BEFORE_DATE).map_or(common_name, |(given, _)| given)
}

/// A new authority's key under its name, as `former` vouches for it.
pub(crate) fn cross_sign(
    key: &KeyPair,
    name: DistinguishedName,
    former: &Issuer<'_, KeyPair>,
    domains: &[String],
    now: SystemTime,
    until: SystemTime,
) -> Result<Held, rcgen::Error> {
    let mut params = authority_params(name, 0, domains);
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now, until);
    held(params.signed_by(key, former)?)
}

fn held(certificate: rcgen::Certificate) -> Result<Held, rcgen::Error> {
    Held::read(certificate.into()).map_err(|_| rcgen::Error::CouldNotParseCertificate)
}

fn authority_params(name: DistinguishedName, below: u8, domains: &[String]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // A stolen key signs neither code nor mail, nor logs in anywhere.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if !domains.is_empty() {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: domains.iter().cloned().map(GeneralSubtree::DnsName).collect(),
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
    }
    params
}

pub(crate) fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::OrganizationName, "Agent Assembly");
    distinguished.push(DnType::CommonName, name);
    distinguished
}

pub(crate) fn set_validity(params: &mut CertificateParams, now: SystemTime, until: SystemTime) {
    params.not_before = OffsetDateTime::from(now - BACKDATED);
    params.not_after = OffsetDateTime::from(until);
}
