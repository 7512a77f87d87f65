//! An authority: made, kept, rotated, and the leaves it issues.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject,
};
use zeroize::Zeroizing;

use crate::{
    certificate::{
        BACKDATED, Held, MAX_LIFETIME, cross_sign, day, given_name, make, named, set_validity,
    },
    directory::{Directory, DirectoryError, Locked},
};

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Held,
    /// This authority's key as the former one vouches for it, while the overlap of a rotation lasts.
    cross: Option<Held>,
    /// Those that clients knew before.
    former: Vec<Held>,
    file: PathBuf,
}

/// What a new authority is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityOptions {
    /// Who it is, as people see it in their trust stores; a date and a part of its key's digest are added.
    pub name: String,
    /// How long it is valid; at most ten years.
    pub lifetime: Duration,
    /// The domains it may vouch for, each with all below it, in the one form of host names; none: for every host. With a
    /// domain given it vouches for no address.
    pub domains: Vec<String>,
}

/// How a new authority follows a former one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Clients that know only the former authority go on for so long, at most while that one is valid, and less the
    /// lifetime of a leaf: what vouches for a leaf is presented only when it outlives it.
    Overlap(Duration),
    /// They stop at once, as they should when the former key has become known to others.
    Replace,
}

/// A leaf: a certificate for one host and the chain to present with it.
pub struct Issued {
    /// The leaf first; then, while a rotation's overlap lasts, the authority's certificate by the former one.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// When it is no longer valid.
    pub not_after: SystemTime,
}

/// One of the certificates that clients are to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCertificate {
    /// What tells it from every other, see [`Authority::fingerprint`].
    pub fingerprint: String,
    /// The certificate in PEM.
    pub pem: String,
}

/// Why an authority could not be had.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its directory could not be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// There is none.
    #[error("{path} does not exist; `aa-proxy` makes it when it first starts")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file does not hold one.
    #[error(
        "{path} is damaged: {problem}; restore it from a backup, or remove it and have a new one made"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Its time is over.
    #[error(
        "the authority in {path} expired on {on}; run `aasm ca rotate`, and have clients trust the new one"
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// The day.
        on: String,
    },
    /// Its time has not begun.
    #[error(
        "the authority in {path} is valid from {from} on; see whether this machine's clock is right"
    )]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// The day.
        from: String,
    },
    /// It was rotated, and clients may know only the former one still.
    #[error(
        "the authority in {path} was rotated, and clients may trust only the former one until {until}; rotate it \
         after that, or with `--replace`, after which they trust neither"
    )]
    Overlapping {
        /// The file.
        path: PathBuf,
        /// The day.
        until: String,
    },
    /// No key or certificate could be made.
    #[error("no authority could be made for {path}: {error}")]
    Make {
        /// The file.
        path: PathBuf,
        /// Why.
        error: rcgen::Error,
    },
}

/// Why a leaf was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The authority's time is over, or has not begun.
    #[error(
        "the proxy's authority is valid from {from} to {to}; run `aasm ca rotate`, or set this machine's clock"
    )]
    Invalid {
        /// The first day.
        from: String,
        /// The last day.
        to: String,
    },
    /// It may not vouch for the host.
    #[error(
        "the proxy's authority vouches for {domains} only, not for {host}; let the host pass through, or make an authority without `domains`"
    )]
    Outside {
        /// The host.
        host: String,
        /// What it vouches for.
        domains: String,
    },
    /// The key or certificate could not be made.
    #[error("no certificate could be made for {host}: {error}")]
    Make {
        /// The host.
        host: String,
        /// Why.
        error: rcgen::Error,
    },
}

/// Longest common name (RFC 5280, appendix A.1, `ub-common-name`).
const MAX_COMMON_NAME: usize = 64;

// === impl AuthorityOptions ===

/// Two years, for every host.
impl Default for AuthorityOptions {
    fn default() -> Self {
        Self {
            name: "Agent Assembly proxy".to_owned(),
            lifetime: Duration::from_secs(730 * 86_400),
            domains: Vec::new(),
        }
    }
}

// === impl Rotation ===

/// Ninety days.
impl Default for Rotation {
    fn default() -> Self {
        Self::Overlap(Duration::from_secs(90 * 86_400))
    }
}

// === impl Authority ===

