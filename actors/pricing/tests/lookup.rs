//! Which price a name finds, and which it must not.

use std::collections::HashSet;

use aa_pricing::{ModelPrice, PriceError, PriceOverride, PriceTable, PricedBy, Rate, UnknownModel};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn input(model: &str) -> Option<String> {
    PriceTable::builtin().get(model).map(|price| price.input.to_string())
}

fn price(input: &str, output: &str) -> ModelPrice {
    serde_json::from_value(serde_json::json!({"input": input, "output": output})).expect("a price")
}

fn with(overrides: &[(&str, &str)]) -> Result<PriceTable, PriceError> {
    let overrides = overrides
        .iter()
        .map(|(model, input)| PriceOverride {
            model: (*model).to_owned(),
            price: price(input, "1"),
            family: None,
        })
        .collect();
    PriceTable::builtin().with_overrides(overrides)
}

#[test]
fn the_embedded_table_is_the_one_whose_checksum_lies_beside_it() {
    let beside = include_str!("../prices.json.sha256");
    let digest: String = Sha256::digest(include_bytes!("../prices.json"))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let table = PriceTable::builtin();
    assert_eq!(beside.split_whitespace().next(), Some(digest.as_str()));
    assert_eq!(table.digest(), digest);
    assert_eq!(table.date().len(), "2026-01-01".len());
    assert!(!table.source().is_empty());
}

#[test]
fn every_listed_model_is_found_with_plausible_prices_and_limits() {
    let mut names = HashSet::new();
    for (provider, name, price) in PriceTable::builtin().listed() {
        assert!(names.insert(name), "{name}");
        assert_eq!(PriceTable::builtin().get(name), Some(price), "{provider} {name}");
        assert!(price.input > Rate::ZERO, "{name} is free");
        assert!(price.input <= "150".parse().unwrap(), "{name}: {}", price.input);
        let embeds = price.max_output_tokens == Some(0);
        assert_eq!(price.output == Rate::ZERO, embeds, "{name}: only an embedding has no output");
        assert!(embeds || price.output >= price.input, "{name}");
        assert!(price.cached_input.is_none_or(|cached| cached <= price.input), "{name}");
        assert!(price.cache_write.is_none_or(|written| written >= price.input), "{name}");
        let window = price.context_window.unwrap();
        assert!(price.max_output_tokens.unwrap() <= window, "{name}");
    }
    assert!(names.len() > 150);
}

#[test]
fn a_claude_in_a_cloud_region_is_not_taken_at_the_cheaper_world_price() {
    let table = PriceTable::builtin();
    for (provider, name, _) in table.listed().filter(|(_, name, _)| name.starts_with("claude-")) {
        assert_eq!(provider, "anthropic");
        let regional = table.get(&format!("us.anthropic.{name}-v1:0")).unwrap();
        let world = table.get(&format!("global.anthropic.{name}-v1:0")).unwrap();
        assert_eq!(world, table.get(name).unwrap());
        let has_premium = !name.starts_with("claude-3")
            && !["claude-sonnet-4", "claude-opus-4", "claude-opus-4-1"].contains(&name);
        assert_eq!(regional.input > world.input, has_premium, "{name}");
        assert_eq!(table.get(&format!("{name}@20260101")).unwrap(), regional, "{name}");
        assert_eq!(table.get(&format!("vertex_ai/{name}")).unwrap(), regional, "{name}");
        let path = format!("publishers/anthropic/models/{name}");
        assert_eq!(table.get(&path).unwrap(), regional, "{name}");
    }
}

#[test]
fn names_are_found_as_sdks_send_them() {
    for (sent, listed) in [
        ("gpt-4o", "gpt-4o"),
        ("GPT-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-2026-12-31", "gpt-4o"),
        ("openai/gpt-4o", "gpt-4o"),
        ("azure/gpt-4o", "gpt-4o"),
        ("openrouter/openai/gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-35-turbo", "gpt-3.5-turbo"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
        ("anthropic/claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet"),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet"),
        ("bedrock/us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet-v2@20241022", "claude-3-5-sonnet"),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic.claude-sonnet-4-5"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("gemini/gemini-2.5-flash", "gemini-2.5-flash"),
        ("publishers/google/models/gemini-2.0-flash-001", "gemini-2.0-flash"),
        ("gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("mistral-large-latest", "mistral-large"),
        ("mistral/codestral-latest", "codestral"),
        ("deepseek/deepseek-reasoner", "deepseek-reasoner"),
        ("xai/grok-4-0709", "grok-4"),
        ("groq/llama-3.3-70b-versatile", "llama-3.3-70b-versatile"),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "meta-llama/llama-3.3-70b-instruct-turbo"),
        ("us.meta.llama3-3-70b-instruct-v1:0", "meta.llama3-3-70b-instruct"),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "ft:gpt-4o-mini-2024-07-18"),
        ("ft:gpt-4o-mini:org::id", "ft:gpt-4o-mini-2024-07-18"),
    ] {
        let table = PriceTable::builtin();
        let (_, _, expected) = table.listed().find(|(_, name, _)| *name == listed).expect(listed);
        assert!(table.get(sent).is_some_and(|found| std::ptr::eq(found, expected)), "{sent}");
    }
}

