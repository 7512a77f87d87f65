//! A clock and a network for simulations: whole clusters in one process, on one thread, from one seed.
//!
//! Both stand on tokio's paused time, which jumps to the next moment at which something happens: days pass in
//! milliseconds, and a run depends on nothing but its seed.

mod later;
mod net;
mod store;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use aa_protocol::Timestamp;
use parking_lot::Mutex;

pub use self::{
    net::{Link, SimNet},
    store::SimStore,
};
use crate::clock::Clock;

/// One node's clock in a simulation: it may be off, and run at a speed of its own. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct SimClock {
    state: Arc<Mutex<SimClockState>>,
}

#[derive(Debug)]
struct SimClockState {
    /// The time of day at the beginning.
    base: Timestamp,
    /// When its speed was last set, truly, and what had passed by this clock then.
    since: tokio::time::Instant,
    passed: Duration,
    /// How much faster than true it runs, in millionths.
    drift_ppm: i64,
    /// How far the time of day is off besides, in microseconds.
    skew: i64,
}

// === impl SimClock ===

impl SimClock {
    /// A clock that shows `base` now and is true.
    pub fn new(base: Timestamp) -> Self {
        Self::from(SimClockState {
            base,
            since: tokio::time::Instant::now(),
            passed: Duration::ZERO,
            drift_ppm: 0,
            skew: 0,
        })
    }

    /// Another clock that shows the same time now and is true from here on.
    #[must_use]
    pub fn another(&self) -> Self {
        let state = self.state.lock();
        let (since, passed) = (tokio::time::Instant::now(), state.elapsed());
        Self::from(SimClockState { base: state.base, since, passed, drift_ppm: 0, skew: 0 })
    }

    /// Sets the time of day off by so many microseconds.
    pub fn set_skew(&self, micros: i64) {
        self.state.lock().skew = micros;
    }

    /// Makes it run faster by so many millionths of its speed, or slower, from now on.
    pub fn set_drift(&self, ppm: i64) {
        let mut state = self.state.lock();
        state.passed = state.elapsed();
        state.since = tokio::time::Instant::now();
        state.drift_ppm = ppm;
    }

    /// Sets it right: the time of day of `other`.
    pub fn set_right(&self, other: &Self) {
        let due = other.now().as_micros();
        let mut state = self.state.lock();
        state.skew = 0;
        let shown = state.base.as_micros() + state.elapsed().as_micros() as i64;
        state.skew = due - shown;
    }
}

impl From<SimClockState> for SimClock {
    fn from(state: SimClockState) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl SimClockState {
    /// What has passed by this clock. It never jumps.
    fn elapsed(&self) -> Duration {
        let nanos = self.since.elapsed().as_nanos() as i128;
        let stretched = nanos + nanos * i128::from(self.drift_ppm) / 1_000_000;
        self.passed + Duration::from_nanos(u64::try_from(stretched).unwrap_or(0))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let state = self.state.lock();
        let passed = state.elapsed().as_micros() as i64;
        Timestamp::from_micros(state.base.as_micros() + passed + state.skew)
    }

    fn elapsed(&self) -> Duration {
        self.state.lock().elapsed()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let drift = self.state.lock().drift_ppm;
        let nanos = duration.as_nanos().min(u128::from(u64::MAX)) as i128;
        let truly = nanos * 1_000_000 / (1_000_000 + i128::from(drift)).max(1);
        // Rounded up, so that a sleeper that looks at its clock afterwards finds its time come.
        let truly = Duration::from_nanos(u64::try_from(truly + 1_000).unwrap_or(u64::MAX / 4));
        Box::pin(tokio::time::sleep(truly))
    }

    fn is_simulated(&self) -> bool {
        true
    }
}