impl Authority {
    /// The authority kept in `directory`; made there when there is none. Of several processes that find none at once,
    /// one makes it and all have the same.
    ///
    /// # Errors
    /// The directory or its file cannot be used, is open to others, or holds something else; the authority is not valid
    /// at `now`.
    pub fn open(
        directory: &Path,
        options: &AuthorityOptions,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let kept = Directory::new(directory);
        if let Some(text) = kept.read()? {
            return Self::read(&text, kept.file())?.valid_at(now);
        }
        let lock = kept.lock()?;
        if let Some(text) = kept.read()? {
            return Self::read(&text, kept.file())?.valid_at(now);
        }
        let (key, certificate, _) = make(options, now)
            .map_err(|error| AuthorityError::Make { path: kept.file(), error })?;
        Self::keep(&lock, &key, &[&certificate])?;
        Self::of(key, vec![certificate], kept.file())?.valid_at(now)
    }

    /// The authority kept in `directory`, whatever the time.
    ///
    /// # Errors
    /// There is none, or as for [`Self::open`].
    pub fn load(directory: &Path) -> Result<Self, AuthorityError> {
        let kept = Directory::new(directory);
        let text = kept.read()?.ok_or_else(|| AuthorityError::Missing { path: kept.file() })?;
        Self::read(&text, kept.file())
    }

    /// Makes a new authority, with as long a lifetime and for the same domains, in the place of the one kept in
    /// `directory`. Running proxies take it when they read it again.
    ///
    /// # Errors
    /// There is none, an overlap still lasts ([`Rotation::Overlap`]), or the directory cannot be used.
    pub fn rotate(
        directory: &Path,
        rotation: Rotation,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let kept = Directory::new(directory);
        let path = kept.file();
        // Before the lock, which would make the directory.
        Self::load(directory)?;
        let lock = kept.lock()?;
        let former = Self::load(directory)?;
        let failed = |error| AuthorityError::Make { path: path.clone(), error };
        let options = AuthorityOptions {
            lifetime: former.certificate.lifetime().saturating_sub(BACKDATED),
            domains: former.certificate.domains.clone(),
            name: given_name(&former.certificate.name).to_owned(),
        };
        let (key, certificate, name) = make(&options, now).map_err(failed)?;
        let mut certificates = vec![certificate];
        match rotation {
            Rotation::Overlap(_) if former.cross_at(now).is_some() => {
                let until = former.overlap_until(now).map(day).unwrap_or_default();
                return Err(AuthorityError::Overlapping { path, until });
            }
            Rotation::Overlap(overlap) if former.certificate.is_valid_at(now) => {
                let until = former.certificate.not_after.min(now + overlap.min(MAX_LIFETIME));
                let cross = cross_sign(&key, name, &former.issuer, &options.domains, now, until);
                certificates.push(cross.map_err(failed)?);
                certificates.push(former.certificate);
            }
            _ => {}
        }
        let held: Vec<&Held> = certificates.iter().collect();
        Self::keep(&lock, &key, &held)?;
        Self::of(key, certificates, path)
    }

    /// A leaf for `host`, valid for `lifetime`, at most as long as the authority is. It costs a fresh key (P-256) and two
    /// signatures of one; nothing is kept.
    ///
    /// # Errors
    /// The authority is not valid at `now`, or may not vouch for the host.
    pub fn issue(
        &self,
        host: &ServerName<'_>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let shown = host.to_str();
        if !self.certificate.is_valid_at(now) {
            return Err(IssueError::Invalid {
                from: day(self.certificate.not_before),
                to: day(self.certificate.not_after),
            });
        }
        let domains = &self.certificate.domains;
        if !domains.is_empty() && !domains.iter().any(|domain| is_within(&shown, domain)) {
            let (host, domains) = (shown.into_owned(), domains.join(", "));
            return Err(IssueError::Outside { host, domains });
        }
        let not_after = self.certificate.not_after.min(now + lifetime.min(MAX_LIFETIME));
        let made = self.sign_leaf(host, now, not_after);
        let (leaf, key) = made.map_err(|error| {
            let host = shown.into_owned();
            IssueError::Make { host, error }
        })?;
        let cross = self.cross_at(not_after).map(|cross| cross.der.clone());
        Ok(Issued { chain: std::iter::once(leaf).chain(cross).collect(), key, not_after })
    }

