//! Money is conserved and no budget overspent, whatever fails. `make money` does the same for a million actions.

#![allow(clippy::print_stdout, reason = "the seed of a failing run must be seen")]

use aa_chaos_tests::money::{Outcome, campaign};

/// Unoptimised, an action takes a few milliseconds here, most of it loading actors after faults.
const ACTIONS: u64 = 12_000;

#[test]
fn money_is_conserved_and_no_budget_overspent_whatever_fails() {
    let seed = fastrand::u64(..1_000_000_000);
    let outcomes = campaign(ACTIONS, seed, |line| println!("{line}"))
        .unwrap_or_else(|violation| panic!("{violation}"));
    let total = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    for (what, count) in [
        ("allowed", total(|outcome| outcome.allowed)),
        ("refused", total(|outcome| outcome.refused)),
        ("settled", total(|outcome| outcome.settled)),
        ("expired", total(|outcome| outcome.expired)),
        ("vanished", total(|outcome| outcome.vanished)),
        ("retried", total(|outcome| outcome.retries)),
    ] {
        assert!(count > 0, "runs in which nothing was {what} show nothing: {outcomes:?}");
    }
}
