//! Verifying and exporting an audit log, beside hashing the same bytes.
//!
//! `audit [ROUNDS]` makes a log of about 100 MB in memory, then measures in turn, round after round, on one
//! core each: `sha256sum` over the export in a file, a bare loop over its lines with this project's SHA-256,
//! verification without and with the secrets of the MAC keys, and the writing of the export.

use std::{
    hint::black_box,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use aa_bench::{
    Error, Machine, interleaved,
    log::{Drafts, SampleLog, prove},
};
use sha2::{Digest, Sha256};

const ENTRIES: u64 = 120_000;

fn main() -> Result<(), Error> {
    let rounds = std::env::args().nth(1).map_or(Ok(7), |text| text.parse())?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", Machine::read())?;
    let log = SampleLog::new(&Drafts::new()?, ENTRIES)?;
    let mut export = Vec::new();
    log.export(&mut export)?;
    // Memory rather than a disk, where there is such a place: the program's hashing is the baseline.
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let file = tempfile::NamedTempFile::new_in(directory)?;
    std::fs::write(file.path(), &export)?;
    writeln!(
        out,
        "{ENTRIES} entries, {:.1} MB, {} bytes each; MB/s on one core; {rounds} rounds: median (least–most)\n",
        export.len() as f64 / 1e6,
        export.len() as u64 / ENTRIES
    )?;

    let bytes = export.len() as f64;
    let mut written = Vec::with_capacity(export.len());
    let figures = interleaved(
        rounds,
        &mut [
            &mut || speed(bytes, || sha256sum(file.path())),
            &mut || speed(bytes, || bare_hashes(&log)),
            &mut || speed(bytes, || prove(&export, None)),
            &mut || speed(bytes, || prove(&export, Some(&log.keys))),
            &mut || {
                written.clear();
                speed(bytes, || log.export(&mut written))
            },
        ],
    );
    let subjects = [
        "sha256sum of the file, process included",
        "SHA-256 of every line, nothing else",
        "verify: chains and tree",
        "verify: chains, tree and every MAC",
        "export",
    ];
    let baseline = figures[0].median();
    for (subject, figures) in subjects.into_iter().zip(&figures) {
        let part = figures.median() / baseline;
        writeln!(out, "{subject:<40} {figures:>24.0}   {part:>5.2} of sha256sum")?;
    }
    Ok(())
}

/// Bytes per microsecond; not a number when the work fails, which the table then shows.
fn speed(bytes: f64, work: impl FnOnce() -> Result<(), Error>) -> f64 {
    let start = Instant::now();
    match work() {
        Ok(()) => bytes / start.elapsed().as_secs_f64() / 1e6,
        Err(_) => f64::NAN,
    }
}

fn sha256sum(file: &Path) -> Result<(), Error> {
    let status = Command::new("sha256sum").arg(file).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("sha256sum ended with {status}").into()) }
}

fn bare_hashes(log: &SampleLog) -> Result<(), Error> {
    for line in &log.lines {
        black_box(Sha256::digest(line));
    }
    Ok(())
}
