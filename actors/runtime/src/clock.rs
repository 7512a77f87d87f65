//! The seams through which time and randomness enter, so that tests run days in milliseconds and
//! repeat exactly.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aa_protocol::{EventId, Timestamp};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Tells and awaits time.
pub trait Clock: Send + Sync + 'static {
    /// The present, as people tell it. It may jump when somebody sets the clock.
    fn now(&self) -> Timestamp;

    /// The time that has passed since some moment of this process. It never jumps.
    fn elapsed(&self) -> Duration;

    /// Completes once `duration` has passed.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Whether it is the clock of a simulation, which runs on one thread and shall repeat.
    fn is_simulated(&self) -> bool {
        false
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// A clock that moves only when told to.
#[derive(Clone, Debug)]
pub struct ManualClock {
    state: Arc<Mutex<ManualState>>,
}

#[derive(Debug)]
struct ManualState {
    begun: Timestamp,
    now: Timestamp,
    sleepers: BTreeMap<Timestamp, Vec<oneshot::Sender<()>>>,
}

/// Makes unpredictable bytes, and the ids built from them.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);

    /// A new audit entry id for an entry made at `now`.
    fn event_id(&self, now: Timestamp) -> EventId {
        let mut random = [0; 16];
        self.fill(&mut random);
        EventId::from_parts(now.unix_millis(), u128::from_be_bytes(random) >> 48)
    }

    /// A random UUID (version 4).
    fn uuid(&self) -> uuid::Uuid {
        let mut random = [0; 16];
        self.fill(&mut random);
        uuid::Builder::from_random_bytes(random).into_uuid()
    }
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

thread_local! {
    static ID_BYTES: RefCell<IdBytes> = const { RefCell::new(IdBytes::new()) };
}

/// Randomness for ids, not yet used.
struct IdBytes {
    bytes: [u8; 10 * IDS_AT_ONCE],
    used: usize,
}

const IDS_AT_ONCE: usize = 64;

/// A repeatable generator for tests and simulations (SplitMix64): not for secrets.
#[derive(Debug)]
pub struct SeededEntropy {
    state: Mutex<u64>,
}

// === impl SystemClock ===

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    fn elapsed(&self) -> Duration {
        static BEGUN: OnceLock<Instant> = OnceLock::new();
        BEGUN.get_or_init(Instant::now).elapsed()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            state: Arc::new(Mutex::new(ManualState { begun: now, now, sleepers: BTreeMap::new() })),
        }
    }

    /// Moves the clock and wakes every sleeper whose time has come.
    pub fn advance(&self, by: Duration) {
        let due = {
            let mut state = self.state.lock();
            state.now = state.now.saturating_add(by);
            let next = Timestamp::from_micros(state.now.as_micros() + 1);
            let later = state.sleepers.split_off(&next);
            std::mem::replace(&mut state.sleepers, later)
        };
        for sleeper in due.into_values().flatten() {
            // A sleeper that was dropped no longer waits.
            let _ = sleeper.send(());
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state.lock().now
    }

    fn elapsed(&self) -> Duration {
        let state = self.state.lock();
        let micros = state.now.as_micros() - state.begun.as_micros();
        Duration::from_micros(micros.unsigned_abs())
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (wake, woken) = oneshot::channel();
        {
            let mut state = self.state.lock();
            let at = state.now.saturating_add(duration);
            state.sleepers.entry(at).or_default().push(wake);
        }
        Box::pin(async move {
            let _ = woken.await;
        })
    }
}

// === impl SystemEntropy ===

impl Entropy for SystemEntropy {
    /// # Panics
    /// When the operating system has no randomness to give: nothing can be kept secret then.
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system provides randomness");
    }

    /// Its randomness only keeps ids apart and is taken from the system many at a time.
    fn event_id(&self, now: Timestamp) -> EventId {
        let random = ID_BYTES.with_borrow_mut(|pool| pool.next(|bytes| self.fill(bytes)));
        EventId::from_parts(now.unix_millis(), random)
    }
}

// === impl IdBytes ===

impl IdBytes {
    const fn new() -> Self {
        let bytes = [0; 10 * IDS_AT_ONCE];
        Self { used: bytes.len(), bytes }
    }

    /// The next 80 bits, which are given out once.
    fn next(&mut self, refill: impl FnOnce(&mut [u8])) -> u128 {
        if self.used == self.bytes.len() {
            refill(&mut self.bytes);
            self.used = 0;
        }
        let mut random = [0; 16];
        random[6..].copy_from_slice(&self.bytes[self.used..self.used + 10]);
        self.used += 10;
        u128::from_be_bytes(random)
    }
}

// === impl SeededEntropy ===

impl SeededEntropy {
    /// A generator whose output depends on `seed` alone.
    pub const fn new(seed: u64) -> Self {
        Self { state: Mutex::new(seed) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.state.lock();
        for chunk in bytes.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = *state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_exactly_those_whose_time_has_come() {
        let clock = ManualClock::new(Timestamp::from_micros(0));
        let mut early = clock.sleep(Duration::from_secs(1));
        let mut late = clock.sleep(Duration::from_secs(86_400));
        clock.advance(Duration::from_secs(1));
        tokio::time::timeout(Duration::from_secs(5), &mut early).await.expect("woken");
        assert!(futures_are_pending(&mut late).await);
        clock.advance(Duration::from_secs(86_400));
        tokio::time::timeout(Duration::from_secs(5), &mut late).await.expect("woken");
    }

    async fn futures_are_pending(future: &mut Pin<Box<dyn Future<Output = ()> + Send>>) -> bool {
        tokio::select! {
            biased;
            () = future => false,
            () = std::future::ready(()) => true,
        }
    }
}
