//! Counts of what goes over links.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one node's links did since it started, in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayLinkStats {
    /// Links to other nodes that are up.
    pub links_out: u64,
    /// Links from other nodes that are up.
    pub links_in: u64,
    /// Links to other nodes that came up again after they had ended.
    pub reconnects: u64,
    /// Calls sent.
    pub calls_out: u64,
    /// Calls received.
    pub calls_in: u64,
    /// Calls received that are not answered yet.
    pub open_in: u64,
    /// Answers and refusals sent.
    pub frames_out: u64,
    /// Answers and refusals received.
    pub frames_in: u64,
    /// Bytes of sent calls and answers, without framing.
    pub bytes_out: u64,
    /// Bytes of received calls and answers, without framing.
    pub bytes_in: u64,
    /// Calls that were not sent because too much was on its way.
    pub congested: u64,
    /// Calls that were not taken because their deadline had passed.
    pub late: u64,
    /// Links that did not come up, by [`HandshakeFailure::ALL`].
    pub handshake_failures: [u64; HandshakeFailure::ALL.len()],
}

/// Why a link did not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// Nobody listens there.
    Unreachable,
    /// The other side did not answer in time.
    TimedOut,
    /// A certificate is not of the cluster's authority, or there is none.
    Certificate,
    /// A certificate is of another cluster or node.
    Identity,
    /// No protocol is spoken by both.
    Protocol,
    /// Anything else.
    Other,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) links_out: AtomicU64,
    pub(crate) links_in: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) calls_out: AtomicU64,
    pub(crate) calls_in: AtomicU64,
    pub(crate) open_in: AtomicU64,
    pub(crate) frames_out: AtomicU64,
    pub(crate) frames_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) congested: AtomicU64,
    pub(crate) late: AtomicU64,
    handshake_failures: [AtomicU64; HandshakeFailure::ALL.len()],
}

/// Counts one for as long as it lives.
pub(crate) struct Gauge<'c>(&'c AtomicU64);

// === impl HandshakeFailure ===

impl HandshakeFailure {
    /// All of them, in the order of [`RelayLinkStats::handshake_failures`].
    pub const ALL: [Self; 6] = [
        Self::Unreachable,
        Self::TimedOut,
        Self::Certificate,
        Self::Identity,
        Self::Protocol,
        Self::Other,
    ];

    /// A name for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Certificate => "certificate",
            Self::Identity => "identity",
            Self::Protocol => "protocol",
            Self::Other => "other",
        }
    }
}

// === impl RelayLinkStats ===

impl RelayLinkStats {
    /// Links that did not come up for this reason.
    pub const fn failures(&self, reason: HandshakeFailure) -> u64 {
        self.handshake_failures[reason as usize]
    }
}

// === impl Counters ===

impl Counters {
    pub(crate) fn failed(&self, reason: HandshakeFailure) {
        add(&self.handshake_failures[reason as usize], 1);
    }

    pub(crate) fn read(&self) -> RelayLinkStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RelayLinkStats {
            links_out: read(&self.links_out),
            links_in: read(&self.links_in),
            reconnects: read(&self.reconnects),
            calls_out: read(&self.calls_out),
            calls_in: read(&self.calls_in),
            open_in: read(&self.open_in),
            frames_out: read(&self.frames_out),
            frames_in: read(&self.frames_in),
            bytes_out: read(&self.bytes_out),
            bytes_in: read(&self.bytes_in),
            congested: read(&self.congested),
            late: read(&self.late),
            handshake_failures: std::array::from_fn(|at| read(&self.handshake_failures[at])),
        }
    }
}

pub(crate) fn add(count: &AtomicU64, n: usize) {
    count.fetch_add(n as u64, Ordering::Relaxed);
}

// === impl Gauge ===

impl<'c> Gauge<'c> {
    pub(crate) fn enter(count: &'c AtomicU64) -> Self {
        add(count, 1);
        Self(count)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
