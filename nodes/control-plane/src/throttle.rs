//! How often a peer may fail to authenticate.
//!
//! No credential can be guessed, but every failed attempt costs a signature check or a look-up, and one
//! with an expired token an audit entry. So failures are counted per [`Network`]: past their rate they are
//! refused with RESOURCE_EXHAUSTED (429 on the REST API) and leave no entry. A valid credential is never
//! refused for the failures of others behind the same address.

mod layer;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aa_protocol::Timestamp;
use aa_runtime::Clock;
use parking_lot::Mutex;

pub use self::layer::{ThrottleLayer, Throttled};
use crate::network::Network;

/// How many failures are answered as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureRate {
    /// At once, after a time without failures. At least one.
    pub burst: u32,
    /// Per second from then on. At least one.
    pub per_second: u32,
}

/// The failures of all networks. Bounded: networks past [`MAX_NETWORKS`] share one count.
pub struct FailureThrottle {
    rate: FailureRate,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// How many networks have failures, readable without the lock: usually none.
    counted: AtomicUsize,
    failed: AtomicU64,
    throttled: AtomicU64,
}

/// A peer failed to authenticate more often than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many requests from this address failed to authenticate; present a valid credential, or wait \
     {} ms before the next attempt",
    retry_after.as_millis()
)]
pub struct TooManyFailures {
    /// When a failure would be answered as such again.
    pub retry_after: Duration,
}

/// Counts since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailureCounts {
    /// Requests that failed to authenticate and were told so.
    pub failed: u64,
    /// Requests that failed to authenticate beyond their rate.
    pub throttled: u64,
}

#[derive(Default)]
struct State {
    networks: HashMap<Network, Failures>,
    others: Failures,
    purged: Option<Timestamp>,
    told: Option<Timestamp>,
    /// Networks that passed their rate since that was last told.
    untold: u64,
}

/// The generic cell rate algorithm (ITU-T I.371): one time stands for a whole token bucket.
#[derive(Clone, Copy, Default)]
struct Failures {
    /// When the bucket will be full again.
    full_at: Timestamp,
    /// Whether this burst passed its rate before.
    is_past: bool,
}

/// Networks counted one by one.
pub const MAX_NETWORKS: usize = 4_096;

/// The log says at most this often that somebody passes the rate.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The table is looked through for what can be forgotten at most this often.
const PURGE_EVERY: Duration = Duration::from_secs(1);

// === impl FailureRate ===

impl Default for FailureRate {
    fn default() -> Self {
        // Enough for hundreds of agents behind one address whose tokens lapse at the same time.
        Self { burst: 100, per_second: 10 }
    }
}

impl FailureRate {
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }

    /// How far a bucket that holds nothing is from being full.
    fn depth(self) -> Duration {
        self.interval() * self.burst.max(1)
    }
}

// === impl FailureThrottle ===

impl FailureThrottle {
    /// A throttle that has seen no failure.
    pub fn new(rate: FailureRate, clock: Arc<dyn Clock>) -> Self {
        Self {
            rate,
            clock,
            state: Mutex::default(),
            counted: AtomicUsize::new(0),
            failed: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
        }
    }

    /// Whether the next failure of this peer would be beyond its rate.
    pub fn past(&self, peer: IpAddr) -> Option<TooManyFailures> {
        // The usual case costs one load: nobody fails.
        if self.counted.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.purge(now);
        let retry_after = state.known(Network::of(peer)).wait(self.rate, now);
        self.counted.store(state.counted(now), Ordering::Relaxed);
        retry_after.map(|retry_after| TooManyFailures { retry_after })
    }

    /// Counts a failure.
    ///
    /// # Errors
    /// [`TooManyFailures`] when it is beyond the peer's rate.
    pub fn failed(&self, peer: IpAddr) -> Result<(), TooManyFailures> {
        let network = Network::of(peer);
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.purge(now);
        let failures = state.entry(network);
        let Some(retry_after) = failures.wait(self.rate, now) else {
            failures.full_at = failures.full_at.max(now).saturating_add(self.rate.interval());
            self.counted.store(state.counted(now), Ordering::Relaxed);
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let is_first = !std::mem::replace(&mut failures.is_past, true);
        let told = if is_first { state.tell(now) } else { None };
        drop(state);
        self.throttled.fetch_add(1, Ordering::Relaxed);
        if let Some(others) = told {
            tracing::warn!(
                %network,
                others,
                "more failed authentications than the rate admits; further ones are refused unrecorded"
            );
        }
        Err(TooManyFailures { retry_after })
    }

    /// The counts.
    pub fn counts(&self) -> FailureCounts {
        FailureCounts {
            failed: self.failed.load(Ordering::Relaxed),
            throttled: self.throttled.load(Ordering::Relaxed),
        }
    }
}

// === impl State ===

impl State {
    /// Forgets networks that calmed down.
    fn purge(&mut self, now: Timestamp) {
        let is_early = |purged: Timestamp| now >= purged && now.since(purged) < PURGE_EVERY;
        if self.purged.is_some_and(is_early) {
            return;
        }
        self.networks.retain(|_, failures| failures.full_at > now);
        self.purged = Some(now);
    }

