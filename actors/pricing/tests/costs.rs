//! What calls cost: golden sums, and the laws every sum obeys.

use aa_pricing::{CostError, DEFAULT_MAX_OUTPUT_TOKENS, ModelPrice, PriceTable, Rate};
use aa_protocol::{NanoUsd, Usage};
use proptest::prelude::*;

fn usage(input: u64, cached: u64, written: u64, output: u64, reasoning: u64) -> Usage {
    Usage {
        input_tokens: input,
        output_tokens: output,
        cached_input_tokens: cached,
        cache_write_tokens: written,
        reasoning_tokens: reasoning,
    }
}

fn price(model: &str) -> &'static ModelPrice {
    PriceTable::builtin().get(model).unwrap_or_else(|| panic!("{model}"))
}

#[test]
fn well_known_calls_cost_what_the_price_lists_say() {
    for (model, usage, cost) in [
        // 800 at 2.50, 200 at 1.25, 500 at 10.
        ("gpt-4o", usage(1_000, 200, 0, 500, 0), "$0.00725"),
        // 10,000 at 0.15, 1,000 at 0.60.
        ("gpt-4o-mini", usage(10_000, 0, 0, 1_000, 0), "$0.0021"),
        // 500 at 3, 1,000 at 0.30, 500 written for an hour at 6, 300 at 15.
        ("claude-3-5-sonnet-latest", usage(2_000, 1_000, 500, 300, 0), "$0.0093"),
        // 10,000 at 2.50, 2,000 at 15, of which 1,500 reasoning.
        ("gemini-2.5-pro", usage(10_000, 0, 0, 2_000, 1_500), "$0.055"),
        // One at 15, one at 60.
        ("o1", usage(1, 0, 0, 1, 1), "$0.000075"),
        // A million at 0.28, a million at 1.10.
        ("deepseek-chat", usage(1_000_000, 0, 0, 1_000_000, 0), "$1.38"),
        // Three at 0.00875: 26.25 nano-dollars, rounded up.
        ("us.amazon.nova-micro-v1:0", usage(3, 3, 0, 0, 0), "$0.000000027"),
        // 8,192 at 0.02.
        ("text-embedding-3-small", usage(8_192, 0, 0, 0, 0), "$0.00016384"),
    ] {
        assert_eq!(price(model).cost(&usage).unwrap().to_string(), cost, "{model}");
    }
}

#[test]
fn what_has_no_cached_price_costs_its_input_price_cached() {
    let price = price("gpt-4");
    assert_eq!(price.cost(&usage(9, 9, 0, 0, 0)), price.cost(&usage(9, 0, 0, 0, 0)));
    assert_eq!(price.cost(&usage(9, 0, 9, 0, 0)), price.cost(&usage(9, 0, 0, 0, 0)));
}

#[test]
fn counts_that_contradict_each_other_are_refused_with_both() {
    let price = price("gpt-4o");
    let error = price.cost(&usage(100, 60, 41, 0, 0)).unwrap_err();
    assert_eq!(error, CostError::PartsExceedInput { cached: 60, written: 41, input: 100 });
    for number in ["60", "41", "100"] {
        assert!(error.to_string().contains(number), "{error}");
    }
    let error = price.cost(&usage(0, 0, 0, 7, 8)).unwrap_err();
    assert_eq!(error, CostError::ReasoningExceedsOutput { reasoning: 8, output: 7 });
    assert!(price.cost(&usage(5, u64::MAX, u64::MAX, 0, 0)).is_err());
    assert!(price.cost(&usage(100, 60, 40, 8, 8)).is_ok());
}

#[test]
fn what_does_not_fit_is_an_error_and_never_wraps() {
    let dearest = ModelPrice { input: Rate::MAX, output: Rate::MAX, ..price("gpt-4o").clone() };
    for usage in [
        usage(u64::MAX, 0, 0, 0, 0),
        usage(0, 0, 0, u64::MAX, 0),
        usage(u64::MAX, u64::MAX, 0, u64::MAX, 0),
    ] {
        assert!(matches!(dearest.cost(&usage), Err(CostError::Overflow { .. })));
    }
    assert!(matches!(
        dearest.worst_case(0, Some(1 << 40), 1 << 40),
        Err(CostError::Overflow { .. })
    ));
    assert!(matches!(dearest.worst_case(u64::MAX, None, 1), Err(CostError::Overflow { .. })));
    assert!(dearest.worst_case(1_000_000, Some(1_000_000), 1).is_ok());
}

