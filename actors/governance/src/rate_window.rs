//! The sliding hour of one tool: when its admitted calls were.
//!
//! The last [`EXACT_CALLS`] calls are held one by one. Past that, calls within one second share a slot
//! that ages with the newest of them: the count is then high by less than one second's calls, never low,
//! so a limit is never exceeded and memory stays bounded whatever the limit is.

use std::{collections::VecDeque, time::Duration};

use aa_protocol::Timestamp;

/// The window: any 60 minutes.
pub const WINDOW: Duration = Duration::from_secs(3_600);

/// How many calls are held one by one.
pub const EXACT_CALLS: usize = 1_000;

/// Slots are stored in a ring of this many keys; more than can be alive at once.
pub const RING: u64 = 8_192;

const _: () = assert!(EXACT_CALLS as u64 + 3_600 + 1 < RING);

/// Admitted calls of one tool by one agent, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateWindow {
    slots: VecDeque<Slot>,
    calls: u64,
}

/// Calls that leave the window together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Counts all slots there ever were; its remainder by [`RING`] is the slot's key.
    pub number: u64,
    /// The newest call in it.
    pub newest: Timestamp,
    /// How many calls.
    pub calls: u32,
}

// === impl RateWindow ===

impl RateWindow {
    /// The window of slots read back from the store, in any order.
    pub fn from_slots(mut slots: Vec<Slot>) -> Self {
        slots.sort_by_key(|slot| slot.number);
        let calls = slots.iter().map(|slot| u64::from(slot.calls)).sum();
        Self { slots: slots.into(), calls }
    }

    /// Calls in the hour that ends at `now`. A call exactly an hour old has left.
    pub fn calls_at(&mut self, now: Timestamp) -> u64 {
        let start = now.saturating_sub(WINDOW);
        while let Some(slot) = self.slots.front()
            && slot.newest <= start
        {
            self.calls -= u64::from(slot.calls);
            self.slots.pop_front();
        }
        self.calls
    }

    /// The same without forgetting: calls in the hour that ends at `now`.
    pub fn calls_in_hour(&self, now: Timestamp) -> u64 {
        let start = now.saturating_sub(WINDOW);
        let left = self.slots.iter().take_while(|slot| slot.newest <= start);
        self.calls - left.map(|slot| u64::from(slot.calls)).sum::<u64>()
    }

    /// Counts a call at `now` and returns the slot to store. Time never runs backwards here: a clock set
    /// back counts as standing still.
    pub fn admit(&mut self, now: Timestamp) -> Slot {
        let last = self.slots.back().copied();
        let now = last.map_or(now, |slot| now.max(slot.newest));
        self.calls += 1;
        if let Some(slot) = self.slots.back_mut()
            && self.calls > EXACT_CALLS as u64
            && now.unix_seconds() == slot.newest.unix_seconds()
        {
            slot.newest = now;
            slot.calls += 1;
            return *slot;
        }
        let slot = Slot { number: last.map_or(0, |slot| slot.number + 1), newest: now, calls: 1 };
        self.slots.push_back(slot);
        slot
    }
}

// === impl Slot ===

impl Slot {
    /// The stored form.
    pub fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.newest.as_micros().to_be_bytes());
        bytes[16..].copy_from_slice(&self.calls.to_be_bytes());
        bytes
    }

    /// Reads the stored form; `None` when it is not one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let (newest, rest) = rest.split_first_chunk::<8>()?;
        let calls = rest.try_into().ok()?;
        Some(Self {
            number: u64::from_be_bytes(*number),
            newest: Timestamp::from_micros(i64::from_be_bytes(*newest)),
            calls: u32::from_be_bytes(calls),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_leaves_after_exactly_an_hour() {
        let mut window = RateWindow::default();
        let start = Timestamp::from_micros(5_000_000);
        window.admit(start);
        let hour = start.saturating_add(WINDOW);
        assert_eq!(window.calls_at(Timestamp::from_micros(hour.as_micros() - 1)), 1);
        assert_eq!(window.calls_at(hour), 0);
    }

    #[test]
    fn memory_is_bounded_whatever_the_rate() {
        let mut window = RateWindow::default();
        for call in 0..2_000_000_i64 {
            let now = Timestamp::from_micros(call * 4_000);
            window.calls_at(now);
            window.admit(now);
        }
        assert!(window.slots.len() < RING as usize, "{}", window.slots.len());
    }

    proptest! {
        #[test]
        fn a_limit_holds_in_every_hour(
            limit in 1_u64..40,
            gaps in prop::collection::vec(0_u64..900_000_000, 1..300),
        ) {
            let mut window = RateWindow::default();
            let mut now = Timestamp::from_micros(0);
            let mut admitted: Vec<Timestamp> = Vec::new();
            for gap in gaps {
                now = now.saturating_add(Duration::from_micros(gap));
                if window.calls_at(now) < limit {
                    window.admit(now);
                    admitted.push(now);
                }
            }
            for (index, first) in admitted.iter().enumerate() {
                let within = admitted[index..].iter().filter(|call| call.since(*first) < WINDOW);
                prop_assert!(within.count() as u64 <= limit);
            }
        }

        #[test]
        fn a_window_comes_back_from_the_store_as_it_was(
            gaps in prop::collection::vec(0_u64..40_000_000, 1..3_000),
        ) {
            let mut window = RateWindow::default();
            let mut ring = std::collections::HashMap::new();
            let mut now = Timestamp::from_micros(0);
            for gap in gaps {
                now = now.saturating_add(Duration::from_micros(gap));
                window.calls_at(now);
                let slot = window.admit(now);
                ring.insert(slot.number % RING, slot.to_bytes());
            }
            let slots = ring.values().map(|bytes| Slot::from_bytes(bytes).unwrap()).collect();
            let mut back = RateWindow::from_slots(slots);
            prop_assert_eq!(back.calls_at(now), window.calls_at(now));
            prop_assert_eq!(back, window);
        }
    }
}
