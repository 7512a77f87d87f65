//! Connections to upstreams: a host is resolved once, each address is checked, and only what was checked is connected to.
//!
//! Agents choose hosts, and whoever runs a name's DNS chooses its addresses, so neither may lead into the network the
//! proxy stands in (server-side request forgery). There is no second resolution that could answer otherwise (DNS
//! rebinding): `connect` takes addresses that were admitted and nothing else.

mod allowance;
mod connect;
mod resolver;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use aa_reach::{Host, Nat64Prefix, Reach};
use tokio::{net::TcpStream, time::Instant};

pub use self::{
    allowance::{Allowance, AllowanceError},
    resolver::{Lookup, SystemLookup, Unresolved},
};
use self::{
    connect::{Admitted, Connect, SystemConnect, Unconnected},
    resolver::Resolver,
};

/// Connects to hosts: public ones, and what an operator allows. Cheap to share behind an [`Arc`].
pub struct Dialer {
    options: DialOptions,
    allowed: Vec<Allowance>,
    resolver: Resolver,
    connect: Arc<dyn Connect>,
}

/// How patient dialing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialOptions {
    /// How long resolving a name may take.
    pub resolve: Duration,
    /// How long one address may take to be connected to.
    pub connect: Duration,
    /// How long all may take together.
    pub total: Duration,
    /// How long an address is waited for before the next one is tried beside it (RFC 8305 §5).
    pub stagger: Duration,
    /// How long the addresses of a name are remembered. Resolvers of systems do not tell how long they are good for.
    pub remember: Duration,
    /// How long it is remembered that a name has none.
    pub remember_failure: Duration,
    /// How long a connection may be idle before the peer is asked whether it is there still.
    pub keepalive: Duration,
    /// Under which prefixes this network translates IPv6 to IPv4, beside 64:ff9b::/96.
    pub nat64: Vec<Nat64Prefix>,
}

/// A connection.
#[derive(Debug)]
pub struct Dialed {
    /// The connection, without delay for small segments (`TCP_NODELAY`) and with keep-alive probes.
    pub stream: TcpStream,
    /// Whom it is to.
    pub peer: SocketAddr,
    /// What sort of address that is.
    pub reach: Reach,
    /// What sort of address was passed over, if one was: a name that has public addresses and others is unusual.
    pub passed_over: Option<Reach>,
    /// How long resolving took, or looking up what is remembered.
    pub resolving: Duration,
    /// How long connecting took.
    pub connecting: Duration,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// It is an address, or a name with only such addresses, that agents may not reach. The address is for the operator's
    /// log; it is not shown, for it may tell an agent of an internal network.
    #[error("{host} is at {reach}, which agents may not reach; {}", remedy(host, *port, *reach))]
    Refused {
        /// The host.
        host: Host,
        /// The port.
        port: u16,
        /// What sort of address.
        reach: Reach,
        /// The address.
        address: IpAddr,
    },
    /// The name has no address that could be found out.
    #[error("{host} could not be resolved: {problem}")]
    Unresolved {
        /// The host.
        host: Host,
        /// Why.
        problem: Unresolved,
    },
    /// None of its addresses could be connected to.
    #[error("{} could not be connected to: {problem} ({tried} addresses tried); see whether it is up, and whether this machine may reach it", host.with_port(*port))]
    Unconnected {
        /// The host.
        host: Host,
        /// The port.
        port: u16,
        /// What the last attempt ended with.
        problem: io::ErrorKind,
        /// How many addresses were tried.
        tried: usize,
    },
    /// It took too long in all.
    #[error("{} could not be connected to within {} s", host.with_port(*port), after.as_secs_f32())]
    TooLate {
        /// The host.
        host: Host,
        /// The port.
        port: u16,
        /// How long it may take.
        after: Duration,
    },
}

/// Addresses of a host that may be connected to.
struct Checked {
    admitted: Vec<Admitted>,
    passed_over: Option<Reach>,
}

/// More admitted addresses of a name are not tried.
const MAX_ADDRESSES: usize = 8;

// === impl DialOptions ===

impl Default for DialOptions {
    fn default() -> Self {
        Self {
            resolve: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            total: Duration::from_secs(15),
            stagger: Duration::from_millis(250),
            remember: Duration::from_secs(5),
            remember_failure: Duration::from_secs(2),
            keepalive: Duration::from_secs(30),
            nat64: Vec::new(),
        }
    }
}

// === impl Dialer ===

impl Dialer {
    /// One that asks the system's resolver.
    pub fn new(options: DialOptions, allowed: Vec<Allowance>) -> Self {
        Self::with_lookup(options, allowed, Arc::new(SystemLookup))
    }

