//! The simulator of clusters, in small: `make chaos` runs it at large.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use aa_chaos_tests::cluster::{Size, run, upgrade};

const SMALL: Size = Size { nodes: 3, agents: 3, lasts: Duration::from_secs(12) };

#[test]
fn a_seed_repeats_to_the_last_commit() {
    let first = run(7, SMALL).unwrap();
    assert!(first.told > 20 && first.tenures > 24, "{first:?}");
    assert_eq!(run(7, SMALL).unwrap(), first);
    assert_ne!(run(8, SMALL).unwrap().digest, first.digest);
}

#[test]
fn what_clients_were_told_holds_whatever_goes_wrong() {
    for seed in 100..106 {
        run(seed, SMALL).unwrap();
    }
}

/// How long the SDK waits for a decision.
const DEADLINE: Duration = Duration::from_secs(5);

#[test]
fn a_cluster_is_upgraded_node_by_node_without_a_failed_decision() {
    for seed in 200..203 {
        let outcome = upgrade(seed, SMALL).unwrap();
        assert_eq!(outcome.faults["upgrade"], 2 * SMALL.nodes as u64);
        assert!(outcome.told > 50 && outcome.approvals > 0 && outcome.changes > 0, "{outcome:?}");
        assert!(outcome.slowest < DEADLINE, "seed {seed}: {outcome:?}");
    }
}
