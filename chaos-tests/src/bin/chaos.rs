//! Clusters under fire, for as many seeds as wanted: `chaos [SEEDS] [FIRST]`.
//!
//! First come the seeds that ever failed, then new ones. A seed that fails is printed with what was wrong, and
//! `chaos 1 SEED` repeats it exactly.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it tells its runs")]

use std::{process::ExitCode, time::Instant};

use aa_chaos_tests::cluster::{Size, failed_before, run};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // `RUST_LOG=warn` tells what nodes say of it.
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let arguments: Result<Vec<u64>, _> =
        std::env::args().skip(1).map(|text| text.parse()).collect();
    let Ok(arguments) = arguments else {
        eprintln!("usage: chaos [SEEDS] [FIRST]");
        return ExitCode::from(2);
    };
    let seeds = arguments.first().copied().unwrap_or(100);
    let chosen = arguments.get(1).copied();
    let first = chosen.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    // Whoever repeats one seed wants that one.
    let known = if chosen.is_some() { Vec::new() } else { failed_before() };
    let began = Instant::now();
    let (mut runs, mut failures, mut told, mut faults) = (0, Vec::new(), 0, 0);
    for seed in known.into_iter().chain(first..first + seeds) {
        runs += 1;
        match run(seed, Size::default()) {
            Ok(outcome) => {
                told += outcome.told;
                faults += outcome.faults.values().sum::<u64>();
                if seeds == 1 {
                    println!("{outcome:#?}");
                }
            }
            Err(problem) => {
                println!("FAILED {problem}");
                failures.push(seed);
            }
        }
    }
    let took = began.elapsed();
    println!(
        "{runs} runs in {took:.0?}, new seeds from {first}: {told} decisions told, {faults} faults, {} failed",
        failures.len()
    );
    if failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "repeat each with `make chaos SEEDS=1 SEED=n`, and add it to chaos-tests/seeds/cluster.txt: {failures:?}"
    );
    ExitCode::FAILURE
}
