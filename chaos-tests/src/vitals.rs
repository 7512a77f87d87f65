//! What a process holds of its machine: memory, open files, threads; and what its data directory holds.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A process under observation, through Linux's `/proc`.
#[derive(Clone, Debug)]
pub struct Observed(PathBuf);

/// What it held at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Resident memory in bytes.
    pub resident: u64,
    /// Resident memory that is the process's own and no file's, in bytes.
    pub anonymous: u64,
    /// The most resident memory it ever had, in bytes.
    pub peak: u64,
    /// Open files, sockets included.
    pub files: u64,
    /// Threads.
    pub threads: u64,
    /// Processor time so far, user and system, in milliseconds; the system counts by tens.
    pub cpu_ms: u64,
}

// === impl Observed ===

impl Observed {
    /// The process of this id.
    pub fn new(pid: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{pid}")))
    }

    /// What it holds now.
    ///
    /// # Errors
    /// It has ended, or the system shows none of it.
    pub fn vitals(&self) -> io::Result<Vitals> {
        let status = fs::read_to_string(self.0.join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.ok_or_else(|| io::Error::other(format!("no {name} in its status")))
        };
        let stat = fs::read_to_string(self.0.join("stat"))?;
        // The name, in parentheses, may hold anything; the fields after it are counted from the state.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
        Ok(Vitals {
            resident: field("VmRSS")? << 10,
            anonymous: field("RssAnon")? << 10,
            peak: field("VmHWM")? << 10,
            files: fs::read_dir(self.0.join("fd"))?.count() as u64,
            threads: field("Threads")?,
            cpu_ms: (ticks(11).unwrap_or_default() + ticks(12).unwrap_or_default()) * 10,
        })
    }
}

/// Bytes of all files below a directory. Files that vanish meanwhile count as gone.
pub fn stored_bytes(directory: &Path) -> u64 {
    let Ok(present) = fs::read_dir(directory) else { return 0 };
    let sizes = present.flatten().map(|item| match item.metadata() {
        Ok(metadata) if metadata.is_dir() => stored_bytes(&item.path()),
        // Log segments are made at their full length, so what counts is what they occupy.
        Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// The machine in a line: processors and present load.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let memory = read("/proc/meminfo");
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1));
    let gib =
        memory.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / f64::from(1 << 20);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("unknown");
    let model = model.unwrap_or("unknown processor");
    format!("{cpus} × {model}, {gib:.0} GiB, load {load} at the start")
}
