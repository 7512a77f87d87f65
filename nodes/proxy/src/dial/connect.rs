//! Connecting to addresses that were admitted, several beside each other when one is slow (RFC 8305).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use aa_reach::Reach;
use async_trait::async_trait;
use futures::{StreamExt, stream::FuturesUnordered};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep_until, timeout},
};

use super::DialOptions;

/// An address that may be connected to. Only `Dialer::admit` makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    address: SocketAddr,
    reach: Reach,
}

/// Makes connections; tests make them up.
#[async_trait]
pub(super) trait Connect: Send + Sync + 'static {
    /// A connection to exactly this address.
    async fn connect(&self, to: Admitted) -> io::Result<TcpStream>;
}

/// TCP of the operating system.
pub(super) struct SystemConnect {
    pub(super) keepalive: Duration,
}

/// No address could be connected to.
pub(super) struct Unconnected {
    pub(super) problem: io::ErrorKind,
    pub(super) tried: usize,
}

/// Probes after the first come so much later each.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// After so many without an answer the connection is given up.
const PROBES: u32 = 3;

// === impl Admitted ===

impl Admitted {
    pub(super) const fn checked(address: SocketAddr, reach: Reach) -> Self {
        Self { address, reach }
    }

    pub(super) const fn address(self) -> SocketAddr {
        self.address
    }

    pub(super) const fn reach(self) -> Reach {
        self.reach
    }
}

// === impl SystemConnect ===

#[async_trait]
impl Connect for SystemConnect {
    async fn connect(&self, to: Admitted) -> io::Result<TcpStream> {
        let socket = match to.address.ip() {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_nodelay(true)?;
        let probes = TcpKeepalive::new().with_time(self.keepalive).with_interval(PROBE_INTERVAL);
        SockRef::from(&socket).set_tcp_keepalive(&probes.with_retries(PROBES))?;
        socket.connect(to.address).await
    }
}

/// Both families in turns, beginning with the first one's, each in its order (RFC 8305 §4): where one of them leads
/// nowhere, the second attempt is of the other.
pub(super) fn alternating(addresses: Vec<Admitted>) -> Vec<Admitted> {
    let begins_with_v6 = addresses.first().is_some_and(|first| first.address.is_ipv6());
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|one| one.address.is_ipv6() == begins_with_v6);
    let longest = first.len().max(second.len());
    let pairs = (0..longest).map(|at| [first.get(at).copied(), second.get(at).copied()]);
    pairs.flatten().flatten().collect()
}

/// The connection that is there first; the others are given up.
pub(super) async fn race(
    connect: &dyn Connect,
    addresses: Vec<Admitted>,
    options: &DialOptions,
) -> Result<(TcpStream, Admitted), Unconnected> {
    let mut waiting = addresses.into_iter().peekable();
    let mut attempts = FuturesUnordered::new();
    let (mut tried, mut problem) = (0, io::ErrorKind::AddrNotAvailable);
    let mut next_at = Instant::now();
    loop {
        if attempts.is_empty() || next_at <= Instant::now() {
            match waiting.next() {
                Some(to) => {
                    tried += 1;
                    attempts.push(attempt(connect, to, options.connect));
                    next_at = Instant::now() + options.stagger;
                }
                None if attempts.is_empty() => return Err(Unconnected { problem, tried }),
                None => {}
            }
        }
        tokio::select! {
            biased;
            Some((connected, to)) = attempts.next() => match connected {
                Ok(stream) => return Ok((stream, to)),
                Err(error) => {
                    problem = error.kind();
                    next_at = Instant::now();
                }
            },
            () = sleep_until(next_at), if waiting.peek().is_some() => {}
        }
    }
}

async fn attempt(
    connect: &dyn Connect,
    to: Admitted,
    patience: Duration,
) -> (io::Result<TcpStream>, Admitted) {
    let connected = timeout(patience, connect.connect(to)).await;
    (connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())), to)
}
