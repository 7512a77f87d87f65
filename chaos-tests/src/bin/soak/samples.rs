//! Samples of a process, and whether they are flat.

use std::{fmt, time::Duration};

use aa_chaos_tests::{latencies::Latencies, vitals::Vitals};

/// What was seen at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Since the run began.
    pub(crate) at: Duration,
    /// Which process it was.
    pub(crate) life: u32,
    /// How old the process was.
    pub(crate) age: Duration,
    /// Since the sample before.
    pub(crate) window: Duration,
    /// What the process held.
    pub(crate) vitals: Vitals,
    /// What its data directory held, in bytes.
    pub(crate) stored: u64,
    /// The latencies of the decisions since the sample before.
    pub(crate) latencies: Latencies,
}

/// How one measure of one process went, after its warm-up.
#[derive(Clone, Debug)]
pub(crate) struct Trend {
    measure: &'static str,
    unit: &'static str,
    life: u32,
    samples: usize,
    /// The most in the first half and in the second.
    halves: (f64, f64),
    /// By how much the line through the second half rises over that half.
    rise: f64,
    tolerance: f64,
}

/// Samples of a process that say anything after its warm-up.
const ENOUGH: usize = 12;

/// The part of a life that is warm-up: caches fill, memory of the store's newest writes reaches its bound.
const WARM_UP: f64 = 0.25;

const MIB: f64 = 1_048_576.0;

/// The header of [`Sample::csv`].
pub(crate) const CSV_HEADER: &str = "seconds,life,age_seconds,rss_mib,anonymous_mib,files,threads,stored_mib,cpu_percent_of_one,decisions_per_second,p50_us,p99_us,longest_us";

/// The header of samples as [`fmt::Display`] writes them.
pub(crate) const TABLE_HEADER: &str = "   time | life   age |   RSS   anon MiB | files threads | store MiB | decisions/s |   p50      p99      max µs";

/// The trends of every process that was watched for long enough.
pub(crate) fn trends(samples: &[Sample]) -> Vec<Trend> {
    let lives = samples.chunk_by(|one, other| one.life == other.life);
    lives.flat_map(trends_of_life).collect()
}

fn trends_of_life(life: &[Sample]) -> Vec<Trend> {
    let Some(last) = life.last() else { return Vec::new() };
    let warm = last.age.mul_f64(WARM_UP);
    let life: Vec<&Sample> = life.iter().filter(|sample| sample.age >= warm).collect();
    if life.len() < ENOUGH {
        return Vec::new();
    }
    // In bytes a tenth, or what one more table of the store's newest writes takes; of files, what comes and
    // goes with the agents that reconnect.
    let rss = |sample: &Sample| sample.vitals.resident as f64 / MIB;
    let anonymous = |sample: &Sample| sample.vitals.anonymous as f64 / MIB;
    let files = |sample: &Sample| sample.vitals.files as f64;
    let threads = |sample: &Sample| sample.vitals.threads as f64;
    vec![
        Trend::of("resident memory", "MiB", &life, rss, 32.0),
        Trend::of("its own memory", "MiB", &life, anonymous, 32.0),
        Trend::of("open files", "", &life, files, 24.0),
        Trend::of("threads", "", &life, threads, 8.0),
    ]
}

// === impl Sample ===

impl Sample {
    /// One line of the CSV file.
    pub(crate) fn csv(&self, cpu: f64) -> String {
        let Vitals { resident, anonymous, files, threads, .. } = self.vitals;
        format!(
            "{:.1},{},{:.1},{:.1},{:.1},{files},{threads},{:.1},{cpu:.1},{:.0},{},{},{}",
            self.at.as_secs_f64(),
            self.life,
            self.age.as_secs_f64(),
            resident as f64 / MIB,
            anonymous as f64 / MIB,
            self.stored as f64 / MIB,
            self.per_second(),
            self.latencies.percentile_us(50),
            self.latencies.percentile_us(99),
            self.latencies.longest_us(),
        )
    }

    fn per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.window.as_secs_f64().max(0.001)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vitals { resident, anonymous, files, threads, .. } = self.vitals;
        write!(
            f,
            "{:>6.0}s | {:>4} {:>4.0}s | {:>5.0}  {:>5.0}     | {files:>5} {threads:>7} | {:>9.0} | {:>11.0} | {:>7} {:>8} {:>8}",
            self.at.as_secs_f64(),
            self.life,
            self.age.as_secs_f64(),
            resident as f64 / MIB,
            anonymous as f64 / MIB,
            self.stored as f64 / MIB,
            self.per_second(),
            self.latencies.percentile_us(50),
            self.latencies.percentile_us(99),
            self.latencies.longest_us(),
        )
    }
}

// === impl Trend ===

impl Trend {
    fn of(
        measure: &'static str,
        unit: &'static str,
        life: &[&Sample],
        value: impl Fn(&Sample) -> f64,
        least_tolerance: f64,
    ) -> Self {
        let values: Vec<f64> = life.iter().map(|sample| value(sample)).collect();
        let (first, second) = values.split_at(values.len() / 2);
        let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let halves = (most(first), most(second));
        Self {
            measure,
            unit,
            life: life.first().map_or(0, |sample| sample.life),
            samples: values.len(),
            halves,
            rise: slope(second) * second.len() as f64,
            tolerance: least_tolerance.max(halves.0 / 10.0),
        }
    }

    /// Whether the second half had no more than the first and does not rise, both within the tolerance.
    pub(crate) fn is_flat(&self) -> bool {
        self.halves.1 - self.halves.0 <= self.tolerance && self.rise <= self.tolerance
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measure, unit, life, samples, halves, rise, tolerance } = self;
        let verdict = if self.is_flat() { "flat" } else { "NOT FLAT" };
        write!(
            f,
            "life {life}: {measure}: at most {:.0} {unit} in the first half, {:.0} in the second, which rises by {rise:+.1} (tolerance {tolerance:.0}, {samples} samples): {verdict}",
            halves.0, halves.1,
        )
    }
}

/// The slope of the least-squares line, per sample.
fn slope(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let middle = (count - 1.0) / 2.0;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    let (mut above, mut below) = (0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let distance = index as f64 - middle;
        above += distance * (value - mean);
        below += distance * distance;
    }
    if below == 0.0 { 0.0 } else { above / below }
}