    fn entry(&mut self, network: Network) -> &mut Failures {
        if self.networks.len() >= MAX_NETWORKS && !self.networks.contains_key(&network) {
            return &mut self.others;
        }
        self.networks.entry(network).or_default()
    }

    /// The failures of a network that may have none.
    fn known(&self, network: Network) -> Failures {
        match self.networks.get(&network) {
            Some(failures) => *failures,
            None if self.networks.len() >= MAX_NETWORKS => self.others,
            None => Failures::default(),
        }
    }

    fn counted(&self, now: Timestamp) -> usize {
        self.networks.len() + usize::from(self.others.full_at > now)
    }

    /// How many other networks go unmentioned if this one is told of now; `None` when it is too early.
    fn tell(&mut self, now: Timestamp) -> Option<u64> {
        // A clock that was set back must not silence the log.
        if self.told.is_some_and(|told| now >= told && now.since(told) < TELL_EVERY) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

// === impl Failures ===

impl Failures {
    /// How long until one more failure is within the rate; `None` when it is now.
    fn wait(&mut self, rate: FailureRate, now: Timestamp) -> Option<Duration> {
        // A clock that was set back must not lock anybody out for the difference.
        self.full_at = self.full_at.min(now.saturating_add(rate.depth()));
        if self.full_at <= now {
            self.is_past = false;
        }
        let room = rate.depth().saturating_sub(rate.interval());
        let wait = self.full_at.since(now).saturating_sub(room);
        (!wait.is_zero()).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use aa_runtime::ManualClock;

    use super::*;

    const RATE: FailureRate = FailureRate { burst: 3, per_second: 2 };

    fn throttle() -> (FailureThrottle, ManualClock) {
        let clock = ManualClock::new(Timestamp::from_micros(1_800_000_000_000_000));
        (FailureThrottle::new(RATE, Arc::new(clock.clone())), clock)
    }

    fn peer(last: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + last))
    }

    #[test]
    fn a_burst_is_told_so_and_then_the_rate_holds() {
        let (throttle, clock) = throttle();
        assert_eq!(throttle.past(peer(1)), None);
        for _ in 0..3 {
            assert_eq!(throttle.past(peer(1)), None);
            throttle.failed(peer(1)).unwrap();
        }
        let past = throttle.failed(peer(1)).unwrap_err();
        assert_eq!(past.retry_after, Duration::from_millis(500));
        assert_eq!(throttle.past(peer(1)), Some(past));
        clock.advance(Duration::from_millis(499));
        assert!(throttle.failed(peer(1)).is_err());
        clock.advance(Duration::from_millis(1));
        throttle.failed(peer(1)).unwrap();
        assert!(throttle.failed(peer(1)).is_err());
        assert_eq!(throttle.counts(), FailureCounts { failed: 4, throttled: 3 });
    }

    #[test]
    fn others_do_not_pay_for_it() {
        let (throttle, _clock) = throttle();
        while throttle.failed(peer(1)).is_ok() {}
        assert_eq!(throttle.past(peer(2)), None);
        throttle.failed(peer(2)).unwrap();
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_calmed_down() {
        let (throttle, clock) = throttle();
        let networks = u32::try_from(MAX_NETWORKS).unwrap();
        for last in 0..networks + 10 {
            let _ = throttle.failed(peer(last));
        }
        assert_eq!(throttle.state.lock().networks.len(), MAX_NETWORKS);
        assert!(throttle.failed(peer(networks + 10)).is_err(), "the rest share one count");
        clock.advance(Duration::from_secs(10));
        throttle.failed(peer(networks + 10)).unwrap();
        assert_eq!(throttle.state.lock().networks.len(), 1);
    }

    #[test]
    fn the_usual_case_comes_back_once_all_is_calm() {
        let (throttle, clock) = throttle();
        throttle.failed(peer(1)).unwrap();
        assert_eq!(throttle.counted.load(Ordering::Relaxed), 1);
        clock.advance(Duration::from_secs(10));
        assert_eq!(throttle.past(peer(2)), None);
        assert_eq!(throttle.counted.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out() {
        let (throttle, _clock) = throttle();
        while throttle.failed(peer(1)).is_ok() {}
        let throttle = FailureThrottle {
            clock: Arc::new(ManualClock::new(Timestamp::from_micros(1_700_000_000_000_000))),
            ..throttle
        };
        let past = throttle.past(peer(1)).unwrap();
        assert!(past.retry_after <= RATE.depth(), "{past:?}");
    }
}
