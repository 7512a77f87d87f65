//! Money under fire, for as many actions as wanted: `money [ACTIONS] [SEED]`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it tells its runs")]

use std::{process::ExitCode, time::Instant};

use aa_chaos_tests::money::campaign;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut number = |name: &str, otherwise: u64| match arguments.next().map(|text| text.parse()) {
        None => Ok(otherwise),
        Some(Ok(number)) => Ok(number),
        Some(Err(_)) => Err(format!("{name} is not a number; usage: money [ACTIONS] [SEED]")),
    };
    let wanted = number("ACTIONS", 1_000_000)
        .and_then(|actions| Ok((actions, number("SEED", fastrand::u64(..1_000_000_000))?)));
    let (actions, seed) = match wanted {
        Ok(wanted) => wanted,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    match campaign(actions, seed, |line| println!("{line}")) {
        Ok(outcomes) => {
            let done: u64 = outcomes.iter().map(|outcome| outcome.actions).sum();
            println!(
                "{done} actions in {:.0?}; money is conserved, no budget overspent",
                began.elapsed()
            );
            ExitCode::SUCCESS
        }
        Err(violation) => {
            eprintln!("{violation}");
            ExitCode::FAILURE
        }
    }
}