#[test]
fn a_snapshot_with_its_own_price_keeps_it() {
    assert_eq!(input("gpt-4o-2024-05-13").as_deref(), Some("5"));
    assert_eq!(input("openai/gpt-4o-2024-05-13").as_deref(), Some("5"));
    assert_eq!(input("gpt-3.5-turbo-0613").as_deref(), Some("1.5"));
    assert_eq!(input("mistral-large-2402"), None, "dearer than the later ones, and not listed");
    assert_eq!(input("command-r-03-2024"), None, "likewise");
}

#[test]
fn no_name_reads_as_a_different_model() {
    for (sent, wrong) in [
        ("gpt-4o-mini", "gpt-4o"),
        ("o1-pro", "o1"),
        ("o1-mini", "o1"),
        ("o3-pro", "o3"),
        ("gpt-5-pro", "gpt-5"),
        ("gpt-4-32k", "gpt-4"),
        ("ft:gpt-4o-2024-08-06:o::i", "gpt-4o"),
    ] {
        assert!(input(sent).is_some(), "{sent}");
        assert_ne!(input(sent), input(wrong), "{sent}");
    }
    for unknown in [
        "",
        "gpt",
        "gpt-4o-",
        "gpt-4oo",
        "gpt-4o-ultra",
        "gpt-4o-realtime-preview",
        "gpt-4o-mini-audio-preview",
        "gpt-4o:extended",
        "gpt-4o-2024-08-06-custom",
        "gpt-4o-2024-08-06.ft-0123456789",
        "o1-ultra",
        "claude",
        "claude-3-5-sonnet-turbo",
        "claude-opus-9",
        "us.gpt-4o",
        "anthropic.gpt-4o",
        "somewhere/gpt-4o",
        "mistral/gpt-4o",
        "openai/claude-3-opus",
        "azure/eu/gpt-4o",
        "ft:gpt-4:org::id",
        "ft:o1:org::id",
        "gemini-2.5-pro-image",
        "llama-3.3-70b",
        "gpt-4o ",
        " gpt-4o",
        "gpt-4o\0",
        "models/",
        "/gpt-4o",
        "openai//gpt-4o",
        "arn:aws:bedrock:us-east-1:1:application-inference-profile/x",
    ] {
        assert_eq!(input(unknown), None, "{unknown:?}");
    }
    assert_eq!(input(&"gpt-4o/".repeat(10_000)), None);
}

