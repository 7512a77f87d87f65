//! How a prompt is bounded before it is sent.

use std::time::{Duration, Instant};

use aa_pricing::{
    ModelPrice, PriceOverride, PriceTable, Priced, UnknownModel,
    estimate::{MAX_TOKENIZED_BYTES, input_tokens, output_tokens, warm_up},
};
use proptest::prelude::*;
use serde_json::{Value, json};

const FAMILIES: [&str; 9] = [
    "gpt-4o",
    "gpt-4",
    "claude-opus-4-8",
    "gemini-2.5-pro",
    "mistral-large",
    "llama-3.3-70b-versatile",
    "deepseek-chat",
    "grok-4",
    "command-a",
];

fn priced(model: &str) -> Priced<'static> {
    PriceTable::builtin().price_of(model, &UnknownModel::Deny).expect("a listed model")
}

fn tokens(model: &str, prompt: &Value) -> u64 {
    input_tokens(prompt, &priced(model))
}

fn user(content: impl Into<Value>) -> Value {
    json!([{"role": "user", "content": content.into()}])
}

#[test]
fn a_documented_prompt_is_bounded_closely() {
    // OpenAI's cookbook reports 124 prompt tokens for gpt-4o and 129 for gpt-4.
    let prompt = json!([
        {"role": "system", "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
        {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
        {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
        {"role": "system", "name": "example_user", "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."},
        {"role": "system", "name": "example_assistant", "content": "Let's talk later when we're less busy about how to do better."},
        {"role": "user", "content": "This late pivot means we don't have time to boil the ocean for the client deliverable."},
    ]);
    for (model, reported) in [("gpt-4o", 124), ("gpt-4", 129)] {
        let bound = tokens(model, &prompt);
        assert!((reported..reported * 5 / 2).contains(&bound), "{model}: {bound}");
    }
}

#[test]
fn text_counts_as_the_tokenizer_says() {
    // Counts of tiktoken's o200k_base.
    for (text, counted) in
        [("tiktoken is great!", 6), ("antidisestablishmentarianism", 6), ("2 + 2 = 4", 7), ("", 0)]
    {
        let overhead = 2;
        assert_eq!(output_tokens(&json!(text), &priced("gpt-4o")), counted + overhead, "{text}");
    }
}

#[test]
fn other_families_count_more_and_never_less() {
    for text in [
        "The quick brown fox jumps over the lazy dog.",
        "素早い茶色の狐",
        "Быстрая лиса",
        "fn main() {}",
        "🦊🦊🦊",
    ] {
        let prompt = user(text);
        let openai = tokens("gpt-4o", &prompt);
        for model in FAMILIES {
            assert!(tokens(model, &prompt) >= openai, "{model}: {text}");
        }
    }
}

#[test]
fn what_one_tokenizer_joins_another_may_not() {
    // Reported of Opus 4.7: 51 words of two letters are 103 tokens, for it gives each space a token.
    let words = format!("hi{}", " hi".repeat(50));
    assert!(output_tokens(&json!(words), &priced("claude-opus-4-7")) >= 103);
    for run in [" ", "!", "a", "\n"] {
        let text = run.repeat(6_000);
        for model in FAMILIES.iter().filter(|model| **model != "gpt-4o") {
            assert!(output_tokens(&json!(text), &priced(model)) >= 1_500, "{model}: {run:?}");
        }
    }
}

#[test]
fn prompts_past_the_bound_count_a_token_per_byte_in_bounded_time() {
    warm_up();
    let under = "word ".repeat(MAX_TOKENIZED_BYTES / 5 - 100);
    let counted = tokens("gpt-4.1", &user(under.clone()));
    assert!(counted < under.len() as u64 / 3, "{counted}");

    let over = "word ".repeat(MAX_TOKENIZED_BYTES / 5 + 1);
    let bounded = tokens("gpt-4.1", &user(over.clone()));
    assert!(bounded >= over.len() as u64);

    let huge = user("x".repeat(64 << 20));
    let start = Instant::now();
    assert_eq!(tokens("gpt-4o", &huge), 128_000, "no more than the context window");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_image_counts_as_an_image_in_every_dialect() {
    let data = "iVBORw0KGgo".repeat(100_000);
    let url = format!("data:image/png;base64,{data}");
    let parts = [
        json!({"type": "image_url", "image_url": {"url": url, "detail": "high"}}),
        json!({"type": "image_url", "image_url": url}),
        json!({"type": "input_image", "image_url": url}),
        json!({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}),
        json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}),
        json!({"inlineData": {"mimeType": "image/png", "data": data}}),
        json!({"image": {"format": "png", "source": {"bytes": data}}}),
        json!({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {"type": "base64", "data": data}}]}),
        json!({"toolResult": {"toolUseId": "t", "content": [{"image": {"format": "png", "source": {"bytes": data}}}]}}),
    ];
    for part in parts {
        for (model, most) in [
            ("gpt-4o", 1_445),
            ("gpt-4o-mini", 48_169),
            ("claude-opus-4-8", 4_784),
            ("gemini-2.5-pro", 4_128),
        ] {
            for prompt in [
                user(json!([part])),
                json!({"messages": user(json!([part]))}),
                json!({"contents": [{"parts": [part]}]}),
            ] {
                let text = tokens(model, &user(json!([{"type": "text", "text": ""}])));
                let bound = tokens(model, &prompt);
                assert!((most..most + text + 250).contains(&bound), "{model}: {bound}");
            }
        }
    }
}