#[test]
fn a_reservation_takes_the_dearest_input_and_the_longest_answers() {
    // 1,000 at 6 (cache write), 2 × 100 at 15.
    let claude = price("claude-3-5-sonnet");
    assert_eq!(claude.worst_case(1_000, Some(100), 2).unwrap().to_string(), "$0.009");
    // Unbounded: 8,192 at 15.
    assert_eq!(claude.worst_case(0, None, 1).unwrap().to_string(), "$0.12288");
    assert_eq!(claude.worst_case(0, Some(0), 0), claude.worst_case(0, None, 1));

    let unsaid = ModelPrice { max_output_tokens: None, context_window: None, ..claude.clone() };
    assert_eq!(unsaid.longest_answer(), DEFAULT_MAX_OUTPUT_TOKENS);
    let small = ModelPrice { context_window: Some(4_096), ..unsaid };
    assert_eq!(small.longest_answer(), 4_096);
    assert_eq!(price("text-embedding-3-large").worst_case(0, None, 1), Ok(NanoUsd::ZERO));
}

#[test]
fn a_price_is_stated_whole_and_free_only_in_so_many_words() {
    let read = serde_json::from_str::<ModelPrice>;
    let free = read(r#"{"input":"0","output":"0"}"#).unwrap();
    assert!(free.is_free());
    assert_eq!(free.cost(&usage(u64::MAX, 0, 0, u64::MAX, 0)), Ok(NanoUsd::ZERO));
    for refused in [
        r#"{}"#,
        r#"{"input":"1"}"#,
        r#"{"output":"1"}"#,
        r#"{"input":null,"output":"1"}"#,
        r#"{"input":"1","output":"1","cached":"1"}"#,
        r#"{"input":"-1","output":"1"}"#,
        r#"{"input":"1","output":"1","max_output_tokens":-1}"#,
    ] {
        assert!(read(refused).is_err(), "{refused}");
    }
}

fn rates() -> impl Strategy<Value = ModelPrice> {
    let rate = || {
        prop_oneof![Just(0), 0..100_000_000_000i64, 0..=Rate::MAX.nanos()]
            .prop_map(|nanos| Rate::from_nanos(nanos).expect("within the bounds"))
    };
    (rate(), proptest::option::of(rate()), proptest::option::of(rate()), rate()).prop_map(
        |(input, cached_input, cache_write, output)| ModelPrice {
            input,
            cached_input,
            cache_write,
            output,
            context_window: None,
            max_output_tokens: None,
            image_tokens: None,
        },
    )
}

fn usages() -> impl Strategy<Value = Usage> {
    let count = || prop_oneof![0..100u64, 0..2_000_000u64];
    (count(), count(), count(), count(), count()).prop_map(
        |(plain, cached, written, said, thought)| {
            usage(plain + cached + written, cached, written, said + thought, thought)
        },
    )
}

proptest! {
    #[test]
    fn a_token_more_never_costs_less(price in rates(), usage in usages()) {
        let cost = price.cost(&usage).unwrap();
        prop_assert!(cost >= NanoUsd::ZERO);
        let more = [
            Usage { input_tokens: usage.input_tokens + 1, ..usage },
            Usage { output_tokens: usage.output_tokens + 1, ..usage },
            Usage { input_tokens: usage.input_tokens + 1, cached_input_tokens: usage.cached_input_tokens + 1, ..usage },
            Usage { input_tokens: usage.input_tokens + 1, cache_write_tokens: usage.cache_write_tokens + 1, ..usage },
            Usage { output_tokens: usage.output_tokens + 1, reasoning_tokens: usage.reasoning_tokens + 1, ..usage },
        ];
        for more in more {
            prop_assert!(price.cost(&more).unwrap() >= cost);
        }
    }

    #[test]
    fn two_calls_cost_what_one_of_both_does_but_for_a_nano(price in rates(), one in usages(), other in usages()) {
        let both = Usage {
            input_tokens: one.input_tokens + other.input_tokens,
            output_tokens: one.output_tokens + other.output_tokens,
            cached_input_tokens: one.cached_input_tokens + other.cached_input_tokens,
            cache_write_tokens: one.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens: one.reasoning_tokens + other.reasoning_tokens,
        };
        let apart = price.cost(&one).unwrap().0 + price.cost(&other).unwrap().0;
        let together = price.cost(&both).unwrap().0;
        prop_assert!(together <= apart && apart <= together + 1);
    }

    #[test]
    fn only_no_tokens_or_no_prices_cost_nothing(price in rates(), usage in usages()) {
        let cached = price.cached_input.unwrap_or(price.input);
        let written = price.cache_write.unwrap_or(price.input);
        let plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens;
        let parts = [
            (plain, price.input),
            (usage.cached_input_tokens, cached),
            (usage.cache_write_tokens, written),
            (usage.output_tokens, price.output),
        ];
        let is_free = parts.iter().all(|(tokens, rate)| *tokens == 0 || *rate == Rate::ZERO);
        prop_assert_eq!(price.cost(&usage).unwrap() == NanoUsd::ZERO, is_free);
    }

    #[test]
    fn a_reservation_covers_every_call_within_its_bounds(price in rates(), usage in usages(), choices in 1..5u64) {
        let each = usage.output_tokens.div_ceil(choices).max(1);
        let reserved = price.worst_case(usage.input_tokens, Some(each), choices).unwrap();
        prop_assert!(price.cost(&usage).unwrap() <= reserved);
    }
}
