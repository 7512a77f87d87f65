//! Counts for operators, since the process started.

use std::sync::atomic::{AtomicU64, Ordering};

use aa_protocol::Verdict;

/// What the actors have done.
#[derive(Debug, Default)]
pub struct Metrics {
    allowed: AtomicU64,
    denied: AtomicU64,
    approvals: AtomicU64,
    refusals: AtomicU64,
    checkpoints: AtomicU64,
    alerts_taken: AtomicU64,
    alerts_failed: AtomicU64,
    logs_intact: AtomicU64,
    logs_broken: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Actions decided `allow`.
    pub allowed: u64,
    /// Actions decided `deny`.
    pub denied: u64,
    /// Actions decided `require_approval`.
    pub approvals: u64,
    /// Inputs of known agents refused at the edge.
    pub refusals: u64,
    /// Checkpoints signed.
    pub checkpoints: u64,
    /// Attempts to tell people that their destination took.
    pub alerts_taken: u64,
    /// Attempts that failed.
    pub alerts_failed: u64,
    /// Times that a workspace's log was verified and held.
    pub logs_intact: u64,
    /// Times that it did not.
    pub logs_broken: u64,
}

impl Metrics {
    pub(crate) fn count_decision(&self, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Allow => &self.allowed,
            Verdict::Deny => &self.denied,
            Verdict::RequireApproval => &self.approvals,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refusal(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_checkpoint(&self) {
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_alert(&self, is_taken: bool) {
        let counter = if is_taken { &self.alerts_taken } else { &self.alerts_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_verification(&self, is_intact: bool) {
        let counter = if is_intact { &self.logs_intact } else { &self.logs_broken };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            allowed: read(&self.allowed),
            denied: read(&self.denied),
            approvals: read(&self.approvals),
            refusals: read(&self.refusals),
            checkpoints: read(&self.checkpoints),
            alerts_taken: read(&self.alerts_taken),
            alerts_failed: read(&self.alerts_failed),
            logs_intact: read(&self.logs_intact),
            logs_broken: read(&self.logs_broken),
        }
    }
}