#[test]
fn images_add_up() {
    let image = json!({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}});
    assert!(tokens("gpt-4.1", &user(vec![image; 40])) >= 40 * 1_445);
}

#[test]
fn data_where_a_provider_reads_text_counts_as_text() {
    let url = format!("data:image/png;base64,{}", "iVBORw0KGgo".repeat(10_000));
    let least = url.len() as u64 / 4;
    let image = json!({"type": "image_url", "image_url": {"url": url}});
    for prompt in [
        user(url.clone()),
        user(json!([{"type": "text", "text": url}])),
        json!({"messages": [], "tools": [image]}),
        json!({"messages": [{"role": "user", "content": "x", "metadata": [image]}]}),
        json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": image}}]}]}),
        user(
            json!([{"type": "image_url", "image_url": {"url": "words, not an address: ".repeat(5_000)}}]),
        ),
        user(
            json!([{"type": "image_url", "text": "and words beside ".repeat(8_000), "image_url": {"url": url}}]),
        ),
    ] {
        assert!(tokens("gpt-4.1", &prompt) >= least.min(20_000), "{}", &prompt.to_string()[..80]);
    }
}

#[test]
fn a_document_counts_as_the_whole_context_window() {
    for part in [
        json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0"}}),
        json!({"type": "input_file", "file_id": "file-1"}),
        json!({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0"}}),
        json!({"type": "input_audio", "input_audio": {"data": "UklGRg", "format": "wav"}}),
        json!({"fileData": {"mimeType": "video/mp4", "fileUri": "gs://bucket/film.mp4"}}),
        json!({"inline_data": {"mime_type": "application/pdf", "data": "JVBERi0"}}),
        json!({"document": {"format": "pdf", "source": {"bytes": "JVBERi0"}}}),
    ] {
        assert_eq!(tokens("gpt-4o", &user(json!([part]))), 128_000, "{part}");
        let price: ModelPrice = serde_json::from_str(r#"{"input":"1","output":"1"}"#).unwrap();
        let fallback = UnknownModel::Fallback(price);
        let unknown = PriceTable::builtin().price_of("skynet", &fallback).unwrap();
        assert!(input_tokens(&user(json!([part])), &unknown) >= 1_000_000);
    }
}

#[test]
fn tools_are_part_of_the_prompt() {
    let request = json!({"messages": user("hi"), "tools": [{"type": "function", "function": {
        "name": "get_weather", "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}}}}}]});
    let bare = json!({"messages": user("hi")});
    assert!(tokens("gpt-4o", &request) > tokens("gpt-4o", &bare) + 60);
    assert!(tokens("claude-opus-4-8", &request) > tokens("claude-opus-4-8", &bare) + 1_000);
}

#[test]
fn an_embedding_of_many_inputs_is_not_cut_at_one_window() {
    let inputs: Vec<String> =
        (0..100).map(|index| format!("{index} {}", "text ".repeat(200))).collect();
    assert!(tokens("text-embedding-3-small", &json!({"input": inputs})) > 20_000);
    let numbers: Vec<u32> = (0..10_000).collect();
    assert!(tokens("text-embedding-3-small", &json!({"input": numbers})) > 10_000);
}

#[test]
fn an_override_may_say_whose_tokenizer_a_deployment_has() {
    let stated = |family: &str| -> PriceOverride {
        serde_json::from_value(
            json!({"model": "prod-1", "price": {"input": 1, "output": 1}, "family": family}),
        )
        .unwrap()
    };
    let prompt = user("The quick brown fox jumps over the lazy dog. ".repeat(20));
    let bound = |stated| {
        let table = PriceTable::builtin().with_overrides(vec![stated]).unwrap();
        input_tokens(&prompt, &table.price_of("prod-1", &UnknownModel::Deny).unwrap())
    };
    assert_eq!(bound(stated("openai")), tokens("gpt-4o", &prompt));
    assert!(bound(stated("other")) > tokens("gpt-4o", &prompt));
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,60}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let key = prop_oneof![
            "[a-z]{1,8}",
            Just("content".to_owned()),
            Just("messages".to_owned()),
            Just("type".to_owned()),
            Just("image".to_owned()),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_prompt_panics_is_free_or_passes_its_window(prompt in json_values()) {
        for model in FAMILIES {
            let bound = tokens(model, &prompt);
            prop_assert!(bound > 0);
            prop_assert!(bound <= priced(model).price.context_window.unwrap());
        }
    }

    #[test]
    fn text_never_counts_more_tokens_than_bytes(text in "\\PC{0,300}") {
        for model in FAMILIES {
            let bound = output_tokens(&json!(text), &priced(model));
            prop_assert!(bound <= text.len() as u64 + 2);
            prop_assert!(text.is_empty() || bound > 2);
        }
    }

    #[test]
    fn a_message_more_never_counts_less(first in "\\PC{0,100}", second in "\\PC{0,100}") {
        let one = json!([{"role": "user", "content": first}]);
        let two = json!([{"role": "user", "content": first}, {"role": "user", "content": second}]);
        for model in FAMILIES {
            prop_assert!(tokens(model, &one) < tokens(model, &two));
        }
    }
}
