//! Authorities, certificates and lists of revoked ones, made for tests.

use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::SecretSlice;
use time::OffsetDateTime;

use crate::tls::testing::DAY;

/// A root, and an authority below it that issues.
pub(super) struct Pki {
    root: Issuer<'static, KeyPair>,
    root_certificate: rcgen::Certificate,
    between: Issuer<'static, KeyPair>,
    between_certificate: CertificateDer<'static>,
    now: SystemTime,
}

/// A certificate with its chain, and its key.
pub(super) struct Leaf {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    serial: SerialNumber,
    pem: String,
    key_pem: String,
}

/// Of the authority between.
const SERIAL: u64 = 7;

// === impl Pki ===

impl Pki {
    pub(super) fn new(now: SystemTime) -> Self {
        let (root_key, between_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        // Of two authorities with one name, none would be unknown.
        let unique = OffsetDateTime::now_utc().unix_timestamp_nanos();
        let params = authority(&format!("Root {unique}"), now);
        let root_certificate = params.self_signed(&root_key).unwrap();
        let root = Issuer::new(params, root_key);
        let params = authority(&format!("Between {unique}"), now);
        let between_certificate = params.signed_by(&between_key, &root).unwrap().into();
        let between = Issuer::new(params, between_key);
        Self { root, root_certificate, between, between_certificate, now }
    }

    pub(super) fn root_pem(&self) -> String {
        self.root_certificate.pem()
    }

    pub(super) fn root(&self) -> &CertificateDer<'static> {
        self.root_certificate.der()
    }

    pub(super) fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_between(names, self.now - DAY, self.now + 90 * DAY)
    }

    pub(super) fn leaf_between(&self, names: &[&str], from: SystemTime, to: SystemTime) -> Leaf {
        self.issue(names, from, to, ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub(super) fn leaf_for_clients(&self, name: &str) -> Leaf {
        let (from, to) = (self.now - DAY, self.now + 90 * DAY);
        self.issue(&[name], from, to, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        names: &[&str],
        from: SystemTime,
        to: SystemTime,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Leaf {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![purpose];
        valid(&mut params, from, to);
        let key = KeyPair::generate().unwrap();
        let serial = SerialNumber::from_slice(&key.public_key_raw()[1..17]);
        params.serial_number = Some(serial.clone());
        let certificate = params.signed_by(&key, &self.between).unwrap();
        let pem = certificate.pem();
        let chain = vec![certificate.into(), self.between_certificate.clone()];
        Leaf { chain, serial, pem, key_pem: key.serialize_pem(), key: der(&key) }
    }

    /// The list of the authority that issues leaves.
    pub(super) fn leaves_revoked(&self, leaves: &[&Leaf]) -> String {
        self.list(&self.between, leaves.iter().map(|leaf| leaf.serial.clone()).collect())
    }

    /// The list of the root, with the authority below it or nothing.
    pub(super) fn authority_revoked(&self, is_revoked: bool) -> String {
        let serials = is_revoked.then(|| SerialNumber::from(SERIAL));
        self.list(&self.root, serials.into_iter().collect())
    }

    fn list(&self, issuer: &Issuer<'static, KeyPair>, revoked: Vec<SerialNumber>) -> String {
        let revoked = revoked.into_iter().map(|serial_number| RevokedCertParams {
            serial_number,
            revocation_time: moment(self.now - DAY),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: moment(self.now - DAY),
            next_update: moment(self.now + 7 * DAY),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(issuer).unwrap().pem().unwrap()
    }
}

// === impl Leaf ===

impl Leaf {
    /// Its chain.
    pub(super) fn pem(&self) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let between = STANDARD.encode(&self.chain[1]);
        let head = "-----BEGIN CERTIFICATE-----";
        format!("{}{head}\n{between}\n-----END CERTIFICATE-----\n", self.pem)
    }

    pub(super) fn key_pem(&self) -> SecretSlice<u8> {
        self.key_pem.clone().into_bytes().into()
    }
}

/// A certificate that nobody vouches for.
pub(super) fn self_signed(name: &str, now: SystemTime, is_authority: bool) -> Leaf {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    valid(&mut params, now - DAY, now + DAY);
    if is_authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let pem = certificate.pem();
    let serial = SerialNumber::from(1);
    Leaf {
        chain: vec![certificate.into()],
        serial,
        pem,
        key_pem: key.serialize_pem(),
        key: der(&key),
    }
}

fn authority(name: &str, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    params.distinguished_name = distinguished;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from(SERIAL));
    valid(&mut params, now - DAY, now + 900 * DAY);
    params
}

fn valid(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    params.not_before = moment(from);
    params.not_after = moment(to);
}

fn moment(at: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(at)
}

fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}
