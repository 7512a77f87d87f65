use super::*;

fn own(model: &str, output: &str) -> Value {
    json!({"model": model, "price": {"input": "1", "output": output}})
}

#[tokio::test]
async fn prices_say_where_they_are_from() {
    let fixture = Fixture::new().await;
    let book = fixture.get("/prices").await.ok(200).json();
    assert_eq!((&book["overrides"], &book["unknown"]), (&json!([]), &json!("deny")));
    assert_eq!((&book["updated_at"], book.get("models")), (&Value::Null, None));
    assert_eq!(book["date"].as_str().unwrap().len(), "2026-08-21".len());
    assert_eq!(book["sha256"].as_str().unwrap().len(), 64);

    let priced = |name: &'static str| {
        let fixture = &fixture;
        async move {
            let book = fixture.get(&format!("/prices?model={name}")).await.ok(200).json();
            (book["model"]["from"].clone(), book["model"]["price"]["output"].clone())
        }
    };
    assert_eq!(priced("openai/gpt-4o").await, (json!("table"), json!("10")));
    let unknown = fixture.get("/prices?model=my-model").await.problem(404, "not-found");
    assert!(unknown.detail.contains("add it to the price overrides, or state a fallback price"));

    let terms = json!({
        "overrides": [own("GPT-4o", "8"), own("my-*", "2.50")],
        "unknown": {"fallback": {"input": 30, "output": 0.000_000_000_1}},
    });
    let set = fixture.put("/prices", terms).await.ok(200).json();
    assert_eq!(set["overrides"][1]["price"], json!({"input": "1", "output": "2.5"}));
    assert!(set["updated_by"].as_str().unwrap().starts_with("key:"), "{set}");
    assert_eq!(priced("gpt-4o-2024-08-06").await, (json!("override"), json!("8")));
    assert_eq!(priced("my-model").await, (json!("override"), json!("2.5")));
    // Past nine decimals a price is rounded up: it is never silently free.
    assert_eq!(priced("other").await, (json!("fallback"), json!("0.000000001")));
    fixture.put("/prices", json!({"overrides": [], "unknown": "deny"})).await.ok(200);
    assert_eq!(priced("gpt-4o").await, (json!("table"), json!("10")));
    let entries = fixture.get("/audit/entries?kind=budget").await.ok(200).json();
    assert_eq!(entries["entries"][0]["detail"]["change"], "prices");
}

#[tokio::test]
async fn the_list_is_searched_by_provider_and_model() {
    let fixture = Fixture::new().await;
    let found = |text: &'static str| {
        let fixture = &fixture;
        async move {
            let book = fixture.get(&format!("/prices?search={text}")).await.ok(200).json();
            let models = book["models"].as_array().unwrap().iter();
            models.map(|m| m["model"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        }
    };
    let all = found("").await;
    assert!(all.len() > 100, "{}", all.len());
    let some = found("GPT-4o-Mini").await;
    assert!(some.contains(&"gpt-4o-mini".to_owned()) && some.len() < all.len(), "{some:?}");
    assert!(found("anthropic%2Fclaude").await.iter().all(|name| name.contains("claude")));
    assert!(found("no-such-model").await.is_empty());
}

#[tokio::test]
async fn wrong_prices_are_refused_and_change_nothing() {
    let fixture = Fixture::new().await;
    let terms = |overrides: Value| json!({"overrides": overrides, "unknown": "deny"});
    fixture.put("/prices", terms(json!([own("kept", "1")]))).await.ok(200);
    for (body, reason) in [
        (json!({"overrides": []}), "missing field `unknown`"),
        (json!({"unknown": "deny"}), "missing field `overrides`"),
        (json!({"overrides": [], "unknown": "free"}), "unknown variant"),
        (json!({"overrides": [], "unknown": {"fallback": {"input": 1}}}), "missing field"),
        (json!({"overrides": [], "unknown": "deny", "currency": "EUR"}), "unknown field"),
        (terms(json!([own("x", "-1")])), "negative"),
        (terms(json!([own("x", "NaN")])), "not a price"),
        (terms(json!([own("x", "1000001")])), "above the most"),
        (terms(json!([{"model": "x", "price": {"input": 1e300, "output": 1}}])), "above the most"),
        (terms(json!([own("x", "0.0000000001")])), "nine decimals"),
        (terms(json!([own("*", "1")])), "fallback"),
        (terms(json!([own("a*b", "1")])), "one `*`"),
        (terms(json!([own("", "1")])), "no model name"),
        (terms(json!([own("x", "1"), own("X", "2")])), "the second for"),
        (
            terms(json!([{"model": "x", "price": {"input": 1, "output": 1}, "free": true}])),
            "unknown",
        ),
    ] {
        let problem = fixture.put("/prices", body.clone()).await.problem(400, "invalid-request");
        assert!(problem.detail.contains(reason), "{body}: {}", problem.detail);
    }
    let book = fixture.get("/prices").await.ok(200).json();
    assert_eq!(book["overrides"][0]["model"], "kept");
}

#[tokio::test]
async fn many_prices_are_taken_up_to_their_bound() {
    let fixture = Fixture::new().await;
    let many = |count: usize| {
        let overrides: Vec<_> = (0..count).map(|n| own(&format!("m{n}"), "1")).collect();
        json!({"overrides": overrides, "unknown": "deny"})
    };
    fixture.put("/prices", many(1_000)).await.ok(200);
    let refused = fixture.put("/prices", many(1_001)).await.problem(400, "invalid-request");
    assert!(refused.detail.contains("the most is 1000"), "{}", refused.detail);
    let content = Some(("application/json", vec![b' '; (128 << 10) + 1]));
    let answer = fixture.call(&fixture.owner, Method::PUT, "/prices", content).await;
    answer.problem(413, "body-too-large");
}
