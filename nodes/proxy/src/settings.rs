//! What the proxy goes by; replaced as a whole when its configuration is read again.

use std::{sync::Arc, time::Duration};

use aa_dialect::Dialects;
use aa_scan::decode;

use crate::{
    breaker::{self, Breakers},
    caller::{Callers, Entry},
    decide::Patience,
    dial::Dialer,
    host_patterns::HostPatterns,
    screen::Screening,
    tls::UpstreamTls,
    upstream::{Connector, Timeouts, Upstreams},
};

/// What can change while the proxy runs.
#[derive(Clone)]
pub struct Settings {
    /// Who may call.
    pub callers: Callers,
    /// Which hosts speak what.
    pub dialects: Dialects,
    /// Hosts whose connections are passed through without being looked at.
    pub pass_through: HostPatterns,
    /// Bounds on what comes.
    pub limits: Limits,
    /// Bounds on how long it takes.
    pub timeouts: Timeouts,
    /// How long people are waited for.
    pub(crate) patience: Patience,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) upstream_tls: Arc<UpstreamTls>,
    pub(crate) breakers: Breakers,
    pub(crate) screening: Screening,
}

/// Bounds on what comes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the body of a call of a model or a tool, as sent and decoded. The gateway takes 4 MiB.
    pub call_bytes: usize,
    /// Bytes of a request's target.
    pub uri_bytes: usize,
    /// Bytes that one body may decode to.
    pub decoded_bytes: u64,
    /// Bytes of an answer that is asked for as a whole, held until the gateway has looked at it; a longer one is passed
    /// on as it comes.
    pub held_bytes: usize,
    /// Connections of clients at once.
    pub connections: usize,
    /// Requests under way on one HTTP/2 connection.
    pub streams: u32,
}

/// What [`Settings`] are made of.
pub struct Parts {
    /// See [`Settings::callers`].
    pub callers: Callers,
    /// See [`Settings::dialects`].
    pub dialects: Dialects,
    /// See [`Settings::pass_through`].
    pub pass_through: HostPatterns,
    /// See [`Settings::limits`].
    pub limits: Limits,
    /// See [`Settings::timeouts`].
    pub timeouts: Timeouts,
    /// How long a request waits for a person's decision before it is refused for now.
    pub approval_wait: Duration,
    /// When an upstream is not asked for a while.
    pub breaker: breaker::Settings,
    /// Makes connections.
    pub dialer: Dialer,
    /// Verifies upstreams.
    pub upstream_tls: UpstreamTls,
    /// What answers are looked through for while they pass.
    pub(crate) screening: Screening,
}

// === impl Settings ===

impl Settings {
    /// Puts them together.
    pub fn new(parts: Parts) -> Self {
        Self {
            callers: parts.callers,
            dialects: parts.dialects,
            pass_through: parts.pass_through,
            limits: parts.limits,
            timeouts: parts.timeouts,
            patience: Patience { approval: parts.approval_wait },
            dialer: Arc::new(parts.dialer),
            upstream_tls: Arc::new(parts.upstream_tls),
            breakers: Breakers::new(parts.breaker),
            screening: parts.screening,
        }
    }

    /// The connections of an agent.
    pub(crate) fn upstreams(&self, entry: &Entry) -> Upstreams {
        let connector = Connector::new(
            Arc::clone(&self.dialer),
            Arc::clone(&self.upstream_tls),
            entry.max_connections,
            self.timeouts.connect,
        );
        Upstreams::new(connector, self.breakers.clone(), self.timeouts)
    }
}

// === impl Limits ===

impl Limits {
    pub(crate) fn decoding(&self) -> decode::Limits {
        decode::Limits { max_total: self.decoded_bytes, ..decode::Limits::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            call_bytes: 4 << 20,
            uri_bytes: 16 << 10,
            decoded_bytes: 1 << 30,
            held_bytes: 4 << 20,
            connections: 16_384,
            streams: 256,
        }
    }
}
