use aa_governance::agent::{AgentKeyId, Request as CheckRequest};
use aa_protocol::{Action, ActionId, Verdict};
use aa_runtime::Reply;

use super::*;

const TEAM: &str = "/budgets/teams/platform/monthly";

impl Fixture {
    /// A fixture in which a token of an answer of `test-model` costs a tenth of a cent, and nothing else does.
    async fn priced() -> Self {
        let fixture = Self::new().await;
        let own = json!({"model": "test-model", "price": {"input": 0, "output": 1000}});
        fixture.put("/prices", json!({"overrides": [own], "unknown": "deny"})).await.ok(200);
        fixture
    }

    /// An agent's call of at most so many tokens, under an action id of its own.
    async fn call_model(&self, agent: AgentId, id: u128, tokens: u64) -> Verdict {
        let action = Action::LlmCall {
            model: "test-model".to_owned(),
            host: None,
            messages: json!([]),
            max_output_tokens: Some(tokens),
            choices: None,
        };
        let received = self.governance.services().clock.now();
        let id = ActionId::from_bytes(id.to_be_bytes());
        let request = CheckRequest {
            id,
            trace: None,
            parent_span: None,
            action,
            received,
            approval: None,
            session: None,
            context: None,
        };
        let (reply, answer) = Reply::channel();
        self.governance.check(&AgentKeyId { workspace: workspace(), agent }, request, reply);
        answer.await.unwrap().unwrap().unwrap().decision.verdict
    }
}

#[tokio::test]
async fn a_budget_is_set_read_changed_and_removed() {
    let fixture = Fixture::new().await;
    let made = fixture.put(TEAM, json!({"cost_limit_usd": 25})).await.ok(201).json();
    let expected = json!({
        "team": "platform", "workspace": false, "window": "monthly",
        "cost_limit_usd": "25.00", "token_limit": null, "action_on_exceeded": "deny",
        "alert_at": [50, 80, 100],
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&made[name], value, "{name}");
    }
    let by = made["updated_by"].as_str().unwrap();
    assert!(by.starts_with("key:") && made["updated_at"].is_string(), "{made}");
    assert_eq!(
        (&made["current"]["spent_usd"], &made["current"]["percent"]),
        (&json!("0.00"), &json!(0))
    );
    assert_eq!(fixture.get(TEAM).await.ok(200).json(), made);

    let changed = json!({
        "cost_limit_usd": "12.5", "token_limit": 1000, "action_on_exceeded": "alert", "alert_at": [90],
    });
    let changed = fixture.put(TEAM, changed).await.ok(200).json();
    assert_eq!(
        (&changed["cost_limit_usd"], &changed["token_limit"], &changed["alert_at"]),
        (&json!("12.50"), &json!(1000), &json!([90]))
    );
    let removed = fixture.delete(TEAM).await.ok(200).json();
    assert_eq!((&removed["cost_limit_usd"], &removed["current"]), (&json!("12.50"), &Value::Null));
    for absent in [fixture.get(TEAM).await, fixture.delete(TEAM).await] {
        let problem = absent.problem(404, "not-found");
        assert_eq!(problem.detail, "there is no monthly budget of team platform");
    }
    let entries = fixture.get("/audit/entries?kind=budget").await.ok(200).json();
    let changes: Vec<_> =
        entries["entries"].as_array().unwrap().iter().map(|e| &e["detail"]["change"]).collect();
    assert_eq!(changes, ["removed", "set", "set"]);
}

#[tokio::test]
async fn budgets_are_listed_page_by_page_those_of_the_workspace_last() {
    let fixture = Fixture::new().await;
    let limit = json!({"token_limit": 10});
    // A name may hold what a path means something by.
    let paths = [
        "/budgets/workspace/daily",
        "/budgets/teams/platform%2Feu/daily",
        "/budgets/teams/platform%2Feu/weekly",
        "/budgets/teams/%C3%BCber%20alles/hourly",
        "/budgets/teams/workspace/monthly",
        "/budgets/teams/100%25/daily",
    ];
    for path in paths {
        fixture.put(path, limit.clone()).await.ok(201);
        fixture.get(path).await.ok(200);
    }
    let of = |budget: &Value| match budget["team"].as_str() {
        Some(team) => format!("{team} {}", budget["window"].as_str().unwrap()),
        None => format!("{} {}", budget["workspace"], budget["window"].as_str().unwrap()),
    };
    let mut listed = Vec::new();
    let mut after = String::new();
    loop {
        let page = fixture.get(&format!("/budgets?limit=2{after}")).await.ok(200).json();
        let budgets = page["budgets"].as_array().unwrap();
        assert!(budgets.len() <= 2);
        listed.extend(budgets.iter().map(of));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={}", next.replace('%', "%25").replace(' ', "%20"));
    }
    assert_eq!(
        listed,
        [
            "100% daily",
            "platform/eu daily",
            "platform/eu weekly",
            "workspace monthly",
            "über alles hourly",
            "true daily",
        ]
    );
    let whole = fixture.get("/budgets").await.ok(200).json();
    assert_eq!((whole["budgets"].as_array().unwrap().len(), &whole["next"]), (6, &Value::Null));
}

