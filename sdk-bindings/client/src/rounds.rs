//! When to hesitate: not before every gateway has failed.

use std::time::Duration;

use crate::backoff::Backoff;

/// An agent's failed attempts in a row, over all gateways.
#[derive(Debug)]
pub(crate) struct Rounds {
    gateways: usize,
    /// Attempts since a stream that lived long.
    failed: usize,
    /// Attempts since a stream opened.
    unopened: usize,
    backoff: Backoff,
}

/// A stream that lived this long was healthy, and its end is no reason to hesitate.
const HEALTHY: Duration = Duration::from_secs(5);

// === impl Rounds ===

impl Rounds {
    pub(crate) const fn over(gateways: usize) -> Self {
        Self { gateways, failed: 0, unopened: 0, backoff: Backoff::new() }
    }

    /// No stream opened.
    pub(crate) const fn not_opened(&mut self) {
        self.failed += 1;
        self.unopened += 1;
    }

    /// A stream opened, and ended after `lifetime`.
    pub(crate) fn ended(&mut self, lifetime: Duration) {
        if lifetime >= HEALTHY {
            self.failed = 0;
            self.backoff.reset();
        }
        self.failed += 1;
        self.unopened = 0;
    }

    /// Whether no gateway can be reached, as far as is known: each was tried, or there is only one.
    pub(crate) const fn all_tried(&self) -> bool {
        self.gateways == 1 || self.unopened >= self.gateways
    }

    /// How long to wait before the next attempt, which is to be made elsewhere or not.
    pub(crate) fn pause(&mut self, elsewhere: bool) -> Duration {
        if elsewhere && !self.failed.is_multiple_of(self.gateways) {
            return Duration::ZERO;
        }
        self.backoff.pause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_pause_after_each_round_and_none_within() {
        let mut rounds = Rounds::over(3);
        let mut paused = Vec::new();
        for _ in 0..6 {
            rounds.not_opened();
            paused.push(!rounds.pause(true).is_zero());
        }
        assert_eq!(paused, [false, false, true, false, false, true]);
        rounds.not_opened();
        assert!(!rounds.pause(false).is_zero(), "a refusal is not asked for again at once");
        let mut only = Rounds::over(1);
        only.ended(HEALTHY);
        assert!(!only.pause(true).is_zero());
    }

    #[test]
    fn streams_that_do_not_last_are_failures_too() {
        let mut rounds = Rounds::over(2);
        rounds.ended(Duration::ZERO);
        assert!(rounds.pause(true).is_zero());
        rounds.ended(Duration::ZERO);
        assert!(!rounds.pause(true).is_zero());
        rounds.ended(HEALTHY);
        assert!(rounds.pause(true).is_zero(), "one that lasted begins a new round");
    }

    #[test]
    fn nobody_is_unreachable_before_everybody_was_tried() {
        let mut rounds = Rounds::over(2);
        assert!(!rounds.all_tried());
        rounds.not_opened();
        assert!(!rounds.all_tried());
        rounds.not_opened();
        assert!(rounds.all_tried());
        rounds.ended(Duration::ZERO);
        assert!(!rounds.all_tried());
        assert!(Rounds::over(1).all_tried());
    }
}