    fn sign_leaf(
        &self,
        host: &ServerName<'_>,
        now: SystemTime,
        not_after: SystemTime,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
        let mut params = CertificateParams::default();
        let name = host.to_str();
        params.subject_alt_names = vec![match host {
            ServerName::IpAddress(address) => SanType::IpAddress(IpAddr::from(*address)),
            _ => SanType::DnsName(name.as_ref().try_into()?),
        }];
        let is_short = name.len() <= MAX_COMMON_NAME;
        params.distinguished_name =
            named(if is_short { &name } else { "a host of Agent Assembly proxy" });
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Strict verifiers, such as Python's from 3.13 on, want it.
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, not_after);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((leaf.into(), key))
    }

    /// What clients are to trust, in PEM: the authority's certificate, and while a rotation's overlap lasts the former
    /// one's after it.
    pub fn bundle(&self, now: SystemTime) -> String {
        self.trusted(now).map(Held::pem).collect()
    }

    /// The same in DER.
    pub fn certificates(&self, now: SystemTime) -> Vec<CertificateDer<'static>> {
        self.trusted(now).map(|held| held.der.clone()).collect()
    }

    /// The same one by one.
    pub fn named_certificates(&self, now: SystemTime) -> Vec<NamedCertificate> {
        let named =
            |held: &Held| NamedCertificate { fingerprint: held.fingerprint(), pem: held.pem() };
        self.trusted(now).map(named).collect()
    }

    fn trusted(&self, now: SystemTime) -> impl Iterator<Item = &Held> {
        let former = self.cross_at(now).map(|_| &self.former).into_iter().flatten();
        std::iter::once(&self.certificate).chain(former)
    }

    /// What tells the authority from every other: the SHA-256 of its certificate, as `sha256:` and 64 hexadecimal
    /// digits.
    pub fn fingerprint(&self) -> String {
        self.certificate.fingerprint()
    }

    /// From when on it is no longer valid.
    pub const fn expires_at(&self) -> SystemTime {
        self.certificate.not_after
    }

    /// Until when clients that know only the former authority go on; `None` when no overlap lasts.
    pub fn overlap_until(&self, now: SystemTime) -> Option<SystemTime> {
        self.cross_at(now).map(|cross| cross.not_after)
    }

    /// The domains it vouches for; none: for every host.
    pub fn domains(&self) -> &[String] {
        &self.certificate.domains
    }

    /// The file it is kept in.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn cross_at(&self, moment: SystemTime) -> Option<&Held> {
        self.cross.as_ref().filter(|cross| moment < cross.not_after)
    }

    fn valid_at(self, now: SystemTime) -> Result<Self, AuthorityError> {
        let Held { not_before, not_after, .. } = self.certificate;
        if now >= not_after {
            return Err(AuthorityError::Expired { path: self.file, on: day(not_after) });
        }
        if now < not_before {
            return Err(AuthorityError::NotYetValid { path: self.file, from: day(not_before) });
        }
        Ok(self)
    }

    fn keep(lock: &Locked<'_>, key: &KeyPair, held: &[&Held]) -> Result<(), AuthorityError> {
        let mut text = Zeroizing::new(String::with_capacity(1_024 * (held.len() + 1)));
        text.push_str(&Zeroizing::new(key.serialize_pem()));
        for certificate in held {
            text.push_str(&certificate.pem());
        }
        Ok(lock.write(text.as_bytes())?)
    }

    fn read(text: &[u8], file: PathBuf) -> Result<Self, AuthorityError> {
        let damaged = |problem: String| AuthorityError::Damaged { path: file.clone(), problem };
        let key = PrivateKeyDer::from_pem_slice(text)
            .map_err(|error| damaged(format!("it has no private key ({error})")))?;
        let key = KeyPair::try_from(&key)
            .map_err(|error| damaged(format!("its private key is not usable ({error})")))?;
        let mut held = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(text) {
            let certificate =
                certificate.map_err(|error| error.to_string()).and_then(Held::read).map_err(
                    |problem| damaged(format!("a certificate does not read ({problem})")),
                )?;
            held.push(certificate);
        }
        Self::of(key, held, file)
    }

    /// Which certificate is which follows from their keys and issuers.
    fn of(key: KeyPair, held: Vec<Held>, file: PathBuf) -> Result<Self, AuthorityError> {
        let public_key = key.subject_public_key_info();
        let (own, former): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|held| held.public_key == public_key);
        let (own, cross): (Vec<_>, Vec<_>) = own.into_iter().partition(|held| held.is_self_issued);
        let Some(certificate) = own.into_iter().next() else {
            let problem = "it has no certificate of its key".to_owned();
            return Err(AuthorityError::Damaged { path: file, problem });
        };
        let issuer = Issuer::from_ca_cert_der(&certificate.der, key)
            .map_err(|error| AuthorityError::Make { path: file.clone(), error })?;
        Ok(Self { issuer, certificate, cross: cross.into_iter().next(), former, file })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("fingerprint", &self.fingerprint())
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

fn is_within(host: &str, domain: &str) -> bool {
    host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}
