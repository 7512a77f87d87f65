//! Leaves: what agents see in the place of the hosts they call.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aa_reach::Host;
use parking_lot::{Mutex, RwLock};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, ProducesTickets},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::{DefaultTimeProvider, TimeProvider},
    version::{TLS12, TLS13},
};

use super::{
    Alpn,
    authority::{Authority, IssueError},
    server_name,
};
use crate::recent::Recent;

/// Configurations of TLS with a leaf for each host, made when first asked for, renewed before they expire, and
/// forgotten when others are asked for more. However many connections ask at once, one leaf is made for each host.
pub struct Leaves {
    options: LeafOptions,
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    issuing: RwLock<Arc<Issuing>>,
    hosts: Recent<Host, Arc<Slot>>,
}

/// How leaves are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafOptions {
    /// How many hosts are kept at a time; a host's leaf is a few kilobytes.
    pub capacity: usize,
    /// How long a leaf is valid. It is renewed when a third of this is left.
    pub lifetime: Duration,
    /// Whether TLS 1.2 is taken beside 1.3. These clients are programs of others, on this machine or near it, and some
    /// SDKs and runtimes still have no 1.3; all that is taken of 1.2 has forward secrecy and authenticated encryption.
    pub tls12: bool,
}

/// Why there is no leaf for a host.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// It has a name that no certificate can carry.
    #[error(
        "no certificate can carry the name {host}; let the host pass through, or use another name of it"
    )]
    Name {
        /// The host.
        host: Host,
    },
    /// The authority issued none.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The TLS library does not take what was issued, or has no randomness.
    #[error("the leaf for {host} is not usable: {error}")]
    Rustls {
        /// The host.
        host: Host,
        /// Why.
        error: rustls::Error,
    },
    /// What time it is, is not known.
    #[error("no certificate can be made while this machine's clock is before 1970; set it")]
    NoTime,
}

/// What is used for new leaves.
struct Issuing {
    authority: Authority,
    tickets: Arc<dyn ProducesTickets>,
}

/// One host's place.
#[derive(Default)]
struct Slot(Mutex<Option<Made>>);

/// A leaf and the configurations that have it.
struct Made {
    leaf: Arc<SingleCertAndKey>,
    renew_at: SystemTime,
    configs: [Option<Arc<ServerConfig>>; Alpn::ALL.len()],
}

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];
/// Not even an authority at the end of its time makes leaves anew more often.
const LEAST_RENEWAL: Duration = Duration::from_secs(60);

// === impl LeafOptions ===

/// Two thousand hosts for three days each, with TLS 1.2.
impl Default for LeafOptions {
    fn default() -> Self {
        Self { capacity: 2_048, lifetime: Duration::from_secs(3 * 86_400), tls12: true }
    }
}

// === impl Leaves ===

impl Leaves {
    /// Leaves of `authority`, by the system's clock.
    ///
    /// # Errors
    /// There is no randomness for the keys of session tickets.
    pub fn new(authority: Authority, options: LeafOptions) -> Result<Self, rustls::Error> {
        Self::with_time(authority, options, Arc::new(DefaultTimeProvider))
    }

    /// The same by a clock of the caller's.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_time(
        authority: Authority,
        options: LeafOptions,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            provider: Arc::new(aws_lc_rs::default_provider()),
            time,
            issuing: RwLock::new(Arc::new(Issuing::of(authority)?)),
            hosts: Recent::new(options.capacity),
            options,
        })
    }

    /// Takes leaves from `authority` from now on, as after a rotation. Connections that are up stay; sessions are not
    /// resumed across the change.
    ///
    /// # Errors
    /// As for [`Self::new`]; what was there stays then.
    pub fn replace_authority(&self, authority: Authority) -> Result<(), rustls::Error> {
        let issuing = Arc::new(Issuing::of(authority)?);
        *self.issuing.write() = issuing;
        // After that: a slot found from here on is filled from the new one.
        self.hosts.clear();
        Ok(())
    }

    /// The configuration with which connections to `host` are accepted. When a leaf has to be made it takes some hundred
    /// microseconds, without waiting for anything but others that make the same.
    ///
    /// # Errors
    /// The authority's time is over or it may not vouch for the host, or the name fits into no certificate.
    pub fn server_config(&self, host: &Host, alpn: Alpn) -> Result<Arc<ServerConfig>, LeafError> {
        let now = self.time.current_time().ok_or(LeafError::NoTime)?;
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let slot = self.hosts.get_or_insert_with(host, Arc::default);
        let mut made = slot.0.lock();
        let issuing = Arc::clone(&self.issuing.read());
        let current = match made.take() {
            Some(current) if now < current.renew_at => current,
            _ => self.make(host, now, &issuing.authority)?,
        };
        let current = made.insert(current);
        if let Some(config) = &current.configs[alpn.index()] {
            return Ok(Arc::clone(config));
        }
        let config = self.config(Arc::clone(&current.leaf), alpn, &issuing);
        let config =
            Arc::new(config.map_err(|error| LeafError::Rustls { host: host.clone(), error })?);
        current.configs[alpn.index()] = Some(Arc::clone(&config));
        Ok(config)
    }

    /// The PEM bundle that agents are to trust.
    pub fn bundle(&self) -> Result<String, LeafError> {
        let now = self.time.current_time().ok_or(LeafError::NoTime)?;
        let issuing = Arc::clone(&self.issuing.read());
        Ok(issuing.authority.bundle(UNIX_EPOCH + Duration::from_secs(now.as_secs())))
    }

    fn make(&self, host: &Host, now: SystemTime, authority: &Authority) -> Result<Made, LeafError> {
        let name = server_name(host).map_err(|_| LeafError::Name { host: host.clone() })?;
        let issued = authority.issue(&name, self.options.lifetime, now)?;
        let valid = issued.not_after.duration_since(now).unwrap_or_default();
        let key = CertifiedKey::from_der(issued.chain, issued.key, &self.provider)
            .map_err(|error| LeafError::Rustls { host: host.clone(), error })?;
        Ok(Made {
            leaf: Arc::new(SingleCertAndKey::from(key)),
            renew_at: now + (valid * 2 / 3).max(LEAST_RENEWAL),
            configs: Default::default(),
        })
    }

    fn config(
        &self,
        leaf: Arc<SingleCertAndKey>,
        alpn: Alpn,
        issuing: &Issuing,
    ) -> Result<ServerConfig, rustls::Error> {
        let versions = if self.options.tls12 { BOTH } else { NEWEST };
        let (provider, time) = (Arc::clone(&self.provider), Arc::clone(&self.time));
        let mut config = ServerConfig::builder_with_details(provider, time)
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_cert_resolver(leaf);
        config.alpn_protocols = alpn.protocols();
        // Sessions are resumed by ticket alone, so that they take no memory here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::clone(&issuing.tickets);
        Ok(config)
    }
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaves")
            .field("authority", &self.issuing.read().authority)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

// === impl Issuing ===

impl Issuing {
    fn of(authority: Authority) -> Result<Self, rustls::Error> {
        Ok(Self { authority, tickets: aws_lc_rs::Ticketer::new()? })
    }
}

#[cfg(test)]
mod tests;
