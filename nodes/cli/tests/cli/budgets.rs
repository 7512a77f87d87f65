use aa_client::AgentSpec;
use aa_protocol::{Action, Verdict};
use serde_json::json;

use crate::{
    control_plane::ask,
    harness::{Up, aasm, run, text},
};

const FRUGAL: &str = "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata: {name: frugal, version: '1'}\n\
                      spec:\n  budget: {monthly_limit_usd: 0.10, action_on_exceed: suspend}\n";

/// Registers an agent of the team `platform` and asks for calls of a model, each with an answer of at most so many
/// tokens.
pub(crate) fn call(up: &Up, agent: &str, tokens: &[u64]) -> Vec<Verdict> {
    let team = "platform".to_owned();
    let spec = AgentSpec { name: agent.to_owned(), team, ..AgentSpec::default() };
    let calls = tokens.iter().map(|tokens| Action::LlmCall {
        model: "test-model".to_owned(),
        host: None,
        messages: json!([]),
        max_output_tokens: Some(*tokens),
        choices: None,
    });
    ask(up, spec, calls)
}

/// A control plane where a token of an answer of `test-model` costs a tenth of a cent, and nothing else does.
fn priced() -> Up {
    let up = Up::start();
    up.run(&["price", "set", "test-model", "--input", "0", "--output", "1000"]).exits(0);
    up
}

#[test]
fn a_budget_is_set_seen_spent_and_removed() {
    let up = priced();
    assert!(up.run(&["budget", "list"]).exits(0).err.contains("no budget is set"));
    let of_team = ["--team", "platform", "--window", "monthly"];
    let budget =
        |verb: &str, more: &[&str]| up.run(&[["budget", verb].as_slice(), &of_team, more].concat());
    let set = budget("set", &["--cost-limit", "0.10", "--alert-at", "50,80"]).exits(0);
    assert_eq!(
        set.out,
        "set the monthly budget of team platform: $0.10; deny when exceeded; alerts at 50, 80 %\n"
    );
    let whole = ["--workspace-wide", "--window", "weekly", "--token-limit", "1000000"];
    let whole =
        up.run(&[["budget", "set"].as_slice(), &whole, &["--on-exceeded", "alert"]].concat());
    assert_eq!(
        whole.exits(0).out,
        "set the weekly budget of the workspace: 1000000 tokens; alert when exceeded; alerts at 50, \
         80, 100 %\n"
    );
    assert_eq!(call(&up, "researcher", &[60, 60]), [Verdict::Allow, Verdict::Deny]);

    let list = up.run(&["budget", "list"]).exits(0).out;
    assert!(list.starts_with("OF           WINDOW   COST LIMIT  SPENT  RESERVED"), "{list}");
    assert!(list.contains("\nplatform     monthly  $0.10       $0.00  $0.06 "), "{list}");
    assert!(list.contains("\n(workspace)  weekly "), "{list}");
    let json = up.run(&["budget", "list", "--format", "json"]).exits(0).json();
    assert_eq!(json["budgets"][0]["current"]["reserved_usd"], "0.06");
    let shown = budget("show", &[]).exits(0).out;
    assert!(shown.starts_with("budget      monthly budget of team platform\n"), "{shown}");
    assert!(shown.contains("\nspent       $0.00, 0 tokens (0 %)\n"), "{shown}");
    assert!(shown.contains("tokens, for 1 call under way\n"), "{shown}");
    assert!(shown.contains("\nrefused     1 call\n"), "{shown}");

    let log = up.run(&["audit", "query", "--kind", "budget"]).exits(0).out;
    let said = "monthly budget of team platform set: $0.10; deny when exceeded; alerts at 50, 80 %";
    assert!(log.contains(said), "{log}");
    assert!(
        log.contains(
            "  team platform             budget        monthly budget refuses calls: $0.00"
        )
    );
    assert!(log.contains("prices set, 1 of them the workspace's own"), "{log}");
    let cef = up.run(&["audit", "export", "--format", "cef"]).exits(0).out;
    assert!(cef.contains("|budget event|"), "{cef}");

    let removed = budget("remove", &[]).exits(0).out;
    assert!(removed.starts_with("removed the monthly budget of team platform; it was $0.10;"));
    let gone = budget("remove", &[]).exits(1);
    assert_eq!(gone.err, "error: there is no monthly budget of team platform\n");
    assert_eq!(call(&up, "researcher", &[60]), [Verdict::Allow]);
}

#[test]
fn an_agent_that_a_budget_suspends_is_shown_with_the_reset() {
    let up = priced();
    let document = up.file("frugal.yaml", FRUGAL);
    call(&up, "researcher", &[]);
    let none = up.run(&["budget", "agent", "researcher"]).exits(0);
    assert!(none.err.starts_with("no policy has limited what the agent spends"), "{}", none.err);
    up.run(&["policy", "apply", text(&document)]).exits(0);
    assert_eq!(call(&up, "researcher", &[100, 1]), [Verdict::Allow, Verdict::Deny]);

    let own = up.run(&["budget", "agent", "researcher"]).exits(0).out;
    assert!(own.contains("\nmonthly  UTC   $0.10  $0.00  $0.10 "), "{own}");
    let shown = up.run(&["agent", "show", "researcher"]).exits(0).out;
    let said = "status      suspended by the monthly budget of policy frugal until ";
    assert!(shown.contains(said), "{shown}");
    let list = up.run(&["agent", "list"]).exits(0).out;
    assert!(list.contains("suspended by budget until "), "{list}");
    up.run(&["agent", "suspend", "researcher", "--reason", "odd"]).exits(0);
    let both = up.run(&["agent", "get", "researcher"]).exits(0).out;
    assert!(both.contains(": odd; by the monthly budget of policy frugal until "), "{both}");
    let resumed = up.run(&["agent", "resume", "researcher"]).exits(0).out;
    assert!(resumed.ends_with("is active: policies decide\n"), "{resumed}");
    let shown = up.run(&["agent", "get", "researcher"]).exits(0).out;
    assert!(shown.contains("status      active\n"), "{shown}");
}

