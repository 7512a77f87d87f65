//! The simulator of clusters, in small: `make chaos` runs it at large.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use aa_chaos_tests::cluster::{Size, run};

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
