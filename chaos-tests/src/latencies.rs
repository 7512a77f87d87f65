//! Latencies of many answers in little memory.

use std::time::Duration;

/// A histogram whose buckets are an eighth of a power of two wide: each quantile is at most 13 % high.
#[derive(Clone, Debug)]
pub struct Latencies {
    buckets: [u64; BUCKETS],
    count: u64,
    longest_us: u64,
}

const BUCKETS: usize = 8 * 40;

// === impl Latencies ===

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0, longest_us: 0 }
    }
}

impl Latencies {
    /// Counts one.
    pub fn add(&mut self, latency: Duration) {
        let us = latency.as_micros() as u64;
        if let Some(bucket) = self.buckets.get_mut(bucket_of(us)) {
            *bucket += 1;
        }
        self.count += 1;
        self.longest_us = self.longest_us.max(us);
    }

    /// Counts all of another.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.count += other.count;
        self.longest_us = self.longest_us.max(other.longest_us);
    }

    /// How many were counted.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The latency that `percent` of a hundred do not pass, in microseconds; 0 of none.
    pub fn percentile_us(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if seen >= rank {
                return upper_bound(index).min(self.longest_us);
            }
        }
        self.longest_us
    }

    /// The longest, in microseconds.
    pub const fn longest_us(&self) -> u64 {
        self.longest_us
    }
}

fn bucket_of(us: u64) -> usize {
    if us < 8 {
        return us as usize;
    }
    let power = us.ilog2();
    let eighth = (us >> (power - 3)) & 7;
    ((power as usize - 2) * 8 + eighth as usize).min(BUCKETS - 1)
}

const fn upper_bound(bucket: usize) -> u64 {
    if bucket < 8 {
        return bucket as u64;
    }
    let (power, eighth) = (bucket as u32 / 8 + 2, bucket as u64 % 8);
    ((8 + eighth + 1) << (power - 3)).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_within_its_bucket_and_an_eighth_of_it() {
        for us in (0..5_000).chain([1 << 20, (1 << 30) + 12_345, 1 << 36]) {
            let bound = upper_bound(bucket_of(us));
            assert!(bound >= us, "{us} is above its bucket's bound {bound}");
            assert!(bound - us <= us / 8, "{us} is far below its bucket's bound {bound}");
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_us(99), 0);
        for ms in 1..=100 {
            latencies.add(Duration::from_millis(ms));
        }
        let p50 = latencies.percentile_us(50);
        assert!((50_000..57_000).contains(&p50), "{p50}");
        assert_eq!(latencies.percentile_us(100), 100_000);
    }
}