#[test]
fn an_unknown_model_is_denied_or_costs_what_the_operator_says() {
    let table = PriceTable::builtin();
    let error = table.price_of("sky\nnet", &UnknownModel::Deny).unwrap_err().to_string();
    assert!(error.contains(r#""sky\nnet""#) && error.contains("fallback"), "{error}");
    let huge = table.price_of(&"x".repeat(1 << 20), &UnknownModel::default()).unwrap_err();
    assert_eq!(huge.model.len(), 128);

    let text = r#"{"fallback":{"input":"20","output":"80","max_output_tokens":4096}}"#;
    let fallback: UnknownModel = serde_json::from_str(text).unwrap();
    let priced = table.price_of("skynet", &fallback).unwrap();
    assert_eq!((priced.by, priced.price.input.to_string()), (PricedBy::Fallback, "20".to_owned()));
    assert_eq!(table.price_of("o1", &fallback).unwrap().by, PricedBy::Table);
    assert_eq!(serde_json::from_str::<UnknownModel>(r#""deny""#).unwrap(), UnknownModel::Deny);
    for refused in [r#""free""#, r#"{"fallback":{}}"#, r#"{"fallback":null}"#, "null"] {
        assert!(serde_json::from_str::<UnknownModel>(refused).is_err(), "{refused}");
    }
}

#[test]
fn overrides_win_the_more_exact_the_earlier() {
    let table = with(&[
        ("GPT-4o", "7"),
        ("gpt-4o-mini", "0"),
        ("acme-*", "8"),
        ("acme-large-*", "9"),
        ("openai/o1", "33"),
        ("o3*", "44"),
    ])
    .unwrap();
    let input = |model: &str| table.get(model).map(|price| price.input.to_string());
    for (model, expected) in [
        ("gpt-4o", Some("7")),
        ("gpt-4o-2024-08-06", Some("7")),
        ("openai/GPT-4o", Some("7")),
        ("gpt-4o-2024-05-13", Some("5")),
        ("gpt-4o-mini-2024-07-18", Some("0")),
        ("ft:gpt-4o-mini:org::id", Some("0.3")),
        ("acme-small", Some("8")),
        ("acme-large-2", Some("9")),
        ("acme", None),
        ("openai/o1", Some("33")),
        ("o1", Some("15")),
        ("o3", Some("44")),
        ("o3-pro", Some("44")),
        ("gpt-4.1", Some("2")),
    ] {
        assert_eq!(input(model).as_deref(), expected, "{model}");
    }
    let by = |model: &str| table.price_of(model, &UnknownModel::Deny).unwrap().by;
    assert_eq!((by("gpt-4o-2024-08-06"), by("gpt-4.1")), (PricedBy::Override, PricedBy::Table));

    let gpt = table.get("gpt-4o").unwrap();
    assert_eq!(gpt.max_output_tokens, Some(16_384), "the limits are the listed model's");
    assert_eq!(gpt.cached_input, None, "the prices are not");
    assert_eq!(table.get("acme-small").unwrap().max_output_tokens, None);

    let again = table.with_overrides(Vec::new()).unwrap();
    assert_eq!(again.get("gpt-4o"), PriceTable::builtin().get("gpt-4o"));
    assert_eq!(again.get("acme-small"), None);
}

#[test]
fn overrides_that_are_not_clear_are_refused() {
    let refused = |name: &str| with(&[("fine", "1"), (name, "1")]).unwrap_err();
    assert_eq!(refused(""), PriceError::Unnamed { index: 1 });
    assert_eq!(refused("*"), PriceError::EveryModel { index: 1 });
    assert_eq!(refused("Fine"), PriceError::Duplicate { index: 1, model: "Fine".into() });
    assert!(matches!(refused("a*b"), PriceError::MisplacedStar { index: 1, .. }));
    assert!(matches!(refused("a**"), PriceError::MisplacedStar { index: 1, .. }));
    assert!(matches!(refused("a b"), PriceError::NotAName { index: 1, .. }));
    assert!(matches!(refused("a\n"), PriceError::NotAName { index: 1, .. }));
    assert_eq!(refused(&"x".repeat(257)), PriceError::NameTooLong { index: 1, bytes: 257 });
    assert!(matches!(
        with(&[("x*", "1"), ("x*", "2")]),
        Err(PriceError::Duplicate { index: 1, .. })
    ));

    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|index| format!("model-{index}")).collect();
        with(&names.iter().map(|name| (name.as_str(), "1")).collect::<Vec<_>>()).map(|_| ())
    };
    assert_eq!(many(1_000), Ok(()));
    assert_eq!(many(1_001), Err(PriceError::TooMany(1_001)));

    for refused in [
        r#"{"model":"m"}"#,
        r#"{"price":{"input":"1","output":"1"}}"#,
        r#"{"model":"m","price":{"input":"1","output":"1"},"note":"x"}"#,
        r#"{"model":"m","price":{"input":"1000001","output":"1"}}"#,
        r#"{"model":"m","price":{"input":1e999,"output":"1"}}"#,
        r#"{"model":"m","price":{"input":"NaN","output":"1"}}"#,
        r#"{"model":"m","price":{"input":"1","output":"1"},"family":"gpt"}"#,
    ] {
        assert!(serde_json::from_str::<PriceOverride>(refused).is_err(), "{refused}");
    }
    let text = r#"{"model":"m","price":{"input":2.5,"output":"10"},"family":"openai"}"#;
    let read: PriceOverride = serde_json::from_str(text).unwrap();
    assert_eq!(read.price, price("2.50", "10"));
}

proptest! {
    #[test]
    fn words_put_around_a_name_find_nothing_or_a_price_at_least_as_high(
        index in any::<proptest::sample::Index>(),
        before in "([a-z]{1,6}[-./:])?",
        after in "([-.:@][a-z0-9]{1,8}){0,2}",
    ) {
        prop_assume!(!before.is_empty() || !after.is_empty());
        let table = PriceTable::builtin();
        let listed: Vec<_> = table.listed().collect();
        let (_, name, price) = listed[index.index(listed.len())];
        if let Some(found) = table.get(&format!("{before}{name}{after}")) {
            let is_listed = listed.iter().any(|(_, _, price)| std::ptr::eq(*price, found));
            prop_assert!(is_listed);
            prop_assert!(
                found.input >= price.input || after.starts_with("-mini") || after.starts_with("-nano"),
                "{before}{name}{after}"
            );
        }
    }

    #[test]
    fn no_name_panics(name in "\\PC{0,300}") {
        let _ = PriceTable::builtin().get(&name);
    }
}
