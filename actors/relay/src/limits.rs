//! How much may be under way between two nodes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Bounds of the links to and from one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    /// Links to one node. A shard's calls all go over one of them, so that they keep their order.
    pub links: usize,
    /// Calls to one node that are not answered yet. Past it, further ones are refused at once.
    pub calls: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Calls of one link from another node that are not answered yet. Past it, the link is not read.
    pub open_calls: usize,
    /// Connections from other nodes. Past it, further ones wait.
    pub connections: usize,
    /// How long a link may take to come up.
    pub connect: Duration,
    /// How often a quiet link is asked for a sign of life, and how long one may take.
    pub keepalive: Duration,
    /// The longest pause after the first failure to come up. It doubles with each further one.
    pub first_backoff: Duration,
    /// The longest pause of all.
    pub longest_backoff: Duration,
}

/// What is under way to one node.
#[derive(Debug, Default)]
pub(crate) struct Load {
    calls: AtomicUsize,
    bytes: AtomicUsize,
}

/// One call's part of that, given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    load: Arc<Load>,
    bytes: usize,
}

/// The pauses between attempts to bring a link up.
#[derive(Debug)]
pub(crate) struct Backoff {
    longest: Duration,
    next: Duration,
}

/// The longest message on a link, in bytes: a body of [`aa_runtime::wire::MAX_BODY`] and what is around it.
pub(crate) const MAX_MESSAGE: usize = 9 << 20;

/// The most answers that a call may ask for.
pub(crate) const MAX_REPLIES: u32 = 1_024;

// === impl LinkLimits ===

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            links: 4,
            calls: 65_536,
            bytes: 32 << 20,
            open_calls: 65_536,
            connections: 4_096,
            connect: Duration::from_secs(2),
            keepalive: Duration::from_secs(2),
            first_backoff: Duration::from_millis(20),
            longest_backoff: Duration::from_secs(1),
        }
    }
}

// === impl Load ===

impl Load {
    /// Room for a call; `None` when there is none.
    pub(crate) fn claim(self: &Arc<Self>, bytes: usize, limits: &LinkLimits) -> Option<Claim> {
        let claim = Claim { load: Arc::clone(self), bytes };
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // One call is admitted whatever its size, which its own bound keeps small enough.
        let has_room = calls < limits.calls && (held == 0 || held + bytes <= limits.bytes);
        has_room.then_some(claim)
    }
}

// === impl Claim ===

impl Drop for Claim {
    fn drop(&mut self) {
        self.load.calls.fetch_sub(1, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

// === impl Backoff ===

impl Backoff {
    pub(crate) fn new(limits: &LinkLimits) -> Self {
        Self { longest: limits.longest_backoff, next: limits.first_backoff }
    }

    /// The next pause: any length up to one that doubles, so that those who lost one node together do not all
    /// come back together.
    pub(crate) fn pause(&mut self) -> Duration {
        let up_to = self.next;
        self.next = (up_to * 2).min(self.longest);
        up_to.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_hold_until_they_are_dropped() {
        let load = Arc::new(Load::default());
        let limits = LinkLimits { calls: 2, bytes: 100, ..LinkLimits::default() };
        let first = load.claim(60, &limits).unwrap();
        assert!(load.claim(60, &limits).is_none(), "over the bytes");
        let second = load.claim(40, &limits).unwrap();
        assert!(load.claim(0, &limits).is_none(), "over the calls");
        drop((first, second));
        assert!(load.claim(1_000, &limits).is_some(), "one alone is admitted");
        assert_eq!(load.calls.load(Ordering::Relaxed), 0);
        assert_eq!(load.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let limits = LinkLimits::default();
        let mut backoff = Backoff::new(&limits);
        for at in 0..20 {
            let bound = (limits.first_backoff * (1 << at.min(10))).min(limits.longest_backoff);
            assert!(backoff.pause() <= bound);
        }
    }
}