    /// One that asks `lookup`.
    pub fn with_lookup(
        options: DialOptions,
        allowed: Vec<Allowance>,
        lookup: Arc<dyn Lookup>,
    ) -> Self {
        let connect = SystemConnect { keepalive: options.keepalive };
        Self::with_connect(options, allowed, lookup, Arc::new(connect))
    }

    fn with_connect(
        options: DialOptions,
        allowed: Vec<Allowance>,
        lookup: Arc<dyn Lookup>,
        connect: Arc<dyn Connect>,
    ) -> Self {
        Self { resolver: Resolver::new(lookup, &options), options, allowed, connect }
    }

    /// Whether a host may be dialled, as far as can be told without resolving it. It is told again when it is dialled.
    ///
    /// # Errors
    /// It is an address that agents may not reach.
    pub fn check(&self, host: &Host, port: u16) -> Result<(), DialError> {
        match host {
            Host::Name(_) => Ok(()),
            Host::Address(address) => self.checked(host, port, &[*address]).map(drop),
        }
    }

    /// Connects to a host. Of several addresses the next is tried when one fails, or has not answered for a while.
    ///
    /// # Errors
    /// Its addresses may not be reached, cannot be found out or cannot be connected to.
    pub async fn dial(&self, host: &Host, port: u16) -> Result<Dialed, DialError> {
        let after = self.options.total;
        let late = || DialError::TooLate { host: host.clone(), port, after };
        let dialed = tokio::time::timeout(after, self.dial_patiently(host, port)).await;
        dialed.unwrap_or_else(|_| Err(late()))
    }

    async fn dial_patiently(&self, host: &Host, port: u16) -> Result<Dialed, DialError> {
        let begun = Instant::now();
        let checked = match host {
            Host::Address(address) => self.checked(host, port, &[*address])?,
            Host::Name(name) => {
                let found = self.resolver.resolve(name).await;
                let found = found
                    .map_err(|problem| DialError::Unresolved { host: host.clone(), problem })?;
                self.checked(host, port, &found)?
            }
        };
        let resolved = Instant::now();
        let Checked { admitted, passed_over } = checked;
        let connected = connect::race(&*self.connect, admitted, &self.options).await;
        let (stream, to) = connected.map_err(|Unconnected { problem, tried }| {
            DialError::Unconnected { host: host.clone(), port, problem, tried }
        })?;
        Ok(Dialed {
            stream,
            peer: to.address(),
            reach: to.reach(),
            passed_over,
            resolving: resolved - begun,
            connecting: resolved.elapsed(),
        })
    }

    /// Those of `found` that may be connected to; at least one.
    fn checked(&self, host: &Host, port: u16, found: &[IpAddr]) -> Result<Checked, DialError> {
        let mut refused = None;
        let mut admitted = Vec::new();
        for &address in found {
            match self.admit(host, port, address) {
                Ok(one) if !admitted.contains(&one) => admitted.push(one),
                Ok(_) => {}
                Err(reach) => {
                    refused.get_or_insert((reach, address));
                }
            }
        }
        match (admitted.is_empty(), refused) {
            (false, _) => {
                let mut admitted = connect::alternating(admitted);
                admitted.truncate(MAX_ADDRESSES);
                Ok(Checked { admitted, passed_over: refused.map(|(reach, _)| reach) })
            }
            (true, Some((reach, address))) => {
                Err(DialError::Refused { host: host.clone(), port, reach, address })
            }
            (true, None) => {
                let problem = Unresolved::NoAddress;
                Err(DialError::Unresolved { host: host.clone(), problem })
            }
        }
    }

    /// The one place that admits an address.
    fn admit(&self, host: &Host, port: u16, address: IpAddr) -> Result<Admitted, Reach> {
        let reach = Reach::through(&self.options.nat64, address);
        let is_allowed = |allowance: &Allowance| allowance.admits(host, port, address, reach);
        let admits = match reach {
            Reach::Public => true,
            // No connection is to many.
            Reach::Multicast => false,
            _ => self.allowed.iter().any(is_allowed),
        };
        let to = SocketAddr::new(address, port);
        if admits { Ok(Admitted::checked(to, reach)) } else { Err(reach) }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("options", &self.options)
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

// === impl DialError ===

impl DialError {
    /// Whether it was refused, and not tried in vain: trying again changes nothing.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// What an operator writes to allow it.
fn remedy(host: &Host, port: u16, reach: Reach) -> String {
    let to = host.with_port(port);
    match (host, reach) {
        (_, Reach::Multicast) => "no connection can be made to it".to_owned(),
        (Host::Address(_), _) => {
            format!("an operator allows it with `{to}` among the allowed destinations")
        }
        (Host::Name(_), reach) if reach.is_internal() => {
            format!("an operator allows it with `{to}` among the allowed destinations")
        }
        (Host::Name(_), _) => format!(
            "an operator allows it with `{to}=<its address>` among the allowed destinations; the name alone does not"
        ),
    }
}

#[cfg(test)]
mod tests;