#[tokio::test]
async fn what_is_reserved_and_refused_is_seen() {
    let fixture = Fixture::priced().await;
    let agent = fixture.register("a").await;
    let set = json!({"cost_limit_usd": "0.10", "token_limit": 1_000_000});
    fixture.put(TEAM, set).await.ok(201);
    assert_eq!(fixture.call_model(agent, 1, 60).await, Verdict::Allow);
    assert_eq!(fixture.call_model(agent, 2, 60).await, Verdict::Deny);
    let current = fixture.get(TEAM).await.ok(200).json()["current"].clone();
    for (name, value) in [
        ("spent_usd", json!("0.00")),
        ("reserved_usd", json!("0.06")),
        ("calls_under_way", json!(1)),
        ("refused", json!(1)),
        ("estimated_usd", json!("0.00")),
        ("overrun_tokens", json!(0)),
        ("percent", json!(0)),
    ] {
        assert_eq!(current[name], value, "{name}");
    }
    assert!(current["reserved_tokens"].as_u64().unwrap() >= 60, "{current}");
    assert!(current["starts_at"].as_str().unwrap() < current["resets_at"].as_str().unwrap());
    // Its own windows are limited by nothing.
    let own = fixture.get(&format!("/agents/{agent}/spending")).await.ok(200).json();
    assert_eq!(own, json!({"agent": agent.to_string(), "windows": []}));
}

#[tokio::test]
async fn an_agent_that_its_budget_suspends_says_so_until_it_is_resumed() {
    let fixture = Fixture::priced().await;
    let agent = fixture.register("a").await;
    let frugal = "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata: {name: frugal, version: '1'}\n\
                  spec:\n  budget: {monthly_limit_usd: 0.10, action_on_exceed: suspend}\n";
    fixture.apply("", frugal).await.ok(201);
    let path = format!("/agents/{agent}");
    assert_eq!(fixture.call_model(agent, 1, 100).await, Verdict::Allow);
    assert_eq!(fixture.get(&path).await.ok(200).json()["budget_suspension"], Value::Null);
    assert_eq!(fixture.call_model(agent, 2, 1).await, Verdict::Deny);

    let shown = fixture.get(&path).await.ok(200).json();
    let suspension = &shown["budget_suspension"];
    assert_eq!((&shown["status"], &shown["suspended"]), (&json!("suspended"), &Value::Null));
    assert_eq!(
        (&suspension["policy"], &suspension["window"], &suspension["reserved_usd"]),
        (&json!("frugal"), &json!("monthly"), &json!("0.10"))
    );
    let listed = fixture.get("/agents").await.ok(200).json();
    assert_eq!(listed["agents"][0], shown);
    let spending = fixture.get(&format!("{path}/spending")).await.ok(200).json();
    let window = &spending["windows"][0];
    assert_eq!(
        (&window["window"], &window["zone"], &window["cost_limit_usd"]),
        (&json!("monthly"), &json!("UTC"), &json!("0.10"))
    );
    assert_eq!(window["current"]["reserved_usd"], "0.10");
    assert_eq!(window["current"]["resets_at"], suspension["until"]);

    let resumed = fixture.post(&format!("{path}/resume"), json!({})).await.ok(200).json();
    assert_eq!(
        (&resumed["status"], &resumed["budget_suspension"]),
        (&json!("active"), &Value::Null)
    );
}

