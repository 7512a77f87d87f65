//! Money is conserved and no budget overspent, whatever fails. `make money` does the same for a million actions.

use aa_chaos_tests::money::campaign;

/// Unoptimised, an action takes a few milliseconds here, most of it loading actors after faults.
const ACTIONS: u64 = 12_000;

#[test]
fn money_is_conserved_and_no_budget_overspent_whatever_fails() {
    let seed = fastrand::u64(..1_000_000_000);
    let outcomes = campaign(ACTIONS, seed).unwrap_or_else(|violation| panic!("{violation}"));
    for outcome in outcomes {
        for (what, count) in [
            ("allowed", outcome.allowed),
            ("refused", outcome.refused),
            ("settled", outcome.settled),
            ("expired", outcome.expired),
            ("vanished", outcome.vanished),
            ("retried", outcome.retries),
        ] {
            assert!(count > 0, "a run in which nothing was {what} shows nothing: {outcome:?}");
        }
    }
}
