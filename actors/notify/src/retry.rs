//! When a delivery that failed is tried again.

use std::time::Duration;

use aa_protocol::Timestamp;

/// Exponential pauses with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015), so
/// that deliveries which failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySchedule {
    /// The most that the first pause can be; each later one can be twice as long.
    pub first: Duration,
    /// The most that any pause can be, one that the receiver asks for included.
    pub longest: Duration,
    /// How long after the first attempt there can be another.
    pub give_up_after: Duration,
    /// The most attempts.
    pub most_attempts: u32,
}

/// No pause is shorter, so that a receiver which fails at once is not called in a loop.
pub const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

// === impl RetrySchedule ===

impl Default for RetrySchedule {
    /// Pauses of up to 5 s, 10 s, 20 s … 1 h; given up after 24 h or 40 attempts.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(5),
            longest: Duration::from_secs(3_600),
            give_up_after: Duration::from_secs(24 * 3_600),
            most_attempts: 40,
        }
    }
}

impl RetrySchedule {
    /// When to try again, after `attempts` of which the first was at `first_at` and the last failed at `now`; `None`
    /// when it is given up. The receiver's wish in `retry_after` is followed up to [`RetrySchedule::longest`]; the rest
    /// is chance, from a uniformly distributed `random`.
    pub fn next(
        &self,
        attempts: u32,
        first_at: Timestamp,
        now: Timestamp,
        retry_after: Option<Duration>,
        random: u64,
    ) -> Option<Timestamp> {
        if attempts >= self.most_attempts {
            return None;
        }
        let doublings = attempts.saturating_sub(1).min(31);
        let most = self.first.saturating_mul(1 << doublings).min(self.longest);
        let share = (u128::from(random) * (most.as_micros() + 1)) >> u64::BITS;
        // No more than `most`, which is a duration.
        let jittered = Duration::from_micros(u64::try_from(share).unwrap_or(u64::MAX));
        // Chance comes on top of a wish, so that not all come at that very second.
        let pause = jittered.max(SHORTEST_PAUSE).saturating_add(retry_after.unwrap_or_default());
        let at = now.saturating_add(pause.min(self.longest));
        (at <= first_at.saturating_add(self.give_up_after)).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    proptest! {
        #[test]
        fn every_pause_is_within_its_bounds(
            attempts in 1_u32..50, elapsed in 0_u64..100_000, wish in proptest::option::of(0_u64..10_000_000),
            random: u64,
        ) {
            let schedule = RetrySchedule::default();
            let now = START.saturating_add(Duration::from_secs(elapsed));
            let wish = wish.map(Duration::from_secs);
            let Some(at) = schedule.next(attempts, START, now, wish, random) else {
                let late = schedule.longest.as_secs() + elapsed > schedule.give_up_after.as_secs();
                prop_assert!(attempts >= 40 || late);
                return Ok(());
            };
            let pause = at.since(now);
            prop_assert!(attempts < 40 && at <= START.saturating_add(schedule.give_up_after));
            prop_assert!(pause >= SHORTEST_PAUSE && pause <= schedule.longest);
            prop_assert!(pause >= wish.unwrap_or_default().min(schedule.longest));
            if wish.is_none() {
                prop_assert!(pause <= SHORTEST_PAUSE.max(schedule.first * 2_u32.saturating_pow(attempts - 1)));
            }
        }

        #[test]
        fn a_delivery_that_always_fails_is_given_up_within_a_day(randoms: [u64; 41]) {
            let schedule = RetrySchedule::default();
            let (mut now, mut attempts) = (START, 1);
            while let Some(at) = schedule.next(attempts, START, now, None, randoms[attempts as usize]) {
                now = at;
                attempts += 1;
            }
            prop_assert!(attempts <= 40 && now.since(START) <= schedule.give_up_after);
        }
    }

    #[test]
    fn the_pause_is_spread_over_all_of_its_range() {
        let schedule = RetrySchedule::default();
        let pause = |random| schedule.next(5, START, START, None, random).unwrap().since(START);
        assert_eq!(pause(0), SHORTEST_PAUSE);
        assert_eq!(pause(u64::MAX / 2), Duration::from_secs(40));
        assert_eq!(pause(u64::MAX), Duration::from_secs(80));
    }
}