#[tokio::test]
async fn amounts_are_rounded_half_to_even_and_bad_ones_refused() {
    let fixture = Fixture::new().await;
    for (given, kept) in [
        (r#""0.0000000015""#, "0.000000002"),
        (r#""0.0000000025""#, "0.000000002"),
        ("0.1", "0.10"),
        ("1e2", "100.00"),
        (r#""9223372036.854775807""#, "9223372036.854775807"),
    ] {
        let body = format!(r#"{{"cost_limit_usd":{given}}}"#).into_bytes();
        let content = Some(("application/json", body));
        let answer = fixture.call(&fixture.owner, Method::PUT, TEAM, content).await;
        assert!(answer.status.is_success(), "{given}: {}", answer.text());
        assert_eq!(answer.json()["cost_limit_usd"], kept, "{given}");
    }
    for (members, reason) in [
        ("", "limits nothing"),
        (r#""cost_limit_usd":null"#, "limits nothing"),
        (r#""cost_limit_usd":0"#, "not above zero"),
        (r#""cost_limit_usd":-0.0"#, "not above zero"),
        (r#""cost_limit_usd":"0.0000000001""#, "not above zero"),
        (r#""cost_limit_usd":-1"#, "negative"),
        (r#""cost_limit_usd":"-0.5""#, "negative"),
        (r#""cost_limit_usd":"NaN""#, "not an amount"),
        (r#""cost_limit_usd":NaN"#, "the body"),
        (r#""cost_limit_usd":1e300"#, "above the most"),
        (r#""cost_limit_usd":1e999"#, "the body"),
        (r#""cost_limit_usd":9223372037"#, "above the most"),
        (r#""cost_limit_usd":"$5""#, "not an amount"),
        (r#""cost_limit_usd":[5]"#, "US dollars"),
        (r#""token_limit":0"#, "token limit is 0"),
        (r#""token_limit":-1"#, "the body"),
        (r#""token_limit":1.5"#, "the body"),
        (r#""token_limit":9007199254740992"#, "at most"),
        (r#""cost_limit_usd":1,"alert_at":[80,50]"#, "ascending"),
        (r#""cost_limit_usd":1,"alert_at":[0]"#, "1 to 100"),
        (r#""cost_limit_usd":1,"alert_at":[1,2,3,4,5,6,7,8,9]"#, "up to 8"),
        (r#""cost_limit_usd":1,"action_on_exceeded":"suspend""#, "unknown variant"),
        (r#""cost_limit_usd":1,"cost_limit_usd":2"#, "the body"),
        (r#""cost_limit_usd":1,"currency":"EUR""#, "unknown field"),
    ] {
        let content = Some(("application/json", format!("{{{members}}}").into_bytes()));
        let answer = fixture.call(&fixture.owner, Method::PUT, TEAM, content).await;
        let problem = answer.problem(400, "invalid-request");
        assert!(problem.detail.contains(reason), "{members}: {}", problem.detail);
    }
    let long = format!("/budgets/teams/{}/daily", "a".repeat(513));
    fixture.get(&long).await.problem(400, "invalid-request");
    fixture.put(&long, json!({"token_limit": 1})).await.problem(400, "invalid-request");
    fixture.get("/budgets/teams//daily").await.problem(400, "invalid-request");
    let kept = fixture.get(TEAM).await.ok(200).json();
    assert_eq!(kept["cost_limit_usd"], "9223372036.854775807", "what is refused changes nothing");
}

#[tokio::test]
async fn budgets_prices_and_spending_of_another_workspace_are_not_seen() {
    let fixture = Fixture::priced().await;
    let agent = fixture.register("a").await;
    fixture.put(TEAM, json!({"cost_limit_usd": 1})).await.ok(201);
    let stranger = fixture.stranger().await;
    let listed = fixture.call(&stranger, Method::GET, "/budgets", None).await.ok(200).json();
    assert_eq!(listed, json!({"budgets": [], "next": null}));
    let spending = format!("/agents/{agent}/spending");
    for (method, path) in [
        (Method::GET, TEAM),
        (Method::DELETE, TEAM),
        (Method::GET, spending.as_str()),
        (Method::GET, "/prices?model=test-model"),
    ] {
        fixture.call(&stranger, method, path, None).await.problem(404, "not-found");
    }
    // What a stranger sets is its own.
    let content = |body: Value| Some(("application/json", serde_json::to_vec(&body).unwrap()));
    let set = content(json!({"cost_limit_usd": 2}));
    fixture.call(&stranger, Method::PUT, TEAM, set).await.ok(201);
    let none = content(json!({"overrides": [], "unknown": "deny"}));
    fixture.call(&stranger, Method::PUT, "/prices", none).await.ok(200);
    assert_eq!(fixture.get(TEAM).await.ok(200).json()["cost_limit_usd"], "1.00");
    fixture.get("/prices?model=test-model").await.ok(200);
}

#[tokio::test]
async fn a_viewer_reads_budgets_and_an_agents_key_nothing() {
    let fixture = Fixture::new().await;
    fixture.put(TEAM, json!({"cost_limit_usd": 1})).await.ok(201);
    for grant in [Grant::Viewer, Grant::Developer] {
        let reader = fixture.key(grant).await;
        fixture.call(&reader, Method::GET, TEAM, None).await.ok(200);
        let body = Some(("application/json", b"{\"cost_limit_usd\":2}".to_vec()));
        let refused = fixture.call(&reader, Method::PUT, TEAM, body).await;
        let detail = refused.problem(403, "forbidden").detail;
        assert!(detail.ends_with("may not change budgets and prices; it takes owner or admin"));
    }
    let sdk = fixture.key(Grant::Agent).await;
    fixture.call(&sdk, Method::GET, TEAM, None).await.problem(403, "forbidden");
    let admin = fixture.key(Grant::Admin).await;
    fixture.call(&admin, Method::DELETE, TEAM, None).await.ok(200);
}