#[test]
fn prices_are_listed_set_and_removed_and_each_change_says_what_was_before() {
    let up = Up::start();
    let listed = up.run(&["price", "list", "--search", "gpt-4o-mini"]).exits(0);
    assert!(listed.out.starts_with("MODEL "), "{}", listed.out);
    assert!(listed.out.contains("\ngpt-4o-mini "), "{}", listed.out);
    assert!(listed.err.contains("calls of unknown models are refused"), "{}", listed.err);
    let unknown = up.run(&["price", "show", "my-model"]).exits(1);
    assert!(unknown.err.contains("add it to the price overrides"), "{}", unknown.err);

    let set = |rates: &[&str]| {
        up.run(&[["price", "set", "My-Model"].as_slice(), rates].concat()).exits(0).out
    };
    assert_eq!(
        set(&["--input", "2.50", "--output", "10"]),
        "set the price of My-Model: $2.5 in, $10 out per million tokens; the workspace had none of \
         its own\n"
    );
    assert_eq!(
        set(&["--input", "2.5", "--output", "10"]),
        "unchanged: My-Model costs $2.5 in, $10 out per million tokens\n"
    );
    assert_eq!(
        set(&["--input", "3", "--output", "10", "--cached-input", "0.3"]),
        "set the price of My-Model: $3 in, $0.3 cached in, $10 out per million tokens; it was $2.5 \
         in, $10 out per million tokens\n"
    );
    let shown = up.run(&["price", "show", "my-model"]).exits(0).out;
    assert!(shown.contains("input        $3 per million tokens\n"), "{shown}");
    assert!(shown.ends_with("from         the workspace's own price\n"), "{shown}");
    let json = ["price", "list", "--search", "my-", "--format", "json"];
    let json = up.run(&json).exits(0).json();
    assert_eq!((&json["overrides"][0]["model"], &json["models"]), (&json!("My-Model"), &json!([])));

    let fallback = ["price", "unknown", "fallback", "--input", "30", "--output", "120"];
    assert_eq!(
        up.run(&fallback).exits(0).out,
        "unknown models cost $30 in, $120 out per million tokens; before, calls of unknown models \
         are refused where a budget applies\n"
    );
    let removed = up.run(&["price", "remove", "my-model"]).exits(0);
    assert!(removed.out.starts_with("removed the price of my-model; it was $3 in"));
    assert_eq!(removed.err, "it costs $30 in, $120 out per million tokens now (fallback)\n");
    up.run(&["price", "unknown", "deny"]).exits(0);
    let again = up.run(&["price", "unknown", "deny"]).exits(0).out;
    assert_eq!(again, "unchanged: calls of unknown models are refused where a budget applies\n");
    let gone = up.run(&["price", "remove", "my-model"]).exits(1);
    assert!(gone.err.contains("has no price of its own for `my-model`"), "{}", gone.err);
    // What changed nothing left no entry.
    let log = up.run(&["audit", "query", "--kind", "budget"]).exits(0).out;
    assert_eq!(log.lines().count(), 5, "{log}");
}

#[test]
fn who_may_only_read_cannot_change_budgets() {
    let up = Up::start();
    let created = up.run(&["key", "create", "dashboards", "--role", "viewer"]).exits(0);
    let viewer = created.out.trim();
    up.run_as(viewer, &["budget", "list"]).exits(0);
    up.run_as(viewer, &["price", "list"]).exits(0);
    let set = ["budget", "set", "--workspace-wide", "--window", "daily", "--cost-limit", "1"];
    let refused = up.run_as(viewer, &set).exits(1);
    assert!(refused.err.contains("may not change budgets and prices"), "{}", refused.err);
}

#[test]
fn wrong_usage_is_said_before_anything_is_asked() {
    let budget = |arguments: &str| {
        let words = arguments.split_whitespace();
        run(aasm().env("AASM_API_URL", "https://127.0.0.1:1").arg("budget").args(words))
            .exits(2)
            .err
    };
    for (arguments, reason) in [
        ("set --window daily --cost-limit 1", "--team"),
        ("set --team a --workspace-wide --window daily --cost-limit 1", "cannot be used with"),
        ("set --team a --window daily", "--cost-limit"),
        ("set --team a --cost-limit 1", "--window"),
        ("set --team a --window yearly --cost-limit 1", "hourly, daily, weekly or monthly"),
        ("set --team a --window daily --cost-limit NaN", "not an amount"),
        ("set --team a --window daily --cost-limit=-1", "negative"),
        ("set --team a --window daily --cost-limit 1e300", "not an amount"),
        ("set --team a --window daily --token-limit x", "invalid digit"),
        ("set --team a --window daily --cost-limit 1 --on-exceeded suspend", "possible values"),
        ("set --team .. --window daily --cost-limit 1", "no budget can be of a team named"),
        ("remove --window daily", "--team"),
    ] {
        let err = budget(arguments);
        assert!(err.contains(reason), "{arguments}: {err}");
    }
    let price =
        run(aasm().args(["price", "set", "x", "--input", "1", "--output", "free"])).exits(2);
    assert!(price.err.contains("not a price"), "{}", price.err);
}
