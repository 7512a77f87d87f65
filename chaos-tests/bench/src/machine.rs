//! The machine that figures were measured on.

use std::{fmt, fs};

/// The machine, as far as its figures depend on it. Its `Display` is the line every benchmark opens with.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The processor, as the kernel names it.
    pub processor: String,
    /// Processors this process may run on.
    pub cores: usize,
    /// Kernel name and release.
    pub kernel: String,
    /// Runnable processes over the last minute when the benchmark began: above 0.5 or so, figures are noisy.
    pub load: f64,
}

// === impl Machine ===

impl Machine {
    /// Reads what the system says of itself; what it does not say is `unknown` or zero.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = text("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.trim().to_owned());
        let release = text("/proc/sys/kernel/osrelease");
        let load = text("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok());
        Self {
            processor,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{} {}", std::env::consts::OS, release.trim()),
            load: load.unwrap_or_default(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, kernel, load } = self;
        let build = if cfg!(debug_assertions) { "UNOPTIMISED BUILD" } else { "optimised build" };
        write!(f, "machine: {cores} × {processor}, {kernel}, {build}, load {load:.2}")
    }
}
