//! The inputs that the fuzz targets kept, replayed; and a few thousand new decisions, made twice.

use std::{fs, panic, path::Path, thread};

use aa_chaos_tests::fuzz::{TARGETS, decision};
use proptest::{collection::vec, prelude::*};

/// An unoptimised CEL parser takes several MiB for what an optimised one does in 256 KiB.
const STACK: usize = 32 << 20;

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).expect("the target");
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let replaying = thread::Builder::new().stack_size(STACK).spawn(move || {
        let mut replayed = 0;
        for input in fs::read_dir(&inputs).expect("the corpus can be listed") {
            let path = input.expect("the corpus can be listed").path();
            let bytes = fs::read(&path).expect("an input can be read");
            let outcome = panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "the target panics on {}", path.display());
            replayed += 1;
        }
        replayed
    });
    let replayed = replaying.expect("a thread can be started").join();
    assert!(
        replayed.is_ok_and(|replayed| replayed > 0),
        "an input of {name} failed, or none is kept"
    );
}

macro_rules! replayed {
    ($($name:ident: $target:literal,)+) => {
        $(
            #[test]
            fn $name() {
                replay($target);
            }
        )+

        #[test]
        fn every_target_is_replayed() {
            let names = [$($target),+];
            assert!(TARGETS.iter().all(|(name, _)| names.contains(name)));
        }
    };
}

replayed! {
    kept_action_messages_are_refused_or_read_back: "action",
    kept_conditions_are_refused_or_evaluated: "condition",
    kept_decisions_are_those_of_the_naive_evaluator: "decision",
    kept_answers_of_providers_go_on_and_mean_the_same_in_pieces: "dialect_answer",
    kept_requests_to_providers_are_refused_or_describe_themselves: "dialect_request",
    kept_bodies_are_refused_or_decoded_within_limits: "decode",
    kept_exports_get_their_verdict: "export",
    kept_store_keys_are_refused_or_read_back: "key",
    kept_ledger_lines_are_refused_or_read_back: "ledger",
    kept_patterns_are_refused_or_find_what_is_there: "pattern",
    kept_policies_are_refused_or_decide: "policy",
    kept_texts_in_pieces_have_the_matches_of_the_whole: "scan",
    kept_tokens_are_refused_unless_signed: "token",
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_decides_as_the_naive_evaluator_does(world in vec(any::<u8>(), 64..1_024)) {
        decision::target(&world);
    }
}
