//! Money is conserved and no budget overspent, whatever fails.
//!
//! `AA_MONEY_ACTIONS` sets how many actions all seeds do together, `AA_MONEY_SEED` the first seed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aa_chaos_tests::money::{Outcome, Simulation};

/// Three days around changes of the clock in the zones that are spent in, and an ordinary one.
const STARTS: [&str; 4] = [
    "2026-03-07T20:00:00Z",
    "2026-10-31T20:00:00Z",
    "2026-04-04T10:00:00Z",
    "2026-11-23T12:00:00Z",
];
const AGENTS: usize = 1_000;
const AT_ONCE: usize = 64;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn money_is_conserved_and_no_budget_overspent_whatever_fails() {
    let actions = setting("AA_MONEY_ACTIONS").unwrap_or(100_000);
    let first = setting("AA_MONEY_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let each = actions.div_ceil(STARTS.len() as u64);
    for (seed, start) in (first..).zip(STARTS) {
        println!("seed {seed}, from {start}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(async {
            let simulation = Simulation::new(seed, AGENTS, start.parse().unwrap()).await;
            simulation.run(each, AT_ONCE).await
        });
        let outcome = outcome.unwrap_or_else(|error| panic!("{error}"));
        println!("{outcome:?}");
        let Outcome { allowed, refused, settled, expired, vanished, retries, .. } = outcome;
        for (what, count) in [
            ("allowed", allowed),
            ("refused", refused),
            ("settled", settled),
            ("expired", expired),
            ("vanished", vanished),
            ("retries", retries),
        ] {
            assert!(count > 0, "a run in which nothing was {what} shows nothing: {outcome:?}");
        }
    }
}
