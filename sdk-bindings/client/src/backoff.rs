//! Pauses between attempts: exponential, with full jitter, so that many clients do not return at once.

use std::time::Duration;

/// The pauses of one series of attempts.
#[derive(Debug)]
pub(crate) struct Backoff {
    ceiling: Duration,
}

const FIRST: Duration = Duration::from_millis(25);
const LAST: Duration = Duration::from_secs(5);

// === impl Backoff ===

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self { ceiling: FIRST }
    }

    pub(crate) const fn reset(&mut self) {
        self.ceiling = FIRST;
    }

    /// The next pause: anywhere in the upper half of a ceiling that doubles up to 5 s.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = jittered(self.ceiling);
        self.ceiling = (self.ceiling * 2).min(LAST);
        pause
    }
}

/// A duration between half of `ceiling` and `ceiling`.
pub(crate) fn jittered(ceiling: Duration) -> Duration {
    let mut random = [0_u8; 4];
    // Without randomness the pause is merely not spread.
    let _ = getrandom::fill(&mut random);
    let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
    ceiling.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_again() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            assert!(backoff.pause() <= LAST);
        }
        assert!(backoff.pause() >= LAST / 2);
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
