//! Single operations, each timed by itself.

use std::time::{Duration, Instant};

/// How long single operations took, the clock's own cost included: it is some tens of nanoseconds, and
/// nothing is subtracted for it.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

// === impl Latencies ===

impl Latencies {
    /// Times each of `count` runs of `operation`, which is told the number of its run.
    pub fn measure(count: usize, mut operation: impl FnMut(usize)) -> Self {
        let mut taken = Vec::with_capacity(count);
        for run in 0..count {
            let start = Instant::now();
            operation(run);
            taken.push(start.elapsed());
        }
        taken.sort_unstable();
        Self(taken)
    }

    /// The latency that a part of the operations stays within: 0.5 for the median, 0.99 for p99. Zero when
    /// nothing was measured.
    pub fn quantile(&self, part: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        let index = (last as f64 * part.clamp(0.0, 1.0)).round() as usize;
        self.0.get(index).copied().unwrap_or_default()
    }

    /// The median in microseconds.
    pub fn p50_us(&self) -> f64 {
        self.quantile(0.5).as_secs_f64() * 1e6
    }

    /// The 99th percentile in microseconds.
    pub fn p99_us(&self) -> f64 {
        self.quantile(0.99).as_secs_f64() * 1e6
    }
}
